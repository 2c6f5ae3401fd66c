"""Pooling in NumPy: the specification."""

from __future__ import annotations

import numpy as np

from ..im2col.reference import taps
from ..problem import Problem


def max_pool2d_forward(
    problem: Problem, x: np.ndarray, out: np.ndarray, indices: np.ndarray | None, threads: int
) -> None:
    """out = the largest element of each window, the first of equals; indices = its tap."""
    kernel_w = problem.attr("kernel")[1]
    best = np.full(out.shape, -np.inf, problem.compute)
    where = np.full(out.shape, -1, np.int64)
    for kh, kw, (oh, ow), (ih, iw) in taps(problem, x.shape[2:], out.shape[2:]):
        value = x[:, :, ih, iw].astype(best.dtype)
        best_here, where_here = best[:, :, oh, ow], where[:, :, oh, ow]
        take = (where_here < 0) | (value > best_here) | (np.isnan(value) & ~np.isnan(best_here))
        np.copyto(best_here, value, where=take)
        np.copyto(where_here, kh * kernel_w + kw, where=take)
    out[...] = best
    if indices is not None:
        indices[...] = np.where(where < 0, np.iinfo(indices.dtype).max, where)


def max_pool2d_backward(
    problem: Problem, dout: np.ndarray, indices: np.ndarray, out: np.ndarray | None, dx: np.ndarray, threads: int
) -> None:
    """dx = the sum of dout over the windows that chose the element and, with ``out``, whose result is not <= 0."""
    kernel_w = problem.attr("kernel")[1]
    if out is not None:
        dout = np.where(out <= 0, np.zeros((), dout.dtype), dout)
    total = np.zeros(dx.shape, problem.compute)
    # For one element, later taps belong to earlier windows: taps backwards are windows in row-major order.
    for kh, kw, (oh, ow), (ih, iw) in reversed(list(taps(problem, dx.shape[2:], dout.shape[2:]))):
        chosen = indices[:, :, oh, ow] == kh * kernel_w + kw
        total[:, :, ih, iw] += np.where(chosen, dout[:, :, oh, ow].astype(total.dtype), 0)
    dx[...] = total


def divisor(problem: Problem, size: tuple[int, ...], grid: tuple[int, ...]) -> np.ndarray:
    """(OH, OW): the number of elements that each window's sum is divided by; 1 where there are none."""
    counts = []
    for axis in (0, 1):
        before, after = problem.pads[2 * axis : 2 * axis + 2]
        start = np.arange(grid[axis]) * problem.stride[axis] - before
        stop = start + problem.attr("kernel")[axis]
        if problem.attr("count_include_pad"):
            stop = np.minimum(stop, size[axis] + after)
        else:
            start, stop = np.clip(start, 0, size[axis]), np.clip(stop, 0, size[axis])
        counts.append(stop - start)
    return np.maximum(np.multiply.outer(*counts), 1).astype(problem.compute)


def avg_pool2d_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = the mean of each window."""
    total = np.zeros(out.shape, problem.compute)
    for _, _, (oh, ow), (ih, iw) in taps(problem, x.shape[2:], out.shape[2:]):
        total[:, :, oh, ow] += x[:, :, ih, iw].astype(total.dtype)
    out[...] = total / divisor(problem, x.shape[2:], out.shape[2:])


def avg_pool2d_backward(problem: Problem, dout: np.ndarray, dx: np.ndarray, threads: int) -> None:
    """dx = the sum, over the windows that cover the element, of dout / divisor."""
    total = np.zeros(dx.shape, problem.compute)
    share = dout.astype(total.dtype) / divisor(problem, dx.shape[2:], dout.shape[2:])
    for _, _, (oh, ow), (ih, iw) in reversed(list(taps(problem, dx.shape[2:], dout.shape[2:]))):
        total[:, :, ih, iw] += share[:, :, oh, ow]
    dx[...] = total


def global_avg_pool2d_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out[n, c] = the mean of x[n, c] over H and W."""
    out[...] = x.astype(problem.compute).mean(axis=(2, 3), keepdims=True)


def global_avg_pool2d_backward(problem: Problem, dout: np.ndarray, dx: np.ndarray, threads: int) -> None:
    """dx[n, c, h, w] = dout[n, c] / (H * W)."""
    dx[...] = dout.astype(problem.compute) / np.dtype(problem.compute).type(max(dx.shape[2] * dx.shape[3], 1))
