"""Ports, network, metrics, templates, git, and what is not there yet."""

import http.client
import json
import os
import socket
import time
from datetime import datetime, timedelta, timezone

import e2b
from client import create, run, shared
from e2b import Sandbox
from suite import equal, eventually, fails, feature, guest, later, server


def route(s, port):
    return {"E2b-Sandbox-Id": s.sandbox_id, "E2b-Sandbox-Port": str(port)}


def ask(s, port, path="/", host=None, token=None):
    """Asks a port of a sandbox by headers, or by host name if one is given."""
    conn = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    headers = {"Host": host} if host else route(s, port)
    if token:
        headers["e2b-traffic-access-token"] = token
    conn.request("GET", path, headers=headers)
    res = conn.getresponse()
    return res.status, res.read().decode()


def web(address, port):
    """Starts the test's web server in the shared sandbox."""
    s = shared()
    s.files.write("/tmp/web.py", guest("web.py"))
    run(f"python3 /tmp/web.py {address} {port}", background=True, timeout=0)
    eventually(lambda: ask(s, port)[0] == 200, "the web server")
    return s


@feature("ports/http")
def _():
    s = web("0.0.0.0", 8000)
    assert ask(s, 8000)[1].startswith("hello from ")
    host = s.get_host(8000)
    equal(ask(s, 8000, host=host), (200, f"hello from {host}"))


@feature("ports/loopback")
def _():
    equal(ask(web("127.0.0.1", 8001), 8001)[0], 200)


@feature("ports/websocket")
def _():
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as conn:
        lines = ["GET /ws HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        lines += ["Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==", *(f"{k}: {v}" for k, v in route(shared(), 8000).items())]
        conn.sendall("\r\n".join([*lines, "", ""]).encode())
        stream = conn.makefile("rb")
        status = stream.readline()
        assert b" 101 " in status, status
        while stream.readline().strip():
            pass
        for text in (b"first", b"second"):
            mask = os.urandom(4)
            conn.sendall(bytes([0x81, 0x80 | len(text)]) + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(text)))
            equal(stream.read(2 + len(text)), bytes([0x81, len(text)]) + text)


@feature("ports/streaming")
def _():
    conn = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    conn.request("GET", "/slow", headers=route(shared(), 8000))
    res = conn.getresponse()
    at = [(res.readline(), time.monotonic()) for _ in range(5)]
    equal([line for line, _ in at], [b"line %d\n" % n for n in range(5)])
    assert at[-1][1] - at[0][1] > 0.5, at


@feature("ports/closed")
def _():
    status, body = ask(shared(), 8999)
    body = json.loads(body)
    equal([status, body["sandboxId"], body["port"], body["code"]], [502, shared().sandbox_id, 8999, 502])
    assert "port is not open" in body["message"], body


@feature("ports/gone")
def _():
    s = create()
    s.kill()
    for status, body in (ask(s, 8000), ask(s, 8000, host=s.get_host(8000)), ask(s, 49983, "/health")):
        equal(status, 502)
        assert "sandbox was not found" in json.loads(body)["message"], body


@feature("ports/private")
def _():
    s = create(network={"allow_public_traffic": False}, lifecycle={"on_timeout": "pause", "auto_resume": True})
    token = s.traffic_access_token
    assert token, "no token"
    equal(create().traffic_access_token, None)
    # Detached: a client whose command is cut off by the pause may ask the agent
    # whether it is still there, which resumes the sandbox.
    s.commands.run("setsid python3 -m http.server 8000 >/dev/null 2>&1 &")
    eventually(lambda: ask(s, 8000, token=token)[0] == 200, "the web server")
    equal(ask(s, 8000, host=s.get_host(8000), token=token)[0], 200)

    def refused(wrong, words):
        for host in (None, s.get_host(8000)):
            status, body = ask(s, 8000, host=host, token=wrong)
            equal([status, json.loads(body)["sandboxId"], json.loads(body)["code"]], [403, s.sandbox_id, 403])
            assert words in json.loads(body)["message"], body

    refused(None, "Token header 'e2b-traffic-access-token' is missing")
    refused("x", "in header 'e2b-traffic-access-token' is invalid")
    equal(Sandbox.connect(s.sandbox_id).traffic_access_token, token)
    s.pause()
    refused(None, "may not resume")
    equal(s.get_info().state.value, "paused")
    equal(ask(s, 8000, token=token)[0], 200)


@feature("network/internet-off")
def _():
    s = create(allow_internet_access=False)
    t = create()
    equal([s.get_info().allow_internet_access, t.get_info().allow_internet_access], [False, True])
    t.update_network({"allow_internet_access": False})
    equal(t.get_info().allow_internet_access, False)
    for each in (s, t):
        probe = "timeout 3 bash -c ': < /dev/tcp/1.1.1.1/443' 2>/dev/null && echo open || echo closed"
        equal(each.commands.run(probe).stdout, "closed\n")


@feature("observe/metrics")
def _():
    [m, *_] = eventually(lambda: shared().get_metrics(), "a measurement", 20)
    assert m.cpu_count >= 1 and 0 < m.mem_used < m.mem_total and m.disk_used < m.disk_total, m


@feature("observe/metrics-range")
def _():
    now = datetime.now(timezone.utc)
    s = shared()
    eventually(lambda: s.get_metrics(start=now - timedelta(minutes=5), end=now + timedelta(minutes=1)), "a measurement", 20)
    equal(s.get_metrics(start=now - timedelta(hours=2), end=now - timedelta(hours=1)), [])


@feature("templates/exists")
def _():
    equal([e2b.Template.exists("base"), e2b.Template.exists("no-such-template")], [True, False])


@feature("git/module")
def _():
    git = shared().git
    git.init("repo", initial_branch="main")
    git.configure_user("Ida", "ida@example.org", scope="local", path="repo")
    shared().files.write("repo/readme", "hello")
    git.add("repo")
    git.commit("repo", "first words")
    status = git.status("repo")
    equal([status.current_branch, status.file_status], ["main", []])
    equal(run("git -C repo log --format=%an:%s").stdout, "Ida:first words\n")


@feature("later/volumes")
def _():
    assert "not available in this version" in str(fails(lambda: e2b.Volume.create("vol")))
    mount = fails(lambda: create(volume_mounts={"/data": "vol"}))
    assert "not available in this version" in str(mount), mount


@feature("later/secrets")
def _():
    assert "not available in this version" in str(fails(lambda: e2b.Secret.create("name", "value")))


@later("later/allow-list")
def _():
    create(network={"allow_out": ["1.1.1.1"], "deny_out": [e2b.ALL_TRAFFIC]})


@later("later/rules")
def _():
    create(network={"rules": {"example.org": [{"transform": {"headers": {"x-a": "b"}}}]}})


@later("later/egress-proxy")
def _():
    create(network={"egress_proxy": {"address": "192.0.2.1:1080"}})


@later("later/mask-host")
def _():
    create(network={"mask_request_host": "localhost:${PORT}"})


@later("later/https-ports")
def _():
    create(network={"https_ports": [8443]})


@later("later/mcp")
def _():
    create(mcp={"time": {}})


@later("later/iam")
def _():
    create(iam={"tokens": {"a": e2b.Secret.iam_token(audience="b", token_type="JWT-SVID")}})


@later("later/idempotency-key")
def _():
    create(idempotency_key=f"e2e-{time.time_ns()}")
