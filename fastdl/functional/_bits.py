"""Signs as bits: binary convolution and matrix product."""

from __future__ import annotations

from operator import index
from typing import Any

from ._bytes import _SINGLE, _typed
from ._call import (
    Array,
    ArrayLike,
    Plan,
    Problem,
    backend,
    choice_for,
    expect_shape,
    layout,
    memory_order,
    np,
    one,
    plan,
    plans,
    remember,
)
from ._conv import IntOrPair, conv_fields
from ._conv import parameters as conv_parameters

_WORD = np.dtype(np.uint32)


def _words(channels: int) -> int:
    """Words that hold a bit for each of so many channels."""
    return -(-channels // 32)


def pack_bits(x: ArrayLike, threshold: ArrayLike | None = None, *, groups: int = 1) -> Array:
    """The signs of x, 32 neighbouring channels in a word: bit i of word j is 1 where channel 32 j + i is >= threshold.

    x is (N, C) or (N, C, H, W), threshold (C,) or None, for 0 (-0 counts as 0, NaN as below). With ``groups`` the
    channels of each group begin a word of their own. Returns uint32, (N, groups * words, ...) with words = ceil(C /
    groups / 32); four dimensions in channels-last memory. Raises ``ValueError`` where groups does not divide C.
    """
    x = one(x, "pack_bits")
    choice = choice_for(x)
    key = ("pack_bits", x.shape, x.strides, x.dtype, groups, choice)
    found: Plan | None = plans.get(key)
    if found is None:
        if x.ndim not in (2, 4):
            raise ValueError(f"pack_bits: x must be (N, C) or (N, C, H, W), got {x.shape}")
        groups = index(groups)
        if groups < 1 or x.shape[1] % groups:
            raise ValueError(f"pack_bits: groups={groups} does not divide the {x.shape[1]} channels of x {x.shape}")
        problem = Problem("pack_bits", "forward", (x.shape,), x.dtype.name, (memory_order(x),), groups=groups)
        shape = (len(x), groups * _words(x.shape[1] // groups), *x.shape[2:])
        found = remember(key, plan(problem, layout(shape, _WORD, "nhwc" if x.ndim == 4 else "nchw"), choice))
    problem, kernel, wanted = found
    if threshold is not None:
        threshold = _typed(threshold, _SINGLE, "pack_bits: threshold")
        expect_shape(threshold.shape, x.shape[1:2], "pack_bits", "threshold")
    out = wanted.empty()
    kernel(problem, x, threshold, out, backend.get_num_threads())
    return out


def conv2d_binary(
    x: ArrayLike,
    w: ArrayLike,
    channels: int,
    scale: ArrayLike | None = None,
    *,
    stride: IntOrPair = 1,
    pad: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Array:
    """Convolution of signs that :func:`pack_bits` has packed: every product is +1 or -1, and padding adds nothing.

    Parameters
    ----------
    x, w
        (N, groups * words, H, W) and (K, words, R, S), uint32: the signs of images and filters.
    channels
        How many channels a group has, C / groups; words = ceil(channels / 32).
    scale
        (K,) float32, by which sums are multiplied, or None.
    stride, pad, dilation, groups
        As in :func:`conv2d`.

    Returns
    -------
    (N, K, OH, OW) float32 in channels-last memory: integers times scale, the same from every kernel.

    Raises
    ------
    ValueError
        Shapes do not fit together.
    TypeError
        An array has another dtype.
    """
    x, w = _typed(x, _WORD, "conv2d_binary: x"), _typed(w, _WORD, "conv2d_binary: w")
    stride, pad, dilation, groups = conv_parameters("conv2d_binary", stride, pad, dilation, groups)
    choice = choice_for(x)
    key = (
        "conv2d_binary", x.shape, x.strides, w.shape, w.strides, channels, stride, pad, dilation, groups, choice
    )  # fmt: skip
    found: Plan | None = plans.get(key)
    if found is None:
        fields, shape = conv_fields("conv2d_binary", x.shape, w.shape, stride, pad, dilation, groups)
        channels = index(channels)
        if channels < 1 or _words(channels) != w.shape[1]:
            raise ValueError(
                f"conv2d_binary: {channels} channels are {_words(channels)} words, w {w.shape} has {w.shape[1]}"
            )
        problem = Problem(
            "conv2d_binary", "forward", (x.shape, w.shape), "uint32", (memory_order(x), memory_order(w)),
            attrs=(("channels", channels),), **fields,
        )  # fmt: skip
        found = remember(key, plan(problem, layout(shape, _SINGLE, "nhwc"), choice))
    problem, kernel, wanted = found
    if scale is not None:
        scale = _typed(scale, _SINGLE, "conv2d_binary: scale")
        expect_shape(scale.shape, w.shape[:1], "conv2d_binary", "scale")
    out = wanted.empty()
    kernel(problem, x, w, scale, out, backend.get_num_threads())
    return out


def linear_binary(x: ArrayLike, w: ArrayLike, channels: int, scale: ArrayLike | None = None) -> Array:
    """:func:`conv2d_binary` for matrices: the signs of x (M, K) and of the rows of a transposed weight (N, K), packed
    to (M, words) and (N, words); ``channels`` is K. Returns (M, N) float32."""
    x, w = _typed(x, _WORD, "linear_binary: x"), _typed(w, _WORD, "linear_binary: w")
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[1]:
        raise ValueError(f"linear_binary: x must be (M, words) and w (N, words), got {x.shape} and {w.shape}")
    if not len(x):  # which would be an image without columns
        return layout((0, len(w)), _SINGLE).empty()
    out: Any = conv2d_binary(x.T[None, :, None, :], w[:, :, None, None], channels, scale)
    return out[0, :, 0].T
