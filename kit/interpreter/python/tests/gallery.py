"""Figures of the kinds that matplotlib's gallery shows, and what they must say.

Each function draws one and returns, for each of its Axes, what a client must
get: read from the artists that drawing returned, or written out by hand where
artists do not know it, such as the names of bars.
"""

import datetime
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import cbook, dates, ticker
from matplotlib.patches import Polygon

figures = []


def figure(fn):
    figures.append(fn)
    return fn


class Want:
    """What one Axes must say."""

    def __init__(self, axes, kind, elements, upright=True, scales=(None, None)):
        self.axes = axes
        self.kind = kind
        self.elements = elements
        self.upright = upright
        self.scales = [given or axis.get_scale() for given, axis in zip(scales, (axes.xaxis, axes.yaxis))]


def clean(values):
    """Coordinates as JSON has them."""
    return [None if isinstance(v, float) and not math.isfinite(v) else v for v in values]


def points(label, at, xs=None, ys=None):
    at = np.ma.filled(np.ma.asarray(at, dtype=float), np.nan)
    pairs = zip(clean(xs or at[:, 0].tolist()), clean(ys or at[:, 1].tolist()))
    return {"label": label, "points": [list(pair) for pair in pairs]}


def lines(axes, *drawn, labels=None, x=None, y=None, scales=(None, None)):
    names = labels or [line.get_label() for line in drawn]
    elements = [points(name, line.get_xydata(), x, y) for name, line in zip(names, drawn)]
    return Want(axes, "line", elements, scales=scales)


def scatters(axes, *drawn, labels=None, x=None, y=None, scales=(None, None)):
    names = labels or [one.get_label() for one in drawn]
    at = [one.get_xydata() if hasattr(one, "get_xydata") else one.get_offsets() for one in drawn]
    return Want(axes, "scatter", [points(name, xy, x, y) for name, xy in zip(names, at)], scales=scales)


def bars(axes, labels, *drawn, groups=None, upright=True):
    elements = []
    for group, container in zip(groups or [c.get_label() for c in drawn], drawn):
        for label, patch in zip(labels, container.patches):
            value = patch.get_height() if upright else patch.get_width()
            elements.append({"label": label, "group": group, "value": float(value)})
    return Want(axes, "bar", elements, upright)


def spans(edges):
    return [f"{a:.10g} – {b:.10g}" for a, b in zip(edges[:-1], edges[1:])]


def pies(axes, wedges, labels=None):
    names = labels or [wedge.get_label() for wedge in wedges]
    elements = [{"label": n, "angle": float(w.theta2 - w.theta1), "radius": float(w.r)} for n, w in zip(names, wedges)]
    return Want(axes, "pie", elements)


def boxplots(axes, labels, data, drawn, upright=True, **how):
    """By matplotlib's own statistics; the medians also by the artists."""
    elements = []
    for label, stats, median in zip(labels, cbook.boxplot_stats(data, **how), drawn["medians"]):
        along = median.get_ydata() if upright else median.get_xdata()
        assert list(along) == [stats["med"]] * 2
        elements.append(
            {
                "label": label,
                "min": stats["whislo"],
                "first_quartile": stats["q1"],
                "median": stats["med"],
                "third_quartile": stats["q3"],
                "max": stats["whishi"],
                "outliers": list(map(float, stats["fliers"])),
            }
        )
    return Want(axes, "box_and_whisker", elements, upright)


def unknown(axes):
    return Want(axes, "unknown", [])


def random():
    return np.random.default_rng(19680801)


# Lines


@figure
def simple_plot():
    fig, ax = plt.subplots()
    t = np.arange(0.0, 2.0, 0.01)
    (line,) = ax.plot(t, 1 + np.sin(2 * np.pi * t))
    ax.set(xlabel="time (s)", ylabel="voltage (mV)", title="About as simple as it gets, folks")
    ax.grid()
    return fig, [lines(ax, line, labels=["Line 0"])]


@figure
def lines_with_a_legend():
    fig, ax = plt.subplots()
    t = np.linspace(0, 3, 30)
    drawn = [ax.plot(t, t**p, label=f"power {p}")[0] for p in (1, 2, 3)]
    ax.legend()
    return fig, [lines(ax, *drawn)]


@figure
def line_styles_and_markers():
    fig, ax = plt.subplots()
    drawn = ax.plot([1, 2, 3], [1, 4, 9], "go-", [1, 2, 3], [2, 3, 4], "rs--")
    return fig, [lines(ax, *drawn, labels=["Line 0", "Line 1"])]


@figure
def markers_alone():
    fig, ax = plt.subplots()
    (line,) = ax.plot([3, 1, 2], [1, 5, 2], "o", label="found")
    return fig, [lines(ax, line)]


