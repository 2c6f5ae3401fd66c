"""Pooling in Numba; the contract is the folder's docstring.

Kernels see channels-last views, (N, H, W, C). Where these are contiguous, loops run over the channels of a pixel, which
LLVM makes vector code; else over the windows or pixels of a channel, one by one. There are no slices in there, whose
references would be counted. Indices are unsigned where it matters: Numba asks signed ones whether they are negative.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from .._common.jit import bits, compute_dtype, inline, kernel, narrow, widen, zero
from .._common.tasks import parallel
from .._common.vectors import REGISTER, every, fetch, lanes, load, store
from ..gemm._numba import span
from ..im2col._numba import covers, steps, windows
from ..problem import Problem
from . import _numba_lines as _slow
from . import _numba_max as _max

#: From here on a run of channels is longer than what it costs to begin one.
_CHANNELS = 8
#: Pixels in one block of a global mean, and channels whose global means are made together.
_BLOCK, _GROUP = 128, 256


@inline
def _at(a, n, h, w, c):
    """An element in the compute dtype."""
    return widen(a[np.uintp(n), np.uintp(h), np.uintp(w), np.uintp(c)])


# ---- the mean -------------------------------------------------------------------------------------------------------


@kernel
def _avg_forward(first, last, rows, columns, sizes, counts_h, counts_w, x, out):
    """Tasks are rows of windows, all channels: four registers at once where there are as many."""
    channels, height, width, n = sizes[0], sizes[1], sizes[2], lanes(x)
    for task in range(first, last):
        image, oh = divmod(task, len(rows))
        h, high = rows[oh, 0], rows[oh, 2]
        for ow in range(len(columns)):
            w, wide = columns[ow, 0], columns[ow, 2]
            at, to = ((image * height + h) * width + w) * channels, (task * len(columns) + ow) * channels
            divisor, c0 = every(x, counts_h[oh] * counts_w[ow]), 0
            while c0 + 4 * n <= channels:
                t0, t1, t2, t3 = every(x, 0.0), every(x, 0.0), every(x, 0.0), every(x, 0.0)
                for i in range(high):
                    for j in range(wide):
                        p = at + (i * width + j) * channels + c0
                        fetch(x, p + 4 * n), fetch(x, p + 5 * n), fetch(x, p + 6 * n), fetch(x, p + 7 * n)
                        t0, t1 = t0 + load(x, p), t1 + load(x, p + n)
                        t2, t3 = t2 + load(x, p + 2 * n), t3 + load(x, p + 3 * n)
                store(out, to + c0, t0 / divisor)
                store(out, to + c0 + n, t1 / divisor)
                store(out, to + c0 + 2 * n, t2 / divisor)
                store(out, to + c0 + 3 * n, t3 / divisor)
                c0 += 4 * n
            for block in range(c0, channels, n):
                c = min(block, channels - n)
                t0 = every(x, 0.0)
                for i in range(high):
                    for j in range(wide):
                        t0 = t0 + load(x, at + (i * width + j) * channels + c)
                store(out, to + c, t0 / divisor)


@kernel
def _avg_backward(first, last, rows, columns, sizes, counts_h, counts_w, dout, dx):
    """Tasks are rows of pixels, all channels. Pixels under the same windows have the same sums."""
    channels, grid_h, grid_w, n = sizes[0], sizes[3], sizes[4], lanes(dx)
    for task in range(first, last):
        image, h = divmod(task, len(rows))
        oh, high, w = rows[h, 0], rows[h, 2], 0
        while w < len(columns):
            ow, wide, same = columns[w, 0], columns[w, 2], 1
            while w + same < len(columns) and ow == columns[w + same, 0] and wide == columns[w + same, 2]:
                same += 1
            to = (task * len(columns) + w) * channels
            for block in range(0, channels, n):
                c = min(block, channels - n)
                total = every(dx, 0.0)
                for i in range(oh, oh + high):
                    for j in range(ow, ow + wide):
                        value = load(dout, ((image * grid_h + i) * grid_w + j) * channels + c)
                        total = total + value / every(dx, counts_h[i] * counts_w[j])
                for k in range(same):
                    store(dx, to + k * channels + c, total)
            w += same


@kernel
def _global_forward(first, last, divisor, x, out):
    """Tasks are groups of channels; x is (N, pixels, C). A block adds up trees of eight pixels each."""
    groups = (x.shape[2] + _GROUP - 1) // _GROUP
    total, part = np.full(_GROUP, zero(out)), np.full(_GROUP, zero(out))
    blank = np.zeros(_GROUP, x.dtype)
    for task in range(first, last):
        n, group = divmod(task, groups)
        start, stop = group * _GROUP, min((group + 1) * _GROUP, x.shape[2])
        to = out[n, start:stop]
        for c in range(to.size):
            total[c] = zero(out)
        for block in range(0, x.shape[1], _BLOCK):
            end = min(block + _BLOCK, x.shape[1])
            for c in range(to.size):
                part[c] = zero(out)
            for p in range(block, end, 8):
                p0 = x[n, p, start:stop]
                p1 = x[n, p + 1, start:stop] if p + 1 < end else blank
                p2 = x[n, p + 2, start:stop] if p + 2 < end else blank
                p3 = x[n, p + 3, start:stop] if p + 3 < end else blank
                p4 = x[n, p + 4, start:stop] if p + 4 < end else blank
                p5 = x[n, p + 5, start:stop] if p + 5 < end else blank
                p6 = x[n, p + 6, start:stop] if p + 6 < end else blank
                p7 = x[n, p + 7, start:stop] if p + 7 < end else blank
                for c in range(to.size):
                    low = (widen(p0[c]) + widen(p1[c])) + (widen(p2[c]) + widen(p3[c]))
                    high = (widen(p4[c]) + widen(p5[c])) + (widen(p6[c]) + widen(p7[c]))
                    part[c] += low + high
            for c in range(to.size):
                total[c] += part[c]
        for c in range(to.size):
            to[c] = narrow(total[c] / divisor, out)


@kernel
def _global_forward_lines(first, last, divisor, x, out):
    """Tasks are channels; the order of the sums is the same."""
    pixels = x.shape[1] * x.shape[2]
    values = np.empty(_BLOCK, np.asarray(zero(out)).dtype)
    for task in range(first, last):
        n, c = divmod(task, x.shape[3])
        h, w, total = 0, 0, zero(out)
        for block in range(0, pixels, _BLOCK):
            count = min(_BLOCK, pixels - block)
            for i in range(_BLOCK):
                values[i] = zero(out)
            for i in range(count):
                values[i] = _at(x, n, h, w, c)
                w += 1
                if w == x.shape[2]:
                    h, w = h + 1, 0
            part = zero(out)
            for i in range(0, count, 8):
                v = values[i : i + 8]
                part += ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]))
            total += part
        out[n, c] = narrow(total / divisor, out)


@kernel
def _global_backward(first, last, divisor, dout, dx):
    """Tasks are rows of pixels, all channels."""
    share = np.empty(dx.shape[3], dx.dtype)
    for task in range(first, last):
        n, h = divmod(task, dx.shape[1])
        for c in range(share.size):
            share[c] = narrow(widen(dout[n, c]) / divisor, dx)
        for w in range(dx.shape[2]):
            to = dx[n, h, w]
            for c in range(share.size):
                to[c] = share[c]


@kernel
def _global_backward_lines(first, last, divisor, dout, dx):
    """Tasks are rows of pixels of one channel."""
    for task in range(first, last):
        plane, h = divmod(task, dx.shape[1])
        n, c = divmod(plane, dx.shape[3])
        share = narrow(widen(dout[n, c]) / divisor, dx)
        for w in range(dx.shape[2]):
            dx[n, h, w, c] = share


# ---- the table's functions ------------------------------------------------------------------------------------------


class _Plan(NamedTuple):
    """What kernels need to know of a problem."""

    rows: np.ndarray
    columns: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray


@functools.lru_cache(512)
def _plan(problem: Problem, grid: tuple[int, int], backward: bool) -> _Plan:
    """Rows and columns of windows or, backward, of pixels; for the arrays see ``_numba_max`` and ``_numba_lines``."""
    (_, channels, *image), (high, wide) = problem.shapes[0], problem.attr("kernel")
    table = covers if backward else windows
    rows, columns = (
        table(size, count, taps, stride, before, dilation)
        for size, count, taps, stride, before, dilation in zip(
            image, grid, (high, wide), problem.stride, problem.pads[::2], problem.dilation, strict=True
        )
    )
    none = np.iinfo(np.uint8 if high * wide <= 255 else np.int32).max
    stride, left = problem.stride[1], problem.pads[2]
    phase, column = np.arange(wide) * problem.dilation[1] % stride, np.arange(wide) * problem.dilation[1] // stride
    pitch = (
        max(grid[1] + int(column[-1]), (image[1] + left) // stride + 1) + REGISTER // np.dtype(problem.compute).itemsize
    )
    sizes = (channels, *image, *grid, wide, *problem.stride, *problem.dilation, none, left, pitch)
    return _Plan(rows, columns, np.array(sizes), phase * pitch + column)


def _lines(*arrays: np.ndarray | None) -> list[np.ndarray | None] | None:
    """Channels-last arrays as lines, if they all are that and a register of channels or more; None stays None."""
    found: list[np.ndarray | None] = []
    for a in arrays:
        if a is not None:
            turned = a.transpose(0, 2, 3, 1)
            if not turned.flags.c_contiguous:
                return None
            found.append(bits(turned.reshape(-1)))
        else:
            found.append(None)
    return found


def _spans(inputs: int, *arrays: np.ndarray | None) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """``places`` for the kernels of ``_numba_lines``, and the memory of the arrays: inputs, then outputs."""
    places, found = np.zeros((len(arrays), 5), np.int64), []
    for i, a in enumerate(arrays):
        line, places[i] = (None, 0) if a is None else span(a, i >= inputs)
        found.append(line)
    return places, found


def _wide(problem: Problem) -> bool:
    """Whether the channels fill a register."""
    return problem.shapes[0][1] * np.dtype(problem.compute).itemsize >= REGISTER


def _cost(taps: float, pixels: int, channels: int) -> float:
    """Nanoseconds along the channels, roughly."""
    return pixels * (5 + channels * (1 + taps) * 0.07)


def max_pool2d_forward(
    problem: Problem, x: np.ndarray, out: np.ndarray, indices: np.ndarray | None, threads: int
) -> None:
    """out = the largest element of each window, the first of equals; indices = its tap."""
    if out.size == 0:
        return
    n, c, oh, ow = out.shape
    rows, columns, sizes, offsets = _plan(problem, (oh, ow), False)
    taps = math.prod(problem.attr("kernel"))
    if _wide(problem) and (arrays := _lines(x, indices, out)):
        parallel(_max.forward, n * oh, threads, _cost(taps, n * oh * ow, c), rows, columns, sizes, *arrays)
        return
    places, arrays = _spans(1, x, indices, out)
    cost = n * c * oh * (100 + (1 + 0.1 * taps) * ow)
    parallel(_slow.max_forward, n * c * oh, threads, cost, rows, columns, sizes, offsets, places, *arrays)


@functools.lru_cache(512)
def _steps(problem: Problem) -> list[tuple[int, int]]:
    """im2col's steps, of rows and of columns."""
    return [steps(stride, dilation) for stride, dilation in zip(problem.stride, problem.dilation, strict=True)]


