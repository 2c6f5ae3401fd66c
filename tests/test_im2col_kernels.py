"""im2col and col2im: the reference against plain loops, every compiled row against the reference."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import pytest

import layouts
import oracle_im2col
from fastdl.check.number import computing_in, precision_of, roundings
from fastdl.kernels import registry
from fastdl.kernels.geometry import window_grid
from fastdl.kernels.problem import Problem, memory_order

LEVELS = registry.available_levels()
compiled = pytest.mark.skipif(not LEVELS, reason="the compiled kernels were not built")
try:
    from ml_dtypes import bfloat16

    DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": bfloat16}
except ImportError:
    DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16}
#: (backend, ISA level) of everything that can run here, the reference first.
IMPLEMENTATIONS = [("numpy", "v4"), *(("cython", isa) for isa in LEVELS)]
CHANNELS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 33)


class Geometry(NamedTuple):
    """Everything about the windows."""

    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    def grid(self):
        """(OH, OW)."""
        return window_grid(self.size, self.kernel, self.stride, self.pads, self.dilation)

    def matrix(self, images, channels):
        """Shape of the matrix."""
        oh, ow = self.grid()
        return images * oh * ow, channels * self.kernel[0] * self.kernel[1]

    def as_keywords(self):
        """For the oracle."""
        return {"kernel": self.kernel, "stride": self.stride, "pads": self.pads, "dilation": self.dilation}


GEOMETRIES = [
    Geometry((6, 7), (3, 2)),
    Geometry((5, 6), (1, 1)),
    Geometry((5, 6), (3, 3), (1, 1), (1, 1, 1, 1)),
    Geometry((7, 6), (2, 3), (2, 3), (0, 1, 2, 0)),
    Geometry((4, 3), (2, 3), (1, 2), (5, 3, 4, 6)),  # windows wholly in the padding on every side
    Geometry((9, 8), (2, 1), (4, 3), (1, 2, 0, 2)),  # elements that no window covers
    Geometry((8, 9), (3, 3), (2, 2), (2, 1, 0, 3), (2, 2)),
    Geometry((11, 10), (3, 2), (2, 3), (1, 2, 3, 4), (3, 2)),
    Geometry((1, 1), (1, 1), (1, 1), (2, 0, 0, 1)),
    Geometry((2, 600), (2, 3), (1, 1), (0, 0, 1, 1)),  # longer than a run of the kernels
    Geometry((2, 601), (1, 3), (1, 2), (0, 1, 2, 0), (1, 3)),
]


@functools.cache
def random_geometries():
    """Small ones of every kind."""
    rng = np.random.default_rng(7)
    found = []
    while len(found) < 120:
        draw = [tuple(map(int, rng.integers(*limits, n))) for limits, n in (((1, 7), 2), ((1, 4), 2), ((1, 4), 2))]
        g = Geometry(*draw, tuple(map(int, rng.integers(0, 5, 4))), tuple(map(int, rng.integers(1, 4, 2))))
        try:
            g.grid()
        except ValueError:
            continue
        found.append(g)
    return found


def call(op, implementation, g, shapes, a, out, threads=1):
    """Runs the row that is meant and no other, on an input that cannot be written."""
    backend, isa = implementation
    a.flags.writeable = False
    problem = Problem(
        op,
        "forward",
        shapes,
        a.dtype.name,
        (memory_order(a),),
        g.pads,
        g.stride,
        g.dilation,
        attrs=(("kernel", g.kernel),),
    )
    row, function = registry.choose(problem, backend, isa)
    assert (row.backend, row.isa) == (backend, isa if backend == "cython" else "any")
    function(problem, a, out, threads)
    return out


def im2col(implementation, g, x, layout=layouts.contiguous, to=layouts.contiguous, threads=1):
    """The matrix, written over 77."""
    out = to(np.full(g.matrix(*x.shape[:2]), 77, x.dtype))
    call("im2col", implementation, g, (x.shape,), layout(x), out, threads)
    if to in (layouts.every_other, layouts.window):
        assert np.all(layouts.surroundings(out) == 77)
    return out


def col2im(implementation, g, col, shape, layout=layouts.contiguous, to=layouts.contiguous, threads=1):
    """The image, written over 77."""
    out = to(np.full(shape, 77, col.dtype))
    call("col2im", implementation, g, (shape, col.shape), layout(col), out, threads)
    if to in (layouts.every_other, layouts.window):
        assert np.all(layouts.surroundings(out) == 77)
    return out


def patterns(shape, dtype, seed=0):
    """Every kind of value as bits: NaN with payloads, infinities, subnormals, both zeros."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*shape, np.dtype(dtype).itemsize), dtype=np.uint8).view(dtype)[..., 0]


