"""unscale: every backend against exact arithmetic, bit by bit; its flag."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import layouts
import oracle_optim
from fastdl.check.arrays import dtype_missing, dtype_of, fill
from fastdl.kernels import registry
from fastdl.kernels.problem import Problem

LEVELS = registry.available_levels()
compiled = pytest.mark.skipif(not LEVELS, reason="the compiled kernels were not built")
DTYPES = ["float32", "float64", "float16", "bfloat16"]
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
#: Powers of two, reciprocals that are rounded, that are subnormal in float32, that are 0 or infinite there.
SCALES = [1.0, 65536.0, 2.0**-3, 3000.0, 0.3, 7e38, 2.0**130, 1e60, 1e-60]


def rows():
    """(backend, ISA level) of everything that may run here."""
    found = [("numpy", "baseline"), ("numba", "baseline"), ("cuda-emulated", "baseline")]
    return found + [("cython", isa) for isa in LEVELS]


every_row = pytest.mark.parametrize(("backend", "isa"), rows())


@pytest.fixture(autouse=True)
def possible(request):
    """Skips what this machine cannot run."""
    given = getattr(request.node, "callspec", None)
    named = given.params if given else {}
    from fastdl.backend import missing

    if reason := missing(named.get("backend", "numpy")) or dtype_missing(named.get("dtype", "float32")):
        pytest.skip(reason)


def unscale(grads, scale, backend, isa, dtype, threads=1):
    """The flag; the gradients are changed in place."""
    problem = Problem("unscale", "step", tuple(g.shape for g in grads), dtype)
    row, function = registry.choose(problem, backend, isa)
    assert (row.backend, row.isa) == (backend, isa if backend == "cython" else "any")
    factor, overflow = np.array([scale]), np.array([-1], np.int32)
    function(problem, grads, factor, overflow, threads)
    assert factor[0] == scale
    return int(overflow[0])


def bits(a):
    return np.ascontiguousarray(a).reshape(-1).view(f"u{a.itemsize}")


def values(what, shape, dtype, seed=0):
    return fill(what, shape, dtype_of(dtype), np.random.default_rng(seed))


def many(dtype):
    """Numbers of every kind: of halves a seventh of all."""
    if dtype in ("float16", "bfloat16"):
        return values("bits", (65536,), dtype)[::7].copy()
    return np.concatenate([values(kind, (600,), dtype, 1) for kind in ("bits", "normal:1", "subnormal:100")])


@functools.cache
def exact(dtype, scale):
    """What :func:`many` becomes, and the flag."""
    want = [oracle_optim.unscale(float(v), scale, dtype) for v in many(dtype).tolist()]
    return np.array([v for v, _ in want]).astype(dtype_of(dtype)), any(bad for _, bad in want)


@every_dtype
@every_row
def test_every_backend_rounds_once(backend, isa, dtype):
    """Bit by bit, zeros' signs too, on numbers of every magnitude and on products near ties."""
    for scale in SCALES:
        if dtype != "float64" and not 1e-45 < 1 / scale < 3e38:
            continue
        g = many(dtype).copy()
        found = unscale([g], scale, backend, isa, dtype)
        expected, bad = exact(dtype, scale)
        numbers = ~np.isnan(expected.astype(float))
        assert np.array_equal(bits(g)[numbers], bits(expected)[numbers]), scale
        assert np.isnan(g.astype(float))[~numbers].all()
        assert found == int(bad)


@every_dtype
@every_row
@pytest.mark.parametrize("scale", [1e60, 1e-60, 0.0, np.inf])
def test_reciprocals_without_a_number_follow_ieee(backend, isa, dtype, scale):
    g = np.array([0.0, -0.0, 2.0, -2.0, np.inf, np.nan]).astype(dtype_of(dtype))
    compute = np.float64 if dtype == "float64" else np.float32
    with np.errstate(all="ignore"):
        want = (g.astype(compute) * compute(np.float64(1) / np.float64(scale))).astype(g.dtype)
    assert unscale([g], scale, backend, isa, dtype) == 1
    assert np.array_equal(g.astype(float), want.astype(float), equal_nan=True)


