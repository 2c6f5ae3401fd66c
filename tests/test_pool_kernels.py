"""Pooling: the reference against plain loops, every compiled row against the reference in float64."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import pytest

import layouts
import oracle_pool
from fastdl.check.number import computing_in, precision_of, roundings
from fastdl.kernels import registry
from fastdl.kernels.geometry import window_grid
from fastdl.kernels.problem import Problem, memory_order
from numerical import central_differences

# Comparing and converting NaN raises the invalid flag, about which NumPy warns.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")

LEVELS = registry.available_levels()
compiled = pytest.mark.skipif(not LEVELS, reason="the compiled kernels were not built")
try:
    from ml_dtypes import bfloat16

    DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": bfloat16}
except ImportError:
    DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16}
#: (backend, ISA level) of everything that can run here, the reference first.
IMPLEMENTATIONS = [("numpy", "v4"), *(("cython", isa) for isa in LEVELS)]
#: Around the registers of every level, and an uneven number of them.
CHANNELS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 65)


class Geometry(NamedTuple):
    """Everything about the windows."""

    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil_mode: bool = False

    def grid(self):
        """(OH, OW)."""
        return window_grid(self.size, self.kernel, self.stride, self.pads, self.dilation, self.ceil_mode)

    def windows(self):
        """The oracle's windows."""
        return oracle_pool.windows(self.size, self.kernel, self.stride, self.pads, self.dilation, self.ceil_mode)


GEOMETRIES = [
    Geometry((6, 8), (2, 2), (2, 2)),
    Geometry((7, 5), (2, 2), (2, 2)),
    Geometry((7, 5), (2, 2), (2, 2), ceil_mode=True),
    Geometry((5, 6), (3, 3), (1, 1), (1, 1, 1, 1)),
    Geometry((8, 5), (3, 2), (2, 1), (1, 0, 0, 1)),
    Geometry((5, 9), (2, 4), (1, 3), (0, 3, 2, 0), ceil_mode=True),
    Geometry((4, 3), (2, 3), (1, 2), (5, 3, 4, 6)),  # windows wholly in the padding on every side
    Geometry((9, 7), (2, 1), (4, 3), (1, 2, 0, 2)),  # elements that no window covers
    Geometry((9, 13), (3, 3), (2, 2)),
    Geometry((8, 10), (3, 3), (2, 2), (0, 1, 1, 0), ceil_mode=True),
    Geometry((7, 6), (3, 3), (2, 2), (7, 4, 5, 8)),  # the same wholly in the padding
    Geometry((6, 7), (3, 3), (1, 1), (4, 3, 5, 2)),
    Geometry((2, 1), (3, 3), (2, 2), (1, 2, 1, 1)),  # no window wholly on the image
    Geometry((9, 8), (3, 3), (2, 1), (1, 0, 1, 1)),
    Geometry((8, 9), (3, 3), (2, 2), (2, 1, 0, 3), (2, 2)),  # steps of windows and taps have a common divisor
    Geometry((11, 10), (3, 2), (2, 3), (1, 2, 3, 4), (3, 2)),
    Geometry((13, 12), (2, 3), (6, 2), (0, 4, 2, 1), (4, 3), True),
    Geometry((1, 1), (1, 1), (1, 1)),
    Geometry((1, 4), (3, 2), (1, 1), (2, 2, 0, 1)),
    Geometry((20, 18), (16, 17), (3, 1)),  # 272 taps: int32 indices
    Geometry((2, 600), (2, 3), (1, 1), (0, 0, 1, 1)),  # longer than a line of the kernels
    Geometry((2, 601), (1, 3), (1, 2), (0, 1, 2, 0), (1, 3)),
]
UNDILATED = [g for g in GEOMETRIES if g.dilation == (1, 1)]
assert len(UNDILATED) > 10


@functools.cache
def random_geometries():
    """Small ones of every kind."""
    rng = np.random.default_rng(7)
    found = []
    while len(found) < 150:
        draw = [tuple(map(int, rng.integers(*limits, n))) for limits, n in (((1, 7), 2), ((1, 4), 2), ((1, 4), 2))]
        pads, dilation = tuple(map(int, rng.integers(0, 5, 4))), tuple(map(int, rng.integers(1, 4, 2)))
        g = Geometry(*draw, pads, dilation, bool(rng.integers(2)))
        try:
            g.grid()
        except ValueError:
            continue
        found.append(g)
    return found


