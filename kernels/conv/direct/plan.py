"""Chunks, blocks and scratch memory of the direct convolution, and when it applies. A pure function of Problem and level."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from ..._common.tiling import itemsize, macs_per_ns, panel_width
from ...problem import Problem
from ..plan import Axis, macs
from ..plan import plan as phases

#: Bytes of a block of packed weights (filter rows and columns, cb channels, one panel). Smaller blocks, that L1 holds, only
#: add and load sums more often (100 KiB: 2-9% slower at 512 channels); larger ones gain nothing.
WEIGHT_BLOCK = 300 * 1024
#: Bytes of a chunk's padded rows, at most, while one row of one image needs less: half of L2. Every chunk reads all weights.
CHUNK = 600 * 1024
#: Output positions of a chunk, about: enough to use each weight often, few enough to keep a panel's sums in L2.
POSITIONS = 256
#: More classes of positions (backward_input has as many as the stride) are left to the implicit GEMM.
CLASSES = 8
#: Tasks that a large problem is cut into, at least.
TASKS = 32
#: The same two in backward_weight, whose tiles start anew for each chunk, and whose tasks have sums of their own.
WEIGHT_POSITIONS = 512
WEIGHT_TASKS = 16
#: Channels of a block in backward_weight: as many as a cache line of float32 has.
WEIGHT_CHANNELS = 16
#: Taps times channels that a task of backward_weight adds up, about: dout is copied once for each such task.
WEIGHT_ROWS = 576
#: Bytes of a chunk's panels of dout, at most.
PANELS = 512 * 1024


class Chunk(NamedTuple):
    """Output positions, in each class, that a task works on at a time."""

    images: int
    height: int
    width: int


class Plan(NamedTuple):
    """How one problem is cut into tasks."""

    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]
    chunk: Chunk
    cb: int  # summed channels of a block
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


def _chunk(problem: Problem, rows: tuple[Axis, ...], columns: tuple[Axis, ...], channels: int, positions: int) -> Chunk:
    """About ``positions`` output positions whose source rows of ``channels`` channels fit into L2."""
    batch, size = problem.shapes[0][0], itemsize(problem.compute)

    def bytes_of(height: int, width: int) -> int:
        return max(1, _span(rows, height) * _span(columns, width) * channels * size)

    width = columns[0].length
    while width > 32 and bytes_of(1, width) > CHUNK:
        width = math.ceil(width / 2)
    width = _even(columns[0].length, min(width, positions))
    most = max(1, positions // width)
    while most > 1 and bytes_of(most, width) > CHUNK:
        most -= 1
    height = _even(rows[0].length, most)
    images = 1
    if height == rows[0].length and width == columns[0].length:
        images = _even(
            batch, max(1, min(positions // (height * width), CHUNK // bytes_of(height, width), batch // TASKS))
        )
    return Chunk(images, height, width)


@functools.lru_cache(maxsize=4096)
def plan(problem: Problem, isa: str) -> Plan:
    """Blocks of forward, backward_input and backward_weight."""
    batch, groups = problem.shapes[0][0], problem.groups
    reduce, produce = _channels(problem)
    rows, columns = phases(problem, isa)[-2:]
    size = itemsize(problem.compute)
    if not (rows and columns and rows[0].length and columns[0].length and batch):
        return Plan(rows, columns, Chunk(1, 1, 1), max(reduce, 1), 1, max(reduce, 1), 1)
    taps = max(len(axis.taps) for axis in rows) * max(len(axis.taps) for axis in columns)
    nr = panel_width(isa, problem.compute, produce)
    panels = math.ceil(produce / nr) if produce else 1
    if problem.direction == "backward_weight":
        cb = _even(reduce, WEIGHT_CHANNELS)
        channel_step = cb * max(1, WEIGHT_ROWS // (cb * taps))
        positions = max(32, min(WEIGHT_POSITIONS, PANELS // (panels * nr * size)))
        chunk = _chunk(problem, rows, columns, min(channel_step, reduce), positions)
        tasks = groups * math.ceil(reduce / channel_step) if reduce else 1
        slices = max(1, min(math.ceil(WEIGHT_TASKS / tasks), _chunks(batch, rows, columns, chunk)))
        return Plan(rows, columns, chunk, cb, panels, channel_step, slices)
    cb = _even(reduce, max(16, WEIGHT_BLOCK // max(1, taps * nr * size)))
    chunk = _chunk(problem, rows, columns, reduce, POSITIONS)
    split = max(1, min(panels, math.ceil(TASKS / (_chunks(batch, rows, columns, chunk) * groups))))
    return Plan(rows, columns, chunk, cb, _even(panels, math.ceil(panels / split)), max(reduce, 1), 1)


def _chunks(batch: int, rows: tuple[Axis, ...], columns: tuple[Axis, ...], chunk: Chunk) -> int:
    images, height, width = chunk
    return math.ceil(batch / images) * math.ceil(rows[0].length / height) * math.ceil(columns[0].length / width)


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
    positions = math.prod(p.chunk)
    source = p.chunk.images * _span(p.rows, p.chunk.height) * _span(p.columns, p.chunk.width)
    if problem.direction == "backward_weight":
        shared = p.slices * problem.groups * taps * reduce * wide
        each = max(source * min(p.channel_step, reduce) + positions * wide, nr * (taps * p.cb + 1))
    else:
        shared = problem.groups * (taps * reduce * wide + produce)
        each = source * reduce + positions * nr
    return (shared + threads * each) * size + (threads + 1) * 4 * 128
