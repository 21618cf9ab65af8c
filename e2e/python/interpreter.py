"""The published Python code interpreter package: interpreter.py [NAME...]"""

import asyncio
import base64
import os
import threading
import time
import urllib.error
import urllib.request
from importlib.metadata import version

import e2b
from client import made
from e2b_code_interpreter import AsyncSandbox, Sandbox
from e2b_code_interpreter.charts import ChartType
from suite import equal, eventually, fails, feature, main, mark


def start(**opts):
    """Creates a sandbox of the package's own template, killed at the end."""
    s = Sandbox.create(**{"timeout": 300, "metadata": mark, **opts})
    made.append(s)
    return s


cache = {}


def shared():
    if "sandbox" not in cache:
        cache["sandbox"] = start(timeout=600)
    return cache["sandbox"]


def run(code, **opts):
    return shared().run_code(code, **opts)


def good(code, **opts):
    execution = run(code, **opts)
    assert execution.error is None, execution.error
    return execution


@feature("interpreter/template")
def _():
    s = start()
    equal(s.run_code("40 + 2").text, "42")
    s.kill()


@feature("interpreter/python")
def _():
    first = good('x = 1\nprint("out")\nimport sys; print("err", file=sys.stderr)\nx + 1')
    equal((first.text, first.logs.stdout, first.logs.stderr), ("2", ["out\n"], ["err\n"]))
    second = good("x += 1; x")
    equal((second.text, second.execution_count), ("2", first.execution_count + 1))
    equal(good("y = 1").results, [])
    equal("".join(good("!pwd").logs.stdout).strip(), "/home/user")
    equal(good("'quoted'").text, "quoted")


# state: what to run, what to ask, what the answer is; print; error and its words
LANGUAGES = {
    "javascript": (("const x = [1, 2, 3]; globalThis.y = x.length", "y * 14", "42"), 'console.log("out"); console.error("err")', 'throw new TypeError("wrong")'),
    "typescript": (("interface P { n: number }\nconst p: P = { n: 21 }", "p.n * 2", "42"), 'const m: string = "out"; console.log(m); console.error("err")', 'throw new RangeError("wrong")'),
    "r": (("x <- c(1, 2, 3)", "sum(x) * 7", "[1] 42"), 'cat("out\\n"); message("err")', 'stop("wrong")'),
    "java": (("int x = 21;", "x * 2", "42"), 'System.out.println("out"); System.err.println("err");', 'throw new IllegalStateException("wrong");'),
}


def language(name, state, prints, raises):
    @feature(f"interpreter/{name}", seconds=90)
    def _():
        good(state[0], language=name)
        equal(good(state[1], language=name).results[0].text.strip(), state[2])
        logs = good(prints, language=name).logs
        equal(("".join(logs.stdout), "".join(logs.stderr).strip()), ("out\n", "err"))  # R ends a message twice
        error = run(raises, language=name).error
        assert error.name, error
        assert "wrong" in f"{error.value}\n{error.traceback}", error


for name, rest in LANGUAGES.items():
    language(name, *rest)


@feature("interpreter/bash")
def _():
    good("x=21; cd /tmp", language="bash")
    equal("".join(good("echo $((x * 2)) in $PWD", language="bash").logs.stdout), "42 in /tmp\n")


@feature("interpreter/contexts")
def _():
    s = shared()
    context = s.create_code_context(cwd="/tmp", language="python")
    equal((context.cwd, context.language), ("/tmp", "python"))
    equal(s.run_code("import os; here = 1; os.getcwd()", context=context).text, "/tmp")
    assert context.id in [c.id for c in s.list_code_contexts()]
    assert {"python", "javascript"} <= {c.language for c in s.list_code_contexts()}
    s.restart_code_context(context)
    equal(s.run_code("here", context=context).error.name, "NameError")
    equal(s.run_code("import os; os.getcwd()", context=context).text, "/tmp")
    s.remove_code_context(context.id)
    assert context.id not in [c.id for c in s.list_code_contexts()]
    fails(lambda: s.run_code("1", context=context), e2b.NotFoundException)
    fails(lambda: s.restart_code_context("no-such-context"), e2b.NotFoundException)
    fails(lambda: s.remove_code_context("no-such-context"), e2b.NotFoundException)


@feature("interpreter/independence")
def _():
    s = shared()
    good("mine = 1")
    a, b = s.create_code_context(), s.create_code_context()
    assert "name 'mine' is not defined" in s.run_code("mine", context=a).error.value
    equal([s.run_code(f"mine = {i}; mine", context=c).text for i, c in enumerate((a, b))], ["0", "1"])
    equal(s.run_code("mine", context=a).text, "0")
    fails(lambda: s.run_code("1", context=a, language="python"))
    fails(lambda: s.run_code("1", language="cobol"))
    for c in a, b:
        s.remove_code_context(c)


