"""ResNet: networks whose blocks learn what to add to their input."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import DTypeLike

from ._stack import Stack
from .base import Model

#: Blocks in each of the four stages, by the number of layers with weights (projections apart).
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class ResNet(Model):
    """The networks of He, Zhang, Ren and Sun (arXiv:1512.03385), by ``depth``: 18, 34, 50, 101 or 152.

    ::

        conv 7x7/2 norm relu  max pool 3x3/2  four stages of blocks  average pool  affine softmax

        block of 18, 34:         relu(x + (conv 3x3 norm relu conv 3x3 norm)(x))
        block of 50, 101, 152:   relu(x + (conv 1x1 norm relu conv 3x3 norm relu conv 1x1 norm)(x))

    The last convolution of a block with three has four times the filters. Stages after the first halve the size in
    the first 3x3 of their first block: the paper does so in the 1x1 before it, PyTorch's model as here. Where a block
    changes size or channels, its shortcut is a 1x1 convolution with normalisation (the paper's option B).
    Convolutions have no bias; normalisation is per channel with eps 1e-5. Parameters for 1000 classes:

    =====  ==========
    depth  parameters
    =====  ==========
    18     11,689,512
    34     21,797,672
    50     25,557,032
    101    44,549,160
    152    60,192,808
    =====  ==========

    ``input_dim`` is (C, H, W). ``channels`` are the filters of each stage's 3x3 convolutions, and the first also of the
    7x7 one. Parameters are ``W1 gamma1 beta1 ...`` in the order of the layers, a block's own before its shortcut's, and
    last those of the affine layer. The other arguments are those of ``AlexNet``.
    """

    def __init__(
        self,
        depth: int = 50,
        input_dim: Sequence[int] = (3, 224, 224),
        channels: Sequence[int] = (64, 128, 256, 512),
        output_size: int = 1000,
        weight_init_std: float | str = "he",
        *,
        dtype: DTypeLike | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(dtype)
        if depth not in BLOCKS:
            raise ValueError(f"ResNet has the depths {', '.join(map(str, BLOCKS))}, not {depth!r}")
        stack = Stack(tuple(input_dim), weight_init_std, self._parameter_dtype, seed)
        stack.convolution(channels[0], 7, stride=2, pad=3, bias=False, batch_norm=True)
        stack.pooling(3, 2, pad=1)
        for stage, (filters, blocks) in enumerate(zip(channels, BLOCKS[depth], strict=True)):
            for block in range(blocks):
                _block(stack, filters, 2 if stage > 0 and block == 0 else 1, bottleneck=depth >= 50)
        stack.global_average()
        stack.affine(output_size)
        self._assemble(input_dim, stack.layers)


def _block(stack: Stack, filters: int, stride: int, bottleneck: bool) -> None:
    main, shortcut = stack.branch(), stack.branch()
    if bottleneck:
        last, side = 4 * filters, 1
        main.convolution(filters, 1, bias=False, batch_norm=True)
    else:
        last, side = filters, 3
    main.convolution(filters, 3, stride=stride, pad=1, bias=False, batch_norm=True)
    main.convolution(last, side, pad=side // 2, bias=False, batch_norm=True, activation=None)
    if stride > 1 or stack.shape[0] != last:
        shortcut.convolution(last, 1, stride=stride, bias=False, batch_norm=True, activation=None)
    stack.residual(main, shortcut)