def bits(a):
    return np.ascontiguousarray(a).view(f"u{a.dtype.itemsize}")


def channels_last_at_guard_page(a):
    """The page behind the last channel of the last pixel can be neither read nor written."""
    return np.moveaxis(layouts.at_guard_page(np.moveaxis(a, 1, -1)), -1, 1)


LAYOUTS = [*layouts.LAYOUTS.values(), channels_last_at_guard_page]


def test_reference_equals_plain_loops():
    reference = ("numpy", "v4")
    for seed, g in enumerate(GEOMETRIES + random_geometries()):
        shape = (2, 2, *g.size) if g.size[1] < 20 else (1, 1, *g.size)
        rng = np.random.default_rng(seed)
        x, col = rng.standard_normal(shape), rng.standard_normal(g.matrix(*shape[:2]))
        assert np.array_equal(im2col(reference, g, x), oracle_im2col.im2col(x, col.shape, **g.as_keywords())), g
        assert np.array_equal(col2im(reference, g, col, shape), oracle_im2col.col2im(col, shape, **g.as_keywords())), g


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("g", GEOMETRIES, ids=lambda g: str(tuple(g)).replace(" ", ""))
def test_compiled_rows_equal_the_reference(isa, dtype, g):
    for channels, layout in ((1, layouts.contiguous), (3, layouts.channels_last), (19, layouts.channels_last)):
        shape = (2, channels, *g.size)
        x = patterns(shape, DTYPES[dtype])
        col = im2col(("cython", isa), g, x, layout)
        assert np.array_equal(bits(col), bits(im2col(("numpy", isa), g, x)))
        rng = np.random.default_rng(1)
        for values in (rng.integers(-8, 9, col.shape), rng.standard_normal(col.shape)):
            col = values.astype(DTYPES[dtype])
            wide = col.astype(np.float64)
            want = col2im(("numpy", isa), g, wide, shape)
            image = col2im(("cython", isa), g, col, shape, to=layout)
            if values.dtype.kind == "i":  # exact sums, rounded once
                assert np.array_equal(image, want.astype(col.dtype))
            u, eta = precision_of(dtype)
            share = computing_in("float64" if dtype == "float64" else "float32").u
            share *= roundings(g.kernel[0] * g.kernel[1], want.size)
            magnitude = col2im(("numpy", isa), g, np.abs(wide), shape)
            assert np.all(np.abs(image.astype(np.float64) - want) <= share * magnitude + u * np.abs(want) + eta)
            # the order of the sum is in the contract
            assert np.array_equal(image, col2im(("numpy", isa), g, col, shape))


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_every_layout_and_channel_count(isa, layout):
    g = Geometry((5, 6), (2, 3), (1, 2), (0, 1, 2, 0))
    for channels in CHANNELS:
        for name, dtype in DTYPES.items():
            shape = (1 + channels % 2, channels, *g.size)
            x = patterns(shape, dtype)
            want = bits(im2col(("numpy", isa), g, x))
            for to in (layouts.contiguous, layout):
                assert np.array_equal(bits(im2col(("cython", isa), g, x, layout, to)), want), name
            col = np.random.default_rng(1).integers(-8, 9, want.shape).astype(dtype)
            want = col2im(("numpy", isa), g, col, shape)
            for of, to in ((layout, layouts.contiguous), (layouts.contiguous, layout)):
                assert np.array_equal(col2im(("cython", isa), g, col, shape, of, to), want), name


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=lambda i: "-".join(i))
@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")
def test_special_values_are_summed_as_ieee_754_says(implementation):
    g = Geometry((1, 2), (1, 2), (1, 1), (0, 0, 1, 1))  # each element is in two windows
    least = 2.0**-149
    pairs = [(np.inf, 1.0), (np.inf, -np.inf), (np.nan, 0.0), (least, least), (least, -3 * least), (-0.0, -0.0)]
    sums = [np.inf, np.nan, np.nan, 2 * least, -2 * least, 0.0]  # a sum starts at 0
    for channels in (1, 16):
        for (first, second), total in zip(pairs, sums, strict=True):
            col = np.zeros((3, channels, 2), np.float32)
            col[1, :, 0], col[0, :, 1] = first, second
            image = col2im(implementation, g, col.reshape(3, -1), (1, channels, 1, 2))
            assert np.array_equal(image[0, :, 0, 0], np.full(channels, total), equal_nan=True)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=lambda i: "-".join(i))
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 17, 0, 3), (1, 2, 3, 0)], ids=str)
def test_empty_arrays(implementation, shape):
    g = Geometry(shape[2:], (2, 3), (1, 2), (2, 1, 2, 3))
    col = im2col(implementation, g, np.ones(shape, np.float32))
    assert col.shape == g.matrix(*shape[:2])
    assert np.all(col == 0)
    assert col2im(implementation, g, col, shape).shape == shape


