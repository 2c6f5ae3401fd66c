"""Chunks, blocks and scratch memory of the direct convolution, and when it applies: functions of Problem and level."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from ..._common.tiling import TILE_VECTORS, VECTOR_BYTES, itemsize, macs_per_ns, panel_width
from ...problem import Problem
from ..plan import Axis, macs
from ..plan import plan as phases

#: Bytes of a block of packed weights (filter rows and columns, cb channels, one panel). Smaller blocks, that L1 holds,
#: only add and load sums more often (100 KiB: 2-9% slower at 512 channels); larger ones gain nothing.
WEIGHT_BLOCK = 300 * 1024
#: Bytes of a chunk's padded rows, at most, while one row of an image needs less: half of L2. (Each chunk reads all
#: weights.)
CHUNK = 600 * 1024
#: Output positions of a piece of a row that is cut only because of CHUNK, about.
NARROWEST = 32
#: Output positions of a chunk, about: enough to use each weight often, few enough to keep a panel's sums in L2.
POSITIONS = 256
#: More classes of positions (backward_input has as many as the stride) are left to the implicit GEMM.
CLASSES = 8
#: Tasks that a large problem is cut into, at least.
TASKS = 32
#: The same two in backward_weight, whose tiles start anew for each chunk, and whose tasks have sums of their own.
WEIGHT_POSITIONS = 512
WEIGHT_TASKS = 16
#: Bytes of a pixel's block of channels in backward_weight.
WEIGHT_PIXEL = 128
#: Numbers in the partial sums of backward_weight, at most, while one slice needs less. Tasks that share the channels
#: copy dout again, slices add up their sums: the first is cheaper for large weights, the second for many pixels.
PARTIAL = 2_500_000
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
    """Source positions that a chunk keeps for ``count`` neighbouring output positions of every class."""
    offsets = [offset for axis in axes for offset in axis.offsets]
    extent = max(offsets) - min(offsets) + 1 if offsets else 0
    return (count - 1) * min(axes[0].scale, extent) + extent if axes else 0


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
    while width > NARROWEST and bytes_of(1, width) > CHUNK:
        width = math.ceil(width / 2)
    width = _even(columns[0].length, min(width, positions))
    most = max(1, positions // width)
    while most > 1 and bytes_of(most, width) > CHUNK:
        most -= 1
    height = _even(rows[0].length, most)
    images = 1
    if height == rows[0].length and width == columns[0].length:
        most = min(positions // (height * width), CHUNK // bytes_of(height, width), batch // TASKS)
        images = _even(batch, max(1, most))
    return Chunk(images, height, width)


def _split_weight(problem: Problem, isa: str) -> tuple[int, int, int, int]:
    """Of backward_weight: channels of a block and of a task; slices and positions of a chunk, if there are enough."""
    reduce, produce = _channels(problem)
    size, nr = itemsize(problem.compute), panel_width(isa, problem.compute, produce)
    wide = math.ceil(produce / nr) * nr
    cb = _even(reduce, WEIGHT_PIXEL // size)
    weights = problem.groups * reduce * math.prod(problem.shapes[1][2:]) * wide
    slices = max(1, min(WEIGHT_TASKS, PARTIAL // max(1, weights)))
    channel_step = cb * max(1, math.ceil(reduce / cb / math.ceil(WEIGHT_TASKS / (slices * problem.groups))))
    return cb, channel_step, slices, max(32, min(WEIGHT_POSITIONS, PANELS // max(1, wide * size)))


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
        cb, channel_step, slices, positions = _split_weight(problem, isa)
        chunk = _chunk(problem, rows, columns, min(channel_step, reduce), positions)
        pixels = batch * rows[0].length * columns[0].length
        slices = max(1, min(slices, _chunks(batch, rows, columns, chunk), pixels // WEIGHT_POSITIONS))
        return Plan(rows, columns, chunk, cb, panels, channel_step, slices)
    cb = _even(reduce, max(16, WEIGHT_BLOCK // max(1, taps * nr * size)))
    chunk = _chunk(problem, rows, columns, reduce, POSITIONS)
    split = max(1, min(panels, math.ceil(TASKS / (_chunks(batch, rows, columns, chunk) * groups))))
    return Plan(rows, columns, chunk, cb, _even(panels, math.ceil(panels / split)), max(reduce, 1), 1)


def _chunks(batch: int, rows: tuple[Axis, ...], columns: tuple[Axis, ...], chunk: Chunk) -> int:
    images, height, width = chunk
    return math.ceil(batch / images) * math.ceil(rows[0].length / height) * math.ceil(columns[0].length / width)


def cost(problem: Problem, isa: str) -> float:
    """Rough nanoseconds of one thread: the products, with what the tiles lose, the copies (0.1 ns an element), and the
    weight (0.5 ns an element)."""
    p = plan(problem, isa)
    batch, channels, h, w = problem.shapes[0]
    k = problem.shapes[1][0]
    oh, ow = problem.grid()
    reduce, produce = _channels(problem)
    if not (p.rows and p.columns and p.rows[0].length and p.columns[0].length and batch and reduce and produce):
        return 0.0
    nr = panel_width(isa, problem.compute, produce)
    vectors = nr * itemsize(problem.compute) // VECTOR_BYTES[isa]
    filter_row = max(len(axis.taps) for axis in p.columns)
    rows = max(len(axis.taps) for axis in p.rows)
    copies = batch * (channels * h * w + k * oh * ow) * _overlap(p)
    if problem.direction == "backward_weight":
        # A run of the tile is an output row, and it starts anew for each image of a chunk.
        run, runs = p.chunk.width, p.chunk.height
        tile = filter_row * p.cb / math.ceil(filter_row * p.cb / (TILE_VECTORS[isa] // vectors))
        copies += batch * k * oh * ow * (reduce / p.channel_step - 1) + p.slices * math.prod(problem.shapes[1])
    else:
        run, runs = filter_row * p.cb, rows
        tile = p.chunk.width / math.ceil(p.chunk.width / (TILE_VECTORS[isa] // vectors))
    # Cycles of one step along a run: two vector products each, at least three in practice.
    products = tile * vectors / 2
    lost = (max(products, 3) * run * runs + 2 * runs + 15) / max(products * run * runs, 1)
    wasted = -(-produce // nr) * nr / produce
    weights = 0.5 * math.prod(problem.shapes[1])
    return macs(problem) * wasted * lost / macs_per_ns(isa, problem.compute) + 0.1 * copies + weights


def _overlap(p: Plan) -> float:
    """How often a source position is copied, neighbouring chunks and those left out counted."""
    kept = _span(p.rows, p.chunk.height) * _span(p.columns, p.chunk.width)
    return kept / (p.chunk.height * p.rows[0].scale * p.chunk.width * p.columns[0].scale)


def workspace(problem: Problem, isa: str, threads: int) -> int:
    """Bytes of scratch of all threads together, at most, of any image: no chunk is larger than CHUNK unless a piece of
    one row is."""
    p = plan(problem, isa)
    if not p.rows or not p.columns:
        return 0
    size = itemsize(problem.compute)
    reduce, produce = _channels(problem)
    nr = panel_width(isa, problem.compute, produce)
    wide = math.ceil(produce / nr) * nr
    taps = sum(len(axis.taps) for axis in p.rows) * sum(len(axis.taps) for axis in p.columns)
    piece = _span(p.rows, 1) * _span(p.columns, NARROWEST)
    if problem.direction == "backward_weight":
        _, channel_step, slices, positions = _split_weight(problem, isa)
        shared = slices * problem.groups * taps * reduce * wide
        source = max(CHUNK // size, piece * min(channel_step, reduce))
        each = max(source + positions * wide, nr * (taps * p.cb + 1))
    else:
        shared = problem.groups * (taps * reduce * wide + produce)
        each = max(CHUNK // size, piece * reduce) + POSITIONS * nr
    return (shared + threads * each) * size + (threads + 1) * 4 * 128
