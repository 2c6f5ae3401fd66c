"""softmax and its cross entropy in Numba, a block of rows at a time; the contract is the folder's docstring."""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numba.extending import overload

from .._common.jit import bits, borrowing, inline, kernel, narrow, widen, zero
from .._common.tasks import parallel
from .._common.vectors import choose, load_16, store
from .._common.vmath import exp
from ..problem import Problem
from . import BLOCK

#: Numbers that are worked on together, whatever a register holds: the contract says the order of sums.
LANES = 16
#: Classes of which a row is worth loops of its own.
_LONG = 4 * LANES
_INFINITY = np.float32(np.inf)


def _is_plain(array):
    """Whether the rows of an array type are dense and of the compute dtype."""
    return array.layout == "C" and array.dtype in (types.float32, types.float64)


def _source(x, row):
    """The row x in the compute dtype: itself, or copied to ``row``. (Only in kernels.)"""
    raise NotImplementedError("_source is for kernels")


@overload(_source, inline="always")
def _source_of(x, row):
    if _is_plain(x):
        return lambda x, row: x

    def copy(x, row):
        for j in range(row.size):
            row[j] = widen(x[j])
        return row

    return copy


def _together(x):
    """Whether rows of x go through exp together: short ones, and copies, which are there already. (Only in kernels.)"""
    raise NotImplementedError("_together is for kernels")


@overload(_together, inline="always")
def _together_of(x):
    if _is_plain(x):
        return lambda x: x.shape[1] < _LONG
    return lambda x: True


def _flat(out, buffer):
    """Where probabilities are worked out: in ``out`` as one line, or in ``buffer``. (Only in kernels.)"""
    raise NotImplementedError("_flat is for kernels")


@overload(_flat, inline="always")
def _flat_of(out, buffer):
    if _is_plain(out):
        return lambda out, buffer: out.reshape(out.size)
    return lambda out, buffer: buffer


def _first(out, row):
    """Where in that line the block begins with ``row``. (Only in kernels.)"""
    raise NotImplementedError("_first is for kernels")


@overload(_first, inline="always")
def _first_of(out, row):
    if _is_plain(out):
        return lambda out, row: row * out.shape[1]
    return lambda out, row: 0


def _deliver(done, row):
    """Brings a row that was worked out in a buffer to its place. (Only in kernels.)"""
    raise NotImplementedError("_deliver is for kernels")


@overload(_deliver, inline="always")
def _deliver_to(done, row):
    if _is_plain(row):
        return lambda done, row: None

    def copy(done, row):
        for j in range(row.size):
            row[j] = narrow(done[j], row)

    return copy


@inline
def _larger(a, b):
    """a where it is larger than b, else b: NaN in a is passed over."""
    return choose(a > b, a, b)


@borrowing
def _largest(row, lanes):
    """The largest value, where NaN is passed over: exp(x - max) brings it back."""
    most, i = zero(row) - _INFINITY, 0
    if row.size >= LANES:
        lanes[:] = most
        a = load_16(lanes, 0)
        b, c, d = a, a, a  # in one chain each comparison would wait for the one before
        while i + 4 * LANES <= row.size:
            a, b = _larger(load_16(row, i), a), _larger(load_16(row, i + LANES), b)
            c = _larger(load_16(row, i + 2 * LANES), c)
            d = _larger(load_16(row, i + 3 * LANES), d)
            i += 4 * LANES
        while i + LANES <= row.size:
            a = _larger(load_16(row, i), a)
            i += LANES
        store(lanes, 0, _larger(_larger(a, b), _larger(c, d)))
        for k in range(LANES):
            most = lanes[k] if lanes[k] > most else most
    for j in range(i, row.size):
        most = row[j] if row[j] > most else most
    return most


@borrowing
def _total(row, lanes):
    """The sum, in the order that the contract says of compiled kernels."""
    total = zero(row)
    if row.size < LANES:
        for i in range(row.size):
            total += row[i]
        return total
    lanes[:] = total
    sums, i = load_16(lanes, 0), 0
    while i + LANES <= row.size:
        sums = sums + load_16(row, i)
        i += LANES
    store(lanes, 0, sums)
    for k in range(row.size - i):
        lanes[k] += row[i + k]
    width = LANES // 2
    while width > 0:
        for k in range(width):
            lanes[k] += lanes[k + width]
        width //= 2
    return lanes[0]


