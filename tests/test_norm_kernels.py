"""batch_norm and local_response_norm: reference against plain loops, every compiled level against the reference.

What the rows promise about memory is in test_norm_memory.py.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import layouts
import oracle_norm as oracle
from fastdl.kernels.problem import COMPUTE
from norm_calls import (
    CHANNELS,
    EPS,
    LEVELS,
    PARAMETERS,
    ROUNDOFF,
    SMALLEST,
    STORAGE,
    batch_backward,
    batch_forward,
    batch_inference,
    random,
    response,
    response_gradient,
    wide,
)

#: Roundings between one value and its block's sum: a difference, a chain of 4, one addition, a chain of 16 from 0.
DEPTH = 20
BLOCK = 128
#: Rows whose mean a block is summed about.
FIRST = 8

SHAPES = [
    *((5, d) for d in CHANNELS),
    *((2, c, 3, 5) for c in CHANNELS),
    (1, 4),
    (257, 6),
    (130, 300),
    (1, 8, 1, 1),
    (3, 5, 1, 7),
    (3, 5, 9, 1),
    (3, 18, 13, 11),
    (2, 3, 40, 37),
]


def test_there_is_something_to_test():
    assert LEVELS or importlib.util.find_spec("fastdl.kernels._common._runtime") is None
    assert {len(s) for s in SHAPES} == {2, 4}


def rows_of(x: np.ndarray) -> np.ndarray:
    """x as float64 (rows, channels)."""
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1]).astype(np.float64)


def columns(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.asarray(v, np.float64).reshape((1, -1) + (1,) * (x.ndim - 2))


def from_rows(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of ``rows_of``."""
    return np.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1)


def stored(value: np.ndarray, storage: str) -> np.ndarray:
    """Bound of the rounding to ``storage``."""
    return ROUNDOFF[storage] * np.abs(value) + SMALLEST[storage]


def assert_within(actual: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> None:
    error = np.abs(actual.astype(np.float64) - expected)
    worst = np.max(error / np.where(bound > 0, bound, SMALLEST["float64"]), initial=0)
    assert np.all(error <= bound), f"error is {worst:.3g} times the bound"


# ---- the reference against plain loops ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 3), (1, 2), (2, 3, 2, 2), (3, 2, 1, 3)])
def test_batch_norm_reference_against_loops(shape):
    x, dout = random(shape, "float64", 1, 3), random(shape, "float64", 2)
    gamma, beta = random(shape[1], "float64", 3), random(shape[1], "float64", 4)
    out, mean, var = batch_forward("numpy", "float64", x, gamma, beta)
    expected_mean, expected_var = oracle.batch_norm_statistics(x)
    expected = oracle.batch_norm_apply(x, gamma, beta, expected_mean, expected_var, EPS)
    many = 100 * ROUNDOFF["float64"]  # a few dozen roundings of values around 10 ...
    amplified = many * 10 / np.sqrt(expected_var.min() + EPS) ** 3  # ... divided by the deviation, at most cubed
    np.testing.assert_allclose(mean, expected_mean, rtol=many)
    np.testing.assert_allclose(var, expected_var, rtol=many, atol=many)
    np.testing.assert_allclose(out, expected, rtol=many, atol=amplified)
    np.testing.assert_array_equal(batch_inference("numpy", "float64", x, gamma, beta, mean, var), out)
    gradients = batch_backward("numpy", "float64", dout, x, gamma, mean, var)
    for got, want in zip(gradients, oracle.batch_norm_gradients(dout, x, gamma, EPS), strict=True):
        np.testing.assert_allclose(got, want, rtol=many, atol=amplified)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 9, 30])
@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0])
def test_response_norm_reference_against_loops(size, beta):
    x, dout = random((2, 7, 2, 3), "float64", 1), random((2, 7, 2, 3), "float64", 2)
    attrs = {"size": size, "alpha": 0.7, "beta": beta, "k": 1.5}
    many = 100 * ROUNDOFF["float64"]
    out = response("numpy", "float64", x, **attrs)
    np.testing.assert_allclose(out, oracle.local_response_norm(x, **attrs), rtol=many)
    dx = response_gradient("numpy", "float64", dout, x, **attrs)
    np.testing.assert_allclose(dx, oracle.local_response_norm_gradient(dout, x, **attrs), rtol=many, atol=10 * many)