def values(kind, shape, dtype, seed=0):
    """Small integers, normally distributed values, or many ties with everything that is special about floats."""
    rng = np.random.default_rng(seed)
    if kind == "integers":
        return rng.integers(-4, 5, shape).astype(dtype)
    if kind == "normal":
        return rng.standard_normal(shape).astype(dtype)
    least = 2.0 ** {"float16": -24, "bfloat16": -133, "float32": -149, "float64": -1074}[np.dtype(dtype).name]
    special = [np.nan, np.inf, -np.inf, -np.inf, -np.inf, 0.0, -0.0, least, -least, 3 * least, 1.0, -1.0]
    return rng.choice(np.array(special), shape).astype(dtype)


def index_dtype(kernel):
    return np.uint8 if kernel[0] * kernel[1] <= 255 else np.int32


def call(op, direction, implementation, g, x_shape, arrays, threads=1, **attrs):
    """Runs the row that is meant and no other, on inputs that cannot be written."""
    backend, isa = implementation
    attrs |= {} if op == "global_avg_pool2d" else {"kernel": g.kernel, "ceil_mode": g.ceil_mode}
    storage = arrays[0].dtype.name
    geometry = {} if op == "global_avg_pool2d" else {"pads": g.pads, "stride": g.stride, "dilation": g.dilation}
    problem = Problem(
        op,
        direction,
        (tuple(x_shape),),
        storage,
        (memory_order(arrays[0]),),
        attrs=tuple(sorted(attrs.items())),
        **geometry,
    )
    row, function = registry.choose(problem, backend, isa)
    assert (row.backend, row.isa) == (backend, isa if backend == "cython" else "any")
    function(problem, *arrays, threads)


def empty(shape, dtype, layout=layouts.contiguous):
    """An output, full of a value that no kernel writes by chance."""
    return layout(np.full(shape, 77, dtype))


def read_only(a):
    a.flags.writeable = False
    return a


def max_pool(implementation, g, x, dout, layout=layouts.contiguous, threads=1, indices=True):
    """(out, indices, dx), every array in ``layout``."""
    x, dout = read_only(layout(x)), read_only(layout(dout))
    out, dx = empty(dout.shape, x.dtype, layout), empty(x.shape, x.dtype, layout)
    taps = empty(dout.shape, index_dtype(g.kernel), layout) if indices else None
    call("max_pool2d", "forward", implementation, g, x.shape, (x, out, taps), threads)
    if not indices:
        return out
    call("max_pool2d", "backward", implementation, g, x.shape, (dout, taps, None, dx), threads)
    untouched(layout, out, taps, dx)
    return out, taps, dx


def avg_pool(implementation, g, x, dout, include_pad, layout=layouts.contiguous, threads=1):
    """(out, dx), every array in ``layout``."""
    x, dout = read_only(layout(x)), read_only(layout(dout))
    out, dx = empty(dout.shape, x.dtype, layout), empty(x.shape, x.dtype, layout)
    call("avg_pool2d", "forward", implementation, g, x.shape, (x, out), threads, count_include_pad=include_pad)
    call("avg_pool2d", "backward", implementation, g, x.shape, (dout, dx), threads, count_include_pad=include_pad)
    untouched(layout, out, dx)
    return out, dx


def global_avg_pool(implementation, x, dout, layout=layouts.contiguous, threads=1):
    """(out, dx), every array in ``layout``."""
    x, dout = read_only(layout(x)), read_only(layout(dout))
    out, dx = empty(dout.shape, x.dtype, layout), empty(x.shape, x.dtype, layout)
    call("global_avg_pool2d", "forward", implementation, None, x.shape, (x, out), threads)
    call("global_avg_pool2d", "backward", implementation, None, x.shape, (dout, dx), threads)
    untouched(layout, out, dx)
    return out, dx


def untouched(layout, *outputs):
    """Nothing beside the outputs was written."""
    if layout in (layouts.every_other, layouts.window):
        for out in outputs:
            assert np.all(layouts.surroundings(out) == 77)


def same(a, b):
    """Equal values, NaN for NaN, and equal signs of zeros."""
    a, b = (np.asarray(v) if v.dtype.kind in "iu" else np.asarray(v, np.float64) for v in (a, b))
    nan = np.isnan(a)
    return np.array_equal(a, b, equal_nan=True) and np.array_equal(np.signbit(a)[~nan], np.signbit(b)[~nan])


def channels_last_at_guard_page(a):
    """The page behind the last channel of the last pixel can be neither read nor written."""
    return np.moveaxis(layouts.at_guard_page(np.moveaxis(a, 1, -1)), -1, 1)


