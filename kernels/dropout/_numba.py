"""dropout in Numba; the contract is the folder's docstring."""

from __future__ import annotations

import numpy as np

from .._common.jit import compute_dtype, inline, kernel, narrow, widen
from .._common.tasks import elements, parallel
from ..problem import Problem
from . import threshold

_LOW = np.uint64(0xFFFFFFFF)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_32 = np.uint64(32)
#: Blocks of four words in a task.
_TASK = 4096


@inline
def _philox(block, step, seed):
    """The four words of a block, in uint64: the counter is the block and the step, the key the seed."""
    c0, c1, c2, c3 = block & _LOW, block >> _32, step & _LOW, step >> _32
    k0, k1 = seed & _LOW, seed >> _32
    for _ in range(10):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@kernel
def _mask(first, last, task, seed, step, least, out):
    for t in range(first, last):
        part = out[4 * task * t : min(4 * task * (t + 1), out.size)]
        whole = part.size // 4
        for i in range(whole):
            a, b, c, d = _philox(np.uint64(task * t + i), step, seed)
            part[4 * i] = a >= least
            part[4 * i + 1] = b >= least
            part[4 * i + 2] = c >= least
            part[4 * i + 3] = d >= least
        words = _philox(np.uint64(task * t + whole), step, seed)
        for i in range(part.size - 4 * whole):
            part[4 * whole + i] = words[i] >= least


@kernel
def _line(first, last, scale, x, mask, out):
    x, mask, out = x[first:last], mask[first:last], out[first:last]
    for i in range(out.size):
        out[i] = narrow(widen(x[i]) * (np.float32(mask[i]) * scale), out)


@kernel
def _grid(first, last, scale, x, mask, out):
    for t in range(first, last):
        i, j = divmod(t, out.shape[1])
        for k in range(out.shape[2]):
            for n in range(out.shape[3]):
                out[i, j, k, n] = narrow(widen(x[i, j, k, n]) * (np.float32(mask[i, j, k, n]) * scale), out)


def dropout_mask(problem: Problem, state: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out[i] = 1 where word i is at least ratio * 2**32, else 0."""
    seed, step = state
    least = np.uint64(threshold(problem.attr("ratio")))
    tasks = -(-out.size // (4 * _TASK))
    parallel(_mask, tasks, threads, 2.0 * out.size, _TASK, seed, step, least, out.reshape(-1))


def dropout_forward(problem: Problem, x: np.ndarray, mask: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = x * (mask * scale)."""
    scale = compute_dtype(x).type(problem.attr("scale"))
    elements(_line, _grid, 0.4, threads, (scale,), x, mask.view(np.uint8), out)
