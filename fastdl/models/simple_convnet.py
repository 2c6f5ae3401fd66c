"""SimpleConvNet: the book's network of chapter 7."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..initializers import normal
from ..kernels.geometry import window_grid
from ..layers import Affine, Convolution, Pooling, Relu
from .base import Model


class SimpleConvNet(Model):
    """conv - relu - pool - affine - relu - affine - softmax: 98.9% on MNIST.

    ``input_dim`` is (C, H, W). Parameters are ``W1 b1`` (convolution, (FN, C, FH, FW)), ``W2 b2`` and ``W3 b3``
    (inputs, outputs). ``layers`` is an ``OrderedDict`` with the names Conv1, Relu1, Pool1, Affine1, Relu2, Affine2;
    ``last_layer`` is the softmax with loss.

    With the defaults, weights are the float64 numbers that the book's network draws from ``numpy.random``. ``seed`` and
    ``dtype`` as for ``DeepConvNet``.
    """

    def __init__(
        self,
        input_dim: Sequence[int] = (1, 28, 28),
        conv_param: Mapping[str, int] = MappingProxyType({"filter_num": 30, "filter_size": 5, "pad": 0, "stride": 1}),
        hidden_size: int = 100,
        output_size: int = 10,
        weight_init_std: float = 0.01,
        *,
        dtype: DTypeLike | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(dtype)
        rng = None if seed is None else np.random.default_rng(seed)
        stored = self._parameter_dtype
        filters, side, pad, stride = (conv_param[key] for key in ("filter_num", "filter_size", "pad", "stride"))
        size = window_grid((input_dim[1], input_dim[2]), (side, side), (stride, stride), (pad, pad, pad, pad))
        size = window_grid(size, (2, 2), (2, 2), (0, 0, 0, 0))
        w1, w2, w3 = (
            normal(shape, weight_init_std, dtype=stored, rng=rng)
            for shape in (
                (filters, input_dim[0], side, side),
                (filters * size[0] * size[1], hidden_size),
                (hidden_size, output_size),
            )
        )
        layers: OrderedDict[str, Any] = OrderedDict(
            Conv1=Convolution(w1, np.zeros(filters, stored), stride, pad),
            Relu1=Relu(),
            Pool1=Pooling(pool_h=2, pool_w=2, stride=2),
            Affine1=Affine(w2, np.zeros(hidden_size, stored)),
            Relu2=Relu(),
            Affine2=Affine(w3, np.zeros(output_size, stored)),
        )
        self._assemble(input_dim, layers)
