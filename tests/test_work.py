"""fastdl.bench.work against loops that count: convolutions, products, pooling, normalisation.

Each loop computes one element after the other what the contract of an op says, with numbers that count; that it
computes the right thing is seen from the NumPy reference.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from counting import DTYPES, check, every_dtype, normal
from fastdl.kernels.geometry import window_grid
from fastdl.kernels.problem import COMPUTE, Problem

# ---- windows --------------------------------------------------------------------------------------------------------

#: Size, kernel, stride, pads, dilation: plain; uneven pads and overlaps; gaps between windows, and a rest that no
#: window reaches; dilation; a stride that skips rows.
GEOMETRIES = {
    "plain": ((4, 5), (3, 2), (1, 1), (0, 0, 0, 0), (1, 1)),
    "padded": ((5, 4), (3, 3), (2, 1), (1, 2, 0, 2), (1, 1)),
    "gaps": ((7, 8), (2, 1), (3, 2), (0, 0, 0, 0), (1, 1)),
    "dilated": ((7, 6), (2, 3), (1, 2), (1, 0, 1, 1), (3, 2)),
    "1x1": ((5, 6), (1, 1), (2, 2), (0, 0, 0, 0), (1, 1)),
}
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)


def grid_of(p, kernel):
    ceil_mode = dict(p.attrs).get("ceil_mode", False)
    return window_grid(p.shapes[0][2:], kernel, p.stride, p.pads, p.dilation, ceil_mode)


def taps(p, kernel, i, j):
    """(r, s, row, column) of each tap of the window (i, j); row and column are None in the padding."""
    h, w = p.shapes[0][2:]
    for r, s in itertools.product(*map(range, kernel)):
        y = i * p.stride[0] + r * p.dilation[0] - p.pads[0]
        x = j * p.stride[1] + s * p.dilation[1] - p.pads[2]
        yield (r, s, y, x) if 0 <= y < h and 0 <= x < w else (r, s, None, None)


class Sums(dict):
    """Sums by index, each from 0 on; None stands for what lies in the padding, where it is added all the same."""

    def __init__(self, tally):
        super().__init__()
        self.tally = tally

    def __missing__(self, key):
        return self.tally.number(0)

    def write_to(self, cells):
        for index in cells.indices():
            cells[index] = self[index]


# ---- convolutions ---------------------------------------------------------------------------------------------------


def products(p):
    """(output index, input index or None, weight index) of every product."""
    (n, *_), (k, c, *kernel) = p.shapes
    for image, filters, i, j in itertools.product(range(n), range(k), *map(range, grid_of(p, kernel))):
        group = filters // (k // p.groups)
        for q, (r, s, y, x) in itertools.product(range(c), list(taps(p, kernel, i, j))):
            at = None if y is None else (image, group * c + q, y, x)
            yield (image, filters, i, j), at, (filters, q, r, s)


def conv_forward(p, tally, x, w, b, out, pooled=None, indices=None):
    sums, values = Sums(tally), {}
    for o, at, k in products(p):
        sums[o] = sums[o] + (tally.number(0) if at is None else x[at]) * w[k]
    for o, total in sums.items():
        if p.epilogue.startswith("bias"):
            total = total + b[o[1],]
        if p.epilogue.endswith("relu"):
            total = tally.number(0) if total <= 0 else total
        out[o] = values[o] = total
    for index in () if pooled is None else pooled.indices():
        best, where = tally.number(-math.inf), 0
        for tap, (r, s) in enumerate(itertools.product(range(2), repeat=2)):
            value = values[*index[:2], 2 * index[2] + r, 2 * index[3] + s]
            if value > best:
                best, where = value, tap
        pooled[index], indices[index] = best, where


def conv_backward_input(p, tally, dout, w, y, dx):
    sums = Sums(tally)
    for o, at, k in products(p):
        sums[at] = sums[at] + dout[o] * w[k]
    for index in dx.indices():
        masked = p.epilogue == "relu_mask" and y[index] <= 0
        dx[index] = tally.number(0) if masked else sums[index]


def conv_backward_weight(p, tally, dout, x, dw):
    sums = Sums(tally)
    for o, at, k in products(p):
        sums[k] = sums[k] + dout[o] * (tally.number(0) if at is None else x[at])
    sums.write_to(dw)


def conv_backward_bias(p, tally, dout, db):
    sums = Sums(tally)
    for o in dout.indices():
        sums[o[1],] = sums[o[1],] + dout[o]
    sums.write_to(db)


@pytest.mark.parametrize("groups", [1, 2, 4])
@every_geometry
def test_convolutions(geometry, groups):
    for dtype in DTYPES if groups == 2 else ("float64",):
        size, kernel, stride, pads, dilation = geometry
        x, w = normal((2, 4, *size), dtype), normal((4, 4 // groups, *kernel), dtype)
        b = normal((4,), dtype)
        plain = Problem("conv2d", "forward", (x.shape, w.shape), dtype, (), pads, stride, dilation, groups)
        shape = (2, 4, *plain.grid())
        out, dout = np.zeros(shape, dtype), normal(shape, dtype, 1)
        for epilogue in ("none", "bias", "bias_relu"):
            bias = None if epilogue == "none" else b
            check(plain._replace(epilogue=epilogue), conv_forward, x, w, bias, out.copy())
        if min(plain.grid()) >= 2:
            half = (2, 4, *(n // 2 for n in plain.grid()))
            pooled = plain._replace(direction="forward_pooled", epilogue="bias_relu")
            check(pooled, conv_forward, x, w, b, out.copy(), np.zeros(half, dtype), np.zeros(half, np.uint8))
        backward = plain._replace(direction="backward_input")
        check(backward, conv_backward_input, dout, w, None, np.zeros_like(x))
        check(backward._replace(epilogue="relu_mask"), conv_backward_input, dout, w, x, np.zeros_like(x))
        check(plain._replace(direction="backward_weight"), conv_backward_weight, dout, x, np.zeros_like(w))
        bias = Problem("conv2d", "backward_bias", (shape,), dtype)
        check(bias, conv_backward_bias, dout, np.zeros(4, dtype))


def gemm(p, tally, a, b, bias, out):
    for i, j in out.indices():
        total = tally.number(0)
        for k in range(p.shapes[0][1]):
            total = total + a[i, k] * b[k, j]
        if p.epilogue.startswith("bias"):
            total = total + bias[j,]
        if p.epilogue.endswith("relu"):
            total = tally.number(0) if total <= 0 else total
        out[i, j] = total


@every_dtype
@pytest.mark.parametrize("epilogue", ["none", "bias", "bias_relu"])
def test_gemm(dtype, epilogue):
    a, b = normal((3, 5), dtype), normal((5, 4), dtype)
    bias = None if epilogue == "none" else normal((4,), dtype)
    check(
        Problem("gemm", "forward", (a.shape, b.shape), dtype, epilogue=epilogue),
        gemm,
        a,
        b,
        bias,
        np.zeros((3, 4), dtype),
    )


# ---- pooling, im2col ------------------------------------------------------------------------------------------------


def max_pool_forward(p, tally, x, out, indices):
    kernel = p.attr("kernel")
    for n, c, i, j in out.indices():
        best, where = tally.number(-math.inf), np.iinfo(indices.values.dtype).max
        for r, s, y, z in taps(p, kernel, i, j):
            value = tally.number(-math.inf) if y is None else x[n, c, y, z]
            if value > best:
                best, where = value, r * kernel[1] + s
        out[n, c, i, j], indices[n, c, i, j] = best, where


def max_pool_backward(p, tally, dout, indices, out, dx):
    kernel, sums = p.attr("kernel"), Sums(tally)
    for n, c, i, j in dout.indices():
        value, tap = dout[n, c, i, j], indices[n, c, i, j]
        if p.epilogue == "relu_mask" and out[n, c, i, j] <= 0:
            value = tally.number(0)
        _, _, y, z = list(taps(p, kernel, i, j))[tap]
        sums[n, c, y, z] = sums[n, c, y, z] + value
    sums.write_to(dx)


def divisor(p, i, j):
    """By PyTorch's rule: the window inside the padded image, or inside the image."""
    (h, w), (top, bottom, left, right) = p.shapes[0][2:], p.pads
    rows, columns = (range(a * p.stride[k], a * p.stride[k] + p.attr("kernel")[k]) for k, a in ((0, i), (1, j)))
    if p.attr("count_include_pad"):
        return sum(y < h + top + bottom for y in rows) * sum(x < w + left + right for x in columns)
    return sum(top <= y < h + top for y in rows) * sum(left <= x < w + left for x in columns)


