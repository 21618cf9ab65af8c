"""Templates: built by the SDK's builder, started, tagged, built again."""

import asyncio
import json
import os
import re
import shutil
import tempfile
import traceback
import urllib.request
from pathlib import Path

import e2b
from client import create
from e2b import AsyncTemplate, BuildException, Sandbox, Template
from suite import equal, eventually, fails, feature, guest, last, mark, server

SLOW = 240

# What the suite builds, and the files that it copies.
built = set()
context = Path(tempfile.mkdtemp(prefix="e2e-template-"))


def named(what):
    return f"{mark['e2e']}-py-{what}"


def write(path, text):
    file = context / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


write("notes.txt", "noted\n")
write("site/index.txt", "index\n")
write("site/deep/er.txt", "deeper\n")
write("site/.hidden", "hidden\n")
write("site/debug.log", "left out by .dockerignore\n")
write("site/draft.tmp", "left out by file_ignore_patterns\n")
write(".dockerignore", "# not for templates\n**/*.log\n")
write("web.py", guest("web.py"))
write("links/target.txt", "reached\n")
os.symlink("target.txt", context / "links/link")
os.symlink("nowhere", context / "links/dangling")  # SDKs take one only by a pattern
os.symlink(context / "links/target.txt", context / "links/absolute")  # which leads nowhere in a sandbox