def central_differences(f, x: np.ndarray) -> np.ndarray:
    """df/dx of a scalar function, entry by entry."""
    gradient, h = np.zeros(x.shape), 1e-5
    for i in np.ndindex(*x.shape):
        step = np.zeros(x.shape)
        step[i] = h
        gradient[i] = (f(x + step) - f(x - step)) / (2 * h)
    return gradient


@pytest.mark.parametrize("level", ["numpy", *LEVELS])
def test_gradients_are_central_differences(level):
    x, dout = random((2, 5, 2, 3), "float64", 1, 1), random((2, 5, 2, 3), "float64", 2)
    gamma, beta = random(5, "float64", 3), random(5, "float64", 4)
    tolerance = {"rtol": 1e-7, "atol": 1e-8}  # h^2 times the third derivative, and roundoff / h

    def loss(x, gamma, beta):
        return np.sum(dout * batch_forward(level, "float64", x, gamma, beta)[0])

    _, mean, var = batch_forward(level, "float64", x, gamma, beta)
    dx, dgamma, dbeta = batch_backward(level, "float64", dout, x, gamma, mean, var)
    np.testing.assert_allclose(dx, central_differences(lambda v: loss(v, gamma, beta), x), **tolerance)
    np.testing.assert_allclose(dgamma, central_differences(lambda v: loss(x, v, beta), gamma), **tolerance)
    np.testing.assert_allclose(dbeta, central_differences(lambda v: loss(x, gamma, v), beta), **tolerance)
    for attrs in PARAMETERS:
        dx = response_gradient(level, "float64", dout, x, **attrs)
        numeric = central_differences(lambda v, a=attrs: np.sum(dout * response(level, "float64", v, **a)), x)
        np.testing.assert_allclose(dx, numeric, **tolerance)


# ---- exact on small integers --------------------------------------------------------------------------------------