@figure
def steps():
    fig, ax = plt.subplots()
    x = np.arange(14)
    drawn = [
        ax.step(x, np.sin(x / 2) + n, where=where, label=where)[0] for n, where in enumerate(("pre", "mid", "post"))
    ]
    return fig, [lines(ax, *drawn)]


@figure
def gaps_in_a_line():
    fig, ax = plt.subplots()
    y = np.cos(np.linspace(0, 6, 31))
    (masked,) = ax.plot(np.arange(31), np.ma.masked_where(y > 0.7, y), label="masked")
    y[5:9] = np.nan
    (holes,) = ax.plot(np.arange(31), y, label="NaN")
    return fig, [lines(ax, masked, holes)]


@figure
def semilogx():
    fig, ax = plt.subplots()
    t = np.arange(0.01, 10, 0.01)
    (line,) = ax.semilogx(t, np.sin(2 * np.pi * t), label="sin")
    ax.set_xlabel("Frequency [Hz]")
    return fig, [lines(ax, line)]


@figure
def semilogy():
    fig, ax = plt.subplots()
    (line,) = ax.semilogy(np.arange(20), np.exp(-np.arange(20) / 5.0), label="decay")
    return fig, [lines(ax, line)]


@figure
def loglog_base_2():
    fig, ax = plt.subplots()
    x = np.array([1, 2, 4, 8, 16])
    (line,) = ax.loglog(x, x**2, base=2, label="square")
    return fig, [lines(ax, line)]


@figure
def symlog():
    fig, ax = plt.subplots()
    (line,) = ax.plot(np.arange(-50.0, 50.0, 1), np.arange(0, 100.0, 1), label="ramp")
    ax.set_xscale("symlog")
    return fig, [lines(ax, line)]


@figure
def logit():
    fig, ax = plt.subplots()
    (line,) = ax.plot(np.linspace(0, 1, 21), np.linspace(0.01, 0.99, 21), label="p")
    ax.set_yscale("logit")
    return fig, [lines(ax, line)]


@figure
def asinh():
    fig, ax = plt.subplots()
    (line,) = ax.plot(np.linspace(-3, 6, 100), np.linspace(-3, 6, 100) * 10, label="ramp")
    ax.set_yscale("asinh")
    return fig, [lines(ax, line)]


@figure
def scale_by_functions():
    fig, ax = plt.subplots()
    (line,) = ax.plot(np.arange(1, 50), np.arange(1, 50) ** 2, label="square")
    ax.set_yscale("function", functions=(lambda v: v**0.5, lambda v: v**2))
    ax.set_xscale("functionlog", functions=(lambda v: v + 1, lambda v: v - 1))
    return fig, [lines(ax, line)]


@figure
def days():
    fig, ax = plt.subplots()
    when = [datetime.date(2023, 9, 1) + datetime.timedelta(days=n) for n in range(10)]
    (line,) = ax.plot(when, np.arange(10) ** 2, label="visits")
    fig.autofmt_xdate()
    return fig, [lines(ax, line, x=[day.isoformat() for day in when], scales=("datetime", None))]


@figure
def moments_with_a_concise_axis():
    fig, ax = plt.subplots()
    when = np.arange("2005-02-01T00", "2005-02-02T12", np.timedelta64(2, "h"), "datetime64[h]")
    (line,) = ax.plot(when, np.arange(len(when)), label="walk")
    ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(ax.xaxis.get_major_locator()))
    return fig, [lines(ax, line, x=[f"{w}:00:00" for w in when.astype(str)], scales=("datetime", None))]


@figure
def moments_in_a_time_zone():
    fig, ax = plt.subplots()
    zone = datetime.timezone(datetime.timedelta(hours=2))
    when = [datetime.datetime(2024, 3, 1, hour, tzinfo=zone) for hour in range(0, 24, 6)]
    (line,) = ax.plot(when, [1, 4, 2, 3], label="tide")
    return fig, [lines(ax, line, x=[w.isoformat() for w in when], scales=("datetime", None))]


@figure
def categories():
    fig, ax = plt.subplots()
    cats = ["bored", "happy", "bored", "bored", "happy"]
    (line,) = ax.plot(["combing", "drinking", "feeding", "napping", "playing"], cats, label="cat")
    x = ["combing", "drinking", "feeding", "napping", "playing"]
    return fig, [lines(ax, line, x=x, y=cats, scales=("categorical", "categorical"))]


@figure
def names_written_at_the_ticks():
    fig, ax = plt.subplots()
    (line,) = ax.plot([0, 1, 2, 3], [1, 4, 9, 6], label="score")
    ax.set_xticks([0, 1, 2, 3], ["Frogs", "Hogs", "Bogs", "Slogs"])
    return fig, [lines(ax, line, scales=("categorical", None))]


