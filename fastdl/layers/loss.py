"""SoftmaxWithLoss."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backend
from .._array import empty, is_device, prepare, reshaped
from ..functional import _call, _loss
from ..kernels.device import _cuda as kernels
from .base import Layer
from .dropout import scaled


class SoftmaxWithLoss(Layer):
    """Softmax of scores (N, classes), and the mean cross entropy with labels.

    Labels are integers (N,) or (N, 1), or one-hot (N, classes), which their equal size tells; they never widen a
    dtype. As in the book the loss is -mean(log(y + 1e-7)), so that it stays below 16.2, and ``backward`` ignores its
    argument and returns the gradient of the loss without the 1e-7, (y - t) / N. ``functional.softmax_cross_entropy``
    has the exact loss.

    ``gradient_scale`` multiplies the gradient before it is rounded to the scores' dtype, for mixed precision.

    ``loss`` (float64), ``y`` (the softmax, float32 for scores of less precision) and ``t`` belong to the last forward
    pass. On a device the loss is a CuPy array without dimensions.
    """

    activations = ("y", "t", "_labels", "_dtype")

    def __init__(self) -> None:
        self.gradient_scale = 1.0
        self.loss: Any = None
        self.y: np.ndarray | None = None
        self.t: np.ndarray | None = None
        self._labels: np.ndarray | None = None
        self._dtype: np.dtype | None = None

    def forward(self, x: np.ndarray, t: np.ndarray) -> Any:
        """The loss of scores ``x`` (N, classes) and labels ``t``.

        A float64: of NumPy, or on a device an array. ``ValueError`` where the shapes do not fit or (not on a device,
        where nobody looks) a label lies outside 0 ... classes - 1.
        """
        if is_device(x):
            return self._forward_on_device(x, t)
        t = np.asarray(t)
        labels = _labels(x, t)
        _, y = _loss.cross_entropy_rows(_call.one(x, "SoftmaxWithLoss"), labels)
        picked = y[np.arange(len(labels)), labels].astype(np.float64, copy=False)
        with np.errstate(invalid="ignore"):  # the mean of no losses, or of NaN
            loss = np.float64(-np.log(picked + 1e-7).sum() / len(labels)) if len(labels) else np.float64("nan")
        self.loss = loss
        if backend.is_inference():
            self.y = self.t = self._labels = self._dtype = None
        else:
            self.y, self.t, self._labels, self._dtype = y, t, labels, y.dtype if x.dtype.kind in "biu" else x.dtype
        return loss

    def _forward_on_device(self, x: Any, t: Any) -> Any:
        """``forward`` without a look at the values: a label outside the classes makes NaN of the loss."""
        op = "SoftmaxWithLoss"
        scores = _call.one(x, op)
        if scores.ndim != 2:
            raise ValueError(f"scores must be (N, classes), not {x.shape}")
        labels = _loss.device_labels(t, x.shape, op, scores)
        _, y = _loss.cross_entropy_rows(scores, labels)
        self.loss = loss = empty((), np.float64, on=x)
        kernels.book_loss(y, labels, loss)
        if backend.is_inference():
            self.y = self.t = self._labels = self._dtype = None
        else:
            self.y, self.t, self._labels, self._dtype = y, _call.as_array(t, op, x), labels, scores.dtype
        return loss

    def backward(self, dout: float = 1) -> np.ndarray:
        """The gradient of the loss by the scores, (N, classes) in their dtype; ``dout`` is ignored."""
        scale = self.gradient_scale
        y, t, labels = self._kept(self.y), self._kept(self.t), self._kept(self._labels)
        if t.size == labels.size:
            return _loss.cross_entropy_rows_backward(y, labels, scale, self._kept(self._dtype))
        if is_device(y):
            dx = empty(y.shape, y.dtype if scale != 1 else self._kept(self._dtype), on=y)
            kernels.book_gradient(y, prepare(reshaped(t, y.shape), y.dtype), dx)
            return dx if scale == 1 else prepare(scaled(dx, scale), self._kept(self._dtype))
        # Rows of t need not be one-hot here: the book's gradient is (y - t) / N for whatever they hold.
        count = y.dtype.type((len(y) or 1) / scale)
        return ((y - t.reshape(y.shape)) / count).astype(self._dtype, copy=False)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"loss": None}


def _labels(x: np.ndarray, t: np.ndarray) -> np.ndarray:
    """``t`` as integers (N,)."""
    if x.ndim != 2:
        raise ValueError(f"scores must be (N, classes), not {x.shape}")
    n, classes = x.shape
    if t.size == x.size and classes > 1:
        return t.reshape(x.shape).argmax(axis=1)
    if t.size != n or t.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be integers (N,) or (N, 1), or one-hot (N, classes), for scores {x.shape}; "
            f"they are {t.dtype} {t.shape}"
        )
    labels = t.reshape(n).astype(np.int64)
    if n and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels must lie in 0 ... {classes - 1}; they go from {labels.min()} to {labels.max()}")
    return labels
