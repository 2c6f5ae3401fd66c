"""fastdl.functional: each function against a few lines of NumPy; the kernels' values have tests of their own.

Convolutions and pools use small integers, so that every comparison is exact.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

import fastdl
from fastdl import functional as F
from fastdl.kernels.problem import COMPUTE
from layouts import LAYOUTS
from numerical import central_differences
from small_arrays import channels_last, conv2d_in_numpy, integers, is_channels_last

# ---- convolution ----------------------------------------------------------------------------------------------------


GEOMETRIES = {
    "plain": ({}, {}),
    "pair stride": ({"stride": (2, 1)}, {"stride": (2, 1)}),
    "stride list": ({"stride": [1, 3]}, {"stride": (1, 3)}),
    "pad": ({"pad": 2}, {"pads": (2, 2, 2, 2)}),
    "pad pair": ({"pad": (1, 3)}, {"pads": (1, 1, 3, 3)}),
    "four pads": ({"pad": (0, 1, 2, 5)}, {"pads": (0, 1, 2, 5)}),
    "dilation": ({"dilation": (2, 1), "pad": 1}, {"dilation": (2, 1), "pads": (1, 1, 1, 1)}),
    "groups": ({"groups": 2}, {"groups": 2}),
    "depthwise": ({"groups": 4, "stride": 2}, {"groups": 4, "stride": (2, 2)}),
}


@pytest.fixture(params=GEOMETRIES)
def convolution(request, rng):
    """(x, w, arguments, expected) of one geometry."""
    arguments, expected = GEOMETRIES[request.param]
    groups = arguments.get("groups", 1)
    x, w = integers(rng, (2, 4, 7, 9)), integers(rng, (8, 4 // groups, 3, 2))
    return x, w, arguments, conv2d_in_numpy(x, w, **expected)


def test_conv2d(backend, dtype, convolution, rng):
    x, w, arguments, expected = convolution
    out = F.conv2d(x.astype(dtype), w.astype(dtype), **arguments)
    assert out.dtype == dtype
    assert is_channels_last(out)
    assert np.array_equal(out, expected.astype(dtype))
    b = integers(rng, 8, dtype)
    expected = (expected + b.astype(np.float64)[:, None, None]).astype(dtype)
    assert np.array_equal(F.conv2d(x.astype(dtype), w.astype(dtype), b, **arguments), expected)


def test_conv2d_backward_is_the_adjoint(backend, convolution, rng):
    x, w, arguments, y = convolution
    dout = integers(rng, y.shape)
    dx, dw, db = F.conv2d_backward(dout, x, w, **arguments)
    assert is_channels_last(dx)
    assert dw.flags.c_contiguous
    other_x, other_w = integers(rng, x.shape), integers(rng, w.shape)
    assert dx.shape == x.shape
    assert dw.shape == w.shape
    assert np.sum(F.conv2d(other_x, w, **arguments) * dout) == np.sum(other_x * dx)
    assert np.sum(F.conv2d(x, other_w, **arguments) * dout) == np.sum(other_w * dw)
    assert np.array_equal(db, dout.sum((0, 2, 3)))


def test_fused_relu(backend, rng):
    from fastdl.functional._conv import fused_conv2d
    from fastdl.functional._linear import fused_linear

    x, w, b = integers(rng, (2, 3, 5, 5)), integers(rng, (4, 3, 3, 3)), integers(rng, 4)
    for bias in (None, b):
        plain = F.conv2d(x, w, bias, pad=1)
        fused = fused_conv2d(x, w, bias, 1, 1, 1, 1, None, True)
        assert np.array_equal(fused, np.maximum(plain, 0))
        a, v = x.reshape(2, -1)[:, :10], w.reshape(4, -1)[:, :10].T
        assert np.array_equal(fused_linear(a, v, bias, None, True), np.maximum(F.linear(a, v, bias), 0))


# ---- need ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("need", [c for n in range(4) for c in itertools.combinations("xwb", n)])
def test_need(backend, rng, need):
    x, w, dout = integers(rng, (2, 3, 6, 6)), integers(rng, (4, 3, 3, 3)), integers(rng, (2, 4, 4, 4))
    everything = F.conv2d_backward(dout, x, w)
    a, v, d = integers(rng, (3, 2, 4)), integers(rng, (8, 5)), integers(rng, (3, 5))
    everything_linear = F.linear_backward(d, a, v)
    for given in (need, list(need), set(need), "".join(need)):
        for whole, some in (
            (everything, F.conv2d_backward(dout, x, w, need=given)),
            (everything_linear, F.linear_backward(d, a, v, need=given)),
        ):
            for name, full, part in zip("xwb", whole, some, strict=True):
                assert (part is not None) == (name in need)
                assert part is None or np.array_equal(part, full)


def test_need_runs_no_other_kernel(rng):
    x, w, dout = integers(rng, (2, 3, 6, 6)), integers(rng, (4, 3, 3, 3)), integers(rng, (2, 4, 4, 4))
    with fastdl.explain() as log:
        F.conv2d_backward(dout, x, w, need=("w", "b"))
    assert [problem.direction for problem in log.problems] == ["backward_bias", "backward_weight"]


# ---- linear ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 24), (3, 2, 3, 4), (3, 4, 6)])
def test_linear(backend, dtype, rng, shape):
    x, w, b = integers(rng, shape), integers(rng, (24, 5)), integers(rng, 5)
    rows, d = x.reshape(3, 24), integers(rng, (3, 5))
    xs, ws, bs, ds = (a.astype(dtype) for a in (x, w, b, d))
    out = F.linear(xs, ws, bs)
    assert out.dtype == dtype
    assert np.array_equal(out, (rows @ w + b).astype(dtype))
    assert np.array_equal(F.linear(xs, ws), (rows @ w).astype(dtype))
    dx, dw, db = F.linear_backward(ds, xs, ws)
    assert np.array_equal(dx, (d @ w.T).reshape(shape).astype(dtype))
    assert np.array_equal(dw, (rows.T @ d).astype(dtype))
    assert np.array_equal(db, d.sum(0).astype(dtype))
    assert dw.flags.c_contiguous
    assert {a.dtype for a in (dx, dw, db)} == {np.dtype(dtype)}


def test_linear_flattens_in_the_order_of_the_axes_and_keeps_memory_order(backend, rng):
    x, w, d = integers(rng, (2, 3, 4, 5)), integers(rng, (60, 7)), integers(rng, (2, 7))
    assert np.array_equal(F.linear(channels_last(x), w), F.linear(x, w))
    dx = F.linear_backward(d, channels_last(x), w)[0]
    assert is_channels_last(dx)
    assert np.array_equal(dx, F.linear_backward(d, x, w)[0])


# ---- im2col ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{}, {"stride": (2, 1), "pad": (1, 0, 2, 1)}, {"dilation": 2, "pad": 1}])
def test_im2col_times_filters_is_conv2d(backend, rng, arguments):
    x, w = integers(rng, (2, 3, 7, 6)), integers(rng, (4, 3, 3, 2))
    out = F.conv2d(x, w, **arguments)
    col = F.im2col(x, (3, 2), **arguments)
    assert col.flags.c_contiguous
    assert np.array_equal(col @ w.reshape(4, -1).T, out.transpose(0, 2, 3, 1).reshape(-1, 4))
    other = integers(rng, col.shape)
    image = F.col2im(other, x.shape, (3, 2), **arguments)
    assert is_channels_last(image)
    assert np.sum(image * x) == np.sum(other * col)


# ---- pooling --------------------------------------------------------------------------------------------------------

POOLS = {
    "plain": {"size": 2},
    "stride": {"size": (3, 2), "stride": (1, 2)},
    "pad": {"size": 3, "stride": 2, "pad": 1},
    "four pads": {"size": (2, 3), "stride": 1, "pad": (0, 1, 2, 4)},
    "ceil": {"size": 2, "stride": 2, "ceil_mode": True},
    "dilation": {"size": 2, "dilation": (2, 3), "stride": 1},
}


def windows_in_numpy(x, size, stride=None, pad=0, dilation=1, ceil_mode=False):
    """(N, C, OH, OW, KH, KW): the windows of x, with NaN in the padding."""

    def pair(v):
        return v if isinstance(v, tuple) else (v, v)

    (kh, kw), (dh, dw) = pair(size), pair(dilation)
    sh, sw = pair(size if stride is None else stride)
    top, bottom, left, right = pad if isinstance(pad, tuple) and len(pad) == 4 else (pad,) * 4
    more_h, more_w = (sh - 1, sw - 1) if ceil_mode else (0, 0)
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom + more_h), (left, right + more_w)), constant_values=np.nan)
    return sliding_window_view(x, ((kh - 1) * dh + 1, (kw - 1) * dw + 1), axis=(2, 3))[:, :, ::sh, ::sw, ::dh, ::dw]


@pytest.fixture(params=POOLS)
def pool(request):
    """The arguments of one pooling."""
    return POOLS[request.param]


def test_max_pool2d(backend, dtype, pool, rng):
    x = integers(rng, (2, 3, 7, 9), dtype, -9, 10)
    windows = windows_in_numpy(x.astype(np.float64), **pool)
    flat = np.where(np.isnan(windows), -np.inf, windows).reshape(*windows.shape[:4], -1)
    out, indices = F.max_pool2d(x, **pool, return_indices=True)
    assert out.dtype == dtype
    assert indices.dtype == np.uint8
    assert is_channels_last(out)
    assert is_channels_last(indices)
    assert np.array_equal(out, flat.max(-1).astype(dtype))
    in_padding = np.isnan(windows).all((-2, -1))
    assert np.array_equal(indices == 255, in_padding)
    assert np.array_equal(indices[~in_padding], flat.argmax(-1)[~in_padding])
    assert np.array_equal(F.max_pool2d(x, **pool), out)


def test_max_pool2d_backward(backend, pool, rng):
    x = rng.permutation(2 * 3 * 7 * 9).reshape(2, 3, 7, 9).astype(np.float32)
    out, indices = F.max_pool2d(x, **pool, return_indices=True)
    dout = integers(rng, out.shape, np.float32)
    expected = np.zeros_like(x)
    for place in np.ndindex(out.shape):
        if np.isfinite(out[place]):
            expected[x == out[place]] += dout[place]
    for dx in (
        F.max_pool2d_backward(dout, x, **pool),
        F.max_pool2d_backward(dout, x, **pool, indices=indices),
        F.max_pool2d_backward(dout, x.shape, **pool, indices=indices),
    ):
        assert np.array_equal(dx, expected)
        assert dx.dtype == np.float32
        assert is_channels_last(dx)


def test_max_pool2d_with_large_windows(backend):
    x = np.zeros((1, 1, 16, 17))
    x[0, 0, 15, 16] = 1
    out, indices = F.max_pool2d(x, (16, 17), return_indices=True)
    assert indices.dtype == np.int32
    assert (out.item(), indices.item()) == (1, 16 * 17 - 1)
    assert np.array_equal(F.max_pool2d_backward(out, x, (16, 17), indices=indices), x)


# With the padding included, ceil_mode has a divisor of its own, which the kernel's tests check.
@pytest.mark.parametrize(
    ("name", "include"),
    [("plain", True), ("stride", True), ("pad", True), ("pad", False), ("four pads", False), ("ceil", False)],
)
def test_avg_pool2d(backend, rng, name, include):
    pool = POOLS[name]
    x = integers(rng, (2, 3, 7, 9))
    windows = windows_in_numpy(x, **pool)
    total = np.nansum(windows, (-2, -1))
    count = np.full_like(total, windows[0, 0, 0, 0].size) if include else (~np.isnan(windows)).sum((-2, -1))
    out = F.avg_pool2d(x, **pool, count_include_pad=include)
    np.testing.assert_allclose(out, total / np.maximum(count, 1), rtol=1e-15)
    assert is_channels_last(out)
    dout = integers(rng, out.shape)
    dx = F.avg_pool2d_backward(dout, x, **pool, count_include_pad=include)
    assert np.array_equal(dx, F.avg_pool2d_backward(dout, x.shape, **pool, count_include_pad=include))
    assert is_channels_last(dx)
    np.testing.assert_allclose(np.sum(dx * x), np.sum(dout * out), rtol=1e-12)


def test_global_avg_pool2d(backend, dtype, rng):
    x = integers(rng, (2, 3, 4, 8), dtype)
    out = F.global_avg_pool2d(x)
    assert out.shape == (2, 3, 1, 1)
    assert out.dtype == dtype
    assert np.array_equal(out, x.astype(np.float64).mean((2, 3), keepdims=True).astype(dtype))
    dx = F.global_avg_pool2d_backward(out, x)
    assert np.array_equal(dx, np.broadcast_to((out.astype(np.float64) / 32).astype(dtype), x.shape))
    assert is_channels_last(dx)


# ---- normalisation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 5), (2, 3, 4, 5), (2, 3, 2, 2, 3)])
def test_batch_norm(backend, rng, shape):
    x, gamma, beta, dout = rng.normal(size=shape), rng.normal(size=3), rng.normal(size=3), rng.normal(size=shape)
    axes = (0, *range(2, len(shape)))
    column = (-1,) + (1,) * (len(shape) - 2)
    out, mean, var = F.batch_norm(x, gamma, beta, eps=1e-3)
    np.testing.assert_allclose(mean, x.mean(axes), atol=1e-14)
    np.testing.assert_allclose(var, x.var(axes), rtol=1e-13)
    normal = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-3)
    expected = normal * gamma.reshape(column) + beta.reshape(column)
    np.testing.assert_allclose(out, expected, atol=1e-13)
    np.testing.assert_allclose(F.batch_norm_inference(x, gamma, beta, mean, var, eps=1e-3), expected, atol=1e-13)
    grads = F.batch_norm_backward(dout, x, gamma, mean, var, eps=1e-3)
    for tensor, grad in zip((x, gamma, beta), grads, strict=True):
        wanted = central_differences(lambda: float(np.sum(F.batch_norm(x, gamma, beta, eps=1e-3)[0] * dout)), tensor)
        np.testing.assert_allclose(grad, wanted, atol=1e-8)


def test_batch_norm_dtypes(backend, dtype, rng):
    x, compute = rng.normal(size=(4, 3, 2, 2)).astype(dtype), COMPUTE[np.dtype(dtype).name]
    gamma, beta = np.ones(3), np.zeros(3, np.float32)
    out, mean, var = F.batch_norm(x, gamma, beta)
    assert (out.dtype, mean.dtype, var.dtype) == (dtype, compute, compute)
    assert F.batch_norm_inference(x, gamma, beta, mean.astype(np.float64), var).dtype == dtype
    dx, dgamma, dbeta = F.batch_norm_backward(x, x, gamma, mean, var)
    assert (dx.dtype, dgamma.dtype, dbeta.dtype) == (dtype, np.float64, np.float64)
    assert F.batch_norm_backward(x, x, gamma.astype(np.float32), mean, var)[1].dtype == np.float32


def test_norms_of_images_with_other_axes(backend, rng):
    """(N, C, length), (N, C, depth, height, width), in any memory order, also into an array of the caller's."""
    for shape in ((4, 3, 5), (2, 3, 2, 4, 3), (0, 3, 2)):
        base = np.moveaxis(rng.normal(size=(*shape[:1], *shape[2:], shape[1])), -1, 1)
        for x in (base, np.ascontiguousarray(base), base[..., ::-1]):
            flat = x.reshape(*shape[:2], 1, int(np.prod(shape[2:])))
            out, ones, mean = np.empty(shape), np.ones(3), np.full(3, 0.5)
            found = F.batch_norm_inference(x, ones, ones, mean, ones, out=out)
            assert found is out
            np.testing.assert_array_equal(found, F.batch_norm_inference(flat, ones, ones, mean, ones).reshape(shape))
            np.testing.assert_array_equal(F.local_response_norm(x), F.local_response_norm(flat).reshape(shape))
            found = F.local_response_norm_backward(x, x)
            np.testing.assert_array_equal(found, F.local_response_norm_backward(flat, flat).reshape(shape))


