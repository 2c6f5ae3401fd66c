"""Bytes and bits: the references against plain loops, the functions, and which kernels run."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastdl
import fastdl.functional as F
from fastdl import backend
from fastdl.bench import work
from fastdl.kernels import registry
from fastdl.kernels.bits.reference import signs
from fastdl.kernels.geometry import window_grid
from fastdl.kernels.problem import Problem

CASES = [
    # (N, C, H, W), K, kernel, stride, pads, dilation, groups
    ((2, 3, 4, 5), 4, (3, 2), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ((1, 4, 6, 5), 6, (2, 3), (2, 1), (0, 2, 3, 1), (1, 2), 2),
    ((1, 2, 3, 3), 2, (1, 1), (1, 2), (2, 0, 0, 1), (1, 1), 1),
]


def numbers(shape, low, high, dtype, seed=0):
    """Integers from low to high, inclusive."""
    return np.random.default_rng(seed).integers(low, high, shape, endpoint=True).astype(dtype)


def correlation(x, w, stride, pads, dilation, groups):
    """Of integers, element by element; what lies beside x adds nothing."""
    (n, _, h, width), (k, per_group, kh, kw) = x.shape, w.shape
    oh, ow = window_grid((h, width), (kh, kw), stride, pads, dilation)
    out = np.zeros((n, k, oh, ow), np.int64)
    for image, f, i, j in np.ndindex(*out.shape):
        for c, r, s in itertools.product(range(per_group), range(kh), range(kw)):
            y, column = i * stride[0] - pads[0] + r * dilation[0], j * stride[1] - pads[2] + s * dilation[1]
            if 0 <= y < h and 0 <= column < width:
                channel = f // (k // groups) * per_group + c
                out[image, f, i, j] += int(w[f, c, r, s]) * int(x[image, channel, y, column])
    return out


@pytest.mark.parametrize(("shape", "k", "kernel", "stride", "pads", "dilation", "groups"), CASES)
@pytest.mark.parametrize("zero", [0, 128])
@pytest.mark.parametrize("name", ["numpy", "auto"])
def test_convolution_of_bytes_is_that_of_plain_loops(name, zero, shape, k, kernel, stride, pads, dilation, groups):
    x = numbers(shape, 0, 255, np.uint8)
    w = numbers((k, shape[1] // groups, *kernel), -127, 127, np.int8, 1)
    bias, scale = numbers(k, -500, 500, np.int32, 2), np.float32(2.0) ** numbers(k, -9, -7, np.float32, 3)
    geometry = {"stride": stride, "pad": pads, "dilation": dilation, "groups": groups}
    sums = correlation(x.astype(int) - zero, w, stride, pads, dilation, groups) + bias[:, None, None]
    numbers_ = sums * scale.astype(np.float64)[:, None, None]
    with backend.use_backend(name):
        real = F.conv2d_int8(x, w, bias, scale, x_zero=zero, dtype="float32", **geometry)
        cut = F.conv2d_int8(x, w, bias, scale, x_zero=zero, relu=True, dtype="float32", **geometry)
        stored = F.conv2d_int8(x, w, bias, scale, x_zero=zero, out_zero=100, **geometry)
        positive = F.conv2d_int8(x, w, bias, scale, x_zero=zero, out_zero=3, relu=True, **geometry)
    assert real.dtype == np.float32
    assert np.array_equal(real, numbers_)  # powers of two: nothing is rounded
    assert np.array_equal(cut, np.maximum(numbers_, 0))
    assert np.array_equal(stored, np.clip(np.rint(numbers_) + 100, 0, 255))
    assert np.array_equal(positive, np.clip(np.rint(numbers_) + 3, 3, 255))


@pytest.mark.parametrize(("shape", "k", "kernel", "stride", "pads", "dilation", "groups"), CASES)
@pytest.mark.parametrize("name", ["numpy", "auto"])
def test_convolution_of_signs_is_that_of_plain_loops(name, shape, k, kernel, stride, pads, dilation, groups):
    x, w = (np.where(numbers(s, 0, 1, int, seed) > 0, 1, -1) for seed, s in enumerate(
        [shape, (k, shape[1] // groups, *kernel)]))  # fmt: skip
    scale = numbers(k, 1, 9, np.float32)
    expected = correlation(x, w, stride, pads, dilation, groups)
    with backend.use_backend(name):
        packed = F.pack_bits(x.astype(np.float32), groups=groups), F.pack_bits(w.astype(np.float32))
        found = F.conv2d_binary(
            *packed, shape[1] // groups, scale, stride=stride, pad=pads, dilation=dilation, groups=groups
        )
    assert np.array_equal(found, expected * scale[:, None, None])


@pytest.mark.parametrize("name", ["numpy", "auto"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_bits_are_signs(name, dtype):
    x = np.array([[-0.0, 0.0, 1.0, -1.0, np.nan, np.inf, -np.inf] + [5.0] * 30], dtype)
    with backend.use_backend(name):
        packed = F.pack_bits(x)
    assert packed.shape == (1, 2)
    assert packed.dtype == np.uint32
    assert signs(packed, 37)[0].tolist() == [1, 1, 1, -1, -1, 1, -1] + [1] * 30
    assert int(packed[0, 1]) == 0b11111


def test_a_double_beside_its_threshold_is_not_rounded_onto_it():
    threshold = np.float32([0.5])
    x = np.nextafter(np.full((1, 1), 0.5), [[0.0]])
    assert F.pack_bits(x, threshold)[0, 0] == 0
    assert F.pack_bits(x.astype(np.float32), threshold)[0, 0] == 1
    assert F.pack_bits(np.full((1, 1), -1e-300))[0, 0] == 0


def test_products_of_matrices():
    x, w = numbers((7, 70), 0, 255, np.uint8), numbers((70, 33), -127, 127, np.int8, 1)
    ones = np.ones(33, np.float32)
    exact = (x.astype(int) - 5) @ w.astype(int)
    assert np.array_equal(F.linear_int8(x, w, None, ones, x_zero=5, dtype="float32"), exact)
    assert np.array_equal(F.linear_int8(x, np.asfortranarray(w), None, ones, x_zero=5, dtype="float32"), exact)
    a, b = (np.where(numbers(s, 0, 1, int, i) > 0, 1, -1).astype(np.float32) for i, s in enumerate([(7, 70), (33, 70)]))
    assert np.array_equal(F.linear_binary(F.pack_bits(a), F.pack_bits(b), 70), a @ b.T)


def test_quantize_and_back():
    x = np.float32([[-1.0, 0.0, 0.26, 0.24, 200.0, np.nan, np.inf, -np.inf, 0.25, 0.75]])
    q = F.quantize(x, 0.5, 10)
    assert q.tolist() == [[8, 10, 11, 10, 255, 0, 255, 0, 10, 12]]  # ties to even: 0.5 -> 0, 1.5 -> 2
    back = F.dequantize(q, 0.5, 10, np.float64)
    assert back.dtype == np.float64
    assert back[0, :4].tolist() == [-1.0, 0.0, 0.5, 0.0]


def test_pooling_of_bytes_is_that_of_numbers():
    x = numbers((2, 5, 7, 9), 0, 255, np.uint8)
    for settings in (
        {"size": 2},
        {"size": (3, 2), "stride": (1, 2), "pad": 1},
        {"size": 2, "stride": 3, "ceil_mode": True},
    ):
        found = F.max_pool2d_int8(x, **settings)
        assert found.dtype == np.uint8
        assert np.array_equal(found, F.max_pool2d(x.astype(np.float32), **settings))
    assert not F.max_pool2d_int8(x, 2, pad=4)[..., 0, 0].any()  # wholly in the padding


# ---- which kernels --------------------------------------------------------------------------------------------------


def newest(op: str, feature: str) -> str:
    """The label of the best row of ``op`` that can run here."""
    rows = [row for row in registry.TABLE if row.op == op and row.backend == "cython" and not registry.row_missing(row)]
    if not rows:
        pytest.skip("the compiled kernels were not built")
    wanted = [row.label for row in rows if row.isa == feature]
    return wanted[0] if wanted else max(rows, key=lambda row: registry.LEVELS.index(row.level)).label


@pytest.mark.parametrize(("op", "storage", "feature"), [
    ("conv2d_int8", "uint8", "v4vnni"), ("conv2d_binary", "uint32", "v4popcnt")])  # fmt: skip
def test_the_instructions_of_the_cpu_are_used(op, storage, feature):
    attrs = {"conv2d_int8": (("out", "uint8"),), "conv2d_binary": (("channels", 64),)}[op]
    problem = Problem(op, "forward", ((8, 64, 14, 14), (64, 64, 3, 3)), storage, ("nhwc", "nhwc"), attrs=attrs)
    row, _ = registry.choose(problem, "cython", "v4")
    assert row.label == newest(op, feature)
    below, _ = registry.choose(problem, "cython", "baseline")
    assert below.isa == "baseline"


@pytest.mark.parametrize("direction", ["forward", "backward_input"])
def test_bfloat16_is_multiplied_in_hardware_where_that_is_the_fastest_direct_way(direction):
    row = next(r for r in registry.TABLE if (r.op, r.direction, r.algorithm) == ("conv2d", direction, "dot"))
    if reason := registry.row_missing(row):
        pytest.skip(reason)
    problem = Problem(
        "conv2d", direction, ((8, 64, 14, 14), (64, 64, 3, 3)), "bfloat16", ("nhwc", "nchw"), (1, 1, 1, 1)
    )
    assert registry.choose(problem, "cython", "v4", "direct")[0] is row
    assert registry.choose(problem._replace(storage="float16"), "cython", "v4", "direct")[0].algorithm == "direct"
    dilated = problem._replace(dilation=(2, 2), pads=(2, 2, 2, 2))
    assert registry.choose(dilated, "cython", "v4", "direct")[0].algorithm == "implicit_gemm"


def test_a_feature_that_the_cpu_lacks_is_named(monkeypatch):
    if registry.level_missing("v4"):
        pytest.skip(registry.level_missing("v4"))
    from fastdl.kernels._common import _runtime

    monkeypatch.setattr(_runtime, "cpu_has", lambda feature: False)
    registry.feature_missing.cache_clear()
    try:
        row = next(r for r in registry.TABLE if r.isa == "v4vnni")
        assert registry.row_missing(row) == "this CPU has no avx512_vnni"
    finally:
        registry.feature_missing.cache_clear()


def test_work_is_counted():
    """No padding: every element of every array once; two operations for a product, one for what each output gets."""
    x, w = numbers((2, 40, 5, 6), 0, 255, np.uint8), numbers((7, 40, 3, 2), -9, 9, np.int8)
    scale, bias = np.ones(7, np.float32), np.zeros(7, np.int32)
    with fastdl.explain() as log:
        out = F.conv2d_int8(x, w, bias, scale, relu=True)
    found = work.total(log.kernels())
    assert found.flop == 2 * out.size * w[0].size + 3 * out.size
    assert found.bytes == sum(a.nbytes for a in (x, w, out, scale, bias))
    with fastdl.explain() as log:
        packed, weights = F.pack_bits(x.astype(np.float32)), F.pack_bits(w.astype(np.float32))
    assert work.total(log.kernels()) == (x.size + w.size, 4 * (x.size + w.size) + packed.nbytes + weights.nbytes)
    with fastdl.explain() as log:
        out = F.conv2d_binary(packed, weights, 40)
    assert work.total(log.kernels()) == (2 * out.size * w[0].size, packed.nbytes + weights.nbytes + out.nbytes)
    with fastdl.explain() as log:
        pooled = F.max_pool2d_int8(x[:, :, :4], 2)
    assert work.total(log.kernels()) == (4 * pooled.size, x[:, :, :4].size + pooled.size)


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_said():
    x, w = np.zeros((1, 4, 5, 5), np.uint8), np.zeros((2, 4, 3, 3), np.int8)
    scale = np.ones(2, np.float32)
    for call, kind, text in [
        (lambda: F.conv2d_int8(x.astype(np.float32), w, None, scale), TypeError,
        "conv2d_int8: x must have dtype uint8"), (lambda: F.conv2d_int8(x, w.astype(np.uint8), None, scale),
        TypeError, "w must have dtype int8"), (lambda: F.conv2d_int8(x, w, None, scale[:1]), ValueError,
        "scale must have shape"), (lambda: F.conv2d_int8(x, w, None, scale, x_zero=256), ValueError,
        "x_zero must be a byte"), (lambda: F.conv2d_int8(x, w, None, scale, dtype="int8"), ValueError,
        "'uint8' or 'float32', not 'int8'"), (lambda: F.conv2d_int8(x, w[:, :3], None, scale), ValueError,
        "takes 3 channels per group"), (lambda: F.linear_int8(x[0, 0], w[0, 0], None, scale), ValueError,
        r"x must be \(M, K\)"), (lambda: F.quantize(np.ones(3), 0.0), ValueError, "step must be a positive number"),
        (lambda: F.quantize(np.ones(3), 1.0, -1), ValueError, "zero must be a byte"),
        (lambda: F.pack_bits(np.ones(3)), ValueError, r"x must be \(N, C\)"),
        (lambda: F.pack_bits(np.ones((2, 6)), groups=4), ValueError, "groups=4 does not divide"),
        (lambda: F.conv2d_binary(np.zeros((1, 2, 5, 5), np.uint32), np.zeros((2, 2, 3, 3), np.uint32), 20), ValueError,
         "20 channels are 1 words"),
    ]:  # fmt: skip
        with pytest.raises(kind, match=text):
            call()


def test_sums_that_could_overflow_are_refused():
    many = 70_000
    x, w, scale = np.zeros((1, many), np.uint8), np.zeros((many, 1), np.int8), np.ones(1, np.float32)
    with pytest.raises(ValueError, match="70000 products may exceed 32 bits"):
        F.linear_int8(x, w, None, scale)
    most = F._bytes.MOST_TERMS
    full = F.linear_int8(
        np.full((1, most), 255, np.uint8), np.full((most, 1), -128, np.int8), None, scale, dtype="float32"
    )
    assert full[0, 0] == np.float32(-255 * 128 * most)