# Functions of their own, as loops in the middle of _forward would stay scalar.


@borrowing
def _exp_less(x, most, row):
    for j in range(row.size):
        row[j] = exp(x[j] - most)


@borrowing
def _exp_in_place(row):
    for j in range(row.size):
        row[j] = exp(row[j])


@borrowing
def _divide(row, total):
    for j in range(row.size):
        row[j] = row[j] / total


@borrowing
def _forward(x, out, flat, lanes, labels, losses, start, rows):
    """``rows`` rows of probabilities, and their losses."""
    classes = x.shape[1]
    at = _first(out, start)
    block = flat[at : at + rows * classes]
    for i in range(rows):
        row = block[i * classes : (i + 1) * classes]
        source = _source(x[start + i], row)
        most = _largest(source, lanes)
        if labels is not None:
            label = labels[start + i]
            losses[start + i] = source[label] - most if 0 <= label < classes else np.nan
        if _together(x):
            for j in range(row.size):
                row[j] = source[j] - most
        else:
            _exp_less(source, most, row)
    if _together(x):
        _exp_in_place(block)
    for i in range(rows):
        row = block[i * classes : (i + 1) * classes]
        total = _total(row, lanes)
        if labels is not None:
            losses[start + i] = math.log(total) - losses[start + i]
        _divide(row, total)
        _deliver(row, out[start + i])


@kernel
def _softmax(first, last, x, out):
    rows = max(1, min(last - first, BLOCK // max(x.shape[1], 1)))
    buffer, lanes = np.full(rows * x.shape[1], zero(x)), np.full(LANES, zero(x))
    flat = _flat(out, buffer)
    for start in range(first, last, rows):
        _forward(x, out, flat, lanes, None, None, start, min(rows, last - start))


@kernel
def _entropy(first, last, x, labels, losses, probabilities):
    rows = max(1, min(last - first, BLOCK // max(x.shape[1], 1)))
    buffer, lanes = np.full(rows * x.shape[1], zero(x)), np.full(LANES, zero(x))
    flat = _flat(probabilities, buffer)
    for start in range(first, last, rows):
        _forward(x, probabilities, flat, lanes, labels, losses, start, min(rows, last - start))


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


@borrowing
def _gradient(first, last, probabilities, labels, factor, dx):
    for i in range(first, last):
        p, line, label = probabilities[i], dx[i], labels[i]
        for j in range(line.size):
            line[j] = narrow(p[j] * factor, dx)
        if 0 <= label < line.size:
            line[label] = narrow((p[label] - 1) * factor, dx)


@kernel
def _entropy_gradient(first, last, probabilities, labels, scale, dx):
    _gradient(first, last, probabilities, labels, scale[0], dx)


def softmax_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = exp(x - max) / sum(exp(x - max)) along the last axis."""
    parallel(_softmax, len(x), threads, 0.5 * x.size, bits(x), bits(out))


def softmax_backward(problem: Problem, dout: np.ndarray, y: np.ndarray, dx: np.ndarray, threads: int) -> None:
    """dx = y * (dout - sum(dout * y))."""
    parallel(_softmax_gradient, len(dx), threads, 0.3 * dx.size, *map(bits, (dout, y, dx)))


def softmax_cross_entropy_forward(
    problem: Problem, x: np.ndarray, labels: np.ndarray, losses: np.ndarray, probabilities: np.ndarray, threads: int
) -> None:
    """losses = log(sum(exp(x - max))) - (x[label] - max); probabilities = softmax(x)."""
    parallel(_entropy, len(x), threads, 0.5 * x.size, bits(x), labels, losses, probabilities)


def softmax_cross_entropy_backward(
    problem: Problem, probabilities: np.ndarray, labels: np.ndarray, scale: np.ndarray, dx: np.ndarray, threads: int
) -> None:
    """dx = (probabilities - one_hot(labels)) * scale."""
    parallel(_entropy_gradient, len(dx), threads, 0.1 * dx.size, probabilities, labels, scale.ravel(), bits(dx))
