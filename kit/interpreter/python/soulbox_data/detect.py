"""What a file is, by what is in it."""

import codecs
import csv
import gzip
import io
import json
import os
import re
import stat
import zipfile
import zlib

from . import Refused, among

FORMATS = ("csv", "parquet", "json", "jsonl", "excel")

HEAD = 1 << 20
MAX_FILE = 1 << 30  # bytes, also of what gzip has packed
MAX_JSON = 256 << 20  # bytes: in memory it is ten times as large
MAX_SHEETS = 128 << 20  # bytes of a workbook's parts: likewise
MAX_PARTS = 10_000
MAX_CELLS = 20_000_000  # of a sheet, empty ones too

ENDINGS = {
    ".csv": "csv", ".tsv": "csv", ".tab": "csv", ".txt": "csv",
    ".parquet": "parquet", ".pq": "parquet",
    ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".xlsx": "excel", ".xlsm": "excel", ".xls": "excel",
}  # fmt: skip

# What people call a dataset, and we have no reader for.
OTHERS = (
    (b"BZh", "is compressed with bzip2"), (b"\xfd7zXZ\0", "is compressed with xz"), (b"\x28\xb5\x2f\xfd", "is compressed with zstd"),
    (b"7z\xbc\xaf", "is an archive of 7-Zip"), (b"ARROW1", "is an Arrow or Feather file"), (b"SQLite format 3\0", "is a database of SQLite"),
    (b"%PDF", "is a PDF document"), (b"\x89HDF", "is an HDF5 file"), (b"\x89PNG", "is a picture"), (b"\xff\xd8\xff", "is a picture"),
    (b"\x7fELF", "is a program"), (b"Obj\x01", "is an Avro file"), (b"ORC", "is an ORC file"),
)  # fmt: skip


class Found:
    """A dataset's format, and what its reader needs to know about the file."""

    def __init__(self, format, gzip=False, encoding=None, sep=None, old=False):
        self.format = format
        self.gzip = gzip
        self.encoding = encoding  # of text, unless it is UTF-8
        self.sep = sep  # of CSV, unless it is a comma
        self.old = old  # a workbook of Excel before 2007


def detect(path, asked=None, sep=None):
    """What a file is; asked is what whoever sent it says that it is."""
    name = os.path.basename(path)
    try:
        about = os.stat(path)
    except FileNotFoundError:
        raise Refused(f"{name} does not exist", 404) from None
    except (OSError, ValueError) as e:
        raise Refused(f"{name} cannot be opened: {getattr(e, 'strerror', None) or e}") from None
    if not stat.S_ISREG(about.st_mode):
        raise Refused(f"{name} is not a file")
    if about.st_size > MAX_FILE:
        raise Refused(f"{name} has {about.st_size} bytes, more than {MAX_FILE}", 413)
    if about.st_size == 0:
        raise Refused(f"{name} is empty")
    try:
        with open(path, "rb") as f:
            head = f.read(HEAD)
    except OSError as e:
        raise Refused(f"{name} cannot be read: {e.strerror}") from None
    packed = head.startswith(b"\x1f\x8b")
    size, stem = about.st_size, name
    if packed:
        head, size = unpack(path, name)
        stem = name[:-3] if name.lower().endswith(".gz") else name
    found = binary(path, name, head, packed, size)
    if found is None:
        found = of_text(path, name, stem, head, size, asked, sep)
    if asked is not None and asked != found.format:
        raise Refused(f"{name} is not {asked}: it is {found.format}; leave format out, or say that")
    found.gzip = packed
    if found.format in ("json", "jsonl") and size > MAX_JSON:
        raise Refused(f"{name} has {size} bytes of JSON, more than {MAX_JSON}", 413)
    return found


def unpack(path, name):
    """The beginning of what gzip has packed, and how long it is."""
    size, head = 0, b""
    try:
        with gzip.open(path) as f:
            while True:
                part = f.read(HEAD)
                if not part:
                    break
                if not head:
                    head = part
                size += len(part)
                if size > MAX_FILE:
                    raise Refused(f"{name} unpacks to more than {MAX_FILE} bytes", 413)
    except (OSError, EOFError, zlib.error) as e:
        raise Refused(f"{name} begins like a gzip file, and cannot be unpacked: {e}") from None
    if not head:
        raise Refused(f"{name} is empty")
    return head, size


def binary(path, name, head, packed, size):
    """What a file is that is not text; None if it is."""
    if head.startswith(b"\x1f\x8b"):
        raise Refused(f"{name} is packed twice")
    for magic, what in OTHERS:
        if head.startswith(magic) and not (magic == b"ORC" and b"\0" not in head):
            raise Refused(f"{name} {what}; datasets are {among(FORMATS)}, the first four also packed with gzip")
    if head.startswith(b"PAR1") and (b"\0" in head or size < 12):
        if packed:
            raise Refused(f"{name} is Parquet packed with gzip; send it as it is")
        with open(path, "rb") as f:
            f.seek(-4, os.SEEK_END)
            if f.read() != b"PAR1" or size < 12:
                raise Refused(f"{name} begins like Parquet and does not end like it: it is cut off or broken")
        return Found("parquet")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")):
        if packed:
            raise Refused(f"{name} is packed with gzip what is packed already; send it as it is")
        if head.startswith(b"PK"):
            workbook(path, name)
            return Found("excel")
        return Found("excel", old=True)
    if b"\0" in head and not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise Refused(f"{name} is binary, and none of {among(FORMATS)}")
    return None


