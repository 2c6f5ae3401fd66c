"""dropout: published vectors of the generator, the mask on every level, the product with the mask."""

from __future__ import annotations

import math

import numpy as np
import pytest

import layouts
import oracle_dropout
from fastdl.kernels import registry
from fastdl.kernels.dropout import reference
from fastdl.kernels.problem import Problem

ml_dtypes = pytest.importorskip("ml_dtypes")
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")

LEVELS = registry.available_levels()
compiled = pytest.mark.skipif(not LEVELS, reason="the compiled kernels were not built")
DTYPES = {name: np.dtype(name) for name in ("float32", "float64", "float16")} | {
    "bfloat16": np.dtype(ml_dtypes.bfloat16)
}

#: Random123's kat_vectors for philox4x32 with 10 rounds: counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def mask(shape, ratio, seed, step, backend, isa, threads=1, first=None):
    """The mask, in memory that holds other values before and whose surroundings are checked."""
    problem = Problem("dropout", "mask", (shape,), "float32", attrs=(("ratio", ratio),))
    row, function = registry.choose(problem, backend, isa)
    assert (row.backend, row.isa) == (backend, isa if backend == "cython" else "any")
    state = np.array([seed, step], np.uint64)
    state.flags.writeable = False
    base = np.full(math.prod(shape) + 200, 77, np.uint8)
    out = base[100:-100].reshape(shape)
    if first is None:
        function(problem, state, out, threads)
    else:
        module = __import__(function.__module__, fromlist=["mask_from_block"])
        assert module.__name__.endswith(f"_cython_{isa}")
        module.mask_from_block(problem, first, state, out, threads)
    assert np.all(base[:100] == 77) and np.all(base[-100:] == 77)
    return out


def pair(low, high):
    return low + (high << 32)


def test_known_vectors_of_oracle_and_reference():
    for counter, key, want in KNOWN:
        assert oracle_dropout.rounds(counter, key) == want
        got = reference.philox4x32(tuple(np.array([c], np.uint64) for c in counter), key)
        assert tuple(w.item() for w in got) == want


@compiled
@pytest.mark.parametrize("isa", LEVELS)
def test_known_vectors_of_the_compiled_mask(isa):
    """The word itself is the largest threshold that keeps its element: that pins all 32 bits of it."""
    for counter, key, want in KNOWN:
        seed, step, first = pair(*key), pair(*counter[2:]), pair(*counter[:2])
        for place, word in enumerate(want):
            kept = mask((4,), word / 2**32, seed, step, "cython", isa, first=first)
            dropped = mask((4,), (word + 1) / 2**32, seed, step, "cython", isa, first=first)
            assert (kept[place], dropped[place]) == (1, 0)


SEEDS = [(0, 0), (1, 2), (2**64 - 1, 2**64 - 1), (0x0123456789ABCDEF, 0xFEDCBA9876543210), (2**32, 2**32), (5, 2**31)]


@pytest.mark.parametrize("ratio", [0.0, 0.15, 0.5, 0.999, math.nextafter(1, 0)])
def test_reference_equals_the_oracle_element_by_element(ratio):
    for seed, step in SEEDS:
        got = mask((3, 2, 5), ratio, seed, step, "numpy", "v4").reshape(-1)
        assert got.tolist() == [oracle_dropout.keep(seed, step, i, ratio) for i in range(30)]


SIZES = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 16383, 16384, 16385, 16388, 16421, 50001]


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.9, math.nextafter(1, 0)])
def test_mask_is_that_of_the_reference(isa, ratio):
    for seed, step in SEEDS:
        for size in SIZES:
            want = mask((size,), ratio, seed, step, "numpy", isa)
            assert np.array_equal(mask((size,), ratio, seed, step, "cython", isa), want)
    for shape in [(2, 0, 3), (3, 5, 7, 9), (1, 1), ()]:
        assert np.array_equal(
            mask(shape, ratio, 9, 4, "cython", isa),
            mask((math.prod(shape),), ratio, 9, 4, "numpy", isa).reshape(shape),
        )


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("first", [2**32 - 2, 2**32 - 1, 2**32, 2**33 + 5, 2**62 - 3])
def test_blocks_beyond_32_bits(isa, first):
    """Element 2**34 is in block 2**32: the carry into the second counter word, also in the middle of a vector."""
    got = mask((100,), 0.4, 11, 12, "cython", isa, first=first)
    words = reference.random_words(11, 12, first, 25)
    assert np.array_equal(got, words >= round(0.4 * 2**32))
    assert got[:9].tolist() == [oracle_dropout.keep(11, 12, 4 * first + i, 0.4) for i in range(9)]


@compiled
@pytest.mark.parametrize("isa", LEVELS)
def test_mask_does_not_depend_on_threads(isa):
    want = mask((3, 100_003), 0.25, 3, 1, "cython", isa)
    for threads in (2, 3, 2, 1):
        assert np.array_equal(mask((3, 100_003), 0.25, 3, 1, "cython", isa, threads), want)


@compiled
@pytest.mark.parametrize("isa", LEVELS)
def test_mask_ends_at_a_guard_page(isa):
    for size in (1, 5, 30, 31, 33, 4095):
        out = layouts.at_guard_page(np.zeros(size, np.uint8))
        problem = Problem("dropout", "mask", ((size,),), "float32", attrs=(("ratio", 0.5),))
        registry.choose(problem, "cython", isa)[1](problem, np.array([1, 2], np.uint64), out, 1)
        assert np.array_equal(out, mask((size,), 0.5, 1, 2, "numpy", isa))


