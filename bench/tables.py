"""Records of layers as tables: a line for each pass, means of classes, and the bars of the project."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import suite
from rich.console import Console
from rich.table import Table

from fastdl.bench.record import Measurement, Peaks, Record, load
from fastdl.bench.stats import geometric_mean

#: Convolutions of at least this many floating-point operations show what a kernel can do, not what a call costs.
LARGE = 2e9


class Line(NamedTuple):
    """One pass of one layer by one of fastdl's settings, and PyTorch's better way to do it."""

    ours: Measurement
    peer: Measurement | None

    @property
    def ratio(self) -> float | None:
        """Above 1: fastdl is faster."""
        return None if self.peer is None else self.peer.median / self.ours.median


def lines(record: Record) -> list[Line]:
    """In the order of the measurements."""
    peers: dict[tuple, list[Measurement]] = defaultdict(list)
    for m in record.measurements:
        if not m.participant.startswith("fastdl"):
            peers[m.key].append(m)
    return [
        Line(m, min(peers[m.key], key=lambda p: p.median, default=None))
        for m in record.measurements
        if m.participant.startswith("fastdl")
    ]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def layer_table(record: Record) -> Table:
    """A line for each pass. "of" is the peak of arithmetic for convolutions and dense layers, else the triad."""
    found = lines(record)
    columns: dict[str, Callable[[Measurement], str]] = {
        "layer": lambda m: m.case,
        "class": lambda m: m.group,
        "pass": lambda m: m.direction,
        "dtype": lambda m: m.dtype,
        "threads": lambda m: str(m.threads),
        "participant": lambda m: m.participant,
        "kernel": lambda m: m.kernels[0].rpartition(": ")[2].removeprefix("cython/") if m.kernels else "",
    }
    for name in ("dtype", "threads", "participant"):  # a column where there is something to tell apart
        if len({columns[name](line.ours) for line in found}) < 2:
            del columns[name]
    described = f"{record.machine.cpu}, {', '.join(dict.fromkeys(f'{m.dtype}, {m.threads} threads' for m, _ in found))}"
    table = Table(title=described, box=None, header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True)
    for name in ("ms", "spread", "GFLOP/s", "GB/s", "% of", "PyTorch ms", "spread", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for ours, peer in found:
        figures = ours.figures(record.peaks)
        arithmetic = ours.op in ("conv2d", "linear")
        share = figures["percent_of_peak"] if arithmetic else figures["percent_of_triad"]
        ratio = Line(ours, peer).ratio
        table.add_row(
            *(value(ours) for value in columns.values()),
            f"{1e3 * ours.median:.3f}",
            f"{100 * ours.summary.spread:.0f}%",
            _percent(figures["gflops"]) if arithmetic else "",
            _percent(figures["gbps"]),
            f"{share:.0f}% {'peak' if arithmetic else 'triad'}" if share is not None else "",
            "" if peer is None else f"{1e3 * peer.median:.3f} {peer.participant.partition(' ')[2]}".strip(),
            "" if peer is None else f"{100 * peer.summary.spread:.0f}%",
            _number(ratio) if ratio is None or ratio >= 0.9 else f"[red]{ratio:.2f}[/]",
        )
    return table


# ---- Numba ----------------------------------------------------------------------------------------------------------

NUMBA = "fastdl/numba"


def numba_tables(record: Record) -> list[Table]:
    """The time of the compiled kernels by that of Numba's, for each setting of theirs; and what first calls took."""
    theirs = {m.key: m for m in record.measurements if m.participant == NUMBA}
    if not theirs:
        return []
    tables = []
    ours = [m for m in record.measurements if m.participant.startswith("fastdl") and m.participant != NUMBA]
    settings = dict.fromkeys((m.participant, m.dtype, m.threads) for m in ours)
    for name, dtype, threads in settings:
        beside = [m for m in ours if (m.participant, m.dtype, m.threads) == (name, dtype, threads) and m.key in theirs]
        found = [Line(theirs[m.key], m) for m in beside]
        tables.append(class_table(f"{NUMBA}, {dtype}, {threads} threads: the time of {name} by its own", found))
        arithmetic = [line for line in found if line.ours.group in suite.CONVOLUTIONS]
        rest = [line for line in found if line.ours.op not in ("conv2d", "linear")]
        for what, part in (("convolutions", arithmetic), ("memory-bound", rest)):
            if part:
                tables[-1].add_row(what, *[""] * (len(tables[-1].columns) - 3), _number(_mean(part, suite.GROUPS)), "")
    firsts = [m.settings["first_call"] for m in theirs.values() if "first_call" in m.settings]
    note = (
        f"first calls, which compile kernels or load them: {sum(firsts):.1f} s in all, {max(firsts):.1f} s the longest"
    )
    tables[-1].caption = note if tables else None
    return tables