def workbook(path, name):
    """Refuses a zip file that is no workbook, or that is far larger than it looks."""
    try:
        with zipfile.ZipFile(path) as z:
            parts = z.infolist()
            names = {p.filename for p in parts}
            if "xl/workbook.xml" not in names:
                what = "a binary workbook (xlsb)" if "xl/workbook.bin" in names else "a zip file, and no workbook of Excel"
                raise Refused(f"{name} is {what}")
            # What zipfile reads of a part is at most what the part says that it has.
            if len(parts) > MAX_PARTS or sum(p.file_size for p in parts) > MAX_SHEETS:
                raise Refused(f"{name} unpacks to more than {MAX_SHEETS} bytes or {MAX_PARTS} parts", 413)
            for p in parts:
                if p.filename.startswith("xl/worksheets/") and p.filename.endswith(".xml"):
                    with z.open(p) as f:
                        area(f, name)
    except (zipfile.BadZipFile, OSError, EOFError, zlib.error, NotImplementedError, RuntimeError, ValueError) as e:
        raise Refused(f"{name} begins like a workbook and cannot be read: {e}") from None


REFERENCE = re.compile(rb'\br="([A-Z]{0,3})([0-9]{1,7})"')


def area(sheet, name):
    """Refuses a sheet with a cell so far out that the ones before it fill the memory."""
    rows = columns = 0
    rest = b""
    while True:
        part = sheet.read(HEAD)
        if not part:
            return
        text = rest + part
        for letters, digits in REFERENCE.findall(text):
            column = 0
            for c in letters:
                column = column * 26 + c - 64
            rows, columns = max(rows, int(digits)), max(columns, column)
        if rows * max(columns, 1) > MAX_CELLS:
            raise Refused(f"{name} has a sheet of {rows} rows and {columns} columns, more than {MAX_CELLS} cells", 413)
        rest = text[-20:]


def of_text(path, name, stem, head, size, asked, sep):
    """What a file of text is."""
    encoding = None
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    text = codecs.getincrementaldecoder(encoding or "utf-8-sig")("replace").decode(head)
    start = text.lstrip()
    named = ENDINGS.get(os.path.splitext(stem)[1].lower())
    if start[:200].lower().startswith(("<!doctype html", "<html", "<?xml")):
        raise Refused(f"{name} is HTML or XML, not a dataset; is it a page that says why there is none?")
    if not start:
        raise Refused(f"{name} has nothing but blanks")
    if asked == "csv":
        return of_csv(name, text, encoding, sep, stem)
    if start[0] in "{[":
        lines = objects(start, whole=len(head) >= size)
        if asked == "jsonl" or lines > 1 or lines == 1 and named == "jsonl":
            return Found("jsonl", encoding=encoding)
        if named != "csv" or asked == "json" or parses(path, name, size):
            return Found("json", encoding=encoding)
    elif asked in ("json", "jsonl") or named in ("json", "jsonl", "parquet", "excel") and not table(text):
        what = asked or named
        raise Refused(f"{name} is not {what}: it begins with {start[:20]!r}")
    return of_csv(name, text, encoding, sep, stem)


def objects(text, whole):
    """How many of the first two lines are each an object of JSON."""
    lines = [l for l in text[:HEAD].splitlines() if l.strip()][:3]
    if not whole and len(lines) < 3:
        lines = lines[:-1]  # it may be cut off
    count = 0
    for line in lines[:2]:
        try:
            if not isinstance(json.loads(line), dict):
                return 0
        except (ValueError, RecursionError):
            return 0
        count += 1
    return count


def parses(path, name, size):
    """Whether a file that is named otherwise is JSON."""
    if size > MAX_JSON // 4:
        return False
    try:
        with open(path, "rb") as f:
            text = f.read()
        if text.startswith(b"\x1f\x8b"):
            text = gzip.decompress(text)
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


SEPARATORS = ",;\t|"


def rows(text, sep):
    """The first rows of a text, without one that may be cut off."""
    try:
        out = []
        for row in csv.reader(io.StringIO(text[: HEAD // 4], newline=""), delimiter=sep):
            if row:
                out.append(row)
            if len(out) > 20:
                break
        return out
    except csv.Error:
        return []


def table(text):
    """Whether a text looks like rows with the same columns."""
    for sep in SEPARATORS:
        widths = {len(r) for r in rows(text, sep)[:20]}
        if len(widths) == 1 and widths.pop() > 1 and len(rows(text, sep)) > 1:
            return True
    return False


def of_csv(name, text, encoding, sep, stem):
    if sep is None:
        sep = "\t" if os.path.splitext(stem)[1].lower() in (".tsv", ".tab") else guess(text)
    return Found("csv", encoding=encoding, sep=None if sep == "," else sep)


def guess(text):
    """What separates the columns: a comma if the first line has one."""
    first = rows(text, ",")[:1]
    if first and len(first[0]) > 1:
        return ","
    for sep in SEPARATORS[1:]:
        widths = {len(r) for r in rows(text, sep)}
        if len(widths) == 1 and widths.pop() > 1:
            return sep
    return ","
