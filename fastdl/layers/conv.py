"""Convolution."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from .. import backend
from .. import functional as F
from .._array import prepare, reshaped
from ..functional import _conv
from .base import Layer

Size = int | Sequence[int]


class Convolution(Layer):
    """Two-dimensional convolution (cross-correlation) with filters ``W`` (FN, C / groups, FH, FW) and bias ``b`` (FN,).

    ``stride`` and ``dilation`` are an int or a (vertical, horizontal) pair; ``pad`` is that or (top, bottom, left,
    right); the output size is rounded down. ``groups`` splits channels and filters into that many independent
    convolutions (``groups == C``: depthwise). ``b`` may be None. The result has the dtype of ``x`` and ``W`` together
    (``numpy.result_type``), the shape (N, FN, OH, OW) and channels-last memory, and each gradient the dtype of its
    array.

    ``x`` is the last input, ``dW`` and ``db`` are the last gradients. ``col`` and ``col_W``, the two matrices that the
    book multiplies, are worked out when they are read: the convolution itself uses neither.
    """

    parameters = ("W", "b")
    activations = ("x",)
    can_skip_dx = True

    def __init__(
        self,
        W: np.ndarray,
        b: np.ndarray | None,
        stride: Size = 1,
        pad: Size = 0,
        *,
        dilation: Size = 1,
        groups: int = 1,
    ) -> None:
        self.W = W
        self.b = b
        self.stride = stride
        self.pad = pad
        self.dilation = dilation
        self.groups = groups
        self.x: np.ndarray | None = None
        self.dW: np.ndarray | None = None
        self.db: np.ndarray | None = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(N, C, H, W) -> (N, FN, OH, OW); ``ValueError`` where shapes do not fit."""
        return self._forward(x, relu=False)

    def _forward(self, x: np.ndarray, relu: bool) -> np.ndarray:
        """``forward``; with ``relu`` the output of the ReLU that follows."""
        out = _conv.fused_conv2d(x, self.W, self.b, self.stride, self.pad, self.dilation, self.groups, None, relu)
        self.x = None if backend.is_inference() else x
        return out

    def _forward_pooled(self, x: np.ndarray) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None] | None:
        """Outputs of the ReLU and the 2x2 pooling that follow, and the indices; None where they are separate passes."""
        keep = not backend.is_inference()
        found = _conv.fused_conv2d_pool(x, self.W, self.b, self.stride, self.pad, self.dilation, self.groups, keep)
        if found is not None:
            self.x = x if keep else None
        return found

    def backward(self, dout: np.ndarray, *, need_dx: bool = True) -> np.ndarray | None:
        """(N, FN, OH, OW) -> the gradient by x, (N, C, H, W); None with ``need_dx=False``, which saves its cost."""
        return self._backward(dout, need_dx, relu=False)

    def _backward(self, dout: np.ndarray, need_dx: bool, relu: bool) -> np.ndarray | None:
        """``backward``; with ``relu`` the gradient by the input of the ReLU whose output ``x`` is."""
        x = self._kept(self.x)
        need = ("x", "w", "b") if need_dx else ("w", "b")
        dx, self.dW, db = _conv.fused_conv2d_backward(
            dout,
            x,
            self.W,
            self.stride,
            self.pad,
            self.dilation,
            self.groups,
            need if self.b is not None else need[:-1],
            relu,
        )
        self.db = db if db is None or self.b is None else prepare(db, self.b.dtype)
        return dx

    @property
    def col(self) -> np.ndarray | None:
        """``im2col`` of the last input: float64, (N * OH * OW, C * FH * FW). None where no input is kept."""
        if self.x is None:
            return None
        x = prepare(self.x, np.dtype(np.float64))
        return F.im2col(x, self.W.shape[2:], stride=self.stride, pad=self.pad, dilation=self.dilation)

    @property
    def col_W(self) -> np.ndarray | None:
        """The filters as columns, (C / groups * FH * FW, FN): a view of ``W`` where its memory allows one."""
        if self.x is None:
            return None
        return reshaped(self.W, (self.W.shape[0], prod(self.W.shape[1:]))).T
