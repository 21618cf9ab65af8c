"""Datasets in, tables and pictures out: what analyze and visualize do in Python.

detect.py    What a file is, by what is in it; its name only helps where that
             says nothing.
load.py      A dataset as a DataFrame, within limits, and the line of Python that
             reads it.
plot.py      A kind of plot and its options as a program that draws it.
draw.py      Runs that program: visualize, a process of its own.
session.py   Loads datasets in a kernel and tells what became of them: analyze.

A file whose name does not fit what is in it is read as what it is, or refused in
a sentence. What unpacks to far more than it has is refused before it is read.
pandas 2.2 and newer will do; Parquet needs pyarrow, and workbooks openpyxl (or
xlrd for those of Excel before 2007). What a client sends is checked and becomes a
value, never a part of a program that is not quoted.
"""


class Refused(Exception):
    """A sentence for whoever asked, and the status of HTTP that goes with it."""

    def __init__(self, text, status=400):
        super().__init__(text)
        self.status = status


def short(value, most=200):
    """What is shown of something that a client has sent."""
    text = repr(value)
    return text if len(text) <= most else text[:most] + "…"


def among(names, most=50):
    """Names that would have been right, as a list to read."""
    names = [str(n) for n in names]
    if not names:
        return "none"
    return ", ".join(n[:100] for n in names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
