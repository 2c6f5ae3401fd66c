"""cast in Numba; the contract is the folder's docstring."""

from __future__ import annotations

import numpy as np

from .._common.jit import kernel, narrow, round_to_odd, widen
from .._common.tasks import elements
from ..problem import Problem


@kernel
def _line(first, last, x, out):
    x, out = x[first:last], out[first:last]
    for i in range(out.size):
        out[i] = narrow(round_to_odd(widen(x[i]), out), out)


@kernel
def _grid(first, last, x, out):
    for t in range(first, last):
        i, j = divmod(t, out.shape[1])
        for k in range(out.shape[2]):
            for n in range(out.shape[3]):
                out[i, j, k, n] = narrow(round_to_odd(widen(x[i, j, k, n]), out), out)


def cast_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = x in the dtype of out, rounded to nearest even once."""
    elements(_line, _grid, 0.4, threads, (), x, out)
