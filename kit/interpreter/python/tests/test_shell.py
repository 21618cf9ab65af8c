"""A real IPython shell with the extension, and what it publishes."""

import base64
import datetime
import enum
import json
import os
import sys
import tempfile
import unittest
import uuid
from dataclasses import dataclass

from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

from soulbox_display import limits


class Published(DisplayPublisher):
    """Keeps what is displayed instead of sending it to somebody."""

    def publish(self, data, metadata=None, *args, **kwargs):
        self.outputs.append(data)


class Kernel(InteractiveShell):
    """A shell that draws into its results, as a kernel's does."""

    def enable_gui(self, gui=None):
        pass


Published.outputs = []
shell = Kernel.instance(display_pub_class=Published)


class Shell(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.addClassCleanup(os.chdir, os.getcwd())
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        os.chdir(folder.name)
        # As a kernel starts: nothing of this is imported yet.
        heavy = {"matplotlib", "pandas", "PIL", "polars", "pyarrow", "numpy"}
        before = heavy & set(sys.modules)
        shell.run_line_magic("load_ext", "soulbox_display")
        assert heavy & set(sys.modules) == before, heavy & set(sys.modules)

    def setUp(self):
        Published.outputs = []

    def run_cell(self, code):
        """The results of a cell: what it displayed and what it was, in the end."""
        got = shell.run_cell(code, store_history=False)
        self.assertTrue(got.success, got)
        shell.events.trigger("post_execute")
        outputs = list(Published.outputs)
        if got.result is not None:
            outputs.append(self.formats(got.result))
        return json.loads(json.dumps(outputs, default=lambda image: base64.b64encode(image).decode()))

    def formats(self, obj):
        data, metadata = shell.display_formatter.format(obj)
        self.assertLessEqual(set(metadata), set(data))
        return data


class Results(Shell):
    def test_what_needs_nothing(self):
        self.assertEqual(self.run_cell("1 + 1"), [{"text/plain": "2"}])

    def test_frame(self):
        (got,) = self.run_cell("import pandas as pd\npd.DataFrame({'a': [1, 2.5, None], 'b': ['x', 'y', None]})")
        self.assertEqual(got["e2b/data"], {"a": [1, 2.5, None], "b": ["x", "y", None]})
        self.assertLessEqual({"text/plain", "text/html"}, set(got))
        self.assertFalse({"soulbox/note", "e2b/chart", "application/json"} & set(got))

    def test_frame_that_is_long(self):
        (got,) = self.run_cell(f"import pandas as pd\npd.DataFrame({{'n': range({limits.ROWS + 1})}})")
        self.assertEqual(len(got["e2b/data"]["n"]), limits.ROWS)
        self.assertEqual(got["soulbox/note"], f"data has only the first {limits.ROWS} of {limits.ROWS + 1} rows")
        (got,) = self.run_cell("pd.DataFrame({'n': [1]})")
        self.assertNotIn("soulbox/note", got)

    def test_frame_that_is_broken(self):
        (got,) = self.run_cell(
            "import pandas as pd\n"
            "class Broken(pd.DataFrame):\n"
            "    @property\n"
            "    def iloc(self): raise RuntimeError\n"
            "    def __repr__(self): return 'broken'\n"
            "    _repr_html_ = None\n"
            "Broken({'n': [1]})"
        )
        self.assertEqual(got, {"text/plain": "broken"})

    def test_objects_that_know_their_own(self):
        (got,) = self.run_cell(
            "class Own:\n"
            "    def _repr_e2b_data_(self): return {'a': [1]}\n"
            "    def _repr_e2b_chart_(self): return {'type': 'unknown', 'title': None, 'elements': []}\n"
            "    def __repr__(self): return 'own'\n"
            "Own()"
        )
        self.assertEqual((got["e2b/data"], got["e2b/chart"]["type"]), ({"a": [1]}, "unknown"))

    def test_figure(self):
        (got,) = self.run_cell(
            "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2], [3, 5], label='a')\nplt.show()"
        )
        self.assertEqual(got["e2b/chart"]["elements"], [{"label": "a", "points": [[1, 3], [2, 5]]}])
        self.assertLessEqual({"text/plain", "image/png"}, set(got))
        self.assertNotIn("soulbox/note", got)

    def test_figure_at_the_end_of_a_cell(self):
        # A cell's last figure is shown with its picture and its chart, once.
        got = self.run_cell("%matplotlib inline\nimport matplotlib.pyplot as plt\n_ = plt.bar(['x'], [2])")
        self.assertEqual([one["e2b/chart"]["type"] for one in got], ["bar"])
        self.assertIn("image/png", got[0])

    def test_figure_that_is_blank(self):
        (got,) = self.run_cell("%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.subplots()\nplt.show()")
        self.assertNotIn("e2b/chart", got)

    def test_figure_that_is_broken(self):
        (got,) = self.run_cell(
            "%matplotlib inline\nimport matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.plot([1, 2])\n"
            "plt.close(fig)\nax.get_xaxis().get_majorticklocs = lambda: 1 / 0\nfig._repr_html_ = None\n"
            "shown, _ = get_ipython().display_formatter.format(fig, include={'e2b/chart', 'soulbox/note'})\nshown"
        )
        got = got["application/json"]
        self.assertEqual(got["e2b/chart"], {"type": "unknown", "title": None, "elements": []})
        self.assertEqual(got["soulbox/note"], "chart cannot be read")

    def test_figure_with_many_points(self):
        (got,) = self.run_cell(
            "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.scatter(range(250_000), range(250_000))\nplt.show()"
        )
        points = got["e2b/chart"]["elements"][0]["points"]
        self.assertEqual(points[:2], [[0, 0], [25, 25]])
        self.assertEqual(len(points), limits.POINTS)
        self.assertEqual(got["soulbox/note"], "chart has only one in 25 of the 250000 points of 'Scatter 0'")

    def test_figure_with_many_series(self):
        (got,) = self.run_cell(
            "%matplotlib inline\nimport matplotlib.pyplot as plt\nfor n in range(40): plt.plot(range(5_000))\nplt.show()"
        )
        self.assertEqual(sum(len(e["points"]) for e in got["e2b/chart"]["elements"]), limits.CHART_POINTS)
        self.assertTrue(got["soulbox/note"].endswith("and the same of 31 other series"), got["soulbox/note"])

    def test_figure_with_many_bars_and_ticks(self):
        (got,) = self.run_cell(
            "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.bar(range(11_000), range(11_000))\nplt.show()"
        )
        self.assertEqual(got["e2b/chart"]["elements"][-1], {"label": "9999", "group": "Group 0", "value": 9999})
        self.assertEqual(got["soulbox/note"], "chart has only the first 10000 of 11000 bars")

    def test_json(self):
        @dataclass
        class Point:
            x: float

        class Colour(enum.Enum):
            RED = "red"

        import numpy as np

        when = datetime.datetime(2024, 1, 2, 3, 4, 5)
        cases = [
            ([1, "a", None, True, 1.5], [1, "a", None, True, 1.5]),
            ({"a": {"b": (1, [])}}, {"a": {"b": [1, []]}}),
            ([float("nan"), float("inf")], [None, None]),
            (
                {1: "a", None: "b", False: "c", 1.5: "d", when: "e"},
                {"1": "a", "null": "b", "false": "c", "1.5": "d", when.isoformat(): "e"},
            ),
            (
                [np.float32(0.5), np.int64(7), np.bool_(True), np.array([[1, 2], [3, 4]])],
                [0.5, 7, True, [[1, 2], [3, 4]]],
            ),
            ([when, when.date(), when.time()], ["2024-01-02T03:04:05", "2024-01-02", "03:04:05"]),
            ([np.datetime64("2024-01-02T03:04")], ["2024-01-02T03:04"]),
            ([Point(0.5), Colour.RED, uuid.UUID(int=1)], [{"x": 0.5}, "red", "00000000-0000-0000-0000-000000000001"]),
        ]
        for obj, want in cases:
            with self.subTest(obj=obj):
                self.assertEqual(self.formats(obj)["application/json"], want)

    def test_what_json_cannot_say(self):
        for obj in ([object()], {"a": {1, 2}}, [b"x"], {"a": lambda: 0}, {(1, 2): 3}, ["\ud800"], [1j]):
            with self.subTest(obj=obj):
                self.assertEqual(set(self.formats(obj)), {"text/plain"})

    def test_json_that_is_too_much(self):
        loop = []
        loop.append(loop)
        wide = []
        wide += [wide] * 10
        for obj in ([0] * (limits.VALUES + 1), ["x" * (limits.TEXT + 1)], loop, wide):
            got = self.formats(obj)
            self.assertNotIn("application/json", got)
            self.assertEqual(got["soulbox/note"], "json is left out: the value is too large or too deep")
        self.assertNotIn("soulbox/note", self.formats([1]))

    def test_long_lists_are_printed_whole(self):
        self.assertNotIn("...", self.formats(list(range(5000)))["text/plain"])

    def test_tracebacks_have_no_colours(self):
        kinds = (ZeroDivisionError, "1/0"), (SyntaxError, "1 +"), (NameError, "nothing")
        for kind, code in kinds:
            try:
                exec(compile(code, "cell", "exec"), {})
            except kind:
                lines = shell.InteractiveTB.structured_traceback(*sys.exc_info())
                self.assertNotIn("\x1b", "\n".join(lines))

    def test_loading_twice_changes_nothing(self):
        from PIL.Image import Image

        formatters = list(shell.display_formatter.formatters)
        save = Image.save
        shell.run_line_magic("reload_ext", "soulbox_display")
        self.assertEqual(list(shell.display_formatter.formatters), formatters)
        self.assertEqual(formatters[-1], "soulbox/note")
        self.assertIs(Image.save, save)


class Images(Shell):
    def test_saved_and_shown(self):
        made = "from PIL import Image\nimage = Image.new('RGB', (4, 3), 'red')\n"
        for code in ("image.save('a.png')", "import pathlib; image.save(pathlib.Path('b.jpg'))", "image.show()"):
            with self.subTest(code):
                Published.outputs = []
                (got,) = self.run_cell(made + code)
                self.assertIn("image/png", got)
        with open("a.png", "rb") as file:
            self.assertEqual(file.read(4), b"\x89PNG")

    def test_saved_in_memory(self):
        self.assertEqual(
            self.run_cell("import io\nfrom PIL import Image\nImage.new('L', (1, 1)).save(io.BytesIO(), 'PNG')"), []
        )

    def test_saved_by_matplotlib(self):
        code = "%matplotlib inline\nfrom matplotlib.figure import Figure\nFigure().savefig('c.png')"
        (got,) = self.run_cell(code)
        self.assertIn("image/png", got)

    def test_a_save_that_fails(self):
        code = "from PIL import Image\ntry: Image.new('L', (1, 1)).save('missing/a.png')\nexcept OSError: print()"
        self.assertEqual(self.run_cell(code), [])

    def test_too_large_to_display(self):
        (got,) = self.run_cell("from PIL import Image\nImage.new('1', (7000, 7000)).save('d.png')")
        self.assertEqual(got["soulbox/note"], f"the image is left out: it has more than {limits.PIXELS} pixels")
        self.assertTrue(os.path.getsize("d.png"))
