"""Chunks of the convolution by dot products: those of the direct one, in which a word is a channel."""

from __future__ import annotations

import functools

from ..._common.tiling import macs_per_ns
from ...problem import Problem
from ..direct import plan as direct
from ..words import in_words, level

#: Channels of a word.
PAIR = 2


def as_conv(problem: Problem) -> Problem:
    """A gemm as a convolution of one image, one row high, with 1x1 filters; another problem as it is."""
    if problem.op != "gemm":
        return problem
    (m, k), (_, n) = problem.shapes
    shapes = (1, k, 1, max(m, 1)), (n, k, 1, 1)  # without rows nothing runs, but a row of pixels there has to be
    return problem._replace(op="conv2d", shapes=shapes, orders=("nhwc", "strided"))


@functools.lru_cache(maxsize=4096)
def plan(problem: Problem, isa: str) -> direct.Plan:
    """Blocks of forward and backward_input."""
    return direct.plan(in_words(as_conv(problem), PAIR), level(isa))


def eligible(problem: Problem) -> bool | str:
    """True, or why not."""
    return direct.eligible(problem)


def cost(problem: Problem, isa: str) -> float:
    """Rough nanoseconds of one thread; of a gemm as ``gemm.plan`` counts, with twice the products a nanosecond, 0.33
    for each element of b, whose rows are woven in pairs, and 5,000 for a call (16 x 4096 x 1000: 1.13 ms there, 1.66
    here, on a busy machine)."""
    if problem.op == "gemm":
        (m, k), (_, n) = problem.shapes
        return m * k * n / 2 / macs_per_ns(level(isa), "float32") + 0.33 * k * n + 5000
    return direct.cost(in_words(as_conv(problem), PAIR), level(isa))


def workspace(problem: Problem, isa: str, threads: int) -> int:
    """Bytes of scratch of all threads together, at most."""
    return direct.workspace(in_words(as_conv(problem), PAIR), level(isa), threads) + 128
