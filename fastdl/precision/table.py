"""A report as tables for a terminal. Importing this imports nothing; rich is loaded when one is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import view
from .record import Report

if TYPE_CHECKING:
    from rich.table import Table


def tables(report: Report) -> list[Table]:
    """The formats; the noise of their layers; one layer at a time; the gradients of training."""
    found = [_formats(report)]
    if with_layers := view.with_layers(report):
        names = view.ordered([s.layer for s in r.inference.layers] for r in with_layers if r.inference)
        every = {r.name: {s.layer: s for s in r.inference.layers} for r in with_layers if r.inference}
        table = _table("Signal to noise of each layer's output beside float64's, in decibels", ["layer", *every])
        for name in names:
            ratios = [by[name].ratio if name in by else None for by in every.values()]
            _add(table, [name, *("" if r is None else view.ratio(r) for r in ratios)])
        found.append(table)
    if reduced := view.with_sensitivity(report):
        found.append(_sensitivity(reduced))
    if gradients := view.limits(report):
        found.append(_gradients(gradients))
    return found


def _table(title: str, headers: Sequence[str], words: Sequence[int] = (0,)) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title), title_justify="left", title_style="bold", box=None, header_style="bold", pad_edge=False
    )
    table.caption_justify = "left"
    for place, header in enumerate(headers):
        left = place in words
        last = left and place == len(headers) - 1
        table.add_column(Text(header), justify="left" if left else "right", no_wrap=not last, vertical="top")
        table.columns[-1].header_style = "bold"
    return table


def _add(table: Table, cells: Sequence[str], style: str | None = None) -> None:
    from rich.text import Text

    table.add_row(*map(Text, cells), style=style)


def _formats(report: Report) -> Table:
    from rich.text import Text

    columns = view.columns(report)
    words = [place for place, column in enumerate(columns) if column.words]
    title = f"{view.title(report)}: {view.conditions(report)}"
    table = _table(title, [column.header.replace(" ", "\n") for column in columns], words)
    for result in report.formats:
        _add(table, [field.text for field in view.row(report, result)], "dim" if result.measured is None else None)
    table.caption = Text("\n".join(view.notes(report)))
    return table


def _sensitivity(results: list[view.Result]) -> Table:
    every = {r.name: {s.layer: s for s in r.inference.sensitivity} for r in results if r.inference}
    title = "One layer reduced, the others in float32: accuracy, and signal to noise of the scores in decibels"
    table = _table(title, ["layer", *(f"{name}\n" for name in every)])
    for name in view.ordered(list(by) for by in every.values()):
        cells = [
            f"{view.accuracy(by[name].accuracy)}  {view.ratio(by[name].ratio):>5}" if name in by else ""
            for by in every.values()
        ]
        marks = [view.marked(r, view.Field(cell, None)).text for r, cell in zip(results, cells, strict=True)]
        _add(table, [name, *marks])
    return table


def _gradients(limits: list[view.Limits]) -> Table:
    title = "Gradients other than 0 at the end of training: rounded to 0 / short of bits / infinite"
    table = _table(title, ["layer", "by", *(limit.title.replace(", ", "\n") for limit in limits)], (0, 1))
    rows = {(h.layer, h.kind): h for limit in limits for h in limit.gradients}
    for layer, kind in rows:
        cells = []
        for limit in limits:
            h = next((h for h in limit.gradients if (h.layer, h.kind) == (layer, kind)), None)
            shares = [] if h is None else [limit.lost(h), limit.rough(h), limit.beyond(h)]
            cells.append(" / ".join(map(view.share, shares)))
        _add(table, [layer, "output" if kind == "activation" else kind, *cells])
    return table
