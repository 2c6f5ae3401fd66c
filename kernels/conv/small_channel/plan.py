"""Where the small-channel convolution runs, its blocks, what it costs and how much scratch memory it takes.

Everything here is a function of Problem and ISA level: the blocks of backward_weight and its slices order the sums.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from ..._common.tiling import VECTOR_BYTES, itemsize, macs_per_ns
from ...problem import Problem

#: Most input channels. With more, vectors along them (implicit GEMM, direct) do as well or better.
CHANNELS = 4
#: Most rows and columns of the image under a filter: a block is copied with so much more around it.
REACH = 64
#: Most slices of backward_weight, and the bytes from which on it takes fewer of them (but 16).
SLICES, PARTIAL_BYTES = 32, 2**21

#: Most bytes of the padded copy of dout in backward_input: with its border, so that small blocks copy much twice.
COPY_BYTES = 384 * 1024

#: Most rows (pixels or taps) of a register tile that is one or two vectors wide.
_LIMITS = {"baseline": (12, 6), "v3": (12, 6), "v4": (28, 14)}


class Plan(NamedTuple):
    """Output pixels of a block (input pixels in backward_input), and the slices of blocks whose sums are kept apart in
    backward_weight."""

    rows: int
    columns: int
    slices: int


def _even(size: int, most: int) -> int:
    """The length of equal parts of ``size`` that are at most ``most``."""
    return math.ceil(size / math.ceil(size / most)) if size else 1


def _reach(problem: Problem) -> tuple[int, int]:
    (kh, kw), (dh, dw) = problem.shapes[1][2:], problem.dilation
    return (kh - 1) * dh + 1, (kw - 1) * dw + 1


def eligible(problem: Problem) -> bool | str:
    """Few input channels, one group, a filter of ordinary reach."""
    c = problem.shapes[1][1]
    if problem.groups != 1:
        return "it has one group only"
    if not 1 <= c <= CHANNELS:
        return f"it reads at most {CHANNELS} channels"
    if min(problem.shapes[1]) == 0:
        return "the filter is empty"
    if max(_reach(problem)) > REACH or max(problem.stride) > REACH:
        return f"the filter or its stride reaches over more than {REACH} pixels"
    return True


def _buffer(problem: Problem, rows: int, columns: int) -> int:
    """Elements of the padded copy that a block of output pixels reads."""
    (sh, sw), (reach_h, reach_w) = problem.stride, _reach(problem)
    return ((rows - 1) * sh + reach_h) * ((columns - 1) * sw + reach_w) * problem.shapes[1][1]


def _read(problem: Problem, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of dout that a block of backward_input reads (small_input_axis)."""
    axes = zip((rows, columns), problem.stride, _reach(problem), problem.pads[::2], strict=True)
    height, width = ((block - 1 + before) // stride - (before - reach + 1) // stride + 1
                     for block, stride, reach, before in axes)  # fmt: skip
    return height, width


def _wide(problem: Problem, isa: str) -> int:
    """Output channels in whole vectors."""
    lanes = VECTOR_BYTES[isa] // itemsize(problem.compute)
    return -(-problem.shapes[1][0] // lanes) * lanes


def _input_plan(problem: Problem, isa: str) -> Plan:
    """Blocks that begin at multiples of the strides: whole rows, as many as the copy of dout has room for."""
    (h, w), (sh, sw) = problem.shapes[0][2:], problem.stride
    columns = w if w <= 256 else math.ceil(_even(w, 256) / sw) * sw
    rows = math.ceil(max(h, 1) / sh) * sh
    while rows > sh:
        height, width = _read(problem, rows, columns)
        if height * width * _wide(problem, isa) * itemsize(problem.compute) <= COPY_BYTES:
            break
        rows = math.ceil(rows / 2 / sh) * sh
    return Plan(rows, max(columns, 1), 1)


@functools.lru_cache(maxsize=4096)
def plan(problem: Problem, isa: str) -> Plan:
    """Blocks: long rows, as many as keep the copy in L2; in backward_weight so few that sums stay short."""
    if problem.direction == "backward_input":
        return _input_plan(problem, isa)
    n, (k, c, kh, kw), (oh, ow) = problem.shapes[0][0], problem.shapes[1], problem.grid()
    size = itemsize(problem.compute)
    pixels = 512 if problem.direction == "backward_weight" else 2048
    columns = _even(ow, 256)
    most = max(1, pixels // columns)
    while most > 1 and _buffer(problem, most, columns) * size > 192 * 1024:
        most -= 1
    rows = _even(oh, most)
    blocks = n * math.ceil(oh / rows) * math.ceil(ow / columns)
    slices = max(16, min(SLICES, PARTIAL_BYTES // (k * c * kh * kw * size)))
    return Plan(rows, columns, max(1, min(slices, blocks)))


def cost(problem: Problem, isa: str) -> float:
    """Rough nanoseconds of one thread: copies, and register tiles, which take 0.8 of the implicit GEMM's time for a
    product (measured: 0.6 to 0.95), but for each row of an FMA at least 1 ns, its latency."""
    (n, c, h, w), (k, _, kh, kw) = problem.shapes
    oh, ow = problem.grid()
    lanes = VECTOR_BYTES[isa] // itemsize(problem.compute)
    vectors = -(-k // lanes)
    nv = min(2, vectors)
    most = _LIMITS[isa][nv - 1]
    panels = -(-vectors // nv)
    taps = c * kh * kw
    if problem.direction == "backward_input":  # and 2 ns for the lanes of each sum, and a copy of dout
        steps = n * c * h * w * kh * kw / (problem.stride[0] * problem.stride[1])
        return steps * _wide(problem, isa) / macs_per_ns(isa, problem.compute) + n * (2 * c * h * w + 0.1 * k * oh * ow)
    if problem.direction == "forward":
        steps, rows = n * oh * -(-ow // most) * taps, min(most, max(ow, 1))
    else:
        steps, rows = n * oh * ow * -(-taps // most), min(most, taps)
    tile = max(1.0, 0.8 * rows * nv * lanes / macs_per_ns(isa, problem.compute))
    return panels * steps * tile + 0.05 * n * (c * h * w + k * oh * ow)


def workspace(problem: Problem, isa: str, threads: int) -> int:
    """Bytes of scratch of all threads together, at most."""
    k, c, kh, kw = problem.shapes[1]
    rows, columns, slices = plan(problem, isa)
    size = itemsize(problem.compute)
    lanes = VECTOR_BYTES[isa] // size
    wide, taps = -(-k // lanes) * lanes, c * kh * kw
    if problem.direction == "backward_input":
        height, width = _read(problem, rows, columns)
        own = height * width * wide + columns * c
        classes = (problem.stride[0] * problem.stride[1] + 1) * 8
        return taps * wide * size + kh * kw * wide // lanes * 8 + classes + threads * (own * size + 2 * 128) + 3 * 128
    own = _buffer(problem, rows, columns)
    if problem.direction == "backward_weight":
        shared, own = slices * taps * wide, own + rows * columns * wide
    else:
        shared, own = (taps + 1) * wide, own + columns * 2 * lanes
    return shared * size + taps * 8 + threads * (own * size + 2 * 128) + 3 * 128