def avg_pool_forward(p, tally, x, out):
    for n, c, i, j in out.indices():
        total = tally.number(0)
        for _, _, y, z in taps(p, p.attr("kernel"), i, j):
            total = total + (tally.number(0) if y is None else x[n, c, y, z])
        out[n, c, i, j] = total / divisor(p, i, j)


def avg_pool_backward(p, tally, dout, dx):
    sums = Sums(tally)
    for n, c, i, j in dout.indices():
        share = dout[n, c, i, j] / divisor(p, i, j)
        for _, _, y, z in taps(p, p.attr("kernel"), i, j):
            at = None if y is None else (n, c, y, z)
            sums[at] = sums[at] + share
    sums.write_to(dx)


@every_dtype
@pytest.mark.parametrize("ceil_mode", [False, True])
@every_geometry
def test_pooling(geometry, ceil_mode, dtype):
    size, kernel, stride, pads, dilation = geometry
    x = normal((2, 3, *size), dtype)
    attrs = (("ceil_mode", ceil_mode), ("kernel", kernel))
    forward = Problem("max_pool2d", "forward", (x.shape,), dtype, (), pads, stride, dilation, attrs=attrs)
    shape = (2, 3, *grid_of(forward, kernel))
    out, indices, dout = np.zeros(shape, dtype), np.zeros(shape, np.uint8), normal(shape, dtype, 1)
    check(forward, max_pool_forward, x, out, indices)
    backward = forward._replace(direction="backward")
    check(backward, max_pool_backward, dout, indices, None, np.zeros_like(x))
    check(backward._replace(epilogue="relu_mask"), max_pool_backward, dout, indices, out, np.zeros_like(x))
    if dilation == (1, 1):
        for include in (False, True):
            attrs = (("ceil_mode", ceil_mode), ("count_include_pad", include), ("kernel", kernel))
            mean = forward._replace(op="avg_pool2d", attrs=attrs)
            check(mean, avg_pool_forward, x, np.zeros(shape, dtype))
            check(mean._replace(direction="backward"), avg_pool_backward, dout, np.zeros_like(x))


