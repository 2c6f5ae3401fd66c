"""DeepConvNet in plain NumPy, as the book *Deep Learning from Scratch* has it: the peer to be faster than.

Everything is float64 and goes through im2col and col2im, as a reader of the book writes it: a loop over the
filter's positions that copies strided slices, one matrix product per layer, and no attempt to be quick. Times
compare only if this file stays that way, so leave it alone where it looks slow.

    conv 3x3 1->16, relu, conv 3x3 16->16, relu, pool 2
    conv 3x3 16->32, relu, conv 3x3 32->32 (pad 2), relu, pool 2
    conv 3x3 32->64, relu, conv 3x3 64->64, relu, pool 2
    affine 1024->50, relu, dropout, affine 50->10, dropout, softmax with loss

Parameters are a dict `W1 ... W8, b1 ... b8`: filters are (FN, C, FH, FW), affine weights (inputs, outputs).
"""

from __future__ import annotations

import numpy as np

# (filters, channels, pad) of the six 3x3 convolutions; a pooling follows every second one.
CONVOLUTIONS = ((16, 1, 1), (16, 16, 1), (32, 16, 1), (32, 32, 2), (64, 32, 1), (64, 64, 1))
# Fan-in of each of the eight layers with weights, as the book counts it.
FAN_IN = (1 * 9, 16 * 9, 16 * 9, 32 * 9, 32 * 9, 64 * 9, 64 * 16, 50)


def im2col(images: np.ndarray, fh: int, fw: int, stride: int = 1, pad: int = 0) -> np.ndarray:
    """(N, C, H, W) -> float64 (N*OH*OW, C*FH*FW): one row per output position."""
    n, c, h, w = images.shape
    oh = (h + 2 * pad - fh) // stride + 1
    ow = (w + 2 * pad - fw) // stride + 1
    padded = np.pad(images, [(0, 0), (0, 0), (pad, pad), (pad, pad)], "constant")
    patches = np.zeros((n, c, fh, fw, oh, ow))
    for i in range(fh):
        for j in range(fw):
            patches[:, :, i, j] = padded[:, :, i : i + stride * oh : stride, j : j + stride * ow : stride]
    return patches.transpose(0, 4, 5, 1, 2, 3).reshape(n * oh * ow, -1)


def col2im(
    col: np.ndarray, shape: tuple[int, int, int, int], fh: int, fw: int, stride: int = 1, pad: int = 0
) -> np.ndarray:
    """The mirror of `im2col`: (N*OH*OW, C*FH*FW) -> (N, C, H, W), overlapping positions summed."""
    n, c, h, w = shape
    oh = (h + 2 * pad - fh) // stride + 1
    ow = (w + 2 * pad - fw) // stride + 1
    patches = col.reshape(n, oh, ow, c, fh, fw).transpose(0, 3, 4, 5, 1, 2)
    padded = np.zeros((n, c, h + 2 * pad + stride - 1, w + 2 * pad + stride - 1))
    for i in range(fh):
        for j in range(fw):
            padded[:, :, i : i + stride * oh : stride, j : j + stride * ow : stride] += patches[:, :, i, j]
    return padded[:, :, pad : h + pad, pad : w + pad]


class Relu:
    def forward(self, x):
        self.mask = x <= 0
        out = x.copy()
        out[self.mask] = 0
        return out

    def backward(self, dout):
        dout[self.mask] = 0
        return dout


class Convolution:
    def __init__(self, W, b, stride=1, pad=0):
        self.W, self.b, self.stride, self.pad = W, b, stride, pad

    def forward(self, x):
        fn, _, fh, fw = self.W.shape
        n, _, h, w = x.shape
        oh = (h + 2 * self.pad - fh) // self.stride + 1
        ow = (w + 2 * self.pad - fw) // self.stride + 1
        self.x_shape = x.shape
        self.col = im2col(x, fh, fw, self.stride, self.pad)
        self.col_W = self.W.reshape(fn, -1).T
        out = np.dot(self.col, self.col_W) + self.b
        return out.reshape(n, oh, ow, fn).transpose(0, 3, 1, 2)

    def backward(self, dout):
        fn, _, fh, fw = self.W.shape
        dout = dout.transpose(0, 2, 3, 1).reshape(-1, fn)
        self.db = np.sum(dout, axis=0)
        self.dW = np.dot(self.col.T, dout).T.reshape(self.W.shape)
        dcol = np.dot(dout, self.col_W.T)
        return col2im(dcol, self.x_shape, fh, fw, self.stride, self.pad)


class Pooling:
    def __init__(self, pool_h, pool_w, stride):
        self.pool_h, self.pool_w, self.stride = pool_h, pool_w, stride

    def forward(self, x):
        n, c, h, w = x.shape
        oh = (h - self.pool_h) // self.stride + 1
        ow = (w - self.pool_w) // self.stride + 1
        col = im2col(x, self.pool_h, self.pool_w, self.stride).reshape(-1, self.pool_h * self.pool_w)
        self.x_shape = x.shape
        self.arg_max = np.argmax(col, axis=1)
        return np.max(col, axis=1).reshape(n, oh, ow, c).transpose(0, 3, 1, 2)

    def backward(self, dout):
        n, _, oh, ow = dout.shape
        dout = dout.transpose(0, 2, 3, 1)
        dmax = np.zeros((dout.size, self.pool_h * self.pool_w))
        dmax[np.arange(self.arg_max.size), self.arg_max] = dout.flatten()
        return col2im(dmax.reshape(n * oh * ow, -1), self.x_shape, self.pool_h, self.pool_w, self.stride)


