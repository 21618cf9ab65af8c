"""Python's values → values that JSON has."""

import base64
import dataclasses
import datetime
import decimal
import enum
import math
import sys
import uuid

from . import limits

PLAIN = (bool, int, str, type(None))


class Unsayable(Exception):
    """JSON has no word for a value."""


class TooMuch(Exception):
    """A value is larger than its budget."""


class Writer:
    """Turns values into JSON's within a budget.

    A lenient one finds something to say about every value, for cells of tables.
    A strict one raises Unsayable, for results that are JSON or are not.
    """

    def __init__(self, strict):
        self.strict = strict
        self.values = limits.VALUES
        self.text = limits.TEXT

    def column(self, values):
        """The values of a list of cells."""
        kinds = set(map(type, values))
        if kinds == {float}:
            return floats(values)
        if kinds <= {bool, int, type(None)}:
            return values
        return [self.value(v) for v in values]

    def value(self, v, depth=0):
        """One value; what it contains counts against the budget."""
        kind = type(v)
        if kind is str:
            return self.string(v)
        if kind is float:
            return v if math.isfinite(v) else None
        if kind in PLAIN:
            return v
        if depth > limits.DEPTH:
            raise TooMuch
        if isinstance(v, dict):
            self.spend(len(v))
            return {self.key(k): self.value(w, depth + 1) for k, w in v.items()}
        if isinstance(v, (list, tuple)):
            self.spend(len(v))
            return [self.value(w, depth + 1) for w in v]
        return self.other(v, depth)

    def other(self, v, depth):
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(v, (numpy.ndarray, numpy.generic)):
            return self.of_numpy(numpy, v, depth)
        if isinstance(v, enum.Enum):
            return self.value(v.value, depth + 1)
        if isinstance(v, (bool, int)):
            return int(v)
        if isinstance(v, float):
            return self.value(float(v))
        if isinstance(v, str):
            return self.string(str.__str__(v))
        if isinstance(v, (datetime.datetime, datetime.date, datetime.time)):
            return None if v != v else v.isoformat()
        if isinstance(v, uuid.UUID):
            return str(v)
        if dataclasses.is_dataclass(v) and not isinstance(v, type):
            fields = dataclasses.fields(v)
            self.spend(len(fields))
            return {f.name: self.value(getattr(v, f.name), depth + 1) for f in fields}
        if self.strict:
            raise Unsayable
        return self.cell(v, depth)

    def of_numpy(self, numpy, v, depth):
        if isinstance(v, numpy.ndarray):
            self.spend(v.size)
            if v.dtype.kind == "M":
                v = (
                    v.astype(object)
                    if numpy.datetime_data(v.dtype)[0] != "ns"
                    else v.astype("datetime64[us]").astype(object)
                )
            return self.value(v.tolist(), depth + 1)
        if isinstance(v, numpy.datetime64):
            return None if numpy.isnat(v) else str(v)
        if isinstance(v, numpy.timedelta64):
            return None if numpy.isnat(v) else self.value(v.astype("timedelta64[us]").item(), depth + 1)
        plain = v.item()
        if isinstance(plain, numpy.generic):  # such as a long double, which Python has no word for
            plain = float(plain)
        return self.value(plain, depth + 1)

    def cell(self, v, depth):
        """What only a cell of a table may be."""
        if type(v).__name__ in ("NAType", "NaTType"):
            return None
        if isinstance(v, datetime.timedelta):
            return duration(v)
        if isinstance(v, decimal.Decimal):
            return number(v)
        if isinstance(v, (bytes, bytearray, memoryview)):
            return self.string(base64.b64encode(v).decode("ascii"))
        if isinstance(v, (set, frozenset)):
            return self.value(list(v), depth)
        if hasattr(v, "to_list"):  # a Series within a cell, as polars makes them
            return self.value(v.to_list(), depth + 1)
        return self.string(text(v))

    def string(self, s):
        self.text -= len(s)
        if self.text < 0:
            raise TooMuch
        try:
            s.encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            if self.strict:
                raise Unsayable from None
            return s.encode("utf-8", "replace").decode()
        return s

    def key(self, k):
        if type(k) is str:
            return self.string(k)
        if k is None or isinstance(k, bool):
            return {None: "null", True: "true", False: "false"}[k]
        v = self.value(k, limits.DEPTH)
        if isinstance(v, (list, dict)):
            if self.strict:
                raise Unsayable
            return self.string(text(k))
        return v if isinstance(v, str) else str(v)

    def spend(self, n):
        self.values -= n
        if self.values < 0:
            raise TooMuch


def floats(values):
    """Numbers, with null for what JSON has no number for."""
    return [v if v - v == 0 else None for v in values]


def number(d):
    """A decimal: a number if a float is exactly it, else text."""
    if not d.is_finite():
        return None
    try:
        f = float(d)
        if math.isfinite(f) and decimal.Decimal(repr(f)) == d:
            return f
    except (OverflowError, decimal.DecimalException):
        pass
    return str(d)


def duration(delta):
    """A timedelta by ISO 8601, in days, hours, minutes and seconds."""
    if delta != delta:
        return None
    nanoseconds = getattr(delta, "nanoseconds", 0)  # pandas' has them
    minus = "-" if delta < datetime.timedelta(0) else ""
    if minus:
        delta = -delta
        nanoseconds = getattr(delta, "nanoseconds", 0)
    minutes, seconds = divmod(delta.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f"{delta.microseconds:06}{nanoseconds:03}".rstrip("0")
    return f"{minus}P{delta.days}DT{hours}H{minutes}M{seconds}{'.' if fraction else ''}{fraction}S"


def text(v):
    """The text of anything at all, even of what does not want to be text."""
    try:
        return str(v)
    except Exception:
        return f"<{type(v).__name__}>"
