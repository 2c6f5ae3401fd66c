"""batch_norm in Numba, and local_response_norm from ``_numba_response.py``; the contract is the folder's docstring.

There are kernels for rows (the channels of a row beside each other) and for grids (any strides; NCHW has its lines
contiguous). Both add up in the same order: panels of 8 rows, blocks of 16 panels, chunks of blocks in float64.
"""

from __future__ import annotations

import numpy as np

from .._common.jit import compute_dtype, inline, kernel, narrow, widen, zero
from .._common.tasks import parallel
from ..problem import Problem
from ._numba_layout import as_grids, as_rows
from ._numba_response import local_response_norm_backward as local_response_norm_backward
from ._numba_response import local_response_norm_forward as local_response_norm_forward
from .plan import BLOCK, batch_norm_plan

PANEL = 8
PANELS = BLOCK // PANEL
#: Elements to which a row of parameters is repeated, so that inner loops do not stop after a few.
SPAN = 512
#: Rows that keep their order where a map goes backwards.
TURN = 64
#: Channels, at most, of rows whose panels are summed at once: their sums fill half an L1.
TOGETHER = 64
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
    """Sums and centred squares of ``before`` rows and of ``rows`` more (Chan, Golub and LeVeque 1979)."""
    if before > 0:
        delta = (more - total * (rows / before)) * (1 / rows)
        more_square += delta * delta * (before * rows / (before + rows))
    return total + more, square + more_square


@inline
def _merge_block(before, rows, centre, d, dd, total, square):
    """The same with the sums of x - centre and of its square."""
    rest = dd - d * d * (1 / rows)
    return _merge(before, rows, centre * rows + d, 0.0 if rest < 0 else rest, total, square)


# ---- rows: x is (rows, channels), contiguous, as a line -------------------------------------------------------------
#
# A block has up to 16 panels of 8 rows. Panel p has rows 8 p, 8 p + 1, ..., but with few channels p, p + panels, ...:
# then all panels of a block are one loop.


