"""Pictures are what the program that comes with them draws, and what is asked must make sense."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

import numpy as np
import pandas as pd

from soulbox_data import Refused, draw, plot

KINDS = {
    "line": {"x": "day", "y": ["a", "b"], "title": "It's \"quoted\" \\ and {braced}", "marker": True, "grid": True},
    "bar": {"x": "kind", "y": "a", "aggregate": "mean", "y_label": "Mean of a"},
    "scatter": {"x": "a", "y": "b", "hue": "kind", "log_x": True},
    "histogram": {"x": "b", "bins": 12, "density": True, "hue": "kind"},
    "box": {"x": "kind", "y": "b"},
    "heatmap": {"annotate": True},
    "pie": {"x": "kind"},
    "pair": {"columns": ["a", "b", "it's"], "hue": "kind", "title": "Pairs"},
}
VARIANTS = [
    ("line", {}), ("line", {"x": "a", "y": "b", "hue": "kind", "log_y": True}), ("line", {"x": "when", "y": "b", "dates": ["when"]}),
    ("bar", {"x": "kind"}), ("bar", {"x": "kind", "y": ["a", "b"], "stacked": True}), ("bar", {"x": "kind", "hue": "day", "horizontal": True}),
    ("bar", {"x": "kind", "y": "b", "hue": "day", "log_y": True}), ("scatter", {"x": "a", "y": "b", "hue": "b", "legend": False}),
    ("scatter", {"x": "a", "y": "it's", "size": 5, "alpha": 0.2, "width": 4, "height": 3, "dpi": 50}),
    ("histogram", {}), ("histogram", {"x": ["a", "b"], "log_x": True, "log_y": True}), ("box", {}),
    ("heatmap", {"x": "day", "y": "kind", "value": "b", "aggregate": "sum"}), ("heatmap", {"columns": ["a", "b"]}),
    ("pie", {"x": "kind", "y": "a", "legend": True}), ("pair", {}),
]  # fmt: skip


def table():
    rng = np.random.default_rng(1)
    n = 40
    return pd.DataFrame({
        "day": [f"2026-01-0{1 + i % 4}" for i in range(n)],
        "when": [f"2026-02-{1 + i % 28:02}" for i in range(n)],
        "kind": ["x", "it's", "é\n", None] * (n // 4),
        "a": np.arange(1, n + 1),
        "b": rng.normal(5, 1, n).tolist(),
        "it's": rng.uniform(0, 1, n).tolist(),
    })  # fmt: skip


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.dir)
        cls.path = os.path.join(cls.dir, "it's a table.csv")
        table().to_csv(cls.path, index=False)

    def ask(self, kind, options=None, **more):
        return draw.answer({"kind": kind, "options": options, **({"dataset": {"path": self.path}} if not more else more)})

    def refused(self, words, kind, options=None, status=400, **more):
        with self.assertRaises(Refused) as caught:
            self.ask(kind, options, **more)
        self.assertIn(words, str(caught.exception))
        self.assertEqual(caught.exception.status, status)

    def run_program(self, code):
        """The pictures that a program makes, in a process of its own."""
        dir = tempfile.mkdtemp(dir=self.dir)
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"MPLBACKEND": "Agg"}
        front = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and not os.path.exists(os.path.join(p, "soulbox_data"))]
        env["PYTHONPATH"] = os.pathsep.join(front)  # it needs nothing of ours
        with open(os.path.join(dir, "program.py"), "w", encoding="utf-8") as f:
            f.write(code)
        subprocess.run([sys.executable, "-W", "ignore", "program.py"], cwd=dir, env=env, check=True, timeout=120)
        with open(os.path.join(dir, "plot.png"), "rb") as png, open(os.path.join(dir, "plot.svg"), encoding="utf-8") as svg:
            return png.read(), svg.read()


class TestKinds(Case):
    def test_all_kinds(self):
        self.assertEqual(set(KINDS), set(plot.KINDS))

    def test_program_makes_the_picture(self):
        for kind, options in KINDS.items():
            with self.subTest(kind=kind):
                out = self.ask(kind, options)
                png = base64.b64decode(out["png"])
                self.assertTrue(png.startswith(b"\x89PNG\r\n\x1a\n"))
                self.assertEqual(out["rows"], 40)
                self.assertTrue(xml.etree.ElementTree.fromstring(out["svg"]).tag.endswith("svg"))
                again = self.run_program(out["code"])
                self.assertEqual(again[0], png)
                self.assertEqual(again[1], out["svg"])
                self.assertNotIn("soulbox_data", out["code"])

    def test_variants(self):
        for kind, options in VARIANTS:
            with self.subTest(kind=kind, options=options):
                out = self.ask(kind, options)
                self.assertGreater(len(out["png"]), 2000)
                json.dumps(out, allow_nan=False)

    def test_chart(self):
        out = self.ask("bar", KINDS["bar"])
        self.assertEqual(out["chart"]["type"], "bar")
        self.assertEqual(out["chart"]["y_label"], "Mean of a")
        values = {e["label"]: e["value"] for e in out["chart"]["elements"]}
        want = table().groupby("kind")["a"].mean().to_dict()
        self.assertEqual(values, want)
        line = self.ask("line", KINDS["line"])["chart"]
        self.assertEqual(line["title"], KINDS["line"]["title"])
        self.assertEqual([e["label"] for e in line["elements"]], ["a", "b"])

    def test_inline(self):
        columns = {"name": ["a", "it's", 'x"); import os #'], "n": [1, 2, None]}
        out = self.ask("bar", {"x": "name", "y": "n"}, data={"columns": columns})
        png, svg = self.run_program(out["code"])
        self.assertEqual((png, svg), (base64.b64decode(out["png"]), out["svg"]))
        self.assertEqual([e["label"] for e in out["chart"]["elements"]], sorted(columns["name"]))

    def test_dollars(self):
        out = self.ask("line", {"title": "$ and $x_{"}, data={"columns": {"cost ($) in $_": [1, 2], "n": [3, 4]}})
        self.assertEqual(out["chart"]["title"], "$ and $x_{")

    def test_many_points(self):
        n = 200_000
        path = os.path.join(self.dir, "many.parquet")
        pd.DataFrame({"x": np.arange(n), "y": np.sin(np.arange(n))}).to_parquet(path)
        out = self.ask("scatter", {"x": "x", "y": "y"}, dataset={"path": path})
        self.assertLess(len(out["svg"]), 1 << 20)

    def test_names_are_literals(self):
        """Whatever is asked for, nothing of it is run."""
        evil = "x']; raise SystemExit(9) #"
        columns = {evil: [1.0, 2.0, 3.0], "y": [1, 4, 9]}
        for kind, option in [("line", "x"), ("scatter", "x"), ("histogram", "x"), ("bar", "x"), ("pie", "x"), ("box", "y")]:
            options = {option: evil, "title": evil} | ({"y": "y"} if kind in ("scatter", "bar", "line") else {})
            with self.subTest(kind=kind):
                out = self.ask(kind, options, data={"columns": columns})
                self.assertIn(repr(evil), out["code"])
                self.run_program(out["code"])


class TestRefused(Case):
    def test_refused(self):
        for kind, options, words in [
            ("violin", None, "there are line, bar, scatter, histogram, box, heatmap, pie, pair"),
            (None, None, "kind None is not known"),
            (["line"], None, "is not known"),
            ("line", {"colour": "red"}, "option 'colour' is not known for kind line; there are title, x_label"),
            ("line", {"y": "nope"}, "there is no column 'nope'; there are day, when, kind, a, b, it's"),
            ("line", {"y": "kind"}, "column 'kind' has no numbers; columns with numbers are a, b, it's"),
            ("line", {"y": 5}, "option y must be"),
            ("line", [], "options must be an object"),
            ("line", {"title": "x" * 501}, "option title must be"),
            ("line", {"width": 50, "height": 50, "dpi": 600}, "pixels"),
            ("line", {"dpi": 100.5}, "option dpi must be a whole number from 20 to 600"),
            ("line", {"x": "kind", "log_x": True}, "log_x needs numbers"),
            ("line", {"dates": ["kind"]}, "has values that are no dates"),
            ("bar", {}, "kind bar needs option x"),
            ("bar", {"x": "kind", "aggregate": "exec"}, "option aggregate must be 'sum' or 'mean'"),
            ("bar", {"x": "kind", "aggregate": "mean"}, "needs option y"),
            ("scatter", {"x": "a"}, "kind scatter needs option y"),
            ("scatter", {"x": "kind", "y": "a"}, "column 'kind' has no numbers"),
            ("histogram", {"bins": 0}, "option bins must be a whole number from 1 to 1000"),
            ("histogram", {"x": "kind"}, "has no numbers"),
            ("box", {"x": "kind"}, "name one y"),
            ("heatmap", {"x": "day"}, "all of x, y and value"),
            ("pie", {"x": "b", "y": "a"}, None),
            ("pair", {"columns": ["a"] * 9}, "at most 8"),
            ("pair", {"x_label": "x"}, "x_label"),
        ]:
            with self.subTest(kind=kind, options=options):
                if words is None:
                    self.ask(kind, options)
                else:
                    self.refused(words, kind, options)

    def test_bad_data(self):
        for data, words in [
            ({}, "data must be"), ([], "data must be"), ({"columns": {}}, "data must be"), ({"columns": {"a": 1}}, "must have a name and be a list"),
            ({"columns": {"a": [[1]]}}, "values are numbers"), ({"columns": {"a": [1], "b": []}}, "same length"), ({"columns": {"a": [2**70]}}, "64 bits"),
            ({"columns": {"": [1]}}, "must have a name"), ({"columns": {"a": [float("nan")]}}, "values are numbers"), ({"columns": {"a": []}}, "nothing to draw"),
            ({"columns": {"a": [1]}, "x": 1}, "data must be"),
        ]:  # fmt: skip
            with self.subTest(data=str(data)[:40]):
                self.refused(words, "line", data=data)
        self.refused("more than", "line", data={"columns": {"a": [1] * 200_001}}, status=413)
        with self.assertRaises(Refused):
            draw.answer({"kind": "line"})
        with self.assertRaises(Refused):
            draw.answer({"kind": "line", "data": {"columns": {"a": [1]}}, "dataset": {"path": self.path}})
        self.refused("does not exist", "line", status=404, dataset={"path": "/no/such/file.csv"})
        self.refused("slice", "pie", {"x": "k", "y": "v"}, data={"columns": {"k": ["a", "b"], "v": [1, -1]}})

    def test_process(self):
        def run(request):
            done = subprocess.run([sys.executable, "-m", "soulbox_data.draw"], input=json.dumps(request).encode(), stdout=subprocess.PIPE, check=True)
            return json.loads(done.stdout)

        out = run({"kind": "pie", "options": {"x": "kind"}, "dataset": {"path": self.path}})
        self.assertEqual(set(out), {"png", "svg", "code", "chart", "rows"})
        self.assertEqual(run({"kind": "x", "data": {"columns": {"a": [1]}}})["status"], 400)


if __name__ == "__main__":
    unittest.main()