@feature("interpreter/callbacks")
def _():
    stdout, stderr, results, errors = [], [], [], []
    began = time.monotonic()
    execution = run(
        "import sys, time\nfrom IPython.display import display\n"
        'print("first", flush=True); display("shown"); time.sleep(1); print("second", file=sys.stderr)\n1 / 0',
        on_stdout=lambda o: stdout.append((o.line, o.error, time.monotonic() - began)),
        on_stderr=lambda o: stderr.append((o.line, o.error)),
        on_result=lambda r: results.append(r.text),
        on_error=lambda e: errors.append(e.name),
    )
    equal([o[:2] for o in stdout], [("first\n", False)])
    assert stdout[0][2] < 0.9, stdout
    equal((stderr, results, errors), ([("second\n", True)], ["shown"], ["ZeroDivisionError"]))
    equal(execution.error.name, "ZeroDivisionError")


@feature("interpreter/results")
def _():
    results = good("""
from IPython.display import display, HTML, Markdown, SVG, Latex, JSON, Javascript
display(HTML("<b>b</b>"))
display(Markdown("# m"))
display(SVG("<svg xmlns='http://www.w3.org/2000/svg'/>"))
display(Latex("$x^2$"))
display(JSON({"a": [1, None]}))
display(Javascript("1"))
class Own:
    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": "own", "application/x-own": "more"}
display(Own())
class Pdf:
    def _repr_pdf_(self): return b"%PDF-"
display(Pdf())
"last"
""").results
    equal((results[0].html, results[1].markdown, results[2].svg[:4], results[3].latex), ("<b>b</b>", "# m", "<svg", "$x^2$"))
    equal((results[4].json, results[5].javascript), ({"a": [1, None]}, "1"))
    equal((results[6].text, results[6].extra), ("own", {"application/x-own": "more"}))
    equal(base64.b64decode(results[7].pdf), b"%PDF-")
    equal(results[8].text, "last")
    equal([r.is_main_result for r in results], [False] * 8 + [True])
    equal(sorted(results[0].formats()), ["html", "text"])


@feature("interpreter/data")
def _():
    code = 'import pandas as pd\npd.DataFrame({"a": [1, 2], "b": ["x", None], "c": pd.to_datetime(["2024-01-02", "2024-01-03"])})'
    result = good(code).results[0]
    equal((result.data["a"], result.data["b"]), ([1, 2], ["x", None]))
    assert result.data["c"][0].startswith("2024-01-02T00:00:00"), result.data
    assert "<table" in result.html, result.html


def plot(code):
    return good(f"import matplotlib.pyplot as plt, datetime\n{code}\nplt.show()").results[0]


@feature("interpreter/charts", seconds=90)
def _():
    line = plot(
        'plt.plot([datetime.date(2024, 1, d) for d in (1, 2, 3)], [1, 4, 9], label="squares"); '
        'plt.yscale("log"); plt.title("T"); plt.xlabel("Time (s)"); plt.ylabel("y")'
    )
    equal(base64.b64decode(line.png)[1:4], b"PNG")
    chart = line.chart
    equal((chart.type, chart.title, chart.x_label, chart.x_unit, chart.y_label), (ChartType.LINE, "T", "Time (s)", "s", "y"))
    equal((chart.x_scale, chart.y_scale, chart.elements[0].label), ("datetime", "log", "squares"))
    equal([y for _, y in chart.elements[0].points], [1, 4, 9])
    bar = plot('plt.bar(["a", "b"], [1, 2], label="g")').chart
    equal((bar.type, [(e.label, e.group, e.value) for e in bar.elements]), (ChartType.BAR, [("a", "g", 1), ("b", "g", 2)]))
    scatter = plot('plt.scatter([1, 2], [3, 4], label="s")').chart
    equal((scatter.type, [tuple(p) for p in scatter.elements[0].points]), (ChartType.SCATTER, [(1, 3), (2, 4)]))
    pie = plot('plt.pie([3, 1], labels=["a", "b"])').chart
    equal((pie.type, [(e.label, round(e.angle)) for e in pie.elements]), (ChartType.PIE, [("a", 270), ("b", 90)]))
    box = plot('plt.boxplot([[1, 2, 3, 4, 100]], labels=["a"])').chart
    equal((box.type, box.elements[0].median, box.elements[0].outliers), (ChartType.BOX_AND_WHISKER, 3, [100]))
    both = plot('f, a = plt.subplots(1, 2); f.suptitle("two"); a[0].plot([1, 2]); a[1].bar(["x"], [1])').chart
    equal((both.type, both.title, [c.type for c in both.elements]), (ChartType.SUPERCHART, "two", [ChartType.LINE, ChartType.BAR]))


