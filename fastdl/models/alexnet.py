"""AlexNet: the network that won ImageNet 2012."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import DTypeLike

from ._stack import Stack
from .base import Model

_ORIGINAL = (96, 256, 384, 384, 256)
_SINGLE_TOWER = (64, 192, 384, 256, 256)


class AlexNet(Model):
    """Five convolutions, local response normalisation, overlapping pooling, three fully connected layers, dropout.

    ::

        conv 11x11/4 relu lrn pool 3x3/2
        conv 5x5     relu lrn pool 3x3/2
        conv 3x3     relu
        conv 3x3     relu
        conv 3x3     relu     pool 3x3/2
        affine relu dropout affine relu dropout affine softmax

    Three forms, by ``grouped`` and ``channels`` (the filters of the five convolutions), for 1000 classes:

    ===================================================  ==========
    ``AlexNet()``                                        61,100,840
    ``AlexNet(grouped=True)``                            60,965,224
    ``AlexNet(channels=(96, 256, 384, 384, 256))``       62,378,344
    ===================================================  ==========

    The first is the single tower of Krizhevsky, "One weird trick for parallelizing convolutional neural networks"
    (2014), with the filters that PyTorch's model has too; the second the original of Krizhevsky, Sutskever and Hinton
    (2012), whose second, fourth and fifth convolutions see only half of the channels each (there because the network
    was split over two GPUs); the third the original without that split.

    ``input_dim`` is (C, H, W), at least 67 x 67. Parameters are ``W1 b1 ... W8 b8``: W1 to W5 (FN, C / groups, FH, FW),
    W6 to W8 (inputs, outputs). ``weight_init_std`` is "he", "xavier" or a number (0.01 in the paper; 0 makes zeros at
    no cost, for weights to be loaded). Dropout is of the inverted kind. Without ``seed`` weights and masks come from a
    seed drawn from ``numpy.random``. ``dtype`` as for ``DeepConvNet``; float32 halves the 490 MB of float64 weights.
    """

    def __init__(
        self,
        input_dim: Sequence[int] = (3, 227, 227),
        channels: Sequence[int] | None = None,
        hidden_size: int = 4096,
        output_size: int = 1000,
        weight_init_std: float | str = "he",
        *,
        grouped: bool = False,
        dropout_ratio: float = 0.5,
        dtype: DTypeLike | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(dtype)
        groups = 2 if grouped else 1
        c1, c2, c3, c4, c5 = channels or (_ORIGINAL if grouped else _SINGLE_TOWER)
        stack = Stack(tuple(input_dim), weight_init_std, self._parameter_dtype, seed)
        stack.convolution(c1, 11, stride=4)
        stack.local_response_norm()
        stack.pooling(3, 2)
        stack.convolution(c2, 5, pad=2, groups=groups)
        stack.local_response_norm()
        stack.pooling(3, 2)
        stack.convolution(c3, 3, pad=1)
        stack.convolution(c4, 3, pad=1, groups=groups)
        stack.convolution(c5, 3, pad=1, groups=groups)
        stack.pooling(3, 2)
        stack.classifier(hidden_size, output_size, dropout_ratio)
        self._assemble(input_dim, stack.layers)
