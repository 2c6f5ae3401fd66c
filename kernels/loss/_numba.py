"""softmax and its cross entropy in Numba, row by row; the contract is the folder's docstring.

Rows are added up in 16 lanes, as the contract says of compiled kernels. log, and exp of float64, are the C library's.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numba.extending import overload

from .._common.jit import bits, compute_dtype, inline, kernel, narrow, widen, zero
from .._common.tasks import parallel
from ..problem import Problem

LANES = 16


@inline
def _exp_float32(x):
    """The method and the coefficients of _common/vmath.h, of which a loop makes vectors."""
    shift = np.float32(3 * 2.0**22 + 254)  # adding it leaves an integer in the last bits, 254 larger
    x = np.float32(-104.5) if x < np.float32(-104.5) else x
    x = np.float32(89) if x > np.float32(89) else x
    shifted = x * np.float32(1.44269502) + shift
    n = shifted - shift
    r = (x - n * np.float32(0.693145752)) - n * np.float32(1.42860677e-06)
    q = ((np.float32(0.00138143217) * r + np.float32(0.00836885069)) * r + np.float32(0.0416684002)) * r
    q = (q + np.float32(0.166665196)) * r + np.float32(0.49999994)
    power = np.float32(shifted).view(np.uint32) & np.uint32(511)  # 2**n in two factors, as it may be out of range
    half = power >> np.uint32(1)
    low, high = np.uint32(half << np.uint32(23)), np.uint32((power - half) << np.uint32(23))
    return (np.float32(1) + (r + r * r * q)) * np.uint32(low).view(np.float32) * np.uint32(high).view(np.float32)


def _exp(x):
    raise NotImplementedError("_exp is for kernels")


@overload(_exp, inline="always")
def _exp_of(x):
    if x == types.float32:
        return lambda x: _exp_float32(x)
    return lambda x: math.exp(x)


@inline
def _largest(row, lanes):
    """The largest value, where NaN is passed over: exp(x - max) brings it back."""
    lanes[:] = zero(lanes) - np.inf
    whole = row.size // LANES
    for i in range(whole):
        part = row[LANES * i :]
        for k in range(LANES):
            lanes[k] = part[k] if part[k] > lanes[k] else lanes[k]
    part = row[LANES * whole :]
    for k in range(part.size):
        lanes[k] = part[k] if part[k] > lanes[k] else lanes[k]
    most = lanes[0]
    for k in range(1, LANES):
        most = lanes[k] if lanes[k] > most else most
    return most


@inline
def _total(row, lanes):
    if row.size < LANES:
        total = zero(row)
        for i in range(row.size):
            total += row[i]
        return total
    lanes[:] = zero(lanes)
    whole = row.size // LANES
    for i in range(whole):
        part = row[LANES * i :]
        for k in range(LANES):
            lanes[k] += part[k]
    part = row[LANES * whole :]
    for k in range(part.size):
        lanes[k] += part[k]
    width = LANES // 2
    while width > 0:
        for k in range(width):
            lanes[k] += lanes[k + width]
        width //= 2
    return lanes[0]


@inline
def _exponentials(x, row, lanes):
    """row = exp(x - max); returns max and the sum."""
    for j in range(row.size):
        row[j] = widen(x[j])
    most = _largest(row, lanes)
    for j in range(row.size):
        row[j] = _exp(row[j] - most)
    return most, _total(row, lanes)


@kernel
def _softmax(first, last, x, out):
    row, lanes = np.full(x.shape[1], zero(x)), np.full(LANES, zero(x))
    for i in range(first, last):
        _, total = _exponentials(x[i], row, lanes)
        line = out[i]
        for j in range(row.size):
            line[j] = narrow(row[j] / total, out)


@kernel
def _softmax_gradient(first, last, dout, y, dx):
    row, lanes = np.full(dx.shape[1], zero(dx)), np.full(LANES, zero(dx))
    for i in range(first, last):
        d, p, line = dout[i], y[i], dx[i]
        for j in range(row.size):
            row[j] = widen(d[j]) * widen(p[j])
        dot = _total(row, lanes)
        for j in range(row.size):
            line[j] = narrow(widen(p[j]) * (widen(d[j]) - dot), dx)


@kernel
def _entropy(first, last, x, labels, losses, probabilities):
    row, lanes = np.full(x.shape[1], zero(x)), np.full(LANES, zero(x))
    for i in range(first, last):
        most, total = _exponentials(x[i], row, lanes)
        line, label = probabilities[i], labels[i]
        for j in range(row.size):
            line[j] = row[j] / total
        losses[i] = math.log(total) - (widen(x[i, label]) - most) if 0 <= label < row.size else np.nan


@kernel
def _entropy_gradient(first, last, probabilities, labels, scale, dx):
    for i in range(first, last):
        p, line, label = probabilities[i], dx[i], labels[i]
        for j in range(line.size):
            line[j] = narrow(p[j] * scale, dx)
        if 0 <= label < line.size:
            line[label] = narrow((p[label] - 1) * scale, dx)


def softmax_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = exp(x - max) / sum(exp(x - max)) along the last axis."""
    parallel(_softmax, len(x), threads, 1.0 * x.size, bits(x), bits(out))


def softmax_backward(problem: Problem, dout: np.ndarray, y: np.ndarray, dx: np.ndarray, threads: int) -> None:
    """dx = y * (dout - sum(dout * y))."""
    parallel(_softmax_gradient, len(dx), threads, 0.5 * dx.size, *map(bits, (dout, y, dx)))


def softmax_cross_entropy_forward(
    problem: Problem, x: np.ndarray, labels: np.ndarray, losses: np.ndarray, probabilities: np.ndarray, threads: int
) -> None:
    """losses = log(sum(exp(x - max))) - (x[label] - max); probabilities = softmax(x)."""
    parallel(_entropy, len(x), threads, 1.0 * x.size, bits(x), labels, losses, probabilities)


def softmax_cross_entropy_backward(
    problem: Problem, probabilities: np.ndarray, labels: np.ndarray, scale: np.ndarray, dx: np.ndarray, threads: int
) -> None:
    """dx = (probabilities - one_hot(labels)) * scale."""
    factor = compute_dtype(dx).type(scale.reshape(-1)[0])
    parallel(_entropy_gradient, len(dx), threads, 0.3 * dx.size, probabilities, labels, factor, bits(dx))
