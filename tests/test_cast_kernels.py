"""cast: every half, every rounding boundary, every pair of dtypes, every layout."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import layouts
import oracle_cast
from fastdl.kernels import registry
from fastdl.kernels.problem import Problem

# Converting a signalling NaN raises the invalid flag, about which NumPy warns.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")
ml_dtypes = pytest.importorskip("ml_dtypes")

LEVELS = registry.available_levels()
compiled = pytest.mark.skipif(not LEVELS, reason="the compiled kernels were not built")
DTYPES = {name: np.dtype(name) for name in ("float32", "float64", "float16")} | {
    "bfloat16": np.dtype(ml_dtypes.bfloat16)
}
HALVES = ("float16", "bfloat16")
PAIRS = [(source, target) for source in DTYPES for target in DTYPES]
assert len(PAIRS) == 16


def cast(x, target, backend, isa, layout=layouts.contiguous, threads=1):
    """x in dtype ``target``, both arrays in ``layout``."""
    problem = Problem("cast", "forward", (x.shape,), target, attrs=(("source", str(x.dtype)),))
    row, function = registry.choose(problem, backend, isa)
    assert (row.backend, row.isa) == (backend, isa if backend == "cython" else "any")
    x, out = layout(x), layout(np.full(x.shape, 77, DTYPES[target]))
    x.flags.writeable = False
    function(problem, x, out, threads)
    rest = layouts.surroundings(out)
    assert rest is None or np.all(rest == 77)
    return out


def bits(a):
    return np.ascontiguousarray(a).view(f"u{a.dtype.itemsize}")


def sign(a):
    return bits(a) >> (8 * a.dtype.itemsize - 1)


def fits_float32(x):
    with np.errstate(over="ignore"):
        return x.astype(np.float32).astype(np.float64) == x


def assert_same(got, want):
    """Equal bits, but for the payload of a NaN."""
    assert got.dtype == want.dtype and got.shape == want.shape
    nan = np.isnan(want)
    assert np.array_equal(np.isnan(got), nan)
    assert np.array_equal(np.where(nan, 0, bits(got)), np.where(nan, 0, bits(want)))
    assert np.array_equal(sign(got[nan]), sign(want[nan]))


@functools.cache
def every_half(name):
    """(All 65536 patterns as the dtype, their values as float64)."""
    patterns = np.arange(2**16, dtype=np.uint16).view(DTYPES[name])
    return patterns, np.array([oracle_cast.decode(b, name) for b in range(2**16)])


@functools.cache
def boundaries(name):
    """(float64 values, patterns): what rounds, or just does not, to the next value of the format.

    Every value, every midpoint between neighbours (the last is where infinity begins), and what lies one float32
    and one float64 to both sides of a midpoint, with both signs.
    """
    table = oracle_cast.finite(name)
    steps = np.array([*table, 2 * table[-1] - table[-2]])
    middle = (steps[:-1] + steps[1:]) / 2
    narrow = middle.astype(np.float32)
    assert np.array_equal(narrow, middle)  # a float32 holds each midpoint
    up, down = np.float32(np.inf), np.float32(-np.inf)
    points = np.concatenate(
        [
            table, middle, [0.0, np.inf],
            np.nextafter(narrow, up).astype(float), np.nextafter(narrow, down).astype(float),
            np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf),
            [5e-324, 1e-310, 2.0**-150, 2.0**-149, 1e300, 3.4028235677973366e38, np.finfo(np.float32).max],
        ]
    )  # fmt: skip
    points = np.concatenate([points, -points])
    patterns = np.array([oracle_cast.encode(v, name, table) for v in points.tolist()], np.uint16)
    return points, patterns


@pytest.mark.parametrize("name", HALVES)
def test_reference_widens_and_rounds_as_the_format_says(name):
    patterns, exact = every_half(name)
    for target in ("float32", "float64"):
        assert_same(cast(patterns, target, "numpy", "v4"), exact.astype(target))
    points, rounded = boundaries(name)
    narrow = fits_float32(points)
    assert narrow.sum() > 10**5 < (~narrow).sum()
    assert np.array_equal(bits(cast(points, name, "numpy", "v4")), rounded)
    assert np.array_equal(bits(cast(points[narrow].astype(np.float32), name, "numpy", "v4")), rounded[narrow])


@compiled
@pytest.mark.parametrize("layout", ["contiguous", "every_other"])
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("name", HALVES)
def test_every_half_is_widened_exactly(name, isa, layout):
    patterns, exact = every_half(name)
    for target in ("float32", "float64"):
        assert_same(cast(patterns, target, "cython", isa, layouts.LAYOUTS[layout]), exact.astype(target))
    same = cast(patterns, name, "cython", isa, layouts.LAYOUTS[layout])
    assert_same(same, patterns)


@compiled
@pytest.mark.parametrize("layout", ["contiguous", "every_other"])
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("name", HALVES)
def test_every_boundary_is_rounded_once(name, isa, layout):
    """From float64 the points next to a midpoint would go wrong by way of a rounded float32."""
    points, rounded = boundaries(name)
    layout = layouts.LAYOUTS[layout]
    assert np.array_equal(bits(cast(points, name, "cython", isa, layout)), rounded)
    narrow = fits_float32(points)
    assert np.array_equal(bits(cast(points[narrow].astype(np.float32), name, "cython", isa, layout)), rounded[narrow])


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("source, target", PAIRS)
def test_random_bit_patterns(source, target, isa):
    """A million patterns: all magnitudes, subnormals, infinities, NaN with many payloads."""
    rng = np.random.default_rng(7)
    size = DTYPES[source].itemsize
    x = rng.integers(0, 256, (10**6 // 4) * size, dtype=np.uint8).view(DTYPES[source])
    if source == "float64":  # half of them within the range of float32, or all would overflow
        x[::2] = rng.integers(0, 2**32, x[::2].size, dtype=np.uint32).view(np.float32) * (1 + 2.0**-40)
    assert np.isnan(x).any() and (np.abs(x.astype(np.float64)) < 1e-38).any()
    assert_same(cast(x, target, "cython", isa), cast(x, target, "numpy", isa))


@compiled
@pytest.mark.parametrize("source, target", PAIRS)
def test_nan(source, target):
    """Any payload and either sign stay NaN with that sign; all levels and layouts agree on the bits."""
    size = DTYPES[source].itemsize * 8
    mantissa = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}[source]
    payloads = {1 << k for k in range(mantissa)} | {(1 << mantissa) - 1 - (1 << k) for k in range(mantissa)}
    infinity = (1 << (size - 1)) - (1 << mantissa)
    patterns = [top + infinity + payload for payload in sorted(payloads) for top in (0, 1 << (size - 1))]
    x = np.array(patterns, f"u{size // 8}").view(DTYPES[source])
    assert np.isnan(x).all()
    results = [cast(x, target, "cython", isa, layout) for isa in LEVELS for layout in layouts.LAYOUTS.values()]
    for got in [*results, cast(x, target, "numpy", "v4")]:
        assert np.isnan(got).all()
        assert np.array_equal(sign(got), np.array([0, 1] * len(payloads)))
    assert all(np.array_equal(bits(got), bits(results[0])) for got in results)


SHAPES = [(), (0,), (3, 0), (1,), (2,), (7,), (8,), (15,), (17,), (33,), (511,), (513,), (1025,), (2, 3, 4, 5),
          (1, 33, 2, 3), (3, 17, 5, 1), (5, 1, 7, 9), (40, 600)]  # fmt: skip


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("source, target", PAIRS)
def test_layouts(source, target, isa):
    rng = np.random.default_rng(3)
    for shape in SHAPES:
        x = (rng.standard_normal(shape) * 10.0 ** rng.integers(-9, 6, shape)).astype(DTYPES[source]).reshape(shape)
        want = cast(x, target, "numpy", isa)
        for layout in layouts.LAYOUTS.values():
            assert_same(cast(x, target, "cython", isa, layout), want)
        problem = Problem("cast", "forward", (x.shape,), target, attrs=(("source", source),))
        out = layouts.channels_last(np.zeros(shape, DTYPES[target]))
        registry.choose(problem, "cython", isa)[1](problem, layouts.backwards(x), out, 1)
        assert_same(out, want)


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("source, target", PAIRS)
def test_bits_do_not_depend_on_threads(source, target, isa):
    x = np.random.default_rng(5).standard_normal((3, 70, 1001)).astype(DTYPES[source])
    for layout in (layouts.contiguous, layouts.channels_last):
        want = bits(cast(x, target, "cython", isa, layout))
        for threads in (2, 3, 2):
            assert np.array_equal(bits(cast(x, target, "cython", isa, layout, threads)), want)


@compiled
@pytest.mark.parametrize("isa", LEVELS)
def test_no_workspace_is_used(isa):
    from fastdl.kernels._common import _runtime

    x = np.ones((50, 1000), np.float16)
    _runtime.arena_peak(reset=True)
    idle = _runtime.arena_peak()
    cast(x, "bfloat16", "cython", isa, layouts.fortran, 2)
    assert _runtime.arena_peak() == idle
