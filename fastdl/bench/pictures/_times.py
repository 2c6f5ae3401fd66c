"""Rows beside each other: the time of every participant, with its quartiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..breakdown import Column, Setting, milliseconds, participants, passes, row_name, significant, who
from ..record import Record
from ._shares import Part, parts
from ._style import (
    GRID,
    INK,
    MARGIN,
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

#: Lines that the picture can hold. Of a network with more rows it shows stages.
MOST_ROWS = 24
#: From the fastest participant to the slowest: where one takes so many times as long, the scale is logarithmic.
WIDE = 10.0
_BAR, _GAP, _POINT, _BETWEEN = 0.125, 0.1, 0.035, 0.5


@style()
def times(record: Record, setting: Setting, log: bool | None = None) -> Figure:
    """Bars from zero; on a logarithmic scale (``log``; None: where participants differ much), without a zero, points.

    Error bars reach from the lower to the upper quartile; where rows are together, their medians are added.
    """
    every = {name: [c for c in columns if c.rows] for name, columns in passes(record, setting).items()}
    every = {name: columns for name, columns in every.items() if columns}
    columns = {c.participant: c for some in every.values() for c in some}
    looks = {name: participant_look(participants(record).index(name)) for name in columns}
    totals = [c.sum for some in every.values() for c in some]
    log = max(totals) > WIDE * min(totals) if log is None else log
    entries = [
        Entry(who(c, setting), looks[name][0], marker=looks[name][1] if log else "") for name, c in columns.items()
    ]
    names, note = _lines(every)
    pitch = _GAP * 1.6 + (len(looks) - 1) * _POINT + 0.1 if log else len(looks) * _BAR + _GAP
    left = 2 * MARGIN + min(2.6, max(text_width(name, 9.5) for name in names))
    top = 0.72 + legend_height(entries) + 0.35
    figure = new_figure(top + len(names) * pitch + 0.62)
    paper = sheet(figure, f"Time of each row: {setting.network}, batch {setting.batch}, {setting.dtype}")
    paper.text(MARGIN, 0.56, note, size=9.5)
    legend(paper, 0.68, entries)
    wide = (WIDTH - 2 * MARGIN - left - _BETWEEN * (len(every) - 1)) / len(every)
    first: Axes | None = None
    for number, (direction, some) in enumerate(every.items()):
        axes = add_axes(figure, left + number * (wide + _BETWEEN), top, wide, len(names) * pitch)
        if first is not None:
            axes.sharex(first)
        _panel(axes, names, some, looks, pitch, log)
        axes.set_title(f"{direction} pass", size=11, loc="left")
        labels = [shortened(name, left - 2 * MARGIN, 9.5) if first is None else "" for name in names]
        axes.set_yticks([(at + 0.5) * pitch for at in range(len(names))], labels, size=9.5)
        first = first or axes
    if first is not None and not log:
        first.set_xlim(0, None)
    return figure


def _line_name(part: Part) -> str:
    return part.name if len(part.rows) == 1 else f"{part.name}, {part.kind} ({len(part.rows)})"


def _lines(every: dict[str, list[Column]]) -> tuple[list[str], str]:
    """The names of the lines in the order of the network, and a sentence about them and the error bars."""
    order: dict[str, int] = {}
    longest: dict[str, float] = {}
    rows = 0
    for column in (c for columns in every.values() for c in columns):
        rows = max(rows, len(column.rows))
        for part in parts(column, MOST_ROWS):
            name = _line_name(part)
            order.setdefault(name, part.rows[0].settings["index"])
            longest[name] = max(longest.get(name, 0.0), column.share(part.rows))
    kept = sorted(sorted(longest, key=lambda name: -longest[name])[:MOST_ROWS], key=lambda name: order[name])
    note = "Error bars: from the lower to the upper quartile."
    if any(name.endswith(")") for name in kept) and rows > MOST_ROWS:
        note = f"{rows} rows, those of a stage together (their number in brackets, their medians added)."
    if len(kept) < len(longest):
        note = f"The {len(kept)} longest of {len(longest)} lines. {note}"
    return kept, note


def _panel(
    axes: Axes, names: list[str], columns: list[Column], looks: dict[str, tuple[str, str]], pitch: float, log: bool
) -> None:
    for column in columns:
        slot = list(looks).index(column.participant) - (len(looks) - 1) / 2
        color, marker = looks[column.participant]
        found = {_line_name(part): part.rows for part in parts(column, MOST_ROWS)}
        shown = [(at, found[name]) for at, name in enumerate(names) if name in found]
        y = [(at + 0.5) * pitch + slot * (_POINT if log else _BAR) for at, _ in shown]
        x = [1e3 * sum(m.median for m in rows) for _, rows in shown]
        quartiles = [rows[0].summary if len(rows) == 1 else None for _, rows in shown]
        spread = [
            [1e3 * (q.median - q.lower) if q else 0.0 for q in quartiles],
            [1e3 * (q.upper - q.median) if q else 0.0 for q in quartiles],
        ]
        if log:
            axes.errorbar(x, y, xerr=spread, fmt=marker, color=color, ecolor=color, elinewidth=1.2, markersize=6)
        else:
            axes.barh(y, x, _BAR * 0.9, color=color, lw=0)
            axes.errorbar(x, y, xerr=spread, fmt="none", ecolor=INK, elinewidth=1)
    axes.set_ylim(len(names) * pitch, 0)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=9.5)
    for at in range(1, len(names)):
        axes.axhline(at * pitch, color=GRID, lw=0.4, alpha=0.6)
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: significant(value, 1))
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.set_xlabel("milliseconds" + (", logarithmic" if log else ""))
    axes.grid(axis="x", color=GRID, alpha=0.4, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def times_text(record: Record, setting: Setting) -> str:
    """How long the others take beside the first participant, and in how many rows that is the fastest."""
    sentences = []
    for direction, (first, *others) in passes(record, setting).items():
        text = f"{direction} pass of {setting.network}"
        if first.seconds is not None:
            text += f": {milliseconds(first.seconds)} ms with {who(first, setting)}"
            known = [(c.participant, c.seconds / first.seconds) for c in others if c.seconds is not None]
            text += "".join(f", {_ratio(ratio)} with {name}" for name, ratio in known)
        rivals = [{row_name(m): m.median for m in other.rows} for other in others if other.device == first.device]
        if rivals:
            won = sum(all(m.median <= rival.get(row_name(m), m.median) for rival in rivals) for m in first.rows)
            device = "GPU" if first.device == "cuda" else "CPU"
            text += f"; on the {device} {first.participant} is the fastest in {won} of {len(first.rows)} rows"
        sentences.append(f"{text[0].upper()}{text[1:]}.")
    return " ".join(sentences)


def _ratio(ratio: float) -> str:
    return f"{significant(ratio)} times as long" if ratio >= 1 else f"{100 * ratio:.2g}% of that"