EXACT_SHAPES = [
    *((33, d) for d in CHANNELS),
    (259, 5),
    (128 * 70 + 3, 2),
    (3, 17, 13, 11),
    (2, 6, 20, 21),
    (4, 300, 5, 7),
]


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("level", LEVELS)
def test_batch_statistics_of_integers_are_exact(level, storage):
    """Rows in pairs m + a, m - a: every block has the mean m, so no rounding happens before the last."""
    rng = np.random.default_rng(7)
    base, spread = {"float16": (1000, 300), "bfloat16": (64, 63)}.get(storage, (4099, 250))
    for shape in EXACT_SHAPES:
        count, channels = int(np.prod(shape)) // shape[1], shape[1]
        m = rng.integers(-base, base + 1, channels)
        a = rng.integers(1, spread + 1, (count // 2, channels))
        rows = np.concatenate([np.stack([m + a, m - a], 1).reshape(-1, channels), np.tile(m, (count % 2, 1))])
        x = from_rows(rows, shape).astype(STORAGE[storage])
        assert np.array_equal(rows_of(x), rows)
        exact_var = (2 * (a**2).sum(0) / count).astype(COMPUTE[storage])
        one = np.ones(channels, np.float32)
        for layout in ("contiguous", "channels_last"):
            _, mean, var = batch_forward(level, storage, layouts.LAYOUTS[layout](x), one, one)
            np.testing.assert_array_equal(mean, m)
            np.testing.assert_array_equal(var, exact_var)


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("level", LEVELS)
def test_batch_norm_of_integers_is_exact(level, storage):
    """Standard deviation 2 and a power of two of rows: everything but the rounding to storage is exact."""
    rng = np.random.default_rng(8)
    for shape in [*((32, d) for d in CHANNELS), (4096, 3), (256, 270), (4, 17, 8, 4), (2, 6, 32, 32), (8, 20, 4, 1)]:
        channels = shape[1]
        mean = rng.integers(-100, 101, channels)
        x = from_rows(mean + rng.integers(-3, 4, (np.prod(shape) // channels, channels)), shape)
        dout = rng.integers(-3, 4, shape)
        gamma, beta = rng.integers(1, 4, channels).astype(np.float32), rng.integers(-9, 10, channels).astype(np.float32)
        mean, var = mean.astype(COMPUTE[storage]), np.full(channels, 4, COMPUTE[storage])
        x, dout = x.astype(STORAGE[storage]), dout.astype(STORAGE[storage])
        expected = batch_inference("numpy", "float64", *wide(x, gamma, beta, mean, var), eps=0.0)
        expected_gradients = batch_backward("numpy", "float64", *wide(dout, x, gamma, mean, var), eps=0.0)
        for layout in ("contiguous", "channels_last"):
            lay = layouts.LAYOUTS[layout]
            out = batch_inference(level, storage, lay(x), gamma, beta, mean, var, eps=0.0)
            np.testing.assert_array_equal(out, expected.astype(STORAGE[storage]))
            dx, dgamma, dbeta = batch_backward(level, storage, lay(dout), lay(x), gamma, mean, var, eps=0.0)
            np.testing.assert_array_equal(dx, expected_gradients[0].astype(STORAGE[storage]))
            np.testing.assert_array_equal(dgamma, expected_gradients[1])
            np.testing.assert_array_equal(dbeta, expected_gradients[2])


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("level", LEVELS)
def test_response_norm_of_powers_is_exact(level, storage):
    """s is 1, 16 or 256 and beta 0.75: roots are powers of two."""
    rng = np.random.default_rng(9)
    for channels in (*CHANNELS, 300):
        x = (4.0 ** rng.integers(0, 3, (3, channels, 3, 5)) * rng.choice([-1, 1], (3, channels, 3, 5))).astype(
            STORAGE[storage]
        )
        twos = np.full((2, channels, 2, 3), 2, STORAGE[storage])
        for layout in ("contiguous", "channels_last"):
            lay = layouts.LAYOUTS[layout]
            out = response(level, storage, lay(x), size=1, alpha=1.0, beta=0.75, k=0.0)
            np.testing.assert_array_equal(
                out.astype(float), np.sign(x.astype(float)) / np.sqrt(np.abs(x.astype(float)))
            )
            # four twos square to 16; the first channel and the last two see fewer
            out = response(level, storage, lay(twos), size=4, alpha=4.0, beta=0.75, k=0.0)[:, 1 : channels - 2]
            np.testing.assert_array_equal(out.astype(float), 0.25)


# ---- random data within computed bounds ---------------------------------------------------------------------------


def statistics_bounds(rows: np.ndarray, compute: str) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of |mean - exact| and |var - exact|, including those of the reference's own float64 sums."""
    u, double, m = ROUNDOFF[compute], ROUNDOFF["float64"], rows.shape[0]
    mean, var = rows.mean(0), rows.var(0)
    largest, spread = np.abs(rows).max(0), np.abs(rows - mean).mean(0)
    sums = (m + 2 * -(-m // BLOCK) + 8) * double  # the reference adds row after row, the kernel block after block
    centre = (DEPTH + 1) * u * largest  # a block's mean, whose error the sum of differences takes back
    # Differences from the block's centre are at most twice those from the mean of all, on average.
    block_mean = (DEPTH + 1) * u * (2 * spread + centre) + sums * largest
    mean_bound = u * np.abs(mean) + block_mean
    about = 0.0  # what is summed are squares about the mean of a block's first rows
    for start in range(0, m, BLOCK):
        block = rows[start : start + BLOCK]
        about = about + len(block) / m * np.square(block[:FIRST].mean(0) - block.mean(0))
    squares = var + about + centre**2
    rms = (DEPTH + 1) * u * np.sqrt(squares) + sums * largest
    var_bound = (u * var + (DEPTH + 2) * u * squares) + 4 * (centre + rms) ** 2 + 2 * np.sqrt(var) * rms + rms**2
    return mean_bound + SMALLEST[compute], var_bound + sums * squares + SMALLEST[compute]


def assert_batch_norm(level, storage, x, dout, gamma, beta, lay):
    """Forward, inference and backward of one case against the reference in float64."""
    compute = COMPUTE[storage]
    u, m = ROUNDOFF[compute], x.size // x.shape[1]
    out, mean, var = batch_forward(level, storage, lay(x), gamma, beta)
    exact_out, exact_mean, exact_var = batch_forward("numpy", "float64", *wide(x, gamma, beta))
    mean_bound, var_bound = statistics_bounds(rows_of(x), compute)
    assert_within(mean, exact_mean, mean_bound)
    assert_within(var, exact_var, var_bound)
    assert np.array_equal(batch_inference(level, storage, lay(x), gamma, beta, mean, var), out)

    scale = columns(gamma / np.sqrt(exact_var + EPS), x)
    centred = x.astype(np.float64) - columns(exact_mean, x)
    # d log(scale) = -1/2 d log(var + eps), exactly: var may be wrong by a multiple of eps where rows are equal
    ratio = np.sqrt((exact_var + EPS) / np.maximum(exact_var + EPS - var_bound, EPS)) - 1
    bound = np.abs(scale) * (1 + columns(ratio, x)) * (columns(mean_bound, x) + u * np.abs(centred))
    bound = bound + np.abs(scale * centred) * (columns(ratio, x) + 4 * u)
    bound = bound + u * (np.abs(columns(beta, x)) + np.abs(exact_out)) + stored(exact_out, storage)
    assert_within(out, exact_out, bound)

    dx, dgamma, dbeta = batch_backward(level, storage, lay(dout), lay(x), gamma, mean, var)
    exact = batch_backward("numpy", "float64", *wide(dout, x, gamma, mean, var))
    std = np.sqrt(var.astype(np.float64) + EPS)
    d, centred = dout.astype(np.float64), x.astype(np.float64) - columns(mean, x)
    terms = rows_of(np.abs(d)).sum(0), rows_of(np.abs(d * centred)).sum(0)
    sums = (DEPTH + 3) * u + (m + 2 * -(-m // BLOCK) + 8) * ROUNDOFF["float64"]
    errors = sums * terms[0], sums * terms[1]
    assert_within(dbeta, exact[2], errors[0] + stored(exact[2], str(gamma.dtype)))
    assert_within(dgamma, exact[1], errors[1] / std + 3 * u * np.abs(exact[1]) + stored(exact[1], str(gamma.dtype)))
    product = np.abs(centred) * columns(terms[1] / m / std**2, x)
    bound = columns(errors[0] / m, x) + np.abs(centred) * columns(errors[1] / m / std**2, x)
    bound = bound + 6 * u * (np.abs(d) + columns(terms[0] / m, x) + product)
    assert_within(
        dx, exact[0], columns(np.abs(gamma / std), x) * bound + 2 * u * np.abs(exact[0]) + stored(exact[0], storage)
    )


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("level", LEVELS)
def test_batch_norm_of_random_data(level, storage):
    for i, shape in enumerate(SHAPES):
        gamma, beta = random(shape[1], storage, 100 + i), random(shape[1], storage, 200 + i)
        for offset in (0, 1000 if COMPUTE[storage] != storage or storage == "float32" else 1e6):
            x, dout = random(shape, storage, i, offset, 2.5), random(shape, storage, 50 + i)
            for layout in ("contiguous", "channels_last"):
                assert_batch_norm(level, storage, x, dout, *wide(gamma, beta), layouts.LAYOUTS[layout])


@pytest.mark.parametrize("level", LEVELS)
def test_the_first_rows_of_a_block_may_lie_far_off(level):
    """The worst that can happen to a sum of squares about the mean of these rows."""
    x, dout = random((400, 37), "float32", 1, 3), random((400, 37), "float32", 2)
    for start in range(0, 400, BLOCK):
        x[start : start + FIRST] += np.float32(1e4)
    for layout in ("contiguous", "fortran"):
        assert_batch_norm(level, "float32", x, dout, np.ones(37), np.ones(37), layouts.LAYOUTS[layout])
    *_, var = batch_forward(level, "float32", x, np.ones(37), np.ones(37))
    np.testing.assert_allclose(var, x.astype(np.float64).var(0), rtol=17 * DEPTH * ROUNDOFF["float32"])


@pytest.mark.parametrize("level", LEVELS)
def test_parameters_of_any_float_dtype(level):
    for storage in STORAGE:
        x, dout = random((70, 37), storage, 1, 5), random((70, 37), storage, 2)
        for dtype in STORAGE:
            gamma, beta = random((74,), dtype, 3)[::2], random((37,), dtype, 4)[::-1]
            dx, dgamma, dbeta = batch_backward(
                level, storage, dout, x, gamma, *batch_forward(level, storage, x, gamma, beta)[1:]
            )
            assert dgamma.dtype == dbeta.dtype == STORAGE[dtype]
            assert_batch_norm(level, storage, x, dout, gamma.astype(float), beta.astype(float), layouts.contiguous)
            same = batch_backward(
                level, storage, dout, x, gamma.astype(float), *batch_forward(level, storage, x, *wide(gamma, beta))[1:]
            )
            np.testing.assert_array_equal(dx, same[0])
            np.testing.assert_array_equal(dgamma, same[1].astype(STORAGE[dtype]))
            np.testing.assert_array_equal(dbeta, same[2].astype(STORAGE[dtype]))


@pytest.mark.parametrize("level", LEVELS)
def test_a_constant_channel_has_its_value_as_mean(level):
    for storage in STORAGE:
        for count in (1, 3, 100, 128 * 66 + 5):
            values = random((40,), storage, count, 0, 10)
            x = np.tile(values, (count, 1))
            one = np.ones(40, np.float32)
            out, mean, var = batch_forward(level, storage, x, one, one * 0)
            if storage == "float64":  # here float64 is not wider than the values
                assert_within(mean, values, (2 * -(-count // BLOCK) + 8) * ROUNDOFF[storage] * np.abs(values))
            else:
                np.testing.assert_array_equal(mean.astype(STORAGE[storage]), values)
                np.testing.assert_array_equal(out, 0)
            assert np.all(np.sqrt(var) <= (DEPTH + 1) * ROUNDOFF[COMPUTE[storage]] * np.abs(mean))


def response_bounds(x, dout, compute, size, alpha, beta, k):
    """Bounds of |out - exact| and |dx - exact| before the rounding to storage; x and dout float64."""
    u, taps = ROUNDOFF[compute], min(size, x.shape[1])
    before, after = (size - 1) // 2, size // 2

    def window(v, before, after):
        padded = np.pad(v, ((0, 0), (before, after), (0, 0), (0, 0)))
        return sum(padded[:, j : j + v.shape[1]] for j in range(before + after + 1))

    s = k + alpha / size * window(x * x, before, after)
    s_error = (taps + 3) * u
    power = s**-beta
    power_error = beta * s_error + (4.5 if beta == 0.75 else 1.3 + 2.9 * beta * np.abs(np.log(s))) * u
    seen = window(np.abs(dout * x) * power / s, after, before)
    forward = np.abs(x) * power * (power_error + u)
    backward = np.abs(dout) * power * (power_error + 2 * u)
    backward += 2 * alpha * beta / size * np.abs(x) * seen * (power_error + s_error + (taps + 6) * u)
    return 1.01 * forward + SMALLEST[compute], 1.01 * backward + (taps + 4) * SMALLEST[compute]


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("level", LEVELS)
def test_response_norm_of_random_data(level, storage):
    shapes = [
        *((2, c, 3, 5) for c in CHANNELS),
        (1, 1, 1, 1),
        (2, 300, 3, 3),
        (1, 1100, 2, 1),
        (3, 20, 17, 19),
        (5, 3, 21, 20),
    ]
    for i, shape in enumerate(shapes):
        x, dout = random(shape, storage, i, 0, 10.0 ** (i % 4)), random(shape, storage, 50 + i)
        for size in (1, 2, 3, 4, 5, 8, 9, 40):
            attrs = PARAMETERS[(i + size) % 2] | {"size": size}
            exact = response("numpy", "float64", *wide(x), **attrs)
            exact_dx = response_gradient("numpy", "float64", *wide(dout, x), **attrs)
            bounds = response_bounds(*wide(x, dout), COMPUTE[storage], **attrs)
            for layout in ("contiguous", "channels_last"):
                lay = layouts.LAYOUTS[layout]
                out = response(level, storage, lay(x), **attrs)
                assert_within(out, exact, bounds[0] + stored(exact, storage))
                dx = response_gradient(level, storage, lay(dout), lay(x), **attrs)
                assert_within(dx, exact_dx, bounds[1] + stored(exact_dx, storage))


# ---- empty arrays, NaN, infinities, subnormals --------------------------------------------------------------------


@pytest.mark.parametrize("level", ["numpy", *LEVELS])
def test_empty_arrays(level):
    for storage in STORAGE:
        for shape in ((0, 3), (4, 0), (0, 0), (0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0)):
            x, one = np.zeros(shape, STORAGE[storage]), np.ones(shape[1], np.float32)
            out, mean, var = batch_forward(level, storage, x, one, one)
            assert out.shape == shape
            assert np.all(np.isnan(mean)) and np.all(np.isnan(var))
            assert (
                batch_inference(level, storage, x, one, one, one.astype(mean.dtype), one.astype(mean.dtype)).shape
                == shape
            )
            _, dgamma, dbeta = batch_backward(level, storage, x, x, one, one.astype(mean.dtype), one.astype(mean.dtype))
            assert np.all(dgamma == 0) and np.all(dbeta == 0)
            if len(shape) == 4:
                response(level, storage, x, **PARAMETERS[0])
                response_gradient(level, storage, x, x, **PARAMETERS[0])


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("level", LEVELS)
def test_not_a_number_stays_in_its_channel(level, storage):
    x, dout = random((3, 9, 9, 8), storage, 1, 2), random((3, 9, 9, 8), storage, 2)
    one = np.ones(9, np.float32)
    dirty, dirty_dout = x.copy(), dout.copy()
    dirty[1, 1, 2, 3] = np.nan
    dirty[2, 2, 8, 7] = np.inf
    dirty[0, 4, 0, 0], dirty[2, 4, 5, 1] = np.inf, -np.inf
    dirty[0, 7, 0, 1] = np.inf  # among the rows that say about which value their block is summed
    dirty[0, 8, 0, 0], dirty[0, 8, 5, 1] = np.inf, -np.inf
    dirty_dout[1, 6, 1, 1] = np.nan
    for layout in ("contiguous", "channels_last"):
        lay = layouts.LAYOUTS[layout]
        clean = batch_forward(level, storage, lay(x), one, one)
        clean_gradients = batch_backward(level, storage, lay(dout), lay(x), one, *clean[1:])
        out, mean, var = batch_forward(level, storage, lay(dirty), one, one)
        want = batch_forward("numpy", storage, dirty, one, one)
        np.testing.assert_array_equal(np.isnan(mean), [0, 1, 0, 0, 1, 0, 0, 0, 1])
        assert mean[2] == mean[7] == np.inf
        np.testing.assert_array_equal(np.isnan(var), np.isnan(want[2]))
        np.testing.assert_array_equal(np.isnan(out), np.isnan(want[0]))
        gradients = batch_backward(level, storage, lay(dirty_dout), lay(dirty), one, mean, var)
        want = batch_backward("numpy", storage, dirty_dout, dirty, one, mean, var)
        for got, expected in zip(gradients, want, strict=True):
            np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
        for c in (0, 3, 5):
            assert np.array_equal(out[:, c], clean[0][:, c]) and mean[c] == clean[1][c] and var[c] == clean[2][c]
            assert np.array_equal(gradients[0][:, c], clean_gradients[0][:, c])


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("level", LEVELS)
def test_not_a_number_reaches_the_windows_that_see_it(level, storage):
    for channels in (9, 40):
        x, dout = random((2, channels, 3, 4), storage, 1), random((2, channels, 3, 4), storage, 2)
        dirty, dirty_dout = x.copy(), dout.copy()
        dirty[0, 2, 1, 1], dirty[1, 6, 2, 3], dirty_dout[0, 5, 0, 0] = np.nan, np.inf, np.nan
        for attrs in PARAMETERS:
            for layout in ("contiguous", "channels_last"):
                lay = layouts.LAYOUTS[layout]
                out = response(level, storage, lay(dirty), **attrs)
                dx = response_gradient(level, storage, lay(dirty_dout), lay(dirty), **attrs)
                for got, want, clean in (
                    (out, response("numpy", storage, dirty, **attrs), response(level, storage, lay(x), **attrs)),
                    (
                        dx,
                        response_gradient("numpy", storage, dirty_dout, dirty, **attrs),
                        response_gradient(level, storage, lay(dout), lay(x), **attrs),
                    ),
                ):
                    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
                    untouched = np.ones((2, channels, 3, 4), bool)
                    untouched[0, :, 1, 1] = untouched[1, :, 2, 3] = untouched[0, :, 0, 0] = False
                    np.testing.assert_array_equal(got[untouched], clean[untouched])


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("level", LEVELS)
def test_subnormal_numbers_are_kept(level, storage):
    x = (SMALLEST[storage] * np.arange(-60, 60).reshape(2, 20, 1, 3)).astype(STORAGE[storage])
    assert np.count_nonzero(x.astype(float)) == 119
    one = np.ones(20, COMPUTE[storage])
    for layout in ("contiguous", "channels_last"):
        lay = layouts.LAYOUTS[layout]
        np.testing.assert_array_equal(batch_inference(level, storage, lay(x), one, 0 * one, 0 * one, one, eps=0.0), x)
        for attrs in PARAMETERS:
            np.testing.assert_array_equal(response(level, storage, lay(x), **attrs | {"k": 1.0}), x)


@pytest.mark.parametrize("level", LEVELS)
def test_the_variance_of_equal_rows_divides_by_zero_as_ieee_does(level):
    """eps = 0 and a variance of 0: the scale is infinite and 0 * infinity is NaN."""
    x, one = np.ones((8, 3), np.float32), np.ones(3, np.float32)
    assert np.all(np.isnan(batch_inference(level, "float32", x, one, one, one, 0 * one, eps=0.0)))
    assert np.all(batch_inference(level, "float32", 2 * x, one, one, one, 0 * one, eps=0.0) == np.inf)
