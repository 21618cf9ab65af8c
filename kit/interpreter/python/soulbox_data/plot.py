"""A kind of plot and its options, as a program of Python that draws it.

Everything that a client has said is a literal in the program. Columns are chosen
while it is written, so that it says which they are.
"""

from . import Refused, among, short
from .load import check, column, columns, either, flag, one, text, whole

MAX_PIXELS = 50_000_000
MAX_LINES = 50
MAX_GROUPS = 50
MAX_BARS = 500
MAX_BOXES = 100
MAX_SLICES = 50
MAX_CELLS = 200  # of a side of a heatmap
MAX_PAIRS = 8
MANY = 20_000  # points, of which a picture in a picture is made


def number(low, high):
    def check(v):
        if isinstance(v, bool) or not isinstance(v, (int, float)) or not low <= v <= high:
            raise ValueError(f"a number from {low} to {high}")
        return v

    return check


some = either(column, columns)
AGGREGATE = one("sum", "mean", "median", "min", "max", "count")
EVERY = {
    "title": text(500), "x_label": text(500), "y_label": text(500), "width": number(1, 50), "height": number(1, 50),
    "dpi": whole(20, 600), "grid": flag, "legend": flag, "dates": columns,
}  # fmt: skip
LOG = {"log_x": flag, "log_y": flag}
# What may be said about each kind.
KINDS = {
    "line": {**EVERY, **LOG, "x": column, "y": some, "hue": column, "marker": flag},
    "bar": {**EVERY, "log_y": flag, "x": column, "y": some, "hue": column, "aggregate": AGGREGATE, "stacked": flag, "horizontal": flag},
    "scatter": {**EVERY, **LOG, "x": column, "y": column, "hue": column, "size": number(0.1, 1000), "alpha": number(0, 1)},
    "histogram": {**EVERY, **LOG, "x": some, "hue": column, "bins": whole(1, 1000), "density": flag},
    "box": {**EVERY, "log_y": flag, "x": column, "y": some},
    "heatmap": {**EVERY, "x": column, "y": column, "value": column, "aggregate": AGGREGATE, "annotate": flag, "columns": columns},
    "pie": {**EVERY, "x": column, "y": column},
    "pair": {**EVERY, "columns": columns, "hue": column, "bins": whole(1, 1000), "alpha": number(0, 1)},
}

HEAD = """\
import matplotlib.pyplot as plt
import pandas as pd

plt.rcParams["svg.hashsalt"] = "soulbox"  # the same picture is the same file
plt.rcParams["text.parse_math"] = False  # a $ is a dollar
"""


def program(kind, options, frame, read):
    """The program that draws a frame, which the line read makes the variable df."""
    known = KINDS.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise Refused(f"kind {short(kind)} is not known; there are {among(KINDS)}")
    plot = Plot(kind, check(options, known, f"kind {kind}"), frame)
    body = plot.body()
    return "\n".join([HEAD, read, *plot.dates(), "", *body, *plot.finish()]) + "\n"


