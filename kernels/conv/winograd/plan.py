"""Which problems Winograd's rows take, what they cost, their blocks and the scratch memory that follows from them.

Everything here is a function of Problem and ISA level: kc, block (in backward_weight) and slices order the sums.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from ..._common.tiling import VECTOR_BYTES, itemsize, macs_per_ns, panel_width
from ...problem import Problem

#: (m, r) of F(m x m, r x r), in the order of winograd_variants in winograd_transforms.h.in.
VARIANTS = ((4, 3), (2, 3), (2, 5))

#: Tiles of a strip, as in winograd_call.h.
STRIP = 16


class Plan(NamedTuple):
    """How one problem is cut into tasks."""

    down: int  # tiles of an image
    across: int
    block: int  # tiles that are transformed and multiplied together, at most
    panel_block: int  # panels of output channels between two transforms of results
    kc: int  # inner length of a product
    slices: int  # of backward_weight: partial sums; 0: one sum, block after block


class _Sizes(NamedTuple):
    """What the plan, the cost and the workspace are worked out from."""

    size: int  # of an element
    lanes: int
    points: int  # n * n
    tiles: int
    down: int
    across: int
    reduce: int  # channels of a group that are summed over, and that come out
    produce: int
    nr: int
    panels: int


def _sizes(problem: Problem, isa: str, variant: int) -> _Sizes:
    m, r = VARIANTS[variant]
    (batch, _, h, w), (k, c, _, _) = problem.shapes
    k //= problem.groups
    if problem.direction == "backward_input":
        high, wide, reduce, produce = h, w, k, c
    else:
        (high, wide), reduce, produce = problem.grid(), c, k
    size = itemsize(problem.compute)
    nr = panel_width(isa, problem.compute, produce)
    down, across = -(-high // m), -(-wide // m)
    return _Sizes(
        size, VECTOR_BYTES[isa] // size, (m + r - 1) ** 2, batch * down * across, down, across, reduce, produce, nr,
        -(-produce // nr),
    )  # fmt: skip


def eligible(variant: int, problem: Problem) -> bool | str:
    """Whether F of ``VARIANTS[variant]`` computes the problem, or why not."""
    r = VARIANTS[variant][1]
    kernel = problem.shapes[1][2:]
    if kernel != (r, r):
        return f"it is made for {r}x{r} filters, not {kernel[0]}x{kernel[1]}"
    if problem.stride != (1, 1) or problem.dilation != (1, 1):
        return "it is made for stride 1 and dilation 1"
    return True


@functools.lru_cache(maxsize=4096)
def plan(problem: Problem, isa: str, variant: int) -> Plan:
    """Blocks for one problem."""
    s = _sizes(problem, isa, variant)
    kc = math.ceil(s.reduce / math.ceil(s.reduce / 256)) if s.reduce else 1
    # V and M (or D) of a block of 56 to 112 tiles fit into half of L2 up to 32 channels; beyond, 56 are enough rows.
    both = s.points * (s.reduce + s.panels * s.nr) * s.size
    small = 112 if both * 112 <= 600_000 else 56
    product = s.points * s.reduce * s.panels * s.nr * s.size  # bytes of U or dU
    if problem.direction == "backward_weight":
        if product > 2_000_000 and s.tiles:
            return Plan(s.down, s.across, 256, max(1, 256 // s.nr), kc, 0)
        slices = max(1, min(16, 12_000_000 // max(product, 1), math.ceil(s.tiles / 112)))
        return Plan(s.down, s.across, small, s.panels, kc, slices)
    # A large U streams from L3 or memory once for each block: 14.5 ms with 56 tiles, 12.5 with 128 (256 -> 384, 13x13).
    return Plan(s.down, s.across, 128 if product > 8_000_000 else small, s.panels, kc, 0)


def cost(variant: int, problem: Problem, isa: str) -> float:
    """Rough nanoseconds of one thread: the products and the transforms."""
    s = _sizes(problem, isa, variant)
    whole = s.panels * s.nr
    products = problem.groups * s.points * s.tiles * s.reduce * whole / macs_per_ns(isa, problem.compute)
    vectors = math.ceil(s.reduce / s.lanes) + math.ceil(s.produce / s.lanes)
    transforms = problem.groups * s.points * s.tiles * vectors * 1.2
    weights = problem.groups * s.points * s.reduce * whole * 0.1
    return products + transforms + weights


def _odd(n: int, size: int) -> int:
    line = 64 // size
    return (n + line - 1) // line // 2 * 2 * line + line


def workspace(variant: int, problem: Problem, isa: str, threads: int) -> int:
    """Bytes of scratch of all threads together, at most."""
    s = _sizes(problem, isa, variant)
    p = plan(problem, isa, variant)
    m, r = VARIANTS[variant]
    ld = _odd(-(-s.reduce // s.lanes) * s.lanes, s.size)
    strip = 2 * (m + r - 1) * ((STRIP - 1) * m + m + r - 1) * s.lanes
    v = s.points * _odd(p.block * ld, s.size)
    wide = s.panels * s.nr
    if problem.direction == "backward_weight":
        d = s.points * _odd(p.block * wide, s.size)
        sums = max(1, p.slices) * problem.groups * s.points * _odd(s.reduce * wide, s.size)
        finish = 16 * r * r * s.lanes
        if p.slices:
            return sums * s.size + 128 + threads * (max(strip + v + d, finish) * s.size + 3 * 128)
        return (sums + problem.groups * (v + d)) * s.size + 3 * 128 + threads * (max(strip, finish) * s.size + 128)
    u = problem.groups * s.panels * s.points * _odd(s.reduce * s.nr, s.size)
    shared = (u + problem.groups * s.produce) * s.size + 2 * 128
    results = s.points * _odd(p.block * min(p.panel_block, s.panels) * s.nr, s.size)
    gather = (strip + v + results) * s.size + 3 * 128
    return shared + threads * max(gather, 16 * r * r * s.nr * s.size + 128)