@feature("interpreter/images")
def _():
    png = base64.b64decode(good('from PIL import Image\nImage.new("RGB", (2, 3), "red")').results[0].png)
    equal((int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")), (2, 3))


@feature("interpreter/errors")
def _():
    execution = run('kept = 1\ndef f():\n    raise ValueError("why ✓")\nf()')
    equal((execution.error.name, execution.error.value, execution.results), ("ValueError", "why ✓", []))
    assert "in f()" in execution.error.traceback and "\x1b[" not in execution.error.traceback, execution.error.traceback
    equal(run("if").error.name, "SyntaxError")
    equal(good("kept").text, "1")


@feature("interpreter/timeout")
def _():
    good("before = 1")
    fails(lambda: run("import time; time.sleep(300)", timeout=1), e2b.TimeoutException)
    equal(run("before", timeout=15).text, "1")


@feature("interpreter/envs", seconds=120)
def _():
    s = start(envs={"WHO": "all"})
    ask = {
        "python": 'import os; print(os.environ.get("%s"))',
        "javascript": "console.log(process.env.%s)",
        "r": 'cat(Sys.getenv("%s"))',
        "java": 'System.out.println(System.getProperty("%s"));',
        "bash": "echo $%s",
    }
    for language, code in ask.items():

        def said(name, envs=None):
            return "".join(s.run_code(code % name, language=language, envs=envs).logs.stdout).strip()

        equal((language, said("WHO"), said("WHO", {"WHO": "one"}), said("WHO")), (language, "all", "one", "all"))
        equal((language, said("ONCE", {"ONCE": "here"})), (language, "here"))
        assert said("ONCE") != "here", language
    s.kill()


@feature("interpreter/long-output")
def _():
    lines = "".join(good('for i in range(50_000): print(i, "ä" * 40)').logs.stdout).splitlines()
    equal(len(lines), 50_000)
    assert all(line == f"{i} {'ä' * 40}" for i, line in enumerate(lines))


@feature("interpreter/queue")
def _():
    good("order = []")
    texts = []
    threads = [
        threading.Thread(target=lambda i=i: texts.append(run(f"import time; time.sleep(0.3); order.append({i}); len(order)").text)) for i in range(3)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    equal(sorted(texts), ["1", "2", "3"])


@feature("interpreter/crash")
def _():
    s = shared()
    context = s.create_code_context()
    assert s.run_code("import os; os._exit(3)", context=context).error
    equal(s.run_code("40 + 2", context=context).text, "42")
    s.remove_code_context(context)


@feature("interpreter/killed")
def _():
    s = start()
    threading.Timer(1, s.kill).start()
    fails(lambda: s.run_code("import time; time.sleep(300)", timeout=300), e2b.TimeoutException)


@feature("interpreter/pause")
def _():
    s = start()
    s.run_code('import pandas as pd; df = pd.DataFrame({"a": range(1000)})')
    s.run_code("let kept = [1, 2]", language="javascript")
    s.pause()
    eventually(lambda: Sandbox.get_info(s.sandbox_id).state == e2b.SandboxState.PAUSED, "the pause")
    again = Sandbox.connect(s.sandbox_id)
    equal(again.run_code("int(df.a.sum())").text, "499500")
    equal(again.run_code("kept.length", language="javascript").text, "2")
    again.kill()


@feature("interpreter/private")
def _():
    s = start(secure=True, network={"allow_public_traffic": False})
    assert s.traffic_access_token, "no token"
    assert s.run_code("x = 40").error is None
    equal(s.run_code("x + 2").text, "42")
    context = s.create_code_context()
    assert context.id in [c.id for c in s.list_code_contexts()]
    s.remove_code_context(context)
    bare = urllib.request.Request(f"{os.environ['E2B_SANDBOX_URL']}/contexts", headers={"E2b-Sandbox-Id": s.sandbox_id, "E2b-Sandbox-Port": "49999"})
    equal(fails(lambda: urllib.request.urlopen(bare, timeout=10), urllib.error.HTTPError).code, 403)


@feature("interpreter/fork")
def _():
    s = start()
    s.run_code("n = [0]")
    forks = s.fork(count=2)
    try:
        for i, f in enumerate(forks, 1):
            equal(Sandbox.connect(f.sandbox_id).run_code(f"n.append({i}); n").text, f"[0, {i}]")
        equal(s.run_code("n").text, "[0]")
    finally:
        for f in forks:
            f.kill()


@feature("interpreter/async")
def _():
    async def use():
        s = await AsyncSandbox.create(timeout=60, metadata=mark)
        try:
            seen = []
            context = await s.create_code_context()
            execution = await s.run_code('print("out"); 40 + 2', context=context, on_stdout=lambda o: seen.append(o.line))
            equal((execution.text, seen), ("42", ["out\n"]))
            await s.remove_code_context(context)
        finally:
            await s.kill()

    asyncio.run(use())


main("code-interpreter-python", version("e2b-code-interpreter"))
