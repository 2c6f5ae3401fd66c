"""A network's record as tables for a terminal. Importing this imports nothing; rich is loaded when one is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .breakdown import (
    DIRECTIONS,
    Column,
    Setting,
    counted,
    kernels,
    main_settings,
    memory,
    milliseconds,
    participants,
    passes,
    percent,
    roofline,
    row_name,
    row_names,
    settings,
    significant,
    size,
)
from .record import Measurement, Peaks, Record

if TYPE_CHECKING:
    from rich.table import Table

#: Of a network with more rows the table shows those that take longest.
MOST_ROWS = 48


def tables(record: Record, width: int = 140) -> list[Table]:
    """For each network and dtype, at its largest batch and most threads, the rows of each pass; then all whole passes.

    Participants stand beside the first as far as ``width`` columns of text hold them, the others in further tables.
    """
    found = []
    for setting in main_settings(record):
        for direction, columns in passes(record, setting).items():
            with_rows = [column for column in columns if column.rows]
            if with_rows:
                found += _layer_tables(record, setting, direction, with_rows, width)
    return [*found, summary_table(record)]


def _layer_tables(record: Record, setting: Setting, direction: str, columns: list[Column], width: int) -> list[Table]:
    from rich.console import Console
    from rich.measure import Measurement as Width

    console = Console(width=10_000)
    names, more = _chosen(columns)
    title = f"{direction} pass: {setting}"
    first, *others = columns
    found = [_layer_table(record.peaks, title, names, more, first, [], True)]
    beside: list[Column] = []
    for column in others:
        wider = _layer_table(record.peaks, title, names, more, first, [*beside, column], len(found) == 1)
        if Width.get(console, console.options, wider).maximum <= width:
            beside.append(column)
            found[-1] = wider
        else:
            beside = [column]
            title = "further participants"
            found.append(_layer_table(record.peaks, title, names, more, first, beside, False))
    return found


def _chosen(columns: Sequence[Column]) -> tuple[list[str], int]:
    """The names of the rows to show, and how many others there are."""
    names = row_names(columns)
    longest: dict[str, float] = {}
    for column in columns:
        for m in column.rows:
            longest[row_name(m)] = max(longest.get(row_name(m), 0.0), column.share([m]))
    kept = set(sorted(names, key=lambda name: -longest[name])[:MOST_ROWS])
    return [name for name in names if name in kept], len(names) - len(kept)


def _layer_table(
    peaks: Peaks | None,
    title: str,
    names: list[str],
    more: int,
    first: Column,
    others: Sequence[Column],
    detailed: bool,
) -> Table:
    """``detailed``: with everything about the first participant; else it is only what the ratios are to."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title), title_justify="left", title_style="bold", box=None, header_style="bold", pad_edge=False
    )
    table.add_column(Text("row"), no_wrap=True)
    if detailed:
        head = [f"{first.participant}\nms", "±", "share", "GFLOP/s", "GB/s", "roof", "memory"]
        for name in head:
            table.add_column(Text(name), justify="right", no_wrap=True, vertical="bottom")
        table.add_column(Text("kernel"), no_wrap=True, max_width=34, overflow="ellipsis")
    for column in others:
        for name in (f"{column.participant}\nms", "±", "share", "ratio"):
            table.add_column(Text(name), justify="right", no_wrap=True)
    every = [{row_name(m): m for m in column.rows} for column in (first, *others)]

    def line(name: str, some: list[Measurement | None]) -> None:
        ours, *theirs = some
        cells = [name]
        if detailed:
            cells += _details(peaks, first, ours)
        for column, m in zip(others, theirs, strict=True):
            cells += [*_times(column, m), significant(m.median / ours.median) if m and ours else ""]
        table.add_row(*map(Text, cells))

    for name in names:
        line(name, [by.get(name) for by in every])
    if more:
        table.add_row(Text(f"{counted(more, 'shorter row')}", style="dim"))
    for name, seconds in (
        ("rows together", [c.sum for c in (first, *others)]),
        ("whole pass", [c.seconds for c in (first, *others)]),
    ):
        table.add_row(*map(Text, _total(name, seconds, detailed)), style="bold")
    return table


def _times(column: Column, m: Measurement | None) -> list[str]:
    if m is None:
        return [""] * 3
    return [milliseconds(m.median), percent(m.summary.spread), percent(column.share([m]))]


def _details(peaks: Peaks | None, column: Column, m: Measurement | None) -> list[str]:
    if m is None:
        return [""] * 8
    figures, roof = m.figures(peaks), roofline(m, peaks)
    held = [value for value in memory(m).values() if value is not None]
    rates = ["" if (value := figures[name]) is None else significant(value) for name in ("gflops", "gbps")]
    return [
        *_times(column, m),
        *rates,
        "" if roof is None else percent(roof / 100),
        size(sum(held)) if held else "",
        kernels(m),
    ]


def _total(name: str, seconds: Sequence[float | None], detailed: bool) -> list[str]:
    first, *others = seconds
    cells = [name]
    if detailed:
        cells += ["" if first is None else milliseconds(first), *([""] * 7)]
    for value in others:
        ratio = "" if value is None or first is None else significant(value / first)
        cells += ["" if value is None else milliseconds(value), "", "", ratio]
    return cells


def summary_table(record: Record) -> Table:
    """A line for each setting and participant: times of whole passes, beside those of the first participant."""
    from rich.table import Table
    from rich.text import Text

    reference = participants(record)[0]
    every = settings(record)
    measured = [name for name in DIRECTIONS if any(name in passes(record, setting) for setting in every)]
    notes = ["±: from the lower to the upper quartile, by the median"]
    notes += [] if record.complete else ["The measurement was interrupted: what is missing was not measured."]
    notes += [f"{name} is not there: {reason}" for name, reason in record.absent.items()]
    table = Table(
        title=Text(f"Whole passes; ratio: how many times as long as {reference}"),
        title_justify="left",
        title_style="bold",
        box=None,
        header_style="bold",
        pad_edge=False,
        caption=Text("\n".join(notes)),
        caption_justify="left",
    )
    for name in ("network", "dtype", "participant"):
        table.add_column(Text(name), no_wrap=True)
    for name in ("batch", "threads"):
        table.add_column(Text(name), justify="right")
    for direction in measured:
        for name in (f"{direction}\nms", "±", "ratio", "images/s"):
            table.add_column(Text(name), justify="right", no_wrap=True)
    before: Setting | None = None
    for setting in every:
        if before is not None and before[:3] != setting[:3]:
            table.add_section()
        before = setting
        found = passes(record, setting)
        for participant in dict.fromkeys(c.participant for columns in found.values() for c in columns):
            cells: list[str] = []
            threads = str(setting.threads)
            for direction in measured:
                by = {c.participant: c for c in found.get(direction, [])}
                column, first = by.get(participant), by.get(reference)
                if column is None:
                    cells += [""] * 4
                    continue
                threads = "GPU" if column.device == "cuda" else threads
                if column.whole is None:
                    cells += ["not measured", "", "", ""]
                    continue
                cells += [
                    milliseconds(column.whole.median),
                    percent(column.whole.summary.spread),
                    significant(column.whole.median / first.whole.median) if first and first.whole else "",
                    significant(setting.batch / column.whole.median),
                ]
            table.add_row(
                *map(Text, (setting.network, setting.dtype, participant, str(setting.batch), threads, *cells))
            )
    return table
