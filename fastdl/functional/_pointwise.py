"""Activations, dropout, add, concat, cast."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import index
from typing import Any

from .._array import float_dtype, prepare, result_dtype
from .._device import device_of, to_device
from ._call import (
    Array,
    ArrayLike,
    Plan,
    Problem,
    Shape,
    as_array,
    axis_index,
    backend,
    choice_for,
    expect_beside,
    expect_shape,
    is_device,
    layout,
    memory_order,
    np,
    one,
    output,
    plan,
    plans,
    remember,
    two,
)

_ndarray = np.ndarray

# ---- activations ----------------------------------------------------------------------------------------------------


def _forward(op: str, x: Any, out: Array | None) -> Array:
    x = one(x, op)
    choice = choice_for(x)
    key = (op, x.shape, x.strides, x.dtype, choice)
    found: Plan | None = plans.get(key)
    if found is None:
        problem = Problem(op, "forward", (x.shape,), x.dtype.name, (memory_order(x),))
        found = remember(key, plan(problem, layout(x.shape, x.dtype, like=x), choice))
    problem, kernel, wanted = found
    out = wanted.empty() if out is None else output(out, wanted, op, (), over=(x,))
    kernel(problem, x, out, backend.get_num_threads())
    return out


def _backward(name: str, dout: Any, y: Any, out: Array | None) -> Array:
    op = f"{name}_backward"
    y = one(y, op, "y")
    dout = one(dout, op, "dout", y.dtype, y, "y")
    choice = choice_for(y)
    key = (op, dout.shape, dout.strides, y.shape, y.strides, y.dtype, choice)
    found: Plan | None = plans.get(key)
    if found is None:
        expect_shape(dout.shape, y.shape, op, "dout")
        problem = Problem(name, "backward", (y.shape,), y.dtype.name, (memory_order(dout), memory_order(y)))
        found = remember(key, plan(problem, layout(y.shape, y.dtype, like=y), choice))
    problem, kernel, wanted = found
    out = wanted.empty() if out is None else output(out, wanted, op, (), over=(dout, y))
    kernel(problem, dout, y, out, backend.get_num_threads())
    return out


def relu(x: ArrayLike, *, out: Array | None = None) -> Array:
    """0 where x <= 0, else x, so that NaN passes. Returns x's shape, dtype and memory order; ``out`` may be x."""
    return _forward("relu", x, out)


def relu_backward(dout: ArrayLike, y: ArrayLike, *, out: Array | None = None) -> Array:
    """The gradient of ``sum(relu(x) * dout)`` by x from ``y = relu(x)``: dout where x was > 0 or NaN, else 0.

    Returns y's shape, dtype and memory order; ``out`` may be dout or y.
    """
    return _backward("relu", dout, y, out)


def relu6(x: ArrayLike, *, out: Array | None = None) -> Array:
    """0 where x <= 0, 6 where x >= 6, else x, so that NaN passes. Returns x's shape, dtype and memory order; ``out``
    may be x."""
    return _forward("relu6", x, out)


def relu6_backward(dout: ArrayLike, y: ArrayLike, *, out: Array | None = None) -> Array:
    """The gradient of ``sum(relu6(x) * dout)`` by x from ``y = relu6(x)``: dout where x was between 0 and 6 or NaN,
    else 0 (at 0 and at 6 too).

    Returns y's shape, dtype and memory order; ``out`` may be dout or y.
    """
    return _backward("relu6", dout, y, out)


def sigmoid(x: ArrayLike, *, out: Array | None = None) -> Array:
    """``1 / (1 + exp(-x))`` without overflow. Returns x's shape, dtype and memory order; ``out`` may be x."""
    return _forward("sigmoid", x, out)


def sigmoid_backward(dout: ArrayLike, y: ArrayLike, *, out: Array | None = None) -> Array:
    """``dout * y * (1 - y)``, the gradient of ``sum(sigmoid(x) * dout)`` by x from ``y = sigmoid(x)``.

    Returns y's shape, dtype and memory order; ``out`` may be dout or y.
    """
    return _backward("sigmoid", dout, y, out)


def tanh(x: ArrayLike, *, out: Array | None = None) -> Array:
    """The hyperbolic tangent. Returns x's shape, dtype and memory order; ``out`` may be x."""
    return _forward("tanh", x, out)


def tanh_backward(dout: ArrayLike, y: ArrayLike, *, out: Array | None = None) -> Array:
    """``dout * (1 - y * y)``, the gradient of ``sum(tanh(x) * dout)`` by x from ``y = tanh(x)``.

    Returns y's shape, dtype and memory order; ``out`` may be dout or y.
    """
    return _backward("tanh", dout, y, out)


