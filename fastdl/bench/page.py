"""A network's record as one HTML file that needs nothing else: no network, no font, no other file."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from .._files import replacing
from .breakdown import (
    DIRECTIONS,
    Column,
    Setting,
    counted,
    device,
    kernels,
    kind,
    listed,
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
    who,
)
from .html import Cell, Content, document, entries, figure, machine, number, section, table, tag
from .pictures import pictures
from .record import Measurement, Record


def save(record: Record, path: str | os.PathLike) -> None:
    """Writes the page, whole or not at all; ``ValueError`` where the record holds no network."""
    text = render(record)
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")


def render(record: Record) -> str:
    """The page as text; ``ValueError`` where the record holds no network."""
    every = settings(record)
    networks = listed(dict.fromkeys(s.network for s in every))
    sections = [
        section("measured", "What was measured", _measured(record, every)),
        section("summary", "Summary", _summary(record, every)),
        section("pictures", "Pictures", _pictures(record)),
        section("layers", "Layers", _layers(record, every)),
        section("machine", "The machine", _machine(record)),
        section("method", "How it was measured", _method(record)),
    ]
    version = record.machine.versions.get("fastdl", "")
    return document(f"{networks}, layer by layer", _lead(record), sections, version)


# ---- sections -------------------------------------------------------------------------------------------------------


def _lead(record: Record) -> str:
    gpu = record.machine.gpu
    on = [record.machine.cpu, *([str(gpu["name"])] if gpu and "name" in gpu else [])]
    first, *_ = main_settings(record)
    return f"{first}; {listed(on)}; {_date(record)}"


def _date(record: Record) -> str:
    return record.created.replace("T", " ").replace("+00:00", " UTC")


def _measured(record: Record, every: Sequence[Setting]) -> Iterator[Content]:
    if not record.complete:
        yield tag("p", "The measurement was interrupted: what is missing here was not measured.", class_="warning")
    checks = [m.check for m in record.measurements if m.check is not None]
    if failed := [c for c in checks if not c.passed]:
        text = f"{counted(len(failed), 'result')} of {len(checks)} was outside its tolerance: its time means nothing."
        yield tag("p", text, class_="warning")

    def varied(values: Iterable[Any]) -> str:
        return ", ".join(str(value) for value in dict.fromkeys(values))

    yield entries(
        {
            "network": varied(s.network for s in every),
            "batch": varied(s.batch for s in every),
            "dtype": varied(s.dtype for s in every),
            "passes": varied(direction for s in every for direction in passes(record, s)),
            "threads": varied(s.threads for s in every),
            "participants": varied(participants(record)),
            "date": tag("time", _date(record), datetime=record.created),
            "command": tag("code", shlex.join(record.command)),
        }
    )


def _summary(record: Record, every: Sequence[Setting]) -> Iterator[Content]:
    reference = participants(record)[0]
    directions = [d for d in DIRECTIONS if any(d in passes(record, s) for s in every)]
    headers = ["participant", "network", "batch", "dtype", "threads"]
    for direction in directions:
        headers += [f"{direction}, ms", "spread", f"by {reference}", "images/s"]
    if len(directions) == 2:
        headers += ["both, ms", "images/s"]
    first_calls = any("first_call" in m.settings for m in record.measurements if not row_name(m))
    headers += ["first call, s"] if first_calls else []
    rows = []
    for setting in every:
        found = passes(record, setting)
        for name in dict.fromkeys(c.participant for columns in found.values() for c in columns):
            by = {d: next((c for c in found.get(d, []) if c.participant == name), None) for d in directions}
            rows.append(
                _summary_row(setting, by, {d: _named(found.get(d, []), reference) for d in directions}, first_calls)
            )
    yield tag(
        "p",
        f"Times of whole passes. The columns “by {reference}” say how many times as long it took as with {reference} "
        "at the same batch, dtype and threads; a GPU stands beside the largest number of threads.",
    )
    yield table("totals", "Whole passes", headers, rows, words=(1, 3))
    if record.absent:
        yield tag("p", "Not there:")
        yield tag("ul", *(tag("li", tag("strong", name), f": {reason}") for name, reason in record.absent.items()))


def _named(columns: Sequence[Column], name: str) -> Column | None:
    return next((c for c in columns if c.participant == name), None)


def _summary_row(
    setting: Setting, by: Mapping[str, Column | None], reference: Mapping[str, Column | None], first_calls: bool
) -> list[Cell]:
    some = next(c for c in by.values() if c is not None)
    threads = Cell("GPU", 0) if some.device == "cuda" else number(setting.threads, str)
    row = [
        Cell(some.participant, some.participant),
        Cell(setting.network, setting.network),
        number(setting.batch, str),
        Cell(setting.dtype, setting.dtype),
        threads,
    ]
    for direction, column in by.items():
        if column is None:
            row += [Cell("", None)] * 4
            continue
        beside = reference[direction]
        row += [
            number(column.seconds, milliseconds),
            number(column.whole.summary.spread if column.whole else None, percent),
            number(_by(column.seconds, beside.seconds if beside else None)),
            number(column.images_per_second),
        ]
    if len(by) == 2:
        both = [c.seconds for c in by.values() if c is not None and c.seconds is not None]
        total = sum(both) if len(both) == 2 else None
        row += [number(total, milliseconds), number(_by(setting.batch, total))]
    if first_calls:
        whole = next((c.whole for c in by.values() if c is not None), None)
        row.append(number(whole.settings.get("first_call") if whole else None))
    return row


def _pictures(record: Record) -> Iterator[Content]:
    for place, setting in enumerate(main_settings(record)):
        for picture in pictures(record, setting):
            yield figure(f"picture-{place}-{picture.name}", picture)


def _layers(record: Record, every: Sequence[Setting]) -> Iterator[Content]:
    yield tag(
        "p",
        "The row names are those of the network; under them stand the layers that one kernel computes together. "
        "Every column can be sorted by the button in its header.",
    )
    shown = main_settings(record)
    for place, setting in enumerate(every):
        content: list[Content] = [tag("summary", tag("h3", str(setting)))]
        for direction, columns in passes(record, setting).items():
            name = f"rows-{place}-{direction}"
            if len(columns) > 1:
                content.append(_beside(name, setting, direction, columns))
            for position, column in enumerate(columns):
                if column.rows:
                    content.append(_rows(f"{name}-{position}", record, setting, column))
        yield tag("details", *content, **({"open": "open"} if setting in shown else {}))


def _row_heading(m: Measurement) -> Cell:
    layers = [str(layer) for layer in m.settings.get("layers") or []]
    return Cell(row_name(m), row_name(m), " + ".join(layers) if len(layers) > 1 else "")


def _beside(name: str, setting: Setting, direction: str, columns: Sequence[Column]) -> Element:
    """A row of the network in each row, the participants beside each other."""
    rows, every = [], [{row_name(m): m for m in column.rows} for column in columns]
    for position, row in enumerate(row_names(columns), 1):
        some = next(by[row] for by in every if row in by)
        times = [by[row].median if row in by else None for by in every]
        rows.append([number(position, str), _row_heading(some), Cell(kind(some), kind(some)), *_times(times)])
    together = [column.sum if column.rows else None for column in columns]
    whole = [column.seconds for column in columns]
    empty = Cell("", None)
    totals = [
        [empty, Cell("rows together", None), empty, *_times(together)],
        [empty, Cell("whole pass", None), empty, *_times(whole)],
    ]
    first, *others = columns
    headers = ["#", "row", "kind", *(f"{c.participant}, ms" for c in columns)]
    headers += [f"{c.participant} by {first.participant}" for c in others]
    caption = f"{direction.capitalize()} pass, participants beside each other: {setting}"
    return table(name, caption, headers, rows, totals, words=(2,), heading=1, ordered=True)


def _times(seconds: Sequence[float | None]) -> list[Cell]:
    """Milliseconds, and of all but the first how many times as long they are."""
    first, *others = seconds
    return [*(number(value, milliseconds) for value in seconds), *(number(_by(other, first)) for other in others)]


def _by(a: float | None, b: float | None) -> float | None:
    """Their ratio, where both are known."""
    return None if a is None or b is None else a / b


def _rows(name: str, record: Record, setting: Setting, column: Column) -> Element:
    """Everything about one participant's rows."""
    rows = []
    for position, m in enumerate(column.rows, 1):
        figures, share, held = m.figures(record.peaks), column.share([m]), memory(m)
        roof = roofline(m, record.peaks)
        rows.append(
            [
                number(position, str),
                _row_heading(m),
                Cell(kind(m), kind(m)),
                number(m.median, milliseconds),
                number(m.summary.spread, percent),
                Cell(percent(share), share, part=share),
                number(m.flop, lambda flop: significant(flop / 1e9)),
                number(m.bytes, size),
                number(figures["gflops"]),
                number(figures["gbps"]),
                number(roof and roof / 100, percent),
                *(number(held[part], size) for part in ("parameter", "output", "workspace")),
                Cell(kernels(m), kernels(m) or None),
            ]
        )

    def total(text: str, seconds: float, spread: float | None) -> list[Cell]:
        flop, moved = (_sum(getattr(m, part) for m in column.rows) for part in ("flop", "bytes"))
        return [
            Cell("", None),
            Cell(text, text),
            Cell("", None),
            number(seconds, milliseconds),
            number(spread, percent),
            Cell(percent(seconds / column.sum), None),
            number(flop, lambda flop: significant(flop / 1e9)),
            number(moved, size),
            number(flop and flop / seconds / 1e9),
            number(moved and moved / seconds / 1e9),
            Cell("", None),
            number(_sum(memory(m)["parameter"] for m in column.rows), size),
            *([Cell("", None)] * 3),
        ]

    totals = [total("rows together", column.sum, None)]
    if column.whole is not None:
        totals.append(total("whole pass", column.whole.median, column.whole.summary.spread))
    headers = [
        "#",
        "row",
        "kind",
        "time, ms",
        "spread",
        "share",
        "GFLOP",
        "moved",
        "GFLOP/s",
        "GB/s",
        "of the roofline",
    ]
    headers += ["parameters", "output", "workspace", "kernel"]
    caption = (
        f"{who(column, setting)}, {column.direction} pass: {setting.network}, batch {setting.batch}, {setting.dtype}"
    )
    return table(name, caption, headers, rows, totals, words=(2, 14), heading=1, ordered=True)


