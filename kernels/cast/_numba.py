"""cast in Numba; the contract is the folder's docstring."""

from __future__ import annotations

import numpy as np

from .._common.jit import kernel, narrow, round_to_odd, widen
from .._common.streaming import whole_lines
from .._common.tasks import elements
from .._common.vectors import AHEAD, fence, fetch, lanes, load, stream
from ..problem import Problem


@kernel
def _line(first, last, streams, x, out):
    head, tail = whole_lines(first, last, streams, out)
    for at in range(head, tail, lanes(x)):
        fetch(x, at + AHEAD // x.itemsize)
        stream(out, at, load(x, at))
    for a, b in ((first, head), (tail, last)):
        source, target = x[a:b], out[a:b]
        for i in range(target.size):
            target[i] = narrow(round_to_odd(widen(source[i]), out), out)
    fence()


@kernel
def _grid(first, last, x, out):
    for t in range(first, last):
        i, j = divmod(t, out.shape[1])
        for k in range(out.shape[2]):
            for n in range(out.shape[3]):
                out[i, j, k, n] = narrow(round_to_odd(widen(x[i, j, k, n]), out), out)


def cast_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = x in the dtype of out, rounded to nearest even once."""
    elements(_line, _grid, 0.2, threads, (), x, out)
