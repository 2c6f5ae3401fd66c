"""relu, relu6, sigmoid, tanh: values, special values, layouts, calls in place, threads."""

from __future__ import annotations

import numpy as np
import pytest

import layouts
import oracle_activation
from fastdl.kernels import registry
from fastdl.kernels.problem import Problem, memory_order
from vmath_bounds import ETA, U, relative

ml_dtypes = pytest.importorskip("ml_dtypes")
# The largest values overflow in the backward formulas, as they should.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")

LEVELS = registry.available_levels()
compiled = pytest.mark.skipif(not LEVELS, reason="the compiled kernels were not built")
OPS = ("relu", "relu6", "sigmoid", "tanh")
DTYPES = {name: np.dtype(name) for name in ("float32", "float64", "float16")} | {
    "bfloat16": np.dtype(ml_dtypes.bfloat16)
}
EVERY_ROW = [(op, direction, name) for op in OPS for direction in ("forward", "backward") for name in DTYPES]
every_row = pytest.mark.parametrize("op, direction, name", EVERY_ROW)
every_level = pytest.mark.parametrize("isa", LEVELS)
assert len(EVERY_ROW) == 32


def kernel(op, direction, shape, name, backend, isa, orders=()):
    problem = Problem(op, direction, (shape,), name, orders)
    row, function = registry.choose(problem, backend, isa)
    assert (row.op, row.direction, row.backend) == (op, direction, backend)
    assert row.isa == (isa if backend == "cython" else "any")
    return problem, function


def call(op, direction, arrays, backend, isa, layout=layouts.contiguous, out_layout=None, threads=1):
    """The op on copies of ``arrays`` (x, or dout and y) in ``layout``."""
    arrays = [layout(a) for a in arrays]
    before = [a.copy() for a in arrays]
    out = (out_layout or layout)(np.full(arrays[0].shape, 77, arrays[0].dtype))
    orders = tuple(memory_order(a) for a in arrays)
    problem, function = kernel(op, direction, out.shape, out.dtype.name, backend, isa, orders)
    for a in arrays:
        a.flags.writeable = False
    function(problem, *arrays, out, threads)
    rest = layouts.surroundings(out)
    assert rest is None or np.all(rest == 77)
    assert all(np.array_equal(bits(a), bits(b)) for a, b in zip(arrays, before, strict=True))
    return out


def bits(a):
    return np.ascontiguousarray(a).view(f"u{a.dtype.itemsize}")


def wide(a):
    return a.astype(np.float64)


def inputs(op, direction, shape, dtype, rng, scale=3.0):
    """x; or dout and an output that the forward pass can give."""
    x = rng.standard_normal(shape) * scale
    if direction == "forward":
        return [np.asarray(x).astype(dtype)]
    outputs = {"relu": np.maximum(x, 0), "relu6": np.clip(2 * x, 0, 6)}
    y = outputs.get(op, 1 / (1 + np.exp(-x)) if op == "sigmoid" else np.tanh(x))
    return [np.asarray(rng.standard_normal(shape)).astype(dtype), np.asarray(y).astype(dtype)]


def tolerance(op, direction, arrays, want):
    """What the compute dtype and the rounding to storage may lose; 0 for relu."""
    name = arrays[0].dtype.name
    compute = "float64" if name == "float64" else "float32"
    u, eta = U[compute], ETA[compute]
    if op in ("relu", "relu6"):
        return np.zeros_like(want)
    if direction == "forward":
        error = relative(op, compute) * np.abs(want) + eta
    else:
        dout, y = (wide(a) for a in arrays)
        if op == "sigmoid":
            error = 3 * u * np.abs(want) + 3 * eta
        else:
            error = u * np.abs(dout) * (y * y + np.abs(1 - y * y)) + u * np.abs(want) + 3 * eta
    error = error * (1 + 8 * u) + 4 * U["float64"] * np.abs(want)  # squares of u; the expectation itself
    return error if name == compute else error + U[name] * (np.abs(want) + error) + ETA[name] / 2


def assert_close(op, direction, got, arrays):
    with np.errstate(all="ignore"):
        want = call(op, direction, [wide(a) for a in arrays], "numpy", "v4")
        overflow = np.abs(want) > np.finfo(np.float32).max * (1 - U["float16"])
    assert got.dtype == arrays[0].dtype
    nan = np.isnan(want)
    assert np.array_equal(np.isnan(got), nan)
    infinite = np.isinf(want)
    assert np.array_equal(wide(got)[infinite], want[infinite])
    near = ~nan & ~overflow
    error = np.abs(wide(got) - want)[near]
    assert np.all(error <= tolerance(op, direction, arrays, want)[near])
    assert np.all((np.sign(wide(got)) == np.sign(want))[~nan & (np.abs(want) > ETA[got.dtype.name])])


# ---- the reference --------------------------------------------------------------------------------------------------

