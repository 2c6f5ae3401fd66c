"""Convolution in groups of one channel that produce one: a register holds neighbouring channels of a pixel."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._common.jit import compute_dtype, kernel, zero
from .._common.tasks import parallel
from .._common.tiles import clear, span, store_line, tile
from .._common.vectors import fence, lanes, load, scratch, store
from ._numba_axes import block_of, copy_patch, place_of, repeated, store_masked
from .plan import Axis

#: Channels of a patch at most, so that an L1 keeps some rows of it (64 would read memory in too short pieces: 128
#: channels of 56x56 then took 1.8 times as long); filled up to a multiple of a register of float32.
TOGETHER, FILL = 128, 16
#: Taps whose gradients are summed at once, in registers: those of 3x3.
TAPS = 9
#: Tasks of the gradient of the weights, at least.
TASKS = 16


def _bundles(channels: int) -> tuple[int, int]:
    """Into how many bundles channels are cut, and the channels of one, filled up."""
    bundles = -(-channels // TOGETHER)
    pitch = -(-channels // (bundles * FILL)) * FILL
    return -(-channels // pitch), pitch


@tile
def _tile_8x1(taps, starts, patch, at, row, w, w_at, w_step, c, c_at):
    """c[8][1 register] += the sum over the taps of patch[8] * w, channel by channel."""
    s0, s1 = load(c, c_at), load(c, c_at + w_step)
    s2, s3 = load(c, c_at + 2 * w_step), load(c, c_at + 3 * w_step)
    s4, s5 = load(c, c_at + 4 * w_step), load(c, c_at + 5 * w_step)
    s6, s7 = load(c, c_at + 6 * w_step), load(c, c_at + 7 * w_step)
    for t in range(taps):
        v, i = load(w, w_at + t * w_step), at + starts[t]
        s0 = load(patch, i) * v + s0
        s1 = load(patch, i + row) * v + s1
        s2 = load(patch, i + 2 * row) * v + s2
        s3 = load(patch, i + 3 * row) * v + s3
        s4 = load(patch, i + 4 * row) * v + s4
        s5 = load(patch, i + 5 * row) * v + s5
        s6 = load(patch, i + 6 * row) * v + s6
        s7 = load(patch, i + 7 * row) * v + s7
    store(c, c_at, s0), store(c, c_at + w_step, s1)
    store(c, c_at + 2 * w_step, s2), store(c, c_at + 3 * w_step, s3)
    store(c, c_at + 4 * w_step, s4), store(c, c_at + 5 * w_step, s5)
    store(c, c_at + 6 * w_step, s6), store(c, c_at + 7 * w_step, s7)


@kernel
def _correlate(
    first, last, bundles, x, x_place, image, block, used, pixels, starts, w, all_channels, pitch, bias, relu, mask,
    mask_place, masked, out, out_place, around, images, grid, corner, strides,
):  # fmt: skip
    """A task: a bundle of channels of a block."""
    wide, line = (block[2] + 7) // 8 * 8, block[11] * pitch
    patch, sums = scratch(pixels * pitch, zero(bias)), scratch(wide * pitch, zero(bias))
    column_step = out_place[4] * strides[1]
    dense = pitch == all_channels == column_step and out_place[2] == 1 and not masked
    for task in range(first, last):
        n, i, j, many, high, columns = place_of(block, task // bundles, images, grid)
        c0 = task % bundles * pitch
        channels, weights = min(pitch, all_channels - c0), c0 * len(starts)
        copy_patch(x, x_place, image, block, used, n, i, j, many, high, columns, c0, channels, pitch, patch)
        for m in range(many):
            for r in range(high):
                clear(sums, 0, sums.size)
                at = (m * block[10] + r * block[6]) * line
                for c in range(0, pitch, lanes(sums)):
                    for q in range(0, columns, 8):
                        _tile_8x1(
                            len(starts), starts, patch, at + q * block[7] * pitch + c, block[7] * pitch, w, weights + c,
                            pitch, sums, q * pitch + c,
                        )  # fmt: skip
                y, z = corner[0] + (i + r) * strides[0], corner[1] + j * strides[1]
                to = out_place[0] + (n + m) * out_place[1] + c0 * out_place[2] + y * out_place[3] + z * out_place[4]
                if dense:
                    store_line(sums, 0, bias, 0, columns * channels, relu, out, to, 1, around)
                elif masked:
                    seen = mask_place[0] + (n + m) * mask_place[1] + c0 * mask_place[2]
                    seen += y * mask_place[3] + z * mask_place[4]
                    for q in range(columns):
                        store_masked(
                            sums, q * pitch, channels, out, to + q * column_step, out_place[2], mask,
                            seen + q * mask_place[4] * strides[1], mask_place[2],
                        )  # fmt: skip
                else:
                    for q in range(columns):
                        store_line(
                            sums, q * pitch, bias, c0, channels, relu, out, to + q * column_step, out_place[2], around
                        )
    fence()


def correlate(
    row: Axis, column: Axis, x: np.ndarray, place: tuple[int, ...], shape: tuple[int, ...], w: np.ndarray, threads: int,
    bias: np.ndarray, *where: Any,
) -> None:  # fmt: skip
    """Forward, or backward_input; ``w`` is (channels, 1, 1, rows, columns)."""
    images, channels = shape[:2]
    bundles, pitch = _bundles(channels)
    block, numbers, used, _ = block_of(row, column, images, pitch, 0)
    taps = [(r, s) for r in row.taps for s in column.taps]
    factors = np.zeros((len(taps), bundles * pitch), bias.dtype)
    for t, (r, s) in enumerate(taps):
        factors[t, :channels] = w[:, 0, 0, r, s]
    factors = factors.reshape(len(taps), bundles, pitch).transpose(1, 0, 2)
    if pitch == channels:
        bias = repeated(bias)
    work = 0.15 * images * row.length * column.length * channels * (2 + len(taps))
    parallel(
        _correlate, block.blocks * bundles, threads, work, bundles, x, place, shape[2:], numbers, used, block.pixels,
        _starts(row, column, pitch * block.patch_w, pitch), factors.reshape(-1), channels, pitch, bias, *where,
    )  # fmt: skip


def _starts(row: Axis, column: Axis, line: int, pitch: int) -> np.ndarray:
    """Where taps are in a patch."""
    found = [(y - row.low) * line + (x - column.low) * pitch for y in row.offsets for x in column.offsets]
    return np.array(found, np.int64)


@tile
def _tile_taps(segments, lines, length, patch, at, step, starts, t, right, right_at, right_step, c, c_at, c_step):
    """c[9 taps][1 register] += the sum over the positions of patch * right."""
    s0, s1, s2 = load(c, c_at), load(c, c_at + c_step), load(c, c_at + 2 * c_step)
    s3, s4 = load(c, c_at + 3 * c_step), load(c, c_at + 4 * c_step)
    s5, s6 = load(c, c_at + 5 * c_step), load(c, c_at + 6 * c_step)
    s7, s8 = load(c, c_at + 7 * c_step), load(c, c_at + 8 * c_step)
    for segment in range(segments):
        i = at + lines[segment]
        for _ in range(length):
            v = load(right, right_at)
            s0 = load(patch, i + starts[t]) * v + s0
            s1 = load(patch, i + starts[t + 1]) * v + s1
            s2 = load(patch, i + starts[t + 2]) * v + s2
            s3 = load(patch, i + starts[t + 3]) * v + s3
            s4 = load(patch, i + starts[t + 4]) * v + s4
            s5 = load(patch, i + starts[t + 5]) * v + s5
            s6 = load(patch, i + starts[t + 6]) * v + s6
            s7 = load(patch, i + starts[t + 7]) * v + s7
            s8 = load(patch, i + starts[t + 8]) * v + s8
            i += step
            right_at += right_step
    store(c, c_at, s0), store(c, c_at + c_step, s1), store(c, c_at + 2 * c_step, s2)
    store(c, c_at + 3 * c_step, s3), store(c, c_at + 4 * c_step, s4)
    store(c, c_at + 5 * c_step, s5), store(c, c_at + 6 * c_step, s6)
    store(c, c_at + 7 * c_step, s7), store(c, c_at + 8 * c_step, s8)


@kernel
def _weight_parts(
    first, last, slices, bundles, x, x_place, image, block, used, pixels, outputs, starts, dout, d_place, all_channels,
    pitch, images, grid, parts,
):  # fmt: skip
    """Adds to parts[slice][bundle][tap][channel]; a task is a bundle in a slice of the blocks."""
    patch = scratch(pixels * pitch, zero(parts))
    right = scratch(block[0] * block[1] * block[2] * pitch, zero(parts))
    lines, every = np.empty(1, np.int64), np.ones(block[1], np.uint8)
    for task in range(first, last):
        part, c0 = task // bundles, task % bundles * pitch
        channels = min(pitch, all_channels - c0)
        for b in range(block[5] * part // slices, block[5] * (part + 1) // slices):
            n, i, j, many, high, columns = place_of(block, b, images, grid)
            copy_patch(x, x_place, image, block, used, n, i, j, many, high, columns, c0, channels, pitch, patch)
            copy_patch(dout, d_place, grid, outputs, every, n, i, j, many, high, columns, c0, channels, pitch, right)
            for m in range(many):
                for r in range(high):
                    lines[0] = (m * block[10] + r * block[6]) * block[11] * pitch
                    at = (m * block[1] + r) * block[2] * pitch
                    for t in range(0, len(starts), TAPS):
                        for c in range(0, pitch, lanes(parts)):
                            _tile_taps(
                                1, lines, columns, patch, c, block[7] * pitch, starts, t, right, at + c, pitch, parts,
                                (task * len(starts) + t) * pitch + c, pitch,
                            )  # fmt: skip


def correlate_weights(row: Axis, column: Axis, x: np.ndarray, dout: np.ndarray, dw: np.ndarray, threads: int) -> None:
    """dw = correlation of x with dout."""
    images, channels = x.shape[:2]
    bundles, pitch = _bundles(channels)
    block, numbers, used, outputs = block_of(row, column, images, pitch, pitch)
    starts = _starts(row, column, pitch * block.patch_w, pitch)
    taps = len(starts)
    filled = np.zeros(-(-taps // TAPS) * TAPS, np.int64)
    filled[:taps] = starts
    slices = min(-(-TASKS // bundles), block.blocks)
    parts = np.zeros((slices, bundles, len(filled), pitch), compute_dtype(dw))
    work = 0.15 * images * row.length * column.length * channels * (2 + taps)
    parallel(
        _weight_parts, slices * bundles, threads, work, slices, bundles, *span(x), x.shape[2:], numbers, used,
        block.pixels, outputs, filled, *span(dout), channels, pitch, images, (row.length, column.length),
        parts.reshape(-1),
    )  # fmt: skip
    total = parts[0]
    with np.errstate(all="ignore"):
        for part in parts[1:]:  # in this order
            total += part
        dw[...] = total[:, :taps].transpose(0, 2, 1).reshape(-1, taps)[:channels].reshape(dw.shape)
