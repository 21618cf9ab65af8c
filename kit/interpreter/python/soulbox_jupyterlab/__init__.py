"""What JupyterLab's server runs with beside what it brings along.

Jupyter's client of gateways passes on text only; what widgets send as bytes ends
its connection. Connection passes on both.
"""

from jupyter_server.gateway.connections import GatewayWebSocketConnection
from tornado.websocket import WebSocketClosedError


class Bytes(bytes):
    """Bytes that stay bytes where text is expected."""

    def decode(self, *args):
        return self


class Socket:
    """The gateway's WebSocket, whose binary messages are Bytes."""

    def __init__(self, ws):
        self.ws = ws

    def __getattr__(self, name):
        return getattr(self.ws, name)

    async def read_message(self):
        message = await self.ws.read_message()
        return Bytes(message) if isinstance(message, bytes) else message

    def write_message(self, message):
        return self.ws.write_message(message, binary=isinstance(message, bytes))


class Connection(GatewayWebSocketConnection):
    """A browser's connection to a kernel behind the gateway."""

    def _connection_done(self, fut):
        super()._connection_done(fut)
        if self.ws is not None:
            # A trait that wants the class itself; nothing else looks at it.
            self._trait_values["ws"] = Socket(self.ws)

    def handle_outgoing_message(self, incoming_msg, *args):
        try:
            self.websocket_handler.write_message(incoming_msg, binary=isinstance(incoming_msg, bytes))
        except WebSocketClosedError:
            pass  # whoever has gone does not miss it
