"""float8: every value and every rounding, which dtypes mix, and networks that predict in it and do not train."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import fastdl
import layouts
import oracle_cast
from fastdl import backend, models, optim
from fastdl import functional as F
from fastdl.backend import KernelError
from fastdl.kernels import registry
from fastdl.kernels.problem import FLOAT8

ml_dtypes = pytest.importorskip("ml_dtypes")

DTYPES = {name: np.dtype(getattr(ml_dtypes, name)) for name in FLOAT8}
WIDER = ("float32", "float64", "float16", "bfloat16")
LEVELS = registry.available_levels()
assert set(DTYPES) == {"float8_e4m3fn", "float8_e5m2"}
every_dtype = pytest.mark.parametrize("name", DTYPES)
compiled = pytest.mark.skipif(not LEVELS, reason="the compiled kernels were not built")


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def where():
    """(backend, level) of everything that computes in float8 here."""
    return [("numpy", "v4"), *(("cython", isa) for isa in LEVELS)]


@functools.cache
def every_byte(name):
    """(All 256 patterns as the dtype, their values in float64.)"""
    return np.arange(256, dtype=np.uint8).view(DTYPES[name]), np.array(
        [oracle_cast.decode(b, name) for b in range(256)]
    )


@functools.cache
def boundaries(name):
    """(float64 values, patterns): every value, every midpoint, and what lies right beside a midpoint."""
    table = oracle_cast.finite(name)
    steps = np.array([*table, 2 * table[-1] - table[-2]])
    middle = (steps[:-1] + steps[1:]) / 2
    narrow = middle.astype(np.float32)
    assert np.array_equal(narrow, middle)
    points = np.concatenate(
        [
            table, middle, [np.inf, 1e300, 2.0**-149, 3e38],
            np.nextafter(narrow, np.float32(np.inf)).astype(float), np.nextafter(narrow, np.float32(0)).astype(float),
            np.nextafter(middle, np.inf), np.nextafter(middle, 0),
        ]
    )  # fmt: skip
    points = np.concatenate([points, -points])
    return points, np.array([oracle_cast.encode(v, name, table) for v in points.tolist()], np.uint8)


def bits(a):
    return np.ascontiguousarray(a).view(f"u{a.dtype.itemsize}")


def assert_same(got, want):
    """Equal bits, but for the payload of a NaN; of the same dtype."""
    assert got.dtype == want.dtype and got.shape == want.shape
    nan = np.isnan(want.astype(np.float64))
    assert np.array_equal(np.isnan(got.astype(np.float64)), nan)
    assert np.array_equal(bits(got)[~nan], bits(want)[~nan])
    top = 8 * got.dtype.itemsize - 1
    assert np.array_equal(bits(got)[nan] >> top, bits(want)[nan] >> top)


# ---- values ---------------------------------------------------------------------------------------------------------


@every_dtype
def test_every_byte_is_widened_exactly(name):
    patterns, exact = every_byte(name)
    with np.errstate(all="ignore"):
        for kind, isa in where():
            with backend.use_backend(kind), backend.isa(isa):
                for target in (*WIDER, name):
                    for layout in (layouts.contiguous, layouts.every_other):
                        assert_same(F.cast(layout(patterns), target), exact.astype(dtype_of(target)))


@every_dtype
@pytest.mark.parametrize("source", WIDER)
def test_every_boundary_is_rounded_once_as_ml_dtypes_does(name, source):
    points, expected = boundaries(name)
    with np.errstate(over="ignore"):
        x = points.astype(dtype_of(source))
    kept = x.astype(np.float64) == points
    assert kept.sum() > 300
    x, expected = x[kept], expected[kept]
    if source != "float64":  # ml_dtypes itself converts float64 by way of float32
        assert_same(x.astype(DTYPES[name]), expected.view(DTYPES[name]))
    for kind, isa in where():
        with backend.use_backend(kind), backend.isa(isa):
            for layout in (layouts.contiguous, layouts.every_other):
                assert_same(F.cast(layout(x), name), expected.view(DTYPES[name]))


@every_dtype
@compiled
@pytest.mark.parametrize("isa", LEVELS)
def test_random_float32_bits(name, isa, rng):
    x = rng.integers(0, 2**32, 300_001, dtype=np.uint32).view(np.float32)
    with np.errstate(all="ignore"), backend.use_backend("cython"), backend.isa(isa):
        assert_same(F.cast(x, name), x.astype(DTYPES[name]))
        rows = np.resize(x, (3, 100, 17, 31))
        small = np.maximum(rows, np.float32(-1))  # NaN stays, too
        pooled = F.max_pool2d(small.astype(DTYPES[name]), 1)
        assert_same(pooled, small.astype(DTYPES[name]))


@every_dtype
def test_a_convolution_is_the_float32_one_rounded_once(name, rng):
    """On integers that float8 holds all sums are exact."""
    x, w, b = (rng.integers(-2, 3, shape).astype(np.float32) for shape in ((2, 20, 9, 8), (17, 20, 3, 3), (17,)))
    for kind, isa in where():
        with backend.use_backend(kind), backend.isa(isa), backend.conv_algorithm("direct"):
            wide = F.conv2d(x, w, b, pad=1)
            narrow = F.conv2d(*(a.astype(DTYPES[name]) for a in (x, w, b)), pad=1)
            assert_same(narrow, wide.astype(DTYPES[name]))
            mixed = F.conv2d(x, w, b.astype(DTYPES[name]), pad=1)
            assert_same(mixed, wide)


# ---- which dtypes mix -----------------------------------------------------------------------------------------------


def test_a_result_has_the_dtype_that_ml_dtypes_promotes_to():
    one = {name: np.ones((2, 3), dtype_of(name)) for name in (*FLOAT8, *WIDER, "uint8")}
    for a, b, expected in (
        ("float8_e4m3fn", "float32", "float32"),
        ("float8_e4m3fn", "uint8", "float8_e4m3fn"),
        ("float8_e5m2", "float16", "float32"),
        ("float8_e5m2", "float64", "float64"),
    ):
        for first, second in ((a, b), (b, a)):
            result = F.add(one[first], one[second])
            assert result.dtype == dtype_of(expected) == np.result_type(one[first], one[second])
            assert (result.astype(float) == 2).all()
    for a, b in (("float8_e4m3fn", "float8_e5m2"), ("float8_e4m3fn", "float16"), ("float8_e5m2", "bfloat16")):
        with pytest.raises(TypeError, match=f"add: a with b mixes {a} and {b}, and none of them holds"):
            F.add(one[a], one[b])


@every_dtype
def test_gradients_say_that_float8_is_for_inference(name, rng):
    x, w = (rng.standard_normal(shape).astype(DTYPES[name]) for shape in ((2, 3, 5, 5), (4, 3, 3, 3)))
    out = F.conv2d(x, w)
    message = f"{name} is a storage for inference, of which .* is no part: cast"
    for call in (
        lambda: F.conv2d_backward(out, x, w),
        lambda: F.relu_backward(x, x),
        lambda: F.max_pool2d_backward(F.max_pool2d(x, 2, stride=2), x, 2, stride=2),
        lambda: F.softmax_cross_entropy(x.reshape(2, -1), [0, 1]),
        lambda: F.batch_norm(x, w[:3, 0, 0, 0], w[:3, 0, 0, 1]),
    ):
        with pytest.raises(KernelError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match=f"optimizers update float32 and float64 parameters; 'w' is {name}"):
        optim.SGD().update({"w": w.copy()}, {"w": w})


@every_dtype
def test_other_backends_say_why_they_are_without_it(name):
    if backend.missing("numba"):
        pytest.skip("Numba is not installed")
    with backend.use_backend("numba"), pytest.raises(KernelError, match="numba is without it: float8 is an experiment"):
        F.relu(np.ones(3, DTYPES[name]))
    with backend.use_backend("numba"), pytest.raises(KernelError, match=f"it reads float32, .*, not {name}"):
        F.cast(np.ones(3, DTYPES[name]), "float32")


# ---- networks -------------------------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize(
    "build", [models.DeepConvNet, functools.partial(models.SimpleConvNet, weight_init_std=0.1)], ids=["deep", "simple"]
)
def test_a_network_predicts_in_float8(build, name, rng):
    """Each layer's result is off by at most a rounding of its own and what comes in: the scores stay correlated."""
    x = rng.random((20, 1, 28, 28)).astype(np.float32)
    net = build(seed=3, dtype="float32")
    with backend.inference():
        wide = net.predict(x)
        net.cast(name)
        with backend.explain() as ran:
            narrow = net.predict(x)
    assert narrow.dtype == DTYPES[name] == net.dtype and all(p.dtype == DTYPES[name] for p in net.params.values())
    assert {problem.storage for problem, _, _ in ran.kernels()} == {name}
    assert "fallback" not in str(ran)
    scores = narrow.astype(np.float64)
    assert np.isfinite(scores).all() and np.corrcoef(scores.ravel(), wide.ravel())[0, 1] > 0.9


