"""Kernels of pooling along the width, for any strides and for a few channels; see ``_numba.py``.

Tasks are rows of one channel. Arrays are the memory from their first to their last element, and ``places`` has for each
of them the start and the steps between images, channels, rows and pixels. Pixel q of a padded row is brought to column
q // stride of line q % stride of a buffer: each tap then meets all windows of the row beside each other, a register at
a time, and begins ``offsets[tap]`` elements into the buffer. The lines are ``sizes[12]`` elements apart, which leaves
room for a last register that reaches beyond the windows. ``sizes[11]`` is the padding on the left; for the others see
``_numba_max.py``.
"""

from __future__ import annotations

import numpy as np

from .._common.jit import borrowing, inline, kernel, narrow, widen, zero
from .._common.vectors import choose, every, every_word, lanes, load, load_words, store, store_words


@inline
def _start(place, task, rows, channels):
    """Where the channel of a task begins."""
    image, channel = divmod(task // rows, channels)
    return place[0] + image * place[1] + channel * place[2]


@borrowing
def _read(a, at, step, to):
    """to[i] = a[at + i * step]. Steps that LLVM knows become vector code."""
    if step == 1:
        near = a[at : at + to.size]
        for i in range(to.size):
            to[i] = widen(near[i])
    elif step == 2:
        near = a[at : at + 2 * to.size]
        for i in range(to.size):
            to[i] = widen(near[np.uintp(2 * i)])
    else:
        for i in range(to.size):
            to[i] = widen(a[np.uintp(at + i * step)])


@borrowing
def _write(values, out, at, step):
    """out[at + i * step] = values[i]."""
    if step == 1:
        near = out[at : at + values.size]
        for i in range(values.size):
            near[i] = narrow(values[i], out)
    else:
        for i in range(values.size):
            out[np.uintp(at + i * step)] = narrow(values[i], out)


@borrowing
def _read_words(a, at, step, to):
    for i in range(to.size):
        to[i] = a[np.uintp(at + i * step)]


@borrowing
def _write_words(values, out, at, step):
    for i in range(values.size):
        out[np.uintp(at + i * step)] = values[i]


@borrowing
def _spread(a, at, step, sizes, buffer):
    """A row of pixels to the lines of a buffer."""
    width, stride, left = sizes[2], sizes[7], sizes[11]
    for phase in range(min(stride, left + width)):
        k = max(0, (left - phase + stride - 1) // stride)
        w = phase + stride * k - left
        count = max(0, (width - w + stride - 1) // stride)
        start = phase * sizes[12] + k
        _read(a, at + w * step, stride * step, buffer[start : start + count])


@borrowing
def _collect(buffer, out, at, step, sizes):
    """The way back."""
    width, stride, left = sizes[2], sizes[7], sizes[11]
    for phase in range(min(stride, left + width)):
        k = max(0, (left - phase + stride - 1) // stride)
        w = phase + stride * k - left
        count = max(0, (width - w + stride - 1) // stride)
        start = phase * sizes[12] + k
        _write(buffer[start : start + count], out, at + w * step, stride * step)


@kernel
def max_forward(first, last, rows, columns, sizes, offsets, places, x, indices, out):
    """Padding is -inf, which beats nothing: a window where no tap did has seen nothing else."""
    count, taps_w, dilation, none, n = sizes[4], sizes[5], sizes[8], np.int32(sizes[10]), lanes(x)
    pitch = sizes[7] * sizes[12]
    buffer = np.full(max(1, rows[:, 2].max()) * pitch, zero(x) - np.inf, np.asarray(zero(x)).dtype)
    values, taps = np.full(count + n, zero(x)), np.full(count + n, none)
    for task in range(first, last):
        oh = task % len(rows)
        h, kh, high = rows[oh, 0], rows[oh, 1], rows[oh, 2]
        at = _start(places[0], task, len(rows), sizes[0]) + h * places[0, 3]
        for i in range(high):
            _spread(x, at + i * dilation * places[0, 3], places[0, 4], sizes, buffer[i * pitch : (i + 1) * pitch])
        for o in range(0, count, n):
            best, found = every(x, -np.inf), every_word(x, none)
            for i in range(high):
                for j in range(taps_w):
                    value = load(buffer, i * pitch + offsets[j] + o)
                    take = ~(value <= best) & (best == best)
                    best = choose(take, value, best)
                    found = choose(take, every_word(x, (kh + i) * taps_w + j), found)
            store(values, o, best)
            store_words(taps, o, found)
        _write(values[:count], out, _start(places[2], task, len(rows), sizes[0]) + oh * places[2, 3], places[2, 4])
        if indices is not None:
            for o in range(count):
                if taps[o] == none and high > 0 and columns[o, 2] > 0:
                    taps[o] = kh * taps_w + columns[o, 1]
            at = _start(places[1], task, len(rows), sizes[0]) + oh * places[1, 3]
            _write_words(taps[:count], indices, at, places[1, 4])


@kernel
def max_backward(first, last, rows, sizes, step_h, offsets, places, dout, indices, out, dx):
    """For one pixel, later taps belong to earlier windows."""
    count, taps_w, n = sizes[4], sizes[5], lanes(dx)
    total, values = np.full(sizes[7] * sizes[12], zero(dx)), np.full(count + n, zero(dx))
    results, taps = np.full(count + n, zero(dx)), np.full(count + n, np.int32(0))
    none = every(dx, 0.0)
    for task in range(first, last):
        h = task % len(rows)
        oh, kh, high = rows[h, 0], rows[h, 1], rows[h, 2]
        total[:] = zero(dx)
        for i in range(high):
            row = oh + i * step_h[0]
            at = _start(places[0], task, len(rows), sizes[0]) + row * places[0, 3]
            _read(dout, at, places[0, 4], values[:count])
            at = _start(places[1], task, len(rows), sizes[0]) + row * places[1, 3]
            _read_words(indices, at, places[1, 4], taps[:count])
            if out is not None:
                at = _start(places[2], task, len(rows), sizes[0]) + row * places[2, 3]
                _read(out, at, places[2, 4], results[:count])
                for o in range(0, count, n):
                    store(values, o, choose(load(results, o) <= none, none, load(values, o)))
                values[count:] = zero(dx)
            for j in range(taps_w - 1, -1, -1):
                tap = every_word(dx, (kh - i * step_h[1]) * taps_w + j)
                for o in range(0, count, n):
                    given = choose(load_words(dx, taps, o) == tap, load(values, o), none)
                    store(total, offsets[j] + o, load(total, offsets[j] + o) + given)
        at = _start(places[3], task, len(rows), sizes[0]) + h * places[3, 3]
        _collect(total, dx, at, places[3, 4], sizes)


@kernel
def mean_forward(first, last, rows, sizes, offsets, places, counts_h, counts_w, x, out):
    """Padding is 0, which changes no sum."""
    count, taps_w, n = sizes[4], sizes[5], lanes(x)
    pitch = sizes[7] * sizes[12]
    buffer, values = np.full(max(1, rows[:, 2].max()) * pitch, zero(x)), np.full(count + n, zero(x))
    divisors = np.full(count + n, counts_w[0])
    divisors[:count] = counts_w
    for task in range(first, last):
        oh = task % len(rows)
        h, high, counted = rows[oh, 0], rows[oh, 2], every(x, counts_h[oh])
        at = _start(places[0], task, len(rows), sizes[0]) + h * places[0, 3]
        for i in range(high):
            _spread(x, at + i * places[0, 3], places[0, 4], sizes, buffer[i * pitch : (i + 1) * pitch])
        for o in range(0, count, n):
            total = every(x, 0.0)
            for i in range(high):
                for j in range(taps_w):
                    total = total + load(buffer, i * pitch + offsets[j] + o)
            store(values, o, total / (counted * load(divisors, o)))
        _write(values[:count], out, _start(places[1], task, len(rows), sizes[0]) + oh * places[1, 3], places[1, 4])


@kernel
def mean_backward(first, last, rows, sizes, offsets, places, counts_h, counts_w, dout, dx):
    """For one pixel, later taps belong to earlier windows."""
    count, taps_w, n = sizes[4], sizes[5], lanes(dx)
    total, values = np.full(sizes[7] * sizes[12], zero(dx)), np.full(count + n, zero(dx))
    divisors = np.full(count + n, counts_w[0])
    divisors[:count] = counts_w
    for task in range(first, last):
        h = task % len(rows)
        oh, high = rows[h, 0], rows[h, 2]
        total[:] = zero(dx)
        for row in range(oh, oh + high):
            at = _start(places[0], task, len(rows), sizes[0]) + row * places[0, 3]
            _read(dout, at, places[0, 4], values[:count])
            values[count:] = zero(dx)
            for o in range(0, count, n):
                store(values, o, load(values, o) / (every(dx, counts_h[row]) * load(divisors, o)))
            for j in range(taps_w - 1, -1, -1):
                for o in range(0, count, n):
                    store(total, offsets[j] + o, load(total, offsets[j] + o) + load(values, o))
        at = _start(places[1], task, len(rows), sizes[0]) + h * places[1, 3]
        _collect(total, dx, at, places[1, 4], sizes)
