"""The formatters that IPython asks about everything it displays."""

import sys

from IPython.core.formatters import BaseFormatter, JSONFormatter
from traitlets import ObjectName, Unicode

from . import tables
from .values import TooMuch, Writer


def register(ip):
    """Adds the formatters to a shell; a second time replaces them."""
    display = ip.display_formatter
    notes = Notes()
    for formatter in (DataFormatter, ChartFormatter, ValueFormatter, NoteFormatter):
        made = formatter(parent=display)
        made.notes = notes
        # The note must be asked for last: the others write it.
        display.formatters.pop(made.format_type, None)
        display.formatters[made.format_type] = made


class Notes:
    """What the formatters have left out of the object at hand.

    IPython asks them one by one, about one object at a time.
    """

    def __init__(self):
        self.of = None
        self.lines = []

    def add(self, obj, line):
        if self.of != id(obj):
            self.of, self.lines = id(obj), []
        self.lines.append(line)

    def take(self, obj):
        lines = self.lines if self.of == id(obj) else []
        self.of, self.lines = None, []
        return "\n".join(lines) or None


class DataFormatter(BaseFormatter):
    """Tables as columns."""

    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = (dict, str)

    def __call__(self, obj):
        try:
            table = tables.find(obj)
            if table is not None:
                data, note = tables.columns(table)
                if note:
                    self.notes.add(obj, note)
                return data
        except Exception:
            return None
        return super().__call__(obj)


class ChartFormatter(BaseFormatter):
    """Figures as charts."""

    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = (dict, str)

    def __call__(self, obj):
        figures = sys.modules.get("matplotlib.figure")
        if figures is None or not isinstance(obj, figures.Figure):
            return super().__call__(obj)
        from . import charts

        chart, notes = charts.of_figure(obj)
        for note in notes:
            self.notes.add(obj, note)
        return chart


class ValueFormatter(JSONFormatter):
    """Lists and dicts as JSON."""

    def __call__(self, obj):
        if isinstance(obj, (list, dict)):
            try:
                return Writer(strict=True).value(obj), {"expanded": True}
            except TooMuch:
                self.notes.add(obj, "json is left out: the value is too large or too deep")
            except Exception:  # it is Unsayable, or whatever the user's objects raise
                return super().__call__(obj)
            return None
        return super().__call__(obj)


class NoteFormatter(BaseFormatter):
    """What the others have left out."""

    format_type = Unicode("soulbox/note")
    print_method = ObjectName("_repr_soulbox_note_")
    _return_type = str

    def __call__(self, obj):
        return self.notes.take(obj)
