"""Tables of polars and pyarrow, in the way of pandas'."""

import datetime
import decimal
import json
import subprocess
import sys
import unittest

import polars as pl
import pyarrow as pa

from soulbox_display import limits, tables


def data(obj):
    got, note = tables.columns(tables.find(obj))
    assert note is None, note
    return json.loads(json.dumps(got, allow_nan=False))


class Polars(unittest.TestCase):
    maxDiff = None

    def test_frame(self):
        when = datetime.datetime(2024, 2, 29, 12, 30)
        frame = pl.DataFrame(
            {
                "int": [1, None],
                "float": [1.5, float("nan")],
                "text": ["a", None],
                "when": [when, None],
                "day": [when.date(), None],
                "span": [datetime.timedelta(seconds=90), None],
                "list": [[1, 2], None],
                "struct": [{"a": 1}, {"a": None}],
                "bytes": [b"\xff", None],
                "decimal": [decimal.Decimal("1.10"), None],
                "category": pl.Series(["x", "y"], dtype=pl.Categorical),
                "null": [None, None],
            }
        )
        want = {
            "int": [1, None],
            "float": [1.5, None],
            "text": ["a", None],
            "when": ["2024-02-29T12:30:00", None],
            "day": ["2024-02-29", None],
            "span": ["P0DT0H1M30S", None],
            "list": [[1, 2], None],
            "struct": [{"a": 1}, {"a": None}],
            "bytes": ["/w==", None],
            "decimal": [1.1, None],
            "category": ["x", "y"],
            "null": [None, None],
        }
        self.assertEqual(data(frame), want)

    def test_series(self):
        self.assertEqual(data(pl.Series("n", [1, 2])), {"n": [1, 2]})
        self.assertEqual(data(pl.Series([1, 2])), {"value": [1, 2]})

    def test_long(self):
        got, note = tables.columns(tables.find(pl.DataFrame({"n": range(2 * limits.ROWS)})))
        self.assertEqual(got["n"], list(range(limits.ROWS)))
        self.assertEqual(note, f"data has only the first {limits.ROWS} of {2 * limits.ROWS} rows")

    def test_a_plan_is_no_table(self):
        self.assertIsNone(tables.find(pl.LazyFrame({"a": [1]})))


class Arrow(unittest.TestCase):
    maxDiff = None

    def test_table(self):
        made = pa.table(
            {
                "int": pa.array([1, None]),
                "when": pa.array([datetime.datetime(2024, 1, 2), None], pa.timestamp("ms")),
                "words": pa.array(["x", "x"]).dictionary_encode(),
                "lists": pa.array([[1], None]),
                "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
            }
        )
        want = {
            "int": [1, None],
            "when": ["2024-01-02T00:00:00", None],
            "words": ["x", "x"],
            "lists": [[1], None],
            "map": [[["k", 1]], None],
        }
        self.assertEqual(data(made), want)
        self.assertEqual(data(made.to_batches()[0]), want)

    def test_names_that_are_there_twice(self):
        made = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
        self.assertEqual(data(made), {"a": [1], "a.1": [2]})

    def test_arrays(self):
        self.assertEqual(data(pa.array([1, None])), {"value": [1, None]})
        self.assertEqual(data(pa.chunked_array([[1], [2]])), {"value": [1, 2]})

    def test_nanoseconds_without_pandas(self):
        # With pandas imported they would be its timestamps.
        code = (
            "import sys\n"
            "class Without:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name == 'pandas': raise ModuleNotFoundError(name)\n"
            "sys.meta_path.insert(0, Without())\n"
            "import pyarrow as pa\n"
            "from soulbox_display import tables\n"
            "made = pa.table({'t': pa.array([1, None], pa.timestamp('ns'))})\n"
            "print(tables.columns(tables.find(made)))"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        self.assertEqual(out.strip(), "({'t': ['1970-01-01 00:00:00.000000001', None]}, None)")
