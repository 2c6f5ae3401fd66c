"""add and concat in NumPy: the specification."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..problem import Problem


def add_forward(problem: Problem, a: np.ndarray, b: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = a + b."""
    with np.errstate(all="ignore"):
        out[...] = a.astype(problem.compute) + b.astype(problem.compute)


def concat_forward(problem: Problem, arrays: Sequence[np.ndarray], out: np.ndarray, threads: int) -> None:
    """The arrays one after the other along ``axis``."""
    axis, start = problem.attr("axis"), 0
    for a in arrays:
        stop = start + a.shape[axis]
        out[(slice(None),) * axis + (slice(start, stop),)] = a
        start = stop
