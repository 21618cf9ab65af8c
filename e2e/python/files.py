"""Files, watching, signed URLs."""

import hashlib
import io
import os
from datetime import datetime, timezone
from urllib.parse import urlsplit, urlunsplit

import e2b
import httpx
from client import run, shared
from e2b import FilesystemEventType, FileType
from suite import equal, eventually, fails, feature


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@feature("files/text")
def _():
    f = shared().files
    info = f.write("deep/er/text.txt", "Grüße ✓\n")
    equal([info.name, info.type, info.path], ["text.txt", FileType.FILE, "/home/user/deep/er/text.txt"])
    equal(f.read("deep/er/text.txt"), "Grüße ✓\n")
    f.write("deep/er/text.txt", "less")
    equal(f.read("/home/user/deep/er/text.txt"), "less")


@feature("files/bytes")
def _():
    f = shared().files
    f.write("all.bin", bytes(range(256)))
    equal(bytes(f.read("all.bin", format="bytes")), bytes(range(256)))


@feature("files/stream")
def _():
    f = shared().files
    data = os.urandom(1 << 20)
    f.write("streamed.bin", data)
    equal(sha256(b"".join(f.read("streamed.bin", format="stream"))), sha256(data))


@feature("files/write-many")
def _():
    f = shared().files
    infos = f.write_files([{"path": "many/a", "data": "A"}, {"path": "/tmp/many/b", "data": b"B"}])
    equal([i.path for i in infos], ["/home/user/many/a", "/tmp/many/b"])
    equal([f.read("many/a"), f.read("/tmp/many/b")], ["A", "B"])


@feature("files/upload-stream")
def _():
    f = shared().files
    f.write("from-file", io.BytesIO(b"from a file"))
    f.write("from-iterator", (c for c in (b"one ", b"two ", b"three")))
    equal([f.read("from-file"), f.read("from-iterator")], ["from a file", "one two three"])


@feature("files/octet-stream")
def _():
    f = shared().files
    equal(f.write("octets", "plain", use_octet_stream=True).path, "/home/user/octets")
    equal(f.read("octets"), "plain")


@feature("files/gzip")
def _():
    f = shared().files
    text = "again and again " * 10_000
    f.write("zipped", text, gzip=True)
    equal(f.get_info("zipped").size, len(text))
    equal(f.read("zipped", gzip=True), text)


@feature("files/large")
def _():
    f = shared().files
    data = os.urandom(20 << 20)
    f.write("large.bin", data)
    equal(run("sha256sum large.bin").stdout[:64], sha256(data))
    equal(sha256(f.read("large.bin", format="bytes")), sha256(data))
    f.remove("large.bin")


@feature("files/empty")
def _():
    f = shared().files
    f.write("empty", "")
    equal([f.read("empty"), f.get_info("empty").size], ["", 0])


@feature("files/proc")
def _():
    boot = shared().files.read("/proc/sys/kernel/random/boot_id")
    equal(len(boot), 37)


@feature("files/list")
def _():
    f = shared().files
    for path in ("tree/file", "tree/sub/inner", "tree/sub/deeper/last"):
        f.write(path, "")

    def paths(**opts):
        return sorted(e.path.removeprefix("/home/user/tree/") for e in f.list("tree", **opts))

    equal(paths(), ["file", "sub"])
    equal(paths(depth=2), ["file", "sub", "sub/deeper", "sub/inner"])
    equal(paths(depth=3), ["file", "sub", "sub/deeper", "sub/deeper/last", "sub/inner"])
    equal({e.name: e.type for e in f.list("tree")}, {"file": FileType.FILE, "sub": FileType.DIR})
    fails(lambda: f.list("tree", depth=0), e2b.InvalidArgumentException)


@feature("files/info")
def _():
    f = shared().files
    f.write("known", "12345")
    i = f.get_info("known")
    equal(
        [i.name, i.type, i.path, i.size, i.mode, i.permissions, i.owner, i.group],
        ["known", FileType.FILE, "/home/user/known", 5, 0o644, "-rw-r--r--", "user", "user"],
    )
    age = datetime.now(timezone.utc) - i.modified_time.replace(tzinfo=timezone.utc)
    assert abs(age.total_seconds()) < 60, i.modified_time


@feature("files/symlink")
def _():
    f = shared().files
    f.write("real", "thing")
    run("ln -sf real link")
    info = f.get_info("link")
    equal(info.symlink_target, "/home/user/real")
    equal(f.read("link"), "thing")
    equal(f.get_info("real").symlink_target, None)


@feature("files/exists")
def _():
    f = shared().files
    f.write("there", "")
    equal([f.exists("there"), f.exists("/tmp"), f.exists("nowhere/at/all")], [True, True, False])


@feature("files/make-dir")
def _():
    f = shared().files
    equal([f.make_dir("a/b/c"), f.make_dir("a/b/c")], [True, False])
    equal(f.get_info("a/b/c").type, FileType.DIR)


