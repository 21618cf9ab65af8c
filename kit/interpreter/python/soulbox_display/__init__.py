"""What an IPython kernel shows beside what Jupyter shows, for clients of E2B.

Loaded as an IPython extension, it adds MIME types to what is displayed:

e2b/data          A table as {column: [value, …]}: pandas' DataFrame as E2B gives
                  it, that is without its index; and, which E2B does not have,
                  pandas' Series (with its index, unless that only counts),
                  and the frames, tables and columns of polars and pyarrow.
e2b/chart         A figure of matplotlib as E2B's chart: see charts.py.
application/json  A list or dict, if JSON can say it.
soulbox/note      Only if something was left out of the above: a sentence for
                  each omission, a line each. E2B's clients show MIME types that
                  they do not know under "extra".

In a table, what JSON does not know becomes: NaN, NaT, infinities and missing
values null; times ISO 8601, durations too; decimals numbers if a float is
exactly them, else text; bytes base64; tuples and sets lists; anything else its
str(). Names of columns become text, the levels of a MultiIndex joined by dots; a
name that is there already gets ".1", ".2" and so on. In JSON, a value of which
none of E2B's libraries would make JSON leaves out the whole.

Limits: see limits.py. Tables lose their last rows and columns, charts keep every
n-th point, JSON is left out as a whole; the note says so.

Colours in tracebacks are switched off, long lists are printed whole, and
images of Pillow are displayed when they are shown or saved to a file.

Nothing here imports what the user has not imported, and nothing that goes wrong
here reaches the user's cell: what cannot be read is left out.
"""


def load_ipython_extension(ip):
    """Registers everything with an InteractiveShell; IPython calls it."""
    from . import formatters, images

    formatters.register(ip)
    images.watch()
    plain(ip)


def plain(ip):
    """Makes text what programs can read: no colours, nothing elided."""
    formatter = ip.display_formatter.formatters.get("text/plain")
    if formatter is not None:
        formatter.max_seq_length = 0
    try:
        # The setting is only read at start; the magic reaches what runs.
        ip.run_line_magic("colors", "NoColor")
    except Exception:
        ip.colors = "NoColor"