@figure
def percentages():
    fig, ax = plt.subplots()
    (line,) = ax.plot([0.1, 0.5, 0.9], [0.2, 0.4, 0.6], label="share")
    ax.yaxis.set_major_formatter(ticker.PercentFormatter(xmax=1))
    ax.xaxis.set_major_locator(ticker.MultipleLocator(0.1))
    return fig, [lines(ax, line)]


@figure
def no_ticks():
    fig, ax = plt.subplots()
    (line,) = ax.plot([1, 2], [3, 5], label="a")
    ax.set_xticks([])
    return fig, [lines(ax, line)]


@figure
def upside_down():
    fig, ax = plt.subplots()
    (line,) = ax.plot(np.arange(5), np.exp(-np.arange(5.0)), label="decay")
    ax.invert_yaxis()
    ax.set_title("on the left", loc="left")
    return fig, [lines(ax, line)]


@figure
def error_bars():
    fig, ax = plt.subplots()
    x = np.arange(0.1, 4, 0.5)
    drawn = ax.errorbar(x, np.exp(-x), xerr=0.2, yerr=0.4, fmt="-o", capsize=3, label="measured")
    return fig, [lines(ax, drawn.lines[0], labels=["measured"])]


@figure
def error_bars_with_limits():
    fig, ax = plt.subplots()
    x = np.arange(5.0)
    drawn = ax.errorbar(x, x**2, yerr=0.5, uplims=True, lolims=[True, False] * 2 + [True])
    return fig, [lines(ax, drawn.lines[0], labels=["Line 0"])]


@figure
def stems():
    fig, ax = plt.subplots()
    x = np.linspace(0.1, 2 * np.pi, 11)
    drawn = ax.stem(x, np.exp(np.sin(x)), label="impulses")
    return fig, [lines(ax, drawn.markerline, labels=["impulses"])]


@figure
def band_around_a_line():
    fig, ax = plt.subplots()
    x = np.linspace(0, 10, 11)
    y = x**1.5
    (line,) = ax.plot(x, y, label="estimate")
    ax.fill_between(x, y - 1, y + 1, alpha=0.2)
    return fig, [lines(ax, line)]


@figure
def reference_lines_and_spans():
    fig, ax = plt.subplots()
    (line,) = ax.plot([0, 1, 2, 3], [0, 2, 1, 3], label="data")
    ax.axhline(1, color="grey")
    ax.axvline(2, ls="--")
    ax.axhspan(0.5, 1.5, alpha=0.3)
    ax.axvspan(1, 2, alpha=0.3)
    ax.axline((0, 0), slope=1)
    ax.vlines([1, 2], 0, 3)
    ax.plot([0, 1], [0, 1], transform=ax.transAxes)
    return fig, [lines(ax, line)]


@figure
def level_line_of_two_points():
    fig, ax = plt.subplots()
    drawn = [ax.plot([0, 1], [5, 5], label="flat")[0], ax.plot([0, 1], [4, 6], label="steep")[0]]
    return fig, [lines(ax, *drawn)]


@figure
def annotations():
    fig, ax = plt.subplots()
    (line,) = ax.plot(np.arange(5), np.arange(5) ** 2, label="square")
    ax.annotate("here", xy=(2, 4), xytext=(3, 1), arrowprops={"arrowstyle": "->"})
    ax.text(1, 10, r"an equation: $E=mc^2$")
    ax.table(cellText=[["1", "2"]], loc="bottom")
    return fig, [lines(ax, line)]


@figure
def closed_curve():
    fig, ax = plt.subplots()
    (square,) = ax.plot([0, 1, 1, 0, 0], [0, 0, 1, 1, 0], label="square")
    t = np.linspace(0, 2 * np.pi, 50)
    (circle,) = ax.plot(np.cos(t), np.sin(t), label="circle")
    ax.set_aspect("equal")
    return fig, [lines(ax, square, circle)]


@figure
def polar_line():
    fig, ax = plt.subplots(subplot_kw={"projection": "polar"})
    r = np.arange(0, 2, 0.1)
    (line,) = ax.plot(2 * np.pi * r, r, label="spiral")
    ax.set_title("A line on a polar axis")
    return fig, [lines(ax, line)]


@figure
def numbers_as_units_in_brackets():
    fig, ax = plt.subplots()
    (line,) = ax.plot([1, 2, 3], [3, 1, 2], label="α – β")
    ax.set(xlabel="Länge [µm]", ylabel="f(x)", title="Überschrift 図")
    return fig, [lines(ax, line)]