def test_local_response_norm(backend, rng):
    x, dout = rng.normal(size=(2, 7, 3, 2)), rng.normal(size=(2, 7, 3, 2))
    arguments = {"size": 4, "alpha": 0.3, "beta": 0.6, "k": 1.5}
    squares = np.pad(x * x, ((0, 0), (1, 2), (0, 0), (0, 0)))
    total = sum(squares[:, i : i + 7] for i in range(4))
    expected = x / (1.5 + 0.3 / 4 * total) ** 0.6
    np.testing.assert_allclose(F.local_response_norm(x, **arguments), expected, rtol=1e-13)
    np.testing.assert_allclose(F.local_response_norm(x, 4, 0.3, 0.6, 1.5), expected, rtol=1e-13)
    dx = F.local_response_norm_backward(dout, x, **arguments)
    wanted = central_differences(lambda: float(np.sum(F.local_response_norm(x, **arguments) * dout)), x)
    np.testing.assert_allclose(dx, wanted, atol=1e-8)


# ---- activations ----------------------------------------------------------------------------------------------------

ACTIVATIONS = {
    "relu": (F.relu, F.relu_backward, lambda x: np.where(x <= 0, 0, x)),
    "relu6": (F.relu6, F.relu6_backward, lambda x: np.clip(x, 0, 6)),
    "sigmoid": (F.sigmoid, F.sigmoid_backward, lambda x: 1 / (1 + np.exp(-x))),
    "tanh": (F.tanh, F.tanh_backward, np.tanh),
}