# ---- dropout --------------------------------------------------------------------------------------------------------


def _uint64(value: Any, what: str) -> int:
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"{what} must be an int, not {value!r}") from None
    if not 0 <= number < 2**64:
        raise ValueError(f"{what} must be at least 0 and below 2**64, not {number}")
    return number


def _state(op: str, seed: int, step: int, device: str) -> Array:
    """Seed and step as kernels take them."""
    state = np.array([_uint64(seed, f"{op}: seed"), _uint64(step, f"{op}: step")], np.uint64)
    return to_device(state, device)


def dropout_mask(shape: Sequence[int], ratio: float, seed: int, step: int, *, device: str = "cpu") -> Array:
    """A uint8 mask that keeps (1) each element with probability ``1 - ratio`` and drops (0) the others.

    It is a function of its arguments: element i in row-major order is drawn by Philox4x32-10 from (seed, step, i)
    (Salmon et al., SC 2011), the same on every backend and machine. Whoever uses it counts ``step`` up, and gives each
    layer its own ``seed``. ``0 <= ratio < 1``; seed and step are below 2**64. ``device`` is where the mask is to be.
    """
    op = "dropout_mask"
    ratio = float(ratio)
    if not 0 <= ratio < 1:
        raise ValueError(f"{op}: ratio must be at least 0 and below 1, not {ratio}")
    return mask_of_state(tuple(index(n) for n in shape), ratio, _state(op, seed, step, device))


def mask_of_state(shape: Shape, ratio: float, state: Array) -> Array:
    """The mask of :func:`dropout_mask` for the array ``state`` of seed and step, where that is."""
    out = layout(shape, np.dtype(np.uint8), on=state).empty()
    backend.run(Problem("dropout", "mask", (shape,), "float32", attrs=(("ratio", ratio),)), state, out)
    return out


def dropout(x: ArrayLike, mask: ArrayLike, scale: float = 1.0, *, out: Array | None = None) -> Array:
    """``x * (mask * scale)``; with dout in place of x it is its own backward pass.

    ``mask`` has x's shape and dtype uint8 or bool, 1 = keep; ``scale`` is 1 in the book, ``1 / (1 - ratio)`` in
    inverted dropout. Returns x's dtype and memory order; ``out`` may be x.
    """
    op = "dropout"
    x, scale = one(x, op), float(scale)
    mask = as_array(mask, f"{op}: mask", x)
    if type(x) is not _ndarray or type(mask) is not _ndarray:
        expect_beside(op, "mask", mask, "x", x)
    choice = choice_for(x)
    key = (op, x.shape, x.strides, x.dtype, mask.shape, mask.strides, mask.dtype, scale, choice)
    found: Plan | None = plans.get(key)
    if found is None:
        expect_shape(mask.shape, x.shape, op, "mask")
        if mask.dtype.char not in "B?":
            raise TypeError(f"{op}: mask must have dtype uint8 or bool, got {mask.dtype}")
        orders = (memory_order(x), memory_order(mask))
        problem = Problem(op, "forward", (x.shape,), x.dtype.name, orders, attrs=(("scale", scale),))
        found = remember(key, plan(problem, layout(x.shape, x.dtype, like=x), choice))
    problem, kernel, wanted = found
    out = wanted.empty() if out is None else output(out, wanted, op, (mask,), over=(x,))
    kernel(problem, x, mask, out, backend.get_num_threads())
    return out


# ---- add, concat, cast ----------------------------------------------------------------------------------------------


def add(a: ArrayLike, b: ArrayLike, *, out: Array | None = None) -> Array:
    """``a + b`` for arrays of one shape (a residual connection), without broadcasting.

    Returns dtype ``numpy.result_type(a, b)`` in a's memory order; ``out`` may be a or b. Its gradient: dout.
    """
    op = "add"
    a, b = two(a, b, op, "a b")
    choice = choice_for(a)
    key = (op, a.shape, a.strides, a.dtype, b.shape, b.strides, choice)
    found: Plan | None = plans.get(key)
    if found is None:
        expect_shape(b.shape, a.shape, op, "b")
        problem = Problem(op, "forward", (a.shape,), a.dtype.name, (memory_order(a), memory_order(b)))
        found = remember(key, plan(problem, layout(a.shape, a.dtype, like=a), choice))
    problem, kernel, wanted = found
    out = wanted.empty() if out is None else output(out, wanted, op, (), over=(a, b))
    kernel(problem, a, b, out, backend.get_num_threads())
    return out


