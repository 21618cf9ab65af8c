"""Commands and terminals."""

import asyncio
import hashlib
import time

import e2b
from client import create, run, shared
from e2b import AsyncSandbox, PtySize, Sandbox
from suite import equal, eventually, fails, feature, mark


@feature("commands/foreground")
def _():
    r = run("echo out; echo err >&2")
    equal([r.stdout, r.stderr, r.exit_code], ["out\n", "err\n", 0])


@feature("commands/exit-code")
def _():
    err = fails(lambda: run("echo so far; echo why >&2; exit 42"), e2b.CommandExitException)
    equal([err.exit_code, err.stdout, err.stderr], [42, "so far\n", "why\n"])


@feature("commands/background")
def _():
    start = time.monotonic()
    handle = run("sleep 1; echo done", background=True)
    assert time.monotonic() - start < 0.9, "background waited for the end"
    r = handle.wait()
    equal([r.exit_code, r.stdout], [0, "done\n"])


@feature("commands/streaming")
def _():
    seen = []
    start = time.monotonic()
    run(
        "for i in 1 2 3; do echo $i; echo e$i >&2; sleep 0.4; done",
        on_stdout=lambda s: seen.append((s, time.monotonic() - start)),
        on_stderr=lambda s: seen.append((s, time.monotonic() - start)),
    )
    total = time.monotonic() - start
    equal("".join(s for s, _ in seen if not s.startswith("e")), "1\n2\n3\n")
    assert total - seen[0][1] > 0.7, f"first output after {seen[0][1]} s, end after {total} s"


@feature("commands/stdin")
def _():
    handle = run("cat; echo end", background=True, stdin=True)
    handle.send_stdin("one\n")
    shared().commands.send_stdin(handle.pid, "zwei ✓\n")
    handle.close_stdin()
    equal(handle.wait().stdout, "one\nzwei ✓\nend\n")
    equal(run("cat; echo nothing", timeout=5).stdout, "nothing\n")


@feature("commands/stdin-stream")
def _():
    handle = run("cat | sha256sum", background=True, stdin=True)
    chunk = b"0123456789abcdef" * 4096
    shared().commands.stream_input(handle.pid, (chunk for _ in range(64)))
    handle.close_stdin()
    equal(handle.wait().stdout[:64], hashlib.sha256(chunk * 64).hexdigest())
    fails(lambda: shared().commands.stream_input(999_999, ["x"]), e2b.NotFoundException)


@feature("commands/kill")
def _():
    one = run("sleep 60", background=True)
    equal(one.kill(), True)
    assert fails(one.wait, e2b.CommandExitException).exit_code != 0
    two = run("sleep 60", background=True)
    equal([shared().commands.kill(two.pid), shared().commands.kill(999_999)], [True, False])


@feature("commands/list")
def _():
    handle = run("sleep 61", background=True, envs={"WHO": "me"}, cwd="/tmp")
    [found] = [p for p in shared().commands.list() if p.pid == handle.pid]
    assert found.cmd.endswith("bash") and "sleep 61" in found.args, found
    equal([found.envs["WHO"], found.cwd], ["me", "/tmp"])
    handle.kill()


@feature("commands/connect")
def _():
    handle = run("for i in $(seq 30); do echo tick; sleep 0.1; done; exit 3", background=True)
    heard = []
    again = Sandbox.connect(shared().sandbox_id, timeout=600).commands.connect(handle.pid)
    err = fails(lambda: again.wait(on_stdout=heard.append), e2b.CommandExitException)
    equal(err.exit_code, 3)
    equal(set("".join(heard).split()), {"tick"})
    fails(lambda: shared().commands.connect(999_999), e2b.NotFoundException)


@feature("commands/disconnect")
def _():
    run("sleep 1; echo survived > /tmp/survived", background=True).disconnect()
    eventually(lambda: shared().files.exists("/tmp/survived"), "the file of the command")


@feature("commands/timeout")
def _():
    fails(lambda: run("sleep 62", timeout=1), e2b.TimeoutException)
    eventually(lambda: not any("sleep 62" in p.args for p in shared().commands.list()), "the end of the command")
    equal(run("sleep 1; echo unlimited", timeout=0).stdout, "unlimited\n")


@feature("commands/user")
def _():
    equal(run("whoami; pwd").stdout, "user\n/home/user\n")
    equal(run("whoami; pwd", user="root").stdout, "root\n/root\n")
    equal(run("sudo whoami").stdout, "root\n")
    fails(lambda: run("true", user="ghost"), e2b.AuthenticationException)


