"""A record of the GPU benchmark as text: its machine, every pass, means of classes beside their goals, the networks.

    python bench/gpu_tables.py OUT_FOLDER/gpu.json

Needs nothing but fastdl, so that it runs where only NumPy, CuPy and PyTorch are installed.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import checkout  # noqa: F401 - before fastdl

from fastdl.bench.record import Measurement, Record, load
from fastdl.bench.stats import geometric_mean

HALVES = ("float16", "bfloat16")
ALL = ("float16", "bfloat16", "tf32", "float32")
GRADIENTS = ("forward", "backward_input", "backward_weight")
MEMORY_BOUND = ("max_pool2d", "batch_norm", "softmax_cross_entropy", "sgd", "momentum", "adam")
THREE_CALLS, CUDNN_FUSED = "torch three calls", "torch cudnn fused"


class Goal(NamedTuple):
    """A class of passes, and the ratio to cuDNN (or PyTorch) that it is to reach."""

    name: str
    dtypes: tuple[str, ...]
    holds: Callable[[Measurement], bool]
    first: float
    far: float
    peer: str = ""  # the only one that counts; else the fastest


def _filters(m: Measurement) -> tuple[int, int]:
    """(K, C) of a convolution."""
    weight = m.settings.get("weight") or [0, 0]
    return weight[0], weight[1]


def _wide(m: Measurement) -> bool:
    return m.group in ("3x3 s1", "5x5 s1") and min(_filters(m)) >= 128


def _middle(m: Measurement) -> bool:
    if m.direction not in GRADIENTS:
        return False
    if m.group == "first":
        return m.settings["shape"][1] == 3
    return m.group == "1x1" or (m.group == "3x3 s1" and _filters(m) == (64, 64))


#: cuDNN's time by fastdl's, equal fusion, channels-last, cuDNN autotuned.
GOALS = (
    Goal("3x3, 5x5 s1, C and K >= 128: forward, backward_input", HALVES,
         lambda m: _wide(m) and m.direction in GRADIENTS[:2], 0.6, 1.05),
    Goal("the same: backward_weight", HALVES, lambda m: _wide(m) and m.direction == GRADIENTS[2], 0.5, 1.0),
    Goal("3x3 at C = K = 64; 1x1; first layer (C = 3)", HALVES, _middle, 0.8, 1.1),
    Goal("depthwise", HALVES, lambda m: m.group == "depthwise" and m.direction in GRADIENTS, 1.0, 2.5),
    Goal("max-pool, batch norm, softmax, optimizer steps", ALL, lambda m: m.op in MEMORY_BOUND, 1.3, 2.5),
    Goal("conv + bias + ReLU (+ pool), against three calls", ALL,
         lambda m: m.direction.startswith("forward_relu"), 1.0, 1.8, THREE_CALLS),
    Goal("conv + bias + ReLU (+ pool), against cuDNN's fusion", ALL,
         lambda m: m.direction.startswith("forward_relu"), 1.0, 1.8, CUDNN_FUSED),
    Goal("convolutions in float32, TF32 off", ("float32",),
         lambda m: m.op == "conv2d" and m.direction in GRADIENTS and m.group != "depthwise", 0.8, 2.0),
)  # fmt: skip


class Line(NamedTuple):
    """fastdl's measurement of a pass, and those beside it."""

    ours: Measurement
    peers: list[Measurement]

    def peer(self, name: str = "") -> Measurement | None:
        """The one of this name, or the fastest."""
        found = [p for p in self.peers if not name or p.participant == name]
        return min(found, key=lambda p: p.median, default=None)

    def ratio(self, name: str = "") -> float | None:
        """Above 1: fastdl is faster."""
        peer = self.peer(name)
        return None if peer is None else peer.median / self.ours.median


def lines(record: Record) -> list[Line]:
    """The passes of layers, in the order of their measurement."""
    beside: dict[tuple, list[Measurement]] = defaultdict(list)
    for m in record.measurements:
        if m.suite == "gpu" and m.participant != "fastdl":
            beside[m.key].append(m)
    return [Line(m, beside[m.key]) for m in record.measurements if m.suite == "gpu" and m.participant == "fastdl"]


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> str:
    """A table as text; the first ``left`` columns are words, the others numbers."""
    every = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in every) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in every
    )


def _number(value: float | None, form: str = "{:.2f}") -> str:
    return "" if value is None else form.format(value)


def machine_text(record: Record) -> str:
    """The machine and its ceilings."""
    gpu, versions, peaks = record.machine.gpu or {}, record.machine.versions, record.peaks
    shown = [f"{key} {value}" for key, value in gpu.items() if key != "name"]
    text = [f"{gpu.get('name', 'no GPU')}: {', '.join(shown)}"]
    text.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    text.append(f"{record.machine.cpu}, {record.machine.system}; fastdl at {record.machine.revision}; {record.created}")
    if peaks is not None:
        text += [f"matrix products, {p.dtype}: {p.best / 1e3:.1f} TFLOP/s" for p in peaks.fma]
        copies = (f"{t.bytes / 2**20:g} MiB {t.rate:.0f}" for t in peaks.triad)
        text.append(f"copies on the device, GB/s read and written: {', '.join(copies)}")
    return "\n".join(text)