def max_pool2d_backward(
    problem: Problem, dout: np.ndarray, indices: np.ndarray, out: np.ndarray | None, dx: np.ndarray, threads: int
) -> None:
    """dx = the sum of dout over the windows that chose the element and, with ``out``, whose result is not <= 0."""
    if dx.size == 0:
        return
    (n, c, h, w), (oh, ow), kernel, stride = dx.shape, dout.shape[2:], problem.attr("kernel"), problem.stride
    rows, columns, sizes, offsets = _plan(problem, (oh, ow), True)
    covered = math.prod(kernel) / math.prod(stride)
    steps_h, steps_w = _steps(problem)
    if _wide(problem) and (arrays := _lines(dout, indices, out, dx)):
        cost = _cost(covered, n * h * w, c)
        undilated, taken = problem.dilation == (1, 1), dout.size > 0
        if kernel == stride and undilated and taken:
            rows, columns, sizes, _ = _plan(problem, (oh, ow), False)
            parallel(_max.spread, n * oh, threads, cost, rows, columns, sizes, *arrays)
        elif kernel == (3, 3) and stride == (2, 2) and undilated and taken:
            before = problem.pads[0], problem.pads[2]
            blocks = (h + before[0] + 1) // 2
            parallel(_max.backward_3x3, n * blocks, threads, cost, sizes, before, *arrays)
        else:
            parallel(_max.backward, n * h, threads, cost, rows, columns, sizes, steps_h, steps_w, *arrays)
        return
    places, arrays = _spans(3, dout, indices, out, dx)
    cost = n * c * h * (100 + (1 + 0.3 * covered) * w)
    parallel(_slow.max_backward, n * c * h, threads, cost, rows, sizes, steps_h, offsets, places, *arrays)


