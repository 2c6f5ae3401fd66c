"""cast in NumPy: the specification."""

from __future__ import annotations

import numpy as np

from ..problem import Problem


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
        if problem.attr("source") == "float64" and problem.storage == "bfloat16":
            # ml_dtypes converts by way of float32, which would round twice.
            out[...] = _round_to_odd(np.array(x, ndmin=1)).reshape(x.shape).astype(out.dtype)
        else:
            out[...] = x.astype(out.dtype)
