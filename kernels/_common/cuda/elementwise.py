"""The arguments of ``elementwise.cuh``: arrays of any strides as few axes as they have in common."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from . import Source, cut, place_of, pointer

#: As in ``elementwise.cuh``.
AXES, THREADS, PACKS = 6, 256, 2

View = tuple[int, tuple[int, ...]]
Extent = tuple[int, tuple[int, ...], int, int]


def merged(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Axes (sizes, strides of each array) outermost first in the last array's memory, joined where all arrays can."""
    axes = [i for i, size in enumerate(shape) if size != 1]
    axes.sort(key=lambda i: -abs(strides[-1][i]))
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for i in axes:
        if sizes and all(kept[-1] == own[i] * shape[i] for kept, own in zip(steps, strides, strict=True)):
            sizes[-1] *= shape[i]
            for kept, own in zip(steps, strides, strict=True):
                kept[-1] = own[i]
        else:
            sizes.append(shape[i])
            for kept, own in zip(steps, strides, strict=True):
                kept.append(own[i])
    return sizes, steps


def extents(*arrays: Any) -> Iterator[tuple[Extent, tuple[View, ...]]]:
    """The launches that go through arrays of one shape: one, or several where more than six axes are left."""
    sizes, steps = merged(arrays[0].shape, [a.strides for a in arrays])
    starts = [pointer(a) for a in arrays]
    outer = max(len(sizes) - AXES, 0)
    inner, rest = sizes[outer:], (1,) * (AXES - len(sizes) + outer)
    n = 1
    for size in inner:
        n *= size
    if not all(sizes):
        return
    items = [a.itemsize for a in arrays]
    width = 16 // max(items)  # elements of a pack
    flat = int(not inner or (len(inner) == 1 and all(s[-1] == item for s, item in zip(steps, items, strict=True))))
    for index in itertools.product(*(range(size) for size in sizes[:outer])):
        at = [
            start + sum(i * stride for i, stride in zip(index, step, strict=False))
            for start, step in zip(starts, steps, strict=True)
        ]
        packed = flat and all(address % (width * item) == 0 for address, item in zip(at, items, strict=True))
        views = tuple((address, (*step[outer:], *rest)) for address, step in zip(at, steps, strict=True))
        yield (n, (*inner, *rest), len(inner), 2 if packed else flat), views


def blocks(extent: Extent, itemsize: int) -> int:
    """Blocks for ``map`` over an extent; ``itemsize`` is that of the largest elements."""
    return cut(extent[0], THREADS * PACKS * (16 // itemsize if extent[3] == 2 else 1))


def run(
    source: Source,
    name: str,
    storage: str,
    threads: int,
    *arrays: Any,
    macros: dict[str, str] | None = None,
    **arguments: Any,
) -> None:
    """Launches a kernel that takes ``Extent extent; View views[...];`` and ``arguments``; the output is last."""
    kernels = place_of(arrays[-1], threads).load(source, storage, **(macros or {}))
    itemsize = max(a.itemsize for a in arrays)
    for extent, views in extents(*arrays):
        kernels.launch(name, blocks(extent, itemsize), extent=extent, views=views, **arguments)