# ---- means ----------------------------------------------------------------------------------------------------------


def means(found: Iterable[Line]) -> dict[tuple[str, str], list[float]]:
    """(class, pass) -> ratios."""
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in found:
        if line.ratio is not None:
            ratios[line.ours.group, line.ours.direction].append(line.ratio)
    return ratios


def class_table(title: str, found: list[Line]) -> Table:
    """Geometric means of the ratios, a row for each class, a column for each pass."""
    ratios = means(found)
    passes = [p for p in suite.PASSES if any(p == direction for _, direction in ratios)]
    table = Table(title=title, box=None, header_style="bold", pad_edge=False)
    table.add_column("class", no_wrap=True)
    for name in (*passes, "all", "slowest"):
        table.add_column(name, justify="right")
    for group in suite.GROUPS:
        every = [line for line in found if line.ours.group == group and line.ratio is not None]
        if not every:
            continue
        slowest = min(every, key=lambda line: line.ratio or 0)
        table.add_row(
            group,
            *(_number(geometric_mean(ratios[group, p])) if (group, p) in ratios else "" for p in passes),
            _number(geometric_mean(line.ratio for line in every if line.ratio)),
            f"{slowest.ratio:.2f} {slowest.ours.case} {slowest.ours.direction}",
        )
    return table


# ---- bars -----------------------------------------------------------------------------------------------------------


class Bar(NamedTuple):
    """One measure of the project, as far as this record has it."""

    measure: str
    value: str
    bar: str


def _mean(found: Iterable[Line], groups: Iterable[str] = suite.CONVOLUTIONS) -> float | None:
    wanted = set(groups)
    ratios = [line.ratio for line in found if line.ours.group in wanted and line.ratio is not None]
    return geometric_mean(ratios) if ratios else None


def bars(record: Record) -> list[Bar]:
    """The bars that layers can show; those that this record says nothing about are left out."""
    every = lines(record)
    most = max((line.ours.threads for line in every), default=1)
    main = [line for line in every if line.ours.participant == "fastdl" and line.ours.threads == most]
    by_dtype = {
        dtype: [line for line in main if line.ours.dtype == dtype] for dtype in ("float32", "float64", "float16")
    }
    single = by_dtype["float32"]
    found: list[Bar] = []

    def add(measure: str, value: float | None, bar: str, unit: str = "×") -> None:
        if value is not None:
            found.append(Bar(measure, f"{value:.2f}×" if unit == "×" else f"{value:.0f}%", bar))

    add("float32, stride-1 3×3 and 5×5", _mean(single, ("3x3 s1", "5x5 s1")), "≥ 1.7× (2.1×)")
    add("float32, first, strided, depthwise", _mean(single, ("first", "strided", "depthwise")), "≥ 1.2× (1.5×)")
    add("float32, 1×1", _mean(single, ("1x1",)), "≥ 1.0× (1.15×)")
    for name, key in (("pass", _pass_key), ("layer, mean of its passes", _case_key)):
        slowest = _slowest(single, key)
        if slowest:
            found.append(Bar(f"float32, slowest {name}", f"{slowest[1]:.2f}× {slowest[0]}", "≥ 0.9× (1.0×)"))
    add("float64 convolution", _mean(by_dtype["float64"]), "≥ 3× (5×)")
    add("float16 convolution", _mean(by_dtype["float16"]), "≥ 8× (12×)")
    own = _own_ratios(by_dtype["float32"], by_dtype["float16"])
    add("float16 convolution against own float32", geometric_mean(own) if own else None, "≥ 0.95× (1.0×)")
    for name, op in MEMORY_BOUND.items():
        parts = [line for line in single if line.ours.op in op]
        ratio, share = _mean(parts, suite.GROUPS), _triad(parts, record.peaks)
        if ratio is not None and share is not None:
            text = f"{ratio:.2f}×, {share:.0f}% of the triad"
            found.append(Bar(name, text, "≥ 1.2× or ≥ 90% (both)"))
    for isa in dict.fromkeys(line.ours.isa for line in every):
        shares = _peak_shares(every, record.peaks, isa)
        if shares:
            add(
                f"float32 {isa}, large stride-1 layers, of its peak (direct)",
                geometric_mean(shares),
                "v3: ≥ 70% (85%)",
                "%",
            )
    scaling = _scaling(every)
    add(f"{most} threads against 1", geometric_mean(scaling) if scaling else None, "2: ≥ 1.85× (1.95×)")
    return found


