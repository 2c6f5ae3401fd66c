"""Chunks, blocks and scratch memory of the direct convolution, and when it applies. A pure function of Problem and level."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from ..._common.tiling import itemsize, macs_per_ns, panel_width
from ...problem import Problem
from ..plan import Axis, macs
from ..plan import plan as phases

#: Bytes of a block of packed weights (filter rows and columns, cb channels, one panel): L1 holds it with a few rows.
WEIGHT_BLOCK = 300 * 1024
#: Bytes of a chunk's padded rows, at most, while one row of one image needs less: a share of L2.
CHUNK = 256 * 1024
#: Output positions of a chunk, about: enough to use each weight often, few enough to keep a panel's sums in L2.
POSITIONS = 256
#: More classes of positions (backward_input has as many as the stride) are left to the implicit GEMM.
CLASSES = 8
#: Tasks that a large problem is cut into, at least.
TASKS = 32


class Plan(NamedTuple):
    """How one problem is cut into tasks."""

    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    cb: int  # summed channels of a block
    images: int  # a chunk: output positions in each class
    height: int
    width: int
    panel_step: int  # panels of output channels of a task
    channel_step: int  # backward_weight: summed channels of a task
    slices: int  # backward_weight: partial sums over runs of chunks, added up in order


def eligible(problem: Problem) -> bool | str:
    """True, or why not."""
    if problem.dilation != (1, 1):
        return "the taps of a filter row are not neighbours (dilation)"
    if max(problem.stride) > CLASSES:
        return f"it handles strides up to {CLASSES}"
    return True


def _even(total: int, most: int) -> int:
    """The largest of the equal pieces, at most ``most`` each, that ``total`` is cut into."""
    return math.ceil(total / math.ceil(total / max(most, 1))) if total else 1


def _span(axes: tuple[Axis, ...], count: int) -> int:
    """Source positions that ``count`` neighbouring output positions of every class read."""
    offsets = [offset for axis in axes for offset in axis.offsets]
    extent = max(offsets) - min(offsets) + 1 if offsets else 0
    return (count - 1) * axes[0].scale + extent if axes else 0


def _channels(problem: Problem) -> tuple[int, int]:
    """Channels of a group that are summed over, and that come out."""
    k, c, *_ = problem.shapes[1]
    k //= problem.groups
    return (k, c) if problem.direction == "backward_input" else (c, k)


@functools.lru_cache(maxsize=4096)
def plan(problem: Problem, isa: str) -> Plan:
    """Blocks of forward, backward_input and backward_weight."""
    batch = problem.shapes[0][0]
    reduce, produce = _channels(problem)
    rows, columns = phases(problem, isa)[-2:]
    size = itemsize(problem.compute)
    if not (rows and columns and rows[0].length and columns[0].length and batch):
        return Plan(rows, columns, 1, 1, 1, 1, 1, 1, 1)
    taps = max(len(axis.taps) for axis in rows) * max(len(axis.taps) for axis in columns)
    nr = panel_width(isa, problem.compute, produce)
    cb = _even(reduce, max(16, WEIGHT_BLOCK // max(1, taps * nr * size)))
    height, width = rows[0].length, columns[0].length

    def bytes_of(images: int, height: int, width: int) -> int:
        return images * _span(rows, height) * _span(columns, width) * reduce * size

    while width > 32 and bytes_of(1, 1, width) > CHUNK:
        width = math.ceil(width / 2)
    width = _even(columns[0].length, max(width, 1))
    most = max(1, POSITIONS // width)
    while most > 1 and bytes_of(1, most, width) > CHUNK:
        most -= 1
    height = _even(rows[0].length, most)
    images = 1
    if height == rows[0].length and width == columns[0].length:
        images = min(POSITIONS // (height * width), CHUNK // max(1, bytes_of(1, height, width)), batch // TASKS)
        images = _even(batch, max(images, 1))
    chunks = math.ceil(batch / images) * math.ceil(rows[0].length / height) * math.ceil(columns[0].length / width)
    panels = math.ceil(produce / nr) if produce else 1
    split = max(1, min(panels, math.ceil(TASKS / (chunks * problem.groups))))
    return Plan(rows, columns, cb, images, height, width, _even(panels, math.ceil(panels / split)), reduce, 1)


def cost(problem: Problem, isa: str) -> float:
    """Rough nanoseconds of one thread."""
    return 0.8 * macs(problem) / macs_per_ns(isa, problem.compute)


def workspace(problem: Problem, isa: str, threads: int) -> int:
    """Bytes of scratch of all threads together, at most."""
    p = plan(problem, isa)
    if not p.rows or not p.columns:
        return 0
    size = itemsize(problem.compute)
    reduce, produce = _channels(problem)
    nr = panel_width(isa, problem.compute, produce)
    wide = math.ceil(produce / nr) * nr
    taps = sum(len(axis.taps) for axis in p.rows) * sum(len(axis.taps) for axis in p.columns)
    chunk = p.images * _span(p.rows, p.height) * _span(p.columns, p.width) * reduce
    sums = p.images * p.height * p.width * nr
    shared = problem.groups * (taps * reduce * wide + produce)
    return (shared + threads * (chunk + sums)) * size + (threads + 1) * 4 * 128