@pytest.fixture(params=ACTIVATIONS)
def activation(request):
    """(forward, backward, forward in NumPy)."""
    return ACTIVATIONS[request.param]


def test_activation(backend, activation, rng):
    forward, backward, in_numpy = activation
    x, dout = rng.normal(size=(3, 5)), rng.normal(size=(3, 5))
    y = forward(x)
    np.testing.assert_allclose(y, in_numpy(x), rtol=1e-14)
    wanted = central_differences(lambda: float(np.sum(forward(x) * dout)), x)
    np.testing.assert_allclose(backward(dout, y), wanted, atol=1e-9)
    assert np.isnan(forward(np.array([np.nan]))).all()


def test_activation_in_place(backend, activation, dtype, rng):
    forward, backward, _ = activation
    x, dout = rng.normal(size=(3, 5)).astype(dtype), rng.normal(size=(3, 5)).astype(dtype)
    y, a, d = forward(x), x.copy(), dout.copy()
    assert forward(a, out=a) is a
    assert np.array_equal(a, y)
    assert backward(d, y, out=d) is d
    assert np.array_equal(d, backward(dout, y))
    assert backward(dout, a, out=a) is a
    assert np.array_equal(a, d)
    same = d[:]
    assert forward(d, out=same) is same


@pytest.mark.parametrize("name", LAYOUTS)
def test_elementwise_results_keep_the_memory_order(backend, rng, name):
    x = LAYOUTS[name](rng.normal(size=(2, 3, 4, 5)))
    for out in (F.relu(x), F.add(x, x), F.dropout(x, x > 0), F.cast(x, "float32")):
        order = np.empty_like(x, order="K", shape=x.shape)
        assert out.strides == tuple(s * out.itemsize // order.itemsize for s in order.strides)


# ---- add, concat, dropout, cast -------------------------------------------------------------------------------------


def test_add(backend, dtype, rng):
    a, b = integers(rng, (2, 3, 4, 5), dtype), channels_last(integers(rng, (2, 3, 4, 5), dtype))
    assert np.array_equal(F.add(a, b), a + b)
    assert F.add(a, b).dtype == dtype
    expected = a + b
    assert F.add(a, b, out=a) is a
    assert np.array_equal(a, expected)


def test_concat(backend, dtype, rng):
    parts = [integers(rng, (2, n, 3, 4), dtype) for n in (1, 0, 5, 2)]
    out = F.concat(parts)
    assert np.array_equal(out, np.concatenate(parts, 1))
    assert out.dtype == dtype
    assert is_channels_last(out)
    for part, back in zip(parts, F.concat_backward(out, [1, 0, 5, 2]), strict=True):
        assert np.array_equal(part, back)
        assert np.shares_memory(back, out) or not back.size
    rows = [integers(rng, (n, 3)) for n in (2, 1)]
    assert np.array_equal(F.concat(rows, axis=-2), np.concatenate(rows))
    assert [a.shape for a in F.concat_backward(F.concat(rows, axis=0), (2, 1), axis=-2)] == [(2, 3), (1, 3)]


def test_dropout_mask(backend):
    mask = F.dropout_mask((40, 50), 0.25, seed=3, step=7)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}
    assert abs(mask.mean() - 0.75) < 0.05
    assert np.array_equal(mask, F.dropout_mask([40, 50], 0.25, 3, 7))
    with fastdl.use_backend("numpy"):
        assert np.array_equal(mask, F.dropout_mask((40, 50), 0.25, 3, 7)), "every backend draws the same mask"
    for other in (F.dropout_mask((40, 50), 0.25, 3, 8), F.dropout_mask((40, 50), 0.25, 4, 7)):
        assert not np.array_equal(mask, other)
    assert F.dropout_mask((3,), 0.0, 2**64 - 1, 2**64 - 1).all()


