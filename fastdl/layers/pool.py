"""Pooling (largest value of each window) and AveragePooling."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backend
from .. import functional as F
from ..functional import _pool
from .base import Layer
from .conv import Size


class Pooling(Layer):
    """The largest value of each ``pool_h`` x ``pool_w`` window; the first of equal ones, and NaN before any other.

    The default ``stride`` is 2 as in the book, whatever the window. Padding counts as minus infinity and enlarges the
    output; the book's own pooling ignores ``pad`` in its output size and fails for any but 0. ``stride``, ``pad`` and
    ``dilation`` are an int or a (vertical, horizontal) pair, ``pad`` also (top, bottom, left, right). ``ceil_mode``
    adds a last window where some of the input would be left over.

    ``x`` is the last input. ``arg_max`` is worked out when it is read.
    """

    activations = ("x", "indices")

    def __init__(
        self,
        pool_h: int,
        pool_w: int,
        stride: Size = 2,
        pad: Size = 0,
        *,
        dilation: Size = 1,
        ceil_mode: bool = False,
    ) -> None:
        self.pool_h = pool_h
        self.pool_w = pool_w
        self.stride = stride
        self.pad = pad
        self.dilation = dilation
        self.ceil_mode = ceil_mode
        self.x: np.ndarray | None = None
        self.indices: np.ndarray | None = None
        self._out: np.ndarray | None = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(N, C, H, W) -> (N, C, OH, OW) of the same dtype."""
        return self._forward(x, keep=False)

    def _forward(self, x: np.ndarray, keep: bool) -> np.ndarray:
        """``forward``; ``keep`` holds on to the output, in which ``_backward`` finds the mask of a ReLU before it."""
        size = self.pool_h, self.pool_w
        if backend.is_inference():
            self._keep(None, None, None)
            return F.max_pool2d(
                x, size, stride=self.stride, pad=self.pad, dilation=self.dilation, ceil_mode=self.ceil_mode
            )
        out, indices = F.max_pool2d(
            x,
            size,
            stride=self.stride,
            pad=self.pad,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=True,
        )
        self._keep(x, indices, out if keep else None)
        return out

    def _keep(self, x: np.ndarray | None, indices: np.ndarray | None, out: np.ndarray | None) -> None:
        self.x, self.indices, self._out = x, indices, out

    def _halves(self) -> bool:
        """Whether the windows are 2x2, side by side, from the corner on, with none beyond the border."""
        size, stride, pad, dilation = _pool.parameters(
            "max_pool2d", (self.pool_h, self.pool_w), self.stride, self.pad, self.dilation
        )
        plain = size == (2, 2) and stride in (2, (2, 2)) and pad in (0, (0, 0, 0, 0)) and dilation in (1, (1, 1))
        return plain and not self.ceil_mode

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """(N, C, OH, OW) -> (N, C, H, W): each value goes to the element that won its window."""
        return self._backward(dout, need_dx=True, relu=False)

    def _backward(self, dout: np.ndarray, need_dx: bool, relu: bool) -> np.ndarray:
        """``backward``; with ``relu`` the gradient by the input of the ReLU whose output ``x`` is."""
        return _pool.fused_max_pool2d_backward(
            dout,
            self._kept(self.x),
            (self.pool_h, self.pool_w),
            self.stride,
            self.pad,
            self.dilation,
            self.ceil_mode,
            self.indices,
            self._out if relu else None,
        )

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_out": None}

    @property
    def arg_max(self) -> np.ndarray | None:
        """int64 (N * OH * OW * C,), channels fastest: which of its window's elements, row by row, won each window.

        -1 marks a window that lies wholly in the padding.
        """
        if self.indices is None:
            return None
        taps = self.indices.transpose(0, 2, 3, 1).reshape(self.indices.size).astype(np.int64)
        taps[taps == np.iinfo(self.indices.dtype).max] = -1
        return taps


class AveragePooling(Layer):
    """The mean of each ``pool_h`` x ``pool_w`` window.

    Padding counts as zeros; with ``count_include_pad=False`` each mean is over the elements of the input alone. The
    other arguments are those of ``Pooling``.
    """

    activations = ("x",)

    def __init__(
        self,
        pool_h: int,
        pool_w: int,
        stride: Size = 2,
        pad: Size = 0,
        *,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self.pool_h = pool_h
        self.pool_w = pool_w
        self.stride = stride
        self.pad = pad
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.x: np.ndarray | None = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(N, C, H, W) -> (N, C, OH, OW) of the same dtype."""
        out = F.avg_pool2d(
            x,
            (self.pool_h, self.pool_w),
            stride=self.stride,
            pad=self.pad,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
        )
        self.x = None if backend.is_inference() else x
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """(N, C, OH, OW) -> (N, C, H, W): each value is shared out evenly over its window."""
        return F.avg_pool2d_backward(
            dout,
            self._kept(self.x),
            (self.pool_h, self.pool_w),
            stride=self.stride,
            pad=self.pad,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
        )