LAYOUTS = [*layouts.LAYOUTS.values(), channels_last_at_guard_page]


# ---- the reference against plain loops ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["integers", "normal", "special"])
def test_reference_equals_plain_loops(kind):
    for seed, g in enumerate(GEOMETRIES + random_geometries()):
        shape = (2, 2, *g.size) if max(g.size) < 20 else (1, 1, *g.size)
        on_image, on_padded = g.windows()
        assert g.grid() == (max(on_image)[0] + 1, max(on_image)[1] + 1), g
        x = values(kind, shape, np.float64, seed)
        dout = values("normal", (*shape[:2], *g.grid()), np.float64, seed + 1000)
        want_out, want_indices, want_dx = oracle_pool.max_pool2d(x, dout, on_image)
        out, indices, dx = max_pool(("numpy", "v4"), g, x, dout)
        assert same(out, want_out), g
        assert same(dx, want_dx), g
        none = np.iinfo(indices.dtype).max
        assert np.array_equal(np.where(indices == none, -1, indices.astype(int)), want_indices), g
        if g.dilation != (1, 1) or kind == "special":
            continue
        for include_pad in (False, True):
            want_out, want_dx = oracle_pool.avg_pool2d(x, dout, on_image, on_padded, include_pad)
            out, dx = avg_pool(("numpy", "v4"), g, x, dout, include_pad)
            assert np.array_equal(out, want_out), (g, include_pad)
            assert np.array_equal(dx, want_dx), (g, include_pad)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 1, 1), (3, 1, 7, 1), (0, 2, 3, 3)])
def test_reference_of_the_global_mean_equals_plain_loops(shape):
    x, dout = values("integers", shape, np.float64), values("normal", (*shape[:2], 1, 1), np.float64, 1)
    want_out, want_dx = oracle_pool.global_avg_pool2d(x, dout)
    out, dx = global_avg_pool(("numpy", "v4"), x, dout)
    assert np.array_equal(out, want_out)
    assert np.array_equal(dx, want_dx)


# ---- the rules of the contract --------------------------------------------------------------------------------------

NAN, INF = np.nan, np.inf
#: One row of pixels, window and stride, pads left and right -> maxima and taps; None: wholly in the padding.
RULES = [
    ([1, 3, 3, 3], 4, 1, (0, 0), [3], [1]),
    ([2, 1, 2, 0], 2, 2, (0, 0), [2, 2], [0, 0]),
    ([0.0, -0.0, -0.0, 0.0], 2, 2, (0, 0), [0.0, -0.0], [0, 0]),
    ([INF, NAN, 5, NAN], 4, 1, (0, 0), [NAN], [1]),
    ([NAN, INF, -INF, NAN], 2, 2, (0, 0), [NAN, NAN], [0, 1]),
    ([-INF, -INF], 4, 1, (1, 1), [-INF], [1]),
    ([-INF, -1], 2, 1, (2, 2), [-INF, -INF, -1, -1, -INF], [None, 1, 1, 0, None]),
    ([NAN, 1], 3, 2, (3, 0), [-INF, NAN], [None, 1]),
    ([1e-45, 0, -1e-45, -1], 2, 2, (0, 0), [1e-45, -1e-45], [0, 0]),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=lambda i: "-".join(i))
@pytest.mark.parametrize("channels", [1, 19])
def test_max_pooling_keeps_its_rules(implementation, channels, rule):
    row, window, stride, (left, right), maxima, taps = rule
    g = Geometry((1, len(row)), (1, window), (1, stride), (0, 0, left, right))
    assert g.grid() == (1, len(maxima))
    x = np.broadcast_to(np.array(row, np.float32), (1, channels, 1, len(row)))
    dout = np.broadcast_to(np.arange(1, len(taps) + 1, dtype=np.float32), (1, channels, 1, len(taps)))
    for layout in (layouts.contiguous, layouts.channels_last):
        out, indices, dx = max_pool(implementation, g, x, dout, layout)
        gradient = np.zeros(len(row))
        for o, tap in enumerate(taps):
            if tap is not None:
                gradient[o * stride - left + tap] += o + 1
        for c in range(channels):
            assert same(out[0, c, 0], np.array(maxima, np.float32))
            assert list(indices[0, c, 0]) == [255 if tap is None else tap for tap in taps]
            assert np.array_equal(dx[0, c, 0], gradient)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=lambda i: "-".join(i))
