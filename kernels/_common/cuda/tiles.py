"""Tiles of ``matmul.cuh``: which there are, which one a product takes, and how its depth is split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import Variant, cut, pointer

#: Blocks that are to be there at least, two for each of the 132 multiprocessors of an H100. A constant: the bits of a
#: split sum must not depend on the device.
BLOCKS = 264
#: Storages whose products run on tensor cores. float32 does where TF32 was asked for.
HALVES = ("float16", "bfloat16")
#: As in ``epilogue.cuh``.
KINDS = {"float32": 1, "float64": 2, "float16": 3, "bfloat16": 4}
STAGES, LINE = 4, 64


class Tile(NamedTuple):
    """What a block makes."""

    m: int
    n: int
    tensor: bool
    resident: int = 2  # blocks of a multiprocessor: with two a thread has 128 registers

    @property
    def macros(self) -> dict[str, str]:
        """As a variant of a source."""
        names = {"RESIDENT": self.resident, "TENSOR": int(self.tensor), "TILE_M": self.m, "TILE_N": self.n}
        return {name: str(value) for name, value in names.items()}

    @property
    def shared(self) -> int:
        """Bytes of dynamic shared memory."""
        return STAGES * (self.m + self.n) * LINE


#: From the largest. A large tile reads each operand less often, a small one leaves no multiprocessor without work.
SIZES = ((128, 128), (128, 64), (64, 64))


def tiles(storage: str, sizes: Sequence[tuple[int, int]] = SIZES) -> tuple[Tile, ...]:
    """The tiles that a storage dtype has: 128 x 128 doubles do not fit into registers, nor do halves on FMA units."""
    if storage == "float64":
        return (Tile(64, 64, False),)
    if storage in HALVES:
        fma = (Tile(64, 64, False),) if storage == "bfloat16" else ()  # for the architectures before its tensor cores
        return (*(Tile(*size, True) for size in sizes), *fma)
    # 8 x 8 sums and their operands, or the words of TF32 operands that nothing turns, take more than 128 registers.
    return tuple(Tile(*size, tensor, 1 if sum(size) == 256 else 2) for tensor in (False, True) for size in sizes)


def variants(sizes: Sequence[tuple[int, int]] = SIZES) -> list[Variant]:
    """Every storage with each of its tiles, and without one for the kernels beside the products."""
    found = []
    for storage in KINDS:
        found.append(Variant(storage))
        for tile in tiles(storage, sizes):
            first = oldest(storage) if tile.tensor else 75
            last = 75 if storage in HALVES and not tile.tensor else 0
            found.append(Variant(storage, tuple(tile.macros.items()), first, last))
    return found


def oldest(storage: str) -> int:
    """The oldest architecture whose tensor cores take this storage."""
    return 75 if storage == "float16" else 80


def choose(
    storage: str,
    architecture: int,
    m: int,
    n: int,
    batch: int = 1,
    tf32: bool = False,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> Tile:
    """The largest tile with enough blocks; where none has, the smallest."""
    tensor = (storage in HALVES or tf32) and architecture >= oldest(storage)
    own = [tile for tile in tiles(storage, sizes) if tile.tensor == tensor]
    for tile in own:
        padded = cut(m, tile.m) * tile.m * cut(n, tile.n) * tile.n
        if cut(m, tile.m) * cut(n, tile.n) * batch >= BLOCKS // 2 and padded <= 1.25 * m * n:
            return tile
    return own[-1]


def splits(tile: Tile, m: int, n: int, depth: int, itemsize: int, batch: int = 1, least: int = 16) -> tuple[int, int]:
    """Into how many parts the depth is cut, and the depth of each: whole stages, at least ``least`` of them."""
    stage = LINE // itemsize
    blocks = max(cut(m, tile.m) * cut(n, tile.n) * batch, 1)
    stages = max(cut(depth, stage), 1)
    parts = max(1, min(cut(BLOCKS, blocks), stages // least))
    each = cut(stages, parts)
    return cut(stages, each), each * stage


def vector(v: Any) -> tuple[int, int, int]:
    """A bias as the fields of ``Vector``."""
    if v is None:
        return 0, 0, 0
    return pointer(v), v.strides[0] // v.itemsize, KINDS[v.dtype.name]


def sums_dtype(storage: str) -> np.dtype[Any]:
    """The dtype of partial sums."""
    return np.dtype(np.float64 if storage == "float64" else np.float32)