def test_dropout(backend, dtype, rng):
    x, mask = integers(rng, (2, 3, 4, 5), dtype), F.dropout_mask((2, 3, 4, 5), 0.5, 0, 0)
    assert np.array_equal(F.dropout(x, mask), x * mask.astype(dtype))
    assert np.array_equal(F.dropout(x, mask.astype(bool), 2.0), (x * mask.astype(dtype) * dtype.type(2)))
    assert F.dropout(x, mask, 2).dtype == dtype
    expected = F.dropout(x, mask)
    assert F.dropout(x, mask, out=x) is x
    assert np.array_equal(x, expected)


def test_cast(backend, dtype, rng):
    x = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    out = F.cast(x, dtype)
    assert out.dtype == dtype
    assert np.array_equal(out, x.astype(dtype))
    assert np.array_equal(F.cast(x, dtype.name), out)
    assert not np.shares_memory(F.cast(x, np.float32), x)
    assert np.array_equal(F.cast(np.arange(5), dtype), np.arange(5).astype(dtype))
    assert F.cast(x, dtype, out=out) is out


# ---- softmax, cross entropy -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -3])
def test_softmax(backend, rng, axis):
    x, dout = rng.normal(size=(2, 3, 4, 2)), rng.normal(size=(2, 3, 4, 2))
    y = F.softmax(x, axis)
    e = np.exp(x)
    np.testing.assert_allclose(y, e / e.sum(axis, keepdims=True), rtol=1e-13)
    assert y.strides[axis] == y.itemsize
    assert np.array_equal(F.softmax(channels_last(x), axis), y)
    wanted = central_differences(lambda: float(np.sum(F.softmax(x, axis) * dout)), x)
    np.testing.assert_allclose(F.softmax_backward(dout, y, axis), wanted, atol=1e-9)


