"""Tables of pandas, polars and pyarrow → E2B's data: {column: [value, …]}."""

import json
import sys

from . import limits
from .values import TooMuch, Writer, text

BLOCK = 50_000  # values that are converted at once


class Table:
    """A table of any library, as columns of which parts can be read."""

    def __init__(self, names, rows, read):
        self.names = names
        self.rows = rows
        self.read = read  # (column, first row, end) → list of Python's values


def find(obj):
    """The table that an object is, or None."""
    for library, of in (("pandas", of_pandas), ("polars", of_polars), ("pyarrow", of_arrow)):
        module = sys.modules.get(library)
        if module is not None:
            table = of(module, obj)
            if table is not None:
                return table
    return None


def of_pandas(pandas, obj):
    if isinstance(obj, pandas.DataFrame):
        return Table([name(c) for c in obj.columns], len(obj), lambda i, a, b: obj.iloc[a:b, i].tolist())
    if not isinstance(obj, pandas.Series):
        return None
    parts = [("value" if obj.name is None else name(obj.name), obj)]
    index = obj.index
    if not isinstance(index, pandas.RangeIndex):
        labels = index.names
        parts = [
            (f"level_{n}" if label is None and len(labels) > 1 else name(label or "index"), index.get_level_values(n))
            for n, label in enumerate(labels)
        ] + parts

    def read(i, a, b):
        part = parts[i][1]
        return (part.iloc[a:b] if part is obj else part[a:b]).tolist()

    return Table([label for label, _ in parts], len(obj), read)


def of_polars(polars, obj):
    if isinstance(obj, polars.DataFrame):
        return Table(list(obj.columns), obj.height, lambda i, a, b: obj.to_series(i).slice(a, b - a).to_list())
    if isinstance(obj, polars.Series):
        return Table([obj.name or "value"], len(obj), lambda i, a, b: obj.slice(a, b - a).to_list())
    return None


def of_arrow(pyarrow, obj):
    if isinstance(obj, (pyarrow.Table, pyarrow.RecordBatch)):
        return Table(list(obj.schema.names), obj.num_rows, lambda i, a, b: cells(obj.column(i).slice(a, b - a)))
    if isinstance(obj, (pyarrow.Array, pyarrow.ChunkedArray)):
        return Table(["value"], len(obj), lambda i, a, b: cells(obj.slice(a, b - a)))
    return None


def cells(column):
    """The values of a column of pyarrow's, as text if Python has no values for them."""
    try:
        return column.to_pylist()
    except Exception:  # such as nanoseconds, when pandas is not there
        return column.cast("string").to_pylist()


def name(label):
    """The name of a column: text, whatever pandas takes for a name."""
    if isinstance(label, tuple):
        return ".".join(name(part) for part in label)
    if hasattr(label, "isoformat"):
        return label.isoformat()
    return text(label)


def distinct(names):
    """Names of which none is there twice."""
    taken, out = set(names), []
    seen = set()
    for label in names:
        candidate, n = label, 0
        while candidate in seen or (n and candidate in taken):
            n += 1
            candidate = f"{label}.{n}"
        seen.add(candidate)
        out.append(candidate)
    return out


def columns(table):
    """E2B's data of a table, and what was left out of it as a sentence or None."""
    width = min(len(table.names), limits.COLUMNS)
    rows = min(table.rows, limits.ROWS, limits.VALUES // max(width, 1))
    writer = Writer(strict=False)
    lists = [[] for _ in range(width)]
    done, left = 0, limits.TEXT
    step = max(1, BLOCK // max(width, 1))
    while done < rows and width:
        step = min(step, rows - done)
        block = read(table, writer, width, done, done + step)
        size = (
            limits.TEXT + 1 if block is None else len(json.dumps(block, ensure_ascii=False, allow_nan=False).encode())
        )
        if size > left:
            if step == 1:
                break
            step //= 2
            continue
        for whole, part in zip(lists, block):
            whole.extend(part)
        done, left = done + step, left - size
    labels = distinct([clean(label) for label in table.names[:width]])
    return dict(zip(labels, lists)), omitted(table, done if width else table.rows, width)


def read(table, writer, width, a, b):
    """The values of some rows, by columns; None if they are too many."""
    writer.text, writer.values = limits.TEXT, limits.VALUES
    try:
        return [writer.column(table.read(i, a, b)) for i in range(width)]
    except TooMuch:
        return None


def clean(label):
    """A name that can be written as UTF-8 and is not a book."""
    return label[: limits.LABEL].encode("utf-8", "replace").decode()


def omitted(table, rows, width):
    parts = []
    if rows < table.rows:
        parts.append(f"the first {rows} of {table.rows} rows")
    if width < len(table.names):
        parts.append(f"the first {width} of {len(table.names)} columns")
    return f"data has only {' and '.join(parts)}" if parts else None
