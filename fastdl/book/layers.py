"""The layers with the book's dtypes: what its own im2col computes in float64 is computed in float64.

``fastdl.layers`` takes ``numpy.result_type(x, W)``. The book's convolution and pooling copy every input into a float64
matrix first, whatever its dtype. With another ``compute_dtype`` (``fastdl run --dtype float32``) convolutions, poolings
and affine layers compute in that: they round the script's arrays at each call, so that a script which updates its
float64 weights in place goes on doing so, and gradients have the dtype of their arrays.

In float64 no forward pass takes Winograd's algorithm. Where a filter sees zeros alone the book's result is the bias,
and where it sees the same twice, the same twice; transforms round that to 1e-17 here and there, and Relu's mask and the
ties of Pooling then choose otherwise. The margins of MNIST are such places: DeepConvNet's first loss was 2e-5 off, the
hundredth 1 %. Sums in another order alone leave 2e-16. Gradients are linear in what they are given and take any
algorithm.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from .. import backend, layers
from .. import functional as F
from ..layers import BatchNormalization, Dropout, Relu, Sigmoid, SoftmaxWithLoss

__all__ = [
    "Affine",
    "BatchNormalization",
    "Convolution",
    "Dropout",
    "Pooling",
    "Relu",
    "Sigmoid",
    "SoftmaxWithLoss",
    "compute_dtype",
    "set_compute_dtype",
]

_compute = np.dtype(np.float64)


def compute_dtype() -> np.dtype[Any]:
    """What convolutions, poolings and affine layers compute in."""
    return _compute


def set_compute_dtype(dtype: Any) -> None:
    """float64, as the book does, or float32."""
    global _compute
    wanted = np.dtype(dtype)
    if wanted not in (np.float64, np.float32):
        raise ValueError(f"the book's layers compute in float64 or float32, not in {wanted}")
    _compute = wanted


class Convolution(layers.Convolution):
    """``fastdl.layers.Convolution`` in the compute dtype."""

    def __init__(self, W: np.ndarray, b: np.ndarray, stride: Any = 1, pad: Any = 0) -> None:
        super().__init__(W, b, stride, pad)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(N, C, H, W) -> (N, FN, OH, OW)."""
        self.x = np.asarray(x)
        image, weights = (a.astype(_compute, copy=False) for a in (self.x, self.W))
        with _exact_where_it_matters():
            return F.conv2d(image, weights, self.b, stride=self.stride, pad=self.pad)

    def backward(self, dout: np.ndarray) -> np.ndarray | None:  # type: ignore[override]
        """(N, FN, OH, OW) -> the gradient by x, (N, C, H, W)."""
        image, weights = (a.astype(_compute, copy=False) for a in (self._kept(self.x), self.W))
        found = F.conv2d_backward(dout, image, weights, stride=self.stride, pad=self.pad)
        dx, self.dW, self.db = _gradients(self, found)
        return dx


class Pooling(layers.Pooling):
    """``fastdl.layers.Pooling`` in the compute dtype."""

    def __init__(self, pool_h: int, pool_w: int, stride: Any = 2, pad: Any = 0) -> None:
        super().__init__(pool_h, pool_w, stride, pad)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(N, C, H, W) -> (N, C, OH, OW)."""
        return super().forward(np.asarray(x).astype(_compute, copy=False))


class Affine(layers.Affine):
    """``fastdl.layers.Affine``, in float32 where that is the compute dtype."""

    def __init__(self, W: np.ndarray, b: np.ndarray) -> None:
        super().__init__(W, b)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """(N, ...) -> (N, outputs)."""
        x = np.asarray(x)
        if _compute == np.float64:
            return super().forward(x)
        self.original_x_shape = x.shape
        self.x = x.reshape(x.shape[0], -1).astype(_compute, copy=False)
        return F.linear(self.x, self.W.astype(_compute, copy=False), self.b)

    def backward(self, dout: np.ndarray) -> np.ndarray | None:  # type: ignore[override]
        """(N, outputs) -> the gradient by x in the shape of x."""
        if _compute == np.float64:
            return super().backward(dout)
        x, shape = self._kept(self.x), self._kept(self.original_x_shape)
        dx, self.dW, self.db = _gradients(self, F.linear_backward(dout, x, self.W.astype(_compute, copy=False)))
        return dx.reshape(shape)


def _exact_where_it_matters() -> contextlib.AbstractContextManager[None]:
    """Without Winograd in float64, unless somebody has asked for it."""
    if _compute == np.float64 and backend.get_conv_algorithm() == "auto":
        return backend.conv_algorithm("direct")
    return contextlib.nullcontext()


def _gradients(layer: Any, found: tuple[Any, Any, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx, dW, db; the last two in the dtype that the script's own arithmetic gives them."""
    dx, dW, db = found
    wide = (np.promote_types(p.dtype, _compute) for p in (layer.W, layer.b))
    return dx, *(g.astype(dtype, copy=False) for g, dtype in zip((dW, db), wide, strict=True))