def test_halves_are_summed_in_float32(implementation):
    g = Geometry((2, 2), (2, 2), (2, 2))
    for channels in (1, 16):
        big = np.full((1, channels, 2, 2), 60000, np.float16)  # their sum is no half
        small = np.full((1, channels, 2, 2), 2.0**-24, np.float16)  # and half of this is none either
        small[..., 1] = 0
        for layout in (layouts.contiguous, layouts.channels_last):
            out, _ = avg_pool(implementation, g, big, big[:, :, :1, :1], True, layout)
            assert np.all(out == 60000)
            out, dx = global_avg_pool(implementation, small * 3, small[:, :, :1, :1] * 6, layout)
            assert np.all(out == 2.0**-24 * 2)  # 1.5 steps, to even
            assert np.all(dx == 2.0**-24 * 2)


# ---- the compiled rows ----------------------------------------------------------------------------------------------


def geometry_id(g):
    return f"{g.size}-{g.kernel}-{g.stride}-{g.pads}-{g.dilation}-{g.ceil_mode}".replace(" ", "")


def case(g, kind, dtype, channels, images=2):
    """x, dout and both in float64."""
    x = values(kind, (images, channels, *g.size), dtype)
    dout = values("integers" if kind == "integers" else "normal", (images, channels, *g.grid()), dtype, 1)
    return x, dout, x.astype(np.float64), dout.astype(np.float64)


def assert_near(got, want, share, magnitude, storage):
    """Within ``share`` of the sum of absolute terms and one rounding to the storage dtype."""
    u, eta = precision_of(storage)
    got, want = got.astype(np.float64), np.asarray(want)
    with np.errstate(invalid="ignore"):
        error = np.abs(got - want)
    assert np.all(error <= share * magnitude + u * np.abs(want) + 2 * eta), error.max()


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("g", GEOMETRIES, ids=geometry_id)
def test_max_pooling_equals_the_reference(isa, dtype, g):
    for kind in ("integers", "normal", "special"):
        for channels, layout in ((3, layouts.contiguous), (19, layouts.channels_last), (18, layouts.contiguous)):
            x, dout, wide, wide_dout = case(g, kind, DTYPES[dtype], channels)
            out, indices, dx = max_pool(("cython", isa), g, x, dout, layout)
            want, want_indices, want_dx = max_pool(("numpy", isa), g, wide, wide_dout)
            assert same(out, want)
            assert np.array_equal(indices, want_indices)
            assert same(max_pool(("cython", isa), g, x, dout, layout, indices=False), out)
            if kind == "integers":  # exact sums, rounded once
                assert np.array_equal(dx, want_dx.astype(x.dtype))
                continue
            terms = g.kernel[0] * g.kernel[1]
            share = computing_in("float64" if dtype == "float64" else "float32").u * roundings(terms, dx.size)
            magnitude = max_pool(("numpy", isa), g, wide, np.abs(wide_dout))[2]
            assert_near(dx, want_dx, share, magnitude, dtype)
            assert same(dx, max_pool(("numpy", isa), g, x, dout)[2])  # the order of the sum is in the contract


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("g", UNDILATED, ids=geometry_id)
def test_average_pooling_equals_the_reference(isa, dtype, g):
    terms = g.kernel[0] * g.kernel[1]
    for include_pad in (False, True):
        for channels, layout in ((3, layouts.contiguous), (141, layouts.channels_last), (18, layouts.contiguous)):
            for kind in ("integers", "normal"):
                x, dout, wide, wide_dout = case(g, kind, DTYPES[dtype], channels)
                out, dx = avg_pool(("cython", isa), g, x, dout, include_pad, layout)
                want, want_dx = avg_pool(("numpy", isa), g, wide, wide_dout, include_pad)
                if kind == "integers":  # exact sums, one division, one rounding
                    narrow = want.astype(np.float64 if dtype == "float64" else np.float32)
                    assert np.array_equal(out, narrow.astype(x.dtype))
                u = computing_in("float64" if dtype == "float64" else "float32").u
                magnitudes = avg_pool(("numpy", isa), g, np.abs(wide), np.abs(wide_dout), include_pad)
                for got, expected, magnitude in zip((out, dx), (want, want_dx), magnitudes, strict=True):
                    assert_near(got, expected, u * (roundings(terms, got.size) + 1), magnitude, dtype)
                for got, expected in zip((out, dx), avg_pool(("numpy", isa), g, x, dout, include_pad), strict=True):
                    assert same(got, expected)  # the order of the sums is in the contract


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(1, 1), (2, 4), (5, 3), (8, 16), (9, 15), (1, 129), (61, 50)], ids=str)
def test_global_mean_equals_the_reference(isa, dtype, size):
    for kind in ("integers", "normal"):
        for channels, layout in ((1, layouts.contiguous), (35, layouts.channels_last), (18, layouts.contiguous)):
            x = values(kind, (2, channels, *size), DTYPES[dtype])
            dout = values(kind, (2, channels, 1, 1), DTYPES[dtype], 1)
            out, dx = global_avg_pool(("cython", isa), x, dout, layout)
            wide, wide_dout = x.astype(np.float64), dout.astype(np.float64)
            want, want_dx = global_avg_pool(("numpy", isa), wide, wide_dout)
            compute = np.float64 if dtype == "float64" else np.float32
            u = computing_in(np.dtype(compute).name).u
            if kind == "integers":
                assert np.array_equal(out, want.astype(compute).astype(x.dtype))
            # 8 interleaved sums of 16 pixels and their 3 additions, then one addition a block
            blocks = -(-size[0] * size[1] // 128)
            share = u * (19 + roundings(blocks, out.size) + 1)
            assert_near(out, want, share, np.mean(np.abs(wide), (2, 3), keepdims=True), dtype)
            assert_near(dx, want_dx, u, np.abs(want_dx), dtype)


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [33, 285])
def test_global_mean_has_the_same_bits_in_every_layout_and_level(dtype, channels):
    x = values("normal", (2, channels, 13, 29), DTYPES[dtype])
    dout = values("normal", (2, channels, 1, 1), DTYPES[dtype], 1)
    first = global_avg_pool(("cython", LEVELS[0]), x, dout)
    for isa in LEVELS:
        for layout in LAYOUTS:
            for got, want in zip(global_avg_pool(("cython", isa), x, dout, layout), first, strict=True):
                assert same(got, want), (isa, layout.__name__)


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_every_layout_and_channel_count(isa, layout):
    geometries = [
        Geometry((5, 6), (2, 2), (2, 2), (0, 1, 0, 0)),
        Geometry((4, 5), (3, 2), (1, 2), (1, 2, 3, 0), (2, 1)),
    ]
    for channels in CHANNELS:
        for dtype in DTYPES:
            for g in geometries:
                x, dout, wide, wide_dout = case(g, "special", DTYPES[dtype], channels, images=1 + channels % 2)
                dout, wide_dout = np.nan_to_num(dout), np.nan_to_num(wide_dout)
                out, indices, dx = max_pool(("cython", isa), g, x, dout, layout)
                want, want_indices, _ = max_pool(("numpy", isa), g, wide, wide_dout)
                assert same(out, want)
                assert np.array_equal(indices, want_indices)
                assert same(dx, max_pool(("numpy", isa), g, x, dout)[2])
            x, dout, *_ = case(geometries[0], "normal", DTYPES[dtype], channels, images=1 + channels % 2)
            results = avg_pool(("cython", isa), geometries[0], x, dout, False, layout)
            for got, want in zip(results, avg_pool(("numpy", isa), geometries[0], x, dout, False), strict=True):
                assert same(got, want)


