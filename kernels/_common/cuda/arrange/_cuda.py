"""Operands as ``matmul.cuh`` reads them: lines of whole pieces of 16 bytes, copied only where they do not lie so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .. import Place, Source, cut, pointer

SOURCE = Source(__file__)

#: Bytes of a piece, as in ``matmul.cuh``.
PIECE = 16


def whole(n: int, itemsize: int) -> int:
    """``n`` elements, rounded up to whole pieces."""
    return cut(n * itemsize, PIECE) * PIECE // itemsize


def in_pieces(start: int, strides: Sequence[int]) -> bool:
    """Whether an address and all strides (in bytes) are multiples of a piece."""
    return start % PIECE == 0 and all(stride % PIECE == 0 for stride in strides)


def arrange(gpu: Place, storage: str, start: int, sizes: Sequence[int], strides: Sequence[int], itemsize: int) -> Any:
    """A copy, C-contiguous with its last axis filled up to whole pieces. Up to five axes; strides in bytes."""
    sizes = (*(1,) * (5 - len(sizes)), *sizes)
    steps = [stride // itemsize for stride in (*(0,) * (5 - len(strides)), *strides)]
    pieces = cut(sizes[4] * itemsize, PIECE)
    n = math.prod(sizes[:4]) * pieces
    out = gpu.scratch(n * PIECE)
    narrow = abs(steps[3]) < abs(steps[4]) and sizes[3] > 1
    gpu.load(SOURCE, storage).launch(
        "arrange", cut(n, 256), x=start, out=pointer(out), n=n, size=sizes[:4], stride=tuple(steps),
        last=sizes[4], pieces=pieces, narrow_first=narrow,
    )  # fmt: skip
    return out
