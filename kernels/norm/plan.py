"""How the compiled normalisations cut their work, and the scratch memory that follows from it."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from .._common.tiling import itemsize
from ..problem import Problem

#: Rows whose sums stay in the compute dtype; from then on they are float64. As in batch_norm_call.h.
BLOCK = 128
#: Channels of a block that has to be copied because they are not beside each other. As in batch_norm_call.h.
WIDTH = 256
#: Channels in a task, at most and (where there are as many) at least: whole rows are read in the order of memory, but
#: their accumulators have to fit an L1, and a few rows of many channels have to make work for several threads.
TILE, SMALLEST_TILE = 4096, 256
#: Fewer chunks than these are cut into tiles of channels.
TASKS = 16
#: Partial sums of one channel, at most.
CHUNKS = 64


class BatchNormPlan(NamedTuple):
    """Rows and channels of one task."""

    chunk: int
    chunks: int
    tile: int


class ResponsePlan(NamedTuple):
    """Pixels that are normalised side by side where channels are not, and pixels of one task."""

    pixels: int
    task: int


@functools.lru_cache(maxsize=4096)
def batch_norm_plan(problem: Problem) -> BatchNormPlan:
    """At most CHUNKS chunks of whole blocks; the chunk orders the sums, the tile crosses none."""
    count, channels, *plane = problem.shapes[0]
    rows = count * math.prod(plane)
    blocks = -(-rows // BLOCK)
    chunk = max(1, -(-blocks // CHUNKS)) * BLOCK
    chunks = -(-rows // chunk)
    tiles = max(-(-channels // TILE), min(TASKS // max(chunks, 1), channels // SMALLEST_TILE), 1)
    tile = -(-channels // tiles // 16) * 16 if tiles > 1 else max(channels, 1)
    return BatchNormPlan(chunk, chunks, tile)


@functools.lru_cache(maxsize=4096)
def response_plan(problem: Problem) -> ResponsePlan:
    """About 4096 elements side by side (the buffers of a thread then fit an L2), about 16384 in a task."""
    channels = max(problem.shapes[0][1], 1)
    pixels = min(256, max(16, 4096 // channels))
    return ResponsePlan(pixels, -(-16384 // channels // pixels) * pixels)


def workspace(problem: Problem, isa: str, threads: int) -> int:
    """Bytes of scratch of all threads together, at most; it depends on the number of channels alone."""
    size, channels = itemsize(problem.compute), problem.shapes[0][1]
    if problem.op == "batch_norm":
        chunks, tile = batch_norm_plan(problem)[1:]
        # three operands of a block; two of a panel of 8 rows, and four accumulators, which are more than the map's
        # four parameters repeated up to 256 elements
        task = size * (3 * BLOCK * min(tile, WIDTH) + (2 * 8 + 4) * max(tile, 256))
        shared = channels * (4 * size + 2 * chunks * 8)
        return threads * (task + 9 * 128) + shared + 5 * 128
    # x, dout, dx, the window sums and the powers; one more between margins of at most the channels on either side
    return threads * (response_plan(problem).pixels * channels * 8 * size + 6 * 128)
