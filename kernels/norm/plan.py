"""How the compiled normalisations cut their work, and the scratch memory that follows from it."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from .._common.tiling import itemsize
from ..problem import Problem

#: Rows whose sums stay in the compute dtype; from then on they are float64. As in batch_norm_call.h.
BLOCK = 128
#: Rows r, r + 16, r + 32, ... of a block share an accumulator. As in batch_norm_call.h.
LANES = 16
#: Bytes of one row in a task: a quarter of it takes up to 1.7 times as long where x does not fit the caches.
TILE_BYTES = 1024
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
    tiles = max(1, -(-channels * itemsize(problem.compute) // TILE_BYTES))
    tile = -(-channels // tiles // LANES) * LANES if tiles > 1 else max(channels, 1)
    return BatchNormPlan(chunk, -(-rows // chunk), tile)


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
        # three operands of a block, two sets of accumulators, four parameters repeated up to 256 elements
        task = size * (3 * BLOCK * tile + 2 * LANES * tile + 4 * max(tile, 256))
        shared = channels * (4 * size + 2 * chunks * 8)
        return threads * (task + 9 * 128) + shared + 5 * 128
    # x, dout, dx, the window sums and the powers; one more between margins of at most the channels on either side
    return threads * (response_plan(problem).pixels * channels * 8 * size + 6 * 128)
