"""Pooling in Numba; the contract is the folder's docstring.

Kernels see channels-last views, (N, H, W, C). Where these are contiguous, loops run over the channels of a pixel, which
LLVM makes vector code; else over the windows or pixels of a channel, one by one. There are no slices in there, whose
references would be counted. Indices are unsigned where it matters: Numba asks signed ones whether they are negative.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from .._common.jit import bits, compute_dtype, inline, kernel, narrow, widen, zero
from .._common.tasks import parallel
from ..im2col._numba import covers, steps, windows
from ..problem import Problem

#: From here on a run of channels is longer than what it costs to begin one.
_CHANNELS = 8
#: Pixels in one block of a global mean, and channels whose global means are made together.
_BLOCK, _GROUP = 128, 256


@inline
def _wins(value, best):
    """Larger, or NaN after a number."""
    return (best == best) & (not (value <= best))


@inline
def _at(a, n, h, w, c):
    """An element in the compute dtype."""
    return widen(a[np.uintp(n), np.uintp(h), np.uintp(w), np.uintp(c)])


# ---- the maximum ----------------------------------------------------------------------------------------------------


@inline
def _larger(x, p, c, tap, best, where):
    """The better one of ``best`` at tap ``where`` and of pixel p at ``tap``."""
    value = x[np.uintp(p), c]
    if _wins(widen(value), widen(best)):
        return value, tap
    return best, where


@kernel
def _max_forward(first, last, rows, columns, taps_w, dilation, size, lowest, none, x, indices, out):
    """Tasks are rows of windows, all channels. Three taps of a row at once: beyond the last one, that one again."""
    numbers = np.full(taps_w * (rows[:, 1] + rows[:, 2]).max(), none)
    for k in range(numbers.size):
        numbers[k] = k
    for task in range(first, last):
        n, oh = task // len(rows), task % len(rows)
        h, kh, high = rows[oh, 0], rows[oh, 1], rows[oh, 2]
        for ow in range(len(columns)):
            w, kw, wide = columns[ow, 0], columns[ow, 1], columns[ow, 2]
            to, p, k = task * len(columns) + ow, (n * size[0] + h) * size[1] + w, kh * taps_w + kw
            if high == 0 or wide == 0:
                for c in range(out.shape[1]):
                    out[to, c] = narrow(lowest, out)
                    if indices is not None:
                        indices[to, c] = none
                continue
            if high == 2 and wide == 2:
                p1, p2, p3 = p + dilation[1], p + dilation[0] * size[1], p + dilation[0] * size[1] + dilation[1]
                t0, t1, t2, t3 = numbers[k], numbers[k + 1], numbers[k + taps_w], numbers[k + taps_w + 1]
                for c in range(out.shape[1]):
                    value, tap = _larger(x, p1, c, t1, x[np.uintp(p), c], t0)
                    value, tap = _larger(x, p2, c, t2, value, tap)
                    value, tap = _larger(x, p3, c, t3, value, tap)
                    out[to, c] = value
                    if indices is not None:
                        indices[to, c] = tap
                continue
            for i in range(high):
                for j in range(0, wide, 3):
                    j1, j2 = min(j + 1, wide - 1), min(j + 2, wide - 1)
                    p0, p1, p2 = p + j * dilation[1], p + j1 * dilation[1], p + j2 * dilation[1]
                    t0, t1, t2 = numbers[k + j], numbers[k + j1], numbers[k + j2]
                    if i + j == 0:
                        for c in range(out.shape[1]):
                            value, tap = _larger(x, p1, c, t1, x[np.uintp(p0), c], t0)
                            value, tap = _larger(x, p2, c, t2, value, tap)
                            out[to, c] = value
                            if indices is not None:
                                indices[to, c] = tap
                        continue
                    for c in range(out.shape[1]):
                        value, tap = out[to, c], none
                        if indices is not None:
                            tap = indices[to, c]
                        value, tap = _larger(x, p0, c, t0, value, tap)
                        value, tap = _larger(x, p1, c, t1, value, tap)
                        value, tap = _larger(x, p2, c, t2, value, tap)
                        out[to, c] = value
                        if indices is not None:
                            indices[to, c] = tap
                p, k = p + dilation[0] * size[1], k + taps_w


@kernel
def _max_forward_lines(first, last, rows, columns, taps_w, dilation, size, lowest, none, x, indices, out):
    """Tasks are rows of windows of one channel."""
    for task in range(first, last):
        plane, oh = divmod(task, len(rows))
        n, c = divmod(plane, x.shape[3])
        h, kh, high = rows[oh]
        for ow in range(len(columns)):
            w, kw, wide = columns[ow]
            best, where = lowest, none
            for i in range(high):
                for j in range(wide):
                    value = _at(x, n, h + i * dilation[0], w + j * dilation[1], c)
                    if where == none or _wins(value, best):
                        best, where = value, (kh + i) * taps_w + kw + j
            out[n, oh, ow, c] = narrow(best, out)
            if indices is not None:
                indices[n, oh, ow, c] = where


@inline
def _share(dout, indices, out, p, c, tap, nothing):
    """What window p hands to the pixel under ``tap``."""
    value = widen(dout[p, c])
    if out is not None:
        value = nothing if widen(out[p, c]) <= nothing else value
    return value if indices[p, c] == tap else nothing


@kernel
def _max_backward(first, last, rows, columns, taps_w, step_h, step_w, grid, none, dout, indices, out, dx):
    """Tasks are rows of pixels, all channels: up to four windows at once. Those that fill up are asked for no tap."""
    most = rows[:, 2].max() * columns[:, 2].max() + 4
    p, t = np.zeros(most, np.intp), np.full(most, none)  # the windows over a pixel, and their taps on it
    nothing, total = zero(dx), np.full(dx.shape[1], zero(dx))
    for task in range(first, last):
        n, h = task // len(rows), task % len(rows)
        oh, kh, high = rows[h, 0], rows[h, 1], rows[h, 2]
        done = 0
        for w in range(len(columns)):
            ow, kw, wide = columns[w, 0], columns[w, 1], columns[w, 2]
            count, to = high * wide, task * len(columns) + w
            if w < done:
                continue
            if count == 0:
                for c in range(dx.shape[1]):
                    dx[to, c] = narrow(nothing, dx)
                continue
            p0, t[0] = (n * grid[0] + oh) * grid[1] + ow, kh * taps_w + kw
            t0 = t[0]
            if count == 1 and w + 1 < len(columns) and columns[w + 1, 0] == ow and columns[w + 1, 2] == 1:
                done, t[1] = w + 2, kh * taps_w + columns[w + 1, 1]  # the next pixel is under the same window
                t1 = t[1]
                for c in range(dx.shape[1]):
                    dx[to, c] = narrow(nothing + _share(dout, indices, out, p0, c, t0, nothing), dx)
                    dx[to + 1, c] = narrow(nothing + _share(dout, indices, out, p0, c, t1, nothing), dx)
                continue
            if count == 1:
                for c in range(dx.shape[1]):
                    dx[to, c] = narrow(nothing + _share(dout, indices, out, p0, c, t0, nothing), dx)
                continue
            k = 0
            for i in range(high):
                for j in range(wide):
                    p[k] = (n * grid[0] + oh + i * step_h[0]) * grid[1] + ow + j * step_w[0]
                    t[k] = (kh - i * step_h[1]) * taps_w + kw - j * step_w[1]
                    k += 1
            for k in range(count, count + 3):
                p[k], t[k] = p[0], none
            p1, p2, p3, t1, t2, t3 = p[1], p[2], p[3], t[1], t[2], t[3]
            if count == 2:
                for c in range(dx.shape[1]):
                    sum0 = nothing + _share(dout, indices, out, p0, c, t0, nothing)
                    dx[to, c] = narrow(sum0 + _share(dout, indices, out, p1, c, t1, nothing), dx)
            elif count <= 4:
                for c in range(dx.shape[1]):
                    sum0 = nothing + _share(dout, indices, out, p0, c, t0, nothing)
                    sum0 += _share(dout, indices, out, p1, c, t1, nothing)
                    sum0 += _share(dout, indices, out, p2, c, t2, nothing)
                    dx[to, c] = narrow(sum0 + _share(dout, indices, out, p3, c, t3, nothing), dx)
            else:
                for c in range(total.size):
                    total[c] = nothing
                for k in range(0, count, 3):
                    p0, p1, p2, t0, t1, t2 = p[k], p[k + 1], p[k + 2], t[k], t[k + 1], t[k + 2]
                    for c in range(total.size):
                        sum0 = total[c] + _share(dout, indices, out, p0, c, t0, nothing)
                        sum0 += _share(dout, indices, out, p1, c, t1, nothing)
                        total[c] = sum0 + _share(dout, indices, out, p2, c, t2, nothing)
                for c in range(dx.shape[1]):
                    dx[to, c] = narrow(total[c], dx)


@kernel
def _max_backward_lines(first, last, rows, columns, taps_w, step_h, step_w, grid, none, dout, indices, out, dx):
    """Tasks are rows of pixels of one channel."""
    for task in range(first, last):
        plane, h = divmod(task, len(rows))
        n, c = divmod(plane, dx.shape[3])
        oh, kh, high = rows[h]
        for w in range(len(columns)):
            ow, kw, wide = columns[w]
            total = zero(dx)
            for i in range(high):
                for j in range(wide):
                    at_h, at_w = oh + i * step_h[0], ow + j * step_w[0]
                    counts = (
                        indices[np.uintp(n), np.uintp(at_h), np.uintp(at_w), np.uintp(c)]
                        == (kh - i * step_h[1]) * taps_w + kw - j * step_w[1]
                    )
                    if out is not None:
                        counts = counts and not (_at(out, n, at_h, at_w, c) <= zero(dx))
                    if counts:
                        total += _at(dout, n, at_h, at_w, c)
            dx[n, h, w, c] = narrow(total, dx)


# ---- the mean -------------------------------------------------------------------------------------------------------


@kernel
def _avg_forward(first, last, rows, columns, size, counts_h, counts_w, x, out):
    """Tasks are rows of windows, all channels, a few taps at once."""
    total, none = np.full(out.shape[1], zero(out)), zero(out)
    for task in range(first, last):
        n, oh = task // len(rows), task % len(rows)
        h, high = rows[oh, 0], rows[oh, 2]
        for ow in range(len(columns)):
            w, wide = columns[ow, 0], columns[ow, 2]
            to, divisor = task * len(columns) + ow, counts_h[oh] * counts_w[ow]
            if high == 2 and wide == 2:
                p0 = (n * size[0] + h) * size[1] + w
                p1, p2, p3 = p0 + 1, p0 + size[1], p0 + size[1] + 1
                for c in range(out.shape[1]):
                    some = ((none + widen(x[p0, c])) + widen(x[p1, c])) + widen(x[p2, c])
                    out[to, c] = narrow((some + widen(x[p3, c])) / divisor, out)
                continue
            for c in range(total.size):
                total[c] = none
            for i in range(high):
                p = (n * size[0] + h + i) * size[1] + w
                for p0 in range(p, p + wide - wide % 3, 3):
                    for c in range(total.size):
                        total[c] = ((total[c] + widen(x[p0, c])) + widen(x[p0 + 1, c])) + widen(x[p0 + 2, c])
                for p0 in range(p + wide - wide % 3, p + wide):
                    for c in range(total.size):
                        total[c] += widen(x[p0, c])
            for c in range(out.shape[1]):
                out[to, c] = narrow(total[c] / divisor, out)


@kernel
def _avg_forward_lines(first, last, rows, columns, size, counts_h, counts_w, x, out):
    """Tasks are rows of windows of one channel."""
    for task in range(first, last):
        plane, oh = divmod(task, len(rows))
        n, c = divmod(plane, x.shape[3])
        h, _, high = rows[oh]
        for ow in range(len(columns)):
            w, _, wide = columns[ow]
            total = zero(out)
            for i in range(high):
                for j in range(wide):
                    total += _at(x, n, h + i, w + j, c)
            out[n, oh, ow, c] = narrow(total / (counts_h[oh] * counts_w[ow]), out)


@kernel
def _avg_backward(first, last, rows, columns, grid, counts_h, counts_w, dout, dx):
    """Tasks are rows of pixels, all channels."""
    total = np.full(dx.shape[1], zero(dx))
    for task in range(first, last):
        n, h = task // len(rows), task % len(rows)
        oh, high = rows[h, 0], rows[h, 2]
        for w in range(len(columns)):
            ow, wide, to = columns[w, 0], columns[w, 2], task * len(columns) + w
            if w > 0 and ow == columns[w - 1, 0] and wide == columns[w - 1, 2]:  # the same windows: the same sums
                for c in range(dx.shape[1]):
                    dx[to, c] = dx[to - 1, c]
                continue
            for c in range(total.size):
                total[c] = zero(dx)
            for i in range(high):
                for j in range(wide):
                    p, divisor = (n * grid[0] + oh + i) * grid[1] + ow + j, counts_h[oh + i] * counts_w[ow + j]
                    for c in range(total.size):
                        total[c] += widen(dout[p, c]) / divisor
            for c in range(dx.shape[1]):
                dx[to, c] = narrow(total[c], dx)


@kernel
def _avg_backward_lines(first, last, rows, columns, grid, counts_h, counts_w, dout, dx):
    """Tasks are rows of pixels of one channel."""
    for task in range(first, last):
        plane, h = divmod(task, len(rows))
        n, c = divmod(plane, dx.shape[3])
        oh, _, high = rows[h]
        for w in range(len(columns)):
            ow, _, wide = columns[w]
            total = zero(dx)
            for i in range(high):
                for j in range(wide):
                    total += _at(dout, n, oh + i, ow + j, c) / (counts_h[oh + i] * counts_w[ow + j])
            dx[n, h, w, c] = narrow(total, dx)


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


def _run(
    channels: Callable[..., None],
    lines: Callable[..., None],
    rows: int,
    threads: int,
    nanoseconds: float,
    arguments: tuple[object, ...],
    *arrays: np.ndarray | None,
) -> None:
    """The kernel for contiguous channels or the one for any strides, on ``rows`` rows of each image."""
    views = [None if a is None else bits(a).transpose(0, 2, 3, 1) for a in arrays]
    out = views[-1]
    assert out is not None  # the inputs may be
    n, _, _, c = out.shape
    if c >= _CHANNELS and all(a is None or a.flags.c_contiguous for a in views):
        flat = [None if a is None else a.reshape(-1, c) for a in views]
        parallel(channels, n * rows, threads, 0.05 * nanoseconds, *arguments, *flat)
    else:
        parallel(lines, n * c * rows, threads, nanoseconds, *arguments, *views)


def _axes(problem: Problem, table: Callable[..., np.ndarray], grid: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """``table`` (windows or covers) of both axes of the image."""
    rows, columns = (
        table(size, count, taps, stride, before, dilation)
        for size, count, taps, stride, before, dilation in zip(
            problem.shapes[0][2:], grid, problem.attr("kernel"), problem.stride, problem.pads[::2], problem.dilation,
            strict=True,
        )
    )  # fmt: skip
    return rows, columns


def _none(indices: np.ndarray | None) -> np.integer:
    """The index that names no tap, in the dtype of ``indices``."""
    kind = np.dtype(np.int32) if indices is None else indices.dtype
    return kind.type(np.iinfo(kind).max)


def max_pool2d_forward(
    problem: Problem, x: np.ndarray, out: np.ndarray, indices: np.ndarray | None, threads: int
) -> None:
    """out = the largest element of each window, the first of equals; indices = its tap."""
    if out.size == 0:
        return
    kh, kw = problem.attr("kernel")
    rows, columns = _axes(problem, windows, out.shape[2:])
    lowest = compute_dtype(out).type(-math.inf)
    none = _none(indices)
    _run(
        _max_forward, _max_forward_lines, len(rows), threads, (1.0 + kh * kw) * out.size,
        (rows, columns, kw, problem.dilation, x.shape[2:], lowest, none), x, indices, out,
    )  # fmt: skip


def max_pool2d_backward(
    problem: Problem, dout: np.ndarray, indices: np.ndarray, out: np.ndarray | None, dx: np.ndarray, threads: int
) -> None:
    """dx = the sum of dout over the windows that chose the element and, with ``out``, whose result is not <= 0."""
    if dx.size == 0:
        return
    kh, kw = problem.attr("kernel")
    rows, columns = _axes(problem, covers, dout.shape[2:])
    step_h, step_w = (
        steps(stride, dilation) for stride, dilation in zip(problem.stride, problem.dilation, strict=True)
    )
    _run(
        _max_backward, _max_backward_lines, len(rows), threads, dx.size + 1.0 * kh * kw * dout.size,
        (rows, columns, kw, step_h, step_w, dout.shape[2:], _none(indices)), dout, indices, out, dx,
    )  # fmt: skip


@functools.lru_cache(512)
def _counts(size: int, count: int, taps: int, stride: int, before: int, after: int, include: bool) -> np.ndarray:
    """How many taps of each window on an axis the divisor of its mean counts; 1 where none is on the image."""
    start = np.arange(count) * stride - before
    stop = np.minimum(start + taps, size + (after if include else 0))
    return np.maximum(1, stop - (start if include else np.maximum(start, 0)))


def _divisors(problem: Problem, grid: tuple[int, ...]) -> list[np.ndarray]:
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
    kh, kw = problem.attr("kernel")
    rows, columns = _axes(problem, windows, out.shape[2:])
    _run(
        _avg_forward, _avg_forward_lines, len(rows), threads, (1.0 + kh * kw) * out.size,
        (rows, columns, x.shape[2:], *_divisors(problem, out.shape[2:])), x, out,
    )  # fmt: skip


def avg_pool2d_backward(problem: Problem, dout: np.ndarray, dx: np.ndarray, threads: int) -> None:
    """dx = the sum, over the windows that cover the element, of dout / divisor."""
    if dx.size == 0:
        return
    kh, kw = problem.attr("kernel")
    rows, columns = _axes(problem, covers, dout.shape[2:])
    _run(
        _avg_backward, _avg_backward_lines, len(rows), threads, dx.size + 1.0 * kh * kw * dout.size,
        (rows, columns, dout.shape[2:], *_divisors(problem, dout.shape[2:])), dout, dx,
    )  # fmt: skip


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
