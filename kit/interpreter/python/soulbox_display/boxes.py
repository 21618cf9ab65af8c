"""Box plots: found by their shape, as Axes keep only the lines they are made of.

Of each box, matplotlib draws in this order: the box; two whiskers, from its ends
outwards; two caps or none; the median; the mean or not, as a line or a mark; the
outliers or not.
"""

import math

MOST = 9  # artists that belong to a box


class Box:
    """A box, its whiskers and what follows them."""

    def __init__(self, artist, vertical, middle, quartiles):
        self.artists = [artist]
        self.vertical = vertical
        self.middle = middle  # its place among the boxes
        self.quartiles = quartiles  # the first and the third
        self.median = None
        self.ends = []  # of its whiskers
        self.outliers = []


def find(artists):
    """The boxes among the artists of an Axes, which are in the order of drawing."""
    boxes, n = [], 0
    while n < len(artists):
        box = read(artists[n : n + MOST])
        if box is not None:
            boxes.append(box)
        n += len(box.artists) if box is not None else 1
    return boxes


def read(artists):
    """The box that begins with the first artist, or None."""
    box = outline(artists[0])
    if box is None or len(artists) < 3:
        return None
    for line, quartile in zip(artists[1:3], box.quartiles):
        points = corners(line, box.vertical)
        if (
            points is None
            or len(points) != 2
            or not all(same(x, box.middle) for x, _ in points)
            or not same(points[0][1], quartile)
        ):
            return None
        box.ends.append(points[1][1])
        box.artists.append(line)
    levels, marks = [], []
    for line in artists[3:]:
        points = corners(line, box.vertical)
        if points and level(points, box.middle) and len(levels) < 4 and not marks:
            levels.append(points[0][1])
        elif points is not None and marked(line) and all(same(x, box.middle) for x, _ in points):
            marks.append([y for _, y in points])
        else:
            break
        box.artists.append(line)
    if not levels:
        return None
    box.median = levels[0] if len(levels) < 3 else levels[2]
    if marks:  # what lies between the whiskers is the mean
        box.outliers = [y for y in marks[-1] if not min(box.ends) <= y <= max(box.ends)]
    return box


def outline(artist):
    """The box that an artist draws, or None if it draws something else."""
    points = None if marked(artist) else corners(artist, True)
    if points is None or len(points) not in (5, 11):  # eleven if it has a notch
        return None
    first, second, opposite = points[0], points[1], points[2 if len(points) == 5 else 5]
    if first != points[-1]:
        return None
    vertical = first[1] == second[1] and first[0] != second[0]
    if not vertical and (first[0] != second[0] or first[1] == second[1]):
        return None
    if vertical and second[0] == opposite[0]:
        return Box(artist, True, (first[0] + second[0]) / 2, (first[1], opposite[1]))
    if not vertical and second[1] == opposite[1]:
        return Box(artist, False, (first[1] + second[1]) / 2, (first[0], opposite[0]))
    return None


def corners(artist, vertical):
    """The points of a line or path, turned as if its box stood upright."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import PathPatch

    if isinstance(artist, Line2D):
        if len(artist.get_xdata(orig=False)) > 11 and not marked(artist):
            return None
        points = artist.get_xydata().tolist()
    elif type(artist) is PathPatch:
        points = artist.get_path().vertices[:-1].tolist()
    else:
        return None
    return [(x, y) if vertical else (y, x) for x, y in points]


def marked(line):
    """Whether a line has only marks."""
    from matplotlib.lines import Line2D

    return isinstance(line, Line2D) and line.get_linestyle() in ("None", "none", " ", "")


def level(points, middle):
    """Whether some points are a line across a box."""
    return len(points) == 2 and points[0][1] == points[1][1] and same((points[0][0] + points[1][0]) / 2, middle)


def same(a, b):
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