# Scatters


@figure
def scatter():
    fig, ax = plt.subplots()
    rng = random()
    drawn = [ax.scatter(rng.random(n), rng.random(n), label=f"{n} points") for n in (5, 10)]
    ax.legend()
    return fig, [scatters(ax, *drawn)]


@figure
def scatter_with_a_colour_bar():
    fig, ax = plt.subplots()
    rng = random()
    drawn = ax.scatter(rng.random(20), rng.random(20), c=rng.random(20), s=rng.random(20) * 300, label="sized")
    fig.colorbar(drawn)
    return fig, [scatters(ax, drawn)]


@figure
def scatter_masked():
    fig, ax = plt.subplots()
    x = np.ma.masked_greater(np.arange(10.0), 7)
    drawn = ax.scatter(x, np.arange(10.0) ** 2, label="some")
    return fig, [scatters(ax, drawn)]


@figure
def scatter_of_days():
    fig, ax = plt.subplots()
    when = pd.date_range("2024-01-01", periods=4, freq="D")
    drawn = ax.scatter(when, [1, 3, 2, 4], label="runs")
    return fig, [scatters(ax, drawn, x=[w.isoformat() for w in when], scales=("datetime", None))]


@figure
def scatter_of_categories():
    fig, ax = plt.subplots()
    drawn = ax.scatter(["apple", "orange", "apple"], [10, 15, 5], label="fruit")
    return fig, [scatters(ax, drawn, x=["apple", "orange", "apple"], scales=("categorical", None))]


@figure
def scatter_with_a_fit():
    fig, ax = plt.subplots()
    x = np.arange(10.0)
    found = ax.scatter(x, 2 * x + random().random(10), label="measured")
    (fit,) = ax.plot(x, 2 * x + 0.5, label="fit")
    return fig, [scatters(ax, found, fit)]


@figure
def scatter_without_labels():
    fig, ax = plt.subplots()
    drawn = ax.scatter([1, 2], [3, 4])
    ax.set_yscale("log")
    return fig, [scatters(ax, drawn, labels=["Scatter 0"])]


@figure
def scatter_polar():
    fig, ax = plt.subplots(subplot_kw={"projection": "polar"})
    drawn = ax.scatter([0, 1, 2, 3], [1, 2, 3, 4], label="bearings")
    return fig, [scatters(ax, drawn)]


# Bars


@figure
def bar_of_names():
    fig, ax = plt.subplots()
    fruits = ["apple", "blueberry", "cherry", "orange"]
    drawn = ax.bar(fruits, [40, 100, 30, 55], label="fruit supply")
    ax.set(ylabel="supply (kg)", xlabel="fruit", title="Fruit supply by kind")
    return fig, [bars(ax, fruits, drawn)]


@figure
def bars_of_equal_height():
    fig, ax = plt.subplots()
    drawn = ax.bar(["a", "b", "c"], [7, 7, 7], label="same")
    ax.set(xlabel="name", ylabel="height")
    return fig, [bars(ax, ["a", "b", "c"], drawn)]


@figure
def a_single_bar():
    fig, ax = plt.subplots()
    drawn = ax.bar([2], [5], label="one")
    return fig, [bars(ax, ["2"], drawn)]


@figure
def bars_in_groups():
    fig, ax = plt.subplots()
    at = np.arange(3)
    width = 0.25
    drawn = []
    for n, (what, values) in enumerate(
        {"depth": [18, 18, 14], "length": [38, 48, 47], "flipper": [189, 195, 217]}.items()
    ):
        container = ax.bar(at + n * width, values, width, label=what)
        ax.bar_label(container, padding=3)
        drawn.append(container)
    ax.set_xticks(at + width, ["Adelie", "Chinstrap", "Gentoo"])
    return fig, [bars(ax, ["Adelie", "Chinstrap", "Gentoo"], *drawn)]


@figure
def bars_stacked():
    fig, ax = plt.subplots()
    kinds = ["Adelie", "Chinstrap", "Gentoo"]
    below = ax.bar(kinds, [70, 31, 58], 0.5, label="Below")
    above = ax.bar(kinds, [82, 37, 66], 0.5, label="Above", bottom=[70, 31, 58])
    return fig, [bars(ax, kinds, below, above)]


@figure
def bars_horizontal():
    fig, ax = plt.subplots()
    people = ["Tom", "Dick", "Harry", "Slim"]
    drawn = ax.barh(people, [3.5, 7.25, 5, 9], xerr=0.5, label="speed")
    ax.set(xlabel="Performance (m)", ylabel="Person")
    return fig, [bars(ax, people, drawn, upright=False)]


