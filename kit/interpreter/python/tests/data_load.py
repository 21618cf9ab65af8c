"""Datasets are loaded as they were written, whatever their names are, or refused."""

import datetime
import gzip
import json
import os
import shutil
import tempfile
import unittest
import zipfile

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from soulbox_data import Refused
from soulbox_data.load import Dataset
from soulbox_data import detect


def read(path, **more):
    return Dataset({"name": "df", "path": str(path), **more}).load()


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.dir)

    def file(self, name, content):
        path = os.path.join(self.dir, name)
        with open(path, "wb") as f:
            f.write(content if isinstance(content, bytes) else content.encode())
        return path

    def refused(self, words, path, status=400, **more):
        with self.assertRaises(Refused) as caught:
            read(path, **more)
        text = str(caught.exception)
        self.assertIn(words, text)
        self.assertEqual(caught.exception.status, status, text)
        self.assertLess(len(text), 3000)


# Values that CSV can say: a text that looks like a number, or like nothing, is
# not one of them.
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20).map(lambda s: "t" + s)
lines = st.tuples(texts, texts).map("\n".join)
ints = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
kinds = {
    "ints": st.lists(ints, min_size=3, max_size=3),
    "floats": st.lists(floats.map(lambda f: f + 0.0), min_size=3, max_size=3),
    "bools": st.lists(st.booleans(), min_size=3, max_size=3),
    "texts": st.lists(st.one_of(texts, lines), min_size=3, max_size=3),
}
names = st.lists(texts.filter(lambda s: s.strip() == s), min_size=1, max_size=4, unique=True)


@st.composite
def frames(draw):
    labels = draw(names)
    return pd.DataFrame({label: draw(kinds[draw(st.sampled_from(sorted(kinds)))]) for label in labels})


@st.composite
def rich(draw):
    """Frames with what Parquet knows beside that."""
    frame = draw(frames())
    frame["when"] = pd.to_datetime(draw(st.lists(st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)), min_size=3, max_size=3)))
    frame["kind"] = pd.Categorical(["a", "b", "a"])
    frame["maybe"] = pd.array([1, None, 2], dtype="Int64")
    frame["nan"] = [float("nan"), 1.5, float("inf")]
    return frame


relaxed = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def equal(got, want, **more):
    pd.testing.assert_frame_equal(got, want, check_exact=True, **more)


class TestRoundTrip(Case):
    @relaxed
    @given(frames(), st.sampled_from(["a.csv", "a.txt", "a", "a.parquet", "a.csv.gz", "a.xlsx"]))
    def test_csv(self, frame, name):
        if name in ("a.parquet", "a.xlsx") and frame.shape[1] < 2:
            name = "a.csv"  # a column alone does not look like a table
        path = os.path.join(self.dir, name)
        frame.to_csv(path, index=False, compression="gzip" if name.endswith(".gz") else None)
        equal(read(path), frame)

    @relaxed
    @given(frames(), st.sampled_from(";\t|"))
    def test_csv_with_other_separators(self, frame, sep):
        path = os.path.join(self.dir, "a.csv")
        frame.to_csv(path, index=False, sep=sep)
        equal(read(path, options={"sep": sep}), frame)

    @relaxed
    @given(rich(), st.sampled_from(["a.parquet", "a.csv", "a.json", "a"]))
    def test_parquet(self, frame, name):
        path = os.path.join(self.dir, name)
        frame.to_parquet(path)
        equal(read(path), frame)

    @relaxed
    @given(frames(), st.sampled_from(["a.json", "a.csv", "a", "a.json.gz"]))
    def test_json(self, frame, name):
        path = os.path.join(self.dir, name)
        text = json.dumps(frame.to_dict("records")).encode()
        self.file(name, gzip.compress(text) if name.endswith(".gz") else text)
        equal(read(path), frame)

    @relaxed
    @given(frames(), st.sampled_from(["a.jsonl", "a.ndjson", "a.json", "a.csv"]))
    def test_jsonl(self, frame, name):
        path = self.file(name, "".join(json.dumps(r) + "\n" for r in frame.to_dict("records")))
        equal(read(path), frame)

    @relaxed
    @given(frames(), st.sampled_from(["a.xlsx", "a.csv", "a.xls"]))
    def test_excel(self, frame, name):
        # A number of Excel's is a float of 15 digits, and a line ends with a line feed.
        frame = pd.DataFrame({
            c: [int(v % 10**9) if isinstance(v, int) and not isinstance(v, bool) else v for v in frame[c].tolist()]
            for c in frame.columns if frame[c].dtype != float
        } | {"half": [0.5, -1.25, 2.0**40]})
        path = os.path.join(self.dir, "a.xlsx")
        frame.to_excel(path, index=False, engine="openpyxl")
        os.rename(path, os.path.join(self.dir, name))
        equal(read(os.path.join(self.dir, name)), frame)

    def test_written_by_pandas(self):
        frame = pd.DataFrame({"a": [1, 2], "b": ["x", "01"], "updated_at": ["1", "2"]})
        for name, write in {"a.json": lambda p: frame.to_json(p, orient="records"), "b.jsonl": lambda p: frame.to_json(p, orient="records", lines=True)}.items():
            path = os.path.join(self.dir, name)
            write(path)
            equal(read(path), frame)


