# Stands where a code interpreter listens, and answers as nobody should. What it
# does is the name of the notebook that it is asked for.
import base64, gzip, hashlib, json, os, socket, sys, threading, time

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n"


def whole(body, status="200 OK", header=b""):
    head = "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" % (status, len(body))
    return head.encode() + header + b"\r\n" + body


def say(c, mode):
    send = c.sendall
    if mode == "good":
        send(whole(b'{"path":"good.ipynb","revision":"abc"}', header=b"Set-Cookie: a=b\r\nContent-Type: text/html\r\nLocation: http://evil\r\nX-Evil: 1\r\n"))
    elif mode == "header":
        send(b"HTTP/1.1 200 OK\r\n")
        while True:
            send(b"X-More: " + b"x" * 60000 + b"\r\n")
    elif mode == "body":
        send(OK + b'\r\n{"a":"')
        while True:
            send(b"x" * 65536)
    elif mode == "large":
        send(OK + b"Content-Length: 9000000000000\r\n\r\n{")
        while True:
            send(b" " * 65536)
    elif mode == "wrong":
        send(whole(b'{"path": nonsense}'))
    elif mode == "twice":
        send(whole(b'{"a":1}{"b":2}'))
    elif mode == "list":
        send(whole(b"[1,2]"))
    elif mode == "bytes":
        send(whole(b'{"a":"\xff\xfe"}'))
    elif mode == "empty":
        send(whole(b""))
    elif mode == "cut":
        send(OK + b'Content-Length: 100\r\n\r\n{"a":')
    elif mode == "redirect":
        send(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
    elif mode == "created":
        send(whole(b"{}", "201 Created"))
    elif mode == "teapot":
        send(whole(b'{"code":418,"message":"x"}', "418 Teapot"))
    elif mode == "login":
        send(whole(b'{"code":401,"message":"x"}', "401 Unauthorized", b"WWW-Authenticate: Basic\r\n"))
    elif mode == "early":
        while True:
            send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 1000)
    elif mode == "switch":
        send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        time.sleep(1000)
    elif mode == "bomb":
        send(OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"{" + b" " * (200 << 20)))
    elif mode == "noise":
        send(os.urandom(4096))
    elif mode == "nothing":
        pass
    elif mode == "stale":
        send(whole(json.dumps({"code": 409, "message": "somebody \x1b[31mwas\r\n faster\u202e", "revision": "0123abc"}).encode(), "409 Conflict"))
    elif mode == "longword":
        send(whole(json.dumps({"code": 400, "message": "x" * 50000}).encode(), "400 Bad Request"))
    elif mode == "liar":
        send(whole(json.dumps({"code": 200, "message": "all is well"}).encode(), "409 Conflict"))
    elif mode == "fails":
        send(whole(json.dumps({"code": 500, "message": "no disk"}).encode(), "500 Internal Server Error"))
    elif mode == "old":
        send(whole(b'{"detail":"Not Found"}', "404 Not Found"))
    elif mode == "drip":
        send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while True:
            send(b"x")
            time.sleep(0.5)


def stream(c, mode):
    send = c.sendall
    if mode == "good":
        send(STREAM + b'{"type":"cell","cell":"a"}\n{"type":"keepalive"}\n{"type":"output","cell":"a","output":{"output_type":"stream","name":"stdout","text":"6"}}\n')
        send(b'{"type":"done","cell":"a","status":"ok"}\n{"type":"end","status":"ok","revision":"abc"}\n{"type":"output","cell":"late"}\n')
    elif mode == "line":
        send(STREAM + b'{"type":"output","x":"')
        while True:
            send(b"x" * 65536)
    elif mode == "wrong":
        send(STREAM + b'{"type":"cell","cell":"a"}\nnonsense\n')
    elif mode == "list":
        send(STREAM + b'{"type":"cell","cell":"a"}\n["type"]\n')
    elif mode == "untyped":
        send(STREAM + b'{"type":"cell","cell":"a"}\n{"cell":"a"}\n')
    elif mode == "cut":
        send(STREAM + b'{"type":"cell","cell":"a"}\n{"type":"output"')
    elif mode == "flood":
        line = json.dumps({"type": "output", "cell": "a", "output": {"text": "x" * (1 << 20)}}).encode() + b"\n"
        send(STREAM)
        while True:
            send(line)
    elif mode == "drip":
        send(STREAM + b'{"type":"cell","cell":"a"}\n{"type":"')
        while True:
            send(b"x")
            time.sleep(0.5)
    elif mode == "forever":
        send(STREAM + b'{"type":"cell","cell":"a"}\n')
        while True:
            time.sleep(0.1)
            send(b'{"type":"keepalive"}\n')


def analyze(c, body):
    q = json.loads(body)
    found = []
    for d in q["datasets"]:
        if "path" in d:
            with open(d["path"], "rb") as f:
                b = f.read()
            d["sha256"], d["size"], d["uid"], d["mode"] = hashlib.sha256(b).hexdigest(), len(b), os.stat(d["path"]).st_uid, os.stat(d["path"]).st_mode
        found.append(d)
    c.sendall(whole(json.dumps({"data": found, "visualizations": [], "metrics": {}, "logs": {"stdout": q["code"]}}).encode()))


def serve(c):
    try:
        head = b""
        while b"\r\n\r\n" not in head:
            head += c.recv(65536)
        head, body = head.split(b"\r\n\r\n", 1)
        verb, path = head.split(b"\r\n")[0].decode().split()[:2]
        size = [int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length:")]
        while size and len(body) < size[0]:
            body += c.recv(1 << 20)
        with open("/tmp/asked", "a") as f:
            f.write("%s %s\n" % (verb, path))
        parts = path.split("/")
        if path == "/analyze":
            analyze(c, body)
        elif parts[-1] == "run":
            stream(c, parts[2])
        else:
            say(c, parts[2])
    except OSError as e:
        with open("/tmp/left", "a") as f:
            f.write("%s %r\n" % (path, e))
    finally:
        c.close()


s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("::", 49999))
s.listen(128)
print("ready", flush=True)
while True:
    c, _ = s.accept()
    threading.Thread(target=serve, args=(c,), daemon=True).start()
