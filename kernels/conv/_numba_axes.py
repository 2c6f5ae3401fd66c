"""The blocks that outputs of a convolution are cut into, the pixels that one reads, and what kernels do with both."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from .._common.jit import borrowing, narrow, widen, zero
from .._common.tiles import clear, copy_line
from ..problem import Problem
from .plan import Axis, axes

#: Output positions of a block, at least, and columns at most: 3x3 over 64 channels fills a quarter of an L2.
POSITIONS, COLUMNS = 128, 64
#: Elements of a block's source pixels and outputs, if POSITIONS need less: rows are copied by fewer blocks then.
ROOM = 16384


def as_line(problem: Problem, *arrays: np.ndarray) -> tuple[tuple[Axis, ...], tuple[Axis, ...], tuple[np.ndarray, ...]]:
    """Axes and arrays. Where each position reads only itself and all lie one behind the other, they are one row."""
    if problem.shapes[1][2:] == (1, 1) == problem.stride and not any(problem.pads):
        turned = [a.transpose(0, 2, 3, 1) for a in arrays]
        if all(a.flags.c_contiguous for a in turned):
            lines = tuple(a.reshape(1, 1, -1, a.shape[3]).transpose(0, 3, 1, 2) for a in turned)
            point = Axis(0, 1, 1, 1, (0,), (0,))
            return (point,), (point._replace(length=lines[0].shape[3]),), lines
    return *axes(problem), arrays


class Block(NamedTuple):
    """How output positions are cut into blocks, and the pixels that one reads. Kernels get it as an array."""

    images: int  # of a block; more than one where a block holds whole images
    rows: int
    columns: int
    across: int  # blocks in a row of them
    down: int
    blocks: int  # in all
    scale_h: int
    scale_w: int
    low_h: int  # the first source row of output row 0
    low_w: int
    patch_h: int  # source rows and columns of a block
    patch_w: int
    reach_w: int  # source columns that the taps of one position span

    @property
    def wide(self) -> int:
        """Columns, filled up for the register tiles."""
        return -(-self.columns // 8) * 8

    @property
    def pixels(self) -> int:
        """Source pixels of a block."""
        return self.images * self.patch_h * self.patch_w


@functools.lru_cache(maxsize=1024)
def block_of(
    row: Axis, column: Axis, images: int, pitch: int, produce: int
) -> tuple[Block, np.ndarray, np.ndarray, np.ndarray]:
    """Even blocks; the same as an array; which rows of a patch any tap reads; and as an array those of the outputs.

    ``pitch`` is the elements of a source pixel, ``produce`` those of an output that are made at once.
    """
    across = -(-column.length // (POSITIONS if row.length == 1 else COLUMNS))
    columns = -(-column.length // across)
    across = -(-column.length // columns)
    wide = -(-columns // 8) * 8
    patch_w = (wide - 1) * column.scale + column.reach
    fit = (ROOM - (row.reach - row.scale) * patch_w * pitch) // (row.scale * patch_w * pitch + wide * produce)
    down = -(-row.length // max(1, POSITIONS // columns, fit))
    rows = -(-row.length // down)
    down = -(-row.length // rows)
    together = max(1, POSITIONS // (rows * columns)) if across == down == 1 else 1
    together = -(-images // -(-images // together))
    block = Block(
        together, rows, columns, across, down, -(-images // together) * across * down, row.scale, column.scale,
        row.low, column.low, (rows - 1) * row.scale + row.reach, patch_w, column.reach,
    )  # fmt: skip
    used = np.zeros(block.patch_h, np.uint8)
    for offset in row.offsets:
        used[offset - row.low :: row.scale][:rows] = 1
    own = block._replace(scale_h=1, scale_w=1, low_h=0, low_w=0, patch_h=rows, patch_w=columns, reach_w=1)
    return block, np.array(block, np.int64), used, np.array(own, np.int64)


def repeated(bias: np.ndarray) -> np.ndarray:
    """The bias of all outputs of a row. (np.tile takes seven microseconds.)"""
    found = np.empty((POSITIONS, bias.size), bias.dtype)
    found[:] = bias
    return found.reshape(-1)


@borrowing
def place_of(block, task, images, grid):
    """First image, row and column of a block, and how many of each."""
    across, down = block[3], block[4]
    n, i, j = task // (across * down) * block[0], task // across % down * block[1], task % across * block[2]
    return n, i, j, min(block[0], images - n), min(block[1], grid[0] - i), min(block[2], grid[1] - j)


@borrowing
def copy_patch(x, place, image, block, used, n, i, j, many, high, columns, c0, channels, pitch, patch):
    """What outputs from image n, row i and column j on read, to patch[image][row][column][channel].

    ``channels`` from c0 on, ``pitch`` elements to a pixel; zeros beyond the border. Rows that no tap reads (where a
    stride is larger than the filter) are left as they are, and so are columns that no output needs.
    """
    step_c, step_h, step_w = place[2], place[3], place[4]
    patch_h, patch_w = block[10], block[11]
    left = j * block[7] + block[9]
    right = left + (columns - 1) * block[7] + block[12]
    first, last = min(max(left, 0), right), max(min(right, image[1]), left)  # source columns on the image
    dense = channels == pitch and (step_w == channels or last - first == 1) and (step_c == 1 or channels == 1)
    for m in range(many):
        for y in range(patch_h - (block[1] - high) * block[6]):
            if used[y] == 0:
                continue
            to, h = (m * patch_h + y) * patch_w * pitch, i * block[6] + block[8] + y
            if h < 0 or h >= image[0] or last <= first:
                clear(patch, to, (right - left) * pitch)
                continue
            if left < first:
                clear(patch, to, (first - left) * pitch)
            if last < right:
                clear(patch, to + (last - left) * pitch, (right - last) * pitch)
            at = place[0] + (n + m) * place[1] + h * step_h + first * step_w + c0 * step_c
            to += (first - left) * pitch
            if dense:
                copy_line(x, at, 1, (last - first) * channels, patch, to)
            elif step_c == 1:
                for _ in range(last - first):
                    copy_line(x, at, 1, channels, patch, to)
                    at += step_w
                    to += pitch
            else:
                for q0 in range(0, last - first, 16):  # a cache line of the source at a time
                    q1 = min(q0 + 16, last - first)
                    for c in range(channels):
                        source, target = at + q0 * step_w + c * step_c, to + q0 * pitch + c
                        for _ in range(q1 - q0):
                            patch[target] = widen(x[source])
                            source += step_w
                            target += pitch


@borrowing
def store_masked(sums, at, n, line, line_at, step, mask, mask_at, mask_step):
    """n sums to an array, 0 where the mask is at most 0."""
    none = zero(sums)
    for i in range(n):
        above = not widen(mask[mask_at + i * mask_step]) <= none  # NaN is
        line[line_at + i * step] = narrow(sums[at + i] if above else none, line)
