"""A report as tables for a terminal. Importing this imports nothing; rich is loaded when one is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from . import view
from .record import Report, Result

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text


def tables(report: Report) -> list[Group]:
    """The formats; the noise of their layers; one layer at a time; the gradients of training."""
    found = [_formats(report)]
    if results := view.with_layers(report):
        noise = {r.name: {s.layer: view.ratio(s.ratio) for s in r.inference.layers} for r in results if r.inference}
        found.append(
            _over_layers("Signal to noise of each layer's output beside float64's, in decibels", results, noise)
        )
    if results := view.with_sensitivity(report):
        every = {r.name: r.inference.sensitivity for r in results if r.inference}
        alone = {
            name: {s.layer: f"{view.accuracy(s.accuracy)}  {view.ratio(s.ratio)}" for s in some}
            for name, some in every.items()
        }
        title = "One layer reduced, the others in float32: accuracy, and signal to noise of the scores in decibels"
        found.append(_over_layers(title, results, alone))
    if gradients := view.limits(report):
        found.append(_gradients(gradients))
    return found


def _table(
    title: str,
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    words: Sequence[int] = (0,),
    dim: Sequence[int] = (),
    notes: Sequence[str] = (),
) -> Group:
    """``words``: columns of text, of which the last one may be wrapped; ``dim``: rows without figures."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, header in enumerate(headers):
        left = place in words
        wrapped = left and place == len(headers) - 1
        table.add_column(Text(header), justify="left" if left else "right", no_wrap=not wrapped, vertical="top")
    for place, row in enumerate(rows):
        table.add_row(*map(Text, row), style="dim" if place in dim else None)
    # Not the table's own title and caption, which are no wider than it is.
    parts: list[Text | Table] = [Text(title, style="bold"), table, *(Text(note, style="italic") for note in notes)]
    return Group(*parts, Text(""))


def _formats(report: Report) -> Group:
    columns = view.columns(report)
    return _table(
        f"{view.title(report)}: {view.conditions(report)}",
        [column.header.replace(" ", "\n") for column in columns],
        [[field.text for field in view.row(report, result)] for result in report.formats],
        words=[place for place, column in enumerate(columns) if column.words],
        dim=[place for place, result in enumerate(report.formats) if result.measured is None],
        notes=view.notes(report),
    )


def _over_layers(title: str, results: Sequence[Result], texts: Mapping[str, Mapping[str, str]]) -> Group:
    def cell(result: Result, text: str) -> str:
        return view.marked(result, view.Field(text, None)).text

    headers = ["layer", *(cell(result, result.name) for result in results)]
    names = view.ordered(list(by) for by in texts.values())
    return _table(title, headers, [[name, *(cell(r, texts[r.name].get(name, "")) for r in results)] for name in names])


def _gradients(limits: Sequence[view.Limits]) -> Group:
    """Of layers with weights; the page has the others, and the biases."""
    every = dict.fromkeys((h.layer, h.kind) for limit in limits for h in limit.gradients)
    weighted = {layer for layer, kind in every if kind == "W"}
    rows = []
    for layer, kind in every:
        if layer not in weighted or kind not in ("activation", "W"):
            continue
        row = [layer, "output" if kind == "activation" else kind]
        for limit in limits:
            h = limit.histogram(layer, kind)
            shares = [] if h is None else [limit.lost(h), limit.rough(h), limit.beyond(h)]
            row.append(" / ".join(map(view.share, shares)))
        rows.append(row)
    headers = ["layer", "by", *(limit.title.replace(", ", "\n") for limit in limits)]
    title = "Gradients other than 0 at the end of training: rounded to 0 / short of bits / infinite"
    return _table(title, headers, rows, words=(0, 1))
