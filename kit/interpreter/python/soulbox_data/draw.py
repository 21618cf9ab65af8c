"""visualize, as a process: a request as JSON on standard input, its answer on standard output.

    python -m soulbox_data.draw

The program that is returned is run here to make the pictures: it has made them.
"""

import base64
import contextlib
import json
import math
import os
import sys
import tempfile

from . import Refused, short
from .load import Dataset
from .plot import program

MAX_PICTURE = 16 << 20
MAX_VALUES = 200_000
MAX_COLUMNS = 200


def inline(data):
    """The frame that a request brings along, and the line that makes it."""
    import pandas

    columns = data.get("columns") if isinstance(data, dict) else None
    if not isinstance(columns, dict) or not columns or len(columns) > MAX_COLUMNS or set(data) != {"columns"}:
        raise Refused(f'data must be {{"columns": {{name: [value, …]}}}}, with 1 to {MAX_COLUMNS} columns')
    lengths = set()
    for name, values in columns.items():
        if not 0 < len(name) <= 1000 or not isinstance(values, list):
            raise Refused(f"column {short(name)} of data must have a name and be a list of values")
        for v in values:
            if not isinstance(v, (str, int, float, type(None))) or isinstance(v, float) and not math.isfinite(v):
                raise Refused(f"column {short(name)} has {short(v)}; values are numbers, texts, true, false and null")
            if isinstance(v, int) and not -(2**63) <= v < 2**64:
                raise Refused(f"column {short(name)} has a number of more than 64 bits")
        lengths.add(len(values))
    if len(lengths) > 1:
        raise Refused("the columns of data must be of the same length")
    if lengths.pop() * len(columns) > MAX_VALUES:
        raise Refused(f"data has more than {MAX_VALUES} values; put them into a file", 413)
    return pandas.DataFrame(columns), f"df = pd.DataFrame({columns!r})"


def answer(request):
    """The answer to a request."""
    os.environ["MPLBACKEND"] = "Agg"
    if (request.get("dataset") is None) == (request.get("data") is None):
        raise Refused("there must be one of dataset and data")
    try:
        import pandas  # noqa: F401
        from matplotlib import pyplot
    except ImportError as e:
        raise Refused(f"drawing needs pandas and matplotlib, and one is not installed: {e}", 409) from None
    if request.get("data") is not None:
        frame, read = inline(request["data"])
    else:
        dataset = Dataset(request["dataset"])
        dataset.name = "df"  # the program has variables of its own
        frame, read = dataset.load(), dataset.code()
    code = program(request.get("kind"), request.get("options"), frame, read)
    rows = len(frame)
    del frame
    space = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as dir, contextlib.chdir(dir):
        try:
            exec(compile(code, "plot.py", "exec"), space)
        except MemoryError:
            raise Refused("the plot does not fit into the memory", 413) from None
        except Exception as e:  # values that nobody could know of, such as texts among numbers
            raise Refused(f"this cannot be drawn: {type(e).__name__}: {str(e)[:500]}") from None
        out = {"code": code, "rows": rows}
        for file in ("plot.png", "plot.svg"):
            with open(file, "rb") as f:
                picture = f.read(MAX_PICTURE + 1)
            if len(picture) > MAX_PICTURE:
                raise Refused(f"the picture has more than {MAX_PICTURE} bytes; draw fewer points", 413)
            out[file[5:]] = picture
    out["png"], out["svg"] = base64.b64encode(out["png"]).decode(), out["svg"].decode()
    from soulbox_display import charts

    try:
        out["chart"] = charts.of_figure(space["fig"])[0]
    except Exception:  # the picture is worth having without it
        out["chart"] = None
    pyplot.close("all")
    return out


def main():
    real, sys.stdout = sys.stdout, sys.stderr  # libraries print what they like
    try:
        out = answer(json.load(sys.stdin))
    except Refused as e:
        out = {"refused": str(e), "status": e.status}
    json.dump(out, real)


if __name__ == "__main__":
    main()
