"""A dataset as a DataFrame, and the line of Python that reads it."""

import keyword
import os

from . import Refused, among, short
from .detect import FORMATS, detect

MAX_DATASETS = 16
MAX_NAME = 64
MAX_PATH = 4096
MAX_LIST = 10_000
MAX_ROWS = 100_000_000
MAX_VALUES = 500_000_000  # of Parquet, which may say the same thing very often
MAX_COLUMNS = 20_000


def text(most=100):
    def check(v):
        if not isinstance(v, str) or not 0 < len(v) <= most or "\0" in v:
            raise ValueError(f"a text of 1 to {most} characters")
        return v

    return check


def whole(low, high):
    def check(v):
        if isinstance(v, bool) or not isinstance(v, int) or not low <= v <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return v

    return check


def one(*values):
    def check(v):
        if not any(type(v) is type(w) and v == w for w in values):
            raise ValueError(" or ".join(repr(w) for w in values))
        return v

    return check


def either(*checks):
    def check(v):
        said = []
        for c in checks:
            try:
                return c(v)
            except ValueError as e:
                said.append(str(e))
        raise ValueError(", or ".join(said))

    return check


def several(check):
    def all(v):
        if not isinstance(v, list) or not 0 < len(v) <= MAX_LIST:
            raise ValueError(f"a list of 1 to {MAX_LIST}")
        return [check(w) for w in v]

    return all


def mapping(check):
    def all(v):
        if not isinstance(v, dict) or not 0 < len(v) <= MAX_LIST:
            raise ValueError("an object")
        return {column(k): check(w) for k, w in v.items()}

    return all


def flag(v):
    if not isinstance(v, bool):
        raise ValueError("true or false")
    return v


column = text(1000)
columns = several(column)
TYPE = one("str", "int64", "Int64", "float64", "bool", "boolean", "category", "object")
TABLE = {
    "header": either(whole(0, 1000), one(None)),
    "names": columns,
    "usecols": columns,
    "index_col": either(column, whole(0, 1000)),
    "dtype": either(TYPE, mapping(TYPE)),
    "parse_dates": columns,
    "nrows": whole(0, MAX_ROWS),
    "skiprows": whole(0, MAX_ROWS),
    "na_values": several(text()),
    "keep_default_na": flag,
    "decimal": text(1),
    "thousands": text(1),
    "comment": text(1),
}
JSON = {"orient": one("records", "columns", "index", "split", "values", "table"), "encoding": text(40), "convert_dates": either(flag, columns)}
# What may be said about how a file is read, in pandas' words.
OPTIONS = {
    "csv": {**TABLE, "sep": text(10), "encoding": text(40), "quotechar": text(1), "escapechar": text(1)},
    "parquet": {"columns": columns},
    "json": JSON,
    "jsonl": {k: v for k, v in JSON.items() if k != "orient"} | {"nrows": TABLE["nrows"]},
    "excel": {**TABLE, "sheet_name": either(text(), whole(0, 1000))},
}


def check(options, known, what):
    """Options with values that make sense, or a refusal that says which would."""
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise Refused("options must be an object")
    out = {}
    for name, value in options.items():
        if name not in known:
            raise Refused(f"option {short(name)} is not known for {what}; there are {among(known)}")
        try:
            out[name] = known[name](value)
        except ValueError as e:
            raise Refused(f"option {name} must be {e}, not {short(value)}") from None
    return out


