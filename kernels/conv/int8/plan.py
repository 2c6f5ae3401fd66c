"""Chunks of the convolution of bytes: those of the direct convolution, in which a word is a channel."""

from __future__ import annotations

import functools

from ..._common.tiling import panel_width
from ...problem import Problem
from ..direct import plan as direct
from ..words import in_words, level

#: Products that a sum of 32 bits holds, at least: 255 * 128 each.
TERMS = (2**31 - 1) // (255 * 128)


def _channels(isa: str) -> int:
    """Channels of a word: four bytes where there is VNNI, else two numbers of 16 bits."""
    return 4 if isa.endswith("vnni") else 2


@functools.lru_cache(maxsize=4096)
def plan(problem: Problem, isa: str) -> direct.Plan:
    """Blocks of forward."""
    return direct.plan(in_words(problem, _channels(isa)), level(isa))


def cost(problem: Problem, isa: str) -> float:
    """Rough nanoseconds of one thread. A pixel of one or two channels is a word for both, but with VNNI pixels lie
    close."""
    words = _channels(isa)
    return direct.cost(in_words(problem, words), level(isa)) * (1.0 if words == 4 else 1.5)


def workspace(problem: Problem, isa: str, threads: int) -> int:
    """Bytes of scratch of all threads together, at most."""
    k = problem.shapes[1][0] // problem.groups
    nr = panel_width(level(isa), "float32", k)
    table = problem.groups * -(-k // nr) * nr * 4 + 128
    return direct.workspace(in_words(problem, _channels(isa)), level(isa), threads) + table
