"""cast in NumPy: the specification."""

from __future__ import annotations

import numpy as np

from ..dropout.reference import random_words
from ..problem import FLOAT8, Problem

#: Significand bits of the dtypes that values are rounded to by chance, exponent of their smallest subnormal, and their
#: largest finite value.
_FORMATS = {"float16": (11, -24, 65504.0), "bfloat16": (8, -133, (2 - 2.0**-7) * 2.0**127)}


def _round_to_odd(x: np.ndarray) -> np.ndarray:
    """float64 as float32: an inexact value goes to the neighbour whose last bit is 1.

    Rounding that once more to a format with at least two bits less gives what one rounding would have given: the odd
    bit keeps on which side of every representable value and of every tie the float64 value was.
    """
    nearest = x.astype(np.float32)
    back = nearest.astype(np.float64)
    bits = nearest.view(np.uint32)
    inexact_even = (bits & 1 == 0) & ~np.isnan(x)
    bits[inexact_even & (np.abs(back) < np.abs(x))] += 1
    bits[inexact_even & (np.abs(back) > np.abs(x))] -= 1
    return nearest


def cast_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = x in the dtype of out, rounded to nearest even once."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if problem.attr("source") == "float64" and problem.storage in ("bfloat16", *FLOAT8):
            # ml_dtypes converts by way of float32, which would round twice.
            out[...] = _round_to_odd(np.array(x, ndmin=1)).reshape(x.shape).astype(out.dtype)
        else:
            out[...] = x.astype(out.dtype)


def cast_stochastic(problem: Problem, x: np.ndarray, state: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = x rounded up or down by chance, so that the mean is x."""
    bits, lowest, largest = _FORMATS[problem.storage]
    seed, step = state.tolist()
    words = random_words(seed, step, 0, -(-x.size // 4))[: x.size].reshape(x.shape)
    drawn = np.abs(x) < largest  # no NaN, and a neighbour above
    size = np.where(drawn, np.abs(x), 0).astype(np.float64)
    _, exponent = np.frexp(size)  # size in [2**(exponent - 1), 2**exponent)
    unit = np.maximum(exponent - bits, lowest)
    units = np.ldexp(size, -unit)
    below = np.floor(units)
    up = words < np.floor((units - below) * 2.0**32)
    rounded = np.copysign(np.ldexp(below + up, unit), x)
    with np.errstate(over="ignore", invalid="ignore"):
        out[...] = np.where(drawn, rounded, x).astype(np.float32).astype(out.dtype)
