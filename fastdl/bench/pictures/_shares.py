"""Where the time of a pass goes: a bar for each participant, its parts the rows of the network, by kind of layer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ..breakdown import Column, Setting, counted, kind, milliseconds, passes, percent, row_name, significant, who
from ..record import Measurement, Record
from ._style import (
    GRID,
    LOOKS,
    MARGIN,
    PAPER,
    WIDTH,
    kind_entries,
    legend,
    legend_height,
    new_figure,
    sheet,
    shortened,
    style,
    text_on,
    text_width,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: A bar with more rows than this shows stages, such as all convolutions of "layer3".
MOST_ROWS = 40
_BAR = 0.52
_LONG = WIDTH - 2 * MARGIN
_SMALL = 8.0
#: Inches: a narrower part has no white line before it, which would be all that is seen of it.
_SLIVER = 0.03


class Part(NamedTuple):
    """Rows that are drawn as one."""

    name: str
    kind: str
    rows: list[Measurement]


def parts(column: Column, most: int = MOST_ROWS) -> list[Part]:
    """By kind of layer, within a kind in the order of the network; rows together where there are more than ``most``."""
    found = []
    for name, rows in column.kinds().items():
        if len(column.rows) <= most:
            found += [Part(row_name(m), name, [m]) for m in rows]
            continue
        stages: dict[str, list[Measurement]] = {}
        for m in rows:
            stages.setdefault(_stage(row_name(m)), []).append(m)
        found += [Part(stage, name, some) for stage, some in stages.items()]
    return found


def _stage(name: str) -> str:
    """A row's name up to its first number: "layer3.17.conv2" -> "layer3"."""
    found = re.match(r"\D*\d*", name)
    return (found and found[0]) or name


@style()
def shares(record: Record, setting: Setting) -> Figure:
    """Bars of the forward pass, and of the backward pass where it was measured; absent participants are named."""
    blocks = {name: [c for c in columns if c.rows] for name, columns in passes(record, setting).items()}
    blocks = {name: columns for name, columns in blocks.items() if columns}
    entries = kind_entries({kind(m) for columns in blocks.values() for column in columns for m in column.rows})
    step = _BAR + 0.62
    bars = sum(0.42 + step * len(columns) for columns in blocks.values()) + 0.42 * len(record.absent)
    figure = new_figure(0.5 + bars + legend_height(entries) + 0.2)
    axes = sheet(figure, f"Where the time goes: {setting.network}, batch {setting.batch}, {setting.dtype}")
    top = 0.5
    for name, columns in blocks.items():
        axes.text(MARGIN, top + 0.25, f"{name.capitalize()} pass", size=12)
        top += 0.36
        for column in columns:
            _bar(axes, top, column, setting)
            top += step
        if name == next(iter(blocks)):
            top = _placeholders(axes, top, record)
        top += 0.06
    legend(axes, top + 0.08, entries)
    return figure


def _bar(axes: Axes, top: float, column: Column, setting: Setting) -> None:
    from matplotlib.patches import Rectangle

    took = f"rows together: {milliseconds(column.sum)} ms"
    if column.whole is not None:
        seconds = column.whole.median
        took = f"{milliseconds(seconds)} ms, {significant(setting.batch / seconds)} images/s"
    axes.text(MARGIN, top + 0.2, shortened(who(column, setting), 6.0, 11), size=10.5, weight="bold")
    axes.text(WIDTH - MARGIN, top + 0.2, took, size=10.5, ha="right")
    top += 0.26
    at = MARGIN
    totals: dict[str, tuple[float, float]] = {}
    for part in parts(column):
        share = column.share(part.rows)
        long, look = share * _LONG, LOOKS[part.kind]
        axes.add_patch(Rectangle((at, top), long, _BAR, facecolor=look.color, edgecolor=PAPER, hatch=look.hatch, lw=0))
        start, before = totals.get(part.kind, (at, 0.0))
        if at > MARGIN and long > _SLIVER:
            axes.plot([at, at], [top, top + _BAR], color=PAPER, lw=1 if before else 2, solid_capstyle="butt")
        totals[part.kind] = (start, before + share)
        _label(axes, (at, top, long), part, share)
        at += long
    end = 0.0
    for name, (start, share) in totals.items():
        text = f"{name} {percent(share)}"
        if start >= end and start + text_width(text, 9) <= WIDTH - MARGIN + 0.02:
            axes.text(start, top + _BAR + 0.16, text, size=9)
            end = start + text_width(text, 9) + 0.12


def _label(axes: Axes, box: tuple[float, float, float], part: Part, share: float) -> None:
    """The part's name and share inside it, upright where it is narrow; nothing where there is no room."""
    left, top, long = box
    color = LOOKS[part.kind].color
    more = f" ({len(part.rows)})" if len(part.rows) > 1 else ""
    both, upright = f"{part.name}{more}\n{percent(share)}", long < text_width(f"{part.name}{more}", _SMALL) + 0.1
    if upright and (long < 0.17 or text_width(part.name, _SMALL - 0.5) > _BAR - 0.06):
        return
    axes.text(
        left + long / 2,
        top + _BAR / 2,
        part.name if upright else both,
        size=_SMALL - 0.5 if upright else _SMALL,
        rotation=90 if upright else 0,
        ha="center",
        va="center",
        color=text_on(color),
        bbox={"facecolor": color, "edgecolor": "none", "pad": 1},
    )


def _placeholders(axes: Axes, top: float, record: Record) -> float:
    from matplotlib.patches import Rectangle

    for name, reason in record.absent.items():
        axes.add_patch(Rectangle((MARGIN, top), _LONG, 0.32, facecolor="none", edgecolor=GRID, ls="--", lw=1))
        axes.text(MARGIN + 0.1, top + 0.16, shortened(f"{name}: {reason}", _LONG - 0.2, 9.5), size=9.5, va="center")
        top += 0.42
    return top


def shares_text(record: Record, setting: Setting) -> str:
    """What takes most of each pass, with the first participant and with the others."""
    sentences = []
    for name, columns in passes(record, setting).items():
        if not (found := [column for column in columns if column.rows]):
            continue
        first, *others = found
        most, rows = _most(first)
        text = (
            f"{name} pass of {setting.network}: {most} takes {percent(first.share(rows))} of "
            f"{milliseconds(first.sum)} ms with {who(first, setting)}"
        )
        alike = sorted(column.share(column.kinds()[most]) for column in others if _most(column)[0] == most)
        if alike:
            low, high = percent(alike[0]), percent(alike[-1])
            text += f", {low if low == high else f'{low} to {high}'} with {counted(len(alike), 'other')}"
        for column in others:
            if _most(column)[0] != most:
                kind, rows = _most(column)
                text += f", but {kind} {percent(column.share(rows))} with {who(column, setting)}"
        longest = max(first.rows, key=lambda m: m.median)
        sentences.append(f"{text}; the longest row is {row_name(longest)} ({percent(first.share([longest]))}).")
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)


def _most(column: Column) -> tuple[str, list[Measurement]]:
    """The kind of layer that takes most, and its rows."""
    return max(column.kinds().items(), key=lambda item: column.share(item[1]))
