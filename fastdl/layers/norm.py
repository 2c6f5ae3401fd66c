"""BatchNormalization and LocalResponseNormalization."""

from __future__ import annotations

from math import prod

import numpy as np

from .. import backend
from .. import functional as F
from .._array import is_device, prepare, reshaped, zeros
from .._device import contiguous
from ..functional import _call
from ..kernels.device import _cuda as kernels
from .base import Layer


class BatchNormalization(Layer):
    """(x - mean) / sqrt(variance + eps) * gamma + beta, with mean and (biased) variance over the batch.

    By default as in the book: any input of more than two dimensions is flattened to (N, D), and each of the D
    *elements* has its own statistics over N values. With ``per_channel=True``, as other libraries and papers do it
    after a convolution, each channel of an (N, C, H, W) input has its statistics over N * H * W values. ``gamma`` and
    ``beta`` are (D,) or (C,); one number serves for all. Two more of the book's choices differ from other libraries':
    ``eps`` is 10e-7 (that is, 1e-6), and both running statistics start at zero.

    ``forward(x, train_flg=True)`` uses the statistics of the batch and then updates ``running_mean`` and
    ``running_var``: ``running = momentum * running + (1 - momentum) * batch`` (so ``momentum`` is 1 minus PyTorch's),
    in new float64 arrays (on a device in place). With ``train_flg=False`` the running statistics are used.

    ``dgamma``, ``dbeta``, ``input_shape``, ``batch_size``, ``xc`` (x - mean), ``std`` (sqrt(variance + eps)) and ``xn``
    (xc / std) belong to the last training pass; the last three are worked out when they are read.
    """

    parameters = ("gamma", "beta")
    buffers = ("running_mean", "running_var")
    activations = ("input_shape", "batch_size", "_x", "_mean", "_var")
    takes_train_flg = True

    def __init__(
        self,
        gamma: np.ndarray,
        beta: np.ndarray,
        momentum: float = 0.9,
        running_mean: np.ndarray | None = None,
        running_var: np.ndarray | None = None,
        *,
        eps: float = 10e-7,
        per_channel: bool = False,
    ) -> None:
        self.gamma = gamma
        self.beta = beta
        self.momentum = momentum
        self.running_mean = running_mean
        self.running_var = running_var
        self.eps = eps
        self.per_channel = per_channel
        self.input_shape: tuple[int, ...] | None = None
        self.batch_size: int | None = None
        self.dgamma: np.ndarray | None = None
        self.dbeta: np.ndarray | None = None
        self._x: np.ndarray | None = None
        self._mean: np.ndarray | None = None
        self._var: np.ndarray | None = None

    def forward(self, x: np.ndarray, train_flg: bool = True) -> np.ndarray:
        """An array of the shape and dtype of ``x``: (N, D), or with more dimensions (4 if ``per_channel``)."""
        shape = x.shape
        x = self._features(x)
        features = x.shape[1]
        gamma, beta = _filled(self.gamma, features, x), _filled(self.beta, features, x)
        if self.running_mean is None or self.running_var is None:
            self.running_mean = zeros((features,), np.dtype(np.float64), x)
            self.running_var = zeros((features,), np.dtype(np.float64), x)
        if not train_flg:
            self._x = self._mean = self._var = self.input_shape = self.batch_size = None
            out = F.batch_norm_inference(x, gamma, beta, self.running_mean, self.running_var, eps=self.eps)
            return reshaped(out, shape)
        out, mean, var = F.batch_norm(x, gamma, beta, eps=self.eps)
        if backend.is_inference():
            self._x = self._mean = self._var = self.input_shape = self.batch_size = None
        else:
            self._x, self._mean, self._var = x, mean, var
            self.input_shape, self.batch_size = shape, shape[0]
        self.running_mean = _later(self.running_mean, mean, self.momentum, "running_mean")
        self.running_var = _later(self.running_var, var, self.momentum, "running_var")
        return reshaped(out, shape)

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """The gradient by x, in its shape, after a forward pass with ``train_flg=True``."""
        x, mean, var = self._kept(self._x), self._kept(self._mean), self._kept(self._var)
        gamma = _filled(self.gamma, x.shape[1], x)
        dx, dgamma, dbeta = F.batch_norm_backward(reshaped(dout, x.shape), x, gamma, mean, var, eps=self.eps)
        beta = _call.as_array(self.beta, "beta", x)
        self.dgamma = prepare(dgamma, _call.gradient_dtype(gamma.dtype, dgamma.dtype))
        self.dbeta = prepare(dbeta, _call.gradient_dtype(beta.dtype, dbeta.dtype))
        return reshaped(dx, self._kept(self.input_shape))

    def _features(self, x: np.ndarray) -> np.ndarray:
        """``x`` as the function takes it: axis 1 holds what has statistics of its own."""
        if self.per_channel:
            if x.ndim not in (2, 4):
                raise ValueError(f"per_channel batch normalisation takes (N, C) or (N, C, H, W), not {x.shape}")
            return x
        if x.ndim < 2:
            raise ValueError(f"batch normalisation takes (N, D) or more dimensions, not {x.shape}")
        return x if x.ndim == 2 else reshaped(x, (x.shape[0], prod(x.shape[1:])))

    def _columns(self, statistics: np.ndarray) -> np.ndarray:
        return statistics if self._kept(self._x).ndim == 2 else statistics[:, None, None]

    @property
    def std(self) -> np.ndarray | None:
        """sqrt(variance + eps) of the last training batch, (D,) or (C,)."""
        return None if self._var is None else np.sqrt(self._var + self._var.dtype.type(self.eps))

    @property
    def xc(self) -> np.ndarray | None:
        """x - mean of the last training batch, (N, D); (N, C, H, W) if ``per_channel``."""
        if self._x is None or self._mean is None:
            return None
        return self._x - self._columns(self._mean)

    @property
    def xn(self) -> np.ndarray | None:
        """xc / std of the last training batch."""
        xc, std = self.xc, self.std
        return None if xc is None or std is None else xc / self._columns(std)


