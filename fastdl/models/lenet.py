"""LeNet-5: the convolutional network that read cheques."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import DTypeLike

from ..layers import Tanh
from ._stack import Stack
from .base import Model


class LeNet(Model):
    """LeNet-5 of LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition" (1998).

    ::

        conv 5x5 pad 2  tanh  average pool 2x2
        conv 5x5        tanh  average pool 2x2
        affine tanh affine tanh affine softmax

    In its usual form of today: each filter of the second convolution sees all channels, pooling has no weights, and
    the scores come from an affine layer. 61,706 parameters ``W1 b1 ... W5 b5`` for the default ``input_dim``, (C, H,
    W), of which the paper pads images to 32 x 32 itself.

    ``channels`` are the filters of the two convolutions, ``hidden_sizes`` the sizes of the two fully connected layers
    before the scores. The other arguments are those of ``AlexNet``.
    """

    def __init__(
        self,
        input_dim: Sequence[int] = (1, 28, 28),
        channels: Sequence[int] = (6, 16),
        hidden_sizes: Sequence[int] = (120, 84),
        output_size: int = 10,
        weight_init_std: float | str = "xavier",
        *,
        dtype: DTypeLike | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(dtype)
        stack = Stack(tuple(input_dim), weight_init_std, self._parameter_dtype, seed)
        for filters, pad in zip(channels, (2, 0), strict=True):
            stack.convolution(filters, 5, pad=pad, activation=Tanh)
            stack.average_pooling(2, 2)
        for size in hidden_sizes:
            stack.hidden(size, activation=Tanh)
        stack.affine(output_size)
        self._assemble(input_dim, stack.layers)
