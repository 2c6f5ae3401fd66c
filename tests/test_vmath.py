"""vmath.h, and vmath.py for Numba: the error bounds that vmath.h states, and IEEE 754's special values."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest

from fastdl.kernels import registry
from vmath_bounds import ULPS, ulps

LEVELS = (*registry.available_levels(), *([] if registry.numba_missing() else ["numba"]))
pytestmark = pytest.mark.skipif(not LEVELS, reason="the compiled kernels were not built, and Numba is not installed")
if not registry.numba_missing():
    from fastdl.kernels._common import jit
    from fastdl.kernels._common import vmath as functions

    @jit.njit(**jit.OPTIONS)
    def in_numba(name, x, out):
        if name == "exp":
            for i in range(x.size):
                out[i] = functions.exp(x[i])
        elif name == "tanh":
            for i in range(x.size):
                out[i] = functions.tanh(x[i])
        elif name == "sigmoid":
            for i in range(x.size):
                out[i] = functions.sigmoid(x[i])
        else:  # the C library's
            for i in range(x.size):
                out[i] = math.log(x[i])


NAMES = ("exp", "log", "tanh", "sigmoid")
DTYPES = {"f32": np.dtype(np.float32), "f64": np.dtype(np.float64)}
WIDER = {"f32": np.float64, "f64": np.longdouble}
#: ULP that the expectation itself may be wrong by: the extended precision of x86 has 11 bits more than a double.
OWN = {"f32": 0.001, "f64": 0.01 if np.finfo(np.longdouble).nmant > 60 else 1.0}


def vmath(name, x, isa, out=None):
    out = np.full_like(x, 77) if out is None else out
    if isa == "numba":
        in_numba(name, x, out)
        return out
    importlib.import_module(f"fastdl.kernels.activation._cython_{isa}").vmath(name, x, out)
    return out


def exact(name, x):
    with np.errstate(all="ignore"):
        if name == "exp":
            return np.exp(x)
        if name == "log":
            return np.log(x)
        if name == "tanh":
            return np.tanh(x)
        e = np.exp(-np.abs(x))
        return np.where(x < 0, e, 1) / (1 + e)


def samples(suffix):
    """Every exponent of the dtype with many mantissas and both signs, and where the functions have their ranges."""
    rng = np.random.default_rng(11)
    dtype = DTYPES[suffix]
    mantissa, exponents, each = (23, 256, 1024) if suffix == "f32" else (52, 2048, 128)
    unsigned = np.dtype(f"u{dtype.itemsize}")
    bits = rng.integers(0, 2**mantissa, (2, exponents, each)).astype(unsigned)
    bits |= (np.arange(exponents, dtype=unsigned) << unsigned.type(mantissa))[:, None]
    bits[1] |= unsigned.type(1) << unsigned.type(8 * dtype.itemsize - 1)
    widest = 110 if suffix == "f32" else 760
    ranges = [rng.uniform(-a, a, 200_000) for a in (widest, 20, 3, 0.8)] + [rng.uniform(0.5, 2, 200_000)]
    x = np.concatenate([bits.ravel().view(dtype), *(r.astype(dtype) for r in ranges)])
    return x[~np.isnan(x)]


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("suffix", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_errors_are_within_the_stated_bounds(name, suffix, isa):
    x = samples(suffix)
    got, want = vmath(name, x, isa), exact(name, x.astype(WIDER[suffix]))
    with np.errstate(all="ignore"):
        rounded = want.astype(x.dtype)
    finite = np.isfinite(rounded) & np.isfinite(got)
    # Where the exact value lies at the very edge of overflow an error of an ULP decides.
    edge = np.abs(want) < np.finfo(x.dtype).max * (1 + 4 * np.finfo(WIDER[suffix]).eps)
    assert np.array_equal(np.isnan(got), np.isnan(rounded))
    assert np.array_equal(got[~finite & ~edge], rounded[~finite & ~edge], equal_nan=True)
    worst = ulps(got[finite], want[finite]).max()
    assert 0.4 < worst <= ULPS[name, suffix] + OWN[suffix]


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("suffix", DTYPES)
def test_special_values(suffix, isa):
    t = DTYPES[suffix].type
    inf, nan, tiny, largest = np.inf, np.nan, np.finfo(t).smallest_subnormal, np.finfo(t).max
    cases = {
        "exp": [(0.0, 1), (-0.0, 1), (inf, inf), (-inf, 0), (largest, inf), (-largest, 0), (tiny, 1), (-tiny, 1)],
        "log": [(1, 0.0), (inf, inf), (0.0, -inf), (-0.0, -inf), (-1, nan), (-inf, nan), (-tiny, nan)],
        "tanh": [(0.0, 0.0), (-0.0, -0.0), (inf, 1), (-inf, -1), (largest, 1), (-largest, -1), (tiny, tiny)],
        "sigmoid": [(0.0, 0.5), (-0.0, 0.5), (inf, 1), (-inf, 0.0), (largest, 1), (-largest, 0.0), (tiny, 0.5)],
    }
    assert set(cases) == set(NAMES)
    for name, pairs in cases.items():
        # Alone and many times over: the vector loop and what is left over.
        for count in (1, 37):
            for x, y in [*pairs, (nan, nan), (-nan, nan)]:
                got = vmath(name, np.full(count, x, t), isa)
                assert np.array_equal(got, np.full(count, y, t), equal_nan=True), (name, x)
                assert np.isnan(y) or np.array_equal(np.signbit(got), np.full(count, np.signbit(y))), (name, x)


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("suffix", DTYPES)
def test_edges_of_the_range(suffix, isa):
    """The last argument whose exponential is finite, subnormal, more than 0; the same for the others."""
    dtype, wide = DTYPES[suffix], WIDER[suffix]
    f = np.finfo(dtype)

    def around(value):
        middle = dtype.type(value)
        return np.array([np.nextafter(middle, dtype.type(-np.inf)), middle, np.nextafter(middle, dtype.type(np.inf))])

    edges = [np.log(wide(f.max)), np.log(wide(f.tiny)), np.log(wide(f.smallest_subnormal))]
    edges.append(edges[-1] - np.log(wide(2)))  # half the smallest subnormal: below, the result is 0
    for name in ("exp", "sigmoid"):
        for x in [around(edge) for edge in edges] + [around(-edge) for edge in edges]:
            got, want = vmath(name, x, isa), exact(name, x.astype(wide))
            with np.errstate(over="ignore", under="ignore"):
                rounded = want.astype(dtype)
            finite = np.isfinite(rounded) & np.isfinite(got)
            assert np.all(ulps(got[finite], want[finite]) <= ULPS[name, suffix] + OWN[suffix])
            assert np.all((rounded == got) | (np.minimum(rounded, got) == f.max) | finite)
    subnormal = vmath("exp", np.linspace(edges[2], edges[1], 1000).astype(dtype), isa)
    assert np.all(subnormal > 0) and np.all(subnormal[1:-1] < f.tiny) and len(np.unique(subnormal)) > 500
    powers = np.ldexp(dtype.type(1), np.arange(np.log2(f.smallest_subnormal), f.maxexp).astype(int))
    got, want = vmath("log", powers, isa), np.log(powers.astype(wide))
    assert np.all(ulps(got, want) <= ULPS["log", suffix] + OWN[suffix])


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("suffix", DTYPES)
def test_symmetry_and_range(suffix, isa):
    x = samples(suffix)
    tanh = vmath("tanh", x, isa)
    assert np.array_equal(vmath("tanh", -x, isa), -tanh) and np.abs(tanh).max() == 1
    sigmoid = vmath("sigmoid", x, isa)
    assert sigmoid.min() == 0 and sigmoid.max() == 1


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("suffix", DTYPES)
def test_every_length(suffix, isa):
    """Vectors and what is left over of them are equally good, and nothing is written behind the end."""
    rng = np.random.default_rng(2)
    for n in range(70):
        x = rng.uniform(0.01, 5, n + 1).astype(DTYPES[suffix])
        for name in NAMES:
            out = np.full(n + 1, 77, x.dtype)
            vmath(name, x[:n], isa, out[:n])
            assert out[n] == 77
            error = ulps(out[:n], exact(name, x[:n].astype(WIDER[suffix])))
            assert np.all(error <= ULPS[name, suffix] + OWN[suffix])


def test_the_checks_use_the_bounds_that_the_header_states():
    from fastdl.check import tolerances

    assert {(name, suffix): tolerances.ULPS[name] for name, suffix in ULPS} == ULPS