class Dataset:
    """A dataset that was asked for: what it is called, and how it is read."""

    def __init__(self, asked):
        if not isinstance(asked, dict):
            raise Refused("a dataset must be an object")
        self.name = asked.get("name", "df")
        if not isinstance(self.name, str) or not self.name.isascii() or not self.name.isidentifier() or keyword.iskeyword(self.name):
            raise Refused(f"{short(self.name)} cannot be the name of a variable in Python")
        if len(self.name) > MAX_NAME or self.name.startswith("_"):
            raise Refused(f"a dataset's name has at most {MAX_NAME} characters and does not begin with an underscore")
        self.path = asked.get("path")
        if not isinstance(self.path, str) or not 0 < len(self.path) <= MAX_PATH or "\0" in self.path:
            raise Refused(f"dataset {self.name}: path must be a text of 1 to {MAX_PATH} characters")
        self.label = os.path.basename(self.path)
        format = asked.get("format")
        if format is not None and format not in FORMATS:
            raise Refused(f"dataset {self.name}: format {short(format)} is not known; there are {among(FORMATS)}")
        options = asked.get("options")
        sep = options.get("sep") if isinstance(options, dict) else None
        self.found = detect(self.path, format, sep)
        self.format = self.found.format
        self.options = check(options, OPTIONS[self.format], self.format)

    def call(self):
        """The function of pandas that reads it, and its arguments by name."""
        found, given = self.found, dict(self.options)
        args = {}
        if self.format == "csv":
            if found.sep is not None:
                args["sep"] = found.sep
            # Numbers become what was written, and a column has one type.
            args.update(float_precision="round_trip", low_memory=False)
        elif self.format in ("json", "jsonl"):
            if self.format == "jsonl":
                args["lines"] = True
            # A text of digits is a text; the name of a column does not make dates.
            args["precise_float"] = True
            if given.get("orient") != "table":  # which says itself what is what
                args.update(dtype=False, convert_dates=False)
        elif self.format == "parquet":
            args["engine"] = "pyarrow"
        elif self.format == "excel":
            args["engine"] = "xlrd" if found.old else "openpyxl"
        if self.format in ("csv", "json", "jsonl"):
            if found.encoding is not None:
                args["encoding"] = found.encoding
            if found.gzip:
                args["compression"] = "gzip"
            elif os.path.splitext(self.path)[1].lower() in (".gz", ".bz2", ".xz", ".zip", ".zst", ".tar"):
                args["compression"] = None  # the name is wrong, not the file
        args.update(given)
        if args.get("sep") is not None and len(args["sep"]) > 1:
            args["engine"] = "python"
            args.pop("low_memory", None)
            args.pop("float_precision", None)
        function = {"csv": "read_csv", "parquet": "read_parquet", "excel": "read_excel"}.get(self.format, "read_json")
        return function, args

    def code(self):
        """The line of Python that reads it."""
        function, args = self.call()
        words = "".join(f", {k}={v!r}" for k, v in args.items())
        return f"{self.name} = pd.{function}({self.path!r}{words})"

    def load(self):
        """The DataFrame."""
        try:
            import pandas
        except ImportError:
            raise Refused("reading a dataset needs the package pandas, which is not installed", 409) from None
        if self.format == "parquet":
            self.check_parquet()
        function, args = self.call()
        try:
            frame = getattr(pandas, function)(self.path, **args)
        except ImportError as e:
            raise Refused(f"reading {self.format} needs a package that is not installed: {e}", 409) from None
        except UnicodeDecodeError:
            raise Refused(f"{self.label} is not UTF-8; say in option encoding what it is, such as cp1252") from None
        except MemoryError:
            raise Refused(f"{self.label} does not fit into the memory", 413) from None
        except Exception as e:
            raise Refused(f"{self.label} cannot be read as {self.format}: {type(e).__name__}: {str(e)[:500]}") from None
        if not isinstance(frame, pandas.DataFrame):
            raise Refused(f"{self.label} is not a table")
        if frame.shape[1] > MAX_COLUMNS:
            raise Refused(f"{self.label} has {frame.shape[1]} columns, more than {MAX_COLUMNS}", 413)
        return frame

    def check_parquet(self):
        """Refuses what is broken, or says that it is far larger than it looks."""
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise Refused("reading Parquet needs the package pyarrow, which is not installed", 409) from None
        try:
            with parquet.ParquetFile(self.path) as f:
                about = f.metadata
                rows, width = about.num_rows, about.num_columns
        except (pyarrow.ArrowException, OSError, ValueError) as e:
            raise Refused(f"{self.label} cannot be read as Parquet: {str(e)[:500]}") from None
        if rows < 0 or rows * max(width, 1) > MAX_VALUES:
            raise Refused(f"{self.label} has {rows} rows of {width} columns, more than {MAX_VALUES} values", 413)
