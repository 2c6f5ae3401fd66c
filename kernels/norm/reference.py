"""Normalisation in NumPy: the specification."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..problem import Problem


def _columns(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    """``v`` (D,) shaped so that it meets axis 1 of ``x``."""
    return v.reshape((1, -1) + (1,) * (x.ndim - 2))


def _rows_axes(x: np.ndarray) -> tuple[int, ...]:
    """Every axis but axis 1: what a statistic is taken over."""
    return (0, *range(2, x.ndim))


def batch_norm_forward(
    problem: Problem,
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    out: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    threads: int,
) -> None:
    """Statistics of the batch, summed in float64 and rounded once; then the same as inference with them."""
    axes = _rows_axes(x)
    with np.errstate(invalid="ignore"):
        rows = np.float64(x.size) / x.shape[1] if x.shape[1] else np.float64(1)
        exact_mean = x.sum(axes, dtype=np.float64) / rows
        centred = x - _columns(exact_mean, x)
        mean[...] = exact_mean
        var[...] = np.square(centred).sum(axes) / rows
    batch_norm_inference(problem, x, gamma, beta, mean, var, out, threads)


def batch_norm_inference(
    problem: Problem,
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    out: np.ndarray,
    threads: int,
) -> None:
    """out = (x - mean) * (gamma / sqrt(var + eps)) + beta."""
    compute = np.dtype(problem.compute)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        scale = gamma.astype(np.float64) / np.sqrt(var.astype(np.float64) + problem.attr("eps"))
        centred = x.astype(compute) - _columns(mean, x)
        out[...] = centred * _columns(scale.astype(compute), x) + _columns(beta.astype(compute), x)


def batch_norm_backward(
    problem: Problem,
    dout: np.ndarray,
    x: np.ndarray,
    gamma: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    dx: np.ndarray,
    dgamma: np.ndarray,
    dbeta: np.ndarray,
    threads: int,
) -> None:
    """Gradients through the statistics of the batch; sums in float64, rounded once."""
    compute, axes = np.dtype(problem.compute), _rows_axes(x)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        rows = np.float64(x.size) / x.shape[1] if x.shape[1] else np.float64(1)
        std = np.sqrt(var.astype(np.float64) + problem.attr("eps"))
        d = dout.astype(compute)
        centred = x.astype(compute) - _columns(mean, x)
        sum_d = d.sum(axes, dtype=np.float64)
        sum_dx = (d.astype(np.float64) * centred).sum(axes)
        dbeta[...] = sum_d
        dgamma[...] = sum_dx / std
        scale = (gamma.astype(np.float64) / std).astype(compute)
        mean_d = (sum_d / rows).astype(compute)
        slope = (sum_dx / rows / np.square(std)).astype(compute)
        dx[...] = _columns(scale, x) * (d - _columns(mean_d, x) - centred * _columns(slope, x))


def _shifts(channels: int, before: int, after: int) -> Iterator[tuple[slice, slice]]:
    """(c, j) slices for every offset j - c from -before to after, cut off at the first and the last channel."""
    for offset in range(-min(before, channels), min(after, channels) + 1):
        c = slice(max(0, -offset), channels - max(0, offset))
        yield c, slice(c.start + offset, c.stop + offset)


def _window_sum(v: np.ndarray, before: int, after: int) -> np.ndarray:
    """sum of v[:, j] over c - before <= j <= c + after, in the dtype of ``v``."""
    total = np.zeros_like(v)
    for c, j in _shifts(v.shape[1], before, after):
        total[:, c] += v[:, j]
    return total


def _lrn_scale(problem: Problem, x: np.ndarray) -> np.ndarray:
    """s = k + alpha / size * (sum of the window's squares)."""
    size = problem.attr("size")
    factor = x.dtype.type(problem.attr("alpha") / size)
    return x.dtype.type(problem.attr("k")) + factor * _window_sum(np.square(x), (size - 1) // 2, size // 2)


def local_response_norm_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = x * s ** -beta."""
    x = x.astype(problem.compute)
    with np.errstate(all="ignore"):
        out[...] = x * _lrn_scale(problem, x) ** x.dtype.type(-problem.attr("beta"))


def local_response_norm_backward(
    problem: Problem, dout: np.ndarray, x: np.ndarray, dx: np.ndarray, threads: int
) -> None:
    """dx = dout * s ** -beta - 2 * alpha * beta / size * x * (sum of dout * x * s ** (-beta - 1) over who saw x)."""
    x, dout = x.astype(problem.compute), dout.astype(problem.compute)
    size, alpha, beta = problem.attr("size"), problem.attr("alpha"), problem.attr("beta")
    with np.errstate(all="ignore"):
        s = _lrn_scale(problem, x)
        power = s ** x.dtype.type(-beta)
        seen = _window_sum(dout * x * power / s, size // 2, (size - 1) // 2)
        dx[...] = dout * power - x.dtype.type(2 * alpha * beta / size) * x * seen