@figure
def bars_horizontal_written_by_hand():
    fig, ax = plt.subplots()
    drawn = ax.barh([0, 1, 2], [3, 1, 2], label="speed")
    ax.set_yticks([0, 1, 2], labels=["Tom", "Dick", "Harry"])
    ax.invert_yaxis()
    return fig, [bars(ax, ["Tom", "Dick", "Harry"], drawn, upright=False)]


@figure
def bars_horizontal_stacked():
    fig, ax = plt.subplots()
    questions = ["Question 1", "Question 2"]
    no = ax.barh(questions, [10, 26], label="no")
    yes = ax.barh(questions, [15, 22], left=[10, 26], label="yes")
    return fig, [bars(ax, questions, no, yes, upright=False)]


@figure
def bars_with_errors_and_below_zero():
    fig, ax = plt.subplots()
    drawn = ax.bar(["loss", "gain"], [-3, 4.5], yerr=[0.2, 0.3], capsize=4)
    ax.axhline(0)
    return fig, [bars(ax, ["loss", "gain"], drawn, groups=["Group 1"])]  # the error bars are the first


@figure
def bars_at_numbers():
    fig, ax = plt.subplots()
    drawn = ax.bar([1, 2.5, 10], [3, 2, 1], width=0.5, label="n")
    return fig, [bars(ax, ["1", "2.5", "10"], drawn)]


@figure
def bars_that_touch_on_whole_numbers():
    fig, ax = plt.subplots()
    drawn = ax.bar(range(30), np.arange(30) % 7, width=1, label="n")
    return fig, [bars(ax, [str(n) for n in range(30)], drawn)]


@figure
def bars_on_days():
    fig, ax = plt.subplots()
    when = [datetime.datetime(2024, 5, day) for day in (1, 2, 5)]
    drawn = ax.bar(when, [3, 1, 2], label="sold")
    return fig, [bars(ax, [w.isoformat() for w in when], drawn)]


@figure
def bars_with_labels_of_their_own():
    fig, ax = plt.subplots()
    drawn = ax.bar(["a", "b"], [1, 2], label=["first", "second"])
    want = bars(ax, ["a", "b"], drawn)
    for element, group in zip(want.elements, ["first", "second"]):
        element["group"] = group
    return fig, [want]


@figure
def bars_on_a_log_scale():
    fig, ax = plt.subplots()
    drawn = ax.bar(["a", "b", "c"], [1, 10, 1000], log=True, label="n")
    return fig, [bars(ax, ["a", "b", "c"], drawn)]


@figure
def bars_polar():
    fig, ax = plt.subplots(subplot_kw={"projection": "polar"})
    drawn = ax.bar([0, 1.5, 4], [3, 7, 5], width=0.5, label="wind")
    return fig, [bars(ax, ["0°", "86°", "229°"], drawn)]


@figure
def histogram():
    fig, ax = plt.subplots()
    _, edges, drawn = ax.hist(random().normal(size=500), bins=12, label="normal")
    return fig, [bars(ax, spans(edges), drawn, groups=["normal"])]


@figure
def histograms_side_by_side():
    fig, ax = plt.subplots()
    data = [random().normal(size=100), random().normal(2, size=50)]
    _, _, drawn = ax.hist(data, bins=4, label=["one", "two"])
    # Each has its bars, which do not touch: they go by their middles.
    want = bars(ax, [""] * 4, *drawn)
    want.elements = []
    for c, group in zip(drawn, ("one", "two")):
        for patch in c:
            middle = f"{patch.get_x() + patch.get_width() / 2:.10g}"
            want.elements.append({"label": middle, "group": group, "value": float(patch.get_height())})
    return fig, [want]


@figure
def histogram_lying():
    fig, ax = plt.subplots()
    _, edges, drawn = ax.hist([1, 1.5, 3, 3.2, 3.3, 6], bins=[1, 2.5, 4, 7], orientation="horizontal", label="n")
    return fig, [bars(ax, spans(edges), drawn, groups=["n"], upright=False)]


@figure
def histogram_cumulative():
    fig, ax = plt.subplots()
    _, edges, drawn = ax.hist(random().random(50), bins=5, cumulative=True, density=True)
    return fig, [bars(ax, spans(edges), drawn, groups=["Group 0"])]


@figure
def stairs():
    fig, ax = plt.subplots()
    drawn = ax.stairs([1, 3, 2], [0, 1, 2.5, 4], label="level", fill=True)
    values, edges, _ = drawn.get_data()
    elements = [{"label": s, "group": "level", "value": float(v)} for s, v in zip(spans(edges), values)]
    return fig, [Want(ax, "bar", elements)]


# Pies