VALUES = [0.0, -0.0, 1.0, -1.0, 0.3, -0.7, 1e-8, -1e-8, 1e-30, 5.5, -17.25, 40.0, -700.0, 709.0, -744.0, 800.0, -800.0,
          1e300, -1e300, 5e-324, -5e-324, np.inf, -np.inf, np.nan]  # fmt: skip


@pytest.mark.parametrize("op", OPS)
def test_reference_forward(op):
    x = np.array(VALUES)
    got = call(op, "forward", [x], "numpy", "v4")
    want = np.array([getattr(oracle_activation, op)(v) for v in VALUES])
    assert np.allclose(got, want, rtol=4 * U["float64"], atol=0, equal_nan=True)
    assert np.array_equal(np.signbit(got[:-1]), np.signbit(want[:-1]))


@pytest.mark.parametrize("op", OPS)
def test_reference_backward(op):
    ys = [0.0, -0.0, 0.25, 0.5, 1.0, 1 / 3, 1e-20, np.nan]
    douts = [0.0, -0.0, 1.0, -2.5, 1e-30, 1e30, np.inf, -np.inf, np.nan]
    dout, y = (a.ravel() for a in np.meshgrid(douts, ys))
    got = call(op, "backward", [dout, y], "numpy", "v4")
    gradient = getattr(oracle_activation, f"{op}_gradient")
    want = np.array([gradient(float(d), float(v)) for d, v in zip(dout, y, strict=True)])
    assert np.allclose(got, want, rtol=4 * U["float64"], atol=0, equal_nan=True)


@pytest.mark.parametrize("op", OPS)
def test_reference_backward_is_the_derivative(op):
    """Central differences in float64; relu away from its kink."""
    x = np.random.default_rng(0).uniform(0.1, 3, 50) * np.tile([1, -1], 25)
    h = 1e-5
    y, up, down = (call(op, "forward", [v], "numpy", "v4") for v in (x, x + h, x - h))
    slope = call(op, "backward", [np.ones(50), y], "numpy", "v4")
    # h**2 / 6 times the third derivative, which is at most 2, and cancellation.
    assert np.all(np.abs(slope - (up - down) / (2 * h)) <= h * h + 4 * U["float64"] * 3 / h)


# ---- compiled rows --------------------------------------------------------------------------------------------------

SHAPES = [(), (0,), (3, 0, 2), (1,), (2,), (7,), (16,), (17,), (33,), (513,), (1, 1, 1, 1), (2, 3, 4, 5),
          (0, 3, 4, 4), (1, 33, 2, 3), (3, 65, 2, 1), (2, 31, 3, 5), (5, 1, 7, 9), (2, 8, 3, 3), (2, 3, 4, 5, 6),
          (600, 3)]  # fmt: skip


@compiled
@every_level
@every_row
def test_layouts(op, direction, name, isa):
    rng = np.random.default_rng(3)
    for shape in SHAPES:
        arrays = inputs(op, direction, shape, DTYPES[name], rng)
        first = None
        for layout in layouts.LAYOUTS.values():
            got = call(op, direction, arrays, "cython", isa, layout)
            assert_close(op, direction, got, arrays)
            first = got if first is None else first
            # The last bit may differ between the vector loop and what is left over of it.
            assert op not in ("relu", "relu6") or np.array_equal(bits(got), bits(first))
        mixed = call(op, direction, arrays, "cython", isa, layouts.backwards, layouts.channels_last)
        assert_close(op, direction, mixed, arrays)


@compiled
@every_level
@every_row
def test_channel_counts_and_slices_of_channels(op, direction, name, isa):
    """Runs around every vector width, whole and as the first channels of a wider array (what a split gives)."""
    rng = np.random.default_rng(4)
    for channels in (1, 3, 7, 8, 15, 16, 17, 31, 33, 65, 250, 257, 300):
        arrays = inputs(op, direction, (2, channels, 3, 5), DTYPES[name], rng)
        problem, function = kernel(op, direction, arrays[0].shape, name, "cython", isa)
        memory = [np.full((2, 3, 5, channels + 3), 77, a.dtype) for a in arrays]
        parts = [m.transpose(0, 3, 1, 2)[:, :channels] for m in memory]
        for part, a in zip(parts, arrays, strict=True):
            part[...] = a
        out = layouts.channels_last(np.zeros_like(arrays[0]))
        function(problem, *parts, out, 1)
        assert_close(op, direction, out, arrays)
        function(problem, *parts, parts[0], 1)
        assert np.array_equal(bits(parts[0]), bits(out)) and np.all(memory[0][..., channels:] == 77)


