"""add and concat: exact results, layouts, threads, workspace."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import layouts
import oracle_join
from fastdl.kernels import registry
from fastdl.kernels.problem import Problem, memory_order

ml_dtypes = pytest.importorskip("ml_dtypes")
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")

LEVELS = registry.available_levels()
compiled = pytest.mark.skipif(not LEVELS, reason="the compiled kernels were not built")
DTYPES = {name: np.dtype(name) for name in ("float32", "float64", "float16")} | {
    "bfloat16": np.dtype(ml_dtypes.bfloat16)
}
#: bits of the significand, exponents of the smallest subnormal and of the largest power of two
FORMATS = {
    "float64": (53, -1074, 1023),
    "float32": (24, -149, 127),
    "float16": (11, -24, 15),
    "bfloat16": (8, -133, 127),
}
every_dtype = pytest.mark.parametrize("name", DTYPES)
every_level = pytest.mark.parametrize("isa", LEVELS)
REFERENCE_AND_LEVELS = [("numpy", "v4"), *(("cython", isa) for isa in LEVELS)]
every_row = pytest.mark.parametrize("backend, isa", REFERENCE_AND_LEVELS)


def bits(a):
    return np.ascontiguousarray(a).view(f"u{a.dtype.itemsize}")


def run(problem, backend, isa, *arguments):
    row, function = registry.choose(problem, backend, isa)
    assert (row.op, row.backend, row.isa) == (problem.op, backend, isa if backend == "cython" else "any")
    function(problem, *arguments)
    return row


def add(a, b, backend, isa, layout=layouts.contiguous, b_layout=None, out_layout=None, threads=1):
    a, b = layout(a), (b_layout or layout)(b)
    out = (out_layout or layout)(np.full(a.shape, 77, a.dtype))
    a.flags.writeable = b.flags.writeable = False
    problem = Problem("add", "forward", (a.shape,), a.dtype.name, (memory_order(a), memory_order(b)))
    run(problem, backend, isa, a, b, out, threads)
    rest = layouts.surroundings(out)
    assert rest is None or np.all(rest == 77)
    return out


# ---- add ------------------------------------------------------------------------------------------------------------


@functools.cache
def sums(name):
    """(a, b, their sums by exact fractions): what a second rounding or a sum in the storage dtype would get wrong."""
    rng = np.random.default_rng(1)
    significand, smallest, largest = FORMATS[name]
    n = 400

    def numbers(exponents):
        mantissas = rng.integers(2 ** (significand - 1), 2**significand, n) * rng.choice([-1, 1], n)
        with np.errstate(over="ignore", under="ignore"):
            return np.ldexp(mantissas.astype(np.float64), exponents).astype(DTYPES[name])

    low, high = smallest, largest - significand + 1
    near = rng.integers(max(low, -30), min(high, 30), n)
    pairs = [
        (numbers(near), numbers(np.clip(near + rng.integers(-significand - 2, 3, n), low, high))),
        (numbers(rng.integers(low, low + 4, n)), numbers(rng.integers(low, low + 4, n))),
        (numbers(np.full(n, high)), numbers(rng.integers(high - significand - 1, high + 1, n))),
        (numbers(rng.integers(low, high, n)), numbers(rng.integers(low, high, n))),
    ]
    special = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 2.0**smallest, -(2.0**smallest)], DTYPES[name])
    pairs.append((np.repeat(special, len(special)), np.tile(special, len(special))))
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    want = [oracle_join.add(float(x), float(y), *FORMATS[name]) for x, y in zip(a, b, strict=True)]
    return a, b, np.array(want)


@every_row
@every_dtype
def test_add_is_rounded_once(name, backend, isa):
    a, b, want = sums(name)
    got = add(a, b, backend, isa)
    assert np.isinf(want).any() and (np.abs(want) < 2.0 ** (FORMATS[name][1] + FORMATS[name][0])).any()
    assert np.array_equal(got.astype(np.float64), want, equal_nan=True)
    nan = np.isnan(want)
    assert np.array_equal(np.signbit(got)[~nan], np.signbit(want)[~nan])


SHAPES = [(), (0,), (1,), (7,), (17,), (513,), (2, 3, 4, 5), (0, 3, 4, 4), (1, 33, 2, 3), (3, 65, 2, 1), (5, 1, 7, 9),
          (2, 16, 3, 3), (2, 3, 4, 5, 6), (600, 3)]  # fmt: skip


@compiled
@every_level
@every_dtype
def test_add_layouts(name, isa):
    rng = np.random.default_rng(2)
    for shape in SHAPES:
        a, b = (np.asarray(rng.standard_normal(shape)).astype(DTYPES[name]) for _ in range(2))
        want = bits(add(a, b, "numpy", isa))
        for layout in layouts.LAYOUTS.values():
            assert np.array_equal(bits(add(a, b, "cython", isa, layout)), want)
        mixed = (layouts.channels_last, layouts.backwards, layouts.contiguous)
        for turn in range(3):
            assert np.array_equal(bits(add(a, b, "cython", isa, *mixed[turn:], *mixed[:turn])), want)


@compiled
@every_level
@every_dtype
def test_add_in_place(name, isa):
    rng = np.random.default_rng(3)
    for shape in [(1,), (3, 17, 5, 2), (2, 40, 16, 16)]:
        values = [np.asarray(rng.standard_normal(shape)).astype(DTYPES[name]) for _ in range(2)]
        problem = Problem("add", "forward", (shape,), name)
        for layout in layouts.LAYOUTS.values():
            for target in (0, 1):
                own = [layout(v) for v in values]
                run(problem, "cython", isa, *own, own[target], 2)
                assert np.array_equal(bits(own[target]), bits(add(*values, "numpy", isa)))
            twice = layout(values[0])
            run(problem, "cython", isa, twice, twice, twice, 2)
            assert np.array_equal(bits(twice), bits(add(values[0], values[0], "numpy", isa)))


@compiled
@every_level
@every_dtype
def test_add_bits_do_not_depend_on_threads(name, isa):
    rng = np.random.default_rng(4)
    a, b = (rng.standard_normal((4, 61, 40, 21)).astype(DTYPES[name]) for _ in range(2))
    want = bits(add(a, b, "numpy", isa))
    for layout in (layouts.contiguous, layouts.channels_last, layouts.window):
        for threads in (1, 2, 3, 2):
            assert np.array_equal(bits(add(a, b, "cython", isa, layout, threads=threads)), want)


# ---- concat ---------------------------------------------------------------------------------------------------------


def concat(arrays, axis, backend, isa, array_layouts, out_layout, threads=1):
    arrays = [layout(a) for layout, a in zip(array_layouts, arrays, strict=True)]
    shape = list(arrays[0].shape)
    shape[axis] = sum(a.shape[axis] for a in arrays)
    out = out_layout(np.full(shape, 77, arrays[0].dtype))
    for a in arrays:
        a.flags.writeable = False
    shapes, orders = tuple(a.shape for a in arrays), tuple(memory_order(a) for a in arrays)
    problem = Problem("concat", "forward", shapes, out.dtype.name, orders, attrs=(("axis", axis),))
    if backend == "numpy":
        run(problem, backend, isa, arrays, out, threads)
        return out
    from fastdl.kernels._common import _runtime

    _runtime.arena_peak(reset=True)
    row = run(problem, backend, isa, arrays, out, threads)
    assert _runtime.arena_peak() <= row.workspace(problem, isa, threads)
    rest = layouts.surroundings(out)
    assert rest is None or np.all(rest == 77)
    return out


def parts(shape, axis, sizes, dtype, rng):
    """Random bit patterns: NaN with payloads, signalling ones too, must come through."""
    found = []
    for size in sizes:
        whole = (*shape[:axis], size, *shape[axis + 1 :])
        found.append(rng.integers(0, 256, (*whole, dtype.itemsize), dtype=np.uint8).view(dtype)[..., 0])
    return found


GRID = [
    ((2, 3, 4, 5), 1, (1, 3)), ((2, 3, 4, 5), 0, (2, 1, 4)), ((2, 3, 4, 5), 2, (5,)), ((2, 3, 4, 5), 3, (0, 2, 3)),
    ((1, 0, 3, 2), 1, (16, 1, 17, 0)), ((0, 3, 2, 2), 1, (3, 4)), ((1, 1, 1, 1), 1, (1, 1, 1)), ((3,), 0, (3, 0, 2)),
    ((4, 7), 1, (7, 2)), ((4, 7), 0, (1,) * 40), ((2, 2, 3, 2, 3), 2, (3, 1)), ((2, 5, 3, 1), 3, (0, 0)),
    ((3, 65, 2, 2), 1, (65, 33, 31)), ((1, 2, 1, 3), 2, (1, 7)), ((5, 1, 1, 1), 0, (5, 2)),
]  # fmt: skip


@functools.cache
def joined(name):
    """(arrays, axis, bits that must come out) for each entry of the grid."""
    rng = np.random.default_rng(5)
    found = []
    for shape, axis, sizes in GRID:
        arrays = parts(shape, axis, sizes, DTYPES[name], rng)
        values = oracle_join.concat([bits(a) for a in arrays], axis)
        want = np.zeros((*shape[:axis], sum(sizes), *shape[axis + 1 :]), f"u{DTYPES[name].itemsize}")
        assert len(values) == want.size
        for index, value in values.items():
            want[index] = value
        found.append((arrays, axis, want))
    return found


@every_row
@every_dtype
def test_concat_copies_bits(name, backend, isa):
    """Every layout of the output and of the arrays, all the same and all different."""
    each = list(layouts.LAYOUTS.values())
    for arrays, axis, want in joined(name):
        for turn, out_layout in enumerate(each):
            order = [each[(turn + k) % len(each)] for k in range(len(arrays))]
            for array_layouts in (order, [out_layout] * len(arrays)):
                got = concat(arrays, axis, backend, isa, array_layouts, out_layout)
                assert np.array_equal(bits(got), want)


@compiled
@every_level
@every_dtype
def test_concat_large(name, isa):
    """Tasks of many blocks, tasks that are parts of a block, one block in all; any number of threads."""
    rng = np.random.default_rng(6)
    large = [((3, 1, 41, 37), 1, (64, 33, 16)), ((1, 1, 70, 90), 1, (5, 30, 1)), ((1, 3, 50, 40), 0, (7, 2))]
    for shape, axis, sizes in large:
        arrays = parts(shape, axis, sizes, DTYPES[name], rng)
        want = np.concatenate([bits(a) for a in arrays], axis)
        for layout in (layouts.channels_last, layouts.contiguous, layouts.window):
            for in_layout in (layout, layouts.contiguous):
                for threads in (1, 2, 3):
                    got = concat(arrays, axis, "cython", isa, [in_layout] * len(arrays), layout, threads)
                    assert np.array_equal(bits(got), want)


@compiled
@every_level
def test_concat_of_one_array_with_itself_and_of_none(isa):
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    got = concat([x, x], 1, "cython", isa, [lambda a: a] * 2, layouts.channels_last)
    assert np.array_equal(got, np.concatenate([x, x], 1))
    out = np.full((2, 0, 3), 77, np.float32)
    run(Problem("concat", "forward", (), "float32", attrs=(("axis", 1),)), "cython", isa, [], out, 1)
