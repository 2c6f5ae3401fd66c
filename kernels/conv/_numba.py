"""Convolution in Numba as an implicit GEMM; the contract is the folder's docstring.

Patches of a block of output positions are gathered, one row each, and multiplied with packed weights. What comes out is
f(sums) in forward and in backward_input, which are the same loops over other taps; backward_weight multiplies the
gathered rows with those of dout instead. Only the gather knows of padding, strides, dilation, dtype and memory order.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from .._common.jit import compute_dtype, inline, kernel, narrow, widen, zero
from .._common.tasks import parallel
from ..gemm._numba import SPEED, WIDE, borrowing, clear, load, padded, panel_product, span, store, width_of
from ..problem import Problem

#: Output positions in a block, and inner positions at most: 64 KiB of gathered float32.
MC, KC = 64, 256
#: Partial sums of backward_bias, and pixels that are summed in the compute dtype before they go into float64.
BIAS_SLICES, BIAS_GROUP = 64, 32

# ---- taps and blocks ------------------------------------------------------------------------------------------------


class Inner(NamedTuple):
    """The inner positions (tap, channel) of a product: where their sources are, and how they are cut into blocks."""

    taps: np.ndarray  # (taps, 5): its row and column in w, its row and column in the source at output position 0,
    # and the number of taps from it on that are neighbours on a source row
    blocks: np.ndarray  # (blocks, 5): first tap, tap after the last, first channel, channel after the last, first row
    rows: np.ndarray  # (taps, channels): the row of packed weights
    depth: int  # rows of packed weights: those of each block are a multiple of 8


class Axis(NamedTuple):
    """Output positions start + step * q, q < length, of which tap taps[t] reads q * scale + offsets[t]."""

    start: int
    step: int
    length: int
    scale: int
    taps: tuple[int, ...]
    offsets: tuple[int, ...]


def _forward_axis(out: int, kernel: int, stride: int, before: int, dilation: int) -> tuple[Axis, ...]:
    return (Axis(0, 1, out, stride, tuple(range(kernel)), tuple(t * dilation - before for t in range(kernel))),)


def _backward_axis(size: int, kernel: int, stride: int, before: int, dilation: int) -> tuple[Axis, ...]:
    """Position h meets output position i at tap t where h = i * stride + t * dilation - before: positions with the same
    remainder by the stride have the same taps."""
    axes = []
    for start in range(min(stride, size)):
        taps = tuple(t for t in reversed(range(kernel)) if (start + before - t * dilation) % stride == 0)
        offsets = tuple((start + before - t * dilation) // stride for t in taps)
        axes.append(Axis(start, stride, -(-(size - start) // stride), 1, taps, offsets))
    return tuple(axes)


@functools.lru_cache(maxsize=1024)
def _axes(problem: Problem) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
    (_, _, h, w), (_, _, kh, kw) = problem.shapes
    (sh, sw), (dh, dw), (top, _, left, _) = problem.stride, problem.dilation, problem.pads
    if problem.direction == "backward_input":
        return _backward_axis(h, kh, sh, top, dh), _backward_axis(w, kw, sw, left, dw)
    oh, ow = problem.grid()
    return _forward_axis(oh, kh, sh, top, dh), _forward_axis(ow, kw, sw, left, dw)


@functools.lru_cache(maxsize=1024)
def _inner(row: Axis, column: Axis, channels: int) -> Inner:
    taps = []
    for r, y in zip(row.taps, row.offsets, strict=True):
        for i, (s, x) in enumerate(zip(column.taps, column.offsets, strict=True)):
            run = 1
            while i + run < len(column.taps) and column.offsets[i + run] == x + run:
                run += 1
            taps.append((r, s, y, x, run))
    table = np.array(taps, np.int64).reshape(-1, 5)
    rows, blocks, depth = np.empty((len(taps), channels), np.int64), [], 0
    if taps and channels:
        parts = -(-channels // KC)
        together = max(1, KC // channels)  # taps of a block; even blocks
        together = -(-len(taps) // -(-len(taps) // together))
        for t0 in range(0, len(taps), together):
            t1 = min(t0 + together, len(taps))
            for part in range(parts):
                c0, c1 = channels * part // parts, channels * (part + 1) // parts
                blocks.append((t0, t1, c0, c1, depth))
                size = (t1 - t0) * (c1 - c0)
                rows[t0:t1, c0:c1] = depth + np.arange(size).reshape(t1 - t0, c1 - c0)
                depth += -(-size // 8) * 8
    return Inner(table, np.array(blocks, np.int64).reshape(-1, 5), rows, depth)


# ---- gather ---------------------------------------------------------------------------------------------------------


@inline
def _line_of(block):
    """Inner positions of a block, and as many more as make a multiple of 8."""
    return ((block[1] - block[0]) * (block[3] - block[2]) + 7) // 8 * 8


@inline
def _longest(blocks):
    """Of the blocks' lines."""
    found = 0
    for b in range(len(blocks)):
        found = max(found, _line_of(blocks[b]))
    return found


