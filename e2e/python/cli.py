"""The published e2b command line against a real server: cli.py PROGRAM [NAME...]"""

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time

from client import create
from suite import equal, eventually, feature, main, mark

program = sys.argv.pop(1)
cache = {}

# Its own home: whoever runs this may have logged in somewhere.
environment = {**os.environ, "HOME": tempfile.mkdtemp(prefix="e2e-home-"), "NO_COLOR": "1"}


def cli(*args, stdin=None, code=0, seconds=30):
    """Runs the program; returns its standard output."""
    done = subprocess.run([program, *args], input=stdin, capture_output=True, text=True, timeout=seconds, env=environment)
    assert done.returncode == code, f"{args}: code {done.returncode}, want {code}: {done.stdout}{done.stderr}"
    return done.stdout if code == 0 else done.stdout + done.stderr


def sandbox():
    """The id of the sandbox that the tests share."""
    if "sandbox" not in cache:
        cache["sandbox"] = create(timeout=600, metadata={"name": "shared"}).sandbox_id
    return cache["sandbox"]


def listed(*args):
    return [s["sandboxId"] for s in json.loads(cli("sandbox", "list", "-f", "json", *args) or "[]")]


def terminal(args, *talk):
    """Runs the program in a terminal and types each answer when it is due."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(program, [program, *args], environment)
    screen, seen, end = "", 0, time.monotonic() + 20
    try:
        for due, line in talk:
            while not (match := re.search(due, screen[seen:])):
                assert time.monotonic() < end, f"{due!r} did not come: {screen[-200:]!r}"
                if select.select([fd], [], [], 0.2)[0]:
                    screen += os.read(fd, 4096).decode(errors="replace")
            seen += match.end()
            os.write(fd, line.encode())
        while time.monotonic() < end:
            if select.select([fd], [], [], 0.2)[0]:
                try:
                    data = os.read(fd, 4096)
                except OSError:  # how Linux says that the other side has gone
                    break
                screen += data.decode(errors="replace")
    finally:
        os.close(fd)
        if time.monotonic() >= end:
            os.kill(pid, 9)
        _, status = os.waitpid(pid, 0)
    return screen, os.waitstatus_to_exitcode(status)


@feature("cli/create")
def _():
    out = cli("sandbox", "create", "-d", "base")
    name = re.search(r"\bi[a-z0-9]{20}\b", out)
    assert name, out
    try:
        assert name[0] in listed()
    finally:
        cli("sandbox", "kill", name[0])


@feature("cli/list")
def _():
    name = sandbox()
    assert name in cli("sandbox", "list")
    assert name in listed("-t", "base", "-s", "running", "-m", "name=shared", "-o", "asc", "-l", "50")
    equal([listed("-m", "name=nobody"), listed("-m", "name=shared", "-s", "paused")], [[], []])


@feature("cli/info")
def _():
    info = json.loads(cli("sandbox", "info", "-f", "json", sandbox()))
    equal([info["sandboxId"], info["name"], info["state"]], [sandbox(), "base", "running"])
    assert sandbox() in cli("sandbox", "info", sandbox())


@feature("cli/exec")
def _():
    equal(cli("sandbox", "exec", sandbox(), "echo", "hello"), "hello\n")
    out = cli("sandbox", "exec", "-u", "root", "-c", "/tmp", "-e", "A=b c", sandbox(), "bash", "-c", 'echo "$(whoami)|$PWD|$A"')
    equal(out, "root|/tmp|b c\n")


@feature("cli/exec-pipe")
def _():
    text = "line ✓\n" * 5000
    equal(cli("sandbox", "exec", sandbox(), "cat", stdin=text), text)


@feature("cli/exec-exit-code")
def _():
    out = cli("sandbox", "exec", sandbox(), "bash", "-c", "echo why >&2; exit 7", code=7)
    assert "why" in out, out


@feature("cli/exec-background")
def _():
    start = time.monotonic()
    cli("sandbox", "exec", "-b", sandbox(), "sleep", "77")
    assert time.monotonic() - start < 20, "it waited for the end"
    equal(cli("sandbox", "exec", sandbox(), "pgrep", "-fx", "sleep 77").count("\n"), 1)


@feature("cli/logs")
def _():
    s = create()
    s.commands.run("echo written-to-the-log")
    lines = cli("sandbox", "logs", "--format", "json", s.sandbox_id).strip().splitlines()
    messages = [json.loads(line)["message"] for line in lines]
    assert "written-to-the-log" in messages, messages


@feature("cli/metrics")
def _():
    out = eventually(lambda: cli("sandbox", "metrics", "--format", "json", sandbox()).strip(), "a measurement", 15)
    last = json.loads(out.splitlines()[-1])
    assert last["memTotal"] > last["memUsed"] > 0, last


@feature("cli/connect")
def _():
    prompt = r"\$ $"
    screen, code = terminal(
        ["sandbox", "connect", sandbox()],
        (prompt, "echo terminal-$((40+2)) $(tty)\n"),
        (r"terminal-42 /dev/pts/\d+", ""),
        (prompt, "exit\n"),
    )
    equal(code, 0)
    assert "terminal-42" in screen, screen


@feature("cli/create-connect")
def _():
    screen, code = terminal(
        ["sandbox", "create", "base", "-c", "/tmp", "-e", "A=b"],
        (r"\$ $", "echo $PWD-$A-$E2B_SANDBOX_ID; exit\n"),
    )
    equal(code, 0)
    name = re.search(r"/tmp-b-(i[a-z0-9]{20})", screen)
    assert name, screen
    eventually(lambda: name[1] not in listed(), "the end of the sandbox")


@feature("cli/kill")
def _():
    name = create().sandbox_id
    cli("sandbox", "kill", name)
    assert name not in listed()


@feature("cli/kill-all")
def _():
    group = f"kill-{time.time_ns()}"
    for _ in range(2):
        create(metadata={"group": group})
    equal(len(listed("-m", f"group={group}")), 2)
    cli("sandbox", "kill", "--all", "-m", f"group={group}")
    equal(listed("-m", f"group={group}"), [])
    assert sandbox() in listed()


def templates():
    """The listed templates, by their names without a namespace."""
    return {t["aliases"][0]: t for t in json.loads(cli("template", "list", "-f", "json"))}


def template():
    """The name of the template that the tests share."""
    if "template" not in cache:
        folder = tempfile.mkdtemp(prefix="e2e-cli-")
        for name, text in {
            "e2b.Dockerfile": "FROM debian:bookworm\nCOPY word.txt /srv/\nRUN echo built > /srv/ran\n",
            "word.txt": "copied\n",
        }.items():
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        cache["template"] = name = f"{mark['e2e']}-cli"
        cache["created"] = cli(
            "template", "create", name, "-p", folder, "--cpu-count", "1", "--memory-mb", "512",
            "-c", "sleep 777", "--ready-cmd", "pgrep -fx 'sleep 777'", seconds=200,
        )
        shutil.rmtree(folder)
    return cache["template"]


@feature("cli/template-list")
def _():
    listed = templates()
    assert "base" in listed["base"]["names"], listed
    assert "base" in cli("template", "list")


@feature("cli/template-create", seconds=240)
def _():
    name = template()
    assert "[builder 5/" in cache["created"] and f"{name} finished" in re.sub(r"\s+", " ", cache["created"]), cache["created"]
    got = templates()[name]
    equal([got["cpuCount"], got["memoryMB"], got["buildStatus"], got["buildCount"], got["public"]], [1, 512, "ready", 1, False])
    s = create(name)
    equal(s.commands.run("cat /srv/word.txt /srv/ran; pgrep -fxc 'sleep 777'").stdout, "copied\nbuilt\n1\n")


@feature("cli/template-failure", seconds=240)
def _():
    folder = tempfile.mkdtemp(prefix="e2e-cli-")
    with open(os.path.join(folder, "Dockerfile"), "w", encoding="utf-8") as file:
        file.write("FROM debian:bookworm\nRUN echo because >&2; exit 7\n")
    name = f"{mark['e2e']}-cli-fails"
    try:
        out = cli("template", "create", name, "-p", folder, code=1, seconds=200)
        assert "because" in out and "Template build failed" in out and "exit 7" in out, out
        equal(templates()[name]["buildStatus"], "error")
    finally:
        shutil.rmtree(folder)
        cli("template", "delete", "-y", name)


@feature("cli/template-publish", seconds=240)
def _():
    name = template()
    out = cli("template", "publish", "-y", name)
    assert re.search(f"Published as: .*/{name}", out), out
    equal(templates()[name]["public"], True)
    cli("template", "unpublish", "-y", name)
    equal(templates()[name]["public"], False)
    cli("template", "publish", "-y", "base", code=1)


@feature("cli/template-delete", seconds=240)
def _():
    name = template()
    s = create(name)
    out = cli("template", "delete", "-y", name, code=1)
    assert "400" in out or "sandbox" in out, out
    for id in listed("-t", name):
        cli("sandbox", "kill", id)
    assert s.is_running() is False
    cli("template", "delete", "-y", name)
    assert name not in templates()
    cli("template", "delete", "-y", name, code=1)


@feature("cli/pause")
def _():
    id = sandbox()
    cli("sandbox", "pause", id)
    assert id in listed("-s", "paused")
    cli("sandbox", "resume", id)
    assert id not in listed("-s", "paused")


@feature("cli/snapshot")
def _():
    out = cli("sandbox", "snapshot", "create", sandbox())
    assert "Snapshot" in out or "snapshot" in out, out


main("cli", cli("--version").strip())
