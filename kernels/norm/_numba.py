"""batch_norm in Numba, and local_response_norm from ``_numba_response.py``; the contract is the folder's docstring.

There are kernels for rows (the channels of a row beside each other) and for grids (any strides; NCHW has its lines
contiguous). Both add up in the same order: panels of 8 rows, blocks of 16 panels, chunks of blocks in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._common.jit import bits, compute_dtype, inline, kernel, narrow, round_to_odd, widen, zero
from .._common.tasks import parallel
from .._common.vectors import AHEAD, REGISTER, choose, every, fence, fetch, lanes, load, scratch, store, stream
from ..problem import Problem
from ._numba_layout import as_grids, as_rows
from ._numba_response import local_response_norm_backward as local_response_norm_backward
from ._numba_response import local_response_norm_forward as local_response_norm_forward
from .plan import BLOCK, batch_norm_plan

PANEL = 8
PANELS = BLOCK // PANEL
#: Elements to which a row of parameters is repeated, so that inner loops do not stop after a few.
SPAN = 256
#: Bytes of a result from which on it is stored around the caches, as in _common/stream.h.
STREAM = 8 << 20
#: Rows that keep their order where a map goes backwards.
TURN = 64
#: Channels, at most, of rows whose panels are summed at once.
TOGETHER = 32
#: Channels of a grid that are read by turns where they share cache lines.
WIDTH = 16

# ---- sums of a panel, joined in float64 -----------------------------------------------------------------------------


@inline
def _tree(a, b, c, d, e, f, g, h):
    return ((a + b) + (c + d)) + ((e + f) + (g + h))


@inline
def _products(none, a, b, c, d, p, q, r, s):
    """From ``none``, 0, on: two products in one addition could be contracted in two ways.

    Squares are never -0, so LLVM would drop a 0 that it knows: theirs is an argument of the kernel.
    """
    return none + a * p + b * q + c * r + d * s


@inline
def _merge(before, rows, more, more_square, total, square):
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
def _merge_block(before, rows, centre, d, dd, total, square):
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


# ---- rows: x is (rows, channels), contiguous, as a line -------------------------------------------------------------
#
# A block has up to 16 panels of 8 rows. Panel p has rows 8 p, 8 p + 1, ..., but with few channels p, p + panels, ...:
# then all panels of a block are one loop.


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
def _indices(at, step):
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
    a, b, c, d, e, f, g, h = _indices(at, step)
    n, nothing = lanes(x), every(x, none)
    for i in range(0, channels - n + 1, n):
        j, k = np.uintp(i), load(centre, i)
        p, q, r, s = load(x, a + j) - k, load(x, b + j) - k, load(x, c + j) - k, load(x, d + j) - k
        t, u, v, w = load(x, e + j) - k, load(x, f + j) - k, load(x, g + j) - k, load(x, h + j) - k
        _fetch_panel(x, at, step, i)
        store(total, i, load(total, i) + _tree(p, q, r, s, t, u, v, w))
        squares = _products(nothing, p, q, r, s, p, q, r, s) + _products(nothing, t, u, v, w, t, u, v, w)
        store(square, i, load(square, i) + squares)
    for i in range(channels - channels % n, channels):
        j = np.uintp(i)
        m = centre[j]
        p1, q1, r1, s1 = widen(x[a + j]) - m, widen(x[b + j]) - m, widen(x[c + j]) - m, widen(x[d + j]) - m
        t1, u1, v1, w1 = widen(x[e + j]) - m, widen(x[f + j]) - m, widen(x[g + j]) - m, widen(x[h + j]) - m
        total[j] += _tree(p1, q1, r1, s1, t1, u1, v1, w1)
        square[j] += _products(none, p1, q1, r1, s1, p1, q1, r1, s1) + _products(none, t1, u1, v1, w1, t1, u1, v1, w1)


@inline
def _panel_gradients(dout, d_at, d_step, x, at, step, channels, none, centre, total, product):
    """Adds the sums of dout and of dout * (x - centre)."""
    a, b, c, d, e, f, g, h = _indices(at, step)
    a0, b0, c0, d0, e0, f0, g0, h0 = _indices(d_at, d_step)
    n, nothing = lanes(x), every(x, none)
    for i in range(0, channels - n + 1, n):
        j, k = np.uintp(i), load(centre, i)
        p, q, r, s = load(dout, a0 + j), load(dout, b0 + j), load(dout, c0 + j), load(dout, d0 + j)
        t, u, v, w = load(dout, e0 + j), load(dout, f0 + j), load(dout, g0 + j), load(dout, h0 + j)
        _fetch_panel(dout, d_at, d_step, i)
        near = load(x, a + j) - k, load(x, b + j) - k, load(x, c + j) - k, load(x, d + j) - k
        far = load(x, e + j) - k, load(x, f + j) - k, load(x, g + j) - k, load(x, h + j) - k
        _fetch_panel(x, at, step, i)
        store(total, i, load(total, i) + _tree(p, q, r, s, t, u, v, w))
        products = _products(nothing, p, q, r, s, *near) + _products(nothing, t, u, v, w, *far)
        store(product, i, load(product, i) + products)
    for i in range(channels - channels % n, channels):
        j = np.uintp(i)
        m = centre[j]
        p1, q1, r1, s1 = widen(dout[a0 + j]), widen(dout[b0 + j]), widen(dout[c0 + j]), widen(dout[d0 + j])
        t1, u1, v1, w1 = widen(dout[e0 + j]), widen(dout[f0 + j]), widen(dout[g0 + j]), widen(dout[h0 + j])
        total[j] += _tree(p1, q1, r1, s1, t1, u1, v1, w1)
        near1 = widen(x[a + j]) - m, widen(x[b + j]) - m, widen(x[c + j]) - m, widen(x[d + j]) - m
        far1 = widen(x[e + j]) - m, widen(x[f + j]) - m, widen(x[g + j]) - m, widen(x[h + j]) - m
        product[j] += _products(none, p1, q1, r1, s1, *near1) + _products(none, t1, u1, v1, w1, *far1)


@inline
def _fold(wide, line):
    """Adds the panels one after the other to the first."""
    for p in range(1, wide.size // max(line, 1)):
        for c in range(line):
            wide[c] += wide[np.uintp(p * line + c)]


@inline
def _repeat(line, channels):
    """The first ``channels`` elements again and again."""
    for i in range(channels, line.size):
        line[i] = line[i - channels]


@kernel
def _moments_rows(first, last, chunk, tile, rows, x, none, sums):
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
                _repeat(centre, channels)
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
            _merge_block(
                float(row - k * chunk), float(count), centre[:n], total[:n], square[:n],
                sums[k, 0, low : low + n], sums[k, 1, low : low + n]
            )  # fmt: skip


@inline
def _add(values, sums):
    for i in range(sums.size):
        sums[i] += values[i]


@kernel
def _gradients_rows(first, last, chunk, tile, rows, dout, x, mean, none, sums):
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
            _repeat(centre, channels)
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
            _add(total[:n], sums[k, 0, low : low + n])
            _add(product[:n], sums[k, 1, low : low + n])


@inline
def _line(values):
    """A copy whose loads are aligned."""
    found = scratch(values.size, zero(values))
    found[:] = values
    return found


@kernel
def _map_rows(first, last, streams, x, parameters, out):
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
def _gradient_rows(first, last, streams, dout, x, parameters, out):
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


# ---- grids: x is (N, C, H, W), any strides --------------------------------------------------------------------------


@inline
def _run(x, row, count, channel, run):
    """``count`` values of a channel."""
    n, pixel = divmod(row, x.shape[2] * x.shape[3])
    h, w = divmod(pixel, x.shape[3])
    done = 0
    while done < count:
        line, to = x[n, channel, h][w:], run[done:count]
        more = min(line.size, to.size)
        for i in range(more):
            to[i] = widen(line[i])
        done, w, h = done + more, 0, h + 1
        if h == x.shape[2]:
            n, h = n + 1, 0


@inline
def _run_panel(run, other, at, step, none, k):
    a, b, c, d, e, f, g, h = _indices(at, step)
    p, q, r, s, t, u, v, w = run[a], run[b], run[c], run[d], run[e], run[f], run[g], run[h]
    near = _products(none, p, q, r, s, other[a] - k, other[b] - k, other[c] - k, other[d] - k)
    far = _products(none, t, u, v, w, other[e] - k, other[f] - k, other[g] - k, other[h] - k)
    return _tree(p, q, r, s, t, u, v, w), near + far


@inline
def _run_products(run, other, count, channels, none, k, total, product):
    """Sums of run and of run * (other - k) over the panels, as of rows."""
    panels = (count + PANEL - 1) // PANEL
    if channels > TOGETHER:
        for p in range(panels):
            total[p], product[p] = _run_panel(run, other, PANEL * p, 1, none, k)
    else:
        for p in range(panels):
            total[p], product[p] = _run_panel(run, other, p, panels, none, k)
    for p in range(1, panels):
        total[0] += total[p]
        product[0] += product[p]


@kernel
def _moments_grid(first, last, chunk, tile, x, none, sums):
    channels, rows = x.shape[1], x.shape[0] * x.shape[2] * x.shape[3]
    tiles = (channels + tile - 1) // tile
    run, own = np.full(BLOCK, none), np.full(1, none)
    total, square = np.full(PANELS, none), np.full(PANELS, none)
    for t in range(first, last):
        k, low = t // tiles, t % tiles * tile
        for row in range(k * chunk, min(rows, (k + 1) * chunk), BLOCK):
            count = min(BLOCK, rows - row)
            for channel in range(low, min(low + tile, channels)):
                _run(x, row, count, channel, run)
                centre = none
                for i in range(min(count, PANEL)):
                    centre += run[i]
                centre /= run.dtype.type(min(count, PANEL))
                if centre - centre != 0:
                    centre = none
                run[count:] = centre
                for i in range(BLOCK):
                    run[i] -= centre
                _run_products(run, run, count, channels, none, none, total, square)
                own[0] = centre
                _merge_block(
                    float(row - k * chunk), float(count), own, total[:1], square[:1],
                    sums[k, 0, channel : channel + 1], sums[k, 1, channel : channel + 1]
                )  # fmt: skip


@kernel
def _gradients_grid(first, last, chunk, tile, dout, x, mean, none, sums):
    channels, rows = x.shape[1], x.shape[0] * x.shape[2] * x.shape[3]
    tiles = (channels + tile - 1) // tile
    run, dout_run = np.full(BLOCK, none), np.full(BLOCK, none)
    total, product = np.full(PANELS, none), np.full(PANELS, none)
    for t in range(first, last):
        k, low = t // tiles, t % tiles * tile
        for row in range(k * chunk, min(rows, (k + 1) * chunk), BLOCK):
            count = min(BLOCK, rows - row)
            for channel in range(low, min(low + tile, channels)):
                _run(x, row, count, channel, run)
                _run(dout, row, count, channel, dout_run)
                run[count:] = mean[channel]
                dout_run[count:] = none
                _run_products(dout_run, run, count, channels, none, mean[channel], total, product)
                sums[k, 0, channel] += total[0]
                sums[k, 1, channel] += product[0]


@kernel
def _map_grid(first, last, x, parameters, out):
    """A task is one line of WIDTH channels."""
    _, channels, height, _ = x.shape
    centre, scale, shift = parameters[0], parameters[1], parameters[2]
    tiles = (channels + WIDTH - 1) // WIDTH
    for t in range(first, last):
        image, tile = divmod(t, tiles)
        n, h = divmod(image, height)
        for c in range(tile * WIDTH, min(channels, tile * WIDTH + WIDTH)):
            a, to, k, by, more = x[n, c, h], out[n, c, h], centre[c], scale[c], shift[c]
            for i in range(to.size):
                to[i] = narrow((widen(a[i]) - k) * by + more, out)


@kernel
def _gradient_grid(first, last, dout, x, parameters, out):
    _, channels, height, _ = x.shape
    centre, scale, shift, slope = parameters[0], parameters[1], parameters[2], parameters[3]
    tiles = (channels + WIDTH - 1) // WIDTH
    for t in range(first, last):
        image, tile = divmod(t, tiles)
        n, h = divmod(image, height)
        for c in range(tile * WIDTH, min(channels, tile * WIDTH + WIDTH)):
            a, d, to = x[n, c, h], dout[n, c, h], out[n, c, h]
            k, by, less, steep = centre[c], scale[c], shift[c], slope[c]
            for i in range(to.size):
                to[i] = narrow(by * (widen(d[i]) - less - (widen(a[i]) - k) * steep), out)


# ---- batch norm -----------------------------------------------------------------------------------------------------


@kernel
def _join_moments(chunk, rows, sums, mean, var):
    """Mean and variance from the chunks."""
    total, square = sums[0, 0], sums[0, 1]
    for k in range(1, sums.shape[0]):
        _merge(float(k * chunk), float(min(chunk, rows - k * chunk)), sums[k, 0], sums[k, 1], total, square)
    for c in range(total.size):
        mean[c] = total[c] / rows
        var[c] = square[c] / rows


@kernel
def _scales(eps, gamma, beta, mean, var, parameters):
    """The parameters of the map from x to out: mean, scale and shift, repeated to the length of a row."""
    for c in range(gamma.size):
        parameters[0, c] = mean[c]
        parameters[1, c] = np.float64(widen(gamma[c])) / np.sqrt(np.float64(var[c]) + eps)
        parameters[2, c] = widen(beta[c])
    for p in range(3):
        _repeat(parameters[p], gamma.size)


@kernel
def _slopes(eps, rows, sums, gamma, mean, var, dgamma, dbeta, parameters):
    """dgamma, dbeta and the parameters of the map from dout to dx: mean, scale, shift and slope."""
    total, product = sums[0, 0], sums[0, 1]
    for k in range(1, sums.shape[0]):
        _add(sums[k, 0], total)
        _add(sums[k, 1], product)
    for c in range(gamma.size):
        std = np.sqrt(np.float64(var[c]) + eps)
        dbeta[c] = narrow(round_to_odd(total[c], dbeta), dbeta)
        dgamma[c] = narrow(round_to_odd(product[c] / std, dgamma), dgamma)
        parameters[0, c] = mean[c]
        parameters[1, c] = np.float64(widen(gamma[c])) / std
        parameters[2, c] = total[c] / rows
        parameters[3, c] = product[c] / std / (rows * std)
    for p in range(4):
        _repeat(parameters[p], gamma.size)


def _sums(problem: Problem, rows, grid, threads: int, operands: tuple[np.ndarray, ...], *more: Any) -> np.ndarray:
    """(chunks, 2, channels): the sums of a chunk's rows, of one kernel or the other."""
    (chunk, chunks, tile), channels = batch_norm_plan(problem), operands[0].shape[1]
    sums = np.zeros((max(chunks, 1), 2, channels))
    work = len(operands) * operands[0].size
    if (views := as_rows(*operands)) is not None:
        lines = [a.reshape(-1) for a in views]
        tasks = chunks * -(-channels // tile)
        parallel(rows, tasks, threads, 0.08 * work, chunk, tile, len(views[0]), *lines, *more, sums)
    else:
        views = as_grids(*operands)
        tile = 1 if views[0].strides[3] == views[0].itemsize else WIDTH
        parallel(grid, chunks * -(-channels // tile), threads, 0.5 * work, chunk, tile, *views, *more, sums)
    return sums


def _span(size: int, channels: int) -> int:
    """How many rows of ``size`` elements are treated as one."""
    rows, span = size // max(channels, 1), 1
    while span * channels < SPAN and rows % (2 * span) == 0 and rows > 0:
        span *= 2
    return span


def _map(rows, grid, threads: int, parameters: np.ndarray, *operands: np.ndarray) -> None:
    """The kernel for rows or the one for grids, on arrays of which the last is written."""
    size, out, width = operands[0].size, operands[-1], parameters.shape[1]
    if size == 0:
        return
    work = 0.08 * len(operands) * size
    if (views := as_rows(*operands)) is not None:
        lines = [a.reshape(-1) for a in views]
        streams = (
            out.nbytes >= STREAM and out.dtype == parameters.dtype
            and width * out.itemsize % REGISTER == 0 and out.ctypes.data % REGISTER == 0
        )  # fmt: skip
        parallel(rows, size // width, threads, work, streams, *lines[:-1], parameters, lines[-1])
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
    rows = x.size // max(x.shape[1], 1)
    sums = _sums(problem, _moments_rows, _moments_grid, threads, (x,), compute_dtype(x).type(0))
    _join_moments(batch_norm_plan(problem).chunk, rows, sums, mean, var)
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
    parameters = np.empty((3, gamma.size * _span(x.size, gamma.size)), mean.dtype)
    _scales(problem.attr("eps"), bits(gamma), bits(beta), mean, var, parameters)
    _map(_map_rows, _map_grid, threads, parameters, x, out)


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
    rows = x.size // max(x.shape[1], 1)
    sums = _sums(problem, _gradients_rows, _gradients_grid, threads, (dout, x), mean, mean.dtype.type(0))
    parameters = np.empty((4, gamma.size * _span(x.size, gamma.size)), mean.dtype)
    _slopes(problem.attr("eps"), rows, sums, bits(gamma), mean, var, bits(dgamma), bits(dbeta), parameters)
    _map(_gradient_rows, _gradient_grid, threads, parameters, dout, x, dx)