def test_softmax_of_one_axis(backend):
    np.testing.assert_allclose(F.softmax([0.0, 0.0]), [0.5, 0.5])
    assert F.softmax(np.empty((3, 0))).shape == (3, 0)


def test_softmax_cross_entropy(backend, rng):
    x, labels = rng.normal(size=(6, 4)), np.array([0, 3, 1, 1, 2, 0])
    e = np.exp(x)
    p = e / e.sum(1, keepdims=True)
    one_hot = np.eye(4)[labels]
    for t in (
        labels,
        labels[:, None],
        labels.astype(np.uint8),
        list(labels),
        one_hot,
        one_hot.astype(bool),
        one_hot.astype(np.int8),
    ):
        loss, probabilities = F.softmax_cross_entropy(x, t)
        np.testing.assert_allclose(loss, -np.log(p[np.arange(6), labels]).mean(), rtol=1e-13)
        np.testing.assert_allclose(probabilities, p, rtol=1e-13)
        dx = F.softmax_cross_entropy_backward(probabilities, t, dout=3.0)
        np.testing.assert_allclose(dx, (p - one_hot) / 2, atol=1e-15)
    assert np.array_equal(F.softmax_cross_entropy_backward(probabilities, labels, np.array([3.0])), dx)
    wanted = central_differences(lambda: float(F.softmax_cross_entropy(x, labels)[0]), x)
    np.testing.assert_allclose(F.softmax_cross_entropy_backward(probabilities, labels), wanted, atol=1e-9)


