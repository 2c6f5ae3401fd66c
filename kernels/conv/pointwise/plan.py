"""Blocks and scratch memory of the 1x1 convolution, and when it applies. A pure function of Problem and level."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from ..._common.tiling import itemsize, macs_per_ns, panel_width
from ...problem import Problem
from ..plan import macs

#: Bytes of a block of pixels, at most, while 28 of them need less: a share of L2.
BLOCK = 256 * 1024
#: Pixels of a block, at most, and of two register tiles, of which it has a whole number.
PIXELS, TILES = 112, 28
#: Pixels that are a multiple of so many bytes apart are copied first (pointwise_call.h).
ALIAS = 4096
#: Pixels of a block in backward_weight, at most, and bytes of its panels of dout.
WEIGHT_PIXELS = 64
PANELS = 512 * 1024
#: Bytes of the partial sums of backward_weight, at most, while one slice needs less.
PARTIAL = 4 * 1024 * 1024
#: What an element of the partial sums, which every block and then every slice adds to, costs against one of x that is
#: read again (528 -> 128 channels, 14 x 14: 2.8 -> 2.3 ms on one thread).
SUMS = 10
#: Tasks that a problem is cut into, about, or more.
TASKS = 16


class Plan(NamedTuple):
    """How one problem is cut into tasks."""

    block: int  # pixels
    panel_step: int  # backward_weight: panels of output channels of a task
    slices: int  # backward_weight: partial sums over runs of blocks, added up in order


def eligible(problem: Problem) -> bool | str:
    """True, or why not."""
    if problem.storage != problem.compute:
        return f"{problem.storage} has to be widened: there is nothing to read in place"
    if problem.shapes[1][2:] != (1, 1) or problem.stride != (1, 1) or any(problem.pads) or problem.groups != 1:
        return "it is for 1x1 filters with stride 1, without padding and groups"
    # What is read in place: x, and dout in backward_input.
    name, order = ("x", problem.orders[1]) if problem.direction == "backward_weight" else ("dout", problem.orders[0])
    if problem.direction == "forward":
        name = "x"
    (_, c, h, w), (k, *_) = problem.shapes
    flat = h * w == 1 or (k if name == "dout" else c) == 1
    if order != "nhwc" and not (order == "nchw" and flat):
        return f"{name}, which it reads in place, is not channels-last memory"
    return True


def _channels(problem: Problem) -> tuple[int, int]:
    """Channels that are summed over (rows of dw), and that come out."""
    k, c, *_ = problem.shapes[1]
    return (k, c) if problem.direction == "backward_input" else (c, k)


@functools.lru_cache(maxsize=4096)
def plan(problem: Problem, isa: str) -> Plan:
    """Blocks of forward, backward_input and backward_weight."""
    n, _, h, w = problem.shapes[0]
    reduce, produce = _channels(problem)
    size = itemsize(problem.compute)
    if problem.direction == "backward_weight":
        nr = panel_width(isa, problem.compute, produce)
        wide = math.ceil(produce / nr) * nr
        block = max(32, min(WEIGHT_PIXELS, PANELS // max(wide * size, 1)))
        panels = max(1, wide // nr)
        most = max(1, min(TASKS, PARTIAL // max(reduce * wide * size, 1), math.ceil(n * h * w / block)))

        def step(slices: int) -> int:
            return math.ceil(panels / min(panels, math.ceil(TASKS / slices)))

        def traffic(slices: int) -> int:
            """Each slice has sums of its own, each step of panels reads x again (for each input channel)."""
            return SUMS * slices * wide + math.ceil(panels / step(slices)) * n * h * w

        slices = min(range(min(most, math.ceil(TASKS / panels)), most + 1), key=traffic)
        return Plan(block, step(slices), slices)
    tiles = min(PIXELS // TILES, BLOCK // max(reduce * size * TILES, 1), math.ceil(n * h * w / (TASKS * TILES)))
    return Plan(TILES * max(1, tiles), 1, 1)


def cost(problem: Problem, isa: str) -> float:
    """Rough nanoseconds of one thread: the products (5% faster than on copies, which are padded and fall out of the
    cache), the weight (0.5 ns an element), and the pixels (0.02 ns an element: they are fetched meanwhile)."""
    (n, _, h, w), (k, c, *_) = problem.shapes
    _, produce = _channels(problem)
    lanes = panel_width(isa, problem.compute, 1)
    wasted = -(-produce // lanes) * lanes / max(produce, 1)
    return 0.95 * macs(problem) * wasted / macs_per_ns(isa, problem.compute) + 0.02 * n * h * w * (k + c) + 0.5 * k * c


def workspace(problem: Problem, isa: str, threads: int) -> int:
    """Bytes of scratch of all threads together, at most."""
    p = plan(problem, isa)
    size = itemsize(problem.compute)
    reduce, produce = _channels(problem)
    nr = panel_width(isa, problem.compute, produce)
    wide = math.ceil(produce / nr) * nr
    if problem.direction == "backward_weight":
        shared, each = p.slices * reduce * wide, p.block * p.panel_step * nr
    else:
        shared, each = reduce * wide + produce, p.block * nr
        if reduce * size % ALIAS == 0:
            each += p.block * (reduce + 64 // size)
    return (shared + threads * each) * size + (threads + 1) * 4 * 128
