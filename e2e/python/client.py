"""The Python client under test, and the sandbox that its tests share."""

from e2b import Sandbox

from suite import last, mark

made = []
last.append(lambda: [s.kill() for s in made])


def create(template="base", metadata=None, timeout=180, **opts):
    """Creates a sandbox that is killed at the end."""
    s = Sandbox.create(template, timeout=timeout, metadata={**mark, **(metadata or {})}, **opts)
    made.append(s)
    return s


cache = {}


def shared():
    """The sandbox that the tests share."""
    if "sandbox" not in cache:
        cache["sandbox"] = create(timeout=600)
    return cache["sandbox"]


def run(cmd, **opts):
    """Runs a command in the shared sandbox."""
    return shared().commands.run(cmd, **opts)
