"""Kernels of batch_norm for any strides: x is (N, C, H, W). The sums are those of rows."""

from __future__ import annotations

import numpy as np

from .._common.jit import inline, kernel, narrow, widen
from ._numba_rows import PANEL, PANELS, TOGETHER, indices, merge_block, products, tree
from .plan import BLOCK

#: Channels of a grid that are read by turns where they share cache lines.
WIDTH = 16


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
    a, b, c, d, e, f, g, h = indices(at, step)
    p, q, r, s, t, u, v, w = run[a], run[b], run[c], run[d], run[e], run[f], run[g], run[h]
    near = products(none, p, q, r, s, other[a] - k, other[b] - k, other[c] - k, other[d] - k)
    far = products(none, t, u, v, w, other[e] - k, other[f] - k, other[g] - k, other[h] - k)
    return tree(p, q, r, s, t, u, v, w), near + far


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
def moments_grid(first, last, chunk, tile, x, none, sums):
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
                merge_block(
                    float(row - k * chunk), float(count), own, total[:1], square[:1],
                    sums[k, 0, channel : channel + 1], sums[k, 1, channel : channel + 1]
                )  # fmt: skip


@kernel
def gradients_grid(first, last, chunk, tile, dout, x, mean, none, sums):
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
def map_grid(first, last, x, parameters, out):
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
def gradient_grid(first, last, dout, x, parameters, out):
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
