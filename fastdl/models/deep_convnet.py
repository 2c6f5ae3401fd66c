"""DeepConvNet: the book's network of chapter 8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..initializers import he
from ..kernels.geometry import window_grid
from ..layers import Affine, Convolution, Dropout, Pooling, Relu
from .base import Model

_16: Mapping[str, int] = MappingProxyType({"filter_num": 16, "filter_size": 3, "pad": 1, "stride": 1})
_32: Mapping[str, int] = MappingProxyType({"filter_num": 32, "filter_size": 3, "pad": 1, "stride": 1})
_32_PAD_2: Mapping[str, int] = MappingProxyType({"filter_num": 32, "filter_size": 3, "pad": 2, "stride": 1})
_64: Mapping[str, int] = MappingProxyType({"filter_num": 64, "filter_size": 3, "pad": 1, "stride": 1})


class DeepConvNet(Model):
    """Six convolutions and two fully connected layers, He initialisation, dropout: 99.4% on MNIST.

    ::

        conv relu conv relu pool
        conv relu conv relu pool
        conv relu conv relu pool
        affine relu dropout affine dropout softmax

    ``input_dim`` is (C, H, W). Each ``conv_param`` has ``filter_num``, ``filter_size``, ``pad`` and ``stride``.
    Parameters are ``W1 b1 ... W8 b8``; W1 to W6 are (FN, C, FH, FW), W7 and W8 (inputs, outputs). ``layers`` is the
    list of the 20 layers, ``last_layer`` the softmax with loss.

    With the defaults, weights are the float64 numbers that the book's network draws from ``numpy.random``, and so are
    the masks of dropout. ``seed`` takes weights and masks from streams of their own instead; ``dtype`` (or
    ``fastdl.set_default_dtype``) rounds the parameters to that dtype and makes the network compute in it. Other sizes
    than the book's are worked out from ``input_dim``, where the book has fixed numbers.
    """

    def __init__(
        self,
        input_dim: Sequence[int] = (1, 28, 28),
        conv_param_1: Mapping[str, int] = _16,
        conv_param_2: Mapping[str, int] = _16,
        conv_param_3: Mapping[str, int] = _32,
        conv_param_4: Mapping[str, int] = _32_PAD_2,
        conv_param_5: Mapping[str, int] = _64,
        conv_param_6: Mapping[str, int] = _64,
        hidden_size: int = 50,
        output_size: int = 10,
        *,
        dtype: DTypeLike | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(dtype)
        rng = None if seed is None else np.random.default_rng(seed)
        stored = self._parameter_dtype
        channels, size = input_dim[0], (input_dim[1], input_dim[2])
        layers: list[Any] = []
        convolutions = (conv_param_1, conv_param_2, conv_param_3, conv_param_4, conv_param_5, conv_param_6)
        for number, param in enumerate(convolutions, start=1):
            filters, side, pad, stride = (param[key] for key in ("filter_num", "filter_size", "pad", "stride"))
            w = he((filters, channels, side, side), dtype=stored, rng=rng)
            layers += [Convolution(w, np.zeros(filters, stored), stride, pad), Relu()]
            channels, size = filters, window_grid(size, (side, side), (stride, stride), (pad, pad, pad, pad))
            if number % 2 == 0:
                layers.append(Pooling(pool_h=2, pool_w=2, stride=2))
                size = window_grid(size, (2, 2), (2, 2), (0, 0, 0, 0))
        w7 = he((channels * size[0] * size[1], hidden_size), dtype=stored, rng=rng)
        w8 = he((hidden_size, output_size), dtype=stored, rng=rng)
        masks = [None, None] if rng is None else [int(s) for s in rng.integers(2**63, size=2)]
        layers += [
            Affine(w7, np.zeros(hidden_size, stored)),
            Relu(),
            Dropout(0.5, seed=masks[0]),
            Affine(w8, np.zeros(output_size, stored)),
            Dropout(0.5, seed=masks[1]),
        ]
        self._assemble(input_dim, layers)
