"""cast in Numba; the contract is the folder's docstring."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from .._common.jit import bit_cast, bits, inline, kernel, narrow, round_to_odd, widen
from .._common.streaming import whole_lines
from .._common.tasks import elements, parallel
from .._common.vectors import AHEAD, fence, fetch, lanes, load, stream
from ..dropout._numba import philox
from ..problem import Problem

#: Elements in a task of what is drawn.
_TASK = 4096
_FOUR, _LOW = np.uint64(4), np.uint64(0xFFFFFFFF)


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


# ---- rounding by chance ---------------------------------------------------------------------------------------------

_word_of = bit_cast(types.float32, types.uint32)
_float_of = bit_cast(types.uint32, types.float32)


@inline
def _drawn_float16(value, word, nearest):
    bits = _word_of(value)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    if magnitude > np.uint32(0x477FE000):  # 65504: nothing is above it, or NaN
        return nearest
    if magnitude < np.uint32(0x38800000):  # below 2**-14 the distance is 2**-24
        units = _float_of(magnitude) * np.float32(2.0**24)
        below = np.uint32(units)
        share = np.uint32((units - np.float32(below)) * np.float32(2.0**32))
    else:
        below, share = (magnitude - np.uint32(0x38000000)) >> np.uint32(13), np.uint32(magnitude << np.uint32(19))
    return np.uint16(((bits >> np.uint32(16)) & np.uint32(0x8000)) | (below + np.uint32(word < share)))


@inline
def _drawn_bfloat16(value, word, nearest):
    bits = _word_of(value)
    if (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F7F0000):
        return nearest
    return np.int16(np.uint16((bits >> np.uint32(16)) + np.uint32(word < np.uint32(bits << np.uint32(16)))))


def _drawn(value: Any, word: Any, out: Any) -> Any:
    """The float32 ``value`` as an element of the array ``out``, rounded as ``word`` decides. (Only in kernels.)"""
    raise NotImplementedError("_drawn is for kernels")


@overload(_drawn, inline="always")
def _drawn_as(value, word, out):
    if out.dtype == types.uint16:
        return lambda value, word, out: _drawn_float16(value, word, narrow(value, out))
    return lambda value, word, out: _drawn_bfloat16(value, word, narrow(value, out))


@kernel
def _stochastic_line(first, last, state, x, out):
    seed, step = state[0], state[1]
    for t in range(first, last):
        source, target = x[_TASK * t : _TASK * (t + 1)], out[_TASK * t : _TASK * (t + 1)]
        for block in range((target.size + 3) // 4):
            words = philox(np.uint64(_TASK // 4 * t + block), step, seed)
            for i in range(min(4, target.size - 4 * block)):
                word = np.uint32(words[i] & _LOW)
                target[4 * block + i] = _drawn(source[4 * block + i], word, out)


@kernel
def _stochastic_grid(first, last, start, state, x, out):
    """Four dimensions of any strides, whose first element is number ``start``; tasks are indices of the first one."""
    seed, step = state[0], state[1]
    for i in range(first, last):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                for n in range(out.shape[3]):
                    at = np.uint64(start + ((i * out.shape[1] + j) * out.shape[2] + k) * out.shape[3] + n)
                    word = np.uint32(philox(at // _FOUR, step, seed)[at % _FOUR] & _LOW)
                    out[i, j, k, n] = _drawn(x[i, j, k, n], word, out)


def cast_stochastic(problem: Problem, x: np.ndarray, state: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = x rounded up or down by chance, so that the mean is x."""
    to = bits(out)
    if x.flags.c_contiguous and to.flags.c_contiguous:
        parallel(_stochastic_line, -(-x.size // _TASK), threads, 1.0 * x.size, state, x.ravel(), to.ravel())
        return
    missing = (None,) * (4 - x.ndim)
    size = int(np.prod(x.shape[-4:]))
    for number, index in enumerate(np.ndindex(x.shape[:-4])):
        source, target = x[(*index, *missing)], to[(*index, *missing)]
        parallel(_stochastic_grid, len(target), threads, 8.0 * size, number * size, state, source, target)