@feature("files/rename")
def _():
    f = shared().files
    f.write("before", "same")
    equal(f.rename("before", "moved/after").path, "/home/user/moved/after")
    equal([f.read("moved/after"), f.exists("before")], ["same", False])
    fails(lambda: f.rename("before", "x"), e2b.NotFoundException)


@feature("files/remove")
def _():
    f = shared().files
    f.write("gone/with/all", "")
    f.remove("gone")
    equal(f.exists("gone"), False)


@feature("files/users")
def _():
    f = shared().files
    equal(f.write("mine", "secret", user="root").path, "/root/mine")
    equal(f.get_info("/root/mine", user="root").owner, "root")
    equal(f.read("mine", user="root"), "secret")
    fails(lambda: f.read("mine", user="ghost"), e2b.AuthenticationException)


@feature("files/metadata")
def _():
    f = shared().files
    info = f.write("tagged", "x", metadata={"Author": "ida", "step": "2"})
    equal(info.metadata, {"author": "ida", "step": "2"})
    equal(f.get_info("tagged").metadata, {"author": "ida", "step": "2"})


@feature("files/missing")
def _():
    f = shared().files
    for call in (f.read, f.get_info, f.list):
        assert "nope" in str(fails(lambda: call("nope"), e2b.FileNotFoundException))


@feature("files/invalid")
def _():
    f = shared().files
    f.write("plain-file", "")
    for call, path in ((f.read, "/tmp"), (f.list, "plain-file"), (f.make_dir, "plain-file")):
        fails(lambda: call(path), e2b.InvalidArgumentException)
    fails(lambda: f.write("nul\0byte", ""), e2b.SandboxException)


@feature("files/no-space")
def _():
    run("mkdir -p /mnt/small && mount -t tmpfs -o size=1m,mode=777 tmpfs /mnt/small", user="root")
    fails(lambda: shared().files.write("/mnt/small/big", "x" * (3 << 20)), e2b.NotEnoughSpaceException)
    run("umount /mnt/small", user="root")


class Watched:
    """A directory and what has happened in it."""

    def __init__(self, path, **opts):
        shared().files.make_dir(path)
        self.seen = []
        self.handle = shared().files.watch_dir(path, **opts)

    def saw(self, kind, name):
        def look():
            self.seen += self.handle.get_new_events()
            return next((e for e in self.seen if e.type == kind and e.name == name), None)

        return eventually(look, lambda: f"{kind} {name} in {self.seen}")


@feature("watch/events")
def _():
    f = shared().files
    w = Watched("watched")
    f.write("watched/new", "x")
    w.saw(FilesystemEventType.CREATE, "new")
    w.saw(FilesystemEventType.WRITE, "new")
    f.rename("watched/new", "watched/newer")
    w.saw(FilesystemEventType.RENAME, "new")
    w.saw(FilesystemEventType.CREATE, "newer")
    run("chmod 600 watched/newer")
    w.saw(FilesystemEventType.CHMOD, "newer")
    f.remove("watched/newer")
    w.saw(FilesystemEventType.REMOVE, "newer")
    w.handle.stop()
    fails(w.handle.get_new_events, e2b.SandboxException)


@feature("watch/recursive")
def _():
    w = Watched("forest/tree", recursive=True)
    shared().files.make_dir("forest/tree/branch")
    w.saw(FilesystemEventType.CREATE, "branch")
    shared().files.write("forest/tree/branch/leaf", "x")
    w.saw(FilesystemEventType.WRITE, "branch/leaf")
    w.handle.stop()


@feature("watch/entry")
def _():
    w = Watched("described", include_entry=True)
    shared().files.write("described/it", "1234")
    entry = w.saw(FilesystemEventType.CREATE, "it").entry
    equal([entry.name, entry.path], ["it", "/home/user/described/it"])
    w.handle.stop()


@feature("watch/missing")
def _():
    fails(lambda: shared().files.watch_dir("not-there"), e2b.NotFoundException)


@feature("urls/download")
def _():
    s = shared()
    s.files.write("with space & more", "for all")
    res = httpx.get(s.download_url("with space & more", use_signature_expiration=60))
    equal([res.status_code, res.text], [200, "for all"])


@feature("urls/upload")
def _():
    s = shared()
    res = httpx.post(s.upload_url("by-url/file"), files={"file": ("ignored", b"uploaded")})
    equal(res.status_code, 200)
    equal(s.files.read("by-url/file"), "uploaded")


@feature("urls/expiry")
def _():
    s = shared()
    s.files.write("short", "lived")
    url = s.download_url("short", use_signature_expiration=1)
    equal(httpx.get(url).status_code, 200)
    res = eventually(lambda: (r := httpx.get(url)).status_code != 200 and r, "the expiry")
    equal(res.status_code, 401)
    assert "expired" in res.text, res.text


@feature("urls/forged")
def _():
    url = urlsplit(shared().download_url("short"))
    forged = urlunsplit(url._replace(query=url.query.replace("short", "/etc/shadow")))
    equal(httpx.get(forged).status_code, 401)