@figure
def pie():
    fig, ax = plt.subplots()
    wedges, *_ = ax.pie([15, 30, 45, 10], labels=["Frogs", "Hogs", "Dogs", "Logs"], autopct="%1.1f%%", startangle=90)
    ax.set_title("Animals")
    return fig, [pies(ax, wedges)]


@figure
def pie_exploded_and_clockwise():
    fig, ax = plt.subplots()
    names = ["a", "b", "c"]
    wedges, *_ = ax.pie([1, 2, 4], explode=(0, 0.1, 0), labels=names, shadow=False, counterclock=False, radius=1.5)
    return fig, [pies(ax, wedges)]


@figure
def rings():
    fig, ax = plt.subplots()
    outer, *_ = ax.pie([60, 32], radius=1, labels=["x", "y"], wedgeprops={"width": 0.3})
    inner, *_ = ax.pie([20, 40, 32], radius=0.7, labels=["xa", "xb", "ya"], wedgeprops={"width": 0.3})
    return fig, [pies(ax, [*outer, *inner])]


@figure
def ring_with_a_white_middle():
    fig, ax = plt.subplots()
    wedges, *_ = ax.pie([3, 5], labels=["no", "yes"])
    ax.add_artist(plt.Circle((0, 0), 0.7, fc="white"))
    return fig, [pies(ax, wedges)]


@figure
def pie_with_a_legend():
    fig, ax = plt.subplots()
    wedges, *_ = ax.pie([225, 90, 50], wedgeprops={"edgecolor": "w"})
    ax.legend(wedges, ["flour", "sugar", "egg"], title="Ingredients")
    return fig, [pies(ax, wedges, ["flour", "sugar", "egg"])]


@figure
def part_of_a_pie():
    fig, ax = plt.subplots()
    wedges, *_ = ax.pie([0.2, 0.3], labels=["a", "b"], normalize=False)
    return fig, [pies(ax, wedges)]


# Boxes


def samples():
    rng = random()
    return [rng.normal(0, std, size=50) for std in (6, 7, 8)]


@figure
def boxes():
    fig, ax = plt.subplots()
    data = samples()
    drawn = ax.boxplot(data)
    ax.set(xlabel="sample", ylabel="value (g)")
    return fig, [boxplots(ax, ["1", "2", "3"], data, drawn)]


@figure
def boxes_filled_and_named():
    fig, ax = plt.subplots()
    data = samples()
    drawn = ax.boxplot(data, patch_artist=True)
    ax.set_xticks([1, 2, 3], ["peaches", "oranges", "tomatoes"])
    return fig, [boxplots(ax, ["peaches", "oranges", "tomatoes"], data, drawn)]


@figure
def boxes_lying():
    fig, ax = plt.subplots()
    data = samples()
    drawn = ax.boxplot(data, vert=False)
    ax.set(xlabel="value (g)", ylabel="sample")
    return fig, [boxplots(ax, ["1", "2", "3"], data, drawn, upright=False)]


@figure
def boxes_lying_and_filled():
    fig, ax = plt.subplots()
    data = samples()
    drawn = ax.boxplot(data, vert=False, patch_artist=True, notch=True)
    return fig, [boxplots(ax, ["1", "2", "3"], data, drawn, upright=False)]


@figure
def boxes_notched():
    fig, ax = plt.subplots()
    data = samples()
    drawn = ax.boxplot(data, notch=True, sym="gD")
    return fig, [boxplots(ax, ["1", "2", "3"], data, drawn)]


@figure
def boxes_with_means():
    fig, ax = plt.subplots()
    data = samples()
    drawn = ax.boxplot(data, showmeans=True)
    return fig, [boxplots(ax, ["1", "2", "3"], data, drawn)]


@figure
def boxes_with_lines_for_means():
    fig, ax = plt.subplots()
    data = samples()
    drawn = ax.boxplot(data, showmeans=True, meanline=True, showcaps=False)
    return fig, [boxplots(ax, ["1", "2", "3"], data, drawn)]


@figure
def boxes_without_outliers():
    fig, ax = plt.subplots()
    data = samples()
    drawn = ax.boxplot(data, showfliers=False)
    want = boxplots(ax, ["1", "2", "3"], data, drawn)
    for element in want.elements:
        element["outliers"] = []  # they are not in the figure
    return fig, [want]


@figure
def boxes_with_other_whiskers():
    fig, ax = plt.subplots()
    data = samples()
    drawn = ax.boxplot(data, whis=(5, 95), positions=[2, 4, 6], widths=1)
    return fig, [boxplots(ax, ["2", "4", "6"], data, drawn, whis=(5, 95))]


