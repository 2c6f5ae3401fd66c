"""First values of weights: He before a ReLU, Xavier before a sigmoid or tanh, a plain normal distribution."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import DTypeLike

Shape = Sequence[int]

#: Numbers that are drawn at once: in the cache, so that a large array costs no second one in float64.
_BLOCK = 2**15


def fan_in(shape: Shape) -> int:
    """Inputs that each output sums: of filters (FN, C, FH, FW) or of a matrix (inputs, outputs)."""
    if len(shape) < 2:
        raise ValueError(f"weights have at least two dimensions, not {tuple(shape)}")
    return shape[0] if len(shape) == 2 else prod(shape[1:])


def normal(
    shape: Shape, std: float = 0.01, *, dtype: DTypeLike = np.float64, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Values of a normal distribution with mean 0 and deviation ``std``, drawn in float64 and rounded to ``dtype``.

    Without ``rng`` they are ``std * numpy.random.randn(*shape)``: the book's stream of numbers.
    """
    if rng is None:
        return np.asarray(std * np.random.randn(*shape)).astype(dtype, copy=False)
    values = np.empty(tuple(shape), dtype)
    flat = values.reshape(values.size)
    for start in range(0, flat.size, _BLOCK):
        part = flat[start : start + _BLOCK]
        part[...] = std * rng.standard_normal(part.size)
    return values


def he(shape: Shape, *, dtype: DTypeLike = np.float64, rng: np.random.Generator | None = None) -> np.ndarray:
    """:func:`normal` with deviation sqrt(2 / fan_in) (He et al., arXiv:1502.01852)."""
    return normal(shape, np.sqrt(2.0 / fan_in(shape)), dtype=dtype, rng=rng)


def xavier(shape: Shape, *, dtype: DTypeLike = np.float64, rng: np.random.Generator | None = None) -> np.ndarray:
    """:func:`normal` with deviation sqrt(1 / fan_in) (Glorot, Bengio 2010, in the form that the book uses)."""
    return normal(shape, np.sqrt(1.0 / fan_in(shape)), dtype=dtype, rng=rng)