@compiled
@every_level
@every_row
def test_in_place(op, direction, name, isa):
    rng = np.random.default_rng(5)
    for shape in [(1,), (3, 17, 5, 2), (2, 40, 16, 16), (1500,)]:
        arrays = inputs(op, direction, shape, DTYPES[name], rng)
        for layout in layouts.LAYOUTS.values():
            want = call(op, direction, arrays, "cython", isa, layout)
            for target in range(len(arrays)):
                own = [layout(a) for a in arrays]
                problem, function = kernel(op, direction, shape, name, "cython", isa)
                function(problem, *own, own[target], 2)
                assert np.array_equal(bits(own[target]), bits(want))
                rest = layouts.surroundings(own[target])
                assert rest is None or np.all(rest == 77)


@compiled
@every_level
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", DTYPES)
def test_broadcast_gradient(op, name, isa):
    """A dout of strides 0, as the gradient of a mean is."""
    rng = np.random.default_rng(6)
    shape = (2, 19, 5, 3)
    y = layouts.channels_last(inputs(op, "backward", shape, DTYPES[name], rng)[1])
    dout = np.broadcast_to(np.asarray(0.37, DTYPES[name]), shape)
    problem, function = kernel(op, "backward", shape, name, "cython", isa)
    out = np.empty_like(y)
    function(problem, dout, y, out, 1)
    assert_close(op, "backward", out, [dout, y])


@compiled
@every_level
@pytest.mark.parametrize("name", DTYPES)
def test_relu_is_exact_for_every_kind_of_number(name, isa):
    """Random bit patterns: all magnitudes, subnormals, infinities, zeros, NaN."""
    rng = np.random.default_rng(7)
    dtype = DTYPES[name]
    x, dout = (rng.integers(0, 256, 40_000 * dtype.itemsize, dtype=np.uint8).view(dtype) for _ in range(2))
    x[:9] = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1, -1, 2], dtype)
    x = np.where(np.arange(len(x)) % 100 == 50, (x.astype(np.float64) * 0).astype(dtype), x)
    subnormal = (np.abs(wide(x)) < np.finfo(np.float32).tiny) & (x != 0)
    assert name == "float16" or subnormal.any()
    y = call("relu", "forward", [x], "cython", isa)
    keep = ~(wide(x) <= 0)
    nan = np.isnan(x)
    assert nan.any() and np.array_equal(np.isnan(y), nan)
    assert np.array_equal(bits(y)[~nan], np.where(keep, bits(x), 0)[~nan])
    dx = call("relu", "backward", [dout, y], "cython", isa)
    quiet = ~(np.isnan(dout) & keep)
    assert np.array_equal(bits(dx)[quiet], np.where(keep, bits(dout), 0)[quiet]) and np.isnan(dx[~quiet]).all()
    # The mask of the output is the mask of the input.
    assert np.array_equal(bits(dx), bits(call("relu", "backward", [dout, x], "cython", isa)))


@compiled
@every_level
@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("op", ["sigmoid", "tanh"])
def test_values_of_every_size(op, name, isa):
    """All exponents, NaN, infinities, subnormal arguments, and results between the smallest normal number and 0."""
    rng = np.random.default_rng(8)
    dtype = DTYPES[name]
    patterns = rng.integers(0, 256, 60_000 * dtype.itemsize, dtype=np.uint8).view(dtype)
    edge = np.concatenate([np.linspace(-90, -86, 999), np.linspace(-105, -102, 999), np.linspace(-20, 20, 999)])
    x = np.concatenate([patterns, np.array([0.0, -0.0, np.inf, -np.inf, np.nan], dtype), edge.astype(dtype)])
    got = call(op, "forward", [x], "cython", isa)
    assert_close(op, "forward", got, [x])
    if op == "tanh":
        assert np.array_equal(np.signbit(got), np.signbit(x))
    elif name == "float32":
        assert ((got > 0) & (got < np.finfo(np.float32).tiny)).any()
    dout = rng.permutation(x)
    assert_close(op, "backward", call(op, "backward", [dout, got], "cython", isa), [dout, got])


@compiled
@every_level
@every_row
def test_bits_do_not_depend_on_threads(op, direction, name, isa):
    arrays = inputs(op, direction, (4, 61, 40, 21), DTYPES[name], np.random.default_rng(9))
    for layout in (layouts.contiguous, layouts.channels_last, layouts.window):
        want = bits(call(op, direction, arrays, "cython", isa, layout))
        for threads in (2, 3, 2, 1):
            assert np.array_equal(bits(call(op, direction, arrays, "cython", isa, layout, threads=threads)), want)


@compiled
@every_level
@every_row
def test_no_workspace_is_used(op, direction, name, isa):
    from fastdl.kernels._common import _runtime

    arrays = inputs(op, direction, (9, 20, 30, 10), DTYPES[name], np.random.default_rng(10))
    _runtime.arena_peak(reset=True)
    idle = _runtime.arena_peak()
    call(op, direction, arrays, "cython", isa, layouts.window, threads=2)
    assert _runtime.arena_peak() == idle