@inline
def _pad(x, row, count, channels, missing, pad):
    """``count`` rows from ``row`` on, completed with rows of ``missing``."""
    for i in range(count * channels):
        pad[i] = widen(x[np.uintp(row * channels + i)])
    for r in range(count, pad.size // max(channels, 1)):
        for c in range(channels):
            pad[np.uintp(r * channels + c)] = missing[c]


@inline
def _indices(at, step):
    """Of a panel's rows; unsigned, since a signed index might count from the end."""
    return (
        np.uintp(at), np.uintp(at + step), np.uintp(at + 2 * step), np.uintp(at + 3 * step),
        np.uintp(at + 4 * step), np.uintp(at + 5 * step), np.uintp(at + 6 * step), np.uintp(at + 7 * step),
    )  # fmt: skip


@inline
def _first_mean(x, at, count, centre):
    """Mean of a block's first rows, at most 8; 0 where it is not finite: then the sums come out as IEEE 754 has it."""
    centre[:] = zero(centre)
    for r in range(count):
        for i in range(centre.size):
            centre[i] += widen(x[np.uintp(at + r * centre.size + i)])
    by = centre.dtype.type(count)
    for i in range(centre.size):
        mean = centre[i] / by
        centre[i] = mean if mean - mean == 0 else zero(centre)


@inline
def _panel_moments(x, at, step, none, centre, total, square):
    a, b, c, d, e, f, g, h = _indices(at, step)
    for i in range(centre.size):
        j, k = np.uintp(i), centre[i]
        p, q, r, s = widen(x[a + j]) - k, widen(x[b + j]) - k, widen(x[c + j]) - k, widen(x[d + j]) - k
        t, u, v, w = widen(x[e + j]) - k, widen(x[f + j]) - k, widen(x[g + j]) - k, widen(x[h + j]) - k
        total[i] += _tree(p, q, r, s, t, u, v, w)
        square[i] += _products(none, p, q, r, s, p, q, r, s) + _products(none, t, u, v, w, t, u, v, w)


@inline
def _panel_gradients(dout, x, at, step, centre, total, product):
    a, b, c, d, e, f, g, h = _indices(at, step)
    none = zero(centre)
    for i in range(centre.size):
        j, k = np.uintp(i), centre[i]
        p, q, r, s = widen(dout[a + j]), widen(dout[b + j]), widen(dout[c + j]), widen(dout[d + j])
        t, u, v, w = widen(dout[e + j]), widen(dout[f + j]), widen(dout[g + j]), widen(dout[h + j])
        total[i] += _tree(p, q, r, s, t, u, v, w)
        near = widen(x[a + j]) - k, widen(x[b + j]) - k, widen(x[c + j]) - k, widen(x[d + j]) - k
        far = widen(x[e + j]) - k, widen(x[f + j]) - k, widen(x[g + j]) - k, widen(x[h + j]) - k
        product[i] += _products(none, p, q, r, s, *near) + _products(none, t, u, v, w, *far)


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


@inline
def _block_moments(x, at, panels, channels, none, centre, total, square):
    if channels > TOGETHER:
        total[:] = zero(total)
        square[:] = zero(total)
        for p in range(panels):
            _panel_moments(x, at + p * PANEL * channels, channels, none, centre, total, square)
    else:
        line = panels * channels
        total[:line] = zero(total)
        square[:line] = zero(total)
        _panel_moments(x, at, line, none, centre[:line], total[:line], square[:line])
        _fold(total[:line], channels)
        _fold(square[:line], channels)


@inline
def _block_gradients(dout, x, at, panels, channels, centre, total, product):
    if channels > TOGETHER:
        total[:] = zero(total)
        product[:] = zero(total)
        for p in range(panels):
            _panel_gradients(dout, x, at + p * PANEL * channels, channels, centre, total, product)
    else:
        line = panels * channels
        total[:line] = zero(total)
        product[:line] = zero(total)
        _panel_gradients(dout, x, at, line, centre[:line], total[:line], product[:line])
        _fold(total[:line], channels)
        _fold(product[:line], channels)


@kernel
def _moments_rows(first, last, chunk, rows, x, none, sums):
    channels = sums.shape[2]
    most = (1 if channels > TOGETHER else PANELS) * channels
    centre, total, square = np.full(most, none), np.full(most, none), np.full(most, none)
    for k in range(first, last):
        all_total, all_square = sums[k, 0], sums[k, 1]
        for row in range(k * chunk, min(rows, (k + 1) * chunk), BLOCK):
            count = min(BLOCK, rows - row)
            panels = (count + PANEL - 1) // PANEL
            _first_mean(x, row * channels, min(count, PANEL), centre[:channels])
            _repeat(centre, channels)
            if count == panels * PANEL:
                _block_moments(x, row * channels, panels, channels, none, centre, total, square)
            else:
                pad = np.full(panels * PANEL * channels, none)
                _pad(x, row, count, channels, centre, pad)
                _block_moments(pad, 0, panels, channels, none, centre, total, square)
            before = row - k * chunk
            for i in range(channels):
                all_total[i], all_square[i] = _merge_block(
                    float(before), float(count), float(centre[i]), float(total[i]), float(square[i]),
                    all_total[i], all_square[i]
                )  # fmt: skip


@kernel
def _gradients_rows(first, last, chunk, rows, dout, x, mean, sums):
    channels = sums.shape[2]
    most, none = (1 if channels > TOGETHER else PANELS) * channels, zero(x)
    centre, total, product = np.full(most, none), np.full(most, none), np.full(most, none)
    centre[:channels] = mean
    _repeat(centre, channels)
    for k in range(first, last):
        all_total, all_product = sums[k, 0], sums[k, 1]
        for row in range(k * chunk, min(rows, (k + 1) * chunk), BLOCK):
            count = min(BLOCK, rows - row)
            panels = (count + PANEL - 1) // PANEL
            if count == panels * PANEL:
                _block_gradients(dout, x, row * channels, panels, channels, centre, total, product)
            else:
                pad = np.full((2, panels * PANEL * channels), none)
                _pad(x, row, count, channels, mean, pad[0])
                _pad(dout, row, count, channels, np.full(channels, none), pad[1])
                _block_gradients(pad[1], pad[0], 0, panels, channels, centre, total, product)
            for i in range(channels):
                all_total[i] += total[i]
                all_product[i] += product[i]


@kernel
def _map_rows(first, last, x, centre, scale, shift, out):
    """Several rows are one, with parameters repeated to its length. The last, which a cache still holds, go first."""
    for start in range(first + (last - first - 1) // TURN * TURN, first - 1, -TURN):
        for r in range(start, min(last, start + TURN)):
            row = np.uintp(r)
            for i in range(centre.size):
                out[row, i] = narrow((widen(x[row, i]) - centre[i]) * scale[i] + shift[i], out)


@kernel
def _gradient_rows(first, last, dout, x, centre, scale, shift, slope, out):
    for start in range(first + (last - first - 1) // TURN * TURN, first - 1, -TURN):
        for r in range(start, min(last, start + TURN)):
            row = np.uintp(r)
            for i in range(centre.size):
                d = widen(dout[row, i]) - shift[i] - (widen(x[row, i]) - centre[i]) * slope[i]
                out[row, i] = narrow(scale[i] * d, out)


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
    run, total, square = np.full(BLOCK, none), np.full(PANELS, none), np.full(PANELS, none)
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
                sums[k, 0, channel], sums[k, 1, channel] = _merge_block(
                    float(row - k * chunk), float(count), float(centre), float(total[0]), float(square[0]),
                    sums[k, 0, channel], sums[k, 1, channel]
                )  # fmt: skip


@kernel
def _gradients_grid(first, last, chunk, tile, dout, x, mean, sums):
    channels, rows = x.shape[1], x.shape[0] * x.shape[2] * x.shape[3]
    tiles, none = (channels + tile - 1) // tile, zero(x)
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
def _map_grid(first, last, x, centre, scale, shift, out):
    """A task is one line of WIDTH channels."""
    _, channels, height, _ = x.shape
    tiles = (channels + WIDTH - 1) // WIDTH
    for t in range(first, last):
        image, tile = divmod(t, tiles)
        n, h = divmod(image, height)
        for c in range(tile * WIDTH, min(channels, tile * WIDTH + WIDTH)):
            a, to, k, by, more = x[n, c, h], out[n, c, h], centre[c], scale[c], shift[c]
            for i in range(to.size):
                to[i] = narrow((widen(a[i]) - k) * by + more, out)


@kernel
def _gradient_grid(first, last, dout, x, centre, scale, shift, slope, out):
    _, channels, height, _ = x.shape
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
def _join_moments(first, last, chunk, rows, sums):
    """All chunks into the first."""
    total, square = sums[0, 0], sums[0, 1]
    for k in range(1, sums.shape[0]):
        more, more_square = sums[k, 0], sums[k, 1]
        for c in range(total.size):
            total[c], square[c] = _merge(
                float(k * chunk), float(min(chunk, rows - k * chunk)), more[c], more_square[c], total[c], square[c]
            )


def _sums(
    problem: Problem, rows, grid, threads: int, operands: tuple[np.ndarray, ...], *more: np.ndarray
) -> np.ndarray:
    """(chunks, 2, channels): the sums of a chunk's rows, of one kernel or the other."""
    (chunk, chunks, _), channels = batch_norm_plan(problem), operands[0].shape[1]
    sums = np.zeros((max(chunks, 1), 2, channels))
    work = len(operands) * operands[0].size
    if (views := as_rows(*operands)) is not None:
        lines = [a.reshape(-1) for a in views]
        parallel(rows, chunks, threads, 0.15 * work, chunk, len(views[0]), *lines, *more, sums)
    else:
        views = as_grids(*operands)
        tile = 1 if views[0].strides[3] == views[0].itemsize else WIDTH
        parallel(grid, chunks * -(-channels // tile), threads, 0.5 * work, chunk, tile, *views, *more, sums)
    return sums


def _map(rows, grid, threads: int, operands: tuple[np.ndarray, ...], parameters: tuple[np.ndarray, ...]) -> None:
    """The kernel for rows or the one for grids, on arrays of which the last is written."""
    size, channels = operands[0].size, operands[0].shape[1]
    if size == 0:
        return
    work = 0.15 * len(operands) * size
    if (views := as_rows(*operands)) is not None:
        rows_there, span = size // channels, 1
        while span * channels < SPAN and rows_there % (2 * span) == 0:
            span *= 2
        wide = [a.reshape(-1, span * channels) for a in views]
        parallel(rows, len(wide[0]), threads, work, *wide[:-1], *(np.tile(p, span) for p in parameters), wide[-1])
        return
    views = as_grids(*operands)
    n, _, height, _ = views[0].shape
    parallel(grid, n * height * -(-channels // WIDTH), threads, 2 * work, *views[:-1], *parameters, views[-1])


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
    _join_moments(0, 1, batch_norm_plan(problem).chunk, rows, sums)
    with np.errstate(invalid="ignore", over="ignore"):
        mean[...] = sums[0, 0] / np.float64(rows)
        var[...] = sums[0, 1] / np.float64(rows)
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
    compute = compute_dtype(x)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        scale = (gamma.astype(np.float64) / np.sqrt(var.astype(np.float64) + problem.attr("eps"))).astype(compute)
        shift = beta.astype(compute)
    _map(_map_rows, _map_grid, threads, (x, out), (np.ascontiguousarray(mean), scale, shift))


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
    compute, rows = compute_dtype(x), np.float64(x.size // max(x.shape[1], 1))
    centre = np.ascontiguousarray(mean)
    sums = _sums(problem, _gradients_rows, _gradients_grid, threads, (dout, x), centre)
    total, product = sums.sum(0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        std = np.sqrt(var.astype(np.float64) + problem.attr("eps"))
        dbeta[...] = total
        dgamma[...] = product / std
        scale = (gamma.astype(np.float64) / std).astype(compute)
        shift = (total / rows).astype(compute)
        slope = (product / std / (rows * std)).astype(compute)
    _map(_gradient_rows, _gradient_grid, threads, (dout, x, dx), (centre, scale, shift, slope))
