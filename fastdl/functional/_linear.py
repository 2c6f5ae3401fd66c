"""The fully connected layer, on gemm."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from .._array import arranged, reshaped, zeros
from ._call import (
    Array,
    ArrayLike,
    Layout,
    Plan,
    Problem,
    Shape,
    backend,
    checked_need,
    choice_for,
    expect_shape,
    gradient_dtype,
    layout,
    memory_order,
    one,
    output,
    plan,
    plans,
    remember,
    to_dtype,
    two,
    vector,
)


def linear(x: ArrayLike, W: ArrayLike, b: ArrayLike | None = None, *, out: Array | None = None) -> Array:
    """Fully connected: ``x.reshape(N, -1) @ W + b``.

    Parameters
    ----------
    x
        (N, ...), flattened to (N, in) in the order of its axes, whatever its memory order.
    W
        (in, out).
    b
        (out,) or None.
    out
        Where the result goes: an array of its shape and dtype, apart from the inputs.

    Returns
    -------
    (N, out) of dtype ``numpy.result_type(x, W)``; the bias never widens it.
    """
    return fused_linear(x, W, b, out, False)


def fused_linear(x: Any, W: Any, b: Any, out: Array | None, relu: bool) -> Array:
    """:func:`linear` with its epilogue: ``relu`` turns results <= 0 into 0 on their way to memory."""
    x, w = two(x, W, "linear", "x W")
    if b is None and relu:
        b = zeros(w.shape[-1:], w.dtype, w)
    rows = x if x.ndim == 2 else _flat(x, "linear")
    has_bias, choice = b is not None, choice_for(w)
    key = ("linear", rows.shape, rows.strides, w.shape, w.strides, w.dtype, has_bias, relu, choice)
    found: Plan | None = plans.get(key)
    if found is None:
        _expect_weights(rows.shape, w.shape, "linear")
        epilogue = "bias_relu" if relu else "bias" if has_bias else "none"
        found = remember(
            key, plan(_gemm(rows, w, epilogue), layout((rows.shape[0], w.shape[1]), w.dtype, on=w), choice)
        )
    problem, kernel, wanted = found
    if has_bias:
        b = vector(b, w.shape[1], w.dtype, "linear: b", x)
    out = wanted.empty() if out is None else output(out, wanted, "linear", (x, w, b))
    kernel(problem, rows, w, b, out, backend.get_num_threads())
    return out


def _flat(x: Array, op: str) -> Array:
    """x as (N, in); a copy where its memory is not in the order of its axes."""
    if x.ndim < 2:
        raise ValueError(f"{op}: x must have shape (N, ...), got {x.shape}")
    return reshaped(x, (x.shape[0], math.prod(x.shape[1:])))


def _expect_weights(rows: Shape, w: Shape, op: str) -> None:
    if len(w) != 2:
        raise ValueError(f"{op}: W must have shape (in, out), got {w}")
    if rows[1] != w[0]:
        raise ValueError(f"{op}: W {w} takes {w[0]} features, x has {rows[1]}")


def _gemm(a: Array, b: Array, epilogue: str = "none") -> Problem:
    orders = (memory_order(a), memory_order(b))
    return Problem("gemm", "forward", (a.shape, b.shape), a.dtype.name, orders, epilogue=epilogue)


class _BackwardPlan(NamedTuple):
    """The kernels of the gradients by x, W and b (None where not needed), and what each writes."""

    problems: tuple[Problem, Problem, Problem]
    kernels: tuple[Callable[..., None] | None, ...]
    outs: tuple[Layout, Layout, Layout]


def linear_backward(
    dout: ArrayLike, x: ArrayLike, W: ArrayLike, *, need: Collection[str] = ("x", "w", "b")
) -> tuple[Array | None, Array | None, Array | None]:
    """The gradients of ``sum(linear(x, W, b) * dout)`` by x, W and b.

    Parameters
    ----------
    dout
        (N, out). Its dtype does not widen the gradients.
    x, W
        What :func:`linear` got.
    need
        The gradients to work out, any of ``"x"``, ``"w"``, ``"b"``; the others are None.

    Returns
    -------
    dx
        Shape, dtype and memory order of x.
    dW
        Shape and dtype of W, C-contiguous.
    db
        (out,), dtype of W.

    Where x or W holds integers, its gradient has the dtype of linear's result.
    """
    op = "linear_backward"
    own_x, own_w = getattr(x, "dtype", None), getattr(W, "dtype", None)
    x, w = two(x, W, op, "x W")
    dtype = x.dtype
    dout = one(dout, op, "dout", dtype, x)
    rows = x if x.ndim == 2 else _flat(x, op)
    if type(need) is not tuple:
        need = tuple(need)
    choice = choice_for(x)
    key = (op, dout.shape, dout.strides, rows.shape, rows.strides, w.shape, w.strides, dtype, need, choice)
    found: _BackwardPlan | None = plans.get(key)
    if found is None:
        _expect_weights(rows.shape, w.shape, op)
        expect_shape(dout.shape, (rows.shape[0], w.shape[1]), op, "dout")
        image = _image(dout)
        problems = (
            _gemm(dout, w.T),
            _gemm(rows.T, dout),
            Problem("conv2d", "backward_bias", (image.shape,), dtype.name, (memory_order(image),)),
        )
        wanted = checked_need(need, op)
        kernels = tuple(backend.kernel(p, choice) if yes else None for p, yes in zip(problems, wanted, strict=True))
        outs = (layout(rows.shape, dtype, on=x), layout(w.shape, dtype, on=x), layout(w.shape[1:], dtype, on=x))
        found = remember(key, _BackwardPlan(problems, kernels, outs))
    (for_x, for_w, for_b), (run_x, run_w, run_b), (out_x, out_w, out_b) = found
    threads = backend.get_num_threads()
    dx = dw = db = None
    if run_x is not None:
        dx = out_x.empty()
        run_x(for_x, dout, w.T, None, dx, threads)
        if x.ndim != 2:
            dx = arranged(dx, layout(x.shape, dx.dtype, like=x))
        if own_x is not dtype:
            dx = to_dtype(dx, gradient_dtype(own_x, dtype))
    if run_w is not None:
        dw = out_w.empty()
        run_w(for_w, rows.T, dout, None, dw, threads)
        if own_w is not dtype:
            dw = to_dtype(dw, gradient_dtype(own_w, dtype))
    if run_b is not None:
        db = out_b.empty()
        run_b(for_b, _image(dout), db, threads)
        if own_w is not dtype:
            db = to_dtype(db, gradient_dtype(own_w, dtype))
    return dx, dw, db


def _image(dout: Array) -> Array:
    """(N, out) as an image of one pixel, whose channels a convolution's bias gradient sums over."""
    return dout[:, :, None, None]
