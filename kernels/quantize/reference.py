"""quantize and dequantize in NumPy: the specification."""

from __future__ import annotations

import numpy as np

from ..problem import Problem


def quantize_forward(
    problem: Problem, x: np.ndarray, scale: np.ndarray, zero: np.ndarray, out: np.ndarray, threads: int
) -> None:
    """out = the bytes of x."""
    steps = np.rint(x.astype(np.float32) * scale.astype(np.float32)[0])
    zero = zero.astype(np.float32)[0]
    out[...] = np.where(np.isnan(steps), 0, np.clip(steps, -zero, 255 - zero) + zero)


def dequantize_forward(
    problem: Problem, x: np.ndarray, scale: np.ndarray, zero: np.ndarray, out: np.ndarray, threads: int
) -> None:
    """out = what the bytes x stand for."""
    out[...] = (x.astype(np.int32) - zero.astype(np.int32)[0]).astype(np.float32) * scale.astype(np.float32)[0]