def api(method, path, body=None):
    """Asks the API for what the SDK has no method for; returns status and body."""
    headers = {"X-API-KEY": os.environ["E2B_API_KEY"], "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(os.environ["E2B_API_URL"] + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as err:
        return err.code, json.loads(err.read() or b"null")


def remove():
    shutil.rmtree(context, ignore_errors=True)
    for id in built:
        api("DELETE", f"/templates/{id}")


last.insert(0, remove)  # after the sandboxes


def start(cls=Template):
    return cls(file_context_path=context, file_ignore_patterns=["**/*.tmp"])


def build(template, name, **opts):
    """Builds a template; returns what came of it and what it said."""
    lines = []
    info = Template.build(template, name, on_build_logs=lambda line: lines.append(line.message), **opts)
    built.add(info.template_id)
    return info, "\n".join(lines)


def failing(template, what):
    """Builds a template of which nothing must come; returns the error."""
    err = fails(lambda: build(template, named(what)), BuildException)
    status, body = api("GET", f"/templates/{named(what)}")
    if status == 200:
        built.add(body["templateID"])
    fails(lambda: Sandbox.create(named(what)))
    return err


def points_at(err, remark):
    """Checks that an error points at the line of this file with that remark."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    want = next(i for i, text in enumerate(lines, 1) if text.endswith(f"# {remark}"))
    here = [f.lineno for f in traceback.extract_tb(err.__traceback__) if f.filename == __file__]
    assert want in here, f"points at {here}, not at line {want}: {lines[want - 1]}"


def run(s, cmd):
    return s.commands.run(cmd).stdout


def everything(cls=Template):
    """Built once; several tests look at it. The mark makes its steps new ones."""
    return (
        start(cls)
        .from_base_image()
        .set_envs({"MARK": named("whole"), "GREETING": "hello", "QUOTES": "\"a\" 'b' $(c)", "MORE_PATH": "/opt/more:$PATH"})
        .copy("notes.txt", "into/")
        .copy("site", "site")
        .copy("links/*", "links")
        .copy("notes.txt", "/opt/mine/notes.txt", user="root", mode=0o640)
        .run_cmd('echo "$(whoami) $PWD $GREETING" > ran')
        .run_cmd(["echo first > /opt/first", "whoami > /opt/as"], user="root")
        .set_workdir("/srv/app")
        .run_cmd("pwd > where")
        .set_user("builder")
        .run_cmd("whoami > /tmp/builder; echo said and done; echo moaned >&2")
    )


cache = {}


def the_whole():
    if "whole" not in cache:
        cache["whole"] = build(everything(), named("whole"), cpu_count=1, memory_mb=512)
    return cache["whole"]


def the_box():
    the_whole()
    if "box" not in cache:
        cache["box"] = create(named("whole"))
    return cache["box"]


@feature("templates/build", seconds=SLOW)
def _():
    info, _ = the_whole()
    equal([info.name, info.tags], [named("whole"), ["default"]])
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", info.build_id), info
    equal(the_box().get_info().template_id, info.template_id)


@feature("templates/steps", seconds=SLOW)
def _():
    s = the_box()
    equal(s.files.read("/home/user/ran"), "user /home/user hello\n")
    equal([s.files.read("/opt/first"), s.files.read("/opt/as")], ["first\n", "root\n"])
    equal(s.files.read("/srv/app/where"), "/srv/app\n")
    equal(s.files.read("/tmp/builder"), "builder\n")
    equal(run(s, 'whoami; pwd; echo "$GREETING|$QUOTES"'), "builder\n/srv/app\nhello|\"a\" 'b' $(c)\n")
    assert re.match(r"/opt/more:(?=.*/usr/bin)", run(s, "echo $MORE_PATH"))


@feature("templates/copy", seconds=SLOW)
def _():
    s = the_box()
    equal(s.files.read("/home/user/into/notes.txt"), "noted\n")
    equal(run(s, "cd /home/user/site; find . | sort"), ".\n./.hidden\n./deep\n./deep/er.txt\n./index.txt\n")
    links = run(s, "cd /home/user/links; readlink link dangling absolute; cat link; ! cat absolute")
    equal(links, f"target.txt\nnowhere\n{context}/links/target.txt\nreached\n")
    equal(run(s, "stat -c '%U %a' /opt/mine/notes.txt /home/user/site/index.txt"), "root 640\nuser 644\n")


@feature("templates/upload-cache", seconds=SLOW)
def _():
    name = named("uploads")
    write("mine.txt", f"for {name}\n")

    def said(**opts):
        return build(start().from_template("base").copy("mine.txt", "mine.txt", **opts), name)[1]

    assert "Uploaded 'mine.txt'" in said()
    assert "Skipping upload of 'mine.txt', already cached" in said()
    assert "Uploaded 'mine.txt'" in said(force_upload=True, gzip=False)
    equal(create(name).files.read("mine.txt"), f"for {name}\n")


@feature("templates/helpers", seconds=SLOW)
def _():
    name = named("helpers")
    template = (
        start()
        .from_template("base")
        .make_dir(["a/b", "c d"], mode=0o700)
        .run_cmd("echo 1 > a/one && echo 2 > two && echo 3 > three")
        .rename("two", "a/b/two")
        .remove("three")
        .make_symlink("a/one", "link")
    )
    build(template, name)
    equal(run(create(name), "cat link a/b/two; stat -c %a 'c d'; ls"), "1\n2\n700\na\nc d\nlink\n")


@feature("templates/from-image", seconds=SLOW)
def _():
    name = named("image")
    build(start().from_image("debian:bookworm").run_cmd("whoami > who"), name)
    equal(run(create(name), "cat who; whoami; pwd; sudo whoami"), "user\nuser\n/home/user\nroot\n")


@feature("templates/from-template", seconds=SLOW)
def _():
    the_whole()
    name = named("child")
    build(start().from_template(named("whole")).run_cmd("echo $(whoami) $GREETING > /tmp/child"), name)
    equal(run(create(name), "cat /tmp/child /opt/first; whoami; pwd"), "builder hello\nfirst\nbuilder\n/srv/app\n")


@feature("templates/from-dockerfile", seconds=SLOW)
def _():
    name = named("dockerfile")
    dockerfile = """
FROM debian:bookworm
ARG COLOUR=blue
ENV SHAPE="round"
WORKDIR /srv
COPY notes.txt web.py ./
RUN echo "$COLOUR $SHAPE $(whoami)" > out && \\
    ls >> out
USER root
"""
    build(start().from_dockerfile(dockerfile), name)
    equal(run(create(name), "cat /srv/out; whoami; pwd"), "blue round root\nnotes.txt\nout\nweb.py\nroot\n/srv\n")


@feature("templates/registry-login", seconds=SLOW)
def _():
    image = f"{os.environ['E2E_REGISTRY']}/private/debian:bookworm"
    build(start().from_image(image, username="ada", password="not a secret").run_cmd("true"), named("private"))
    key = {"type": "service_account", "client_email": "ada@e2e.example"}
    build(start().from_gcp_registry(image, service_account_json=key), named("private"))
    err = failing(
        start().from_image(image, username="ada", password="wrong"),  # a wrong password
        "private-wrong",
    )
    points_at(err, "a wrong password")


@feature("templates/start", seconds=SLOW)
def _():
    name = named("started")
    template = start().from_template("base").copy("web.py", "web.py")
    build(template.set_start_cmd("python3 web.py 0.0.0.0 8000", e2b.wait_for_port(8000)), name)
    s = create(name)
    headers = {"E2b-Sandbox-Id": s.sandbox_id, "E2b-Sandbox-Port": "8000"}
    with urllib.request.urlopen(urllib.request.Request(server.geturl(), headers=headers), timeout=10) as answer:
        assert answer.read().startswith(b"hello from "), "the first request"


@feature("templates/cache", seconds=SLOW)
def _():
    the_whole()
    _, text = build(everything(), named("again"))
    assert re.search(r"^CACHED \[builder 11/11\] ", text, re.M), text
    assert "[stdout]: said and done" not in text, text


@feature("templates/force", seconds=SLOW)
def _():
    def template():
        return start().from_template("base").run_cmd("echo one")

    build(template().run_cmd("echo two"), named("forced"))
    _, text = build(template().skip_cache().run_cmd("echo two"), named("forced"))
    assert re.search(r"^CACHED \[builder 1/2\] ", text, re.M), text
    assert re.search(r"^\[builder 2/2\] \[stdout\]: two$", text, re.M), text
    _, text = build(template().run_cmd("echo two"), named("forced"), skip_cache=True)
    assert "CACHED" not in text, text


@feature("templates/logs", seconds=SLOW)
def _():
    _, text = the_whole()
    assert re.search(r"^\[base\] FROM e2bdev/base", text, re.M), text
    assert re.search(r"^\[builder 11/11\] \[stdout\]: said and done$", text, re.M), text
    assert re.search(r"^\[builder 11/11\] \[stderr\]: moaned$", text, re.M), text
    loop = "for i in $(seq 1000); do echo line $i; done"
    _, text = build(start().from_template("base").skip_cache().run_cmd(loop), named("many"))
    equal([int(n) for n in re.findall(r"\[stdout\]: line (\d+)$", text, re.M)], list(range(1, 1001)))


@feature("templates/failure", seconds=SLOW)
def _():
    template = start().from_base_image()
    template = template.run_cmd("true")
    template = template.run_cmd("exit 7")  # the second of three
    template = template.run_cmd("true")
    err = failing(template, "fails")
    assert "exit 7" in str(err), err
    points_at(err, "the second of three")


@feature("templates/failure-kinds", seconds=SLOW)
def _():
    points_at(failing(start().from_template("no-such-template"), "no-template"), "not a template")  # not a template
    template = start().from_base_image().set_workdir("/etc/passwd")  # a file
    points_at(failing(template, "no-folder"), "a file")
    template = start().from_template("base")
    template = template.set_start_cmd("./no/such/program", e2b.wait_for_timeout(3_000))  # the start
    points_at(failing(template, "no-start"), "the start")


@feature("templates/unknown-user", seconds=SLOW)
def _():
    err = failing(start().from_base_image().run_cmd("whoami", user="root123"), "nobody")
    want = "failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'"
    assert want in str(err), err


@feature("templates/background", seconds=SLOW)
def _():
    template = start().from_template("base").skip_cache().run_cmd("sleep 3; echo slept")
    info = Template.build_in_background(template, named("background"))
    built.add(info.template_id)
    equal(Template.get_build_status(info).status.value, "building")

    def over():
        status = Template.get_build_status(info, logs_offset=0)
        return status.status.value not in ("building", "waiting") and status

    end = eventually(over, "the end of the build", 60)
    equal([end.status.value, end.reason], ["ready", None])
    equal(Template.get_build_status(info, logs_offset=2).log_entries[0].message, end.log_entries[2].message)
    create(named("background"))


@feature("templates/size", seconds=SLOW)
def _():
    info = the_box().get_info()
    equal([info.cpu_count, info.memory_mb], [1, 512])
    err = fails(lambda: Template.build(start().from_template("base"), named("size"), cpu_count=1000), BuildException)
    assert "cpuCount must be" in str(err), err


@feature("templates/tags", seconds=SLOW)
def _():
    name = named("tagged")

    def saying(word):
        return start().from_template("base").run_cmd(f"echo {word} > word")

    def word(ref):
        return create(ref).files.read("word").strip()

    one, _ = build(saying("one"), f"{name}:v1", tags=["stable"])
    equal(sorted(one.tags), ["stable", "v1"])
    two, _ = build(saying("two"), name, tags=["v2", "default"])
    equal([word(f"{name}:stable"), word(name), word(f"{name}:{one.build_id}")], ["one", "two", "one"])
    moved = Template.assign_tags(f"{name}:v2", "stable")
    equal([moved.build_id, moved.tags], [two.build_id, ["stable"]])
    equal(word(f"{name}:stable"), "two")
    equal(sorted(t.tag for t in Template.get_tags(name)), ["default", "stable", "v1", "v2"])
    Template.remove_tags(name, ["v1"])
    fails(lambda: Sandbox.create(f"{name}:v1"))
    fails(lambda: Template.remove_tags(name, "default"), e2b.TemplateException)
    equal([Template.exists(name), Template.exists(f"{name}:v1"), Template.exists(named("nothing"))], [True, False, False])


@feature("templates/async", seconds=SLOW)
def _():
    async def both():
        lines = []

        async def one(word):
            template = start(AsyncTemplate).from_template("base").copy("notes.txt", "notes.txt").run_cmd(f"echo {word} > word")
            info = await AsyncTemplate.build(template, named(f"async-{word}"), on_build_logs=lines.append)
            built.add(info.template_id)

        await asyncio.gather(one("first"), one("second"))
        assert len(lines) > 10
        bad = start(AsyncTemplate).from_template("base").run_cmd("exit 1")
        try:
            await AsyncTemplate.build(bad, named("async-first"))
        except BuildException as err:
            assert "exit 1" in str(err), err
        else:
            raise AssertionError("a build that must fail did not")
        await AsyncTemplate.assign_tags(named("async-second"), "v1")
        equal(await AsyncTemplate.exists(named("async-second:v1")), True)

    asyncio.run(both())
    equal([create(named(f"async-{w}")).files.read("word") for w in ("first", "second:v1")], ["first\n", "second\n"])
