"""A figure of matplotlib → E2B's chart, a dict.

    {type, title, elements}   type is one of line, scatter, bar, pie,
                              box_and_whisker, superchart, unknown
    2D                        and x_label, y_label, x_unit, y_unit
    line, scatter             and {x,y}_ticks, {x,y}_tick_labels, {x,y}_scale
    elements                  line, scatter   {label, points: [[x, y], …]}
                              bar             {label, group, value}
                              pie             {label, angle, radius}
                              box_and_whisker {label, min, first_quartile, median,
                                              third_quartile, max, outliers}
                              superchart      the charts of the subplots
                              unknown         none

A chart is what its Axes draw with its data; what only explains data is passed
over: texts, legends, colour bars, grids, lines and spans across the whole Axes,
error bars, bands and, where there is something else, loose line collections.
Kinds that E2B has one word for are told by it: steps, stems and data with error
bars are lines, histograms and stairs are bars. Lines and scatters together are
a scatter, which is true of their points. Other mixtures are unknown rather than
half told, and so is what is drawn in three dimensions. Horizontal bars and boxes
have the labels of their axes exchanged, as E2B has them: x is what they stand on.
Times are ISO 8601, gaps are null. A figure without data has no chart.
"""

import math
import warnings

from . import boxes, limits
from .axis import Axis, text


def of_figure(figure):
    """The chart of a figure, and sentences on what was left out of it.

    No chart at all if the figure is blank; an unknown one if it cannot be read.
    """
    notes = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(figure, notes), notes
    except Exception:
        return {"type": "unknown", "title": None, "elements": []}, ["chart cannot be read"]


def read(figure, notes):
    subplots = [axes for axes in figure.axes if not hasattr(axes, "_colorbar")]
    if not any(axes.has_data() for axes in subplots):
        return None
    above = figure._suptitle.get_text() if figure._suptitle is not None else ""
    if len(subplots) == 1:
        chart = Subplot(subplots[0], notes).chart()
        chart["title"] = chart["title"] or text(above)
        return chart
    if len(subplots) > limits.CHARTS:
        notes.append(f"chart has only the first {limits.CHARTS} of {len(subplots)} subplots")
    charts = [Subplot(axes, notes).chart() for axes in subplots[: limits.CHARTS]]
    return {"type": "superchart", "title": text(above) or "", "elements": charts}


