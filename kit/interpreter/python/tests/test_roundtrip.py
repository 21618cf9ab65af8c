"""What is plotted comes back: any data, through figures and tables."""

import datetime
import json
import math
import unittest

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from matplotlib import cbook  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from soulbox_display import charts, tables  # noqa: E402

# Larger numbers overflow in matplotlib's own margins.
numbers = st.floats(-1e100, 1e100, allow_subnormal=False)
gaps = st.one_of(numbers, st.just(math.nan))
# Without what matplotlib reads as mathematics, and what is no character.
names = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="$_\\"), min_size=1, max_size=20
)
labels = names.map(lambda name: "n" + name)
moments = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)).map(
    lambda t: t.replace(microsecond=0)
)


def thorough(test):
    return settings(
        max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
    )(test)


def chart(draw):
    """What draw draws on new Axes, as its client reads it."""
    fig = Figure()
    draw(fig.add_subplot())
    got, notes = charts.of_figure(fig)
    assert notes == [], notes
    return json.loads(json.dumps(got, allow_nan=False))


def null(v):
    return None if isinstance(v, float) and not math.isfinite(v) else v


def column(values):
    """The values of a list, as JSON has them."""
    return [null(v) for v in values]


class RoundTrip(unittest.TestCase):
    maxDiff = None

    def tearDown(self):
        plt.close("all")

    @thorough
    @given(
        st.lists(st.tuples(labels, st.lists(st.tuples(numbers, gaps), min_size=1, max_size=30)), min_size=1, max_size=5)
    )
    def test_lines(self, series):
        series = [(label, points) for label, points in series if any(math.isfinite(y) for _, y in points)]

        def draw(axes):
            for label, points in series:
                axes.plot(*zip(*points), label=label)

        if not series:
            return
        got = chart(draw)
        self.assertEqual(got["type"], "line")
        self.assertEqual(
            [(e["label"], e["points"]) for e in got["elements"]],
            [(label, [[x, null(y)] for x, y in points]) for label, points in series],
        )

    @thorough
    @given(labels, st.lists(st.tuples(numbers, numbers), min_size=1, max_size=50))
    def test_scatters(self, label, points):
        got = chart(lambda axes: axes.scatter(*zip(*points), label=label))
        self.assertEqual(got["type"], "scatter")
        self.assertEqual(got["elements"], [{"label": label, "points": [list(p) for p in points]}])

    @thorough
    @given(st.lists(st.tuples(moments, numbers), min_size=1, max_size=20))
    def test_moments(self, points):
        for kind in ("plot", "scatter"):
            got = chart(lambda axes, kind=kind: getattr(axes, kind)(*zip(*points)))
            self.assertEqual(got["x_scale"], "datetime")
            self.assertEqual(got["elements"][0]["points"], [[when.isoformat(), y] for when, y in points])

    @thorough
    @given(st.lists(st.tuples(labels, numbers), min_size=1, max_size=20))
    def test_categories(self, points):
        for kind in ("plot", "scatter"):
            got = chart(lambda axes, kind=kind: getattr(axes, kind)(*zip(*points)))
            self.assertEqual(got["x_scale"], "categorical")
            self.assertEqual(got["elements"][0]["points"], [list(p) for p in points])

    @thorough
    @given(st.dictionaries(labels, st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=15), st.booleans())
    def test_bars(self, values, upright):
        groups = ["first", "second", "third"]

        def draw(axes):
            for n, group in enumerate(groups):
                drawn = axes.bar if upright else axes.barh
                drawn(list(values), [v[n] for v in values.values()], label=group)
            axes.set(xlabel="along (a)", ylabel="up (b)")

        got = chart(draw)
        self.assertEqual(got["type"], "bar")
        want = [{"label": name, "group": g, "value": v[n]} for n, g in enumerate(groups) for name, v in values.items()]
        self.assertEqual(got["elements"], want)
        self.assertEqual((got["x_unit"], got["y_unit"]), ("a", "b") if upright else ("b", "a"))

    @thorough
    @given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=100), st.integers(2, 20))
    def test_histograms(self, data, bins):
        counts, _ = np.histogram(data, bins)
        got = chart(lambda axes: axes.hist(data, bins=bins))
        self.assertEqual(got["type"], "bar")
        self.assertEqual([e["value"] for e in got["elements"]], counts.tolist())
        self.assertEqual(sum(e["value"] for e in got["elements"]), len(data))

    @thorough
    @given(st.dictionaries(labels, st.floats(0.01, 1e6), min_size=1, max_size=12))
    def test_pies(self, slices):
        got = chart(lambda axes: axes.pie(list(slices.values()), labels=list(slices)))
        self.assertEqual(got["type"], "pie")
        self.assertEqual([e["label"] for e in got["elements"]], list(slices))
        for element, value in zip(got["elements"], slices.values()):
            self.assertAlmostEqual(element["angle"], 360 * value / sum(slices.values()), delta=0.002)
            self.assertEqual(element["radius"], 1)

    @thorough
    @given(
        st.lists(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), min_size=1, max_size=6),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    )
    def test_boxes(self, data, upright, filled, notched):
        got = chart(lambda axes: axes.boxplot(data, vert=upright, patch_artist=filled, notch=notched))
        self.assertEqual(got["type"], "box_and_whisker")
        want = [
            {
                "label": str(n),
                "min": stats["whislo"],
                "first_quartile": stats["q1"],
                "median": stats["med"],
                "third_quartile": stats["q3"],
                "max": stats["whishi"],
                "outliers": stats["fliers"].tolist(),
            }
            for n, stats in enumerate(cbook.boxplot_stats(data), 1)
        ]
        self.assertEqual(got["elements"], want)

    @thorough
    @given(
        st.dictionaries(
            names,
            st.one_of(
                *(
                    st.lists(kind, min_size=4, max_size=4)
                    for kind in (gaps, st.integers(-(2**63), 2**63 - 1), st.booleans(), st.text(), moments, st.none())
                )
            ),
        )
    )
    def test_tables(self, columns):
        columns = {
            name: [v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for v in values]
            for name, values in columns.items()
        }
        data, note = tables.columns(tables.find(pd.DataFrame(columns)))
        self.assertIsNone(note)
        data = json.loads(json.dumps(data, allow_nan=False))
        want = {
            n: [v.isoformat() if isinstance(v, datetime.datetime) else v for v in column(vs)]
            for n, vs in columns.items()
        }
        self.assertEqual(data, want)