@compiled
@pytest.mark.parametrize("isa", LEVELS)
def test_mixed_layouts(isa):
    """Inputs and outputs need not lie in memory alike."""
    g = Geometry((6, 7), (3, 2), (2, 2), (1, 1, 0, 1))
    x, dout, *_ = case(g, "integers", np.float32, 20)
    want = max_pool(("numpy", isa), g, x, dout)
    wanted_average = avg_pool(("numpy", isa), g, x, dout, True)
    for a in (layouts.contiguous, layouts.channels_last, layouts.backwards):
        for b in (layouts.contiguous, layouts.channels_last, layouts.every_other):
            out, indices, dx = empty(dout.shape, x.dtype, b), empty(dout.shape, np.uint8, a), empty(x.shape, x.dtype, b)
            call("max_pool2d", "forward", ("cython", isa), g, x.shape, (a(x), out, indices))
            call("max_pool2d", "backward", ("cython", isa), g, x.shape, (a(dout), indices, None, dx))
            assert all(map(same, (out, indices, dx), want))
            call("avg_pool2d", "forward", ("cython", isa), g, x.shape, (a(x), out), count_include_pad=True)
            call("avg_pool2d", "backward", ("cython", isa), g, x.shape, (a(dout), dx), count_include_pad=True)
            assert all(map(same, (out, dx), wanted_average))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=lambda i: "-".join(i))
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 17, 0, 3), (1, 2, 3, 0), (0, 0, 0, 0)], ids=str)
def test_empty_arrays(implementation, shape):
    g = Geometry(shape[2:], (2, 3), (1, 2), (2, 1, 2, 3))
    x, dout = np.ones(shape, np.float32), np.ones((*shape[:2], *g.grid()), np.float32)
    for layout in (layouts.contiguous, layouts.channels_last):
        out, indices, dx = max_pool(implementation, g, x, dout, layout)
        average, _ = avg_pool(implementation, g, x, dout, True, layout)
        if x.size == 0:
            assert np.all(out == -np.inf)
            assert np.all(indices == 255)
            assert np.all(average == 0)
        assert dx.shape == shape
        if shape[2] * shape[3]:
            global_avg_pool(implementation, x, np.ones((*shape[:2], 1, 1), np.float32), layout)


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("layout", [layouts.contiguous, layouts.channels_last], ids=lambda f: f.__name__)
def test_the_same_bits_from_any_number_of_threads(isa, layout):
    """More than 1e5 outputs: far above the 20 us from which threads are used, and several tasks of 10 us."""
    g = Geometry((30, 31), (3, 3), (2, 1), (1, 1, 1, 1))
    for dtype in ("float32", "float16"):
        x, dout, *_ = case(g, "normal", DTYPES[dtype], 33, images=8)
        mean = values("normal", (8, 33, 1, 1), DTYPES[dtype])
        assert dout.size > 10**5

        def run(threads, x=x, dout=dout, mean=mean):
            return (
                *max_pool(("cython", isa), g, x, dout, layout, threads),
                *avg_pool(("cython", isa), g, x, dout, False, layout, threads),
                *global_avg_pool(("cython", isa), x, mean, layout, threads),
            )

        once = run(1)
        for threads in (1, 2, 3, 2):
            assert all(map(same, run(threads), once)), threads


