"""add in Numba; concat copies with NumPy, at the speed of memory. The contract is the folder's docstring."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .._common.jit import bits, kernel, narrow, widen
from .._common.tasks import elements
from .._common.vectors import LANES, fence, line, whole_lines
from ..problem import Problem
from .reference import concat_forward as _copy

_sum_16 = line(lambda builder, zero, a, b: builder.fadd(a, b))


@kernel
def _add_line(first, last, streams, a, b, out):
    head, tail = whole_lines(first, last, streams, out)
    for at in range(head, tail, LANES):
        _sum_16(at, 0.0, a, b, out)
    for start, stop in ((first, head), (tail, last)):
        left, right, target = a[start:stop], b[start:stop], out[start:stop]
        for i in range(target.size):
            target[i] = narrow(widen(left[i]) + widen(right[i]), out)
    fence()


@kernel
def _add_grid(first, last, a, b, out):
    for t in range(first, last):
        i, j = divmod(t, out.shape[1])
        for k in range(out.shape[2]):
            for n in range(out.shape[3]):
                out[i, j, k, n] = narrow(widen(a[i, j, k, n]) + widen(b[i, j, k, n]), out)


def add_forward(problem: Problem, a: np.ndarray, b: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = a + b."""
    elements(_add_line, _add_grid, 0.4, threads, (), a, b, out)


def concat_forward(problem: Problem, arrays: Sequence[np.ndarray], out: np.ndarray, threads: int) -> None:
    """The arrays one after the other along ``axis``."""
    _copy(problem, [bits(a) for a in arrays], bits(out), threads)