class Plot:
    """Writes the lines of one program."""

    def __init__(self, kind, options, frame):
        self.kind = kind
        self.o = options
        self.name = "df"
        self.frame = frame
        if len(frame) == 0 or frame.shape[1] == 0:
            raise Refused("there is nothing to draw: the dataset has no rows or no columns")
        for c in options.get("dates", []):
            self.has(c)
            self.frame = self.frame.assign(**{c: self.converted(c)})
        self.width, self.height = options.get("width", 8), options.get("height", 8 if kind == "pair" else 5)
        self.dpi = options.get("dpi", 100)
        if self.width * self.height * self.dpi**2 > MAX_PIXELS:
            raise Refused(f"width × height × dpi² is more than {MAX_PIXELS} pixels")

    def converted(self, c):
        import pandas

        try:
            return pandas.to_datetime(self.frame[c])
        except Exception as e:
            raise Refused(f"column {short(c)} has values that are no dates: {str(e)[:200]}") from None

    def dates(self):
        return [f"{self.name}[{c!r}] = pd.to_datetime({self.name}[{c!r}])" for c in self.o.get("dates", [])]

    # Columns

    def has(self, c):
        if c not in self.frame.columns:
            raise Refused(f"there is no column {short(c)}; there are {among(self.frame.columns)}")
        if not hasattr(self.frame[c], "dtype"):
            raise Refused(f"there are several columns {short(c)}")
        return c

    def is_number(self, c):
        from pandas.api import types

        t = self.frame[c].dtype
        return types.is_numeric_dtype(t) and not types.is_bool_dtype(t) and not types.is_complex_dtype(t)

    def number(self, option):
        return self.must_be_number(self.required(option))

    def must_be_number(self, c):
        self.has(c)
        if not self.is_number(c):
            raise Refused(f"column {short(c)} has no numbers; columns with numbers are {among(self.numbers())}")
        return c

    def numbers(self):
        return [c for c in self.frame.columns if isinstance(c, str) and hasattr(self.frame[c], "dtype") and self.is_number(c)]

    def required(self, option):
        if option not in self.o:
            raise Refused(f"kind {self.kind} needs option {option}: a column, of {among(self.frame.columns)}")
        return self.has(self.o[option])

    def optional(self, option):
        return self.has(self.o[option]) if option in self.o else None

    def listed(self, option, besides=(), most=MAX_LINES):
        """The columns with numbers that an option names, or else all of them."""
        given = self.o.get(option)
        if given is not None:
            out = [self.must_be_number(c) for c in ([given] if isinstance(given, str) else given)]
        else:
            out = [c for c in self.numbers() if c not in besides]
            if not out:
                raise Refused(f"kind {self.kind} needs columns with numbers, and there are none but {among(besides)}")
        if len(out) > most:
            raise Refused(f"kind {self.kind} draws at most {most} columns, not {len(out)}; name them in option {option}")
        return out

    def log(self, option, names):
        if self.o.get(option):
            for c in names:
                if not self.is_number(c):
                    raise Refused(f"{option} needs numbers, and column {short(c)} has none")

    def few(self, c, most, what):
        count = self.frame[c].nunique(dropna=False)
        if count > most:
            raise Refused(f"column {short(c)} has {count} different values; kind {self.kind} has at most {most} {what}")
        return c

    def raster(self):
        return ", rasterized=True" if len(self.frame) > MANY else ""

    # Programs

    def start(self):
        return [f"fig, ax = plt.subplots(figsize=({self.width!r}, {self.height!r}))"]

    def body(self):
        return getattr(self, "draw_" + self.kind)()

    def labels(self, x=None, y=None):
        """The title and what the axes are called, unless the client has said."""
        out = []
        for function, option, default in (("set_title", "title", None), ("set_xlabel", "x_label", x), ("set_ylabel", "y_label", y)):
            label = self.o.get(option, default)
            if label is not None:
                out.append(f"ax.{function}({label!r})")
        out += [f"ax.set_{a}scale('log')" for a in "xy" if self.o.get(f"log_{a}")]
        if self.o.get("grid"):
            out.append("ax.grid(True)")
        return out

    def legend(self, default):
        return ["ax.legend()"] if self.o.get("legend", default) else []

    def finish(self):
        return [
            "fig.tight_layout()",
            f'fig.savefig("plot.png", dpi={self.dpi!r})',
            'fig.savefig("plot.svg", metadata={"Date": None})',
        ]

    def draw_line(self):
        x, hue, n = self.optional("x"), self.optional("hue"), self.name
        ys = self.listed("y", besides=[c for c in (x, hue) if c])
        self.log("log_x", [x] if x else [])
        style = (", marker='o'" if self.o.get("marker") else "") + self.raster()
        out = self.start()
        data = f"{n}.sort_values({x!r}, kind='stable')" if x else n
        out.append(f"data = {data}")
        of = f"part[{x!r}]" if x else "part.index"
        if hue:
            self.few(hue, MAX_GROUPS, "lines")
            out += [f"for value, part in data.groupby({hue!r}, sort=True, observed=True):"]
            label = "str(value)" if len(ys) == 1 else "f'{value}, {column}'"
        else:
            out += ["for part in [data]:"]
            label = "column"
        out += [f"    for column in {ys!r}:", f"        ax.plot({of}, part[column], label={label}{style})"]
        return out + self.labels(x, ys[0] if len(ys) == 1 else None) + self.legend(len(ys) > 1 or hue is not None)

    def draw_bar(self):
        x, hue, n = self.required("x"), self.optional("hue"), self.name
        self.few(x, MAX_BARS, "bars")
        if hue:
            self.few(hue, MAX_GROUPS, "groups")
        how = self.o.get("aggregate", "sum" if "y" in self.o else "count")
        out, y = self.start(), None
        if "y" not in self.o:
            if how != "count":
                raise Refused(f"aggregate {how!r} needs option y: a column with numbers, of {among(self.numbers())}")
            y = "count"
            if hue:
                out.append(f"table = {n}.groupby([{x!r}, {hue!r}], observed=True).size().unstack().sort_index(axis=1)")
            else:
                out.append(f"table = {n}.groupby({x!r}, observed=True).size()")
        else:
            ys = self.listed("y", most=MAX_GROUPS)
            if hue and len(ys) > 1:
                raise Refused("kind bar takes several columns y, or a hue, but not both")
            y = ys[0] if len(ys) == 1 else None
            if hue:
                out.append(f"table = {n}.groupby([{x!r}, {hue!r}], observed=True)[{y!r}].{how}().unstack().sort_index(axis=1)")
            else:
                out.append(f"table = {n}.groupby({x!r}, observed=True)[{(ys if len(ys) > 1 else ys[0])!r}].{how}()")
        many = hue is not None or y is None
        kind = "barh" if self.o.get("horizontal") else "bar"
        legend = self.o.get("legend", many)
        out.append(f"table.plot(kind={kind!r}, ax=ax, stacked={self.o.get('stacked', False)!r}, legend={legend!r})")
        labels = (y, x) if kind == "barh" else (x, y)
        return out + self.labels(*[l or "" for l in labels])

    def draw_scatter(self):
        x, y, hue, n = self.number("x"), self.number("y"), self.optional("hue"), self.name
        style = f", s={self.o.get('size', 20)!r}, alpha={self.o.get('alpha', 0.8)!r}{self.raster()}"
        out = self.start()
        if hue and self.is_number(hue) and self.frame[hue].nunique() > 10:
            out += [
                f"points = ax.scatter({n}[{x!r}], {n}[{y!r}], c={n}[{hue!r}]{style})",
                f"fig.colorbar(points, label={hue!r})",
            ]
            hue = None
        elif hue:
            self.few(hue, MAX_GROUPS, "groups")
            out += [
                f"for value, part in {n}.groupby({hue!r}, sort=True, observed=True):",
                f"    ax.scatter(part[{x!r}], part[{y!r}], label=str(value){style})",
            ]
        else:
            out.append(f"ax.scatter({n}[{x!r}], {n}[{y!r}]{style})")
        return out + self.labels(x, y) + self.legend(hue is not None)

    def draw_histogram(self):
        xs, hue, n = self.listed("x"), self.optional("hue"), self.name
        style = f"bins=bins, density={self.o.get('density', False)!r}"
        out = self.start()
        bins = self.o.get("bins", 30)
        out += [
            "import numpy as np",
            f"values = {n}[{xs!r}].to_numpy(dtype=float, na_value=float('nan'))",
            "values = values[np.isfinite(values)]",
        ]
        if self.o.get("log_x"):
            out += [
                "values = values[values > 0]",
                f"bins = np.geomspace(values.min(), values.max(), {bins + 1!r}) if values.size and values.min() < values.max() else {bins!r}",
            ]
        else:
            out.append(f"bins = np.histogram_bin_edges(values, bins={bins!r})")
        if hue:
            self.few(hue, MAX_GROUPS, "groups")
            if len(xs) > 1:
                raise Refused("kind histogram takes several columns x, or a hue, but not both")
            out += [
                f"for value, part in {n}.groupby({hue!r}, sort=True, observed=True):",
                f"    ax.hist(part[{xs[0]!r}].dropna(), {style}, alpha=0.5, label=str(value))",
            ]
        else:
            alpha = ", alpha=0.5" if len(xs) > 1 else ""
            out += [f"for column in {xs!r}:", f"    ax.hist({n}[column].dropna(), {style}{alpha}, label=column)"]
        label = "density" if self.o.get("density") else "count"
        return out + self.labels(xs[0] if len(xs) == 1 else None, label) + self.legend(hue is not None or len(xs) > 1)

    def draw_box(self):
        x, n = self.optional("x"), self.name
        ys = self.listed("y", besides=[x] if x else [], most=MAX_BOXES)
        out = self.start()
        if x:
            self.few(x, MAX_BOXES, "boxes")
            if len(ys) > 1:
                raise Refused("kind box takes several columns y, or groups by a column x, but not both; name one y")
            out += [
                f"groups = list({n}.groupby({x!r}, sort=True, observed=True)[{ys[0]!r}])",
                "ax.boxplot([part.dropna() for _, part in groups])",
                "labels = [str(value) for value, _ in groups]",
            ]
        else:
            out += [f"columns = {ys!r}", f"ax.boxplot([{n}[column].dropna() for column in columns])", "labels = columns"]
        out.append("ax.set_xticks(range(1, len(labels) + 1), labels)")
        return out + self.labels(x, ys[0] if len(ys) == 1 else None)

    def draw_heatmap(self):
        n, out = self.name, self.start()
        given = [o for o in ("x", "y", "value") if o in self.o]
        if given and len(given) < 3:
            raise Refused("kind heatmap needs all of x, y and value, or none of them: then it shows how columns correlate")
        if given:
            x, y, value = self.required("x"), self.required("y"), self.number("value")
            if "columns" in self.o:
                raise Refused("kind heatmap takes columns, or x, y and value, but not both")
            self.few(x, MAX_CELLS, "columns")
            self.few(y, MAX_CELLS, "rows")
            how = self.o.get("aggregate", "mean")
            out.append(f"table = {n}.pivot_table(index={y!r}, columns={x!r}, values={value!r}, aggfunc={how!r}, observed=True)")
            scale, label, names = "", value, (x, y)
        else:
            if "aggregate" in self.o:
                raise Refused("aggregate needs x, y and value")
            cs = self.listed("columns", most=MAX_CELLS)
            out.append(f"table = {n}[{cs!r}].corr()")
            scale, label, names = ", vmin=-1, vmax=1, cmap='coolwarm'", "correlation", (None, None)
        out += [
            f"image = ax.imshow(table.to_numpy(dtype=float), aspect='auto'{scale})",
            f"fig.colorbar(image, label={label!r})",
            "ax.set_xticks(range(table.shape[1]), [str(c) for c in table.columns], rotation=90)",
            "ax.set_yticks(range(table.shape[0]), [str(r) for r in table.index])",
        ]
        if self.o.get("annotate"):
            out += [
                "for i in range(table.shape[0]):",
                "    for j in range(table.shape[1]):",
                "        ax.text(j, i, f'{table.iat[i, j]:.2g}', ha='center', va='center')",
            ]
        return out + self.labels(*names)

    def draw_pie(self):
        x, n = self.required("x"), self.name
        self.few(x, MAX_SLICES, "slices")
        out = self.start()
        if "y" in self.o:
            y = self.number("y")
            if (self.frame[y] < 0).any():
                raise Refused(f"column {short(y)} has values below 0, of which a pie has no slice")
            out.append(f"table = {n}.groupby({x!r}, observed=True)[{y!r}].sum()")
        else:
            out.append(f"table = {n}.groupby({x!r}, observed=True).size()")
        out.append("ax.pie(table.to_numpy(dtype=float), labels=[str(label) for label in table.index], autopct='%1.1f%%')")
        return out + self.labels() + self.legend(False)

    def draw_pair(self):
        hue, n = self.optional("hue"), self.name
        cs = self.listed("columns", besides=[hue] if hue else [], most=MAX_PAIRS)
        alpha, bins = self.o.get("alpha", 0.6), self.o.get("bins", 20)
        if hue:
            self.few(hue, MAX_GROUPS, "groups")
            parts = f"list({n}.groupby({hue!r}, sort=True, observed=True))"
        else:
            parts = f"[('', {n})]"
        out = [
            f"columns = {cs!r}",
            f"parts = {parts}",
            f"fig, axes = plt.subplots(len(columns), len(columns), figsize=({self.width!r}, {self.height!r}), squeeze=False)",
            "for i, y in enumerate(columns):",
            "    for j, x in enumerate(columns):",
            "        ax = axes[i][j]",
            "        for value, part in parts:",
            "            if i == j:",
            f"                ax.hist(part[x].dropna(), bins={bins!r}, alpha={alpha!r}, label=str(value))",
            "            else:",
            f"                ax.scatter(part[x], part[y], s=8, alpha={alpha!r}, label=str(value){self.raster()})",
            "        if i == len(columns) - 1:",
            "            ax.set_xlabel(x)",
            "        if j == 0:",
            "            ax.set_ylabel(y)",
        ]
        if self.o.get("grid"):
            out.append("        ax.grid(True)")
        for option in ("x_label", "y_label"):
            if option in self.o:
                raise Refused(f"option {option} is not known for kind pair: its axes are called as their columns are")
        if "title" in self.o:
            out.append(f"fig.suptitle({self.o['title']!r})")
        if hue and self.o.get("legend", True):
            out.append(f"axes[0][-1].legend(title={hue!r})")
        return out
