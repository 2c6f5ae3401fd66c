"""Kernels of max pooling, along the channels; see ``_numba.py``.

The channels of a pixel are beside each other, arrays come as lines, and the state of a window or pixel is a register of
channels, as in max_pool.h and max_pool_3x3.h. The last register of a pixel overlaps the one before it.

``sizes`` are C, H, W, OH, OW, then kernel width, strides, dilations and the index that names no tap.
"""

from __future__ import annotations

import numpy as np

from .._common.jit import inline, kernel, narrow, zero
from .._common.vectors import choose, every, every_word, fetch, lanes, load, load_words, store, store_words


@inline
def _later(best, tap, value, other):
    """The better one of ``best`` and a later ``value``, which is larger or NaN after a number; and its tap."""
    take = ~(value <= best) & (best == best)
    return choose(take, value, best), choose(take, other, tap)


@kernel
def forward(first, last, rows, columns, sizes, x, indices, out):
    """Tasks are rows of windows. Small windows have three taps a row, or two: beyond the last one, that one again.

    (It is never larger than the largest so far, so it changes nothing.) Rows of a window are compared independently of
    each other, while what the next row of windows needs is fetched.
    """
    channels, height, width, taps_w = sizes[0], sizes[1], sizes[2], sizes[5]
    right = sizes[9] * channels
    down, below = sizes[8] * width * channels, width * channels
    fetch_columns, n = min(sizes[7], 3), lanes(x)
    for task in range(first, last):
        image, oh = divmod(task, len(rows))
        h, kh, high = rows[oh, 0], rows[oh, 1], rows[oh, 2]
        reach = h + (high - 1) * sizes[8] + 1
        fetch_rows = min(sizes[6], height - reach)
        for ow in range(len(columns)):
            w, kw, wide = columns[ow, 0], columns[ow, 1], columns[ow, 2]
            to, at = (task * len(columns) + ow) * channels, ((image * height + h) * width + w) * channels
            tap, ahead = kh * taps_w + kw, ((image * height + reach) * width + w) * channels
            if high == 0 or wide == 0:
                for c0 in range(0, channels, n):
                    c = min(c0, channels - n)
                    store(out, to + c, every(out, -np.inf))
                    if indices is not None:
                        store_words(indices, to + c, every_word(x, sizes[10]))
            elif high <= 2 and wide <= 2:
                r, c1 = at + (high - 1) * down, (wide - 1) * right
                t1, t2 = every_word(x, tap + wide - 1), every_word(x, tap + (high - 1) * taps_w)
                t0, t3 = every_word(x, tap), every_word(x, tap + (high - 1) * taps_w + wide - 1)
                for c0 in range(0, channels, n):
                    c = min(c0, channels - n)
                    best, found = _later(load(x, at + c), t0, load(x, at + c1 + c), t1)
                    other, second = _later(load(x, r + c), t2, load(x, r + c1 + c), t3)
                    best, found = _later(best, found, other, second)
                    store(out, to + c, best)
                    if indices is not None:
                        store_words(indices, to + c, found)
            elif high <= 3 and wide <= 3:
                j, i1, i2 = min(1, wide - 1), min(1, high - 1), high - 1
                r1, r2, c1, c2 = at + i1 * down, at + i2 * down, j * right, (wide - 1) * right
                zeros, t1, t2 = every_word(x, tap), every_word(x, tap + j), every_word(x, tap + wide - 1)
                step1, step2 = every_word(x, i1 * taps_w), every_word(x, i2 * taps_w)
                for c0 in range(0, channels, n):
                    c = min(c0, channels - n)
                    best, found = _later(load(x, at + c), zeros, load(x, at + c1 + c), t1)
                    best1, found1 = _later(load(x, r1 + c), zeros, load(x, r1 + c1 + c), t1)
                    best2, found2 = _later(load(x, r2 + c), zeros, load(x, r2 + c1 + c), t1)
                    best, found = _later(best, found, load(x, at + c2 + c), t2)
                    best1, found1 = _later(best1, found1, load(x, r1 + c2 + c), t2)
                    best2, found2 = _later(best2, found2, load(x, r2 + c2 + c), t2)
                    best, found = _later(best, found, best1, found1 + step1)
                    best, found = _later(best, found, best2, found2 + step2)
                    store(out, to + c, best)
                    if indices is not None:
                        store_words(indices, to + c, found)
                for i in range(fetch_rows):
                    for c in range(0, fetch_columns * channels, n):
                        fetch(x, ahead + i * below + c)
            else:
                for c0 in range(0, channels, n):
                    c = min(c0, channels - n)
                    best, found = load(x, at + c), every_word(x, tap)
                    for i in range(high):
                        for j in range(wide):
                            value = load(x, at + i * down + j * right + c)
                            best, found = _later(best, found, value, every_word(x, tap + i * taps_w + j))
                    store(out, to + c, best)
                    if indices is not None:
                        store_words(indices, to + c, found)