def _sum(values: Iterable[float | None]) -> float | None:
    """None where nothing is known of any."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _machine(record: Record) -> Iterator[Content]:
    yield machine(record.machine)
    if record.peaks is None:
        return
    if record.peaks.fma:
        rows = [
            [Cell(p.isa, p.isa), Cell(p.dtype, p.dtype), number(p.threads, str), number(p.best)]
            for p in record.peaks.fma
        ]
        headers = ["level", "dtype", "threads", "GFLOP/s"]
        yield table("fma", "The most arithmetic in the same run", headers, rows, words=(1,))
    if record.peaks.triad:
        rows = [
            [number(t.bytes, size), Cell(t.isa or "cpu", t.isa or "cpu"), number(t.threads, str), number(t.rate)]
            for t in record.peaks.triad
        ]
        headers = ["of three arrays", "device", "threads", "GB/s"]
        yield table(
            "triad", "Memory in the same run: the triad a = b + s·c, on a GPU copies", headers, rows, words=(1,)
        )


def _method(record: Record) -> Iterator[Content]:
    shown = [m for s in settings(record) for columns in passes(record, s).values() for c in columns for m in c.rows]
    calls = [len(m.seconds) for m in shown]
    wholes = [c.whole for s in settings(record) for columns in passes(record, s).values() for c in columns]
    compared = {(m.participant, m.dtype, m.threads, m.settings["batch"]): m.check for m in wholes if m and m.check}
    checks = list(compared.values())
    if calls:
        counts = f"{min(calls)}" if min(calls) == max(calls) else f"{min(calls)} to {max(calls)}"
        yield tag(
            "p",
            "The participants took turns: a few calls of one, a pause, a few calls of the next, and so on in several "
            "rounds, so that changes of the machine's clock and its other users met all of them alike. The calls at "
            "the beginning of a turn, which bring caches and threads back, are not counted. A time is the median of "
            f"{counts} calls; the spread is the distance of its quartiles as a part of it. It says how much the calls "
            "of this run differed, and nothing about another day or another machine.",
        )
    if checks:
        against = listed(dict.fromkeys(c.against for c in checks))
        passed = sum(c.passed for c in checks)
        yield tag(
            "p",
            f"Before the timing the results (scores, and gradients without dropout) of {counted(len(checks), 'run')} "
            f"were compared with those of {against}; {'all' if passed == len(checks) else passed} were within their "
            "tolerances, which follow from how far moving the images by their last bits moves the results.",
        )
    yield tag(
        "p",
        "Operations are those that the formula asks for: a multiply-add counts 2, and Winograd's convolutions count "
        "as if they were done directly. Bytes are every input read once and every output written once: where caches "
        "are too small a kernel moves more, and what was in a cache came faster than memory could have brought it. A "
        "row's part of the roofline is the larger of two: its GFLOP/s by the peak of multiply-adds for its dtype, "
        "level and threads (the highest level's for participants that name none), and its GB/s by the triad's at as "
        "many bytes; both were measured in the same run.",
    )
    yield tag(
        "p",
        "A pass is timed as a whole, and then again with a clock around each row, in the order of the network: what "
        "lies between the rows is in none of them. A row's kernels may do another row's work: a ReLU's gradient is "
        "applied by the layer behind it, where that can. In PyTorch each layer is a graph of its own then, which costs "
        "small layers some microseconds. Shares are parts of the rows together.",
    )
    if any(device(m) == "cuda" for m in shown):
        yield tag(
            "p",
            "On a GPU passes are CUDA graphs and times those between two events; a row's graph is replayed alone, on "
            "the same arrays, so that small rows find them in the cache. The peak of arithmetic, where there is one, "
            "is that of matrix products, and copies stand for the triad.",
        )
