"""Kernels of batch_norm for rows, the channels of which are beside each other: x is (rows, channels) as a line.

A block has up to 16 panels of 8 rows. Panel p has rows 8 p, 8 p + 1, ..., but with few channels p, p + panels, ...:
then all panels of a block are one loop. Registers as in batch_norm_sums.h.
"""

from __future__ import annotations

import numpy as np

from .._common.jit import inline, kernel, narrow, widen, zero
from .._common.vectors import AHEAD, choose, every, fence, fetch, lanes, load, scratch, store, stream
from .plan import BLOCK

PANEL = 8
PANELS = BLOCK // PANEL
#: Rows that keep their order where a map goes backwards.
TURN = 256
#: Channels, at most, of rows whose panels are summed at once.
TOGETHER = 32

# ---- sums of a panel, joined in float64 -----------------------------------------------------------------------------


@inline
def tree(a, b, c, d, e, f, g, h):
    return ((a + b) + (c + d)) + ((e + f) + (g + h))


@inline
def products(none, a, b, c, d, p, q, r, s):
    """From ``none``, 0, on: two products in one addition could be contracted in two ways.

    Squares are never -0, so LLVM would drop a 0 that it knows: theirs is an argument of the kernel.
    """
    return none + a * p + b * q + c * r + d * s


@inline
def merge(before, rows, more, more_square, total, square):
    """Sums and centred squares of ``before`` rows and of ``rows`` more (Chan, Golub and LeVeque 1979), by channel."""
    share, by, weight = rows / max(before, 1.0), 1 / rows, before * rows / (before + rows)
    if before == 0:
        for c in range(total.size):
            total[c], square[c] = more[c], more_square[c]
        return
    for c in range(total.size):
        delta = (more[c] - total[c] * share) * by
        square[c] += more_square[c] + delta * delta * weight
        total[c] += more[c]


@inline
def merge_block(before, rows, centre, d, dd, total, square):
    """The same with the sums of x - centre and of its square."""
    share, by, weight = rows / max(before, 1.0), 1 / rows, before * rows / (before + rows)
    for c in range(total.size):
        part = np.float64(d[c])
        rest = np.float64(dd[c]) - part * part * by
        more, more_square = np.float64(centre[c]) * rows + part, 0.0 if rest < 0 else rest
        if before > 0:
            delta = (more - total[c] * share) * by
            more_square += delta * delta * weight
        total[c] += more
        square[c] += more_square


# ---- sums of rows --------------------------------------------------------------------------------------------------


