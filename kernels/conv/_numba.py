"""Convolution in Numba; the contract is the folder's docstring.

A task is a block of output positions. The pixels that they read are copied once, with the padding, as
[image][row][column][channel] in the compute dtype: only this copy knows of borders, strides, storage dtype and memory
order. There the taps of a filter's row at a position lie one behind the other, and the register tiles multiply them
with packed weights where they are. What comes out is f(sums) in forward and in backward_input, which are the same loops
over other taps; backward_weight multiplies pixels with dout instead, and sums over positions. Groups of one channel
that produce one are in ``_numba_depthwise.py``.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from .._common.jit import compute_dtype, kernel, narrow, widen, zero
from .._common.streaming import STREAM_BYTES
from .._common.tasks import parallel
from .._common.tiles import SPEED, WIDE, aligned, clear, padded, panel_product, span, store_line, width_of
from .._common.vectors import fence, scratch
from ..pool._numba import max_pool2d_forward
from ..problem import Problem
from . import _numba_depthwise as depthwise
from ._numba_axes import as_line, block_of, copy_patch, place_of, repeated, store_masked
from .plan import Axis

#: Products of a sum between two visits to memory, at most: 64 KiB of weights.
KC = 256
#: Taps by channels whose gradients are summed at once: for a panel 144 KiB, which an L2 keeps.
PRODUCTS = 576
#: Tasks, at least, where a problem is large enough: for any number of threads up to that.
TASKS = 16
#: Partial sums of backward_bias, and pixels that are summed in the compute dtype before they go into float64.
BIAS_SLICES, BIAS_GROUP = 64, 32

# ---- weights --------------------------------------------------------------------------------------------------------


class Inner(NamedTuple):
    """The products that an output sums up: how weights are packed, and where their factors are in a patch.

    A segment is what lies one behind the other there: the taps of a filter's row, or one tap. A chunk has several
    segments, or a part of one, and at most ``KC`` products.
    """

    taps: np.ndarray  # (taps, 2): row and column in w
    rows: np.ndarray  # (taps, channels): the row of packed weights
    depth: int  # rows of packed weights
    starts: np.ndarray  # of segments
    chunks: np.ndarray  # (chunks, 5): first segment, segments, first element in each, elements, row of packed weights


def _segments(row: Axis, column: Axis, merged: bool) -> tuple[np.ndarray, np.ndarray, int]:
    """Taps (row and column in w); (source row, source column) of each segment in a patch; and taps in a segment."""
    taps = np.array([(r, s) for r in row.taps for s in column.taps], np.int64).reshape(-1, 2)
    places = [(y - row.low, x - column.low) for y in row.offsets for x in column.offsets]
    run = len(column.taps) if merged and column.reach == len(column.taps) else 1
    return taps, np.array(places[::run], np.int64).reshape(-1, 2), run


@functools.lru_cache(maxsize=1024)
def _inner(row: Axis, column: Axis, patch_w: int, groups: int, channels: int) -> Inner:
    taps, places, run = _segments(row, column, groups == 1)
    segments, length = len(places), run * channels
    rows, chunks, depth = np.empty((segments, length), np.int64), [], 0
    parts = max(1, -(-length // KC))
    together = max(1, KC // max(length, 1))
    together = -(-segments // max(1, -(-segments // together))) or 1  # even chunks
    for s0 in range(0, segments if length else 0, together):
        many = min(together, segments - s0)
        for part in range(parts):
            e0, e1 = length * part // parts, length * (part + 1) // parts
            chunks.append((s0, many, e0, e1 - e0, depth))
            rows[s0 : s0 + many, e0:e1] = depth + np.arange(many * (e1 - e0)).reshape(many, e1 - e0)
            depth += many * (e1 - e0)
    starts = (places[:, 0] * patch_w + places[:, 1]) * groups * channels
    table = np.array(chunks, np.int64).reshape(-1, 5)
    return Inner(taps, rows.reshape(len(taps), channels), depth, np.ascontiguousarray(starts), table)


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


@kernel
def _positions(
    first, last, groups, parts, x, x_place, image, block, used, pixels, starts, chunks, depth, packed, produce, reduce,
    wide, bias, relu, mask, mask_place, masked, out, out_place, around, images, grid, corner, strides,
):  # fmt: skip
    """f(sums) of blocks of output positions: those at corner + strides * q, q in the grid. ``parts`` tasks, each with
    some of the panels, to a block."""
    columns_wide = (block[2] + 7) // 8 * 8
    patch = scratch(pixels * groups * reduce, zero(bias))
    sums = scratch(block[0] * block[1] * columns_wide * min(wide, WIDE), zero(bias))
    pitch, panels, line = groups * reduce, (produce + WIDE - 1) // WIDE, block[11] * groups * reduce
    column_step = out_place[4] * strides[1]
    for task in range(first, last):
        n, i, j, many, high, columns = place_of(block, task // parts, images, grid)
        copy_patch(x, x_place, image, block, used, n, i, j, many, high, columns, 0, pitch, pitch, patch)
        part = task % parts
        for p in range(groups * panels * part // parts, groups * panels * (part + 1) // parts):
            g, j0 = p // panels, p % panels * WIDE
            k0, channels = g * produce + j0, min(WIDE, produce - j0)
            width = width_of(channels)
            clear(sums, 0, many * block[1] * columns_wide * width)
            for c in range(len(chunks)):
                weights = (g * wide + j0) * depth + chunks[c, 4] * width
                for m in range(many):
                    for r in range(high):
                        panel_product(
                            width, (columns + 3) // 4 * 4, chunks[c, 1], starts, chunks[c, 0], chunks[c, 3], patch,
                            (m * block[10] + r * block[6]) * line + g * reduce + chunks[c, 2], block[7] * pitch, 1,
                            packed, weights, width, sums, (m * block[1] + r) * columns_wide * width,
                        )  # fmt: skip
            dense = width == channels and out_place[2] == 1 and column_step == channels and not masked
            for m in range(many):
                for r in range(high):
                    at = (m * block[1] + r) * columns_wide * width
                    y, z = corner[0] + (i + r) * strides[0], corner[1] + j * strides[1]
                    to = out_place[0] + (n + m) * out_place[1] + k0 * out_place[2] + y * out_place[3] + z * out_place[4]
                    if dense:
                        store_line(sums, at, bias, 0, columns * width, relu, out, to, 1, around)
                        continue
                    if masked:
                        seen = mask_place[0] + (n + m) * mask_place[1] + k0 * mask_place[2] + y * mask_place[3]
                        seen += z * mask_place[4]
                        for q in range(columns):
                            store_masked(
                                sums, at + q * width, channels, out, to + q * column_step, out_place[2], mask,
                                seen + q * mask_place[4] * strides[1], mask_place[2],
                            )  # fmt: skip
                        continue
                    for q in range(columns):
                        store_line(
                            sums,
                            at + q * width,
                            bias,
                            k0,
                            channels,
                            relu,
                            out,
                            to + q * column_step,
                            out_place[2],
                            around,
                        )
    fence()


def _run(
    problem: Problem, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None, mask: np.ndarray | None, out: np.ndarray,
    threads: int,
) -> None:  # fmt: skip
    """Forward, or backward_input where ``w`` has its channels exchanged: (groups, produced, summed, rows, columns)."""
    if out.size == 0:
        return
    rows, columns, (x, out, *masks) = as_line(problem, x, out, *(() if mask is None else (mask,)))
    compute, groups, (produce, reduce) = compute_dtype(out), problem.groups, w.shape[1:3]
    images, wide, panels = out.shape[0], padded(produce), -(-produce // WIDE)
    added = np.zeros(groups * produce, compute) if bias is None else np.ascontiguousarray(bias, compute)
    source, place = span(x)
    target, out_place = span(out, True)
    seen, seen_place = span(masks[0] if masks else out)
    around = out.nbytes >= STREAM_BYTES and out.dtype == compute
    relu, alone = problem.epilogue == "bias_relu", (produce, reduce) == (1, 1)
    if groups == 1 and produce == wide <= WIDE:  # a row of outputs is one line
        added = repeated(added)
    weights, w_place = span(w)
    for row in rows:
        for column in columns:
            block, numbers, used, _ = block_of(row, column, images, groups * reduce, min(wide, WIDE))
            where = (
                added, relu, seen, seen_place, mask is not None, target, out_place, around, images,
                (row.length, column.length), (row.start, column.start), (row.step, column.step),
            )  # fmt: skip
            if alone:
                depthwise.correlate(row, column, source, place, x.shape, w, threads, *where)
                continue
            inner = _inner(row, column, block.patch_w, groups, reduce)
            packed = aligned(groups * wide * inner.depth, compute)
            if inner.depth:
                parallel(
                    _pack, groups * panels, threads, packed.size, weights, w_place, produce, wide, inner.taps,
                    inner.rows, inner.depth, packed,
                )  # fmt: skip
            parts = min(groups * panels, -(-TASKS // block.blocks))
            work = images * row.length * column.length * groups * (inner.depth * wide / SPEED + produce)
            parallel(
                _positions, block.blocks * parts, threads, work, groups, parts, source, place, x.shape[2:], numbers,
                used, block.pixels, inner.starts, inner.chunks, inner.depth, packed, produce, reduce, wide, *where,
            )  # fmt: skip


def _grouped(problem: Problem, w: np.ndarray) -> np.ndarray:
    """Weights as (groups, output channels, input channels, rows, columns)."""
    return w.reshape(problem.groups, len(w) // problem.groups, *w.shape[1:])


def conv2d_forward(
    problem: Problem, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, out: np.ndarray, threads: int
) -> None:
    """out = f(correlation of x with w, + b)."""
    _run(problem, x, _grouped(problem, w), b, None, out, threads)


def conv2d_forward_pooled(
    problem: Problem,
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray,
    out: np.ndarray | None,
    pooled: np.ndarray,
    indices: np.ndarray | None,
    threads: int,
) -> None:
    """out = relu(correlation of x with w, + b); pooled, indices = the largest of its 2x2 windows. Two passes."""
    if out is None:
        n, channels = pooled.shape[:2]
        out = np.empty((n, *problem.grid(), channels), pooled.dtype).transpose(0, 3, 1, 2)
    conv2d_forward(problem, x, w, b, out, threads)
    windows = Problem(
        "max_pool2d", "forward", (out.shape,), problem.storage, stride=(2, 2), attrs=(("kernel", (2, 2)),)
    )
    max_pool2d_forward(windows, out, pooled, indices, threads)


def conv2d_backward_input(
    problem: Problem, dout: np.ndarray, w: np.ndarray, y: np.ndarray | None, dx: np.ndarray, threads: int
) -> None:
    """dx = what each input element contributed, weighted by dout; 0 where y <= 0."""
    _run(problem, dout, _grouped(problem, w).transpose(0, 2, 1, 3, 4), None, y, dx, threads)


# ---- backward_weight ------------------------------------------------------------------------------------------------


class Weights(NamedTuple):
    """How the gradients of a group's weights are laid out while they are summed: rows (tap, channel) of a panel."""

    taps: np.ndarray  # (taps, 2): row and column in w
    rows: np.ndarray  # (taps, channels)
    depth: int
    starts: np.ndarray  # pixels from the start of a patch to each segment
    chunks: np.ndarray  # (chunks, 4): first channel, channels, first row, rows of a segment