@compiled
@pytest.mark.parametrize("isa", LEVELS)
def test_the_same_bits_from_any_number_of_threads(isa):
    """Some 1e6 elements of the matrix: far above the 20 us from which threads are used, and several tasks of 20 us."""
    g = Geometry((30, 31), (3, 3), (1, 1), (1, 1, 1, 1))
    for channels, layout in ((2, layouts.contiguous), (16, layouts.channels_last)):
        for dtype in (np.float32, np.float16):
            x = np.random.default_rng(0).standard_normal((8, channels, *g.size)).astype(dtype)
            col = im2col(("cython", isa), g, x, layout)
            image = col2im(("cython", isa), g, col, x.shape, to=layout)
            assert col.size > 10**5
            for threads in (1, 2, 3, 2):
                assert np.array_equal(im2col(("cython", isa), g, x, layout, threads=threads), col)
                assert np.array_equal(col2im(("cython", isa), g, col, x.shape, to=layout, threads=threads), image)


@compiled
@pytest.mark.parametrize("isa", LEVELS)
def test_no_row_takes_scratch(isa):
    from fastdl.kernels._common import _runtime

    g = Geometry((20, 300), (3, 3))
    x = np.ones((2, 9, *g.size), np.float16)
    rows = [r for r in registry.TABLE if r.op in ("im2col", "col2im") and r.isa == isa]
    assert [r.workspace(None, isa, 2) for r in rows] == [0, 0]
    _runtime.arena_peak(reset=True)
    before = _runtime.arena_peak()
    col2im(("cython", isa), g, im2col(("cython", isa), g, x, threads=2), x.shape, threads=2)
    assert _runtime.arena_peak() == before


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=lambda i: "-".join(i))
def test_each_is_the_transpose_of_the_other(implementation):
    """<im2col(x), col> == <x, col2im(col)>, exactly, on integers."""
    assert len(random_geometries()) == 120
    for seed, g in enumerate(random_geometries()):
        rng = np.random.default_rng(seed)
        shape = (2, 3, *g.size)
        x, col = (rng.integers(-9, 10, s).astype(np.float64) for s in (shape, g.matrix(2, 3)))
        assert np.sum(im2col(implementation, g, x) * col) == np.sum(x * col2im(implementation, g, col, shape)), g
