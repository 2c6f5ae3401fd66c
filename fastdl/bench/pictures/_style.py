"""Colours, hatches and markers of the pictures, and a sheet of paper to draw on.

The colours are those of Okabe and Ito, "Color Universal Design" (2008), which colour-blind people can tell apart. Kinds
of layers have hatches and markers of their own besides, participants markers: every picture can be read in grey.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from ..breakdown import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Of text and lines, and of the background. A page puts the colours of its own scheme in their place, so nothing that
#: must stay as it is (text on a coloured part) may have them.
INK, PAPER = "#1d2126", "#fefefe"
GRID = "#9aa0a6"
#: Inches: of every picture, and what stays free at its sides.
WIDTH, MARGIN = 9.6, 0.15

_BLUE, _VERMILION, _GREEN, _ORANGE = "#0072b2", "#d55e00", "#009e73", "#e69f00"
_SKY, _PURPLE, _YELLOW, _GREY = "#56b4e9", "#cc79a7", "#f0e442", "#999999"


class Look(NamedTuple):
    """Of a kind of layer."""

    color: str
    hatch: str
    marker: str


LOOKS = {
    "convolution": Look(_BLUE, "", "o"),
    "dense": Look(_VERMILION, "///", "s"),
    "pooling": Look(_GREEN, "\\\\\\", "^"),
    "normalisation": Look(_ORANGE, "...", "D"),
    "activation": Look(_SKY, "xxx", "v"),
    "dropout": Look(_PURPLE, "oo", "P"),
    "join": Look(_YELLOW, "---", "X"),
    "loss": Look(_GREY, "|||", "*"),
    "other": Look("#cfcfcf", "++", "h"),
}
assert tuple(LOOKS) == KINDS

_COLORS = (_BLUE, _ORANGE, _GREEN, _PURPLE, _VERMILION, _SKY, _GREY)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def participant_look(position: int) -> tuple[str, str]:
    """Colour and marker of the participant at this place in the record."""
    return _COLORS[position % len(_COLORS)], _MARKERS[position % len(_MARKERS)]


def kind_entries(kinds: Collection[str]) -> list[Entry]:
    """Of a legend, for patches."""
    return [Entry(name, look.color, look.hatch) for name, look in LOOKS.items() if name in kinds]


@contextmanager
def style() -> Iterator[None]:
    """Settings for drawing and saving; they stay as they were outside."""
    import matplotlib

    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    settings: dict[Any, Any] = dict.fromkeys(names, INK) | {
        "text.parse_math": False,  # names come from files and are no formulas
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "hatch.linewidth": 0.8,
        "svg.fonttype": "path",
        "svg.hashsalt": "fastdl",
    }
    with matplotlib.rc_context(settings):
        yield


def new_figure(height: float) -> Figure:
    """So many inches high, on a background that pages can colour."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=100, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at this place, in inches from the left and upper edges."""
    total = figure.get_figheight()
    return figure.add_axes((left / WIDTH, 1 - (top + height) / total, width / WIDTH, height / total), facecolor="none")


def sheet(figure: Figure, title: str) -> Axes:
    """Axes over the whole figure whose coordinates are inches from the left and upper edges, and a title."""
    axes = add_axes(figure, 0, 0, WIDTH, figure.get_figheight())
    axes.set(xlim=(0, WIDTH), ylim=(figure.get_figheight(), 0))
    axes.set_axis_off()
    axes.text(MARGIN, 0.3, shortened(title, WIDTH - 2 * MARGIN, 14, bold=True), size=14, weight="bold")
    return axes


class Entry(NamedTuple):
    """Of a legend: a patch, or where there is a marker or a style of line these."""

    text: str
    color: str
    hatch: str = ""
    marker: str = ""
    line: str = ""
    fill: str = "full"


#: Inches between the lines of a legend; from one entry to the next, of an entry beside its text.
_LINE, _BETWEEN, _SAMPLE = 0.24, 0.22, 0.34


def legend_height(entries: Sequence[Entry]) -> float:
    """Inches."""
    return _LINE * (1 + max(line for line, _, _ in _flow(entries)))


def _flow(entries: Sequence[Entry]) -> Iterator[tuple[int, float, Entry]]:
    """(line, inches from the left, entry)."""
    line, at = 0, MARGIN
    for entry in entries:
        entry = entry._replace(text=shortened(entry.text, WIDTH - 2 * MARGIN - _SAMPLE, 9.5))
        wide = _SAMPLE + text_width(entry.text, 9.5)
        if at + wide > WIDTH - MARGIN and at > MARGIN:
            line, at = line + 1, MARGIN
        yield line, at, entry
        at += wide + _BETWEEN


def legend(paper: Axes, top: float, entries: Sequence[Entry]) -> None:
    """Entries beside each other, in as many lines as they need."""
    from matplotlib.patches import Rectangle

    for line, at, entry in _flow(entries):
        middle = top + _LINE * (line + 0.5)
        if entry.line:
            paper.plot([at, at + 0.28], [middle] * 2, color=entry.color, lw=1.6, ls=entry.line)
        if entry.marker:
            paper.plot([at + 0.14], [middle], entry.marker, color=entry.color, fillstyle=entry.fill, markersize=7)
        if not (entry.line or entry.marker):
            box = Rectangle(
                (at, middle - 0.085), 0.28, 0.17, facecolor=entry.color, edgecolor=PAPER, hatch=entry.hatch, lw=0
            )
            paper.add_patch(box)
        paper.text(at + _SAMPLE, middle, entry.text, size=9.5, va="center_baseline")


@functools.lru_cache(4096)
def text_width(text: str, size: float, bold: bool = False) -> float:
    """Inches, of the widest line."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    return max(float(TextPath((0, 0), line, size=size, prop=font).get_extents().x1) for line in text.split("\n")) / 72


def shortened(text: str, width: float, size: float, bold: bool = False) -> str:
    """``text``, or as much of its beginning and end as fits into so many inches."""

    def kept(count: int) -> str:
        return f"{text[: (count + 1) // 2]}…{text[len(text) - count // 2 :]}"

    if text_width(text, size, bold) <= width:
        return text
    most = bisect.bisect_right(range(len(text)), width, key=lambda count: text_width(kept(count), size, bold))
    return kept(max(0, most - 1))


def luminance(color: str) -> float:
    """Relative luminance of "#rrggbb" (WCAG 2.2)."""

    def linear(value: int) -> float:
        share = value / 255
        return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(color[k : k + 2], 16)) for k in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    """Of two colours, from 1 to 21 (WCAG 2.2)."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def text_on(color: str) -> str:
    """Black or white, whichever can be read on ``color``: a contrast of 4.5 at least."""
    return max(("#000000", "#ffffff"), key=lambda ink: contrast(ink, color))
