"""A web server for the tests, run inside a sandbox: web.py ADDRESS PORT.

GET /            says hello, and which host it was asked for
GET /slow        five lines, one each 200 ms
POST /count      answers each chunk it gets with how much came so far
GET /ws          a WebSocket that sends everything back
"""

import base64
import hashlib
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def start_chunks(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def do_GET(self):
        if self.path == "/ws":
            return self.websocket()
        if self.path == "/slow":
            self.start_chunks()
            for n in range(5):
                self.chunk(b"line %d\n" % n)
                time.sleep(0.2)
            return self.chunk(b"")
        body = ("hello from %s" % self.headers["Host"]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.start_chunks()
        total = 0
        while True:
            size = int(self.rfile.readline(), 16)
            total += len(self.rfile.read(size))
            self.rfile.readline()
            if size == 0:
                return self.chunk(b"")
            self.chunk(b"%d\n" % total)

    def websocket(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.close_connection = True
        while True:
            head = self.rfile.read(2)
            if len(head) < 2:
                return
            length = head[1] & 127
            if length == 126:
                length = int.from_bytes(self.rfile.read(2), "big")
            mask = self.rfile.read(4)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(length)))
            size = bytes([len(data)]) if len(data) < 126 else b"\x7e" + len(data).to_bytes(2, "big")
            self.wfile.write(head[:1] + size + data)
            self.wfile.flush()
            if head[0] & 15 == 8:
                return


ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
