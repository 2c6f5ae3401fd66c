"""Emulated arithmetic: which kernels run and when, TF32's rounding, sums that are rounded to float16 term by term."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastdl import backend, models
from fastdl import functional as F
from fastdl.backend import KernelError
from fastdl.kernels import registry
from fastdl.kernels.problem import Problem

LEVELS = registry.available_levels()
EMULATED = [row for row in registry.TABLE if row.is_emulated]
assert {row.arithmetic for row in EMULATED} == set(registry.EMULATIONS)


def where():
    """Settings of every place where emulations run here."""
    yield "numpy", "v4"
    for isa in LEVELS:
        yield "cython", isa


def everywhere(arithmetic, call):
    """(label, result) of ``call()`` in each place, with ``arithmetic``."""
    found = []
    for name, isa in where():
        with backend.use_backend(name), backend.isa(isa), backend.emulate(arithmetic), backend.explain() as ran:
            result = call()
        for _, label, _ in ran.kernels():
            assert label == f"{name}/emulated_{arithmetic}" + (f"/{isa}" if name == "cython" else "")
        found.append((label, result))
    return found


# ---- which kernels --------------------------------------------------------------------------------------------------


def test_rows_say_what_they_are():
    for row in EMULATED:
        assert row.algorithm == f"emulated_{row.arithmetic}" and row.setting == row.algorithm
        assert row.label.split("/")[1] == row.algorithm
    assert {row.arithmetic for row in registry.TABLE if not row.is_emulated and row.arithmetic} == {"tf32"}
    assert all(row.backend.startswith("cuda") for row in registry.TABLE if row.setting == "tf32")


def test_nothing_is_emulated_unless_it_is_asked_for():
    problem = Problem("gemm", "forward", ((5, 7), (7, 3)), "float32", ("nchw", "nchw"))
    for arithmetic in ("", "tf32"):
        for name, isa in where():
            assert not registry.choose(problem, name, isa, arithmetic=arithmetic)[0].is_emulated
    half = problem._replace(storage="float16")
    for name, isa in where():
        assert registry.choose(problem, name, isa, arithmetic="emulated_tf32")[0].arithmetic == "tf32"
        assert registry.choose(half, name, isa, arithmetic="emulated_tf32")[0].arithmetic == ""
        assert registry.choose(half, name, isa, arithmetic="emulated_float16_sums")[0].arithmetic == "float16_sums"
        assert registry.choose(problem, name, isa, arithmetic="emulated_float16_sums")[0].arithmetic == ""
    emulator = registry.candidates(problem, "cuda-emulated", "v4", arithmetic="emulated_tf32")
    for row, reason in emulator:  # the tensor cores' own rows are what is asked for there
        if row.backend == "cuda-emulated" and not registry.row_missing(row):
            assert (reason == "") == (row.arithmetic == "tf32")


def test_the_setting_ends_with_its_block_and_does_not_reach_other_threads():
    assert not backend.get_tf32()
    with backend.emulate("tf32"):
        assert backend.get_tf32()
        with backend.emulate("float16_sums"):
            assert not backend.get_tf32()
            with backend.tf32(False):
                assert backend.current().arithmetic == ""
        assert backend.current().arithmetic == "emulated_tf32"
    assert backend.current().arithmetic == ""
    with pytest.raises(ValueError, match="tf32, float16_sums can be emulated, not 'int3'"), backend.emulate("int3"):
        pass


def test_a_backend_without_it_says_so():
    if backend.missing("numba"):
        pytest.skip("Numba is not installed")
    with backend.use_backend("numba"), backend.emulate("tf32"), pytest.raises(KernelError) as error:
        F.linear(np.ones((2, 3), np.float32), np.ones((3, 4), np.float32))
    assert "numba/loops: tf32 is to be emulated" in str(error.value)


# ---- tf32 -----------------------------------------------------------------------------------------------------------


def tf32(values):
    """To nearest in 11 significant bits, ties away from zero, by the definition."""
    mantissa, exponent = np.frexp(np.asarray(values, np.float64))
    scaled = np.ldexp(mantissa, 11)
    return np.ldexp(np.copysign(np.floor(np.abs(scaled) + 0.5), scaled), exponent - 11)


def test_factors_are_rounded_to_tf32(rng):
    ulp = 2.0**-10
    x = np.array([1 + ulp / 2, 1 + ulp / 2 - 2.0**-23, -1 - ulp / 2, 2049, 2051, 4096 - 1, 3e38, math.inf], np.float32)
    x = np.concatenate([x, rng.standard_normal(4000).astype(np.float32) * np.exp2(rng.integers(-60, 60, 4000))])
    x = x.astype(np.float32)[:, None]
    one = np.ones((1, 1), np.float32)
    expected = np.where(np.isinf(x), x, tf32(np.where(np.isinf(x), 0, x))).astype(np.float32)
    assert (expected != x).sum() > 3000
    for label, left in everywhere("tf32", lambda: F.linear(x, one)):
        assert np.array_equal(left, expected), label
    for label, right in everywhere("tf32", lambda: F.linear(one, x.T)):
        assert np.array_equal(right.T, expected), label


def test_all_directions_of_a_convolution_are_those_of_rounded_factors(rng):
    """The kernel on rounded factors, without emulation: the same blocks, and so nearly the same bits."""
    x, w, b = (rng.standard_normal(s).astype(np.float32) for s in ((3, 6, 9, 7), (8, 3, 3, 2), (8,)))
    dout = rng.standard_normal(F.conv2d(x, w, stride=(1, 2), pad=1, groups=2).shape).astype(np.float32)
    rounded = [tf32(a) for a in (x, w, dout)]
    wide = {"stride": (1, 2), "pad": 1, "groups": 2}
    out = F.conv2d(rounded[0], rounded[1], b.astype(np.float64), **wide)
    dx, dw, _ = F.conv2d_backward(rounded[2], rounded[0], rounded[1], **wide)

    def forward():
        return F.conv2d(x, w, b, **wide)

    for label, found in everywhere("tf32", forward):
        # 18 products and a bias: 20 u of sums of magnitudes that stay below 100
        np.testing.assert_allclose(found, out, rtol=0, atol=20 * 2.0**-24 * 100, err_msg=label)
        assert np.abs(found - F.conv2d(x, w, b, **wide)).max() > 1e-4, "the factors were not rounded"
    for name, isa in where():
        with backend.use_backend(name), backend.isa(isa), backend.emulate("tf32"):
            found_dx, found_dw, found_db = F.conv2d_backward(dout, x, w, **wide)
        np.testing.assert_allclose(found_dx, dx, rtol=0, atol=30 * 2.0**-24 * 100)
        np.testing.assert_allclose(found_dw, dw, rtol=0, atol=200 * 2.0**-24 * 300)
        np.testing.assert_allclose(found_db, dout.sum((0, 2, 3)), rtol=0, atol=200 * 2.0**-24 * 300)


# ---- float16 sums ---------------------------------------------------------------------------------------------------


def chain(pairs):
    """The sum of products, one number after another."""
    total = np.float16(0)
    with np.errstate(over="ignore", invalid="ignore"):
        for a, b in pairs:
            total = np.float16(total + np.float16(a * b))
    return total


def half_convolution(x, w, b, stride, pad, dilation, groups):
    n, _, height, width = x.shape
    k, c, kh, kw = w.shape
    oh = (height + 2 * pad - dilation * (kh - 1) - 1) // stride + 1
    ow = (width + 2 * pad - dilation * (kw - 1) - 1) // stride + 1
    out = np.empty((n, k, oh, ow), np.float16)
    for m, f, i, j in np.ndindex(out.shape):
        pairs = []
        for r, s, ch in np.ndindex(kh, kw, c):
            y, z = i * stride - pad + r * dilation, j * stride - pad + s * dilation
            if 0 <= y < height and 0 <= z < width:
                pairs.append((x[m, f // (k // groups) * c + ch, y, z], w[f, ch, r, s]))
        out[m, f, i, j] = np.float16(np.float32(chain(pairs)) + np.float32(b[f]))
    return out


@pytest.mark.parametrize("scale", [1.0, 200.0, 2.0**-10])
def test_convolutions_are_chains_of_rounded_sums(rng, scale):
    """Ordinary numbers, ones whose sums overflow, and ones whose products are subnormal."""
    for channels, filters, geometry in ((5, 18, (1, 1, 1, 1)), (4, 6, (2, 0, 2, 2)), (3, 35, (1, 2, 1, 1))):
        stride, pad, dilation, groups = geometry
        x = (rng.standard_normal((2, channels, 6, 5)) * scale).astype(np.float16)
        w = (rng.standard_normal((filters, channels // groups, 3, 2)) * scale).astype(np.float16)
        b = (rng.standard_normal(filters) * min(scale**2, 1)).astype(np.float16)
        expected = half_convolution(x, w, b, *geometry)
        fields = {"stride": stride, "pad": pad, "dilation": dilation, "groups": groups}
        assert (expected != F.conv2d(x, w, b, **fields)).any()
        assert np.isinf(expected).any() == (scale == 200)
        for label, found in everywhere("float16_sums", lambda x=x, w=w, b=b, f=fields: F.conv2d(x, w, b, **f)):
            assert np.array_equal(found, expected, equal_nan=True), label


def test_products_of_matrices_are_chains_of_rounded_sums(rng):
    a, w = rng.standard_normal((3, 700)).astype(np.float16), rng.standard_normal((700, 9)).astype(np.float16)
    expected = np.array([[chain(zip(row, column, strict=True)) for column in w.T] for row in a])
    for label, found in everywhere("float16_sums", lambda: F.linear(a, w)):
        assert np.array_equal(found, expected), label


def test_what_goes_wrong():
    """A sum of ones stops at 2048, where the next float16 is 2050; and 65,504 is the end."""
    ones = np.ones((1, 5000), np.float16)
    large = np.array([[60000, 60000, -60000]], np.float16)
    for label, found in everywhere("float16_sums", lambda: F.linear(ones, ones.T)):
        assert found.item() == 2048, label
    for label, found in everywhere("float16_sums", lambda: F.linear(large, np.ones((3, 1), np.float16))):
        assert found.item() == math.inf, label
    assert F.linear(ones, ones.T).item() == 5000 and F.linear(large, np.ones((3, 1), np.float16)).item() == 60000


def test_the_bits_do_not_depend_on_threads(rng):
    x, w = (
        rng.standard_normal((9, 33, 20, 20)).astype(np.float16),
        rng.standard_normal((40, 33, 3, 3)).astype(np.float16),
    )
    for arithmetic, dtype in (("float16_sums", np.float16), ("tf32", np.float32)):
        results = []
        for count in (1, 2, 3):
            with backend.emulate(arithmetic), backend.threads(count):
                results.append(F.conv2d(x.astype(dtype), w.astype(dtype)))
        assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize(("arithmetic", "dtype"), [("tf32", "float32"), ("float16_sums", "float16")])
def test_a_whole_network_is_emulated(arithmetic, dtype, rng):
    net = models.DeepConvNet(seed=2, dtype=dtype)
    x = rng.random((4, 1, 28, 28)).astype(np.float32)
    with backend.inference():
        plain = net.predict(x)
        with backend.emulate(arithmetic), backend.explain() as ran:
            found = net.predict(x)
    labels = {label for problem, label, _ in ran.kernels() if problem.op in ("conv2d", "gemm")}
    assert labels and all(label.split("/")[1] == f"emulated_{arithmetic}" for label in labels)
    assert (found != plain).any()
    assert np.corrcoef(found.astype(float).ravel(), plain.astype(float).ravel())[0, 1] > 0.99