def _together(taps: int) -> int:
    """Channels, at most, whose gradients are summed at once."""
    return max(16, PRODUCTS // max(taps, 1))


@functools.lru_cache(maxsize=1024)
def _weights(row: Axis, column: Axis, patch_w: int, channels: int) -> Weights:
    taps, places, run = _segments(row, column, True)
    rows, chunks, depth = np.empty((len(taps), channels), np.int64), [], 0
    parts = -(-channels // _together(len(taps)))
    for part in range(parts):
        c0, c1 = channels * part // parts, channels * (part + 1) // parts
        size = -(-run * (c1 - c0) // 8) * 8
        chunks.append((c0, c1 - c0, depth, size))
        for s in range(len(places)):
            rows[s * run : (s + 1) * run, c0:c1] = depth + s * size + np.arange(run * (c1 - c0)).reshape(run, -1)
        depth += len(places) * size
    starts = np.ascontiguousarray(places[:, 0] * patch_w + places[:, 1])
    return Weights(taps, rows, depth, starts, np.array(chunks, np.int64))


@kernel
def _weight_parts(
    first, last, groups, slices, x, x_place, image, block, used, pixels, outputs, starts, chunks, depth, dout, d_place,
    produce, reduce, wide, images, grid, parts,
):  # fmt: skip
    """A task: a panel of some channels of a group, summed over a slice of the blocks of positions."""
    most = 0
    for c in range(len(chunks)):
        most = max(most, chunks[c, 1])
    patch = scratch(pixels * most + 8, zero(parts))
    right = scratch(block[0] * block[1] * block[2] * min(wide, WIDE), zero(parts))
    panels, lines = (produce + WIDE - 1) // WIDE, np.empty(block[0] * block[1], np.int64)
    every = np.ones(block[1], np.uint8)
    for task in range(first, last):
        c, p = task % len(chunks), task // len(chunks) % (groups * panels)
        part = task // (len(chunks) * groups * panels)
        g, j0 = p // panels, p % panels * WIDE
        k, width = min(WIDE, produce - j0), width_of(produce - j0)
        c0, channels, rows = chunks[c, 0], chunks[c, 1], chunks[c, 3]
        base = ((part * groups + g) * wide + j0) * depth + chunks[c, 2] * width
        for b in range(block[5] * part // slices, block[5] * (part + 1) // slices):
            n, i, j, many, high, columns = place_of(block, b, images, grid)
            copy_patch(
                x, x_place, image, block, used, n, i, j, many, high, columns, g * reduce + c0, channels, channels, patch
            )
            copy_patch(
                dout, d_place, grid, outputs, every, n, i, j, many, high, columns, g * produce + j0, k, width, right
            )
            for m in range(many):
                for r in range(high):
                    lines[m * high + r] = (m * block[10] + r * block[6]) * block[11] * channels
            if columns < block[2] or high < block[1]:  # rows of the gradient one behind the other
                for line in range(many * high):
                    at = (line // high * block[1] + line % high) * block[2] * width
                    for q in range(columns * width):
                        right[line * columns * width + q] = right[at + q]
            for s in range(len(starts)):
                panel_product(
                    width, rows, many * high, lines, 0, columns, patch, starts[s] * channels, 1, block[7] * channels,
                    right, 0, width, parts, base + s * rows * width,
                )  # fmt: skip


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


def conv2d_backward_weight(problem: Problem, dout: np.ndarray, x: np.ndarray, dw: np.ndarray, threads: int) -> None:
    """dw = correlation of x with dout."""
    if dw.size == 0:
        return
    groups, grouped = problem.groups, _grouped(problem, dw)
    produce, reduce = grouped.shape[1:3]
    if dout.size == 0:
        dw[...] = 0
        return
    (row,), (column,), (x, dout) = as_line(problem, x, dout)
    images, wide, panels = dout.shape[0], padded(produce), -(-produce // WIDE)
    if (produce, reduce) == (1, 1):
        depthwise.correlate_weights(row, column, x, dout, dw, threads)
        return
    together = min(reduce, _together(len(row.taps) * len(column.taps)))
    block, numbers, used, outputs = block_of(row, column, images, together, min(wide, WIDE))
    weights = _weights(row, column, block.patch_w, reduce)
    tasks = groups * panels * len(weights.chunks)
    slices = max(1, min(-(-TASKS // tasks), block.blocks))
    parts = aligned(slices * groups * wide * weights.depth, compute_dtype(dw))
    work = images * row.length * column.length * groups * weights.depth * wide / SPEED
    parallel(
        _weight_parts, slices * tasks, threads, work, groups, slices, *span(x), x.shape[2:], numbers, used,
        block.pixels, outputs, weights.starts, weights.chunks, weights.depth, *span(dout), produce, reduce, wide,
        images, (row.length, column.length), parts,
    )  # fmt: skip
    parallel(
        _weight_sums, groups * reduce, threads, parts.size, slices, parts, weights.rows, weights.taps, weights.depth,
        produce, wide, *span(grouped, True),
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