@inline
def _pad(x, at, step, count, channels, missing, pad):
    """``count`` rows from x[at] on, completed with rows of ``missing``."""
    for r in range(count):
        for c in range(channels):
            pad[np.uintp(r * channels + c)] = widen(x[np.uintp(at + r * step + c)])
    for r in range(count, pad.size // max(channels, 1)):
        for c in range(channels):
            pad[np.uintp(r * channels + c)] = missing[np.uintp(c)]


@inline
def indices(at, step):
    """Of a panel's rows; unsigned, since a signed index might count from the end."""
    return (
        np.uintp(at), np.uintp(at + step), np.uintp(at + 2 * step), np.uintp(at + 3 * step),
        np.uintp(at + 4 * step), np.uintp(at + 5 * step), np.uintp(at + 6 * step), np.uintp(at + 7 * step),
    )  # fmt: skip


@inline
def _first_mean(x, at, step, count, channels, centre):
    """Mean of a block's first rows, at most 8; 0 where it is not finite: then the sums come out as IEEE 754 has it."""
    by, n = centre.dtype.type(count), lanes(x)
    for i in range(0, channels - n + 1, n):
        total = every(x, 0.0)
        for r in range(count):
            total = total + load(x, at + r * step + i)
        total = total / every(x, by)
        store(centre, i, choose(total - total == every(x, 0.0), total, every(x, 0.0)))
    for i in range(channels - channels % n, channels):
        total = zero(centre)
        for r in range(count):
            total += widen(x[np.uintp(at + r * step + i)])
        total /= by
        centre[np.uintp(i)] = total if total - total == 0 else zero(centre)


@inline
def _fetch_panel(x, at, step, i):
    """A part of the next panel for each that is read of this one, in the order of memory."""
    n, p = lanes(x), at + PANEL * (step + i)
    fetch(x, p), fetch(x, p + n), fetch(x, p + 2 * n), fetch(x, p + 3 * n)
    fetch(x, p + 4 * n), fetch(x, p + 5 * n), fetch(x, p + 6 * n), fetch(x, p + 7 * n)


@inline
def _panel_moments(x, at, step, channels, none, centre, total, square):
    """Adds the sums of x - centre and of its square over 8 rows ``step`` elements apart."""
    a, b, c, d, e, f, g, h = indices(at, step)
    n, nothing = lanes(x), every(x, none)
    for i in range(0, channels - n + 1, n):
        j, k = np.uintp(i), load(centre, i)
        p, q, r, s = load(x, a + j) - k, load(x, b + j) - k, load(x, c + j) - k, load(x, d + j) - k
        t, u, v, w = load(x, e + j) - k, load(x, f + j) - k, load(x, g + j) - k, load(x, h + j) - k
        _fetch_panel(x, at, step, i)
        store(total, i, load(total, i) + tree(p, q, r, s, t, u, v, w))
        squares = products(nothing, p, q, r, s, p, q, r, s) + products(nothing, t, u, v, w, t, u, v, w)
        store(square, i, load(square, i) + squares)
    for i in range(channels - channels % n, channels):
        j = np.uintp(i)
        m = centre[j]
        p1, q1, r1, s1 = widen(x[a + j]) - m, widen(x[b + j]) - m, widen(x[c + j]) - m, widen(x[d + j]) - m
        t1, u1, v1, w1 = widen(x[e + j]) - m, widen(x[f + j]) - m, widen(x[g + j]) - m, widen(x[h + j]) - m
        total[j] += tree(p1, q1, r1, s1, t1, u1, v1, w1)
        square[j] += products(none, p1, q1, r1, s1, p1, q1, r1, s1) + products(none, t1, u1, v1, w1, t1, u1, v1, w1)


@inline
def _panel_gradients(dout, d_at, d_step, x, at, step, channels, none, centre, total, product):
    """Adds the sums of dout and of dout * (x - centre)."""
    a, b, c, d, e, f, g, h = indices(at, step)
    a0, b0, c0, d0, e0, f0, g0, h0 = indices(d_at, d_step)
    n, nothing = lanes(x), every(x, none)
    for i in range(0, channels - n + 1, n):
        j, k = np.uintp(i), load(centre, i)
        p, q, r, s = load(dout, a0 + j), load(dout, b0 + j), load(dout, c0 + j), load(dout, d0 + j)
        t, u, v, w = load(dout, e0 + j), load(dout, f0 + j), load(dout, g0 + j), load(dout, h0 + j)
        _fetch_panel(dout, d_at, d_step, i)
        near = load(x, a + j) - k, load(x, b + j) - k, load(x, c + j) - k, load(x, d + j) - k
        far = load(x, e + j) - k, load(x, f + j) - k, load(x, g + j) - k, load(x, h + j) - k
        _fetch_panel(x, at, step, i)
        store(total, i, load(total, i) + tree(p, q, r, s, t, u, v, w))
        sums = products(nothing, p, q, r, s, *near) + products(nothing, t, u, v, w, *far)
        store(product, i, load(product, i) + sums)
    for i in range(channels - channels % n, channels):
        j = np.uintp(i)
        m = centre[j]
        p1, q1, r1, s1 = widen(dout[a0 + j]), widen(dout[b0 + j]), widen(dout[c0 + j]), widen(dout[d0 + j])
        t1, u1, v1, w1 = widen(dout[e0 + j]), widen(dout[f0 + j]), widen(dout[g0 + j]), widen(dout[h0 + j])
        total[j] += tree(p1, q1, r1, s1, t1, u1, v1, w1)
        near1 = widen(x[a + j]) - m, widen(x[b + j]) - m, widen(x[c + j]) - m, widen(x[d + j]) - m
        far1 = widen(x[e + j]) - m, widen(x[f + j]) - m, widen(x[g + j]) - m, widen(x[h + j]) - m
        product[j] += products(none, p1, q1, r1, s1, *near1) + products(none, t1, u1, v1, w1, *far1)


@inline
def _fold(wide, line):
    """Adds the panels one after the other to the first."""
    for p in range(1, wide.size // max(line, 1)):
        for c in range(line):
            wide[c] += wide[np.uintp(p * line + c)]


@inline
def repeat(line, channels):
    """The first ``channels`` elements again and again."""
    for i in range(channels, line.size):
        line[i] = line[i - channels]


@kernel
def moments_rows(first, last, chunk, tile, rows, x, none, sums):
    """A task is ``tile`` channels of a chunk; with few channels, all."""
    channels = sums.shape[2]
    tiles, together = (channels + tile - 1) // tile, channels <= TOGETHER
    most = PANELS * channels if together else tile
    centre, total, square = scratch(most, none), scratch(most, none), scratch(most, none)
    pad = scratch((BLOCK if together else PANEL) * tile, none)
    for task in range(first, last):
        k, low = task // tiles, task % tiles * tile
        n = min(tile, channels - low)
        for row in range(k * chunk, min(rows, (k + 1) * chunk), BLOCK):
            count, at = min(BLOCK, rows - row), row * channels + low
            panels, whole = (count + PANEL - 1) // PANEL, count // PANEL
            _first_mean(x, at, channels, min(count, PANEL), n, centre)
            total[:] = zero(total)
            square[:] = zero(total)
            if together:
                line = panels * channels
                repeat(centre, channels)
                if whole == panels:
                    _panel_moments(x, at, line, line, none, centre, total, square)
                else:
                    _pad(x, at, channels, count, channels, centre, pad[: line * PANEL])
                    _panel_moments(pad, 0, line, line, none, centre, total, square)
                _fold(total[:line], channels)
                _fold(square[:line], channels)
            else:
                for p in range(whole):
                    _panel_moments(x, at + p * PANEL * channels, channels, n, none, centre, total, square)
                if whole < panels:
                    _pad(x, at + whole * PANEL * channels, channels, count - whole * PANEL, n, centre, pad[: PANEL * n])
                    _panel_moments(pad, 0, n, n, none, centre, total, square)
            merge_block(
                float(row - k * chunk), float(count), centre[:n], total[:n], square[:n],
                sums[k, 0, low : low + n], sums[k, 1, low : low + n]
            )  # fmt: skip


@inline
def add(values, sums):
    for i in range(sums.size):
        sums[i] += values[i]


@kernel
def gradients_rows(first, last, chunk, tile, rows, dout, x, mean, none, sums):
    channels = sums.shape[2]
    tiles, together = (channels + tile - 1) // tile, channels <= TOGETHER
    most = PANELS * channels if together else tile
    centre, total, product = scratch(most, none), scratch(most, none), scratch(most, none)
    padding, nothing = (BLOCK if together else PANEL) * tile, np.full(tile, none)
    pad, dout_pad = scratch(padding, none), scratch(padding, none)
    for task in range(first, last):
        k, low = task // tiles, task % tiles * tile
        n = min(tile, channels - low)
        centre[:n] = mean[low : low + n]
        if together:
            repeat(centre, channels)
        for row in range(k * chunk, min(rows, (k + 1) * chunk), BLOCK):
            count, at = min(BLOCK, rows - row), row * channels + low
            panels, whole = (count + PANEL - 1) // PANEL, count // PANEL
            total[:] = zero(total)
            product[:] = zero(total)
            if together:
                line = panels * channels
                if whole == panels:
                    _panel_gradients(dout, at, line, x, at, line, line, none, centre, total, product)
                else:
                    _pad(x, at, channels, count, channels, centre, pad[: line * PANEL])
                    _pad(dout, at, channels, count, channels, nothing, dout_pad[: line * PANEL])
                    _panel_gradients(dout_pad, 0, line, pad, 0, line, line, none, centre, total, product)
                _fold(total[:line], channels)
                _fold(product[:line], channels)
            else:
                for p in range(whole):
                    here = at + p * PANEL * channels
                    _panel_gradients(dout, here, channels, x, here, channels, n, none, centre, total, product)
                if whole < panels:
                    here, rest = at + whole * PANEL * channels, count - whole * PANEL
                    _pad(x, here, channels, rest, n, centre, pad[: PANEL * n])
                    _pad(dout, here, channels, rest, n, nothing, dout_pad[: PANEL * n])
                    _panel_gradients(dout_pad, 0, n, pad, 0, n, n, none, centre, total, product)
            add(total[:n], sums[k, 0, low : low + n])
            add(product[:n], sums[k, 1, low : low + n])


@inline
def _line(values):
    """A copy whose loads are aligned."""
    found = scratch(values.size, zero(values))
    found[:] = values
    return found


@kernel
def map_rows(first, last, streams, x, parameters, out):
    """Several rows are one, with parameters repeated to its length. The last, which a cache still holds, go first."""
    width, n = parameters.shape[1], lanes(x)
    centre, scale, shift = _line(parameters[0]), _line(parameters[1]), _line(parameters[2])
    for start in range(first + (last - first - 1) // TURN * TURN, first - 1, -TURN):
        for r in range(start, min(last, start + TURN)):
            at = r * width
            for i in range(0, width - n + 1, n):
                value = (load(x, at + i) - load(centre, i)) * load(scale, i) + load(shift, i)
                if streams:
                    fetch(x, at + i + AHEAD // x.itemsize)
                    stream(out, at + i, value)
                else:
                    store(out, at + i, value)
            for i in range(width - width % n, width):
                j, k = np.uintp(at + i), np.uintp(i)
                out[j] = narrow((widen(x[j]) - centre[k]) * scale[k] + shift[k], out)
    if streams:
        fence()


@kernel
def gradient_rows(first, last, streams, dout, x, parameters, out):
    width, n = parameters.shape[1], lanes(x)
    centre, scale = _line(parameters[0]), _line(parameters[1])
    shift, slope = _line(parameters[2]), _line(parameters[3])
    for start in range(first + (last - first - 1) // TURN * TURN, first - 1, -TURN):
        for r in range(start, min(last, start + TURN)):
            at = r * width
            for i in range(0, width - n + 1, n):
                less = (load(x, at + i) - load(centre, i)) * load(slope, i)
                value = load(scale, i) * (load(dout, at + i) - load(shift, i) - less)
                if streams:
                    fetch(x, at + i + AHEAD // x.itemsize)
                    fetch(dout, at + i + AHEAD // x.itemsize)
                    stream(out, at + i, value)
                else:
                    store(out, at + i, value)
            for i in range(width - width % n, width):
                j, k = np.uintp(at + i), np.uintp(i)
                d = widen(dout[j]) - shift[k] - (widen(x[j]) - centre[k]) * slope[k]
                out[j] = narrow(scale[k] * d, out)
    if streams:
        fence()
