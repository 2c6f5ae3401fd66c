"""gemm in NumPy: the specification."""

from __future__ import annotations

import numpy as np

from ..problem import Problem


def epilogue(v: np.ndarray, bias: np.ndarray | None, name: str, axis: int = -1) -> np.ndarray:
    """f(v + bias), the bias along ``axis`` of ``v``, in the dtype of ``v``."""
    if bias is not None:
        shape = [1] * v.ndim
        shape[axis] = -1
        v = v + bias.astype(v.dtype).reshape(shape)
    if name == "bias_relu":
        v = np.where(v <= 0, v.dtype.type(0), v)
    return v


def gemm_forward(
    problem: Problem, a: np.ndarray, b: np.ndarray, bias: np.ndarray | None, out: np.ndarray, threads: int
) -> None:
    """out = f(a @ b + bias)."""
    compute = np.dtype(problem.compute)
    out[...] = epilogue(a.astype(compute) @ b.astype(compute), bias, problem.epilogue)
