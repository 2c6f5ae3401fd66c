"""GoogLeNet: Inception modules, and classifiers on the way that help the gradient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import functional, network
from .._array import is_device
from ..layers import SoftmaxWithLoss
from ..layers.dropout import scaled
from ..network import Container
from ._stack import Stack
from .base import Model

#: Filters of each Inception module: 1x1; 1x1 before 3x3, 3x3; 1x1 before 5x5, 5x5; 1x1 behind the pooling.
MODULES: Mapping[str, tuple[int, int, int, int, int, int]] = MappingProxyType(
    {
        "3a": (64, 96, 128, 16, 32, 32),
        "3b": (128, 128, 192, 32, 96, 64),
        "4a": (192, 96, 208, 16, 48, 64),
        "4b": (160, 112, 224, 24, 64, 64),
        "4c": (128, 128, 256, 24, 64, 64),
        "4d": (112, 144, 288, 32, 64, 64),
        "4e": (256, 160, 320, 32, 128, 128),
        "5a": (256, 160, 320, 32, 128, 128),
        "5b": (384, 192, 384, 48, 128, 128),
    }
)


class GoogLeNet(Model):
    """The 22 layers of Szegedy et al., "Going deeper with convolutions" (arXiv:1409.4842).

    ::

        conv 7x7/2 relu  max pool 3x3/2  lrn
        conv 1x1 relu conv 3x3 relu  lrn  max pool 3x3/2
        3a 3b  max pool 3x3/2  4a 4b 4c 4d 4e  max pool 3x3/2  5a 5b
        average pool  dropout 0.4  affine softmax

    3a to 5b are Inception modules, four branches side by side: conv 1x1, conv 1x1 conv 3x3, conv 1x1 conv 5x5, and max
    pool 3x3/1 conv 1x1, with a ReLU after every convolution. Poolings round their sizes up, as in Caffe, where the
    network was published. The paper says nothing of the constants of ``lrn``: they are AlexNet's.

    With ``aux`` two classifiers of their own follow 4a and 4d (average pool 5x5/3, conv 1x1 of 128 filters, affine
    1024, dropout 0.7, affine): their losses, times 0.3, are added to that of the network. Predictions leave them out.
    13,378,280 parameters for 1000 classes, 6,998,552 without ``aux``.

    ``input_dim`` is (C, H, W). ``stem`` are the filters of the first three convolutions, ``modules`` those of the
    Inception modules as in ``MODULES``, ``aux_sizes`` the filters and the hidden size of the classifiers, which have
    the number of dropped elements ``aux_dropout_ratio``. Parameters are ``W1 b1 ...`` in the order of the layers,
    branch by branch, a classifier's where it stands. The other arguments are those of ``AlexNet``.
    """

    def __init__(
        self,
        input_dim: Sequence[int] = (3, 224, 224),
        stem: Sequence[int] = (64, 64, 192),
        modules: Mapping[str, Sequence[int]] = MODULES,
        aux_sizes: Sequence[int] = (128, 1024),
        output_size: int = 1000,
        weight_init_std: float | str = "he",
        *,
        aux: bool = True,
        dropout_ratio: float = 0.4,
        aux_dropout_ratio: float = 0.7,
        dtype: DTypeLike | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(dtype)
        if list(modules) != list(MODULES):
            raise ValueError(f"the modules are {', '.join(MODULES)}, not {', '.join(modules)}")
        first, reduced, second = stem
        filters, hidden_size = aux_sizes
        stack = Stack(tuple(input_dim), weight_init_std, self._parameter_dtype, seed)
        stack.convolution(first, 7, stride=2, pad=3)
        stack.pooling(3, 2, ceil_mode=True)
        stack.local_response_norm()
        stack.convolution(reduced, 1)
        stack.convolution(second, 3, pad=1)
        stack.local_response_norm()
        stack.pooling(3, 2, ceil_mode=True)
        for name, sizes in modules.items():
            _inception(stack, sizes)
            if name in ("3b", "4e"):
                stack.pooling(3, 2, ceil_mode=True)
            elif aux and name in ("4a", "4d"):
                head = stack.branch()
                head.average_pooling(5, 3)
                head.convolution(filters, 1)
                head.hidden(hidden_size, aux_dropout_ratio)
                head.affine(output_size)
                stack.layers.append(_Auxiliary(head.layers, 0.3))
        stack.global_average()
        stack.dropout(dropout_ratio)
        stack.affine(output_size)
        self._assemble(input_dim, stack.layers)

    def loss(self, x: np.ndarray, t: np.ndarray) -> Any:
        """Mean cross entropy of a training pass (dropout active), with those of the classifiers on the way.

        As ``Model.loss``.
        """
        loss = super().loss(x, t)
        for layer in self.layers:
            if isinstance(layer, _Auxiliary):
                loss = layer.added_to(loss, t)
        return loss


def _inception(stack: Stack, filters: Sequence[int]) -> None:
    one, three_in, three, five_in, five, behind_pool = filters
    branches = [stack.branch() for _ in range(4)]
    branches[0].convolution(one, 1)
    branches[1].convolution(three_in, 1)
    branches[1].convolution(three, 3, pad=1)
    branches[2].convolution(five_in, 1)
    branches[2].convolution(five, 5, pad=2)
    branches[3].pooling(3, 1, pad=1)
    branches[3].convolution(behind_pool, 1)
    stack.concat(branches)


class _Auxiliary(Container):
    """Passes x on; in training its ``layers`` make scores of it too, whose loss counts ``weight`` times.

    Between a training pass and its backward pass the loss must have been asked for.
    """

    activations = ("_scores",)

    def __init__(self, layers: Iterable[Any], weight: float) -> None:
        self.layers = list(layers)
        self.last_layer = SoftmaxWithLoss()
        self.weight = weight
        self._scores: np.ndarray | None = None

    @property
    def inside(self) -> list[Any]:
        """The layers that make the scores, and their loss."""
        return [*self.layers, self.last_layer]

    def forward(self, x: np.ndarray, train_flg: bool = True) -> np.ndarray:
        """``x`` itself."""
        self._scores = network.forward(self.layers, x, True) if train_flg else None
        return x

    def added_to(self, loss: Any, t: np.ndarray) -> Any:
        """``loss`` and the own one, of the labels ``t`` and the last training pass."""
        own = self.last_layer.forward(self._kept(self._scores), t)
        return functional.add(loss, scaled(own, self.weight)) if is_device(own) else loss + self.weight * own

    def backward(self, dout: np.ndarray, *, need_dx: bool = True) -> np.ndarray | None:
        """``dout`` and the gradient of the own loss by x; after a prediction ``dout`` itself."""
        if self._scores is None:
            return dout
        dx = network.backward(self.layers, scaled(self.last_layer.backward(), self.weight), need_dx)
        return functional.add(dout, dx) if dx is not None else None
