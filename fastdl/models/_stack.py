"""A stack of layers that is built from the bottom, each layer made for the output of the one below."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..initializers import he, normal, xavier
from ..kernels.geometry import window_grid
from ..layers import Affine, BatchNormalization, Convolution, Dropout, LocalResponseNormalization, Pooling, Relu


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
        self, filters: int, side: int, *, stride: int = 1, pad: int = 0, groups: int = 1, batch_norm: bool = False
    ) -> None:
        """A convolution, batch normalisation per channel where it is wanted, and ReLU."""
        channels, height, width = self.shape
        size = window_grid((height, width), (side, side), (stride, stride), (pad,) * 4)
        w = self._weights((filters, channels // groups, side, side))
        self.layers.append(Convolution(w, np.zeros(filters, self._dtype), stride, pad, groups=groups))
        if batch_norm:
            gamma, beta = np.ones(filters, self._dtype), np.zeros(filters, self._dtype)
            mean, var = np.zeros(filters), np.ones(filters)  # predictions of an untrained network stay finite
            self.layers.append(BatchNormalization(gamma, beta, 0.9, mean, var, eps=1e-5, per_channel=True))
        self.layers.append(Relu())
        self.shape = filters, *size

    def pooling(self, side: int, stride: int) -> None:
        """The largest value of each window."""
        channels, height, width = self.shape
        self.layers.append(Pooling(side, side, stride))
        self.shape = channels, *window_grid((height, width), (side, side), (stride, stride), (0,) * 4)

    def local_response_norm(self) -> None:
        """The normalisation of AlexNet's paper: k = 2, n = 5, alpha = 1e-4 (not divided by n), beta = 0.75."""
        self.layers.append(LocalResponseNormalization(5, alpha=5e-4, beta=0.75, k=2.0))

    def hidden(self, size: int, dropout_ratio: float) -> None:
        """A fully connected layer, ReLU, dropout."""
        self.affine(size)
        seed = int(self._rng.integers(2**63))
        self.layers += [Relu(), Dropout(dropout_ratio, inverted=True, seed=seed)]

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

    def _weights(self, shape: tuple[int, ...]) -> np.ndarray:
        if isinstance(self._std, str):
            return _RULES[self._std.lower()](shape, dtype=self._dtype, rng=self._rng)
        if self._std == 0:
            return np.zeros(shape, self._dtype)
        return normal(shape, self._std, dtype=self._dtype, rng=self._rng)


_RULES = {"he": he, "relu": he, "xavier": xavier, "sigmoid": xavier}
