"""Tables of pandas as E2B's data."""

import datetime
import decimal
import json
import time
import unittest
import uuid

import numpy as np
import pandas as pd

from soulbox_display import limits, tables


def data(obj):
    """The data of an object, as a client reads it."""
    got, note = tables.columns(tables.find(obj))
    assert note is None, note
    return json.loads(json.dumps(got, allow_nan=False))


class Frames(unittest.TestCase):
    maxDiff = None

    def test_as_e2b_has_them(self):
        frame = pd.DataFrame({"a": [1, 2, 3], "b": [1.5, 2.5, 3.5], "c": ["x", "y", "z"], "d": [True, False, True]})
        self.assertEqual(data(frame), frame.to_dict(orient="list"))

    def test_dtypes(self):
        cases = {
            "int8": (pd.Series([1, -2], dtype="int8"), [1, -2]),
            "uint64": (pd.Series([2**64 - 1, 0], dtype="uint64"), [2**64 - 1, 0]),
            "Int64": (pd.Series([1, None], dtype="Int64"), [1, None]),
            "float32": (pd.Series([0.5, np.nan], dtype="float32"), [0.5, None]),
            "Float64": (pd.Series([0.5, None], dtype="Float64"), [0.5, None]),
            "infinite": (pd.Series([np.inf, -np.inf]), [None, None]),
            "bool": (pd.Series([True, False]), [True, False]),
            "boolean": (pd.Series([True, None], dtype="boolean"), [True, None]),
            "string": (pd.Series(["a", None], dtype="string"), ["a", None]),
            "object": (pd.Series(["a", None, 1, 1.5, np.nan], dtype="object"), ["a", None, 1, 1.5, None]),
            "category": (pd.Series(["x", "y", None], dtype="category"), ["x", "y", None]),
            "ordered": (pd.Series(pd.Categorical([3, 1], ordered=True)), [3, 1]),
            "complex": (pd.Series([1 + 2j]), ["(1+2j)"]),
            "datetime": (pd.Series(pd.to_datetime(["2024-02-29 12:30:00", None])), ["2024-02-29T12:30:00", None]),
            "nanoseconds": (
                pd.Series([pd.Timestamp("2024-01-01T00:00:00.000000001")]),
                ["2024-01-01T00:00:00.000000001"],
            ),
            "zone": (pd.Series([pd.Timestamp("2024-01-01", tz="Europe/Prague")]), ["2024-01-01T00:00:00+01:00"]),
            "date": (pd.Series([datetime.date(2024, 1, 2), pd.NaT]), ["2024-01-02", None]),
            "time": (pd.Series([datetime.time(1, 2, 3)]), ["01:02:03"]),
            "timedelta": (
                pd.Series(pd.to_timedelta(["1 days 02:03:04.5", "-1s", None])),
                ["P1DT2H3M4.5S", "-P0DT0H0M1S", None],
            ),
            "period": (pd.Series(pd.period_range("2024-01", periods=2, freq="M")), ["2024-01", "2024-02"]),
            "interval": (pd.Series(pd.interval_range(0, 2)), ["(0, 1]", "(1, 2]"]),
            "sparse": (pd.Series(pd.arrays.SparseArray([0, 0, 1])), [0, 0, 1]),
            "decimal": (
                pd.Series([decimal.Decimal(v) for v in ("1.10", "0.1234567890123456789", "NaN", "1e400")]),
                [1.1, "0.1234567890123456789", None, "1E+400"],
            ),
            "bytes": (pd.Series([b"\x00\xff"]), ["AP8="]),
            "tuple": (pd.Series([(1, np.nan)]), [[1, None]]),
            "list": (pd.Series([[1, [2, "x"]]]), [[1, [2, "x"]]]),
            "set": (pd.Series([frozenset([7])]), [[7]]),
            "dict": (
                pd.Series([{"a": np.int64(1), 2: None, None: [pd.Timestamp("2024")]}]),
                [{"a": 1, "2": None, "null": ["2024-01-01T00:00:00"]}],
            ),
            "keys": (pd.Series([{(1, 2): 3}]), [{"(1, 2)": 3}]),
            "array": (pd.Series([np.array([[1.5, np.nan]])]), [[[1.5, None]]]),
            "uuid": (pd.Series([uuid.UUID(int=5)]), ["00000000-0000-0000-0000-000000000005"]),
            "surrogate": (pd.Series(["a\ud800b"], dtype="object"), ["a?b"]),
            "text": (pd.Series(["é", "日本", "\x00"]), ["é", "日本", "\x00"]),
        }
        for name, (series, want) in cases.items():
            with self.subTest(name):
                self.assertEqual(data(series.to_frame("v")), {"v": want})

    def test_values_that_do_not_want_to_be_text(self):
        class Mute:
            def __str__(self):
                raise RuntimeError

        self.assertEqual(data(pd.DataFrame({"v": [Mute()]})), {"v": ["<Mute>"]})

    def test_names_of_columns(self):
        cases = [
            (["a", "a", "b", "a"], ["a", "a.1", "b", "a.2"]),
            (["a", "a", "a.1"], ["a", "a.2", "a.1"]),
            ([0, 1.5, None], ["0", "1.5", "None"]),
            ([("x", "a"), ("x", "b"), ("y", 1)], ["x.a", "x.b", "y.1"]),
            ([pd.Timestamp("2024-01-01"), "t"], ["2024-01-01T00:00:00", "t"]),
            (["", "\ud800"], ["", "?"]),
        ]
        for given, want in cases:
            with self.subTest(given=given):
                flat = pd.Index(given, dtype="object", tupleize_cols=False)
                columns = pd.MultiIndex.from_tuples(given) if isinstance(given[0], tuple) else flat
                frame = pd.DataFrame([range(len(given))], columns=columns)
                self.assertEqual(list(data(frame).items()), [(name, [n]) for n, name in enumerate(want)])

    def test_the_index_is_left_out_as_e2b_does(self):
        self.assertEqual(data(pd.DataFrame({"a": [1]}, index=["row"])), {"a": [1]})

    def test_nothing(self):
        self.assertEqual(data(pd.DataFrame()), {})
        self.assertEqual(data(pd.DataFrame({"a": []})), {"a": []})
        self.assertEqual(data(pd.DataFrame(index=range(5))), {})

    def test_series(self):
        self.assertEqual(data(pd.Series([1, 2], name="n")), {"n": [1, 2]})
        self.assertEqual(data(pd.Series([1, 2])), {"value": [1, 2]})
        self.assertEqual(data(pd.Series([1, 2], index=["x", "y"], name="n")), {"index": ["x", "y"], "n": [1, 2]})
        counts = pd.Series(["a", "b", "a"]).groupby(["u", "u", "v"]).value_counts()
        self.assertEqual(list(data(counts).values()), [["u", "u", "v"], ["a", "b", "a"], [1, 1, 1]])

    def test_what_is_no_table(self):
        for obj in (1, "a", [1], {"a": [1]}, np.arange(3), None, pd.Timestamp("2024"), pd.Index([1])):
            self.assertIsNone(tables.find(obj))


