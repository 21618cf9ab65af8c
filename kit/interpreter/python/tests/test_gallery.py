"""Every figure of the gallery is compared with its own artists, and is what E2B's client reads."""

import json
import math
import unittest
import warnings

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt  # noqa: E402
from e2b_code_interpreter import charts as sdk  # noqa: E402
from gallery import figures  # noqa: E402
from matplotlib import dates  # noqa: E402

from soulbox_display import charts  # noqa: E402

CLASSES = {
    "line": sdk.LineChart,
    "scatter": sdk.ScatterChart,
    "bar": sdk.BarChart,
    "pie": sdk.PieChart,
    "box_and_whisker": sdk.BoxAndWhiskerChart,
    "superchart": sdk.SuperChart,
    "unknown": sdk.Chart,
}
UNITS = {
    "time (s)": "s",
    "voltage (mV)": "mV",
    "supply (kg)": "kg",
    "value (g)": "g",
    "Performance (m)": "m",
    "Frequency [Hz]": "Hz",
    "Länge [µm]": "µm",
}


class Gallery(unittest.TestCase):
    maxDiff = None

    def tearDown(self):
        plt.close("all")

    def check(self, make):
        fig, wants = make()
        # What is read must not depend on whether the figure was drawn before, but
        # for ticks whose place drawing finds; and reading must not change it.
        before, notes = charts.of_figure(fig)
        fig.canvas.draw()
        drawn = bytes(fig.canvas.buffer_rgba())
        after, _ = charts.of_figure(fig)
        fig.canvas.draw()
        self.assertEqual(bytes(fig.canvas.buffer_rgba()), drawn)
        if all(axes.get_aspect() == "auto" for axes in fig.axes):
            self.assertEqual(after, before)
        self.assertEqual(notes, [])

        chart = json.loads(json.dumps(after, allow_nan=False))
        parts = [chart]
        if len(wants) > 1:
            self.assertEqual(
                (chart["type"], chart["title"]), ("superchart", fig._suptitle.get_text() if fig._suptitle else "")
            )
            self.assertEqual(set(chart), {"type", "title", "elements"})
            parts = chart["elements"]
        self.assertEqual(len(parts), len(wants))
        for part, want in zip(parts, wants):
            self.compare(part, want)
        self.parse(chart)

    def compare(self, got, want):
        axes = want.axes
        title = axes.get_title() or axes.get_title(loc="left") or None
        self.assertEqual((got["type"], got["title"]), (want.kind, title))
        keys = {"type", "title", "elements"}
        if want.kind in ("line", "scatter", "bar", "box_and_whisker"):
            keys |= {"x_label", "y_label", "x_unit", "y_unit"}
            labels = [axes.get_xlabel() or None, axes.get_ylabel() or None]
            labels = labels if want.upright else labels[::-1]
            self.assertEqual([got["x_label"], got["y_label"]], labels)
            self.assertEqual([got["x_unit"], got["y_unit"]], [UNITS.get(label) for label in labels])
        if want.kind in ("line", "scatter"):
            keys |= {f"{which}_{what}" for which in "xy" for what in ("ticks", "tick_labels", "scale")}
            for which, axis, scale in zip("xy", (axes.xaxis, axes.yaxis), want.scales):
                self.assertEqual(got[f"{which}_scale"], scale)
                self.assertEqual(got[f"{which}_tick_labels"], [label.get_text() for label in axis.get_ticklabels()])
                ticks = [float(v) for v in axis.get_ticklocs()]
                if scale == "datetime" and not hasattr(want, "periods"):
                    ticks = [dates.num2date(v, axis.units).isoformat() for v in ticks]
                if scale != "datetime" or not hasattr(want, "periods"):
                    self.assertEqual(got[f"{which}_ticks"], ticks)
        self.assertEqual(set(got), keys)
        self.close(got["elements"], want.elements)

    def close(self, got, want):
        """Equal, but for the last digits of floats; pies have single precision."""
        if isinstance(want, float):
            self.assertTrue(
                math.isclose(got, want, rel_tol=1e-12, abs_tol=1e-4 if want > 1 else 1e-12), f"{got} and {want}"
            )
        elif isinstance(want, (list, dict)):
            self.assertIsInstance(got, type(want))
            self.assertEqual(len(got), len(want))
            for key in want if isinstance(want, dict) else range(len(want)):
                self.close(got[key], want[key])
        else:
            self.assertEqual(got, want)

    def parse(self, chart):
        """E2B's published client makes of it what it is."""
        parsed = sdk._deserialize_chart(chart)
        self.assertIs(type(parsed), CLASSES[chart["type"]])
        self.assertEqual(parsed.type.value, chart["type"])
        self.assertEqual(parsed.title, chart["title"])
        self.assertEqual(len(parsed.elements), len(chart["elements"]))
        if chart["type"] == "superchart":
            for element in chart["elements"]:
                self.parse(element)
            return
        for element, raw in zip(parsed.elements, chart["elements"]):
            got = vars(element)
            if "points" in got:
                got = {**got, "points": [list(point) for point in got["points"]]}
            self.assertEqual(got, raw)
        if chart["type"] in ("line", "scatter"):
            self.assertEqual((parsed.x_scale.value, parsed.y_scale.value), (chart["x_scale"], chart["y_scale"]))

    def test_there_are_sixty(self):
        self.assertGreaterEqual(len({make.__name__ for make in figures}), 60)


def add(make):
    def test(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about glyphs and what is deprecated in one version
            self.check(make)

    setattr(Gallery, f"test_{make.__name__}", test)


for make in figures:
    add(make)
