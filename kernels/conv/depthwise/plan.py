"""Where the depthwise convolution runs, its blocks, what it costs and how much scratch memory it takes.

Everything here is a function of Problem and ISA level: blocks, lines and slices order the sums of backward_weight.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from ..._common.tiling import VECTOR_BYTES, itemsize, macs_per_ns
from ...problem import Problem
from ..plan import macs

#: Most rows and columns under a filter: a block is copied with so much more around it.
REACH = 64
#: Bytes of one pixel's channels in a block: two AVX-512 vectors; three rows of 112 such pixels fit in L1.
PIXEL_BYTES = 128
#: Bytes of the copy of a block, which is to stay in L2.
BUFFER_BYTES = 96 * 1024
#: Tasks of backward_weight: slices times blocks of channels.
TASKS = 32
#: Pixels that a register tile of backward_weight sums.
PIXELS = 128


class Plan(NamedTuple):
    """A block: positions of each class (forward: pixels) and channels. For backward_weight: slices of blocks whose sums
    are kept apart, and the rows of pixels that are summed in registers."""

    rows: int
    columns: int
    channels: int
    slices: int
    lines: int


def _even(size: int, most: int) -> int:
    """The length of equal parts of ``size`` that are at most ``most``."""
    return math.ceil(size / math.ceil(size / most)) if size else 1


def _reach(problem: Problem) -> tuple[int, int]:
    (kh, kw), (dh, dw) = problem.shapes[1][2:], problem.dilation
    return (kh - 1) * dh + 1, (kw - 1) * dw + 1


def eligible(problem: Problem) -> bool | str:
    """One input and one output channel in each group, a filter of ordinary reach."""
    k, c = problem.shapes[1][:2]
    if not c == 1 <= k == problem.groups:
        return "its groups have one input and one output channel"
    if min(problem.shapes[1]) == 0:
        return "the filter is empty"
    if max(_reach(problem)) > REACH or max(problem.stride) > REACH:
        return f"the filter or its stride reaches over more than {REACH} pixels"
    return True


def _buffer(problem: Problem, rows: int, columns: int) -> int:
    """Pixels of the padded copy that a block reads, at most; of one window's rows but in backward_weight."""
    (sh, sw), (reach_h, reach_w) = problem.stride, _reach(problem)
    if problem.direction == "backward_input":  # offsets are spread over less than reach / stride + 1 positions
        return (reach_h // sh + 2) * (columns + reach_w // sw + 1)
    tall = (rows - 1) * sh if problem.direction == "backward_weight" else 0
    return (tall + reach_h) * ((columns - 1) * sw + reach_w)


@functools.lru_cache(maxsize=4096)
def plan(problem: Problem, isa: str) -> Plan:
    """Blocks: long rows of a few cache lines of channels; enough of them for many cores, and in backward_weight so
    small that the copy stays in L2."""
    n, k = problem.shapes[0][0], problem.shapes[1][0]
    sh, sw = problem.stride
    oh, ow = problem.grid()
    if problem.direction == "backward_input":
        oh, ow = -(-problem.shapes[0][2] // sh), -(-problem.shapes[0][3] // sw)
    size = itemsize(problem.compute)
    lanes = VECTOR_BYTES[isa] // size
    channels = min(PIXEL_BYTES // size, -(-k // lanes) * lanes)
    columns = _even(ow, 128)
    across = n * math.ceil(ow / columns)
    tasks = across * math.ceil(k / channels)
    if problem.direction == "backward_weight":
        most = oh
        while most > 1 and _buffer(problem, most, columns) * channels * size > BUFFER_BYTES:
            most -= 1
    else:
        most = max(math.ceil(oh / math.ceil(TASKS / tasks)) if tasks else 1, 8)
    rows = _even(oh, most or 1)
    lines = _even(rows, max(1, PIXELS // columns))
    slices = max(1, min(across * math.ceil(oh / rows), math.ceil(TASKS / math.ceil(k / channels))))
    return Plan(rows, columns, channels, slices, lines)


def cost(problem: Problem, isa: str) -> float:
    """Rough nanoseconds of one thread: products, and about as much as ten of them for the copies of a pixel."""
    n, c, h, w = problem.shapes[0]
    oh, ow = problem.grid()
    lanes = VECTOR_BYTES[isa] // itemsize(problem.compute)
    wasted = -(-c // lanes) * lanes / c
    return (macs(problem) * wasted + 10.0 * n * c * (h * w + oh * ow)) / macs_per_ns(isa, problem.compute)


def workspace(problem: Problem, isa: str, threads: int) -> int:
    """Bytes of scratch of all threads together, at most."""
    k, _, kh, kw = problem.shapes[1]
    rows, columns, channels, slices, _ = plan(problem, isa)
    size = itemsize(problem.compute)
    lanes = VECTOR_BYTES[isa] // size
    wide = -(-k // lanes) * lanes
    own = _buffer(problem, rows, columns) * channels
    tables = ((2 + _reach(problem)[0]) * kh * kw + 2 * (kh + kw)) * 8 + sum(problem.stride) * 40 + 5 * 128
    if problem.direction == "backward_weight":
        shared, own = slices * wide * kh * kw, own + rows * columns * channels
    else:
        shared, own = wide * (kh * kw + 1), own + 16 * lanes
    return shared * size + tables + threads * (own * size + 2 * 128) + 3 * 128