def _filled(parameter: np.ndarray, features: int, x: np.ndarray) -> np.ndarray:
    """``parameter`` as (features,): itself, or its one number repeated."""
    parameter = _call.as_array(parameter, "gamma or beta", x)
    if parameter.size != 1:
        return parameter
    if not is_device(parameter):
        return np.broadcast_to(parameter.reshape(()), (features,))
    return contiguous(type(parameter)((features,), parameter.dtype, parameter.data, (0,)))  # type: ignore[no-any-return, call-arg, arg-type]


def _later(mean: np.ndarray, batch: np.ndarray, momentum: float, name: str) -> np.ndarray:
    """A running statistic after another batch: a new array, or on a device the same one."""
    if not is_device(batch):
        return momentum * mean + (1 - momentum) * batch.astype(np.float64)
    _call.expect_beside("BatchNormalization", name, mean, "x", batch)
    mean = contiguous(prepare(mean, np.dtype(np.float64)))
    kernels.running(mean, batch, momentum)
    return mean


class LocalResponseNormalization(Layer):
    """x / (k + alpha / size * sum of squares over ``size`` neighbouring channels) ** beta, for (N, C, H, W).

    ``alpha`` is divided by ``size``, as in ONNX, PyTorch and Caffe. The formula in AlexNet's paper has no such
    division: its k = 2, n = 5, alpha = 1e-4, beta = 0.75 are ``size=5, alpha=5e-4, beta=0.75, k=2`` here.
    """

    activations = ("x",)

    def __init__(self, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> None:
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k
        self.x: np.ndarray | None = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """An array of the shape and dtype of ``x``."""
        out = F.local_response_norm(x, self.size, self.alpha, self.beta, self.k)
        self.x = None if backend.is_inference() else x
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """The gradient by x."""
        return F.local_response_norm_backward(dout, self._kept(self.x), self.size, self.alpha, self.beta, self.k)