@feature("commands/envs")
def _():
    equal(run('echo "$GREETING|$E2B_SANDBOX"', envs={"GREETING": "hi there"}).stdout, "hi there|true\n")
    equal(run('echo "[$GREETING]"').stdout, "[]\n")


@feature("commands/cwd")
def _():
    equal(run("pwd", cwd="/usr/share").stdout, "/usr/share\n")
    fails(lambda: run("pwd", cwd="/no/such/place"), e2b.InvalidArgumentException)


@feature("commands/unicode")
def _():
    whole = "żółw 🐢 漢字\n" * 3000
    shared().files.write("/tmp/unicode", whole)
    equal(run("cat /tmp/unicode").stdout, whole)


@feature("commands/large-output")
def _():
    out = run("seq 1 1200000").stdout
    equal(len(out), 8_488_896)
    assert out.endswith("\n1199999\n1200000\n")


@feature("commands/killed-sandbox")
def _():
    s = create()
    handle = s.commands.run("sleep 60", background=True)
    s.kill()
    fails(handle.wait, e2b.TimeoutException)


@feature("commands/async")
def _():
    async def go():
        s = await AsyncSandbox.create("base", timeout=60, metadata=mark)
        try:
            many = await asyncio.gather(*(s.commands.run(f"sleep 0.2; echo {n}") for n in range(20)))
            equal([r.stdout for r in many], [f"{n}\n" for n in range(20)])
            handle = await s.commands.run("cat", background=True, stdin=True)
            await handle.send_stdin("there and back")
            await handle.close_stdin()
            equal((await handle.wait()).stdout, "there and back")
            await s.files.write("a", b"bytes")
            equal(bytes(await s.files.read("a", format="bytes")), b"bytes")
            seen = []
            watch = await s.files.watch_dir(".", on_event=seen.append)
            await s.files.write("b", "x")
            for _ in range(100):
                if any(e.name == "b" and e.type == e2b.FilesystemEventType.WRITE for e in seen):
                    break
                await asyncio.sleep(0.05)
            else:
                raise AssertionError(f"no event for b in {seen}")
            await watch.stop()
        finally:
            await s.kill()

    asyncio.run(go())


@feature("commands/parallel")
def _():
    handles = [run(f"sleep 0.2; echo {n}", background=True) for n in range(20)]
    equal([h.wait().stdout for h in handles], [f"{n}\n" for n in range(20)])


def talk(term, *lines):
    """Types each line when the terminal shows a prompt; returns the screen."""
    screen = ""
    todo = list(lines)
    for _, _, data in term:
        if data is None:
            continue
        screen += data.decode(errors="replace")
        if screen.endswith(("$ ", "? ")) and todo:
            shared().pty.send_stdin(term.pid, todo.pop(0).encode())
    return screen


@feature("pty/create")
def _():
    term = shared().pty.create(PtySize(rows=30, cols=100), cwd="/tmp", envs={"MOOD": "good"})
    screen = talk(term, 'echo "$MOOD-$TERM-$(pwd)-$(tput cols)x$(tput lines)"; exit\n')
    assert "good-xterm-256color-/tmp-100x30" in screen, screen


@feature("pty/input")
def _():
    term = shared().pty.create(PtySize(rows=24, cols=80))
    screen = talk(term, 'read -p "name? " line\n', "grün\n", 'echo "<$line>"; exit 7\n')
    assert "<grün>" in screen, screen
    equal(fails(term.wait, e2b.CommandExitException).exit_code, 7)


@feature("pty/resize")
def _():
    term = shared().pty.create(PtySize(rows=24, cols=80))
    shared().pty.resize(term.pid, PtySize(rows=50, cols=132))
    screen = talk(term, "stty size; exit\n")
    assert "50 132" in screen, screen


@feature("pty/reconnect")
def _():
    term = shared().pty.create(PtySize(rows=24, cols=80))
    for _, _, data in term:
        if data and data.decode().endswith("$ "):
            break
    term.disconnect()
    again = shared().pty.connect(term.pid)
    shared().pty.send_stdin(again.pid, b"echo still-$((40+2))\nexit\n")
    screen = talk(again)
    assert "still-42" in screen, screen


@feature("pty/kill")
def _():
    term = shared().pty.create(PtySize(rows=24, cols=80))
    equal([shared().pty.kill(term.pid), shared().pty.kill(999_999)], [True, False])
    fails(term.wait, e2b.CommandExitException)
