"""A network's record as one HTML file that needs nothing else: no network, no font, no other file.

The page is built as a tree of elements, so that whatever a record says is text and never markup. ``page.css`` and
``page.js`` go into it as they are; a content security policy lets nothing else run and nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree
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
from .pictures import Picture, pictures, svg
from .pictures._style import INK, PAPER
from .record import Measurement, Record

Content = str | Element | None


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
        _section("measured", "What was measured", _measured(record, every)),
        _section("summary", "Summary", _summary(record, every)),
        _section("pictures", "Pictures", _pictures(record)),
        _section("layers", "Layers", _layers(record, every)),
        _section("machine", "The machine", _machine(record)),
        _section("method", "How it was measured", _method(record)),
    ]
    links = [tag("li", tag("a", str(s[0].text), href=f"#{s.get('id')}")) for s in sections]
    root = tag(
        "html",
        _head(f"{networks}, layer by layer"),
        tag(
            "body",
            tag("a", "Skip to the content", class_="skip", href="#content"),
            tag("header", tag("h1", f"{networks}, layer by layer"), tag("p", _lead(record), class_="lead")),
            tag("nav", tag("ul", *links), aria_label="Contents"),
            tag("main", *sections, id="content", tabindex="-1"),
            tag("footer", tag("p", f"Made by fastdl {record.machine.versions.get('fastdl', '')}")),
            tag("script", _resource("page.js")),
        ),
        lang="en",
    )
    return "<!doctype html>\n" + ElementTree.tostring(root, encoding="unicode", method="html") + "\n"


# ---- elements -------------------------------------------------------------------------------------------------------


def tag(element: str, /, *content: Content, **attributes: str) -> Element:
    """An element; in names of attributes "_" stands for "-", at the end for nothing."""
    found = Element(element, {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()})
    for part in content:
        if isinstance(part, Element):
            found.append(part)
        elif part and len(found):
            found[-1].tail = (found[-1].tail or "") + part
        elif part:
            found.text = (found.text or "") + part
    return found


def _section(name: str, title: str, content: Iterable[Content]) -> Element:
    return tag("section", tag("h2", title, id=f"{name}-title"), *content, id=name, aria_labelledby=f"{name}-title")


def _resource(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _head(title: str) -> Element:
    digest = base64.b64encode(hashlib.sha256(_resource("page.js").encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("link", rel="icon", href="data:,"),  # or the browser asks for /favicon.ico
        tag("title", title),
        tag("style", _resource("page.css")),
    )


def _list(entries: Mapping[str, Content]) -> Element:
    """Terms and what they are; those without content are left out."""
    found = tag("dl")
    for term, content in entries.items():
        if content is not None and content != "":
            found.extend([tag("dt", term), tag("dd", content)])
    return found


class Cell(NamedTuple):
    """Of a table; ``value`` is what it is sorted by, None for an empty one."""

    text: str
    value: float | str | None
    below: str = ""
    part: float | None = None  # of a bar behind the text

    def element(self, words: bool, heading: bool) -> Element:
        """As <td>, or as the <th> of its row."""
        attributes = {} if self.value is None else {"data_value": str(self.value)}
        if words:
            attributes["class_"] = "words"
        if self.part is not None:
            attributes |= {"class_": "share", "style": f"--part: {100 * self.part:.1f}%"}
        below = tag("span", self.below, class_="fused") if self.below else None
        if heading:
            return tag("th", self.text, below, scope="row", **attributes)
        return tag("td", self.text, below, **attributes)


def _number(value: float | None, text: Callable[[float], str] = significant) -> Cell:
    return Cell("", None) if value is None else Cell(text(value), value)


def _table(
    name: str,
    caption: str,
    headers: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    totals: Iterable[Sequence[Cell]] = (),
    *,
    words: Iterable[int] = (),
    heading: int = 0,
    ordered: bool = False,
) -> Element:
    """In a region that scrolls. ``words``: columns of text; ``heading``: the one that names the row; ``ordered``: rows
    come in the order of the first column."""
    left = {*words, heading}
    head = [
        tag("th", text, scope="col", **({"class_": "words"} if n in left else {})) for n, text in enumerate(headers)
    ]
    if ordered:
        head[0].set("aria-sort", "ascending")

    def lines(cells: Iterable[Sequence[Cell]]) -> Iterator[Element]:
        for row in cells:
            yield tag("tr", *(cell.element(n in left, n == heading) for n, cell in enumerate(row)))

    foot = list(lines(totals))
    table = tag(
        "table",
        tag("caption", caption, id=f"{name}-caption"),
        tag("thead", tag("tr", *head)),
        tag("tbody", *lines(rows)),
        tag("tfoot", *foot) if foot else None,
        class_="sortable",
    )
    return tag("div", table, class_="scroll", role="region", tabindex="0", aria_labelledby=f"{name}-caption")


def _figure(name: str, picture: Picture) -> Element:
    """With the picture's own colours of text and background replaced by those of the page."""
    text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "", svg(picture.figure))
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            key = key.rpartition("}")[2]
            if key == "id":
                value = f"{name}-{value}"
            elif key == "href":
                value = value.replace("#", f"#{name}-", 1)
            value = value.replace("url(#", f"url(#{name}-").replace(INK, "currentColor").replace(PAPER, "var(--paper)")
            element.set(key, value)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-text", "id": name}
    caption = tag("figcaption", picture.caption + " ", tag("span", picture.text, id=f"{name}-text"))
    frame = tag("div", root, class_="picture", role="region", tabindex="0", aria_label=f"Picture: {picture.name}")
    return tag("figure", frame, caption)


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

    yield _list(
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
    yield _table("totals", "Whole passes", headers, rows, words=(1, 3))
    if record.absent:
        yield tag("p", "Not there:")
        yield tag("ul", *(tag("li", tag("strong", name), f": {reason}") for name, reason in record.absent.items()))


def _named(columns: Sequence[Column], name: str) -> Column | None:
    return next((c for c in columns if c.participant == name), None)


def _summary_row(
    setting: Setting, by: Mapping[str, Column | None], reference: Mapping[str, Column | None], first_calls: bool
) -> list[Cell]:
    some = next(c for c in by.values() if c is not None)
    threads = Cell("GPU", 0) if some.device == "cuda" else _number(setting.threads, str)
    row = [
        Cell(some.participant, some.participant),
        Cell(setting.network, setting.network),
        _number(setting.batch, str),
        Cell(setting.dtype, setting.dtype),
        threads,
    ]
    for direction, column in by.items():
        if column is None:
            row += [Cell("", None)] * 4
            continue
        beside = reference[direction]
        row += [
            _number(column.seconds, milliseconds),
            _number(column.whole.summary.spread if column.whole else None, percent),
            _number(_by(column.seconds, beside.seconds if beside else None)),
            _number(column.images_per_second),
        ]
    if len(by) == 2:
        both = [c.seconds for c in by.values() if c is not None and c.seconds is not None]
        total = sum(both) if len(both) == 2 else None
        row += [_number(total, milliseconds), _number(_by(setting.batch, total))]
    if first_calls:
        whole = next((c.whole for c in by.values() if c is not None), None)
        row.append(_number(whole.settings.get("first_call") if whole else None))
    return row


def _pictures(record: Record) -> Iterator[Content]:
    for number, setting in enumerate(main_settings(record)):
        for picture in pictures(record, setting):
            yield _figure(f"picture-{number}-{picture.name}", picture)


def _layers(record: Record, every: Sequence[Setting]) -> Iterator[Content]:
    yield tag(
        "p",
        "The row names are those of the network; under them stand the layers that one kernel computes together. "
        "Every column can be sorted by the button in its header.",
    )
    shown = main_settings(record)
    for number, setting in enumerate(every):
        content: list[Content] = [tag("summary", tag("h3", str(setting)))]
        for direction, columns in passes(record, setting).items():
            name = f"rows-{number}-{direction}"
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
        rows.append([_number(position, str), _row_heading(some), Cell(kind(some), kind(some)), *_times(times)])
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
    return _table(name, caption, headers, rows, totals, words=(2,), heading=1, ordered=True)


def _times(seconds: Sequence[float | None]) -> list[Cell]:
    """Milliseconds, and of all but the first how many times as long they are."""
    first, *others = seconds
    return [*(_number(value, milliseconds) for value in seconds), *(_number(_by(other, first)) for other in others)]


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
                _number(position, str),
                _row_heading(m),
                Cell(kind(m), kind(m)),
                _number(m.median, milliseconds),
                _number(m.summary.spread, percent),
                Cell(percent(share), share, part=share),
                _number(m.flop, lambda flop: significant(flop / 1e9)),
                _number(m.bytes, size),
                _number(figures["gflops"]),
                _number(figures["gbps"]),
                _number(roof and roof / 100, percent),
                *(_number(held[part], size) for part in ("parameter", "output", "workspace")),
                Cell(kernels(m), kernels(m) or None),
            ]
        )

    def total(text: str, seconds: float, spread: float | None) -> list[Cell]:
        flop, moved = (_sum(getattr(m, part) for m in column.rows) for part in ("flop", "bytes"))
        return [
            Cell("", None),
            Cell(text, text),
            Cell("", None),
            _number(seconds, milliseconds),
            _number(spread, percent),
            Cell(percent(seconds / column.sum), None),
            _number(flop, lambda flop: significant(flop / 1e9)),
            _number(moved, size),
            _number(flop and flop / seconds / 1e9),
            _number(moved and moved / seconds / 1e9),
            Cell("", None),
            _number(_sum(memory(m)["parameter"] for m in column.rows), size),
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
    return _table(name, caption, headers, rows, totals, words=(2, 14), heading=1, ordered=True)


def _sum(values: Iterable[float | None]) -> float | None:
    """None where nothing is known of any."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _machine(record: Record) -> Iterator[Content]:
    m = record.machine
    quota = "no limit" if m.cgroup_cpus is None else f"{m.cgroup_cpus:g} CPUs"
    yield _list(
        {
            "CPU": f"{m.cpu} ({m.architecture})",
            "features": ", ".join(m.features),
            "CPUs": f"{m.cpus} in the machine, {m.affinity} for this process; limit of the control group: {quota}",
            "caches": ", ".join(f"{name} {nbytes // 1024:,} KiB" for name, nbytes in m.caches.items()),
            "memory": None if m.memory is None else f"{m.memory / 2**30:.1f} GiB",
            "governor": m.governor or "unknown",
            "load before": ", ".join(f"{load:.2f}" for load in m.load) + " (1, 5, 15 minutes)" if m.load else "unknown",
            "GPU": "none was used" if m.gpu is None else ", ".join(f"{key} {value}" for key, value in m.gpu.items()),
            "system": m.system,
            "versions": ", ".join(f"{name} {version}" for name, version in m.versions.items()),
            "build": ", ".join(f"{name} {value}" for name, value in (m.build or {}).items()) or "no compiled kernels",
            "revision": m.revision,
        }
    )
    if record.peaks is None:
        return
    if record.peaks.fma:
        rows = [
            [Cell(p.isa, p.isa), Cell(p.dtype, p.dtype), _number(p.threads, str), _number(p.best)]
            for p in record.peaks.fma
        ]
        headers = ["level", "dtype", "threads", "GFLOP/s"]
        yield _table("fma", "The most arithmetic in the same run", headers, rows, words=(1,))
    if record.peaks.triad:
        rows = [
            [_number(t.bytes, size), Cell(t.isa or "cpu", t.isa or "cpu"), _number(t.threads, str), _number(t.rate)]
            for t in record.peaks.triad
        ]
        headers = ["of three arrays", "device", "threads", "GB/s"]
        yield _table(
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
