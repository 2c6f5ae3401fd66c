"""Relu, Relu6, Sigmoid, Tanh: one function for every element."""

from __future__ import annotations

import numpy as np

from .. import backend
from .. import functional as F
from .._array import is_device
from .base import Layer


class Relu(Layer):
    """max(x, 0) for x of any shape; NaN passes. ``mask`` is True where the last input was <= 0."""

    activations = ("out",)

    def __init__(self) -> None:
        self.out: np.ndarray | None = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """A new array of the shape and dtype of ``x``."""
        out = F.relu(x)
        self.out = None if backend.is_inference() else out
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """``dout``, set to 0 where the input was <= 0.

        As in the book this happens *in* ``dout``, which is returned; a new array is made only where ``dout`` is
        read-only or has another dtype than the output. Copy what must survive.
        """
        return self._backward(dout, keep_dout=False)

    def _backward(self, dout: np.ndarray, keep_dout: bool) -> np.ndarray:
        """``backward``; with ``keep_dout`` always a new array."""
        out = self._kept(self.out)
        writeable = dout.flags.writeable if type(dout) is np.ndarray else is_device(dout)
        if writeable and not keep_dout and dout.dtype == out.dtype:
            return F.relu_backward(dout, out, out=dout)
        return F.relu_backward(dout, out)

    @property
    def mask(self) -> np.ndarray | None:
        """Where the last input was <= 0 (bool; worked out from the output, which is 0 exactly there)."""
        return None if self.out is None else self.out <= 0


class Relu6(Layer):
    """min(max(x, 0), 6) for x of any shape; NaN passes. ``out`` is the last output.

    The activation of MobileNets (Howard et al. 2017; Sandler et al. 2018), which keeps halves in range.
    """

    activations = ("out",)

    def __init__(self) -> None:
        self.out: np.ndarray | None = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """A new array of the shape and dtype of ``x``."""
        out = F.relu6(x)
        self.out = None if backend.is_inference() else out
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """``dout`` where the input was between 0 and 6, else 0: a new array."""
        return F.relu6_backward(dout, self._kept(self.out))


class Sigmoid(Layer):
    """1 / (1 + exp(-x)) for x of any shape. ``out`` is the last output."""

    activations = ("out",)

    def __init__(self) -> None:
        self.out: np.ndarray | None = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """A new array of the shape and dtype of ``x``."""
        out = F.sigmoid(x)
        self.out = None if backend.is_inference() else out
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """dout * out * (1 - out), a new array."""
        return F.sigmoid_backward(dout, self._kept(self.out))


class Tanh(Layer):
    """tanh(x) for x of any shape. ``out`` is the last output."""

    activations = ("out",)

    def __init__(self) -> None:
        self.out: np.ndarray | None = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """A new array of the shape and dtype of ``x``."""
        out = F.tanh(x)
        self.out = None if backend.is_inference() else out
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """dout * (1 - out**2), a new array."""
        return F.tanh_backward(dout, self._kept(self.out))
