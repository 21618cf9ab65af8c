"""What the Python tests need: features, one shared sandbox, a record of what worked.

Results go, one JSON object per line, to the file RESULTS. Everything a run
makes carries its mark, so that what is left over is found.
"""

import json
import os
import re
import sys
import threading
import time
import traceback
from urllib.parse import urlsplit

mark = {"e2e": os.environ.get("RUN", f"by-hand-{os.getpid()}")}
server = urlsplit(os.environ["E2B_API_URL"])

tests = []
last = []  # what to do at the end


def feature(name, seconds=60):
    """A test of one feature: a row of the conformance table."""

    def add(fn):
        tests.append((name, fn, seconds))
        return fn

    return add


def later(name):
    """Something this version does not have: refused with 400 and a reason.

    It fails as soon as the server has it: then it needs a test.
    """

    def add(fn):
        def refused():
            err = fails(fn)
            assert re.search(r"400: .*not available in this version", str(err)), repr(err)

        tests.append((name, refused, 60))
        return fn

    return add


def fails(fn, kind=Exception):
    """Calls fn, which must raise what is asked for, and returns that."""
    try:
        fn()
    except kind as err:
        return err
    except Exception as err:
        raise AssertionError(f"raised {err!r}, want {kind.__name__}") from err
    raise AssertionError("this works, although it should be refused")


def eventually(fn, what, seconds=10):
    """Polls until fn returns something true, and returns that."""
    end = time.monotonic() + seconds
    while not (got := fn()):
        assert time.monotonic() < end, f"{what() if callable(what) else what}: not within {seconds} s"
        time.sleep(0.05)
    return got


def equal(got, want):
    assert got == want, f"got {got!r}, want {want!r}"


def guest(name):
    with open(os.path.join(os.path.dirname(__file__), "..", "guest", name), encoding="utf-8") as file:
        return file.read()


def main(client, version):
    """Runs the tests, or those whose names begin with an argument."""
    failed = 0
    for name, fn, seconds in tests:
        if len(sys.argv) > 1 and not any(name.startswith(a) for a in sys.argv[1:]):
            continue
        start = time.monotonic()
        error = within(fn, seconds)
        ms = round((time.monotonic() - start) * 1000)
        failed += error is not None
        print(f"{'not ok' if error else 'ok'} - {name} ({ms} ms)", flush=True)
        if error:
            print("".join(traceback.format_exception(error)), flush=True)
        record(client, version, name, ms, error)
    for undo in reversed(last):
        undo()
    sys.stdout.flush()
    os._exit(1 if failed else 0)  # not held up by a test that never ended


def within(fn, seconds):
    """Calls fn in a thread of its own; returns what it raised."""
    result = []

    def call():
        try:
            fn()
            result.append(None)
        except BaseException as err:
            result.append(err)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    return result[0] if result else TimeoutError(f"no end within {seconds} s")


def record(client, version, name, ms, error):
    if "RESULTS" not in os.environ:
        return
    line = {"client": client, "version": version, "feature": name, "ok": error is None, "ms": ms}
    if error is not None:
        line["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    with open(os.environ["RESULTS"], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
