"""Affine: the fully connected layer."""

from __future__ import annotations

from math import prod

import numpy as np

from .. import backend
from .. import functional as F
from .._array import Layout, arranged, layout, prepare, reshaped
from ..functional import _linear
from .base import Layer


class Affine(Layer):
    """x W + b with ``W`` (inputs, outputs) and ``b`` (outputs,) or None.

    An input of more than two dimensions is flattened to (N, inputs), and its gradient has its shape. The result has
    the dtype of ``x`` and ``W`` together (``numpy.result_type``), each gradient the dtype of its array.

    ``x`` is the last input, flattened, and ``original_x_shape`` its shape; ``dW`` and ``db`` are the last gradients.
    """

    parameters = ("W", "b")
    activations = ("x", "original_x_shape", "_original_layout")
    can_skip_dx = True

    def __init__(self, W: np.ndarray, b: np.ndarray | None) -> None:
        self.W = W
        self.b = b
        self.x: np.ndarray | None = None
        self.original_x_shape: tuple[int, ...] | None = None
        self._original_layout: Layout | None = None
        self.dW: np.ndarray | None = None
        self.db: np.ndarray | None = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(N, ...) -> (N, outputs); ``ValueError`` where the sizes do not fit."""
        return self._forward(x, relu=False)

    def _forward(self, x: np.ndarray, relu: bool) -> np.ndarray:
        """``forward``; with ``relu`` the output of the ReLU that follows."""
        original, shape = x, x.shape
        if len(shape) > 2:
            x = reshaped(x, (shape[0], prod(shape[1:])))
        out = _linear.fused_linear(x, self.W, self.b, None, relu)
        if backend.is_inference():
            self.x = self.original_x_shape = self._original_layout = None
        else:
            self.x, self.original_x_shape = x, shape
            self._original_layout = layout(shape, x.dtype, like=original)
        return out

    def backward(self, dout: np.ndarray, *, need_dx: bool = True) -> np.ndarray | None:
        """(N, outputs) -> the gradient by x in the shape of x; None with ``need_dx=False``, which saves its cost."""
        x, wanted = self._kept(self.x), self._kept(self._original_layout)
        need = ("x", "w", "b") if need_dx else ("w", "b")
        dx, self.dW, db = F.linear_backward(dout, x, self.W, need=need if self.b is not None else need[:-1])
        self.db = db if db is None or self.b is None else prepare(db, self.b.dtype)
        if dx is None or dx.dtype != wanted.dtype:  # the gradient of integers
            return dx if dx is None else reshaped(dx, wanted.shape)
        return arranged(dx, wanted)
