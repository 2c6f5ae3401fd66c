"""Blocks and phases of the compiled convolutions, and the scratch memory that follows from them.

Everything here is a function of Problem and ISA level: kc, mc (in backward_weight) and slices order the sums.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from .._common.tiling import itemsize, macs_per_ns, panel_width
from ..problem import Problem

#: Slices of backward_bias: partial sums of runs of pixels, added up in order.
BIAS_SLICES = 64


class Axis(NamedTuple):
    """One residue class of output positions along one axis: i = start + step * q for q < length, whose taps ``taps``
    read source positions q * scale + offsets (ascending)."""

    start: int
    step: int
    length: int
    scale: int
    taps: tuple[int, ...]
    offsets: tuple[int, ...]

    @property
    def low(self) -> int:
        """The first offset."""
        return min(self.offsets, default=0)

    @property
    def reach(self) -> int:
        """Source positions that the taps of one output position span."""
        return max(self.offsets, default=0) - self.low + 1


class Plan(NamedTuple):
    """How one problem is cut into tasks."""

    mc: int  # output positions in a block
    kc: int  # inner length of a block
    slices: int  # of backward_weight: partial sums over runs of blocks, added up in order
    rows: tuple[Axis, ...]
    columns: tuple[Axis, ...]


def _forward_axis(out: int, kernel: int, stride: int, before: int, dilation: int) -> tuple[Axis, ...]:
    taps = tuple(range(kernel))
    return (Axis(0, 1, out, stride, taps, tuple(t * dilation - before for t in taps)),)


def _backward_axis(size: int, kernel: int, stride: int, before: int, dilation: int) -> tuple[Axis, ...]:
    """Input position h meets output position i at tap t where h = i * stride + t * dilation - before. Positions with
    the same remainder by the stride meet the same taps, so no product with an inserted zero is ever computed."""
    axes = []
    for start in range(min(stride, size)):
        taps = tuple(t for t in reversed(range(kernel)) if (start + before - t * dilation) % stride == 0)
        offsets = tuple((start + before - t * dilation) // stride for t in taps)
        axes.append(Axis(start, stride, -(-(size - start) // stride), 1, taps, offsets))
    return tuple(axes)


@functools.lru_cache(maxsize=4096)
def axes(problem: Problem) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
    """Rows and columns; several where output positions have different taps."""
    (_, _, h, w), (_, _, kh, kw) = problem.shapes
    (sh, sw), (dh, dw), (top, _, left, _) = problem.stride, problem.dilation, problem.pads
    if problem.direction == "backward_input":
        return _backward_axis(h, kh, sh, top, dh), _backward_axis(w, kw, sw, left, dw)
    oh, ow = problem.grid()
    return _forward_axis(oh, kh, sh, top, dh), _forward_axis(ow, kw, sw, left, dw)


@functools.lru_cache(maxsize=4096)
def plan(problem: Problem, isa: str) -> Plan:
    """Blocks for a convolution (not backward_bias)."""
    (n, *_), (k, c, kh, kw) = problem.shapes
    oh, ow = problem.grid()
    half = 2 if problem.compute == "float64" else 1
    inner = (k // problem.groups if problem.direction == "backward_input" else c) * kh * kw
    # A panel of weights (kc x nr) stays in L1, a block of gathered input (mc x kc) in a quarter of L2.
    kc = math.ceil(inner / math.ceil(inner / 288)) if inner else 1
    mc = 112 // half
    blocks = math.ceil(n * oh * ow / mc)
    # Enough tasks for a many-core machine, bounded partial sums: one slice once the weight is cut into many blocks.
    slices = max(1, min(math.ceil(32 / math.ceil(inner / kc)) if inner else 1, 16, blocks))
    return Plan(mc, kc, slices, *axes(problem))


def macs(problem: Problem) -> float:
    """Multiply-adds of a convolution done tap by tap (not backward_bias); those with padding count."""
    (n, *_), (k, c, kh, kw) = problem.shapes
    oh, ow = problem.grid()
    return float(n) * oh * ow * k * c * kh * kw


def cost(problem: Problem, isa: str) -> float:
    """Rough nanoseconds of one thread: the products, the copy of each gathered element (0.15 ns), the elements of out
    or dout (0.05 ns), and the weight, packed (0.5 ns each) or written tap by tap (4 ns)."""
    if problem.direction == "backward_bias":
        return 0.0
    k, c, *taps = problem.shapes[1]
    weights = math.prod((k, c, *taps)) * (4 if problem.direction == "backward_weight" else 0.5)
    k //= problem.groups
    produced = c if problem.direction == "backward_input" else k
    nr = panel_width(isa, problem.compute, produced)
    wasted = -(-produced // nr) * nr / max(produced, 1)
    every = macs(problem)
    n, c, h, w = problem.shapes[0]
    oh, ow = problem.grid()
    elements = n * c * h * w if problem.direction == "backward_input" else n * problem.shapes[1][0] * oh * ow
    copies = 0.15 * every / max(produced, 1) + 0.05 * elements
    return every * wasted / macs_per_ns(isa, problem.compute) + copies + weights


def workspace(problem: Problem, isa: str, threads: int) -> int:
    """Bytes of scratch of all threads together, at most."""
    if problem.direction == "backward_bias":
        channels = problem.shapes[0][1]
        return (
            BIAS_SLICES * (channels * 8 + 128)
            + threads * (channels * 32 * itemsize(problem.compute) + 128)
            + channels * 8
            + 256
        )
    mc, kc, slices, _, _ = plan(problem, isa)
    size = itemsize(problem.compute)
    k, c, kh, kw = problem.shapes[1]
    out, inner = k // problem.groups, c * kh * kw
    if problem.direction == "backward_input":
        out, inner = c, (k // problem.groups) * kh * kw
    nr = panel_width(isa, problem.compute, out)
    wide = -(-out // nr) * nr
    gathered = mc * (kc + 16)
    if problem.direction == "backward_weight":
        partial = slices * problem.groups * inner * wide
        return partial * size + threads * ((gathered + mc * wide) * size + 4 * 128) + 128
    packed = problem.groups * inner * wide
    return (packed + k) * size + threads * ((gathered + mc * wide) * size + 4 * 128) + 4 * 128
