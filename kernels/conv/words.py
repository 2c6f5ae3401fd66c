"""Convolutions over words: factors of fewer bits, several neighbouring channels in 32 bits (``words.h``)."""

from __future__ import annotations

import math

from ..problem import Problem
from ..registry import FEATURES


def level(isa: str) -> str:
    """The ISA level of a module, whatever instructions of its own it is compiled for."""
    return FEATURES.get(isa, (isa,))[0]


def in_words(problem: Problem, channels: int) -> Problem:
    """The convolution whose channels are words of ``channels`` channels: what the direct one of float32 would do."""
    (n, c, h, w), (k, per_group, kh, kw) = problem.shapes
    groups = problem.groups
    if problem.direction == "backward_input":
        words = math.ceil(k // groups / channels)
        return problem._replace(shapes=((n, c, h, w), (words * groups, per_group, kh, kw)), storage="float32")
    words = math.ceil(per_group / channels)
    return problem._replace(shapes=((n, words * groups, h, w), (k, words, kh, kw)), storage="float32")