@figure
def boxes_of_little():
    fig, ax = plt.subplots()
    data = [[5.0], [1.0, 1.0, 1.0], [2.0, 3.0]]
    drawn = ax.boxplot(data)
    return fig, [boxplots(ax, ["1", "2", "3"], data, drawn)]


# Several Axes


@figure
def subplots():
    fig, axes = plt.subplots(2, 2)
    fig.suptitle("Four of them")
    rng = random()
    (line,) = axes[0, 0].plot([1, 2, 3], [1, 4, 2], label="line")
    axes[0, 0].set_title("lines")
    dots = axes[0, 1].scatter(rng.random(4), rng.random(4), label="dots")
    columns = axes[1, 0].bar(["a", "b"], [1, 2], label="columns")
    wedges, *_ = axes[1, 1].pie([1, 3], labels=["x", "y"])
    return fig, [
        lines(axes[0, 0], line),
        scatters(axes[0, 1], dots),
        bars(axes[1, 0], ["a", "b"], columns),
        pies(axes[1, 1], wedges),
    ]


@figure
def shared_axes_and_a_blank_one():
    fig, axes = plt.subplots(1, 3, sharey=True)
    (one,) = axes[0].plot([1, 2], [3, 5], label="one")
    (two,) = axes[1].plot([1, 2], [4, 3], label="two")
    return fig, [lines(axes[0], one), lines(axes[1], two), lines(axes[2])]


@figure
def twin_axes():
    fig, ax = plt.subplots()
    ax.set(xlabel="time (s)", ylabel="exp")
    (left,) = ax.plot(np.arange(1, 5), np.exp(np.arange(1, 5)), label="exp")
    other = ax.twinx()
    other.set_ylabel("sin")
    (right,) = other.plot(np.arange(1, 5), np.sin(np.arange(1, 5)), label="sin")
    return fig, [lines(ax, left), lines(other, right)]


@figure
def pareto_with_twin_axes():
    fig, ax = plt.subplots()
    drawn = ax.bar(["a", "b", "c"], [5, 3, 2], label="count")
    other = ax.twinx()
    (line,) = other.plot(["a", "b", "c"], [50, 80, 100], label="sum")
    return fig, [bars(ax, ["a", "b", "c"], drawn), lines(other, line, x=["a", "b", "c"], scales=("categorical", None))]


@figure
def mosaic():
    fig, axes = plt.subplot_mosaic([["left", "right"], ["left", "low"]])
    (line,) = axes["left"].plot([1, 2, 3], label="line")
    _, edges, counted = axes["right"].hist([1, 2, 2.5, 4], bins=3, label="n")
    return fig, [
        lines(axes["left"], line),
        bars(axes["right"], spans(edges), counted, groups=["n"]),
        lines(axes["low"]),
    ]


@figure
def an_inset_and_a_second_scale():
    fig, ax = plt.subplots()
    (line,) = ax.plot([1, 2, 3], [2, 1, 3], label="whole")
    inset = ax.inset_axes([0.6, 0.6, 0.3, 0.3])
    inset.plot([1, 2], [1, 2])
    ax.secondary_xaxis("top", functions=(np.rad2deg, np.deg2rad))
    return fig, [lines(ax, line)]


# pandas


@figure
def pandas_lines():
    frame = pd.DataFrame({"a": [1.0, 3.0, 2.0], "b": [2.0, 2.5, 4.0]}, index=[10, 20, 30])
    ax = frame.plot(title="two columns")
    return ax.figure, [lines(ax, *ax.get_lines())]


@figure
def pandas_days():
    when = pd.date_range("2024-02-27", periods=4, freq="D")
    ax = pd.Series([1.0, 3.0, 2.0, 5.0], index=when, name="sold").plot(legend=True)
    (line,) = ax.get_lines()
    want = lines(ax, line, x=[w.isoformat() for w in when], scales=("datetime", None))
    want.periods = True
    return ax.figure, [want]


@figure
def pandas_bars():
    frame = pd.DataFrame({"speed": [0.1, 17.5], "lifespan": [2, 8]}, index=["snail", "pig"])
    ax = frame.plot.bar(rot=0)
    return ax.figure, [bars(ax, ["snail", "pig"], *ax.containers)]


@figure
def pandas_bars_lying_and_stacked():
    frame = pd.DataFrame({"speed": [0.1, 17.5], "lifespan": [2, 8]}, index=["snail", "pig"])
    ax = frame.plot.barh(stacked=True)
    return ax.figure, [bars(ax, ["snail", "pig"], *ax.containers, upright=False)]


@figure
def pandas_boxes():
    frame = pd.DataFrame({"a": [1.0, 2, 3, 4, 20], "b": [2.0, 2, 3, 5, 6]})
    ax, drawn = frame.boxplot(return_type="both")
    return ax.figure, [boxplots(ax, ["a", "b"], [frame["a"], frame["b"]], drawn)]