MEMORY_BOUND = {
    "pooling": ("max_pool2d", "avg_pool2d", "global_avg_pool2d"),
    "batch norm": ("batch_norm",),
    "ReLU": ("relu",),
    "softmax cross entropy": ("softmax_cross_entropy",),
    "Adam": ("adam",),
}


def _pass_key(m: Measurement) -> str:
    return f"{m.case} {m.direction}"


def _case_key(m: Measurement) -> str:
    return m.case


def _slowest(found: Iterable[Line], key: Callable[[Measurement], str]) -> tuple[str, float] | None:
    """Of the convolutions and dense layers."""
    ratios: dict[str, list[float]] = defaultdict(list)
    for line in found:
        if line.ratio is not None and line.ours.op in ("conv2d", "linear"):
            ratios[key(line.ours)].append(line.ratio)
    return min(((name, geometric_mean(values)) for name, values in ratios.items()), key=lambda p: p[1], default=None)


def _triad(found: Iterable[Line], peaks: Peaks | None) -> float | None:
    shares = [share for line in found if (share := line.ours.figures(peaks)["percent_of_triad"]) is not None]
    return geometric_mean(shares) if shares else None


def _peak_shares(found: Iterable[Line], peaks: Peaks | None, isa: str) -> list[float]:
    return [
        share
        for line in found
        if line.ours.isa == isa and line.ours.dtype == "float32" and line.ours.group in ("3x3 s1", "5x5 s1")
        if not any("winograd" in kernel for kernel in line.ours.kernels)  # it does with fewer products
        if (line.ours.flop or 0) >= LARGE and (share := line.ours.figures(peaks)["percent_of_peak"]) is not None
    ]


def _own_ratios(wide: Iterable[Line], narrow: Iterable[Line]) -> list[float]:
    """Time in float32 by time in float16, of convolutions that both have."""
    times = {(m.case, m.direction, m.participant): m.median for m, _ in wide if m.op == "conv2d"}
    keys = [((m.case, m.direction, m.participant), m.median) for m, _ in narrow if m.op == "conv2d"]
    return [times[key] / median for key, median in keys if key in times]


def _scaling(found: Iterable[Line]) -> list[float]:
    """Time with one thread by time with the most, of passes that are long enough for a second thread."""
    times: dict[tuple[str, ...], dict[int, float]] = defaultdict(dict)
    for m, _ in found:
        times[m.case, m.direction, m.dtype, m.participant][m.threads] = m.median
    most = max((count for by_count in times.values() for count in by_count), default=1)
    return [t[1] / t[most] for t in times.values() if most > 1 and {1, most} <= set(t) and t[1] > 2e-4]


def summary_tables(record: Record) -> list[Table]:
    """Means of classes for each dtype, thread count and setting; then the bars."""
    groups: dict[tuple[str, int, str], list[Line]] = defaultdict(list)
    for line in lines(record):
        groups[line.ours.dtype, line.ours.threads, line.ours.participant].append(line)
    tables = [
        class_table(f"{participant}, {dtype}, {threads} threads: ratios to PyTorch's better format", found)
        for (dtype, threads, participant), found in groups.items()
        if any(line.ratio is not None for line in found)
    ]
    tables += numba_tables(record)
    table = Table(title="bars (and far goals)", box=None, header_style="bold", pad_edge=False)
    for name in ("measure", "value", "bar"):
        table.add_column(name, no_wrap=True)
    for bar in bars(record):
        table.add_row(*bar)
    return [*tables, table]


def main() -> None:
    """Prints the tables of a record once more."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("record", type=Path)
    record = load(parser.parse_args().record)
    console = Console(highlight=False)
    for table in (layer_table(record), *summary_tables(record)):
        console.print(table)


if __name__ == "__main__":
    main()