@every_dtype
def test_a_network_says_at_once_that_it_does_not_train_in_float8(name, monkeypatch):
    net = models.SimpleConvNet(dtype="float32", seed=1)
    net.cast(name)
    monkeypatch.setattr(net, "predict", lambda *a, **k: pytest.fail("work was begun"))
    for method in (net.loss, net.gradient, net.loss_and_gradient):
        with pytest.raises(TypeError, match=f"computes in {name}, in which there are neither losses nor gradients"):
            method(np.zeros((2, 1, 28, 28), np.float32), np.array([0, 1]))


def test_every_normal_operation_of_inference_takes_float8(rng):
    """What pictures' networks consist of, in one chain."""
    x = rng.standard_normal((2, 16, 8, 8)).astype(DTYPES["float8_e5m2"])
    one = np.ones(16, DTYPES["float8_e5m2"])
    stat = np.ones(16, np.float32)
    for y in (
        F.relu(x), F.relu6(x), F.sigmoid(x), F.tanh(x), F.add(x, x), F.concat([x, x]), F.local_response_norm(x),
        F.avg_pool2d(x, 2), F.global_avg_pool2d(x), F.batch_norm_inference(x, one, one, stat, stat),
        F.softmax(x.reshape(2, -1)), F.dropout(x, x > 0, 0.5), F.linear(x.reshape(2, -1), x.reshape(2, -1).T),
    ):  # fmt: skip
        assert y.dtype == x.dtype
    assert fastdl.functional.cast(x, "float8_e4m3fn").dtype == DTYPES["float8_e4m3fn"]