@borrowing
def _gather(x, at, steps, image, grid, scale, taps, block, merged, first, many, to):
    """Inner positions of one block for ``many`` output positions, one row each: [position][tap, channel]."""
    step_n, step_c, step_h, step_w = steps
    channels, line, move = block[3] - block[2], _line_of(block), scale[1]
    n, i, j = first // (grid[0] * grid[1]), first // grid[1] % grid[0], first % grid[1]
    q0 = 0
    while q0 < many:  # the positions on one output row
        count = min(many - q0, grid[1] - j)
        t, place = block[0], q0 * line
        while t < block[1]:
            y, left = i * scale[0] + taps[t, 2], j * move + taps[t, 3]
            run = min(taps[t, 4], block[1] - t) if merged else 1
            inside = 0 <= y < image[0]
            a, b = (0, count) if inside else (count, count)  # those whose taps are all between the borders
            if inside and left < 0:
                a = min(count, (move - 1 - left) // move)
            if inside and left + (count - 1) * move + run > image[1]:
                b = max(a, min(count, (image[1] - run - left + move) // move))
            source = at + n * step_n + y * step_h + left * step_w + block[2] * step_c
            for q in range(a, b):
                load(x, source + q * move * step_w, step_c, run * channels, to, place + q * line)
            for q in range(count):
                if a <= q < b:
                    continue
                for u in range(run):
                    z, target = left + q * move + u, place + q * line + u * channels
                    if inside and 0 <= z < image[1]:
                        load(x, source + (q * move + u) * step_w, step_c, channels, to, target)
                    else:
                        clear(to, target, channels)
            place += run * channels
            t += run
        q0 += count
        i, j = i + 1, 0
        if i == grid[0]:
            n, i = n + 1, 0


@borrowing
def _gather_across(x, at, steps, image, grid, scale, taps, block, first, many, to):
    """The same where neighbours in memory are pixels: [tap, channel][position]."""
    step_n, step_c, step_h, step_w = steps
    n, i, j = first // (grid[0] * grid[1]), first // grid[1] % grid[0], first % grid[1]
    q = 0
    while q < many:  # the positions on one output row
        count = min(many - q, grid[1] - j)
        place = q
        for t in range(block[0], block[1]):
            y, left = i * scale[0] + taps[t, 2], j * scale[1] + taps[t, 3]
            a, b = 0, count  # those between the borders
            if y < 0 or y >= image[0]:
                a = count
            elif left < 0:
                a = min(count, (scale[1] - 1 - left) // scale[1])
            if left + (count - 1) * scale[1] >= image[1]:
                b = max(a, min(count, (image[1] - left + scale[1] - 1) // scale[1]))
            source = at + n * step_n + y * step_h + (left + a * scale[1]) * step_w
            for c in range(block[2], block[3]):
                if a > 0:
                    clear(to, place, a)
                load(x, source + c * step_c, step_w * scale[1], b - a, to, place + a)
                if b < count:
                    clear(to, place + b, count - b)
                place += MC
        q += count
        i, j = i + 1, 0
        if i == grid[0]:
            n, i = n + 1, 0


@kernel
def _pack(first, last, w, w_place, produce, wide, taps, rows, depth, packed):
    """Weights as [group][panel][row][column]; a task is a panel of a group."""
    start, step_g, step_k, step_c, step_r, step_s = w_place
    panels = (produce + WIDE - 1) // WIDE
    for task in range(first, last):
        g, j0 = task // panels, task % panels * WIDE
        many = min(WIDE, produce - j0)
        width = width_of(many)
        panel = packed[(g * wide + j0) * depth :]
        for c in range(rows.shape[1]):
            for t in range(rows.shape[0]):
                at = start + g * step_g + j0 * step_k + c * step_c + taps[t, 0] * step_r + taps[t, 1] * step_s
                row = panel[rows[t, c] * width :]
                for j in range(many):
                    row[j] = widen(w[at + j * step_k])


# ---- forward and backward_input -------------------------------------------------------------------------------------


@borrowing
def _store_masked(sums, at, n, line, line_at, step, mask, mask_at, mask_step):
    """n sums to an array, 0 where the mask is at most 0."""
    none = zero(sums)
    for i in range(n):
        above = not widen(mask[mask_at + i * mask_step]) <= none  # NaN is
        line[line_at + i * step] = narrow(sums[at + i] if above else none, line)


@kernel
def _positions(
    first, last, groups, x, x_place, image, merged, across, taps, blocks, depth, packed, produce, wide, bias, relu,
    mask, mask_place, masked, out, out_place, grid, scale, starts, strides, positions,
):  # fmt: skip
    """f(sums) of blocks of MC output positions: those at start + stride * q on both axes, q in the grid."""
    patches, sums = np.zeros(MC * _longest(blocks), bias.dtype), np.empty(MC * wide, bias.dtype)
    reduce = blocks[len(blocks) - 1, 3] if len(blocks) > 0 else 0
    steps = (x_place[1], x_place[2], x_place[3], x_place[4])
    for task in range(first, last):
        p0 = task * MC
        many = min(MC, positions - p0)
        rows = (many + 7) // 8 * 8  # what is in the last of them does not matter
        for g in range(groups):
            clear(sums, 0, sums.size)
            at = x_place[0] + g * reduce * x_place[2]
            for b in range(len(blocks)):
                block = blocks[b]
                size = (block[1] - block[0]) * (block[3] - block[2])
                if across:
                    _gather_across(x, at, steps, image, grid, scale, taps, block, p0, many, patches)
                    row, step = 1, MC
                else:
                    _gather(x, at, steps, image, grid, scale, taps, block, merged, p0, many, patches)
                    row, step = _line_of(block), 1
                for j0 in range(0, produce, WIDE):
                    width = width_of(produce - j0)
                    panel = (g * wide + j0) * depth + block[4] * width
                    panel_product(width, rows, size, patches, row, step, packed, panel, sums, j0 * MC)
            n, i, j = p0 // (grid[0] * grid[1]), p0 // grid[1] % grid[0], p0 % grid[1]
            for q in range(many):
                y, z, k0 = starts[0] + i * strides[0], starts[1] + j * strides[1], g * produce
                to = out_place[0] + n * out_place[1] + k0 * out_place[2] + y * out_place[3] + z * out_place[4]
                seen = mask_place[0] + n * mask_place[1] + k0 * mask_place[2] + y * mask_place[3] + z * mask_place[4]
                for j0 in range(0, produce, WIDE):
                    columns = min(WIDE, produce - j0)
                    found = j0 * MC + q * width_of(columns)
                    to_j, seen_j = to + j0 * out_place[2], seen + j0 * mask_place[2]
                    if masked:
                        _store_masked(sums, found, columns, out, to_j, out_place[2], mask, seen_j, mask_place[2])
                    else:
                        store(sums, found, bias, k0 + j0, columns, relu, out, to_j, out_place[2])
                j += 1
                if j == grid[1]:
                    i, j = i + 1, 0
                    if i == grid[0]:
                        n, i = n + 1, 0


@borrowing
def _position_of_channels(x, at, step, step_h, step_w, image, y, z, taps, weights, sums):
    """sums[c] = the products of all taps with the channels around (y, z)."""
    channels = sums.size
    clear(sums, 0, channels)
    t = 0
    while t < len(taps):
        source_y, source_x = y + taps[t, 2], z + taps[t, 3]
        place, factors = at + source_y * step_h + source_x * step_w, weights[t]
        if source_y < 0 or source_y >= image[0] or source_x < 0 or source_x >= image[1]:
            t += 1
        elif step == 1 and taps[t, 4] >= 3 and source_x + 3 <= image[1]:  # three neighbours
            factors1, factors2 = weights[t + 1], weights[t + 2]
            values, values1 = x[place : place + channels], x[place + step_w : place + step_w + channels]
            values2 = x[place + 2 * step_w : place + 2 * step_w + channels]
            for c in range(sums.size):
                v = sums[c] + widen(values[c]) * factors[c]
                sums[c] = v + widen(values1[c]) * factors1[c] + widen(values2[c]) * factors2[c]
            t += 3
        elif step == 1:
            values = x[place : place + channels]
            for c in range(sums.size):
                sums[c] += widen(values[c]) * factors[c]
            t += 1
        else:
            for c in range(sums.size):
                sums[c] += widen(x[place + c * step]) * factors[c]
            t += 1


@borrowing
def _weights_of_channels(x, at, step, step_h, step_w, image, y, z, taps, right, sums):
    """sums[tap][c] += the channels around (y, z) times right[c]."""
    for t in range(len(taps)):
        source_y, source_x = y + taps[t, 2], z + taps[t, 3]
        if source_y < 0 or source_y >= image[0] or source_x < 0 or source_x >= image[1]:
            continue
        place, total = at + source_y * step_h + source_x * step_w, sums[t]
        if step == 1:
            values = x[place : place + total.size]
            for c in range(total.size):
                total[c] += widen(values[c]) * right[c]
        else:
            for c in range(total.size):
                total[c] += widen(x[place + c * step]) * right[c]


@kernel
def _depthwise(
    first, last, x, x_place, image, taps, weights, bias, relu, mask, mask_place, masked, out, out_place, grid, scale,
    starts, strides,
):  # fmt: skip
    """Groups of one channel that produce one: a position's channels go side by side. A task is an output row."""
    channels = weights.shape[1]
    sums = np.empty(channels, bias.dtype)
    for task in range(first, last):
        n, i = task // grid[0], task % grid[0]
        y, at = starts[0] + i * strides[0], x_place[0] + n * x_place[1]
        for j in range(grid[1]):
            _position_of_channels(
                x, at, x_place[2], x_place[3], x_place[4], image, i * scale[0], j * scale[1], taps, weights, sums
            )
            z = starts[1] + j * strides[1]
            to = out_place[0] + n * out_place[1] + y * out_place[3] + z * out_place[4]
            if masked:
                seen = mask_place[0] + n * mask_place[1] + y * mask_place[3] + z * mask_place[4]
                _store_masked(sums, 0, channels, out, to, out_place[2], mask, seen, mask_place[2])
            else:
                store(sums, 0, bias, 0, channels, relu, out, to, out_place[2])


def _run(
    problem: Problem, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, mask: np.ndarray | None, out: np.ndarray,
    threads: int,
) -> None:  # fmt: skip
    """Forward, or backward_input where ``w`` has its channels exchanged: (groups, produced, summed, rows, columns)."""
    if out.size == 0:
        return
    compute, groups, (produce, reduce) = compute_dtype(out), problem.groups, w.shape[1:3]
    wide = padded(produce)
    added = np.zeros(groups * produce, compute) if bias is None else np.ascontiguousarray(bias, compute)
    source, place = span(x)
    weights, w_place = span(w)
    target, out_place = span(out, True)
    seen, seen_place = span(out if mask is None else mask)
    where = (seen, seen_place, mask is not None, target, out_place)
    relu = problem.epilogue == "bias_relu"
    for row in _axes(problem)[0]:
        for column in _axes(problem)[1]:
            inner = _inner(row, column, reduce)
            axes = (
                (row.length, column.length),
                (row.scale, column.scale),
                (row.start, column.start),
                (row.step, column.step),
            )
            positions = out.shape[0] * row.length * column.length
            if (produce, reduce) == (1, 1):
                factors = w[:, 0, 0, inner.taps[:, 0], inner.taps[:, 1]].T
                work = 0.3 * positions * groups * (1 + len(inner.taps))
                parallel(
                    _depthwise, out.shape[0] * row.length, threads, work, source, place, x.shape[2:], inner.taps,
                    np.ascontiguousarray(factors, compute), added, relu, *where, *axes,
                )  # fmt: skip
                continue
            packed = np.zeros(groups * wide * inner.depth, compute)
            if inner.depth:
                parallel(
                    _pack, groups * -(-produce // WIDE), threads, packed.size, weights, w_place, produce, wide,
                    inner.taps, inner.rows, inner.depth, packed,
                )  # fmt: skip
            work = positions * groups * (inner.depth * (wide / SPEED + 0.2) + produce)
            parallel(
                _positions, -(-positions // MC), threads, work, groups, source, place, x.shape[2:],
                *_memory(place, reduce), inner.taps, inner.blocks, inner.depth, packed, produce, wide, added, relu,
                *where, *axes, positions,
            )  # fmt: skip


def _memory(place: tuple[int, ...], channels: int) -> tuple[bool, bool]:
    """Whether pixels next to each other on a row are dense in memory, and whether channels lie farther apart."""
    _, _, c, _, w = place
    return w == channels * c, channels == 1 or abs(w) < abs(c)


def _grouped(problem: Problem, w: np.ndarray) -> np.ndarray:
    """Weights as (groups, output channels, input channels, rows, columns)."""
    return w.reshape(problem.groups, len(w) // problem.groups, *w.shape[1:])


def conv2d_forward(
    problem: Problem, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, out: np.ndarray, threads: int
) -> None:
    """out = f(correlation of x with w, + b)."""
    _run(problem, x, _grouped(problem, w), b, None, out, threads)


def conv2d_backward_input(
    problem: Problem, dout: np.ndarray, w: np.ndarray, y: np.ndarray | None, dx: np.ndarray, threads: int
) -> None:
    """dx = what each input element contributed, weighted by dout; 0 where y <= 0."""
    _run(problem, dout, _grouped(problem, w).transpose(0, 2, 1, 3, 4), None, y, dx, threads)


# ---- backward_weight ------------------------------------------------------------------------------------------------


@kernel
def _weight_parts(
    first, last, groups, slices, x, x_place, image, merged, across, taps, blocks, depth, dout, d_place, produce, wide,
    grid, scale, positions, parts,
):  # fmt: skip
    """A task: the rows of one block of one group, summed over one slice of the positions."""
    patches, right = np.zeros(MC * _longest(blocks), parts.dtype), np.zeros(MC * wide, parts.dtype)
    runs, reduce = (positions + MC - 1) // MC, blocks[len(blocks) - 1, 3]
    steps = (x_place[1], x_place[2], x_place[3], x_place[4])
    for task in range(first, last):
        block, g, part = blocks[task % len(blocks)], task // len(blocks) % groups, task // len(blocks) // groups
        line, at = _line_of(block), x_place[0] + g * reduce * x_place[2]
        for run in range(runs * part // slices, runs * (part + 1) // slices):
            p0 = run * MC
            many = min(MC, positions - p0)
            if across:
                _gather_across(x, at, steps, image, grid, scale, taps, block, p0, many, patches)
                row, step = MC, 1
            else:
                _gather(x, at, steps, image, grid, scale, taps, block, merged, p0, many, patches)
                row, step = 1, line
            n, i, j = p0 // (grid[0] * grid[1]), p0 // grid[1] % grid[0], p0 % grid[1]
            for q in range(many):
                start = d_place[0] + n * d_place[1] + g * produce * d_place[2] + i * d_place[3] + j * d_place[4]
                for j0 in range(0, produce, WIDE):
                    columns = min(WIDE, produce - j0)
                    to = j0 * MC + q * width_of(columns)
                    load(dout, start + j0 * d_place[2], d_place[2], columns, right, to)
                j += 1
                if j == grid[1]:
                    i, j = i + 1, 0
                    if i == grid[0]:
                        n, i = n + 1, 0
            for j0 in range(0, produce, WIDE):
                width = width_of(produce - j0)
                sums = ((part * groups + g) * wide + j0) * depth + block[4] * width
                panel_product(width, line, many, patches, row, step, right, j0 * MC, parts, sums)


@kernel
def _weight_sums(first, last, slices, parts, rows, taps, depth, produce, wide, dw, dw_place):
    """Adds up the slices in order; a task is one channel of one group."""
    start, step_g, step_k, step_c, step_r, step_s = dw_place
    size = parts.size // slices
    total = np.empty(WIDE, parts.dtype)
    for task in range(first, last):
        g, c = task // rows.shape[1], task % rows.shape[1]
        for t in range(rows.shape[0]):
            at = start + g * step_g + c * step_c + taps[t, 0] * step_r + taps[t, 1] * step_s
            for j0 in range(0, produce, WIDE):
                width = width_of(produce - j0)
                place = (g * wide + j0) * depth + rows[t, c] * width
                total[:] = zero(total)
                for part in range(slices):
                    sums = parts[part * size + place : part * size + place + width]
                    for j in range(sums.size):
                        total[j] += sums[j]
                for j in range(min(WIDE, produce - j0)):
                    dw[at + (j0 + j) * step_k] = narrow(total[j], dw)


@kernel
def _depthwise_weight(first, last, slices, x, x_place, image, taps, dout, d_place, grid, scale, lines, parts):
    """parts[slice][tap][channel] of groups of one channel; a task is a slice of the output rows."""
    channels = parts.shape[2]
    right = np.empty(channels, parts.dtype)
    for part in range(first, last):
        sums = parts[part]
        for line in range(lines * part // slices, lines * (part + 1) // slices):
            n, i = line // grid[0], line % grid[0]
            for j in range(grid[1]):
                at = d_place[0] + n * d_place[1] + i * d_place[3] + j * d_place[4]
                load(dout, at, d_place[2], channels, right, 0)
                at = x_place[0] + n * x_place[1]
                _weights_of_channels(
                    x, at, x_place[2], x_place[3], x_place[4], image, i * scale[0], j * scale[1], taps, right, sums
                )


def conv2d_backward_weight(problem: Problem, dout: np.ndarray, x: np.ndarray, dw: np.ndarray, threads: int) -> None:
    """dw = correlation of x with dout."""
    if dw.size == 0:
        return
    groups, grouped = problem.groups, _grouped(problem, dw)
    produce, reduce = grouped.shape[1:3]
    wide, positions = padded(produce), dout.shape[0] * dout.shape[2] * dout.shape[3]
    ((row,), (column,)) = _axes(problem)
    inner = _inner(row, column, reduce)
    source, place = span(x)
    axes = ((row.length, column.length), (row.scale, column.scale))
    if (produce, reduce) == (1, 1):
        lines = dout.shape[0] * row.length
        each = np.zeros((max(1, min(16, lines)), len(inner.taps), groups), compute_dtype(dw))
        parallel(
            _depthwise_weight, len(each), threads, 0.3 * positions * groups * len(inner.taps), len(each), source, place,
            x.shape[2:], inner.taps, *span(dout), *axes, lines, each,
        )  # fmt: skip
        with np.errstate(all="ignore"):
            dw[...] = _in_order(each).T.reshape(dw.shape)
        return
    blocks = len(inner.blocks) * groups
    slices = max(1, min(-(-16 // blocks), -(-positions // MC)))
    parts = np.zeros(slices * groups * wide * inner.depth, compute_dtype(dw))
    work = positions * groups * inner.depth * (wide / SPEED + 0.2)
    parallel(
        _weight_parts, slices * blocks, threads, work, groups, slices, source, place, x.shape[2:],
        *_memory(place, reduce), inner.taps, inner.blocks, inner.depth, *span(dout), produce, wide, *axes,
        positions, parts,
    )  # fmt: skip
    parallel(
        _weight_sums, groups * reduce, threads, parts.size, slices, parts, inner.rows, inner.taps, inner.depth, produce,
        wide, *span(grouped, True),
    )  # fmt: skip


def _in_order(parts: np.ndarray) -> np.ndarray:
    """The sum along the first axis, from first to last."""
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


# ---- backward_bias --------------------------------------------------------------------------------------------------


@kernel
def _bias_parts(first, last, dout, place, shape, none, parts):
    """parts[slice] = the sum of its pixels."""
    channels, height, width = shape[1], shape[2], shape[3]
    pixels, step = shape[0] * height * width, place[2]
    dense = place[3] == width * place[4] and place[1] == height * place[3]
    sums, offsets = np.empty(channels, none.dtype), np.empty(BIAS_GROUP, np.int64)
    for part in range(first, last):
        total = parts[part]
        end = pixels * (part + 1) // BIAS_SLICES
        for p0 in range(pixels * part // BIAS_SLICES, end, BIAS_GROUP):
            many = min(BIAS_GROUP, end - p0)
            if not dense:
                for q in range(many):
                    n, i, j = (p0 + q) // (height * width), (p0 + q) // width % height, (p0 + q) % width
                    offsets[q] = place[0] + n * place[1] + i * place[3] + j * place[4]
            clear(sums, 0, channels)
            if step == 1:
                fours = many // 4 * 4 if dense else 0
                for q in range(0, fours, 4):
                    at = place[0] + (p0 + q) * place[4]
                    row, row1 = dout[at : at + channels], dout[at + place[4] : at + place[4] + channels]
                    at += 2 * place[4]
                    row2, row3 = dout[at : at + channels], dout[at + place[4] : at + place[4] + channels]
                    for c in range(sums.size):
                        sums[c] = sums[c] + widen(row[c]) + widen(row1[c]) + widen(row2[c]) + widen(row3[c])
                for q in range(fours, many):
                    at = place[0] + (p0 + q) * place[4] if dense else offsets[q]
                    row = dout[at : at + channels]
                    for c in range(row.size):
                        sums[c] += widen(row[c])
            else:
                for c in range(channels):
                    found = zero(sums)
                    for q in range(many):
                        at = place[0] + (p0 + q) * place[4] if dense else offsets[q]
                        found += widen(dout[at + c * step])
                    sums[c] = found
            for c in range(channels):
                total[c] += sums[c]


def conv2d_backward_bias(problem: Problem, dout: np.ndarray, db: np.ndarray, threads: int) -> None:
    """db = dout summed over everything but the channels."""
    compute = compute_dtype(dout)
    parts = np.zeros((BIAS_SLICES, dout.shape[1]))
    if dout.size:
        parallel(
            _bias_parts, BIAS_SLICES, threads, 0.2 * dout.size, *span(dout), dout.shape, np.empty(0, compute), parts
        )
    with np.errstate(all="ignore"):
        db[...] = _in_order(parts).astype(compute)
