"""From create to the end."""

import time
from datetime import datetime, timedelta, timezone

import e2b
from client import create, shared
from e2b import Sandbox, SandboxQuery, SandboxState
from suite import equal, eventually, fails, feature, mark


def pages(paginator):
    while paginator.has_next:
        yield [i.sandbox_id for i in paginator.next_items()]


@feature("lifecycle/create")
def _():
    s = Sandbox.create(metadata=mark)
    try:
        info = s.get_info()
        equal(info.name, "base")
        equal(info.end_at - info.started_at, timedelta(seconds=300))
    finally:
        equal(s.kill(), True)


@feature("lifecycle/timeout")
def _():
    s = create(timeout=60)
    info = s.get_info()
    equal(info.end_at - info.started_at, timedelta(seconds=60))
    for seconds in (600, 30):
        s.set_timeout(seconds)
        left = (s.get_info().end_at - datetime.now(timezone.utc)).total_seconds()
        assert abs(left - seconds) < 5, f"{left} s left, want {seconds}"


@feature("lifecycle/expiry")
def _():
    s = create(timeout=2)
    eventually(lambda: not s.is_running(), "the end")
    fails(s.get_info, e2b.SandboxNotFoundException)
    fails(lambda: s.commands.run("true"), e2b.SandboxNotRunningException)
    fails(lambda: s.files.read("/etc/hostname"), e2b.SandboxNotRunningException)


@feature("lifecycle/kill")
def _():
    s = create()
    equal([Sandbox.kill(s.sandbox_id), Sandbox.kill(s.sandbox_id), s.kill()], [True, False, False])


@feature("lifecycle/connect")
def _():
    s = create(timeout=60)
    s.files.write("note", "left here")
    again = Sandbox.connect(s.sandbox_id, timeout=5)
    equal(again.files.read("note"), "left here")
    assert s.get_info().end_at - datetime.now(timezone.utc) > timedelta(seconds=40)
    again.connect(timeout=120)
    assert s.get_info().end_at - datetime.now(timezone.utc) > timedelta(seconds=100)


@feature("lifecycle/gone")
def _():
    s = create()
    s.kill()
    for name in (s.sandbox_id, "inobodyeverhadthisidx"):
        fails(lambda: Sandbox.connect(name), e2b.SandboxNotFoundException)
        fails(lambda: Sandbox.get_info(name), e2b.SandboxNotFoundException)
        fails(lambda: Sandbox.set_timeout(name, 10), e2b.SandboxNotFoundException)
    fails(lambda: Sandbox.get_metrics("inobodyeverhadthisidx"), e2b.SandboxNotFoundException)


@feature("lifecycle/info")
def _():
    s = shared()
    info = s.get_info()
    equal([info.sandbox_id, info.name, info.state], [s.sandbox_id, "base", SandboxState.RUNNING])
    assert info.template_id and info.cpu_count >= 1 and info.memory_mb >= 128
    equal(info.lifecycle, {"on_timeout": "kill", "auto_resume": False})
    equal(Sandbox.get_info(s.sandbox_id), info)


@feature("lifecycle/is-running")
def _():
    s = create()
    before = s.is_running()
    s.kill()
    equal([before, s.is_running()], [True, False])


@feature("lifecycle/metadata")
def _():
    metadata = {"user": "ida", "with space": "a&b=c", "ünïcode": "✓"}
    equal(create(metadata=metadata).get_info().metadata, {**mark, **metadata})


@feature("lifecycle/envs")
def _():
    s = create(envs={"COLOUR": "green", "EMPTY": ""})
    out = s.commands.run('printf "%s|%s|%s" "$COLOUR" "${EMPTY-unset}" "$E2B_SANDBOX_ID"').stdout
    equal(out, f"green||{s.sandbox_id}")


@feature("lifecycle/list")
def _():
    group = {"group": f"list-{time.time()}"}
    ids = [create(metadata=group).sandbox_id for _ in range(3)]
    query = SandboxQuery(metadata=group)
    equal(list(pages(Sandbox.list(query=query, limit=2))), [[ids[2], ids[1]], [ids[0]]])
    equal(sum(pages(Sandbox.list(query=query, limit=1, order="asc")), []), ids)


@feature("lifecycle/filters")
def _():
    group = f"filter-{time.time()}"
    old = create(metadata={"group": group, "which": "old & first"})
    fresh = create(metadata={"group": group})

    def found(metadata=None, **query):
        query = SandboxQuery(metadata={"group": group, **(metadata or {})}, **query)
        return sum(pages(Sandbox.list(query=query)), [])

    both = [fresh.sandbox_id, old.sandbox_id]
    equal(found(), both)
    equal(found({"which": "old & first"}), both[1:])
    equal(found(state=[SandboxState.RUNNING]), both)
    equal(found(state=[SandboxState.PAUSED]), [])
    equal(found(template="base"), both)
    equal(found(started_after=old.get_info().started_at), both)
    equal(found(started_after=fresh.get_info().started_at), both[:1])


@feature("lifecycle/bad-template")
def _():
    assert "no-such-template" in str(fails(lambda: create("no-such-template")))


@feature("lifecycle/bad-key")
def _():
    key = "e2b_" + "0" * 40
    fails(lambda: create(api_key=key), e2b.AuthenticationException)
    fails(lambda: Sandbox.kill(shared().sandbox_id, api_key=key), e2b.AuthenticationException)


@feature("lifecycle/bad-value")
def _():
    for timeout in (-1, 10**9):
        assert "timeout" in str(fails(lambda: create(timeout=timeout), e2b.SandboxException))