def test_softmax_cross_entropy_is_exact_where_the_probability_underflows(backend):
    loss, probabilities = F.softmax_cross_entropy([[2000.0, 0.0]], [1])
    assert loss == 2000.0
    assert probabilities.tolist() == [[1.0, 0.0]]


def test_softmax_cross_entropy_dtypes(backend, dtype, rng):
    x, compute = rng.normal(size=(3, 4)).astype(dtype), COMPUTE[np.dtype(dtype).name]
    loss, probabilities = F.softmax_cross_entropy(x, np.eye(4)[:3])
    assert (loss.dtype, probabilities.dtype) == (compute, compute), "float64 labels do not widen the net"
    assert F.softmax_cross_entropy_backward(probabilities, [0, 1, 2]).dtype == compute
    dx = F.softmax_cross_entropy_backward(probabilities, [0, 1, 2], dtype=dtype)
    assert dx.dtype == dtype
    out = np.empty((3, 4), dtype)
    assert F.softmax_cross_entropy_backward(probabilities, [0, 1, 2], dtype=dtype, out=out) is out
    assert np.array_equal(out, dx)


def test_one_class(backend):
    for t in ([0, 0], [[0], [0]], [[1], [1]], [[1.0], [1.0]]):
        loss, probabilities = F.softmax_cross_entropy([[3.0], [4.0]], t)
        assert loss == 0
        assert (probabilities == 1).all()
