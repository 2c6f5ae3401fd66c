"""A stack of layers that is built from the bottom, each layer made for the output of the one below."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..initializers import he, normal, xavier
from ..kernels.geometry import window_grid
from ..layers import (
    Affine,
    AveragePooling,
    BatchNormalization,
    Convolution,
    Dropout,
    Layer,
    LocalResponseNormalization,
    Pooling,
    Relu,
)
from ..network import Concat, Residual


class Stack:
    """``layers`` so far, and the ``shape`` (without N) of what they put out.

    ``weight_init_std`` is "he" or "relu", "xavier" or "sigmoid", or the standard deviation of a normal distribution.
    With 0 weights are zeros, which take neither time nor (until they are touched) memory: for weights to be loaded.
    The numbers come from ``seed``, or where that is None from a seed that is drawn from ``numpy.random``; so do the
    masks of dropout. (``numpy.random.randn`` itself would take 4 s and 2 GB for the weights of VGG-16.)
    """

    def __init__(
        self, input_dim: tuple[int, ...], weight_init_std: float | str, dtype: np.dtype, seed: int | None
    ) -> None:
        if isinstance(weight_init_std, str) and weight_init_std.lower() not in _RULES:
            raise ValueError(f"weight_init_std is a number or one of {', '.join(_RULES)}, not {weight_init_std!r}")
        self.layers: list[Any] = []
        self.shape = tuple(input_dim)
        self._std = weight_init_std
        self._dtype = dtype
        self._rng = np.random.default_rng(np.random.randint(2**63, dtype=np.int64) if seed is None else seed)

    def convolution(
        self,
        filters: int,
        side: int,
        *,
        stride: int = 1,
        pad: int = 0,
        groups: int = 1,
        bias: bool = True,
        batch_norm: bool = False,
        activation: type[Layer] | None = Relu,
    ) -> None:
        """A convolution, batch normalisation per channel where it is wanted, and an activation."""
        channels = self.shape[0]
        size = self._windows(side, stride, pad)
        w = self._weights((filters, channels // groups, side, side))
        b = np.zeros(filters, self._dtype) if bias else None
        self.layers.append(Convolution(w, b, stride, pad, groups=groups))
        if batch_norm:
            gamma, beta = np.ones(filters, self._dtype), np.zeros(filters, self._dtype)
            mean, var = np.zeros(filters), np.ones(filters)  # predictions of an untrained network stay finite
            self.layers.append(BatchNormalization(gamma, beta, 0.9, mean, var, eps=1e-5, per_channel=True))
        if activation is not None:
            self.layers.append(activation())
        self.shape = filters, *size

    def pooling(self, side: int, stride: int, *, pad: int = 0, ceil_mode: bool = False) -> None:
        """The largest value of each window."""
        self.layers.append(Pooling(side, side, stride, pad, ceil_mode=ceil_mode))
        self.shape = self.shape[0], *self._windows(side, stride, pad, ceil_mode)

    def average_pooling(self, side: int, stride: int) -> None:
        """The mean of each window."""
        self.layers.append(AveragePooling(side, side, stride))
        self.shape = self.shape[0], *self._windows(side, stride)

    def global_average(self) -> None:
        """The mean of each channel."""
        channels, height, width = self.shape
        self.layers.append(AveragePooling(height, width))
        self.shape = channels, 1, 1

    def _windows(self, side: int, stride: int, pad: int = 0, ceil_mode: bool = False) -> tuple[int, int]:
        _, height, width = self.shape
        return window_grid((height, width), (side, side), (stride, stride), (pad,) * 4, ceil_mode=ceil_mode)

    def local_response_norm(self) -> None:
        """The normalisation of AlexNet's paper: k = 2, n = 5, alpha = 1e-4 (not divided by n), beta = 0.75."""
        self.layers.append(LocalResponseNormalization(5, alpha=5e-4, beta=0.75, k=2.0))

    def hidden(self, size: int, dropout_ratio: float | None = None, activation: type[Layer] = Relu) -> None:
        """A fully connected layer, an activation, dropout where a ratio is given."""
        self.affine(size)
        self.layers.append(activation())
        if dropout_ratio is not None:
            self.dropout(dropout_ratio)

    def dropout(self, ratio: float) -> None:
        """Dropout of the inverted kind, with a seed of its own."""
        self.layers.append(Dropout(ratio, inverted=True, seed=int(self._rng.integers(2**63))))

    def classifier(self, hidden_size: int, classes: int, dropout_ratio: float) -> None:
        """Two hidden layers, and a score for each class."""
        self.hidden(hidden_size, dropout_ratio)
        self.hidden(hidden_size, dropout_ratio)
        self.affine(classes)

    def affine(self, size: int) -> None:
        """A fully connected layer."""
        w = self._weights((int(np.prod(self.shape)), size))
        self.layers.append(Affine(w, np.zeros(size, self._dtype)))
        self.shape = (size,)

    def branch(self) -> Stack:
        """An empty stack on what this one puts out so far, whose weights come from the same stream of numbers."""
        found = copy.copy(self)
        found.layers = []
        return found

    def residual(self, main: Stack, shortcut: Stack) -> None:
        """The sum of two branches, and ReLU."""
        self.layers += [Residual(main.layers, shortcut.layers), Relu()]
        self.shape = main.shape

    def concat(self, branches: Sequence[Stack]) -> None:
        """The channels of one branch after those of another."""
        self.layers.append(Concat([branch.layers for branch in branches]))
        self.shape = sum(branch.shape[0] for branch in branches), *branches[0].shape[1:]

    def _weights(self, shape: tuple[int, ...]) -> np.ndarray:
        if isinstance(self._std, str):
            return _RULES[self._std.lower()](shape, dtype=self._dtype, rng=self._rng)
        if self._std == 0:
            return np.zeros(shape, self._dtype)
        return normal(shape, self._std, dtype=self._dtype, rng=self._rng)


_RULES = {"he": he, "relu": he, "xavier": xavier, "sigmoid": xavier}
