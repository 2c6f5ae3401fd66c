"""The arguments of ``image.cuh``."""

from __future__ import annotations

from typing import Any

from . import pointer

Image = tuple[int, int, int, int, int]
Divisor = tuple[int, int, int, int]


def image(a: Any) -> Image:
    """An ``Image`` of an array (N, C, H, W); of zeros for None."""
    if a is None:
        return 0, 0, 0, 0, 0
    n, c, h, w = a.strides
    return pointer(a), n, c, h, w


def divisor(by: int) -> Divisor:
    """A ``Divisor``. (By 0 nothing is ever divided.)"""
    by = max(by, 1)
    shift = (by - 1).bit_length()
    factor64, factor = (-(-(1 << bits + shift) // by) - (1 << bits) for bits in (64, 32))
    # With more than 31 bits in the shift a 32-bit number must give 0.
    return by, factor64, factor if shift < 32 else 0, shift


def width(*arrays: Any) -> int:
    """Channels in 16 bytes of the first array, if these can be read and written at once in every array; else 1.

    None is left out. An array with smaller elements is aligned to less.
    """
    lanes = 16 // arrays[0].itemsize
    for a in arrays:
        if a is None:
            continue
        wide = lanes * a.itemsize
        away = [stride for axis, stride in enumerate(a.strides) if axis != 1 and a.shape[axis] > 1]
        if a.shape[1] % lanes or a.strides[1] != a.itemsize or wide > 16 or any(v % wide for v in (pointer(a), *away)):
            return 1
    return lanes


def channels_last(a: Any) -> bool:
    """Whether neighbouring threads had better have neighbouring channels, not pixels."""
    return abs(a.strides[1]) <= abs(a.strides[-1]) or a.shape[-1] == 1
