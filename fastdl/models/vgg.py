"""VGG: stacks of 3x3 convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import DTypeLike

from ._stack import Stack
from .base import Model

#: Convolutions in each of the five blocks, by the number of layers with weights (three of which are fully connected).
BLOCKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class VGG(Model):
    """The networks A, B, D and E of Simonyan and Zisserman (arXiv:1409.1556), by ``depth``: 11, 13, 16 or 19.

    Five blocks of 3x3 convolutions with ReLU, a 2x2 pooling after each, then ``affine relu dropout affine relu dropout
    affine softmax``. ``batch_norm`` puts a batch normalisation (per channel, eps 1e-5) between convolution and ReLU, as
    PyTorch's ``vgg16_bn`` has it. Parameters for 1000 classes:

    =====  ===========  ===============
    depth  parameters   with batch norm
    =====  ===========  ===============
    11     132,863,336  132,868,840
    13     133,047,848  133,053,736
    16     138,357,544  138,365,992
    19     143,667,240  143,678,248
    =====  ===========  ===============

    ``input_dim`` is (C, H, W), at least 32 x 32; ``channels`` are the filters of each block's convolutions. Parameters
    are ``W1 b1 ...``, and ``gamma1 beta1 ...``, in the order of the layers. The other arguments are those of
    ``AlexNet``; ask for float32 (``dtype``) where 1.1 GB of weights, and as much again for gradients, are too much.
    """

    def __init__(
        self,
        depth: int = 16,
        input_dim: Sequence[int] = (3, 224, 224),
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        hidden_size: int = 4096,
        output_size: int = 1000,
        weight_init_std: float | str = "he",
        *,
        batch_norm: bool = False,
        dropout_ratio: float = 0.5,
        dtype: DTypeLike | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(dtype)
        if depth not in BLOCKS:
            raise ValueError(f"VGG has the depths {', '.join(map(str, BLOCKS))}, not {depth!r}")
        stack = Stack(tuple(input_dim), weight_init_std, self._parameter_dtype, seed)
        for filters, convolutions in zip(channels, BLOCKS[depth], strict=True):
            for _ in range(convolutions):
                stack.convolution(filters, 3, pad=1, batch_norm=batch_norm)
            stack.pooling(2, 2)
        stack.classifier(hidden_size, output_size, dropout_ratio)
        self._assemble(input_dim, stack.layers)
