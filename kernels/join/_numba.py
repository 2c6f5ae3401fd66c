"""add and concat in Numba; the contract is the folder's docstring. concat of arrays that are not dense is NumPy's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .._common.jit import bits, kernel, narrow, widen
from .._common.streaming import streams, whole_lines
from .._common.tasks import elements, parallel
from .._common.vectors import AHEAD, fence, fetch, lanes, load, stream
from ..problem import Problem
from .reference import concat_forward as _copy

#: Bytes of a run that are worth the way around the caches.
LEAST_RUN = 64


@kernel
def _add_line(first, last, streams, a, b, out):
    head, tail = whole_lines(first, last, streams, out)
    for at in range(head, tail, lanes(out)):
        fetch(a, at + AHEAD // out.itemsize)
        fetch(b, at + AHEAD // out.itemsize)
        stream(out, at, load(a, at) + load(b, at))
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
    elements(_add_line, _add_grid, 0.2, threads, (), a, b, out)


@kernel
def _copy_runs(first, last, streams, run, total, start, a, out):
    """Runs of so many elements of ``a`` to ``out``, from ``start`` on, ``total`` apart. Tasks are elements."""
    for i in range(first // run, (last + run - 1) // run):
        low, high = max(first, i * run), min(last, (i + 1) * run)
        to = i * (total - run) + start
        source, target = a[low:high], out[low + to : high + to]
        head, tail = whole_lines(0, target.size, streams, target)
        for at in range(head, tail, lanes(target)):
            fetch(source, at + AHEAD // target.itemsize)
            stream(target, at, load(source, at))
        for b, e in ((0, head), (tail, target.size)):
            s, t = source[b:e], target[b:e]
            for k in range(t.size):
                t[k] = s[k]
    fence()


def concat_forward(problem: Problem, arrays: Sequence[np.ndarray], out: np.ndarray, threads: int) -> None:
    """The arrays one after the other along ``axis``."""
    order, axis = list(range(out.ndim)), problem.attr("axis")
    if not out.flags.c_contiguous:
        order = sorted(order, key=lambda i: (-abs(out.strides[i]), i))
    turned = [(a.view(np.int16) if a.itemsize == 2 else a).transpose(order) for a in (*arrays, out)]
    if out.size == 0 or not all(a.flags.c_contiguous for a in turned):
        _copy(problem, [bits(a) for a in arrays], bits(out), threads)
        return
    *sources, target = turned
    runs = math.prod(target.shape[: order.index(axis)])
    dense, start = target.ravel(), 0
    for a in sources:
        run = a.size // runs
        if run:
            around = dense.itemsize > 2 and streams(dense) and run * a.itemsize >= LEAST_RUN  # halves are words here
            parallel(
                _copy_runs, a.size, threads, 0.05 * a.nbytes, around, run, dense.size // runs, start, a.ravel(), dense
            )
        start += run