class TestDetection(Case):
    def test_text(self):
        for name, content, want in [
            ("a.csv", "a;b\n1;2\n3;4\n", ["a", "b"]),
            ("a.csv", "a|b\n1|2\n", ["a", "b"]),
            ("a.tsv", "a\tb\n1\t2\n", ["a", "b"]),
            ("a.csv", "a,b;c\n1,2\n", ["a", "b;c"]),
            ("a.csv", '"a;b"\n1\n', ["a;b"]),
            ("a.json", "a,b\n1,2\n3,4\n", ["a", "b"]),
            ("a.parquet", "a,b\n1,2\n3,4\n", ["a", "b"]),
            ("a.csv", "[a],b\n1,2\n", ["[a]", "b"]),
            ("a.csv", '[{"x": 1}]', ["x"]),
            ("a.json", '{"x": [1], "y": [2]}', ["x", "y"]),
            ("a.jsonl", '{"x": 1}', ["x"]),
            ("a.csv", "\ufeffa,b\n1,2\n", ["a", "b"]),
            ("a.csv", "a,b\n1,2\n".encode("utf-16"), ["a", "b"]),
            ("a.csv", gzip.compress(b"a,b\n1,2\n"), ["a", "b"]),
            ("wrong.gz", "a,b\n1,2\n", ["a", "b"]),
            ("wrong.zip", "a,b\n1,2\n", ["a", "b"]),
        ]:
            with self.subTest(name=name, content=content):
                self.assertEqual(read(self.file(name, content)).columns.tolist(), want)

    def test_refused(self):
        table = "a,b\n1,2\n"
        for name, content, words, status, more in [
            ("none.csv", None, "does not exist", 404, {}),
            ("a.csv", "", "is empty", 400, {}),
            ("a.csv", " \n\n", "nothing but blanks", 400, {}),
            ("a.csv", gzip.compress(b""), "is empty", 400, {}),
            ("a.csv", "<!DOCTYPE html><p>404", "HTML", 400, {}),
            ("a.csv", b"\x00\x01\x02", "binary", 400, {}),
            ("a.csv", b"%PDF-1.7 ...", "PDF", 400, {}),
            ("a.csv.bz2", b"BZh91AY&SY", "bzip2", 400, {}),
            ("a.json", "hello world", "is not json", 400, {}),
            ("a.json", "{", "cannot be read as json", 400, {}),
            ("a.json", "[" * 100_000, "cannot be read as json", 400, {}),
            ("a.json", '{"x": 1, "y": 2}', "cannot be read as json", 400, {}),
            ("a.csv", table, "is not parquet: it is csv", 400, {"format": "parquet"}),
            ("a.csv", table, "is not json", 400, {"format": "json"}),
            ("a.csv", table, "there are csv, parquet, json, jsonl, excel", 400, {"format": "xml"}),
            ("a.csv", b"a\n\xe9\xe8\n", "is not UTF-8", 400, {}),
            ("a.csv", gzip.compress(table.encode())[:-9], "cannot be unpacked", 400, {}),
            ("a.csv", gzip.compress(gzip.compress(table.encode())), "packed twice", 400, {}),
            ("a.xlsx", b"PK\x03\x04 and then nothing", "begins like a workbook", 400, {}),
            ("a.parquet", b"PAR1\x00\x00\x00\x00", "does not end like it", 400, {}),
            ("a.parquet", b"PAR1" + b"\x00" * 100 + b"PAR1", "cannot be read as Parquet", 400, {}),
        ]:
            with self.subTest(name=name, content=str(content)[:40]):
                path = os.path.join(self.dir, name) if content is None else self.file(name, content)
                self.refused(words, path, status, **more)

    def test_folders_and_devices(self):
        self.refused("is not a file", self.dir)
        self.refused("is not a file", "/dev/zero")
        fifo = os.path.join(self.dir, "fifo")
        os.mkfifo(fifo)
        self.refused("is not a file", fifo)

    def test_broken_parquet(self):
        """Whatever byte of a file is wrong, there is a frame or a refusal."""
        path = os.path.join(self.dir, "a.parquet")
        pd.DataFrame({"a": range(100), "b": ["x"] * 100}).to_parquet(path)
        with open(path, "rb") as f:
            whole = f.read()
        frames = refusals = 0
        for at in range(4, len(whole) - 4, 7):
            broken = self.file("b.parquet", whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
            try:
                self.assertIsInstance(read(broken), pd.DataFrame)
                frames += 1
            except Refused as e:
                self.assertIn("b.parquet", str(e))
                refusals += 1
        self.assertGreater(refusals, 10)
        self.refused("does not end like it", self.file("c.parquet", whole[: len(whole) // 2]))

    def test_bombs(self):
        zeros = b"0" * (64 << 20)
        with self.subTest("gzip"):
            path = os.path.join(self.dir, "bomb.csv.gz")
            with gzip.open(path, "wb", compresslevel=1) as f:
                for _ in range(17):
                    f.write(zeros)
            self.assertLess(os.path.getsize(path), 16 << 20)
            self.refused("unpacks to more than", path, 413)
        with self.subTest("workbook of zeros"):
            path = os.path.join(self.dir, "bomb.xlsx")
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
                z.writestr("xl/workbook.xml", "<workbook/>")
                with z.open("xl/worksheets/sheet1.xml", "w") as f:
                    for _ in range(3):
                        f.write(zeros)
            self.assertLess(os.path.getsize(path), 1 << 20)
            self.refused("unpacks to more than", path, 413)
        with self.subTest("a cell that is far out"):
            path = os.path.join(self.dir, "far.xlsx")
            frame = pd.DataFrame({"a": [1]})
            with pd.ExcelWriter(path, engine="openpyxl") as w:
                frame.to_excel(w, index=False)
                w.book.active.cell(row=1048576, column=16384, value=1)
            self.refused("1048576 rows and 16384 columns", path, 413)
        with self.subTest("many parts"):
            path = os.path.join(self.dir, "parts.xlsx")
            with zipfile.ZipFile(path, "w") as z:
                z.writestr("xl/workbook.xml", "<workbook/>")
                for n in range(detect.MAX_PARTS):
                    z.writestr(f"x{n}", "")
            self.refused("parts", path, 413)
        with self.subTest("Parquet that says the same thing very often"):
            path = os.path.join(self.dir, "same.parquet")
            import pyarrow
            from pyarrow import parquet

            once = pyarrow.array(np.zeros(10_000_000, dtype="int8"))
            t = pyarrow.table({f"c{n}": once for n in range(51)})
            parquet.write_table(t, path)
            self.assertLess(os.path.getsize(path), 8 << 20)
            self.refused("values", path, 413)
        with self.subTest("entities that multiply"):
            path = os.path.join(self.dir, "laughs.xlsx")
            pd.DataFrame({"a": ["x"]}).to_excel(path, index=False, engine="openpyxl")
            laughs = '<!DOCTYPE x [<!ENTITY a "' + "ha" * 1000 + '">'
            for n, of in zip("bcdefg", "abcdef"):
                laughs += f'<!ENTITY {n} "{("&" + of + ";") * 10}">'
            out = os.path.join(self.dir, "laughs2.xlsx")
            with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
                for part in old.infolist():
                    content = old.read(part).decode()
                    if part.filename.endswith("sheet1.xml"):
                        self.assertIn(">x<", content)
                        content = laughs + "]>" + content.replace(">x<", ">&g;<")
                    new.writestr(part.filename, content)
            self.refused("cannot be read as excel", out)


class TestOptions(Case):
    def test_options(self):
        path = self.file("a.csv", "# note\nx;y\n1,5;01\n2,5;02\n")
        frame = read(path, options={"sep": ";", "decimal": ",", "comment": "#", "dtype": {"y": "str"}, "nrows": 1, "usecols": ["x", "y"]})
        self.assertEqual(frame.to_dict("list"), {"x": [1.5], "y": ["01"]})
        path = self.file("b.csv", "t,v\n2026-01-02,1\n")
        self.assertEqual(read(path, options={"parse_dates": ["t"]})["t"][0], pd.Timestamp("2026-01-02"))
        path = self.file("c.csv", "a::b\n1::2\n")
        self.assertEqual(read(path, options={"sep": "::"}).columns.tolist(), ["a", "b"])

    def test_refused(self):
        path = self.file("a.csv", "a,b\n1,2\n")
        for options, words in [
            ({"converters": "x"}, "option 'converters' is not known for csv; there are header, names"),
            ({"sep": 1}, "option sep must be a text"),
            ({"nrows": -1}, "option nrows must be a whole number"),
            ({"nrows": True}, "option nrows must be a whole number"),
            ({"dtype": "__import__('os')"}, "option dtype must be 'str' or 'int64'"),
            ({"usecols": "a"}, "option usecols must be a list"),
            ({"usecols": ["nope"]}, "cannot be read as csv"),
            ({"encoding": "no-such-encoding"}, "cannot be read as csv"),
            ([], "options must be an object"),
        ]:
            with self.subTest(options=options):
                self.refused(words, path, options=options)
        for name in ["", "1a", "a b", "class", "_x", "a" * 65, "é", 5, None, "a;b", "__import__"]:
            with self.subTest(name=name):
                with self.assertRaises(Refused):
                    Dataset({"name": name, "path": path})
        for p in [None, 5, "", "a\0b", "x" * 5000]:
            with self.assertRaises(Refused):
                Dataset({"name": "df", "path": p})

    def test_line(self):
        """The line that a dataset has makes the same frame."""
        path = self.file("it's \"a\".csv", "a;b\n0.1;x\n")
        dataset = Dataset({"name": "mine", "path": path})
        space = {"pd": pd}
        exec(dataset.code(), space)
        equal(space["mine"], dataset.load())


class TestFuzz(Case):
    @settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(
        st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode)),
        st.sampled_from([b"", b"PAR1", b"PK\x03\x04", b"\x1f\x8b\x08", b'{"a":', b"[", b"\xff\xfe", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"]),
        st.sampled_from(["a.csv", "a.json", "a.parquet", "a.xlsx", "a.jsonl", "a.csv.gz", "a"]),
    )
    def test_anything(self, content, magic, name):
        path = self.file(name, magic + content)
        try:
            self.assertIsInstance(read(path), pd.DataFrame)
        except Refused as e:
            self.assertTrue(str(e))


if __name__ == "__main__":
    unittest.main()
