"""im2col and col2im as plain Python loops over the elements of the matrix."""

from __future__ import annotations

import itertools

import numpy as np


def elements(shape, kernel, stride, pads, dilation):
    """(row, column, image index or None in the padding) of every element, row by row."""
    n, c, h, w = shape
    top, bottom, left, right = pads
    row = 0
    for image in range(n):
        for start_h in range(-top, h + bottom - dilation[0] * (kernel[0] - 1), stride[0]):
            for start_w in range(-left, w + right - dilation[1] * (kernel[1] - 1), stride[1]):
                for column, (channel, kh, kw) in enumerate(
                    itertools.product(range(c), range(kernel[0]), range(kernel[1]))
                ):
                    i, j = start_h + kh * dilation[0], start_w + kw * dilation[1]
                    yield row, column, (image, channel, i, j) if 0 <= i < h and 0 <= j < w else None
                row += 1


def im2col(x, shape, **geometry):
    """The matrix of the given shape, written over NaN."""
    out = np.full(shape, np.nan, x.dtype)
    for row, column, at in elements(x.shape, **geometry):
        out[row, column] = 0 if at is None else x[at]
    return out


def col2im(col, shape, **geometry):
    """The sums in the order of the contract: an element's taps sorted by (kh, kw)."""
    found = {at: [] for at in np.ndindex(shape)}
    for row, column, at in elements(shape, **geometry):
        if at is not None:
            found[at].append((column, row))  # one channel's columns count its taps
    out = np.zeros(shape)
    for at, places in found.items():
        for column, row in sorted(places):
            out[at] += float(col[row, column])
    return out