@inline
def _value(dout, out, at):
    """What a window has to give, 0 where its result is <= 0."""
    value = load(dout, at)
    if out is not None:
        none = every(dout, 0.0)
        value = choose(load(out, at) <= none, none, value)
    return value


@inline
def _given(value, found, tap, none):
    """What it gives to the pixel under ``tap``."""
    return choose(found == tap, value, none)


@inline
def _tap(dout, indices, out, at, tap, none):
    """The same for a window that only this pixel asks."""
    return _given(_value(dout, out, at), load_words(dout, indices, at), tap, none)


@kernel
def backward(first, last, rows, columns, sizes, step_h, step_w, dout, indices, out, dx):
    """Tasks are rows of pixels: each adds up what the windows over it give."""
    channels, grid_h, grid_w, taps_w, n = sizes[0], sizes[3], sizes[4], sizes[5], lanes(dx)
    most = max(1, rows[:, 2].max() * columns[:, 2].max())
    at, taps = np.zeros(most, np.intp), np.zeros(most, np.intp)  # the windows over a pixel, and their taps on it
    for task in range(first, last):
        image, h = divmod(task, len(rows))
        oh, kh, high = rows[h, 0], rows[h, 1], rows[h, 2]
        for w in range(len(columns)):
            ow, kw, wide = columns[w, 0], columns[w, 1], columns[w, 2]
            k, to = 0, (task * len(columns) + w) * channels
            for i in range(high):
                for j in range(wide):
                    at[k] = ((image * grid_h + oh + i * step_h[0]) * grid_w + ow + j * step_w[0]) * channels
                    taps[k] = (kh - i * step_h[1]) * taps_w + kw - j * step_w[1]
                    k += 1
            none = every(dx, 0.0)
            if k == 9:  # 3x3 with stride 1: a third faster than the loop
                p0, p1, p2, p3, p4, p5, p6, p7, p8 = at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7], at[8]
                t0, t1, t2 = every_word(dx, taps[0]), every_word(dx, taps[1]), every_word(dx, taps[2])
                t3, t4, t5 = every_word(dx, taps[3]), every_word(dx, taps[4]), every_word(dx, taps[5])
                t6, t7, t8 = every_word(dx, taps[6]), every_word(dx, taps[7]), every_word(dx, taps[8])
                for c0 in range(0, channels, n):
                    c = min(c0, channels - n)
                    total = none + _tap(dout, indices, out, p0 + c, t0, none)
                    total = total + _tap(dout, indices, out, p1 + c, t1, none)
                    total = total + _tap(dout, indices, out, p2 + c, t2, none)
                    total = total + _tap(dout, indices, out, p3 + c, t3, none)
                    total = total + _tap(dout, indices, out, p4 + c, t4, none)
                    total = total + _tap(dout, indices, out, p5 + c, t5, none)
                    total = total + _tap(dout, indices, out, p6 + c, t6, none)
                    total = total + _tap(dout, indices, out, p7 + c, t7, none)
                    total = total + _tap(dout, indices, out, p8 + c, t8, none)
                    store(dx, to + c, total)
                ahead = ((image * grid_h + min(oh + 3, grid_h - 1)) * grid_w + ow + 2) * channels
                for c in range(0, channels, n):
                    fetch(dout, ahead + c)
                for c in range(0, channels, 64):
                    fetch(indices, ahead + c)
                continue
            for c0 in range(0, channels, n):
                c = min(c0, channels - n)
                total = none
                for i in range(k):
                    tap = every_word(dx, taps[np.uintp(i)])
                    total = total + _tap(dout, indices, out, at[np.uintp(i)] + c, tap, none)
                store(dx, to + c, total)