class Limits(unittest.TestCase):
    def cut(self, frame):
        began = time.monotonic()
        got, note = tables.columns(tables.find(frame))
        self.assertLess(time.monotonic() - began, 20)  # a second, on an idle machine
        self.assertLess(len(json.dumps(got)), limits.TEXT + (1 << 20))
        return got, note

    def test_rows(self):
        got, note = self.cut(pd.DataFrame({"n": np.arange(3 * limits.ROWS)}))
        self.assertEqual(got["n"], list(range(limits.ROWS)))
        self.assertEqual(note, f"data has only the first {limits.ROWS} of {3 * limits.ROWS} rows")

    def test_values(self):
        got, note = self.cut(pd.DataFrame(np.zeros((limits.ROWS, 50))))
        self.assertEqual([len(v) for v in got.values()], [limits.VALUES // 50] * 50)
        self.assertIn("rows", note)

    def test_columns(self):
        width = limits.COLUMNS + 1
        got, note = self.cut(pd.DataFrame(np.zeros((2, width))))
        self.assertEqual(len(got), limits.COLUMNS)
        self.assertEqual(note, f"data has only the first {limits.COLUMNS} of {width} columns")

    def test_text(self):
        got, note = self.cut(pd.DataFrame({"s": ["x" * 10_000] * 5_000, "n": range(5_000)}))
        rows = len(got["s"])
        self.assertEqual(got["n"], list(range(rows)))
        self.assertGreater(rows, limits.TEXT // 10_100)
        self.assertEqual(note, f"data has only the first {rows} of 5000 rows")

    def test_one_cell_that_is_too_large(self):
        got, note = self.cut(pd.DataFrame({"s": ["a", "x" * (limits.TEXT + 1), "b"]}))
        self.assertEqual((got, note), ({"s": ["a"]}, "data has only the first 1 of 3 rows"))

    def test_cells_that_are_bottomless(self):
        inner = []
        inner.append(inner)
        got, note = self.cut(pd.DataFrame({"v": [1, inner]}))
        self.assertEqual((got, note), ({"v": [1]}, "data has only the first 1 of 2 rows"))
