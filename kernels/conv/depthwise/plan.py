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
#: Bytes of one pixel's channels in a block that is copied: three rows of 112 such pixels fit in L1.
PIXEL_BYTES = 128
#: The same where the image itself is read: as much as a strip writes to one pixel at a time.
DIRECT_BYTES = 512
#: Bytes of the copy of a block, which is to stay in L2.
BUFFER_BYTES = 96 * 1024
#: Bytes of the tile of a strip, and the most columns of a strip (depthwise_call.h, depthwise_tiles.h.in).
TILE_BYTES = 32 * 1024
STRIP = 7
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


def _direct(problem: Problem) -> bool:
    """Whether the arrays are read where they are; else rows of a block are copied. (Channels that do not fill a vector
    always are; arrays that are "strided" may be read too, in the blocks of a copy.)"""
    images = problem.orders if problem.direction == "backward_weight" else problem.orders[:1]
    return problem.storage == problem.compute and all(order == "nhwc" for order in images)


def _copied(problem: Problem, channels: int, lanes: int) -> int:
    """Channels of the blocks that are copied."""
    if not _direct(problem):
        return channels
    return lanes if problem.shapes[1][0] % lanes else 0


def _strips(problem: Problem) -> bool:
    """Whether the windows are those that strips are made for, but for their padding."""
    stride = problem.stride
    return problem.shapes[1][2:] == (3, 3) and problem.dilation == (1, 1) and stride in ((1, 1), (2, 2))


def _buffer(problem: Problem, rows: int, columns: int) -> int:
    """Pixels of the padded copy that a block reads, at most; of one window's rows but in backward_weight."""
    (sh, sw), (reach_h, reach_w) = problem.stride, _reach(problem)
    if problem.direction == "backward_input":  # offsets are spread over less than reach / stride + 1 positions
        return (reach_h // sh + 2) * (columns + reach_w // sw + 1)
    tall = (rows - 1) * sh if problem.direction == "backward_weight" else 0
    return (tall + reach_h) * ((columns - 1) * sw + reach_w)


def _parts(k: int, channels: int, lanes: int) -> int:
    """Blocks of channels: whole vectors, and what is left."""
    return max(1, math.ceil(k // lanes * lanes / channels) + (k % lanes != 0))


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
    direct = _direct(problem)
    channels = min((DIRECT_BYTES if direct else PIXEL_BYTES) // size, -(-k // lanes) * lanes)
    columns = _even(ow, 128)
    across = n * math.ceil(ow / columns)
    parts = _parts(k, channels, lanes)
    tasks = across * parts
    most = oh
    if problem.direction != "backward_weight" or direct:
        most = max(math.ceil(oh / math.ceil(TASKS / tasks)) if tasks else 1, 8)
    if problem.direction == "backward_weight":
        pixel = _copied(problem, channels, lanes) * size
        while most > 1 and _buffer(problem, most, columns) * pixel > BUFFER_BYTES:
            most -= 1
    rows = _even(oh, most or 1)
    lines = _even(rows, max(1, PIXELS // (min(STRIP, columns) if _strips(problem) else columns)))
    slices = max(1, min(across * math.ceil(oh / rows), math.ceil(TASKS / parts)))
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
    rows, columns, channels, slices, lines = plan(problem, isa)
    size = itemsize(problem.compute)
    lanes = VECTOR_BYTES[isa] // size
    wide = -(-k // lanes) * lanes
    copied = _copied(problem, channels, lanes)
    own = _buffer(problem, rows, columns) * copied * size
    tables = kh * kw * 8 + sum(problem.stride) * 40 + 6 * 128
    if problem.direction == "backward_weight":
        shared = slices * wide * kh * kw
        own += lines * columns * copied * size + (lines + columns) * 40
    else:
        shared = wide * (kh * kw + 1)
        classes = problem.stride if problem.direction == "backward_input" else (1, 1)
        own += 16 * lanes * size + classes[1] * (columns * 40 + 8) + classes[0] * (kh * 8 + 40)
        own = max(own, TILE_BYTES if _strips(problem) else 0)
    return shared * size + tables + threads * (own + 6 * 128)