@kernel
def spread(first, last, rows, columns, sizes, dout, indices, out, dx):
    """Windows that do not overlap give to the pixels under them. Tasks are rows of windows.

    The last row and the last windows of each row also write the pixels behind them.
    """
    channels, height, width, taps_w, n = sizes[0], sizes[1], sizes[2], sizes[5], lanes(dx)
    below = width * channels
    none = every(dx, 0.0)
    for task in range(first, last):
        image, oh = divmod(task, len(rows))
        h, kh, high = rows[oh, 0], rows[oh, 1], rows[oh, 2]
        end = 0
        for ow in range(len(columns)):
            w, kw, wide = columns[ow, 0], columns[ow, 1], columns[ow, 2]
            p, to = (task * len(columns) + ow) * channels, ((image * height + h) * width + w) * channels
            tap, end = kh * taps_w + kw, max(end, w + wide)
            if high == 2 and wide == 2:
                t0, t1 = every_word(dx, tap), every_word(dx, tap + 1)
                t2, t3 = every_word(dx, tap + taps_w), every_word(dx, tap + taps_w + 1)
                for c0 in range(0, channels, n):
                    c = min(c0, channels - n)
                    value, found = none + _value(dout, out, p + c), load_words(dx, indices, p + c)
                    store(dx, to + c, _given(value, found, t0, none))
                    store(dx, to + channels + c, _given(value, found, t1, none))
                    store(dx, to + below + c, _given(value, found, t2, none))
                    store(dx, to + below + channels + c, _given(value, found, t3, none))
                continue
            for c0 in range(0, channels, n):
                c = min(c0, channels - n)
                value, found = none + _value(dout, out, p + c), load_words(dx, indices, p + c)
                for i in range(high):
                    for j in range(wide):
                        given = _given(value, found, every_word(dx, tap + i * taps_w + j), none)
                        store(dx, to + i * below + j * channels + c, given)
        stop = height if oh == len(rows) - 1 else h + high
        for i in range(h, stop):
            start = ((image * height + i) * width + (end if i < h + high else 0)) * channels
            for p in range(start, ((image * height + i) * width + width) * channels):
                dx[np.uintp(p)] = narrow(zero(dx), dx)


@kernel
def backward_3x3(first, last, sizes, before, dout, indices, out, dx):
    """Windows of 3x3 with stride 2. Tasks are rows of blocks of 2x2 pixels, which lie under the same four windows.

    A window that does not exist takes the place of its nearest neighbour, and a tap that no index names.
    """
    channels, height, width, grid_h, grid_w = sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]
    n, below, none = lanes(dx), width * channels, every(dx, 0.0)
    blocks = (height + before[0] + 1) // 2
    for task in range(first, last):
        image, b = divmod(task, blocks)
        h = 2 * b - before[0]
        top, bottom = h >= 0, 0 <= h + 1 < height
        near, far = max(0, min(b, grid_h - 1)), max(0, min(b - 1, grid_h - 1))
        line0, line1 = (image * grid_h + near) * grid_w, (image * grid_h + far) * grid_w
        ahead = (image * grid_h + min(b + 1, grid_h - 1)) * grid_w
        row0, row2 = -100 * (near != b), 6 - 100 * (far != b - 1)
        for column in range(before[1] // 2, (width + before[1] + 1) // 2):
            w = 2 * column - before[1]
            here, there = max(0, min(column, grid_w - 1)), max(0, min(column - 1, grid_w - 1))
            left, right = w >= 0, 0 <= w + 1 < width
            col0, col2 = -100 * (here != column), 2 - 100 * (there != column - 1)
            p00, p01 = (line0 + here) * channels, (line0 + there) * channels
            p10, p11 = (line1 + here) * channels, (line1 + there) * channels
            t0, t1, t2 = every_word(dx, row0 + col0), every_word(dx, row0 + col0 + 1), every_word(dx, row0 + col2)
            t3, t4, t5 = (
                every_word(dx, row0 + col0 + 3),
                every_word(dx, row0 + col0 + 4),
                every_word(dx, row0 + col2 + 3),
            )
            t6, t7, t8 = every_word(dx, row2 + col0), every_word(dx, row2 + col0 + 1), every_word(dx, row2 + col2)
            to, below_this = ((image * height + h) * width + w) * channels, (ahead + here) * channels
            for c0 in range(0, channels, n):
                c = min(c0, channels - n)
                fetch(dout, below_this + c)
                fetch(indices, below_this + c)
                v11, i11 = _value(dout, out, p11 + c), load_words(dx, indices, p11 + c)
                v10, i10 = _value(dout, out, p10 + c), load_words(dx, indices, p10 + c)
                v01, i01 = _value(dout, out, p01 + c), load_words(dx, indices, p01 + c)
                v00, i00 = _value(dout, out, p00 + c), load_words(dx, indices, p00 + c)
                if top and left:
                    total = none + _given(v11, i11, t8, none) + _given(v10, i10, t6, none)
                    store(dx, to + c, total + _given(v01, i01, t2, none) + _given(v00, i00, t0, none))
                if top and right:
                    store(dx, to + channels + c, none + _given(v10, i10, t7, none) + _given(v00, i00, t1, none))
                if bottom and left:
                    store(dx, to + below + c, none + _given(v01, i01, t5, none) + _given(v00, i00, t3, none))
                if bottom and right:
                    store(dx, to + below + channels + c, none + _given(v00, i00, t4, none))