class Affine:
    def __init__(self, W, b):
        self.W, self.b = W, b

    def forward(self, x):
        self.x_shape = x.shape
        self.x = x.reshape(x.shape[0], -1)
        return np.dot(self.x, self.W) + self.b

    def backward(self, dout):
        self.dW = np.dot(self.x.T, dout)
        self.db = np.sum(dout, axis=0)
        return np.dot(dout, self.W.T).reshape(self.x_shape)


class Dropout:
    """Not inverted: the mask is plain, and a prediction scales by `1 - ratio` instead."""

    def __init__(self, ratio):
        self.ratio = ratio

    def forward(self, x, train_flg=True):
        if not train_flg:
            return x * (1.0 - self.ratio)
        self.mask = np.random.rand(*x.shape) > self.ratio
        return x * self.mask

    def backward(self, dout):
        return dout * self.mask


class SoftmaxWithLoss:
    """Mean cross entropy of integer labels (N,) after softmax."""

    def forward(self, x, t):
        self.t = t
        e = np.exp(x - x.max(axis=1, keepdims=True))
        self.y = e / e.sum(axis=1, keepdims=True)
        return -np.mean(np.log(self.y[np.arange(len(t)), t] + 1e-7))

    def backward(self):
        dx = self.y.copy()
        dx[np.arange(len(self.t)), self.t] -= 1
        return dx / len(self.t)


def initial_params(seed: int = 0) -> dict[str, np.ndarray]:
    """He initialisation, float64: `W` normal with deviation sqrt(2 / fan-in), `b` zero."""
    rng = np.random.default_rng(seed)
    shapes = [(fn, c, 3, 3) for fn, c, _ in CONVOLUTIONS] + [(64 * 4 * 4, 50), (50, 10)]
    params = {}
    for i, (shape, fan_in) in enumerate(zip(shapes, FAN_IN, strict=True), start=1):
        params[f"W{i}"] = np.sqrt(2.0 / fan_in) * rng.standard_normal(shape)
        params[f"b{i}"] = np.zeros(shape[0] if len(shape) == 4 else shape[1])
    return params


class BookDeepConvNet:
    """DeepConvNet for (N, 1, 28, 28) images and 10 classes; `params` is the dict that `BookAdam` updates.

    `params` given: they are used (not copied) instead of a fresh initialisation from `seed`. The masks of
    dropout come from `np.random`, as in the book.
    """

    def __init__(self, seed: int = 0, *, params: dict[str, np.ndarray] | None = None, dropout_ratio: float = 0.5):
        self.params = p = initial_params(seed) if params is None else params
        self.layers = []
        for i, (_, _, pad) in enumerate(CONVOLUTIONS, start=1):
            self.layers += [Convolution(p[f"W{i}"], p[f"b{i}"], pad=pad), Relu()]
            if i % 2 == 0:
                self.layers.append(Pooling(2, 2, stride=2))
        self.layers += [Affine(p["W7"], p["b7"]), Relu(), Dropout(dropout_ratio)]
        self.layers += [Affine(p["W8"], p["b8"]), Dropout(dropout_ratio)]
        self.last_layer = SoftmaxWithLoss()

    def predict(self, x: np.ndarray, train_flg: bool = False) -> np.ndarray:
        """(N, 1, 28, 28) -> float64 scores (N, 10)."""
        for layer in self.layers:
            x = layer.forward(x, train_flg) if isinstance(layer, Dropout) else layer.forward(x)
        return x

    def loss(self, x: np.ndarray, t: np.ndarray) -> float:
        """Mean cross entropy for integer labels `t` (N,), dropout active."""
        return self.last_layer.forward(self.predict(x, train_flg=True), t)

    def gradient(self, x: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
        """Gradients of `loss`, keyed and shaped like `params`."""
        self.loss(x, t)
        dout = self.last_layer.backward()
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        grads = {}
        weighted = [layer for layer in self.layers if isinstance(layer, (Convolution, Affine))]
        for i, layer in enumerate(weighted, start=1):
            grads[f"W{i}"], grads[f"b{i}"] = layer.dW, layer.db
        return grads


class BookAdam:
    """Adam over a dict of arrays, in place; the bias correction is folded into the step."""

    def __init__(self, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999):
        self.lr, self.beta1, self.beta2 = lr, beta1, beta2
        self.steps = 0
        self.m = self.v = None

    def update(self, params: dict[str, np.ndarray], grads: dict[str, np.ndarray]) -> None:
        if self.m is None:
            self.m = {key: np.zeros_like(value) for key, value in params.items()}
            self.v = {key: np.zeros_like(value) for key, value in params.items()}
        self.steps += 1
        step = self.lr * np.sqrt(1.0 - self.beta2**self.steps) / (1.0 - self.beta1**self.steps)
        for key in params:
            self.m[key] += (1 - self.beta1) * (grads[key] - self.m[key])
            self.v[key] += (1 - self.beta2) * (grads[key] ** 2 - self.v[key])
            params[key] -= step * self.m[key] / (np.sqrt(self.v[key]) + 1e-7)
