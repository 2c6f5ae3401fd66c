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


def tf32(v: np.ndarray) -> np.ndarray:
    """float32 values rounded to TF32, 11 significant bits, ties away from zero; NaN and infinities as they are."""
    bits = v.astype(np.float32).view(np.uint32)
    special = (bits & 0x7F800000) == 0x7F800000
    return np.where(special, bits, (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def gemm_forward_tf32(
    problem: Problem, a: np.ndarray, b: np.ndarray, bias: np.ndarray | None, out: np.ndarray, threads: int
) -> None:
    """out = f(a @ b + bias) with both factors rounded to TF32."""
    gemm_forward(problem, tf32(a), tf32(b), bias, out, threads)


def gemm_forward_float16_sums(
    problem: Problem, a: np.ndarray, b: np.ndarray, bias: np.ndarray | None, out: np.ndarray, threads: int
) -> None:
    """out = f(a @ b + bias), each product and each partial sum rounded to float16."""
    a, b, total = a.astype(np.float16), b.astype(np.float16), np.zeros(out.shape, np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(a.shape[1]):
            total = total + a[:, k, None] * b[k]
    out[...] = epilogue(total.astype(np.float32), bias, problem.epilogue).astype(np.float16)
