"""Rooflines: what each row reaches of what the machine can do (Williams, Waterman and Patterson, "Roofline: an
insightful visual performance model for multicore architectures", CACM 52(4), 2009)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..breakdown import Column, Setting, counted, kind, participants, passes, row_name, significant
from ..breakdown import roofline as percent_of_roof
from ..record import CUDA, Measurement, Record, Triad
from ._style import (
    GRID,
    INK,
    LOOKS,
    PAPER,
    WIDTH,
    Entry,
    add_axes,
    legend,
    legend_height,
    new_figure,
    participant_look,
    sheet,
    shortened,
    style,
    text_width,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEFT, _LONG, _HIGH = 1.0, WIDTH - 1.2, 4.6
#: A cache has a roof of its own where it is so many times as fast as what lies behind it.
FASTER = 1.25
#: Of markers, for participants: their shape says the kind of layer.
_FILLS = ("full", "none", "left", "bottom", "right", "top")
#: Points with a name.
LABELS = 8


#: Inches inside the axes: left, bottom, right, top.
Box = tuple[float, float, float, float]


class Roof(NamedTuple):
    """GB/s out of a cache or out of memory."""

    name: str
    gbps: float


def roofs(record: Record, isa: str, threads: int) -> list[Roof]:
    """From the slowest: memory, as the largest triad found it, then caches in which smaller ones were faster."""
    triads = record.peaks.triads(isa, threads) if record.peaks else []
    if not triads:
        return []
    found = [Roof("memory", triads[-1].rate)]
    if isa == CUDA:
        return found
    for level, smallest, largest in reversed(_levels(record.machine.caches, threads)):
        inside: list[Triad] = [t for t in triads if smallest < t.bytes <= largest]
        rate = max((t.rate for t in inside), default=0.0)
        if rate > FASTER * found[-1].gbps:
            found.append(Roof(f"{level} cache", rate))
    return found


def _levels(caches: dict[str, int], threads: int) -> list[tuple[str, int, int]]:
    """(name, bytes that no longer fit into the level before, bytes that fit); the first two levels belong to a core."""
    found, before = [], 0
    for name, nbytes in sorted(caches.items()):
        if not name.endswith("i"):
            fits = nbytes * (threads if name.startswith(("L1", "L2")) else 1)
            found.append((name.rstrip("d"), before, fits))
            before = fits
    return found


def _shown(columns: Sequence[Column]) -> list[tuple[Column, list[Measurement]]]:
    """Columns with rows whose operations and bytes are counted."""
    return [(c, rows) for c in columns if (rows := [m for m in c.rows if m.flop and m.bytes])]


def _top(record: Record, shown: Sequence[tuple[Column, list[Measurement]]]) -> tuple[str, float] | None:
    """ISA level and GFLOP/s of the highest roof that somebody here could reach."""
    m = shown[0][1][0]
    threads = m.threads
    levels = {p.isa for p in record.peaks.fma if (p.isa == CUDA) == (m.isa == CUDA)} if record.peaks else set()
    used = levels & {m.isa for _, rows in shown for m in rows} or levels
    rates = [(rate, isa) for isa in used if record.peaks and (rate := record.peaks.gflops(isa, m.dtype, threads))]
    return (max(rates)[1], max(rates)[0]) if rates else None


@style()
def roofline(record: Record, setting: Setting, direction: str = "forward") -> Figure | None:
    """A panel for each device; None where nothing was counted."""
    every = passes(record, setting).get(direction, [])
    panels = [s for name in ("cpu", "cuda") if (s := _shown([c for c in every if c.device == name]))]
    if not panels:
        return None
    ordered = participants(record)
    looks = {
        c.participant: (participant_look(ordered.index(c.participant))[0], _FILLS[position % len(_FILLS)])
        for shown in panels
        for position, (c, _) in enumerate(shown)
    }
    kinds = {kind(m) for shown in panels for _, rows in shown for m in rows}
    entries = [
        [Entry(name, INK, marker=look.marker) for name, look in LOOKS.items() if name in kinds],
        [Entry(name, color, marker="o", fill=fill) for name, (color, fill) in looks.items()],
    ]
    below = sum(map(legend_height, entries)) + 0.15
    figure = new_figure(0.5 + len(panels) * (_HIGH + 0.95) + below)
    title = f"What each row reaches: {setting.network}, batch {setting.batch}, {setting.dtype}, {direction} pass"
    paper = sheet(figure, title)
    top = 0.5
    for shown in panels:
        axes = add_axes(figure, _LEFT, top + 0.35, _LONG, _HIGH)
        cuda = shown[0][0].device == "cuda"
        name = (record.machine.gpu or {}).get("name", "GPU") if cuda else record.machine.cpu
        name = str(name) if cuda else f"{name}, {counted(setting.threads, 'thread')}"
        axes.set_title(shortened(name, _LONG, 11), size=11, loc="left")
        _panel(axes, record, shown, looks)
        top += _HIGH + 0.95
    for some in entries:
        legend(paper, top + 0.05, some)
        top += legend_height(some)
    return figure


def _panel(
    axes: Axes, record: Record, shown: Sequence[tuple[Column, list[Measurement]]], looks: dict[str, tuple[str, str]]
) -> None:
    points = [
        (m.flop / m.bytes, m.flop / m.median / 1e9, m, column)
        for column, rows in shown
        for m in rows
        if m.flop and m.bytes
    ]
    some = points[0][2]
    slopes, peak = roofs(record, some.isa, some.threads), _top(record, shown)
    x = [p[0] for p in points] + ([peak[1] / slopes[0].gbps] if peak and slopes else [])
    y = [p[1] for p in points] + ([peak[1]] if peak else [])
    low, high = min(x) / 6, max(x) * 4  # to the left there is room for the names of roofs
    bottom, top = min(y) / 2.5, max(y) * 2.2
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(bottom, top))
    across, up = _LONG / math.log10(high / low), _HIGH / math.log10(top / bottom)

    def inches(x: float, y: float) -> tuple[float, float]:
        return across * math.log10(x / low), up * math.log10(y / bottom)

    taken: list[Box] = []
    for number, roof in enumerate(slopes):
        start, end = max(low, bottom / roof.gbps), min((peak[1] if peak else top) / roof.gbps, high)
        if end <= start:
            continue
        axes.plot([start, end], [roof.gbps * start, roof.gbps * end], color=INK, lw=0.9 if number else 1.4)
        (x0, y0), (x1, y1) = inches(start, roof.gbps * start), inches(end, roof.gbps * end)
        steps = int((x1 - x0) / 0.05) + 1
        along = [(x0 + (x1 - x0) * k / steps, y0 + (y1 - y0) * k / steps) for k in range(steps + 1)]
        text, angle = f"{roof.name} {significant(roof.gbps)} GB/s", math.atan2(up, across)
        written = text_width(text, 8.5) * math.cos(angle) + 0.15
        if written < x1 - x0:
            at, turned = start * (high / low) ** 0.01, math.degrees(angle)
            axes.text(at, roof.gbps * at * 1.1, text, size=8.5, rotation=turned, rotation_mode="anchor", va="bottom")
        taken += [(x - 0.03, y - 0.03, x + 0.03, y + (0.22 if x - x0 < written else 0.03)) for x, y in along]
    if peak:
        ridge = peak[1] / slopes[-1].gbps if slopes else low
        axes.plot([ridge, high], [peak[1]] * 2, color=INK, lw=1.4)
        text = (
            f"{'matrix products' if some.isa == CUDA else f'multiply-adds, {peak[0]}'}: {significant(peak[1])} GFLOP/s"
        )
        axes.text(high / 1.05, peak[1] * 1.06, text, size=9, ha="right", va="bottom")
        (x0, y0), wide = inches(ridge, peak[1]), text_width(text, 9) + 0.15
        taken += [(x0, y0 - 0.02, _LONG, y0 + 0.02), (_LONG - wide, y0, _LONG, y0 + 0.22)]
    for px, py, m, column in reversed(points):
        (color, fill), look = looks[column.participant], LOOKS[kind(m)]
        full = fill == "full"
        axes.plot(
            [px],
            [py],
            look.marker,
            color=color,
            fillstyle=fill,
            markerfacecoloralt=PAPER,
            markeredgecolor=PAPER if full else color,
            markeredgewidth=0.6 if full else 1.2,
            markersize=12 if look.marker == "*" else 8,
        )
    _names(axes, points, inches, taken)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: significant(value, 1))
        axis.set_minor_formatter(lambda value, _: "")
    axes.set(xlabel="FLOP per byte", ylabel="GFLOP/s")
    axes.grid(color=GRID, alpha=0.35, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _names(
    axes: Axes,
    points: Sequence[tuple[float, float, Measurement, Column]],
    inches: Callable[[float, float], tuple[float, float]],
    taken: list[Box],
) -> None:
    """Names of the longest rows of the first participant, each where it hides no point, no roof and no other name."""
    size, tall = 8.5, 0.13
    first = points[0][3].participant
    placed = [(*inches(x, y), m, column) for x, y, m, column in points]
    taken = taken + [(x - 0.06, y - 0.06, x + 0.06, y + 0.06) for x, y, *_ in placed]
    own = sorted((p for p in placed if p[3].participant == first), key=lambda p: -p[2].median)
    for x, y, m, _ in own[:LABELS]:
        wide = text_width(row_name(m), size)
        right, left, middle = 0.1, -0.1 - wide, -wide / 2
        for dx, dy in (
            (right, 0),
            (left, 0),
            (middle, -0.16),
            (middle, 0.16),
            (right, -0.1),
            (left, -0.1),
            (middle, -0.3),
        ):
            box = (x + dx, y + dy - tall / 2, x + dx + wide, y + dy + tall / 2)
            inside = min(box) > 0 and box[2] < _LONG and box[3] < _HIGH
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                axes.text(
                    box[0] / _LONG, (y + dy) / _HIGH, row_name(m), size=size, va="center", transform=axes.transAxes
                )
                break


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def roofline_text(record: Record, setting: Setting, direction: str = "forward") -> str:
    """What the rows of the first participant on each device reach of the roof above them."""
    sentences = []
    for device, name in (("cpu", "CPU"), ("cuda", "GPU")):
        for column, rows in _shown([c for c in passes(record, setting).get(direction, []) if c.device == device])[:1]:
            found = {row_name(m): p for m in rows if (p := percent_of_roof(m, record.peaks)) is not None}
            if not found:
                sentences.append(f"On the {name} no roof was measured.")
                continue
            best, worst = max(found, key=lambda n: found[n]), min(found, key=lambda n: found[n])
            sentences.append(
                f"On the {name} the rows of {column.participant} reach {statistics.median(found.values()):.0f}% of the "
                f"roof above them in the median, {best} most ({found[best]:.0f}%), {worst} least ({found[worst]:.0f}%)."
            )
    return " ".join(sentences)
