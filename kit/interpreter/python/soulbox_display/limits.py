"""How much of an object is shown.

The figures keep the message of a display below some ten megabytes and its
making below about a second, whatever the object is.
"""

TEXT = 8 << 20  # bytes of JSON of a table, or of a list or dict
VALUES = 500_000  # values of a table, or of a list or dict
ROWS = 100_000  # of a table
COLUMNS = 10_000  # of a table
DEPTH = 100  # lists and dicts within each other

CHARTS = 100  # subplots of a figure
SERIES = 1_000  # lines and collections of a chart
POINTS = 10_000  # of a series
CHART_POINTS = 100_000  # of a chart
ELEMENTS = 10_000  # bars, wedges or boxes of a chart
TICKS = 1_000  # of an axis
LABEL = 1_000  # characters of a title or label

PIXELS = 40_000_000  # of an image that is displayed because it is saved
