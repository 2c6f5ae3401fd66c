"""gemm and convolution as plain Python loops over single elements, in exact or float64 arithmetic."""

from __future__ import annotations

import itertools

import numpy as np


def gemm(a, b, bias=None, relu=False):
    """a (M, K) times b (K, N), one product at a time."""
    (m, k), (_, n) = a.shape, b.shape
    out = np.zeros((m, n))
    for i, j in itertools.product(range(m), range(n)):
        total = sum(float(a[i, p]) * float(b[p, j]) for p in range(k)) + (float(bias[j]) if bias is not None else 0.0)
        out[i, j] = 0.0 if relu and total <= 0 else total
    return out


def terms(x_shape, w_shape, grid, stride, pads, dilation, groups):
    """Every (output index, input index, weight index) whose product the convolution adds up."""
    (n, c, h, w), (k, cg, kh, kw), (oh, ow) = x_shape, w_shape, grid
    assert c == cg * groups
    for image, channel, i, j in itertools.product(range(n), range(k), range(oh), range(ow)):
        group = channel // (k // groups)
        for q, r, s in itertools.product(range(cg), range(kh), range(kw)):
            y = i * stride[0] + r * dilation[0] - pads[0]
            x = j * stride[1] + s * dilation[1] - pads[2]
            if 0 <= y < h and 0 <= x < w:
                yield (image, channel, i, j), (image, group * cg + q, y, x), (channel, q, r, s)


def conv2d(x, w, b, dout, grid, stride, pads, dilation, groups):
    """(out, dx, dw, db) of a convolution."""
    out = np.zeros((x.shape[0], w.shape[0], *grid)) + np.reshape(np.asarray(b, float), (1, -1, 1, 1))
    dx, dw = np.zeros(x.shape), np.zeros(w.shape)
    for o, i, k in terms(x.shape, w.shape, grid, stride, pads, dilation, groups):
        out[o] += float(x[i]) * float(w[k])
        dx[i] += float(dout[o]) * float(w[k])
        dw[k] += float(dout[o]) * float(x[i])
    db = np.zeros(w.shape[0])
    for index in np.ndindex(dout.shape):
        db[index[1]] += float(dout[index])
    return out, dx, dw, db
