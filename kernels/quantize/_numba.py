"""quantize and dequantize in Numba; the contract is the folder's docstring."""

from __future__ import annotations

import numpy as np

from .._common.jit import inline, kernel, narrow, widen
from .._common.tasks import elements
from ..problem import Problem


@inline
def _byte(value, scale, zero):
    """Clipped first, which for whole bounds is the same; NaN becomes the lowest."""
    v = np.float32(value) * scale
    low, high = -zero, np.float32(255) - zero
    v = v if v > low else low
    v = v if v < high else high
    return np.uint8(np.rint(v) + zero)


@kernel
def _quantize_line(first, last, streams, scale, zero, x, out):
    source, target = x[first:last], out[first:last]
    for i in range(target.size):
        target[i] = _byte(widen(source[i]), scale, zero)


@kernel
def _quantize_grid(first, last, scale, zero, x, out):
    for t in range(first, last):
        i, j = divmod(t, out.shape[1])
        for k in range(out.shape[2]):
            for n in range(out.shape[3]):
                out[i, j, k, n] = _byte(widen(x[i, j, k, n]), scale, zero)


@kernel
def _dequantize_line(first, last, streams, scale, zero, x, out):
    source, target = x[first:last], out[first:last]
    for i in range(target.size):
        target[i] = narrow((np.float32(source[i]) - zero) * scale, out)


@kernel
def _dequantize_grid(first, last, scale, zero, x, out):
    for t in range(first, last):
        i, j = divmod(t, out.shape[1])
        for k in range(out.shape[2]):
            for n in range(out.shape[3]):
                out[i, j, k, n] = narrow((np.float32(x[i, j, k, n]) - zero) * scale, out)


def quantize_forward(
    problem: Problem, x: np.ndarray, scale: np.ndarray, zero: np.ndarray, out: np.ndarray, threads: int
) -> None:
    """out = the bytes of x."""
    numbers = np.float32(scale[0]), np.float32(zero[0])
    elements(_quantize_line, _quantize_grid, 0.3, threads, numbers, x, out)


def dequantize_forward(
    problem: Problem, x: np.ndarray, scale: np.ndarray, zero: np.ndarray, out: np.ndarray, threads: int
) -> None:
    """out = what the bytes x stand for."""
    numbers = np.float32(scale[0]), np.float32(zero[0])
    elements(_dequantize_line, _dequantize_grid, 0.3, threads, numbers, x, out)
