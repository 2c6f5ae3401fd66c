"""batch_norm in Numba, and local_response_norm from ``_numba_response.py``; the contract is the folder's docstring.

There are kernels for rows (the channels of a row beside each other) and for grids (any strides). Both add up in the
same order: panels of 8 rows, blocks of 16 panels, chunks of blocks in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._common.jit import bits, compute_dtype, inline, kernel, narrow, round_to_odd
from .._common.streaming import streams
from .._common.tasks import parallel
from .._common.vectors import REGISTER
from ..problem import Problem
from ._numba_grids import WIDTH, gradient_grid, gradients_grid, map_grid, moments_grid
from ._numba_layout import as_grids, as_lines
from ._numba_response import respond
from ._numba_rows import add, gradient_rows, gradients_rows, map_rows, merge, moments_rows, repeat
from .plan import batch_norm_plan

#: Elements to which a row of parameters is repeated, so that inner loops do not stop after a few.
SPAN = 256

Kernel = Callable[..., None]
#: What ``as_lines`` gave.
Lines = list[np.ndarray] | None


@inline
def _fill_scales(eps, gamma, beta, mean, var, parameters):
    for c in range(gamma.size):
        parameters[0, c] = mean[c]
        parameters[1, c] = gamma[c] / np.sqrt(np.float64(var[c]) + eps)
        parameters[2, c] = beta[c]
    for p in range(3):
        repeat(parameters[p], gamma.size)


@kernel
def _scales(eps, gamma, beta, mean, var, parameters):
    """The parameters of the map from x to out: mean, scale and shift, repeated to the length of a row."""
    _fill_scales(eps, gamma, beta, mean, var, parameters)


@kernel
def _join_moments(chunk, rows, sums, eps, gamma, beta, mean, var, parameters):
    """Mean and variance from the chunks; the parameters from these as they are stored."""
    total, square = sums[0, 0], sums[0, 1]
    for k in range(1, sums.shape[0]):
        merge(float(k * chunk), float(min(chunk, rows - k * chunk)), sums[k, 0], sums[k, 1], total, square)
    for c in range(total.size):
        mean[c] = total[c] / rows
        var[c] = square[c] / rows
    _fill_scales(eps, gamma, beta, mean, var, parameters)


@kernel
def _slopes(eps, rows, sums, gamma, mean, var, dgamma, dbeta, parameters):
    """dgamma, dbeta and the parameters of the map from dout to dx: mean, scale, shift and slope."""
    total, product = sums[0, 0], sums[0, 1]
    for k in range(1, sums.shape[0]):
        add(sums[k, 0], total)
        add(sums[k, 1], product)
    for c in range(gamma.size):
        std = np.sqrt(np.float64(var[c]) + eps)
        dbeta[c] = narrow(round_to_odd(total[c], dbeta), dbeta)
        dgamma[c] = narrow(round_to_odd(product[c] / std, dgamma), dgamma)
        parameters[0, c] = mean[c]
        parameters[1, c] = gamma[c] / std
        parameters[2, c] = total[c] / rows
        parameters[3, c] = product[c] / std / (rows * std)
    for p in range(4):
        repeat(parameters[p], gamma.size)


def _sums(
    problem: Problem,
    rows,
    grid,
    threads: int,
    lines: list[np.ndarray] | None,
    operands: tuple[np.ndarray, ...],
    *more: Any,
) -> np.ndarray:
    """(chunks, 2, channels): the sums of a chunk's rows, of one kernel or the other. ``lines``: see ``as_lines``."""
    (chunk, chunks, tile), channels, size = batch_norm_plan(problem), operands[0].shape[1], operands[0].size
    sums = np.zeros((max(chunks, 1), 2, channels))
    work = len(operands) * size
    if (lines := lines or as_lines(*operands)) is not None:
        tasks, count = chunks * -(-channels // tile), size // max(channels, 1)
        parallel(rows, tasks, threads, 0.08 * work, chunk, tile, count, *lines, *more, sums)
    else:
        views = as_grids(*operands)
        tile = 1 if views[0].strides[3] == views[0].itemsize else WIDTH
        parallel(grid, chunks * -(-channels // tile), threads, 0.5 * work, chunk, tile, *views, *more, sums)
    return sums


def _copies(dtype: type | None, *lines: np.ndarray) -> list[np.ndarray]:
    """Copies: kernels are compiled for one dtype, one stride and writeable memory, whatever a user has."""
    return [np.array(line, dtype) for line in lines]


def _span(size: int, channels: int) -> int:
    """How many rows of ``size`` elements are treated as one."""
    rows, span = size // max(channels, 1), 1
    while span * channels < SPAN and rows % (2 * span) == 0 and rows > 0:
        span *= 2
    return span


def _map(
    rows, grid, threads: int, parameters: np.ndarray, lines: list[np.ndarray] | None, *operands: np.ndarray
) -> None:
    """The kernel for rows or the one for grids, on arrays of which the last is written."""
    size, out, width = operands[0].size, operands[-1], parameters.shape[1]
    if size == 0:
        return
    work = 0.08 * len(operands) * size
    if lines is not None:
        around = (
            streams(lines[-1], *lines[:-1]) and width * out.itemsize % REGISTER == 0 and out.ctypes.data % REGISTER == 0
        )
        parallel(rows, size // width, threads, work, around, *lines[:-1], parameters, lines[-1])
        return
    views = as_grids(*operands)
    n, channels, height, _ = views[0].shape
    parallel(grid, n * height * -(-channels // WIDTH), threads, 4 * work, *views[:-1], parameters, views[-1])


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
    """Statistics of the batch; then the same as inference with them."""
    rows, lines = x.size // max(x.shape[1], 1), as_lines(x, out)
    sums = _sums(problem, moments_rows, moments_grid, threads, lines and lines[:1], (x,), compute_dtype(x).type(0))
    parameters = np.empty((3, gamma.size * _span(x.size, gamma.size)), mean.dtype)
    chunk, eps = batch_norm_plan(problem).chunk, problem.attr("eps")
    _join_moments(chunk, rows, sums, eps, *_copies(np.float64, gamma, beta), mean, var, parameters)
    _map(map_rows, map_grid, threads, parameters, lines, x, out)


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
    parameters = np.empty((3, gamma.size * _span(x.size, gamma.size)), mean.dtype)
    _scales(problem.attr("eps"), *_copies(np.float64, gamma, beta), *_copies(None, mean, var), parameters)
    _map(map_rows, map_grid, threads, parameters, as_lines(x, out), x, out)


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
    """Gradients through the statistics of the batch."""
    rows, lines = x.size // max(x.shape[1], 1), as_lines(dout, x, dx)
    (gamma,), (mean, var) = _copies(np.float64, gamma), _copies(None, mean, var)
    sums = _sums(
        problem, gradients_rows, gradients_grid, threads, lines and lines[:2], (dout, x), mean, mean.dtype.type(0)
    )
    parameters = np.empty((4, gamma.size * _span(x.size, gamma.size)), mean.dtype)
    _slopes(problem.attr("eps"), rows, sums, gamma, mean, var, bits(dgamma), bits(dbeta), parameters)
    _map(gradient_rows, gradient_grid, threads, parameters, lines, dout, x, dx)


def local_response_norm_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = x * s ** -beta."""
    respond(problem, False, threads, x, x, out)


def local_response_norm_backward(
    problem: Problem, dout: np.ndarray, x: np.ndarray, dx: np.ndarray, threads: int
) -> None:
    """dx = dout * s ** -beta - 2 * alpha * beta / size * x * (sum of dout * x * s ** (-beta - 1) over who saw x)."""
    respond(problem, True, threads, dout, x, dx)