def test_share_and_independence():
    """The share kept is 1 - ratio, step to step and seed to seed, within six standard deviations of a fair draw."""
    n = 200_000
    backend, isa = ("cython", LEVELS[-1]) if LEVELS else ("numpy", "v4")
    for ratio in (0.1, 0.5, 0.8):
        spread = 6 * math.sqrt(n * ratio * (1 - ratio))
        masks = [mask((n,), ratio, seed, step, backend, isa) for seed, step in [(0, 0), (0, 1), (1, 0), (1, 1)]]
        for m in masks:
            assert abs(m.sum(dtype=int) - n * (1 - ratio)) < spread
        both = (1 - ratio) ** 2
        for i, a in enumerate(masks):
            for b in [*masks[:i], a[1:]]:
                together = int((a[: b.size] & b).sum(dtype=int))
                assert abs(together - b.size * both) < 6 * math.sqrt(n * both * (1 - both))
    assert mask((n,), 0.0, 0, 0, backend, isa).all()


def forward(x, m, scale, backend, isa, out, threads=1):
    problem = Problem("dropout", "forward", (x.shape,), str(x.dtype), attrs=(("scale", scale),))
    row, function = registry.choose(problem, backend, isa)
    assert (row.backend, row.isa) == (backend, isa if backend == "cython" else "any")
    function(problem, x, m, out, threads)
    return out


def bits(a):
    a = np.ascontiguousarray(a)
    return np.where(np.isnan(a), 0xFFFF, a.view(f"u{a.dtype.itemsize}"))


def data(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(shape) * 10.0 ** rng.integers(-8, 5, shape)).astype(DTYPES[dtype]).reshape(shape)
    if x.size > 20:
        tiny = ml_dtypes.finfo(x.dtype).smallest_subnormal
        x.flat[:12] = [0.0, -0.0, np.nan, np.inf, -np.inf, tiny, -tiny, -1.0, np.nan, -np.inf, 3 * tiny, -0.0]
    return x, rng.integers(0, 2, shape).astype(np.uint8).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES)
def test_reference_forward_equals_a_loop(dtype):
    x, m = data((3, 4, 5), dtype)
    for scale in (1.0, 2.0, 1 / 0.7):
        got = forward(x, m, scale, "numpy", "v4", np.empty_like(x))
        exact = [float(a) * (int(b) * scale) for a, b in zip(x.ravel(), m.ravel(), strict=True)]
        for g, w in zip(got.ravel(), exact, strict=True):
            # The scale and the product are rounded in the compute dtype, then to the storage dtype.
            if math.isnan(w):
                assert math.isnan(g)
            elif math.isinf(float(g)) or math.isinf(w):
                assert float(g) == w or abs(w) > float(ml_dtypes.finfo(x.dtype).max)
            else:
                eps = float(ml_dtypes.finfo(x.dtype).eps)
                assert abs(float(g) - w) <= 1.5 * eps * abs(w) + float(ml_dtypes.finfo(x.dtype).smallest_subnormal) / 2
                assert math.copysign(1, g) == math.copysign(1, w)
        if dtype != "bfloat16":
            assert scale != 1.0 or np.array_equal(bits(got), bits(x * m.astype(bool)))  # the book's product


SHAPES = [(), (0,), (2, 0, 3), (1,), (3,), (15,), (16,), (17,), (65,), (511,), (513,), (2, 3, 4, 5), (1, 33, 2, 3),
          (4, 17, 5, 1), (40, 600)]  # fmt: skip


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 1 / 0.7])
def test_forward_has_the_bits_of_the_reference(isa, dtype, scale):
    """Two products, neither of which can be fused with a sum: nothing may differ, in any layout."""
    for shape in SHAPES:
        x, m = data(shape, dtype)
        want = bits(forward(x, m, scale, "numpy", isa, np.empty_like(x)))
        for ours in layouts.LAYOUTS.values():
            for theirs in (ours, layouts.contiguous, layouts.backwards):
                for kind in (np.uint8, np.bool_):
                    a, b, out = ours(x), theirs(m.astype(kind)), ours(np.full_like(x, 77))
                    a.flags.writeable = b.flags.writeable = False
                    assert np.array_equal(bits(forward(a, b, scale, "cython", isa, out)), want)
                    rest = layouts.surroundings(out)
                    assert rest is None or np.all(rest == 77)
            in_place = ours(x)
            assert np.array_equal(bits(forward(in_place, m, scale, "cython", isa, in_place)), want)


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_is_exact_on_integers(isa, dtype):
    """With 11 significant bits and more in float32, where a half in between would show."""
    most = {"float16": 2**10, "bfloat16": 2**7}.get(dtype, 2**23)
    rng = np.random.default_rng(1)
    x = rng.integers(-most, most + 1, (7, 333)).astype(DTYPES[dtype])
    m = rng.integers(0, 2, x.shape).astype(np.uint8)
    got = forward(x, m, 2.0, "cython", isa, np.empty_like(x))
    assert np.array_equal(got.astype(float), x.astype(float) * m * 2)


@compiled
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_does_not_depend_on_threads_and_uses_no_workspace(isa, dtype):
    from fastdl.kernels._common import _runtime

    x, m = data((4, 50, 1003), dtype)
    x = layouts.channels_last(x)
    _runtime.arena_peak(reset=True)
    idle = _runtime.arena_peak()
    want = bits(forward(x, m, 1.25, "cython", isa, np.empty_like(x)))
    for threads in (2, 3, 2):
        assert np.array_equal(bits(forward(x, m, 1.25, "cython", isa, np.empty_like(x), threads)), want)
    assert _runtime.arena_peak() == idle