def concat(arrays: Sequence[ArrayLike], axis: int = 1, *, out: Array | None = None) -> Array:
    """The arrays one after another along ``axis``; they agree in every other dimension.

    Returns dtype ``numpy.result_type(*arrays)``, in channels-last memory where there are four dimensions.
    """
    op = "concat"
    arrays = list(arrays)
    beside = next((a for a in arrays if is_device(a)), None)
    parts = [as_array(a, f"{op}: arrays[{i}]", beside) for i, a in enumerate(arrays)]
    if not parts:
        raise ValueError(f"{op}: arrays must hold at least one array")
    for i, part in enumerate(parts):
        expect_beside(op, f"arrays[{i}]", part, "arrays[0]", parts[0])
        result_dtype(part, what=f"{op}: arrays[{i}]")
    dtype = result_dtype(*parts, what=f"{op}: arrays")
    parts = [prepare(part, dtype) for part in parts]
    shapes = tuple(part.shape for part in parts)
    first = shapes[0]
    along = axis_index(axis, len(first), op)
    for i, shape in enumerate(shapes):
        if (*shape[:along], *shape[along + 1 :]) != (*first[:along], *first[along + 1 :]) or len(shape) != len(first):
            raise ValueError(f"{op}: arrays[{i}] {shape} must agree with arrays[0] {first} in all but axis {along}")
    total = sum(shape[along] for shape in shapes)
    wanted = layout((*first[:along], total, *first[along + 1 :]), dtype, "nhwc", on=parts[0])
    out = wanted.empty() if out is None else output(out, wanted, op, tuple(parts))
    orders = tuple(memory_order(part) for part in parts)
    backend.run(Problem(op, "forward", shapes, dtype.name, orders, attrs=(("axis", along),)), parts, out)
    return out


def concat_backward(dout: ArrayLike, sizes: Sequence[int], axis: int = 1) -> list[Array]:
    """The gradients of ``sum(concat(arrays, axis) * dout)`` by each array: parts of dout, as views.

    ``sizes`` are the lengths of the arrays along ``axis``.
    """
    op = "concat_backward"
    dout = as_array(dout, f"{op}: dout")
    along = axis_index(axis, dout.ndim, op)
    if sum(sizes) != dout.shape[along] or any(size < 0 for size in sizes):
        raise ValueError(f"{op}: sizes {tuple(sizes)} must add up to dout's {dout.shape[along]} along axis {along}")
    before = (slice(None),) * along
    return [dout[(*before, slice(start, stop))] for start, stop in pairwise(accumulate(sizes, initial=0))]


def cast(x: ArrayLike, dtype: Any, *, out: Array | None = None) -> Array:
    """x as float32, float64, float16, bfloat16, float8_e4m3fn or float8_e5m2, rounded to nearest even once; always a
    new array.

    Returns x's shape and memory order.
    """
    op = "cast"
    x, target = as_array(x, f"{op}: x"), float_dtype(dtype, f"{op}: dtype")
    result_dtype(x, what=f"{op}: x")
    x = prepare(x, target if x.dtype.kind in "biu" else x.dtype.newbyteorder("="))
    wanted = layout(x.shape, target, like=x)
    out = wanted.empty() if out is None else output(out, wanted, op, (x,))
    attrs = (("source", x.dtype.name),)
    backend.run(Problem(op, "forward", (x.shape,), target.name, (memory_order(x),), attrs=attrs), x, out)
    return out


def stochastic_cast(x: ArrayLike, dtype: Any, seed: int, step: int, *, out: Array | None = None) -> Array:
    """The float32 array x as float16 or bfloat16, each value rounded up or down by chance so that the mean is x.

    A value between two neighbours becomes the upper one with the probability with which it lies towards it; what the
    dtype holds stays as it is. The result is a function of the arguments: element i in row-major order is drawn by
    Philox4x32-10 from (seed, step, i), as in :func:`dropout_mask`. Sums of many small steps survive that way where
    rounding to nearest loses each of them. Returns x's shape and memory order; always a new array.
    """
    op = "stochastic_cast"
    x, target = as_array(x, f"{op}: x"), float_dtype(dtype, f"{op}: dtype")
    if target.name not in ("float16", "bfloat16"):
        raise TypeError(f"{op}: dtype must be float16 or bfloat16, not {target}")
    if x.dtype.newbyteorder("=") != np.float32:
        raise TypeError(f"{op}: x must have dtype float32, got {x.dtype}")
    x, state = prepare(x, np.dtype(np.float32)), _state(op, seed, step, device_of(x))
    wanted = layout(x.shape, target, like=x)
    out = wanted.empty() if out is None else output(out, wanted, op, (x,))
    backend.run(Problem("cast", "stochastic", (x.shape,), target.name, (memory_order(x),)), x, state, out)
    return out
