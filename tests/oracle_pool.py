"""Pooling as plain Python loops over single elements; gradients are scattered from windows, not gathered."""

from __future__ import annotations

import itertools
import math

import numpy as np


def starts(size, kernel, stride, before, after, dilation, ceil_mode):
    """Where the windows along one axis begin, found by trying: positions in the image, negative in the padding."""
    end, extent = size + after, dilation * (kernel - 1) + 1
    found, at = [], -before
    while at + extent <= end:
        found.append(at)
        at += stride
    if ceil_mode and found:
        if found[-1] + extent < end:
            found.append(at)  # something is left for one more
        if found[-1] >= size:
            found.pop()  # PyTorch and ONNX: the last one must not begin in the padding behind the image
    return found


def windows(size, kernel, stride, pads, dilation, ceil_mode):
    """{(oh, ow): [(tap, h, w) on the image, in row-major order]} and {(oh, ow): taps on the padded image}."""
    axes = [starts(size[a], kernel[a], stride[a], pads[2 * a], pads[2 * a + 1], dilation[a], ceil_mode) for a in (0, 1)]
    on_image, on_padded = {}, {}
    for (oh, top), (ow, left) in itertools.product(*map(enumerate, axes)):
        taps, inside = [], 0
        for kh, kw in itertools.product(range(kernel[0]), range(kernel[1])):
            h, w = top + kh * dilation[0], left + kw * dilation[1]
            if h < size[0] and w < size[1] and h >= 0 and w >= 0:
                taps.append((kh * kernel[1] + kw, h, w))
            inside += h < size[0] + pads[1] and w < size[1] + pads[3]
        on_image[oh, ow], on_padded[oh, ow] = taps, inside
    return on_image, on_padded


def max_pool2d(x, dout, on_image):
    """(out, indices with -1 for a window without elements, dx)."""
    out, indices, dx = np.zeros(dout.shape), np.zeros(dout.shape, int), np.zeros(x.shape)
    for n, c in np.ndindex(x.shape[:2]):
        for (oh, ow), taps in on_image.items():
            best, where = (-math.inf, -1, 0, 0), None
            for tap, h, w in taps:
                value = float(x[n, c, h, w])
                if where is None or (not math.isnan(best[0]) and (math.isnan(value) or value > best[0])):
                    best, where = (value, tap), (h, w)
            out[n, c, oh, ow], indices[n, c, oh, ow] = best[:2]
            if where is not None:
                dx[n, c, *where] += float(dout[n, c, oh, ow])
    return out, indices, dx


def avg_pool2d(x, dout, on_image, on_padded, include_pad):
    """(out, dx)."""
    out, dx = np.zeros(dout.shape), np.zeros(x.shape)
    for n, c in np.ndindex(x.shape[:2]):
        for (oh, ow), taps in on_image.items():
            divisor = on_padded[oh, ow] if include_pad else len(taps)
            total = 0.0
            for _, h, w in taps:
                total += float(x[n, c, h, w])
                dx[n, c, h, w] += float(dout[n, c, oh, ow]) / divisor
            out[n, c, oh, ow] = total / divisor if taps else 0.0
    return out, dx


def global_avg_pool2d(x, dout):
    """(out, dx); sums are exact."""
    pixels = x.shape[2] * x.shape[3]
    out, dx = np.zeros((*x.shape[:2], 1, 1)), np.zeros(x.shape)
    for n, c in np.ndindex(x.shape[:2]):
        out[n, c, 0, 0] = math.fsum(map(float, x[n, c].reshape(-1))) / pixels
        for h, w in np.ndindex(x.shape[2:]):
            dx[n, c, h, w] = float(dout[n, c, 0, 0]) / pixels
    return out, dx
