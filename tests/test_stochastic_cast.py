"""Rounding by chance: to a neighbour, so often that the mean is the value, the same everywhere."""

from __future__ import annotations

import bisect
import math
from fractions import Fraction

import numpy as np
import pytest

import layouts
import oracle_cast
from fastdl import functional as F
from fastdl import use_backend
from fastdl.backend import available_backends, isa, threads
from fastdl.kernels import registry
from fastdl.kernels.dropout.reference import philox4x32

ml_dtypes = pytest.importorskip("ml_dtypes")

DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
TABLES = {name: oracle_cast.finite(name) for name in DTYPES}
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_backend = pytest.mark.parametrize("backend", available_backends())


def bits(a):
    return np.ascontiguousarray(a).view(f"u{a.dtype.itemsize}")


def word(i, seed, step):
    counter = tuple(np.array([c], np.uint64) for c in (i // 4 % 2**32, i // 4 >> 32, step % 2**32, step >> 32))
    return int(philox4x32(counter, (seed % 2**32, seed >> 32))[i % 4][0])


def oracle(x, dtype, seed, step):
    """Bit patterns, one value after another, in fractions."""
    table, found = TABLES[dtype], []
    for i, value in enumerate(x.ravel().tolist()):
        sign = 2**15 if math.copysign(1, value) < 0 else 0
        if not abs(value) < table[-1]:
            found.append(oracle_cast.encode(value, dtype, table))
            continue
        below = bisect.bisect_right(table, abs(value)) - 1
        low, high = Fraction(table[below]), Fraction(table[below + 1])
        share = (Fraction(abs(value)) - low) / (high - low)
        found.append(sign + below + (word(i, seed, step) < math.floor(share * 2**32)))
    return found


def numbers(dtype, rng):
    """Values of every magnitude that matters, and those where a format changes."""
    lowest, highest = {"float16": (-60, 17), "bfloat16": (-149, 127)}[dtype]
    random = rng.uniform(1, 2, 300) * np.exp2(rng.integers(lowest, highest, 300)) * rng.choice([-1, 1], 300)
    table = TABLES[dtype]
    edges = [0.0, table[1], table[1] / 2, table[-1], table[-2], np.inf, table[1023], table[1024], table[1024] * 0.999]
    with np.errstate(over="ignore"):
        beyond = [(table[-1] + (table[-1] - table[-2]) * part) for part in (0.25, 0.4999, 0.5, 0.7)]
        edges = np.array([*edges, *beyond], np.float32)
        near = [np.nextafter(edges, np.float32(side)) for side in (np.inf, 0)]
        return np.concatenate([random.astype(np.float32), edges, -edges, *near])


@every_dtype
@every_backend
def test_every_value_is_that_of_the_oracle(backend, dtype, rng):
    x = numbers(dtype, rng)
    with use_backend(backend):
        for seed, step in ((0, 0), (2**64 - 1, 2**33 + 5), (81985529216486895, 1)):
            got = F.stochastic_cast(x, dtype, seed, step)
            assert got.dtype == DTYPES[dtype]
            assert bits(got).tolist() == oracle(x, dtype, seed, step)
        nan = F.stochastic_cast(np.array([np.nan, -np.nan], np.float32), dtype, 0, 0)
    assert np.isnan(nan).all() and np.signbit(nan.astype(np.float32)).tolist() == [False, True]


@every_dtype
def test_the_mean_is_the_value_and_each_result_a_neighbour(dtype):
    """Of n draws with share p the mean has the standard deviation sqrt(p (1 - p) / n) of the neighbours' distance; all
    of these hundred means lie within 6 of it but once in 10**7 tests."""
    table, steps = TABLES[dtype], 200
    values = np.random.default_rng(1).uniform(-1.2, 1.2, 96) * np.exp2(np.arange(96) % 32 - 24)
    x = np.repeat(np.array([*values, 1 + 2.0**-23, 2.0**-28, -(2.0**-26), 3.0], np.float32)[:, None], 40, 1)
    total = np.zeros(x.shape)
    for step in range(steps):
        got = F.stochastic_cast(x, dtype, 3, step).astype(np.float64)
        total += got
        size = np.abs(x.astype(np.float64))
        at = np.searchsorted(table, size, "right") - 1
        low, high = np.array(table)[at], np.array(table)[at + 1]
        assert ((np.abs(got) == low) | (np.abs(got) == high)).all()
    share = (size - low) / (high - low)
    mean, count = total.sum(1) / (steps * x.shape[1]), steps * x.shape[1]
    deviation = np.sqrt(share * (1 - share) / count)[:, 0] * (high - low)[:, 0]
    assert (np.abs(mean - x[:, 0]) <= 6 * deviation + 1e-12 * np.abs(x[:, 0])).all()
    assert (deviation > 0).sum() > 50 and (share == 0).any(), "both kinds of values were drawn"


@every_dtype
def test_bits_are_the_same_at_every_level_in_every_layout_with_any_threads(dtype):
    x = np.random.default_rng(2).standard_normal((3, 37, 41, 19)).astype(np.float32)
    with use_backend("numpy"):
        expected = bits(F.stochastic_cast(x, dtype, 7, 9))
    assert (bits(F.cast(x, dtype)) != expected).any()
    ran = 0
    for backend in available_backends():
        for level in registry.available_levels() if backend == "cython" else registry.LEVELS[-1:]:
            for layout in layouts.LAYOUTS.values():
                for count in (1, 2, 3):
                    with use_backend(backend), isa(level), threads(count):
                        out = layout(np.zeros(x.shape, DTYPES[dtype]))
                        assert F.stochastic_cast(layout(x), dtype, 7, 9, out=out) is out
                    assert np.array_equal(bits(out), expected), (backend, level, layout, count)
                    ran += 1
    assert ran


def test_many_small_steps_survive(rng):
    """1 + 1000 steps of 2**-13 is 1.125 in the mean; to nearest, float16 stays at 1 for ever."""
    by_chance, nearest = (np.ones(4096, np.float16) for _ in range(2))
    for step in range(1024):
        by_chance = F.stochastic_cast(by_chance.astype(np.float32) + np.float32(2.0**-13), "float16", 5, step)
        nearest = F.cast(nearest.astype(np.float32) + np.float32(2.0**-13), "float16")
    assert (nearest == 1).all()
    # share 1/8 of the distance 2**-10, each step: variance 7/64 of its square
    deviation = math.sqrt(1024 * 7 / 64 / 4096) * 2.0**-10
    assert abs(by_chance.astype(np.float64).mean() - 1.125) < 6 * deviation