def pass_table(record: Record, emulated: bool) -> str:
    """A line for each pass. "of" is the ceiling of the matrix products for convolutions and dense layers, else that of
    copies; a star marks times of single launches, without a graph."""

    def row(line: Line) -> list[str]:
        m, peaks = line.ours, record.peaks
        figures = m.figures(peaks)
        products = m.op in ("conv2d", "linear")
        share = figures["percent_of_peak"] if products else figures["percent_of_triad"]
        peer = line.peer()
        seconds = [] if emulated else [f"{1e6 * m.median:.2f}{_star(m)}"]
        if not emulated:
            gflops = figures["gflops"]
            seconds += [
                f"{100 * m.summary.spread:.0f}%",
                _number(None if gflops is None or not products else gflops / 1e3, "{:.1f}"),
                _number(figures["gbps"], "{:.0f}"),
                "" if share is None else f"{share:.0f}% {'peak' if products else 'copy'}",
                "" if peer is None else f"{1e6 * peer.median:.2f}{_star(peer)}",
                "" if peer is None else peer.participant.removeprefix("torch "),
                _number(line.ratio()),
            ]
        else:
            seconds += ["emulated", "" if peer is None else peer.participant.removeprefix("torch ")]
        return [m.case, m.group, m.direction, m.dtype, _kernel(m), *seconds]

    numbers = ["us", "spread", "TFLOP/s", "GB/s", "of", "peer us", "peer", "ratio"]
    header = ["layer", "class", "pass", "precision", "kernel", *(["time", "peer"] if emulated else numbers)]
    return aligned(header, map(row, lines(record)), 5)


def _star(m: Measurement) -> str:
    return "*" if m.settings.get("timed") == "launches" else ""


def _kernel(m: Measurement) -> str:
    return m.kernels[0].rpartition(": ")[2].partition("/")[2] if m.kernels else ""


def class_table(record: Record) -> str:
    """Geometric means of the ratios beside the goals; the last column says how many ratios, and which is the lowest."""
    found = lines(record)
    taken: set[tuple] = set()
    rows: list[list[str]] = []

    def row(name: str, dtype: str, some: list[Line], peer: str, first: str, far: str) -> None:
        ratios = [(ratio, line.ours) for line in some if (ratio := line.ratio(peer)) is not None]
        if ratios:
            lowest, m = min(ratios, key=lambda pair: pair[0])
            mean = geometric_mean(ratio for ratio, _ in ratios)
            met = "" if not first else "met" if mean >= float(first) else "missed"
            rows.append([name, dtype, f"{mean:.2f}", first, far, met, f"{len(ratios)}, lowest {lowest:.2f} {m.case} "
                         f"{m.direction}"])  # fmt: skip

    for goal in GOALS:
        for dtype in goal.dtypes:
            some = [line for line in found if line.ours.dtype == dtype and goal.holds(line.ours)]
            taken.update(line.ours.key for line in some)
            row(goal.name, dtype, some, goal.peer, f"{goal.first:.2f}", f"{goal.far:.2f}")
    for group in dict.fromkeys(line.ours.group for line in found):
        for dtype in ALL:
            some = [x for x in found if x.ours.group == group and x.ours.dtype == dtype and x.ours.key not in taken]
            row(f"others: {group}", dtype, some, "", "", "")
    for dtype in ALL:
        products = [x for x in found if x.ours.op == "conv2d" and x.ours.dtype == dtype]
        row("all convolutions", dtype, [x for x in products if x.ours.direction in GRADIENTS], "", "", "")
    return aligned(["class", "precision", "mean", "first goal", "far goal", "", "ratios"], rows, 2)


def network_table(record: Record, emulated: bool) -> str:
    """Training steps, and whole trainings."""
    rows = []
    every = [m for m in record.measurements if m.suite == "networks"]
    for m in every:
        best = min((o.median for o in every if (o.op, o.dtype) == (m.op, m.dtype) and not _is_ours(o)), default=None)
        images = m.settings["batch"] / m.median if m.op == "training_step" else None
        accuracy = m.settings.get("accuracy")
        took = f"{1e3 * m.median:.3f} ms" if m.op == "training_step" else f"{m.median:.2f} s"
        rows.append([
            m.case, m.op.replace("_", " "), m.dtype, m.participant, "emulated" if emulated else took,
            "" if emulated else _number(images, "{:,.0f}"), "" if accuracy is None else f"{100 * accuracy:.2f}%",
            "" if emulated or best is None or not _is_ours(m) else f"{best / m.median:.2f}",
        ])  # fmt: skip
    return aligned(["network", "what", "precision", "who", "time", "images/s", "accuracy", "ratio"], rows, 4)


def _is_ours(m: Measurement) -> bool:
    return m.participant.startswith("fastdl")


def left_out_text(units: Sequence[str]) -> str:
    """Passes by precision and layer; each is "layer pass precision"."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for unit in units:
        layer, direction, precision = unit.rsplit(" ", 2)
        found[precision][layer].append(direction)
    return "\n".join(
        f"{precision}: " + "; ".join(f"{layer} {', '.join(directions)}" for layer, directions in layers.items())
        for precision, layers in found.items()
    )


def text_of(record: Record, notes: Sequence[str] = (), left_out: Sequence[str] = ()) -> str:
    """All tables, what was left out, and the summary last."""
    emulated = any(m.settings.get("timed") == "emulated" for m in record.measurements)
    parts = ["# Machine", machine_text(record)]
    if emulated:
        parts.insert(0, "A dry run: the kernels were emulated on a CPU. Nothing here says how fast anything is.")
    if lines(record):
        parts += ["# Passes of layers, ratio = time of the fastest peer / fastdl's", pass_table(record, emulated)]
    if left_out:
        parts += [f"# Left out for lack of time: {len(left_out)} passes", left_out_text(left_out)]
    if notes:
        parts += ["# Failed, not measured, noteworthy", "\n".join(notes)]
    if lines(record) and not emulated:
        parts += ["# Classes: geometric means of the ratios", class_table(record)]
    if any(m.suite == "networks" for m in record.measurements):
        parts += ["# Networks", network_table(record, emulated)]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    """Prints the tables of a record once more."""
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    print(text_of(load(Path(sys.argv[1]))), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
