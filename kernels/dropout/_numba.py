"""dropout in Numba; the contract is the folder's docstring."""

from __future__ import annotations

import numpy as np

from .._common.jit import compute_dtype, inline, kernel, narrow, spliced, widen
from .._common.streaming import whole_lines
from .._common.tasks import elements, parallel
from .._common.vectors import AHEAD, every, fence, fetch, lanes, load, load_words, numbers, stream
from ..problem import Problem
from . import threshold

_LOW, _32, _63 = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(63)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_B0, _B1, _B2, _B3 = np.uint32(0), np.uint32(8), np.uint32(16), np.uint32(24)
_BYTE = np.dtype(np.uint8)
#: Blocks of four words in a task.
_TASK = 4096


@spliced
def philox(block, step, seed):
    """The four words of a block, in the lower halves of uint64: its counter are block and step, its key is the seed.

    Nothing clears the upper halves: the products do not read them, and what is shifted out of a product does not come
    from them.
    """
    c0, c1, c2, c3 = block, block >> _32, step, step >> _32
    k0, k1 = seed & _LOW, seed >> _32
    for _ in range(10):
        p0, p1 = (c0 & _LOW) * _M0, (c2 & _LOW) * _M1
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1, (p0 >> _32) ^ c3 ^ k1, p0
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@inline
def _kept(word, least):
    """1 where the lower half of ``word`` is at least ``least``."""
    return np.uint32(1) - np.uint32(((word & _LOW) - least) >> _63)


@spliced
def _bytes(block, step, seed, least):
    """The four bytes of a block."""
    a, b, c, d = philox(block, step, seed)
    return _kept(a, least) | _kept(b, least) << _B1 | _kept(c, least) << _B2 | _kept(d, least) << _B3


@kernel
def _mask(first, last, state, least, out):
    seed, step, least = state[0], state[1], np.uint64(least)
    words = out[: out.size // 4 * 4].view(np.uint32)
    for t in range(first, last):
        part, start = words[_TASK * t : _TASK * (t + 1)], np.uint64(_TASK * t)
        for i in range(part.size):
            part[i] = _bytes(start + np.uint64(i), step, seed, least)
    if _TASK * last > words.size:
        word = _bytes(np.uint64(words.size), step, seed, least)
        for i in range(4 * words.size, out.size):
            out[i] = (word >> np.uint32(8 * (i % 4))) & np.uint32(1)


@kernel
def _line(first, last, streams, scale, x, mask, out):
    head, tail = whole_lines(first, last, streams, out)
    scales = every(out, scale)
    for at in range(head, tail, lanes(out)):
        fetch(x, at + AHEAD // x.itemsize)
        fetch(mask, at + AHEAD)
        stream(out, at, load(x, at) * (numbers(x, load_words(x, mask, at)) * scales))
    for a, b in ((first, head), (tail, last)):
        source, keep, target = x[a:b], mask[a:b], out[a:b]
        for i in range(target.size):
            target[i] = narrow(widen(source[i]) * (np.float32(keep[i]) * scale), out)
    fence()


@kernel
def _grid(first, last, scale, x, mask, out):
    for t in range(first, last):
        i, j = divmod(t, out.shape[1])
        for k in range(out.shape[2]):
            for n in range(out.shape[3]):
                out[i, j, k, n] = narrow(widen(x[i, j, k, n]) * (np.float32(mask[i, j, k, n]) * scale), out)


def dropout_mask(problem: Problem, state: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out[i] = 1 where word i is at least ratio * 2**32, else 0."""
    tasks = -(-out.size // (4 * _TASK))
    parallel(_mask, tasks, threads, 0.4 * out.size, state, threshold(problem.attr("ratio")), out.ravel())


def dropout_forward(problem: Problem, x: np.ndarray, mask: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = x * (mask * scale)."""
    scale = compute_dtype(x).type(problem.attr("scale"))
    elements(_line, _grid, 0.15, threads, (scale,), x, mask if mask.dtype == _BYTE else mask.view(_BYTE), out)
