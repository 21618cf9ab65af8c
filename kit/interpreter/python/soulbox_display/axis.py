"""What an axis of matplotlib says: its label and unit, ticks, scale and values."""

import datetime
import math
import re
import sys
from bisect import bisect
from collections import Counter

from . import limits

# A unit is what follows a space in parentheses, or is in brackets.
UNIT = re.compile(r"\s\((.*?)\)|\[(.*?)\]")


class Axis:
    """One axis of a chart: "x" or "y" of an Axes."""

    def __init__(self, axes, which):
        from matplotlib import category, dates

        self.which = which
        self.axis = getattr(axes, which + "axis")
        self.polar = axes.name == "polar"
        converter = self.axis.get_converter() if hasattr(self.axis, "get_converter") else self.axis.converter
        kinds = (dates.DateConverter, dates.ConciseDateConverter, dates._SwitchableDateConverter)
        self.dates = isinstance(converter, kinds)
        self.periods = type(converter).__name__ == "PeriodConverter" and hasattr(self.axis, "freq")
        self.categories = None
        if isinstance(converter, category.StrCategoryConverter) and isinstance(self.axis.units, category.UnitData):
            # The positions are whole numbers, in the order in which names came.
            self.categories = {at: str(label) for label, at in self.axis.units._mapping.items()}

    def label(self):
        return text(self.axis.get_label_text())

    def unit(self):
        found = UNIT.search(self.label() or "")
        return (found.group(1) or found.group(2)) if found else None

    def ticks(self):
        """The positions of the ticks as numbers, and their labels."""
        at = self.axis.get_majorticklocs()
        if len(at) <= limits.TICKS:
            labels = [t.get_text() for t in self.axis.get_ticklabels()]
            at = self.axis.get_majorticklocs()
        else:
            at = at[: limits.TICKS]
            labels = self.axis.get_major_formatter().format_ticks(at)
        return [float(v) for v in at], [text(label) or "" for label in labels]

    def describe(self):
        """The fields of an axis of a line or scatter chart."""
        at, labels = self.ticks()
        ticks = [None if not math.isfinite(v) else self.instant(v, aware=True) if self.timed() else v for v in at]
        return {
            f"{self.which}_ticks": ticks,
            f"{self.which}_tick_labels": labels,
            f"{self.which}_scale": self.scale(at, labels),
        }

    def timed(self):
        return self.dates or self.periods

    def scale(self, at, labels):
        if self.timed():
            return "datetime"
        scale = self.axis.get_scale()
        if scale != "linear" or self.polar:
            return scale
        if self.categories is not None:
            return "categorical"
        # Names that are written by hand at 0, 1, 2, … are categories, too.
        named = len(at) == len(labels) > 0
        named = named and all(v == n and label and not number(label, n) for n, (v, label) in enumerate(zip(at, labels)))
        return "categorical" if named else "linear"

    def value(self, v):
        """What a position stands for: a number, a name, a time; None for a gap."""
        if not math.isfinite(v):
            return None
        if self.timed():
            return self.instant(v, aware=False)
        if self.categories is not None:
            return self.categories.get(v, v)
        return v

    def values(self, positions, originals=None):
        """What positions stand for, by the originals where those say it better."""
        if not self.timed() and self.categories is None:
            return [v if math.isfinite(v) else None for v in positions]
        if originals is None or len(originals) != len(positions):
            return [self.value(v) for v in positions]
        return [self.value(v) if w is None else w for v, w in zip(positions, map(original, originals))]

    def instant(self, v, aware):
        """A time by ISO 8601; with its offset if it is aware or its axis is."""
        if self.periods:
            pandas = sys.modules["pandas"]
            return pandas.Period(ordinal=int(v), freq=self.axis.freq).to_timestamp().isoformat()
        from matplotlib import dates

        try:
            zone = self.axis.units if isinstance(self.axis.units, datetime.tzinfo) else None
            when = dates.num2date(v, zone)
        except (ValueError, OverflowError):  # before the year 1 or after 9999
            return v
        if not aware and zone in (None, datetime.UTC):
            when = when.replace(tzinfo=None)
        return when.isoformat()

    def names(self, positions, alone=False):
        """What stands at some positions by name; alone if each has a tick of its own."""
        if self.timed():
            return [self.name(v) for v in positions]
        if self.categories is not None:  # what stands beside a name belongs to it
            return [self.name(self.categories.get(round(v), v)) for v in positions]
        ticks = sorted((at, label) for at, label in zip(*self.ticks()) if label)
        if self.written():
            near = [nearest(v, ticks) for v in positions]
            uses = Counter(near)
            if None not in uses and (len(set(uses.values())) == 1 and (not alone or len(uses) == len(positions))):
                return [ticks[n][1] for n in near]
        labels = [""] * len(positions)
        if not self.counting() and len(positions) <= limits.TICKS:
            labels = self.axis.get_major_formatter().format_ticks(positions)
        return [text(label) or self.name(v) for label, v in zip(labels, positions)]

    def name(self, v):
        value = v if isinstance(v, str) else self.value(v)
        return (text(value) or "") if isinstance(value, str) else short(v)

    def stands(self, spans):
        """What bars stand on: a name, or from where to where if they touch."""
        touching = len(spans) > 1 and all(
            math.isclose(b, c, rel_tol=1e-9, abs_tol=1e-12) for (_, b), (c, _) in zip(spans, spans[1:])
        )
        if touching and self.categories is None and not self.written() and not whole(spans):
            return [f"{self.name(a)} \N{EN DASH} {self.name(b)}" for a, b in spans]
        return self.names([(a + b) / 2 for a, b in spans], alone=True)

    def written(self):
        """Whether somebody wrote the tick labels, instead of leaving it to matplotlib."""
        from matplotlib import ticker

        return isinstance(self.axis.get_major_formatter(), (ticker.FixedFormatter, ticker.FuncFormatter))

    def counting(self):
        """Whether the tick labels are just the numbers, padded to a common width."""
        from matplotlib import ticker

        return type(self.axis.get_major_formatter()) is ticker.ScalarFormatter


def whole(spans):
    """Whether bars are one wide and stand on whole numbers, which they then mean."""
    return all(math.isclose(b - a, 1) and math.isclose((a + b) / 2, round((a + b) / 2), abs_tol=1e-9) for a, b in spans)


def nearest(v, ticks):
    """The number of the tick that is clearly the nearest, or None."""
    n = bisect(ticks, (v,))
    near = [(abs(ticks[k][0] - v), k) for k in (n - 1, n) if 0 <= k < len(ticks)]
    if not near or (len(near) == 2 and math.isclose(near[0][0], near[1][0])):
        return None
    return min(near)[1]


def original(v):
    """A time or name as the user gave it; None if a position says as much."""
    if isinstance(v, str):
        return v
    if isinstance(v, (datetime.datetime, datetime.date)):
        return v.isoformat() if v == v else None
    numpy = sys.modules["numpy"]
    if isinstance(v, numpy.datetime64):
        if numpy.isnat(v):
            return None
        seconds = v.astype("datetime64[s]")
        return str(seconds if seconds == v else v)
    return None


def number(label, n):
    """Whether a label is just the number n."""
    try:
        return float(label.replace("\N{MINUS SIGN}", "-")) == n
    except ValueError:
        return False


def short(v):
    """A number as text, without the dust of binary fractions."""
    return f"{v:.10g}"


def text(s):
    """A text that is bounded and can be written as UTF-8; None if it is empty."""
    return s[: limits.LABEL].encode("utf-8", "replace").decode() or None