@compiled
@pytest.mark.parametrize("isa", LEVELS)
def test_no_row_takes_more_scratch_than_it_declares(isa):
    from fastdl.kernels._common import _runtime

    g = Geometry((40, 300), (3, 3), (1, 1), (1, 1, 1, 1))
    for layout in (layouts.contiguous, layouts.channels_last):
        x, dout, *_ = case(g, "normal", np.float16, 20)
        _runtime.arena_peak(reset=True)
        before = _runtime.arena_peak()
        max_pool(("cython", isa), g, x, dout, layout, 2)
        avg_pool(("cython", isa), g, x, dout, True, layout, 2)
        global_avg_pool(("cython", isa), x, dout[:, :, :1, :1], layout, 2)
        problem = Problem("max_pool2d", "forward", (x.shape,), "float16")
        rows = [r for r in registry.TABLE if r.op in ("max_pool2d", "avg_pool2d", "global_avg_pool2d") and r.isa == isa]
        assert len(rows) == 6
        assert _runtime.arena_peak() - before <= max(r.workspace(problem, isa, 2) for r in rows)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=lambda i: "-".join(i))
def test_gradients_are_what_central_differences_give(implementation):
    """Average pooling is linear and max pooling too, as long as no element overtakes another."""
    g = Geometry((5, 4), (3, 2), (2, 1), (1, 0, 1, 1))
    rng = np.random.default_rng(3)
    shape = (1, 9, *g.size)
    x = rng.permutation(np.arange(np.prod(shape), dtype=np.float64)).reshape(shape)
    dout = rng.standard_normal((1, 9, *g.grid()))
    mean = rng.standard_normal((1, 9, 1, 1))
    layout = layouts.channels_last
    cases = [
        (lambda: max_pool(implementation, g, x, dout, layout), dout, 2),
        (lambda: avg_pool(implementation, g, x, dout, True, layout), dout, 1),
        (lambda: avg_pool(implementation, g, x, dout, False, layout), dout, 1),
        (lambda: global_avg_pool(implementation, x, mean, layout), mean, 1),
    ]
    for function, weights, gradient in cases:
        found = function()[gradient]
        # With h = 1/4 every difference of these integers is exact but for the sum over the outputs.
        wanted = central_differences(lambda f=function, w=weights: float(np.sum(f()[0] * w)), x, 0.25)
        terms = dout.size + g.kernel[0] * g.kernel[1]
        bound = 8 * terms * 2.0**-53 * np.sum(np.abs(weights)) * x.size
        assert np.max(np.abs(found - wanted)) <= bound < 1e-8