@every_dtype
@every_row
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_one_bad_element_is_found_wherever_it_is(backend, isa, dtype, bad):
    shapes = [(33,), (2, 3, 4, 5), (), (0, 3), (257, 5), (1,), (6000,)]
    for layout in ("contiguous", "every_other", "channels_last"):
        start = [layouts.LAYOUTS[layout](values("normal:1", s, dtype, i)) for i, s in enumerate(shapes)]
        assert unscale([g.copy() for g in start], 4.0, backend, isa, dtype) == 0
        for i, g in enumerate(start):
            for at in {0, g.size // 2, g.size - 1} if g.size else ():
                index = np.unravel_index(at, g.shape)
                grads = [layouts.LAYOUTS[layout](h) for h in start]
                grads[i][index] = bad
                assert unscale(grads, 4.0, backend, isa, dtype, 2) == 1, (layout, shapes[i], index)
                kept = float(grads[i][index])
                assert kept == bad or (np.isnan(bad) and np.isnan(kept))


@every_dtype
@every_row
def test_the_flag_is_written_where_nothing_overflows(backend, isa, dtype):
    for shapes in ([], [(0,)], [(0, 3), (2, 0)], [(5,), (0,)]):
        assert unscale([np.ones(s, dtype_of(dtype)) for s in shapes], 2.0, backend, isa, dtype) == 0
    largest = values("bits", (65536,), "float16")
    largest = float(np.nanmax(np.where(np.isfinite(largest), largest, 0)))
    g = np.full(9, largest if dtype == "float16" else 1.5e308 if dtype == "float64" else 3e38).astype(dtype_of(dtype))
    assert unscale([g], 0.25, backend, isa, dtype) == 0  # what the product makes does not count
    assert np.isinf(g.astype(float)).all()


@every_dtype
@every_row
def test_layouts_and_threads_give_the_bits_of_one_contiguous_array(backend, isa, dtype):
    shapes = [(), (0,), (7,), (5, 7), (2, 3, 4, 5), (33, 65), (3, 2000), (300, 257), (2, 3, 2, 2, 5)]
    start = [values("normal:100", s, dtype, i) for i, s in enumerate(shapes)]
    alone = [g.copy() for g in start]
    for g in alone:
        assert unscale([g], 3000.0, backend, isa, dtype) == 0
    for number, (name, layout) in enumerate(layouts.LAYOUTS.items()):
        for threads in (1 + number % 3, 2):
            grads = [layout(g) for g in start]
            assert unscale(grads, 3000.0, backend, isa, dtype, threads) == 0
            assert all(np.array_equal(bits(g), bits(w)) for g, w in zip(grads, alone, strict=True)), name
            for g in grads:
                rest = layouts.surroundings(g)
                assert rest is None or np.all(rest == 77), name


@compiled
@every_dtype
@pytest.mark.parametrize("isa", LEVELS)
def test_workspace_is_declared(isa, dtype):
    from fastdl.kernels._common import _runtime

    for shapes in ([(5,)], [(40, 40)] * 70, [(3, 4, 5, 6)] * 7):
        grads = [layouts.fortran(values("normal:1", s, dtype)) for s in shapes]
        problem = Problem("unscale", "step", tuple(shapes), dtype)
        _runtime.arena_peak(reset=True)
        idle = _runtime.arena_peak()
        unscale(grads, 2.0, "cython", isa, dtype, 2)
        declared = registry.choose(problem, "cython", isa)[0].workspace(problem, isa, 2)
        assert 0 < _runtime.arena_peak() - idle <= declared
        assert _runtime.arena_peak(reset=True) and _runtime.arena_peak() == idle  # and given back


def test_cuda_takes_two_launches_for_many_arrays(monkeypatch):
    """More would be needed for more than 96 arrays."""
    from fastdl.kernels._common.cuda.launch import Kernels

    if reason := registry.cuda_missing("cuda-emulated"):
        pytest.skip(reason)
    names, launch = [], Kernels.launch

    def noted(self, name, *args, **arguments):
        names.append(name)
        launch(self, name, *args, **arguments)

    monkeypatch.setattr(Kernels, "launch", noted)
    for count, launches in ((0, 1), (1, 2), (96, 2), (97, 3), (200, 4)):
        grads = [np.full((3, 5), 4.0, np.float32) for _ in range(count)]
        assert unscale(grads, 2.0, "cuda-emulated", "baseline", "float32") == 0
        assert all((g == 2).all() for g in grads)
        assert names == ["unscale_clear", *["unscale_step"] * (launches - 1)]
        names.clear()
    grads[150][0, 0] = np.nan
    assert unscale(grads, 2.0, "cuda-emulated", "baseline", "float32") == 1
