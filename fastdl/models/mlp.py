"""MLP: fully connected layers."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import DTypeLike

from ._stack import Stack
from .base import Model


class MLP(Model):
    """A multilayer perceptron: an affine layer and ReLU for each of ``hidden_sizes``, affine, softmax.

    ``input_dim`` is D or (D,), or (C, H, W) of images: any input of that many numbers for each row is flattened. The
    parameters are ``W1 b1 ...``, W (inputs, outputs); 669,706 with the default sizes. The other arguments are those of
    ``AlexNet``.
    """

    def __init__(
        self,
        input_dim: int | Sequence[int] = 784,
        hidden_sizes: Sequence[int] = (512, 512),
        output_size: int = 10,
        weight_init_std: float | str = "he",
        *,
        dtype: DTypeLike | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(dtype)
        sizes = tuple(input_dim) if isinstance(input_dim, Sequence) else (input_dim,)
        stack = Stack(sizes, weight_init_std, self._parameter_dtype, seed)
        for size in hidden_sizes:
            stack.hidden(size)
        stack.affine(output_size)
        self._assemble(sizes, stack.layers)
