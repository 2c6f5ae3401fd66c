"""Chunks of the convolution of bits: those of the direct convolution, in which a word is a channel."""

from __future__ import annotations

import functools
import math

from ..._common.tiling import panel_width
from ...problem import Problem
from ..direct import plan as direct
from ..words import in_words, level

#: Of the direct convolution's cost per word: a count is one instruction with VPOPCNTDQ, and about ten elsewhere.
SLOWER = {"v4popcnt": 1.0}


@functools.lru_cache(maxsize=4096)
def plan(problem: Problem, isa: str) -> direct.Plan:
    """Blocks of forward."""
    return direct.plan(in_words(problem, 1), level(isa))


def cost(problem: Problem, isa: str) -> float:
    """Rough nanoseconds of one thread."""
    return direct.cost(in_words(problem, 1), level(isa)) * SLOWER.get(isa, 4.0)


def workspace(problem: Problem, isa: str, threads: int) -> int:
    """Bytes of scratch of all threads together, at most."""
    k, _, kh, kw = problem.shapes[1]
    nr = panel_width(level(isa), "float32", k // problem.groups)
    table = problem.groups * math.ceil(k // problem.groups / nr) * nr * kh * kw * 4 + 128
    return direct.workspace(in_words(problem, 1), level(isa), threads) + table
