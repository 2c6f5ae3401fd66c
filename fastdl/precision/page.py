"""A report as one HTML file that needs nothing else, in the frame and style of the benchmarks' pages."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .._files import replacing
from ..bench.html import Cell, Content, document, entries, figure, machine, section, table, tag
from . import view
from .pictures import pictures
from .record import Report, Result


def save(report: Report, path: str | os.PathLike) -> None:
    """Writes the page, whole or not at all."""
    text = render(report)
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")


def render(report: Report) -> str:
    """The page as text."""
    parts: list[tuple[str, str, Callable[[Report], Iterator[Content]]]] = [
        ("measured", "What was measured", _measured),
        ("formats", "Formats", _formats),
        ("pictures", "Pictures", _pictures),
        ("layers", "Layers", _layers),
        ("gradients", "Gradients", _gradients),
        ("kernels", "Kernels", _kernels),
        ("machine", "The machine", lambda report: iter([machine(report.machine)])),
        ("method", "How it was measured", _method),
    ]
    sections = []
    for name, title, make in parts:
        if content := list(make(report)):
            sections.append(section(name, title, content))
    lead = f"{view.conditions(report)}; {report.machine.cpu}; {_date(report)}"
    return document(view.title(report), lead, sections, report.machine.versions.get("fastdl", ""))


def _date(report: Report) -> str:
    return report.created.replace("T", " ").replace("+00:00", " UTC")


def _measured(report: Report) -> Iterator[Content]:
    if not report.complete:
        yield tag("p", "The measurement was interrupted: what is missing here was not measured.", class_="warning")
    for result in report.formats:
        if result.reason and result.measured is not None:
            yield tag("p", f"{result.name} did not come to its end: {result.reason}", class_="warning")
    s = report.settings
    yield entries(
        {
            "network": report.network,
            "data": report.dataset,
            "images": f"{s['images']:,}",
            "weights": report.weights,
            "batch": str(s["batch"]),
            "threads": str(s["threads"]),
            "backend": f"{s['backend']}, up to {s['isa']}",
            "date": tag("time", _date(report), datetime=report.created),
            "command": tag("code", shlex.join(report.command)),
        }
    )


def _cell(field: view.Field) -> Cell:
    return Cell(field.text, field.value)


def _formats(report: Report) -> Iterator[Content]:
    columns = view.columns(report)
    words = [place for place, column in enumerate(columns) if column.words]
    rows = [[_cell(field) for field in view.row(report, result)] for result in report.formats]
    yield table("table", view.title(report).capitalize(), [c.header for c in columns], rows, words=words)
    yield tag("ul", *(tag("li", note) for note in view.notes(report)))


def _pictures(report: Report) -> Iterator[Content]:
    for picture in pictures(report):
        yield figure(f"picture-{picture.name}", picture)


def _over_layers(
    name: str, caption: str, results: Sequence[Result], values: dict[str, dict[str, view.Field]]
) -> Content:
    names = view.ordered(list(by) for by in values.values())
    rows = [
        [
            Cell(layer, layer),
            *(_cell(view.marked(r, values[r.name].get(layer, view.EMPTY))) for r in results),
        ]
        for layer in names
    ]
    return table(name, caption, ["layer", *(view.marked(r, view.Field(r.name, None)).text for r in results)], rows)


def _decibels(value: float) -> view.Field:
    return view.Field(view.ratio(value), 1e9 if value > 1e9 else None if value != value else value)


def _layers(report: Report) -> Iterator[Content]:
    if results := view.with_layers(report):
        yield tag(
            "p",
            "How far the output of each layer is from that of float64: 10 times the logarithm of the sum of squares of "
            "what float64 gives, by that of the differences. 6 decibels more are one more correct bit.",
        )
        found = {r.name: {s.layer: _decibels(s.ratio) for s in r.inference.layers} for r in results if r.inference}
        yield _over_layers("noise", "Signal to noise of each layer's output, in decibels", results, found)
    if results := view.with_sensitivity(report):
        yield tag("p", "One layer alone in the format, with its input rounded to it; all others in float32.")
        every = {r.name: r.inference.sensitivity for r in results if r.inference}
        ratios = {name: {s.layer: _decibels(s.ratio) for s in some} for name, some in every.items()}
        yield _over_layers(
            "alone", "Signal to noise of the scores with one layer reduced, in decibels", results, ratios
        )
        shares = {
            name: {s.layer: view.Field(view.accuracy(s.accuracy), s.accuracy) for s in some}
            for name, some in every.items()
        }
        yield _over_layers("alone-accuracy", "Accuracy with one layer reduced", results, shares)


def _gradients(report: Report) -> Iterator[Content]:
    limits = view.limits(report)
    if not limits:
        return
    yield tag(
        "p",
        "The gradients of the first seed's network as it was trained, computed in float32, and what formats would make "
        "of them: the shares, of those other than 0, that are rounded to 0, that keep fewer bits than the format has, "
        "and that are too large. A loss that is multiplied by a power of two moves all of them up.",
    )
    kinds = list(dict.fromkeys((h.layer, h.kind) for limit in limits for h in limit.gradients))
    headers = ["layer", "by"]
    for limit in limits:
        headers += [f"{limit.title}: to 0", "short of bits", "too large"]
    rows = []
    for layer, kind in kinds:
        row = [Cell(layer, layer), Cell("output" if kind == "activation" else kind, kind)]
        for limit in limits:
            h = limit.histogram(layer, kind)
            values = [None] * 3 if h is None else [limit.lost(h), limit.rough(h), limit.beyond(h)]
            row += [Cell("", None) if v is None else Cell(view.share(v), v) for v in values]
        rows.append(row)
    yield table("gradient", "Gradients at the end of training", headers, rows, words=(1,))


def _kernels(report: Report) -> Iterator[Content]:
    yield tag(
        "p",
        "The rows of fastdl's registry that ran: backend, algorithm and level of instructions. What stands under one "
        "layer may be the work of its neighbours too.",
    )
    for result in report.ran:
        if result.measured is not None and result.measured.kernels:
            rows = [
                [
                    Cell(k.layer, k.layer),
                    Cell(k.op, k.op),
                    Cell(view.marked(result, view.Field(k.label, None)).text, k.label),
                ]
                for k in result.measured.kernels
            ]
            what = tag("summary", tag("h3", f"{result.name}: {view.computed_by(result).partition(':')[0]}"))
            caption = f"Kernels in {result.name}"
            yield tag(
                "details",
                what,
                table(f"kernels-{result.name}", caption, ["layer", "op", "kernel"], rows, words=(1, 2)),
            )


def _method(report: Report) -> Iterator[Content]:
    if report.mode == "infer":
        yield tag(
            "p",
            "The trained network was rounded to each format and run over the test images. Classes and scores are "
            "compared with those of float64 image by image; layers, called one by one, over the first images. Bytes of "
            "weights are those of parameters and running statistics as they are stored; activations are what the "
            "kernels write for one image, and the largest step is the largest input of a kernel with its output.",
        )
        yield tag(
            "p",
            "Times are those of whole batches, divided by their images. The formats took turns: a few calls of one, a "
            "pause, a few calls of the next, in several rounds, so that changes of the machine's clock and its other "
            "users met all of them alike. The time is the median, the spread the distance of the quartiles as a part "
            "of it. Beside each stands float32 with direct convolutions, which computes every product as the formats "
            "with fewer bits do, and the fastest float32, which has Winograd's.",
        )
    else:
        yield tag(
            "p",
            "Each training starts from new weights, which together with dropout and the order of the images follow "
            "from its seed: the same seed is the same start in every format. Accuracy is that on the test images after "
            "the last epoch; its deviation is that of a sample of seeds. Weights that the optimizer updates are "
            "float32 where the format has 16 bits.",
        )
    yield tag(
        "p",
        f"{view.MARK} before a figure: the arithmetic was emulated with other instructions. What it says "
        "of accuracy is exact, what it says of time says nothing of a machine that has it.",
    )