class Subplot:
    """An Axes, sorted by what its artists are."""

    def __init__(self, axes, notes):
        self.axes = axes
        self.notes = notes
        self.x, self.y = Axis(axes, "x"), Axis(axes, "y")
        self.names = {}  # labels that containers have for their artists
        self.colours = {}  # colours that only the legend has a label for
        self.lines, self.scatters, self.bars, self.stairs, self.wedges, self.boxes = [], [], [], [], [], []
        self.other = axes.name == "3d"
        if not self.other:
            self.sort()

    def sort(self):
        from matplotlib import collections, lines, patches

        explained = self.containers()
        artists = list(self.drawn(explained))
        self.boxes = boxes.find(artists)
        explained = {id(artist) for box in self.boxes for artist in box.artists}
        loose = False  # what explains something else, if there is something else
        for artist in artists:
            if id(artist) in explained:
                continue
            if isinstance(artist, lines.Line2D):
                self.lines.append(artist)
            elif isinstance(artist, collections.PathCollection):
                self.scatters.append(artist)
            elif isinstance(artist, patches.StepPatch):
                self.stairs.append(artist)
            elif isinstance(artist, patches.Wedge):
                self.wedges.append(artist)
            elif isinstance(artist, (collections.LineCollection, collections.PolyCollection, patches.Circle)):
                loose = True  # bars of errors, a band, the hole of a ring
            else:
                self.other = True
        self.pass_over()
        self.read_legend()
        self.other = self.other or (loose and not self.kinds())

    def containers(self):
        """Reads what belongs together, and returns the ids of what needs no other look."""
        from matplotlib import container, patches

        explained = set()
        for c in self.axes.containers:
            if isinstance(c, container.BarContainer):
                bars = [patch for patch in c.patches if isinstance(patch, patches.Rectangle)]
                explained.update(map(id, bars))
                if any(math.isfinite(bar.get_x()) and math.isfinite(bar.get_y()) for bar in bars):
                    self.bars.append((c, bars))
            elif isinstance(c, container.ErrorbarContainer):
                line, caps, _ = c.lines
                explained.update(map(id, caps))
                self.names[id(line)] = c.get_label()
            elif isinstance(c, container.StemContainer):
                explained.add(id(c.baseline))
                self.names[id(c.markerline)] = c.get_label()
        return explained

    def drawn(self, explained):
        """The artists that draw where data is, in the order of drawing."""
        import numpy
        from matplotlib import axis, collections, legend, lines, patches, spines, table
        from matplotlib import text as texts

        frame = (axis.Axis, legend.Legend, patches.FancyArrowPatch, spines.Spine, table.Table, texts.Text)
        for artist in self.axes.get_children():
            if id(artist) in explained:
                continue
            if isinstance(artist, frame) or artist is self.axes.patch or hasattr(artist, "xaxis"):
                continue  # the latter are Axes and the second scales of this one
            if isinstance(artist, (lines.Line2D, patches.Patch)) and not self.with_data(artist.get_transform()):
                continue  # such as a line or span across the whole Axes
            if isinstance(artist, lines.Line2D):
                points = artist.get_xydata()
            elif type(artist) is patches.PathPatch:
                points = artist.get_path().vertices
            elif isinstance(artist, collections.PathCollection):
                if not self.with_data(artist.get_offset_transform()):
                    self.other = True  # contours, before matplotlib 3.8
                    continue
                points = offsets(artist)
            else:
                points = None
            if type(artist) is patches.Rectangle and artist.get_width() == artist.get_height() == 0:
                continue  # seaborn's way to have something in the legend
            if points is None or numpy.isfinite(points).all(axis=1).any():
                yield artist

    def with_data(self, transform):
        return all(transform.contains_branch_seperately(self.axes.transData))

    def pass_over(self):
        """Takes away lines that are bars of errors, as seaborn draws them, or references."""
        if self.bars:
            self.lines = [line for line in self.lines if not straight(line.get_xydata(), 8)]
        elif self.scatters or any(len(line.get_xydata()) > 2 for line in self.lines):
            self.lines = [line for line in self.lines if not (self.unnamed(line) and straight(line.get_xydata(), 2))]

    def read_legend(self):
        """Takes from the legend what no artist has for a label, as seaborn leaves it."""
        legend = self.axes.get_legend()
        if legend is None:
            return
        artists = [*self.lines, *self.scatters, *self.stairs, *(c for c, _ in self.bars)]
        taken = {self.written(artist) for artist in artists}
        old = not hasattr(legend, "legend_handles")  # before matplotlib 3.7
        handles = legend.legendHandles if old else legend.legend_handles
        labels = [written.get_text() for written in legend.get_texts()]
        colours = [colour(handle) for handle in handles]
        for of, label in zip(colours, labels):
            if of is not None and label not in taken and colours.count(of) == 1:
                self.colours[of] = label

    def unnamed(self, artist):
        return self.written(artist).startswith("_")

    def written(self, artist):
        """The label of an artist or of its container; matplotlib's own begin with _."""
        return self.names.get(id(artist), artist.get_label()) or "_"

    def kinds(self):
        points = "scatter" if self.scatters else "line"
        found = (
            (points, self.lines or self.scatters),
            ("bar", self.bars or self.stairs),
            ("pie", self.wedges),
            ("box_and_whisker", self.boxes),
        )
        return [kind for kind, artists in found if artists]

    def chart(self):
        kinds = self.kinds() or ["line"]  # a blank subplot is E2B's line without points
        kind = "unknown" if self.other or len(kinds) > 1 else kinds[0]
        title = next(filter(None, (text(self.axes.get_title(loc=at)) for at in ("center", "left", "right"))), None)
        chart = {"type": kind, "title": title}
        if kind in ("line", "scatter"):
            chart.update(self.labels(upright=True), **self.x.describe(), **self.y.describe())
            chart["elements"] = self.points()
        elif kind == "bar":
            upright = all(c.orientation != "horizontal" for c, _ in self.bars)
            upright = upright and all(patch.orientation == "vertical" for patch in self.stairs)
            chart.update(self.labels(upright), elements=self.bounded(self.bar_elements(), "bars", self.count_bars()))
        elif kind == "pie":
            chart["elements"] = self.bounded(self.pie_elements(), "wedges")
        elif kind == "box_and_whisker":
            upright = self.boxes[0].vertical
            chart.update(self.labels(upright), elements=self.bounded(self.box_elements(upright), "boxes"))
        else:
            chart["elements"] = []
        return chart

    def labels(self, upright):
        x, y = (self.x, self.y) if upright else (self.y, self.x)
        return {"x_label": x.label(), "y_label": y.label(), "x_unit": x.unit(), "y_unit": y.unit()}

    def label(self, artist, kind, n, first=None):
        """The label of an artist; its kind and number if nobody gave it one.

        The legend knows it by the colour of the artist, or of the first of many.
        """
        label = self.written(artist)
        if label.startswith("_"):
            label = self.colours.get(colour(first or artist), label)
        if not label.startswith("_"):
            return text(label)
        digits = label.lstrip("_abcdefghijklmnopqrstuvwxyz")
        return f"{kind} {digits if digits.isdecimal() else n}"

    def bounded(self, elements, what, total=None):
        total = total or len(elements)
        if total > limits.ELEMENTS:
            self.notes.append(f"chart has only the first {limits.ELEMENTS} of {total} {what}")
        return elements[: limits.ELEMENTS]

    def count_bars(self):
        return sum(len(bars) for _, bars in self.bars) + sum(len(patch.get_data().values) for patch in self.stairs)

    def points(self):
        series = [(scatter, "Scatter", offsets(scatter), None, None) for scatter in self.scatters]
        series += [(line, "Line", line.get_xydata(), line.get_xdata(), line.get_ydata()) for line in self.lines]
        if len(series) > limits.SERIES:
            self.notes.append(f"chart has only the first {limits.SERIES} of {len(series)} series")
            series = series[: limits.SERIES]
        most = min(limits.POINTS, limits.CHART_POINTS // max(len(series), 1))
        elements, cut = [], []
        for n, (artist, kind, at, x, y) in enumerate(series):
            label = self.label(artist, kind, n)
            step = -(-len(at) // most)
            if step > 1:
                cut.append(f"chart has only one in {step} of the {len(at)} points of {label!r}")
            xs = self.x.values(at[::step, 0].tolist(), every(x, step, len(at)))
            ys = self.y.values(at[::step, 1].tolist(), every(y, step, len(at)))
            elements.append({"label": label, "points": [list(point) for point in zip(xs, ys)]})
        self.notes += cut if len(cut) < 10 else [*cut[:9], f"and the same of {len(cut) - 9} other series"]
        return elements

    def bar_elements(self):
        elements = []
        for n, (c, every_bar) in enumerate(self.bars):
            bars = every_bar[: limits.ELEMENTS - len(elements)]  # to look at one takes time
            if not bars:
                break
            upright = c.orientation != "horizontal"
            spans = [sorted(b.get_bbox().intervalx if upright else b.get_bbox().intervaly) for b in bars]
            values = [b.get_height() if upright else b.get_width() for b in bars]
            labels = (self.x if upright else self.y).stands(spans)
            groups = self.groups(c, bars, n)
            for group, label, value in zip(groups, labels, values):
                elements.append({"label": label, "group": group, "value": finite(value)})
        for n, patch in enumerate(self.stairs):
            values, edges, _ = patch.get_data()
            axis = self.x if patch.orientation == "vertical" else self.y
            group = self.label(patch, "Group", n)
            for label, value in zip(axis.stands(list(zip(edges[:-1].tolist(), edges[1:].tolist()))), values.tolist()):
                elements.append({"label": label, "group": group, "value": finite(value)})
        return elements

    def groups(self, c, bars, n):
        """The group of each bar of a container."""
        group = self.label(c, "Group", n, bars[0])
        own = [bar.get_label() for bar in bars]
        own = [None if not label or label.startswith("_") else text(label) for label in own]
        if not self.unnamed(c) or not own[0]:
            return [group] * len(bars)
        if not any(own[1:]):  # a histogram has its label there
            return own[:1] * len(bars)
        return [label or group for label in own]

    def pie_elements(self):
        labels = [wedge.get_label() for wedge in self.wedges]
        legend = self.axes.get_legend()
        if legend is not None and not any(labels) and len(legend.get_texts()) == len(labels):
            labels = [written.get_text() for written in legend.get_texts()]
        return [
            # Wedges are made with single precision.
            {"label": text(label) or "", "angle": abs(round(float(w.theta2 - w.theta1), 4)), "radius": float(w.r)}
            for label, w in zip(labels, self.wedges)
        ]

    def box_elements(self, upright):
        labels = (self.x if upright else self.y).names([box.middle for box in self.boxes])
        elements = []
        for label, box in zip(labels, self.boxes):
            first, third = box.quartiles
            outliers = box.outliers
            if len(outliers) > limits.POINTS:
                self.notes.append(f"chart has only the first {limits.POINTS} of {len(outliers)} outliers of {label!r}")
                outliers = outliers[: limits.POINTS]
            elements.append(
                {
                    "label": label,
                    "min": box.ends[0],
                    "first_quartile": first,
                    "median": box.median,
                    "third_quartile": third,
                    "max": box.ends[1],
                    "outliers": outliers,
                }
            )
        return elements


def colour(artist):
    """The colour that somebody would know an artist by, or None."""
    from matplotlib import colors

    for get in ("get_facecolor", "get_color"):
        try:
            found = colors.to_rgba_array(getattr(artist, get)())
        except (AttributeError, ValueError, TypeError):
            continue
        if len(found) == 1:
            return tuple(found[0])
    return None


def offsets(scatter):
    """The places of a scatter's points, NaN where they are masked."""
    import numpy

    return numpy.ma.filled(numpy.ma.asarray(scatter.get_offsets(), dtype=float), math.nan)


def straight(points, most):
    """Whether some points are joined by level and upright lines only."""
    pairs = list(zip(points[:-1], points[1:])) if 2 <= len(points) <= most else []
    return bool(pairs) and not any(a[0] != b[0] and a[1] != b[1] for a, b in pairs)


def every(values, step, length):
    """One in step of the values, if there is one for every point."""
    return values[::step] if values is not None and len(values) == length else None


def finite(v):
    v = float(v)
    return v if math.isfinite(v) else None
