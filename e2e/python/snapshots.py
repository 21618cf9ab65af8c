"""Pausing, resuming, forking, and snapshots that sandboxes are made of."""

import e2b
from client import create
from e2b import Sandbox, SandboxState
from suite import equal, eventually, fails, feature

# A program that counts, so that whoever looks twice sees whether it runs.
COUNTER = """python3 -c '
import time
n = 0
while True:
    n += 1
    open("/tmp/n", "w").write(str(n))
    time.sleep(0.05)
'"""


def count(s):
    return int(s.files.read("/tmp/n") or 0)


def state(s):
    return Sandbox.get_info(s.sandbox_id).state


@feature("lifecycle/pause")
def _():
    s = create()
    s.files.write("note", "kept")
    program = s.commands.run(COUNTER, background=True, timeout=0)
    eventually(lambda: s.files.exists("/tmp/n"), "the counter")
    equal(s.pause(), True)
    equal(s.pause(), False)
    equal(state(s), SandboxState.PAUSED)
    equal(s.is_running(), False)
    again = Sandbox.connect(s.sandbox_id, timeout=60)
    equal(again.files.read("note"), "kept")
    assert program.pid in [p.pid for p in again.commands.list()]
    before = count(again)
    eventually(lambda: count(again) > before, "the counter to go on")
    equal(state(s), SandboxState.RUNNING)


@feature("lifecycle/pause-kill")
def _():
    s = create()
    s.pause()
    equal(s.kill(), True)
    equal(Sandbox.kill(s.sandbox_id), False)
    fails(lambda: Sandbox.connect(s.sandbox_id), e2b.NotFoundException)


@feature("lifecycle/auto-pause")
def _():
    s = create(timeout=2, lifecycle={"on_timeout": "pause"})
    s.files.write("note", "kept")
    eventually(lambda: state(s) == SandboxState.PAUSED, "the pause")
    equal(Sandbox.connect(s.sandbox_id, timeout=60).files.read("note"), "kept")


@feature("lifecycle/auto-resume")
def _():
    s = create(timeout=60, lifecycle={"on_timeout": "pause", "auto_resume": True})
    s.files.write("note", "kept")
    s.pause()
    equal(s.files.read("note"), "kept")
    equal(state(s), SandboxState.RUNNING)


@feature("lifecycle/fork")
def _():
    s = create()
    s.files.write("note", "of all")
    forks = s.fork(count=3)
    try:
        equal(len({f.sandbox_id for f in forks} | {s.sandbox_id}), 4)
        for f in forks:
            equal(f.files.read("note"), "of all")
            f.files.write("note", f.sandbox_id)
        equal(s.files.read("note"), "of all")
        equal([f.files.read("note") for f in forks], [f.sandbox_id for f in forks])
    finally:
        for f in forks:
            if not isinstance(f, Exception):
                f.kill()


@feature("lifecycle/snapshots")
def _():
    s = create()
    s.files.write("note", "then")
    snapshot = s.create_snapshot().snapshot_id
    s.files.write("note", "now")
    equal(create(snapshot).files.read("note"), "then")
    equal(s.files.read("note"), "now")
    equal([i.snapshot_id for i in Sandbox.list_snapshots(sandbox_id=s.sandbox_id).next_items()], [snapshot])
    s.kill()
    equal(create(snapshot).files.read("note"), "then")
    equal(Sandbox.delete_snapshot(snapshot), True)
    equal(Sandbox.delete_snapshot(snapshot), False)
    fails(lambda: Sandbox.create(snapshot))


@feature("lifecycle/reboot")
def _():
    def boot(s):
        return s.commands.run("cat /proc/sys/kernel/random/boot_id").stdout

    s = create()
    s.files.write("note", "kept")
    before = boot(s)
    s.pause()
    again = Sandbox.connect(s.sandbox_id, timeout=60, on_resume="reboot")
    equal(again.files.read("note"), "kept")
    assert boot(again) != before