def test_windows_of_more_than_255_taps_have_larger_indices():
    x = normal((1, 1, 17, 18))
    attrs = (("ceil_mode", False), ("kernel", (16, 16)))
    problem = Problem("max_pool2d", "forward", (x.shape,), "float64", attrs=attrs)
    check(problem, max_pool_forward, x, np.zeros((1, 1, 2, 3)), np.zeros((1, 1, 2, 3), np.int32))


def global_mean(p, tally, x, out):
    for n, c, *_ in out.indices():
        total = tally.number(0)
        for y, z in itertools.product(*map(range, x.shape[2:])):
            total = total + x[n, c, y, z]
        out[n, c, 0, 0] = total / math.prod(x.shape[2:])


def global_mean_backward(p, tally, dout, dx):
    for n, c, *_ in dout.indices():
        share = dout[n, c, 0, 0] / math.prod(dx.shape[2:])
        for y, z in itertools.product(*map(range, dx.shape[2:])):
            dx[n, c, y, z] = share


@every_dtype
def test_means_of_channels(dtype):
    x, mean = normal((2, 3, 4, 5), dtype), normal((2, 3, 1, 1), dtype)
    problem = Problem("global_avg_pool2d", "forward", (x.shape,), dtype)
    check(problem, global_mean, x, np.zeros_like(mean))
    check(problem._replace(direction="backward"), global_mean_backward, mean, np.zeros_like(x))


def im2col(p, tally, x, out):
    kernel = p.attr("kernel")
    for row, (n, i, j) in enumerate(itertools.product(range(x.shape[0]), *map(range, grid_of(p, kernel)))):
        column = itertools.count()
        for c, (_, _, y, z) in itertools.product(range(x.shape[1]), list(taps(p, kernel, i, j))):
            out[row, next(column)] = 0 if y is None else x[n, c, y, z]


def col2im(p, tally, col, out):
    kernel, sums = p.attr("kernel"), Sums(tally)
    for row, (n, i, j) in enumerate(itertools.product(range(out.shape[0]), *map(range, grid_of(p, kernel)))):
        places = itertools.product(range(out.shape[1]), list(taps(p, kernel, i, j)))
        for column, (c, (_, _, y, z)) in enumerate(places):
            at = None if y is None else (n, c, y, z)
            sums[at] = sums[at] + (tally.number(0) if at is None else col[row, column])
    sums.write_to(out)


@every_dtype
@every_geometry
def test_im2col_and_col2im(geometry, dtype):
    size, kernel, stride, pads, dilation = geometry
    x = normal((2, 3, *size), dtype)
    attrs = (("kernel", kernel),)
    problem = Problem("im2col", "forward", (x.shape,), dtype, (), pads, stride, dilation, attrs=attrs)
    col = normal((2 * math.prod(grid_of(problem, kernel)), 3 * math.prod(kernel)), dtype)
    check(problem, im2col, x, np.zeros_like(col))
    check(problem._replace(op="col2im", shapes=(x.shape, col.shape)), col2im, col, np.zeros_like(x))


# ---- normalisation --------------------------------------------------------------------------------------------------


def channels(x):
    """The indices of each channel."""
    return [(c, [i for i in x.indices() if i[1] == c]) for c in range(x.shape[1])]