# seaborn


def birds():
    return pd.DataFrame(
        {"kind": list("aabbccaabbcc"), "sex": list("fmfmfmfmfmfm"), "mass": [3.0, 4, 5, 6, 7, 9, 2, 5, 5, 7, 8, 8]}
    )


@figure
def seaborn_bars_in_groups():
    ax = sns.barplot(data=birds(), x="kind", y="mass", hue="sex", order=list("abc"), hue_order=list("fm"))
    means = birds().groupby(["sex", "kind"])["mass"].mean()
    elements = [{"label": k, "group": s, "value": float(means[s, k])} for s in "fm" for k in "abc"]
    return ax.figure, [Want(ax, "bar", elements)]


@figure
def seaborn_counts_lying():
    ax = sns.countplot(data=birds(), y="kind", order=list("abc"))
    elements = [{"label": k, "group": "Group 0", "value": 4.0} for k in "abc"]
    return ax.figure, [Want(ax, "bar", elements, upright=False)]


@figure
def seaborn_boxes():
    ax = sns.boxplot(data=birds(), x="kind", y="mass", order=list("abc"))
    data = [birds().query("kind == @k")["mass"] for k in "abc"]
    levels = [line for line in ax.lines if len(line.get_xydata()) == 2 and len(set(line.get_ydata())) == 1]
    medians = [
        max((n for n in levels if round(sum(n.get_xdata()) / 2) == at), key=lambda n: np.ptp(n.get_xdata()))
        for at in range(3)
    ]
    return ax.figure, [boxplots(ax, list("abc"), data, {"medians": medians})]


@figure
def seaborn_scatter():
    ax = sns.scatterplot(data=birds(), x="mass", y="kind")
    (drawn,) = (one for one in ax.collections if len(one.get_offsets()))
    return ax.figure, [scatters(ax, drawn, labels=["Scatter 0"], y=list(birds()["kind"]), scales=(None, "categorical"))]


@figure
def seaborn_lines_in_groups():
    data = pd.DataFrame({"t": [1, 2, 3, 1, 2, 3], "v": [1.0, 3, 2, 4, 2, 5], "who": list("xxxyyy")})
    ax = sns.lineplot(data=data, x="t", y="v", hue="who")
    drawn = [line for line in ax.lines if len(line.get_xydata())]
    return ax.figure, [lines(ax, *drawn, labels=["x", "y"])]


# What E2B has no word for


@figure
def picture():
    fig, ax = plt.subplots()
    fig.colorbar(ax.imshow(np.arange(6).reshape(2, 3)))
    ax.set_title("an image")
    return fig, [unknown(ax)]


@figure
def contours():
    fig, ax = plt.subplots()
    x, y = np.meshgrid(np.linspace(-2, 2, 20), np.linspace(-2, 2, 20))
    ax.contourf(x, y, np.exp(-(x**2) - y**2))
    return fig, [unknown(ax)]


@figure
def violins():
    fig, ax = plt.subplots()
    ax.violinplot(samples())
    return fig, [unknown(ax)]


@figure
def stacked_areas():
    fig, ax = plt.subplots()
    ax.stackplot([1, 2, 3], [1, 2, 1], [2, 1, 3], labels=["a", "b"])
    return fig, [unknown(ax)]


@figure
def arrows_of_a_field():
    fig, ax = plt.subplots()
    ax.quiver(np.arange(3), np.arange(3), np.ones((3, 3)), np.ones((3, 3)))
    return fig, [unknown(ax)]


@figure
def circles():
    fig, ax = plt.subplots()
    for radius in (1, 2):
        ax.add_artist(plt.Circle((0, 0), radius, fill=False))
    ax.set_title("Two Concentric Circles")
    return fig, [unknown(ax)]


@figure
def polygon_on_a_line():
    fig, ax = plt.subplots()
    ax.plot([0, 1], [0, 1])
    ax.add_patch(Polygon([(0, 0), (1, 0), (1, 1)]))
    return fig, [unknown(ax)]


@figure
def surface():
    fig, ax = plt.subplots(subplot_kw={"projection": "3d"})
    ax.plot([0, 1, 2], [0, 1, 0], [1, 2, 3])
    ax.scatter([0, 1], [1, 0], [2, 2])
    ax.set_title("three dimensions")
    return fig, [unknown(ax)]


@figure
def histogram_with_a_curve():
    fig, ax = plt.subplots()
    ax.hist(random().normal(size=100), bins=10, density=True)
    x = np.linspace(-3, 3, 50)
    ax.plot(x, np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi))
    return fig, [unknown(ax)]