@functools.lru_cache(512)
def _counts(size: int, count: int, taps: int, stride: int, before: int, after: int, include: bool) -> np.ndarray:
    """How many taps of each window on an axis the divisor of its mean counts; 1 where none is on the image."""
    start = np.arange(count) * stride - before
    stop = np.minimum(start + taps, size + (after if include else 0))
    return np.maximum(1, stop - (start if include else np.maximum(start, 0)))


@functools.lru_cache(512)
def _divisors(problem: Problem, grid: tuple[int, int]) -> list[np.ndarray]:
    """The factors of the divisors: of each row and of each column of windows."""
    return [
        _counts(
            problem.shapes[0][2 + axis], grid[axis], problem.attr("kernel")[axis], problem.stride[axis],
            *problem.pads[2 * axis : 2 * axis + 2], bool(problem.attr("count_include_pad")),
        ).astype(problem.compute)
        for axis in (0, 1)
    ]  # fmt: skip


def avg_pool2d_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = the mean of each window."""
    if out.size == 0:
        return
    n, c, oh, ow = out.shape
    rows, columns, sizes, offsets = _plan(problem, (oh, ow), False)
    divisors, taps = _divisors(problem, (oh, ow)), math.prod(problem.attr("kernel"))
    if _wide(problem) and (arrays := _lines(x, out)):
        cost = _cost(taps, n * oh * ow, c)
        parallel(_avg_forward, n * oh, threads, cost, rows, columns, sizes, *divisors, *arrays)
        return
    places, arrays = _spans(1, x, out)
    cost = n * c * oh * (100 + (1 + 0.1 * taps) * ow)
    parallel(_slow.mean_forward, n * c * oh, threads, cost, rows, sizes, offsets, places, *divisors, *arrays)


def avg_pool2d_backward(problem: Problem, dout: np.ndarray, dx: np.ndarray, threads: int) -> None:
    """dx = the sum, over the windows that cover the element, of dout / divisor."""
    if dx.size == 0:
        return
    (n, c, h, w), (oh, ow) = dx.shape, dout.shape[2:]
    rows, columns, sizes, offsets = _plan(problem, (oh, ow), True)
    if dout.size == 0:
        dx[...] = 0
        return
    divisors, covered = _divisors(problem, (oh, ow)), math.prod(problem.attr("kernel")) / math.prod(problem.stride)
    if _wide(problem) and (arrays := _lines(dout, dx)):
        cost = _cost(covered, n * h * w, c)
        parallel(_avg_backward, n * h, threads, cost, rows, columns, sizes, *divisors, *arrays)
        return
    places, arrays = _spans(1, dout, dx)
    cost = n * c * h * (100 + (1 + 0.3 * covered) * w)
    parallel(_slow.mean_backward, n * c * h, threads, cost, rows, sizes, offsets, places, *divisors, *arrays)


def global_avg_pool2d_forward(problem: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out[n, c] = the mean of x[n, c] over H and W."""
    n, c, h, w = x.shape
    if out.size == 0:
        return
    pixels, to, divisor = bits(x).transpose(0, 2, 3, 1), bits(out)[:, :, 0, 0], compute_dtype(x).type(h * w)
    if c >= _CHANNELS and pixels.flags.c_contiguous and to.flags.c_contiguous:
        tasks = n * -(-c // _GROUP)
        parallel(_global_forward, tasks, threads, 0.05 * x.size, divisor, pixels.reshape(n, h * w, c), to)
    else:
        parallel(_global_forward_lines, n * c, threads, 1.0 * x.size, divisor, pixels, to)


def global_avg_pool2d_backward(problem: Problem, dout: np.ndarray, dx: np.ndarray, threads: int) -> None:
    """dx[n, c, h, w] = dout[n, c] / (H * W)."""
    n, c, h, w = dx.shape
    if dx.size == 0:
        return
    pixels, shares, divisor = bits(dx).transpose(0, 2, 3, 1), bits(dout)[:, :, 0, 0], compute_dtype(dx).type(h * w)
    if c >= _CHANNELS and pixels.flags.c_contiguous:
        parallel(_global_backward, n * h, threads, 0.05 * dx.size, divisor, shares, pixels)
    else:
        parallel(_global_backward_lines, n * c * h, threads, 0.5 * dx.size, divisor, shares, pixels)