def norm_forward(p, tally, x, gamma, beta, out, mean, var):
    for c, indices in channels(x):
        total, squares = tally.number(0), tally.number(0)
        for i in indices:
            total = total + x[i]
        middle = total / len(indices)
        for i in indices:
            deviation = x[i] - middle
            squares = squares + deviation * deviation
        mean[c,], var[c,] = middle, (variance := squares / len(indices))
        _map(p, x, gamma, beta, middle, variance, out, c, indices)


def norm_inference(p, tally, x, gamma, beta, mean, var, out):
    for c, indices in channels(x):
        _map(p, x, gamma, beta, mean[c,], var[c,], out, c, indices)


def _map(p, x, gamma, beta, middle, variance, out, c, indices):
    scale = gamma[c,] / (variance + p.attr("eps")).sqrt()
    for i in indices:
        out[i] = (x[i] - middle) * scale + beta[c,]


def norm_backward(p, tally, dout, x, gamma, mean, var, dx, dgamma, dbeta):
    for c, indices in channels(x):
        middle, root = mean[c,], (var[c,] + p.attr("eps")).sqrt()
        sum_d, sum_dx = tally.number(0), tally.number(0)
        for i in indices:
            sum_d = sum_d + dout[i]
            sum_dx = sum_dx + dout[i] * (x[i] - middle)
        dbeta[c,], dgamma[c,] = sum_d, (by_gamma := sum_dx / root)
        scale, shift, slope = gamma[c,] / root, sum_d / len(indices), by_gamma / len(indices) / root
        for i in indices:
            dx[i] = scale * (dout[i] - shift - (x[i] - middle) * slope)


@every_dtype
@pytest.mark.parametrize("shape", [(2, 3, 4, 2), (5, 3)])
def test_batch_norm(dtype, shape):
    x, dout, gamma, beta = normal(shape, dtype), normal(shape, dtype, 1), normal((3,), dtype), normal((3,), dtype, 1)
    mean, var = (np.zeros(3, COMPUTE[dtype]) for _ in range(2))
    problem = Problem("batch_norm", "forward", (shape,), dtype, attrs=(("eps", 1e-3),))
    check(problem, norm_forward, x, gamma, beta, np.zeros_like(x), mean, var)
    check(problem._replace(direction="inference"), norm_inference, x, gamma, beta, mean, var, np.zeros_like(x))
    gradients = np.zeros_like(x), np.zeros_like(gamma), np.zeros_like(beta)
    check(problem._replace(direction="backward"), norm_backward, dout, x, gamma, mean, var, *gradients)


def window_sums(tally, values, size, before):
    """The sum over ``size`` neighbours of each channel, beyond the first and last of which there are zeros."""
    sums = {}
    for n, c, h, w in values:
        total = tally.number(0)
        for j in range(c - before, c - before + size):
            total = total + values.get((n, j, h, w), 0.0)
        sums[n, c, h, w] = total
    return sums


def response(p, tally, x):
    """The values of x, k + alpha / size * sum of squares, and that to the power -beta."""
    size, values = p.attr("size"), {i: x[i] for i in x.indices()}
    squares = window_sums(tally, {i: v * v for i, v in values.items()}, size, (size - 1) // 2)
    sums = {i: p.attr("k") + p.attr("alpha") / size * total for i, total in squares.items()}
    return values, sums, {i: s ** -p.attr("beta") for i, s in sums.items()}


def response_forward(p, tally, x, out):
    values, _, powers = response(p, tally, x)
    for i, value in values.items():
        out[i] = value * powers[i]


def response_backward(p, tally, dout, x, dx):
    (values, sums, powers), size = response(p, tally, x), p.attr("size")
    d = {i: dout[i] for i in dout.indices()}
    inner = {i: d[i] * value * powers[i] / sums[i] for i, value in values.items()}
    outer = window_sums(tally, inner, size, size // 2)
    factor = 2 * p.attr("alpha") * p.attr("beta") / size
    for i, value in values.items():
        dx[i] = d[i] * powers[i] - factor * value * outer[i]


@every_dtype
@pytest.mark.parametrize("size", [5, 2, 1])
def test_local_response_norm(dtype, size):
    x, dout = normal((2, 4, 2, 3), dtype), normal((2, 4, 2, 3), dtype, 1)
    attrs = (("alpha", 0.1), ("beta", 0.75), ("k", 2.0), ("size", size))
    problem = Problem("local_response_norm", "forward", (x.shape,), dtype, attrs=attrs)
    check(problem, response_forward, x, np.zeros_like(x))
    check(problem._replace(direction="backward"), response_backward, dout, x, np.zeros_like(x))
