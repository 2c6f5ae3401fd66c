"""Inference through a chain of layers in blocks of images, so small that a layer reads what the one before has left in
the cache.

Under ``fastdl.inference()`` no layer keeps anything, and each of the layers here treats each image on its own. A block
runs through all of them before the next one starts: the activations of a batch never exist as a whole, and those of a
block stay in the cache. The bits are those of the whole batch: blocks are used only where they run on the same kernels,
whose sums do not reach across images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import backend
from ._array import layout, result_dtype
from .functional import _conv, _pool
from .functional._call import Problem, memory_order, plans, remember
from .layers import Affine, AveragePooling, Convolution, Pooling

#: Bytes for input and output of the largest layer of a block, a part of L3. DeepConvNet on 1,000 images, two threads:
#: 27.6 ms as a whole, 23.0 in blocks of 100; in blocks of 20, which fit into L2, 23.7 where the whole took 26.5, and
#: 100 images 2.4 where the whole took 2.0: each block packs all weights once more, and has its own barriers.
CACHE = 10 << 20
#: Where weights are larger or blocks smaller, the weights of a block outweigh its images.
MOST_WEIGHTS = 1 << 20
FEWEST_IMAGES = 4


class Chain(NamedTuple):
    """The first ``layers`` layers run on ``images`` images at a time."""

    layers: int
    images: int


def chain(layers: Sequence[Any], kinds: Sequence[type | None], x: Any) -> Chain | None:
    """What of a network that starts with ``x`` runs in blocks; None where nothing gains by it.

    All ``kinds`` that fusion knows treat each image on its own in a prediction. ``Affine`` ends a chain all the same:
    its weights outweigh a block.
    """
    if type(x) is not np.ndarray or x.ndim != 4 or not kinds or kinds[0] is not Convolution:
        return None
    count = next((i for i, kind in enumerate(kinds) if kind is None or kind is Affine), len(kinds))
    if sum(kind is Convolution for kind in kinds[:count]) < 2:
        return None
    parts = tuple(_part(layer, kind) for layer, kind in zip(layers[:count], kinds, strict=False))
    key = ("blocks", x.shape, x.strides, x.dtype, parts, backend.current())
    found: Chain | str | None = plans.get(key)
    if found is None:
        try:
            images = _images(layers[:count], kinds, x)
        except ValueError:  # of the layer that does not fit, which will say so itself
            images = 0
        found = remember(key, Chain(count, images) if images else "whole")
    return None if isinstance(found, str) else found


def _part(layer: Any, kind: type | None) -> Any:
    """What the shapes and the kernels depend on."""
    if kind is Convolution:
        w = layer.W
        where = _conv.parameters("conv2d", layer.stride, layer.pad, layer.dilation, layer.groups)
        return w.shape, w.strides, w.dtype, where
    if kind is Pooling or kind is AveragePooling:
        return _windows(layer), layer.ceil_mode
    return kind


def _windows(layer: Any) -> tuple[Any, ...]:
    dilation = getattr(layer, "dilation", 1)
    return _pool.parameters("pooling", (layer.pool_h, layer.pool_w), layer.stride, layer.pad, dilation)


def _images(layers: Sequence[Any], kinds: Sequence[type | None], x: np.ndarray) -> int:
    """How many images go into a block; 0 for no blocks."""
    shape, dtype, largest, problems = x.shape, x.dtype, 0, []
    order = memory_order(x)
    for layer, kind in zip(layers, kinds, strict=False):
        before = math.prod(shape[1:]) * dtype.itemsize
        if kind is Convolution:
            where = _conv.parameters("conv2d", layer.stride, layer.pad, layer.dilation, layer.groups)
            fields, after = _conv.conv_fields("conv2d", shape, layer.W.shape, *where)
            dtype = result_dtype(dtype, layer.W.dtype)
            problems.append(
                Problem(
                    "conv2d", "forward", (shape, layer.W.shape), dtype.name, (order, memory_order(layer.W)), **fields
                )
            )
            shape, order = after, "nhwc"
            if layer.W.nbytes > MOST_WEIGHTS:
                return 0
        elif kind is Pooling or kind is AveragePooling:
            shape = _pool.pool_fields("pooling", shape, _windows(layer), layer.ceil_mode)[1]
        largest = max(largest, before + math.prod(shape[1:]) * dtype.itemsize)
    most = CACHE // max(largest, 1)
    if most < FEWEST_IMAGES or len(x) <= most:
        return 0
    images = math.ceil(len(x) / math.ceil(len(x) / most))
    sizes = {images, len(x) % images or images}
    return images if all(_same_kernels(problem, sizes) for problem in problems) else 0


def _same_kernels(problem: Problem, sizes: set[int]) -> bool:
    """Whether batches of these sizes run on the kernel of the whole batch, a compiled one.

    NumPy's matrix product does not promise the same bits for fewer rows.
    """
    (image, weights), choice = problem.shapes, backend.current()
    row = backend.row(problem, choice)
    some = [problem._replace(shapes=((size, *image[1:]), weights)) for size in sizes]
    return row.backend != "numpy" and all(backend.row(p, choice) is row for p in some)


def run(chain: Chain, x: np.ndarray, forward: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """``forward`` of all of ``x``, block by block."""
    out = None
    for start in range(0, len(x), chain.images):
        part = forward(x[start : start + chain.images])
        if out is None:
            out = layout((len(x), *part.shape[1:]), part.dtype, "nhwc").empty()
        out[start : start + chain.images] = part
    assert out is not None
    return out
