"""Convolution, and its windows as a matrix: im2col and col2im."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from .._array import zeros
from ..kernels.geometry import four_pads, pair, window_grid
from ._call import (
    Array,
    ArrayLike,
    Layout,
    Plan,
    Problem,
    Shape,
    as_pads,
    as_pair,
    backend,
    checked_need,
    choice_for,
    expect_4d,
    expect_shape,
    gradient_dtype,
    layout,
    memory_order,
    np,
    one,
    output,
    plan,
    plans,
    remember,
    to_dtype,
    two,
    vector,
)

IntOrPair = int | Sequence[int]
Gradients = tuple[Array | None, Array | None, Array | None]

_BYTES = np.dtype(np.uint8)


def conv2d(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    stride: IntOrPair = 1,
    pad: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    out: Array | None = None,
) -> Array:
    """Two-dimensional convolution (cross-correlation, as the field means it) with a bias.

    ::

        out[n, k, i, j] = b[k] + sum over c, r, s of w[k, c, r, s] * x[n, c, i * stride + r * dilation - top,
                                                                            j * stride + s * dilation - left]

    with x zero outside its borders; with groups, filter k sees the channels of its group alone.

    Parameters
    ----------
    x
        (N, C, H, W), any memory order. Channels-last memory is the fast path, and what every function here returns.
    w
        (K, C / groups, R, S).
    b
        (K,) or None.
    stride, dilation
        int or (vertical, horizontal).
    pad
        int, (vertical, horizontal) or (top, bottom, left, right).
    groups
        Divides C and K; ``groups == C`` is a depthwise convolution.
    out
        Where the result goes: an array of its shape and dtype, apart from the inputs.

    Returns
    -------
    (N, K, OH, OW) in channels-last memory, ``OH = (H + top + bottom - dilation * (R - 1) - 1) // stride + 1``. The
    dtype is ``numpy.result_type(x, w)``; the bias never widens it. float16 and bfloat16 are summed in float32.

    Raises
    ------
    ValueError
        Shapes or parameters do not fit together.
    TypeError
        A dtype is not supported.
    """
    return fused_conv2d(x, w, b, stride, pad, dilation, groups, out, False)


def fused_conv2d(
    x: Any, w: Any, b: Any, stride: Any, pad: Any, dilation: Any, groups: Any, out: Array | None, relu: bool
) -> Array:
    """:func:`conv2d` with its epilogue: ``relu`` turns results <= 0 into 0 on their way to memory."""
    x, w = two(x, w, "conv2d", "x w")
    stride, pad, dilation, groups = parameters("conv2d", stride, pad, dilation, groups)
    if b is None and relu:
        b = zeros(w.shape[:1], x.dtype, x)
    has_bias, choice = b is not None, choice_for(x)
    key = (
        "conv2d", x.shape, x.strides, x.dtype, w.shape, w.strides, stride, pad, dilation, groups, has_bias, relu, choice
    )  # fmt: skip
    found: Plan | None = plans.get(key)
    if found is None:
        fields, shape = conv_fields("conv2d", x.shape, w.shape, stride, pad, dilation, groups)
        orders = (memory_order(x), memory_order(w))
        epilogue = "bias_relu" if relu else "bias" if has_bias else "none"
        problem = Problem("conv2d", "forward", (x.shape, w.shape), x.dtype.name, orders, epilogue=epilogue, **fields)
        found = remember(key, plan(problem, layout(shape, x.dtype, "nhwc", on=x), choice))
    problem, kernel, wanted = found
    if has_bias:
        b = vector(b, w.shape[0], x.dtype, "conv2d: b", x)
    out = wanted.empty() if out is None else output(out, wanted, "conv2d", (x, w, b))
    kernel(problem, x, w, b, out, backend.get_num_threads())
    return out


class _PooledPlan(NamedTuple):
    """One call of a convolution with its ReLU and pooling, and what it writes."""

    problem: Problem
    kernel: Callable[..., None]
    out: Layout
    pooled: Layout
    indices: Layout


def fused_conv2d_pool(
    x: Any, w: Any, b: Any, stride: Any, pad: Any, dilation: Any, groups: Any, keep: bool
) -> tuple[Array | None, Array, Array | None] | None:
    """A convolution, its ReLU, and max pooling by 2x2 windows with stride 2, in one pass.

    Returns what the ReLU and the pooling return on their own, with its indices, the same bits; the first and the last
    are None without ``keep``. Returns None, and has done nothing, where the convolution does not run on kernels with
    that pass (Winograd's), or where there is no window.
    """
    x, w = two(x, w, "conv2d", "x w")
    stride, pad, dilation, groups = parameters("conv2d", stride, pad, dilation, groups)
    choice = choice_for(x)
    key = ("conv2d pooled", x.shape, x.strides, x.dtype, w.shape, w.strides, stride, pad, dilation, groups, choice)
    found: _PooledPlan | str | None = plans.get(key)
    if found is None:
        fields, shape = conv_fields("conv2d", x.shape, w.shape, stride, pad, dilation, groups)
        orders = (memory_order(x), memory_order(w))
        problem = Problem("conv2d", "forward", (x.shape, w.shape), x.dtype.name, orders, epilogue="bias_relu", **fields)
        if min(shape[2:]) < 2 or not backend.row(problem, choice).is_winograd:
            found = remember(key, "separate passes")
        else:
            problem = problem._replace(direction="forward_pooled")
            windows = (*shape[:2], shape[2] // 2, shape[3] // 2)
            outs = [layout(s, d, "nhwc", on=x) for s, d in ((shape, x.dtype), (windows, x.dtype), (windows, _BYTES))]
            found = remember(key, _PooledPlan(problem, backend.kernel(problem, choice), *outs))
    if isinstance(found, str):
        return None
    b = zeros(w.shape[:1], x.dtype, x) if b is None else vector(b, w.shape[0], x.dtype, "conv2d: b", x)
    out = found.out.empty() if keep else None
    pooled = found.pooled.empty()
    indices = found.indices.empty() if keep else None
    found.kernel(found.problem, x, w, b, out, pooled, indices, backend.get_num_threads())
    return out, pooled, indices


def parameters(op: str, stride: Any, pad: Any, dilation: Any, groups: Any) -> tuple[Any, Any, Any, int]:
    """The geometry as a part of a key."""
    if type(groups) is not int:
        groups = pair(groups, f"{op}: groups")[0]
    return as_pair(stride, f"{op}: stride"), as_pads(pad, f"{op}: pad"), as_pair(dilation, f"{op}: dilation"), groups


def conv_fields(
    op: str, xs: Shape, ws: Shape, stride: Any, pad: Any, dilation: Any, groups: int
) -> tuple[dict[str, Any], Shape]:
    """The checked geometry of a convolution as fields of Problem, and the shape of its output."""
    expect_4d(xs, op)
    expect_4d(ws, op, "w", "(K, C / groups, R, S)")
    if groups < 1:
        raise ValueError(f"{op}: groups must be at least 1, not {groups}")
    if ws[1] * groups != xs[1]:
        raise ValueError(f"{op}: w {ws} takes {ws[1]} channels per group, x has {xs[1]} with groups={groups}")
    if ws[0] % groups:
        raise ValueError(f"{op}: groups={groups} does not divide the {ws[0]} filters of w {ws}")
    if min(ws[2:]) < 1:
        raise ValueError(f"{op}: w {ws} has an empty window")
    steps, sides, gaps = pair(stride, f"{op}: stride"), four_pads(pad, f"{op}: pad"), pair(dilation, f"{op}: dilation")
    try:
        grid = window_grid((xs[2], xs[3]), (ws[2], ws[3]), steps, sides, gaps)
    except ValueError as error:
        raise ValueError(f"{op}: {error}") from None
    return {"pads": sides, "stride": steps, "dilation": gaps, "groups": groups}, (xs[0], ws[0], *grid)


class _BackwardPlan(NamedTuple):
    """The kernels of a convolution's gradients by x, w and b (None where not needed), and what each writes."""

    problems: tuple[Problem, Problem, Problem]
    kernels: tuple[Callable[..., None] | None, ...]
    outs: tuple[Layout, Layout, Layout]


def conv2d_backward(
    dout: ArrayLike,
    x: ArrayLike,
    w: ArrayLike,
    *,
    stride: IntOrPair = 1,
    pad: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    need: Collection[str] = ("x", "w", "b"),
) -> Gradients:
    """The gradients of ``sum(conv2d(x, w, b, ...) * dout)`` by x, w and b.

    Parameters
    ----------
    dout
        The shape of conv2d's result, any memory order. Its dtype does not widen the gradients.
    x, w, stride, pad, dilation, groups
        What :func:`conv2d` got.
    need
        The gradients to work out, any of ``"x"``, ``"w"``, ``"b"``; the others are None. The first layer of a net
        needs no gradient by its input.

    Returns
    -------
    dx
        Shape and dtype of x, channels-last memory.
    dw
        Shape and dtype of w, C-contiguous.
    db
        (K,), dtype of w.

    Where x or w holds integers, its gradient has the dtype of conv2d's result.
    """
    return fused_conv2d_backward(dout, x, w, stride, pad, dilation, groups, need, False)


def fused_conv2d_backward(
    dout: Any, x: Any, w: Any, stride: Any, pad: Any, dilation: Any, groups: Any, need: Collection[str], relu: bool
) -> Gradients:
    """:func:`conv2d_backward` with its epilogue: ``relu`` makes dx 0 where x is <= 0.

    Where x is the output of a ReLU, dx is then the gradient by the ReLU's input.
    """
    op = "conv2d_backward"
    own_x, own_w = getattr(x, "dtype", None), getattr(w, "dtype", None)
    x, w = two(x, w, op, "x w")
    dtype = x.dtype
    dout = one(dout, op, "dout", dtype, x)
    stride, pad, dilation, groups = parameters(op, stride, pad, dilation, groups)
    if type(need) is not tuple:
        need = tuple(need)
    choice = choice_for(x)
    key = (
        op, dout.shape, dout.strides, x.shape, x.strides, dtype, w.shape, w.strides, stride, pad, dilation, groups,
        need, relu, choice,
    )  # fmt: skip
    found: _BackwardPlan | None = plans.get(key)
    if found is None:
        fields, shape = conv_fields(op, x.shape, w.shape, stride, pad, dilation, groups)
        expect_shape(dout.shape, shape, op, "dout")
        wanted = checked_need(need, op)
        shapes = (x.shape, w.shape)
        orders = (memory_order(dout), memory_order(x), memory_order(w))
        epilogue = "relu_mask" if relu else "none"
        problems = (
            Problem(
                "conv2d", "backward_input", shapes, dtype.name, (orders[0], orders[2]), epilogue=epilogue, **fields
            ),
            Problem("conv2d", "backward_weight", shapes, dtype.name, (orders[0], orders[1]), **fields),
            Problem("conv2d", "backward_bias", (shape,), dtype.name, orders[:1]),
        )
        kernels = tuple(backend.kernel(p, choice) if yes else None for p, yes in zip(problems, wanted, strict=True))
        outs = (
            layout(x.shape, dtype, "nhwc", on=x), layout(w.shape, dtype, on=x), layout(w.shape[:1], dtype, on=x)
        )  # fmt: skip
        found = remember(key, _BackwardPlan(problems, kernels, outs))
    (for_x, for_w, for_b), (run_x, run_w, run_b), (out_x, out_w, out_b) = found
    threads = backend.get_num_threads()
    dx = dw = db = None
    # dx comes last: the next layer reads it while it is in the cache, and its mask x has just been read for dw. The sum
    # for db streams dout past at the cache's speed, which brings it closer for the other two.
    if run_b is not None:
        db = out_b.empty()
        run_b(for_b, dout, db, threads)
        if own_w is not dtype:
            db = to_dtype(db, gradient_dtype(own_w, dtype))
    if run_w is not None:
        dw = out_w.empty()
        run_w(for_w, dout, x, dw, threads)
        if own_w is not dtype:
            dw = to_dtype(dw, gradient_dtype(own_w, dtype))
    if run_x is not None:
        dx = out_x.empty()
        run_x(for_x, dout, w, x if relu else None, dx, threads)
        if own_x is not dtype:
            dx = to_dtype(dx, gradient_dtype(own_x, dtype))
    return dx, dw, db


def im2col(
    x: ArrayLike, kernel: IntOrPair, *, stride: IntOrPair = 1, pad: IntOrPair = 0, dilation: IntOrPair = 1
) -> Array:
    """The windows of x as rows: (N, C, H, W) to (N * OH * OW, C * R * S), columns ordered C, R, S.

    ``kernel`` is (R, S) or an int for both; padding reads as 0. The dtype is x's. :func:`conv2d` does without this
    matrix: it is here for those who teach, or build other layers, with it.
    """
    op = "im2col"
    x = one(x, op)
    fields, shape = _windows(op, x.shape, kernel, stride, pad, dilation)
    out = layout(shape, x.dtype, on=x).empty()
    backend.run(Problem(op, "forward", (x.shape,), x.dtype.name, (memory_order(x),), **fields), x, out)
    return out


def col2im(
    col: ArrayLike,
    shape: Sequence[int],
    kernel: IntOrPair,
    *,
    stride: IntOrPair = 1,
    pad: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> Array:
    """The gradient of :func:`im2col` (not its inverse): sums the rows of ``col`` into an image where windows overlap.

    ``col`` is (N * OH * OW, C * R * S) and ``shape`` the image's (N, C, H, W). The result has col's dtype and
    channels-last memory.
    """
    op = "col2im"
    col = one(col, op, "col")
    shape = tuple(int(n) for n in shape)
    fields, wanted = _windows(op, shape, kernel, stride, pad, dilation)
    expect_shape(col.shape, wanted, op, "col")
    out = layout(shape, col.dtype, "nhwc", on=col).empty()
    orders = ("nhwc", memory_order(col))
    backend.run(Problem(op, "forward", (shape, col.shape), col.dtype.name, orders, **fields), col, out)
    return out


def _windows(
    op: str, shape: Shape, kernel: Any, stride: Any, pad: Any, dilation: Any
) -> tuple[dict[str, Any], tuple[int, int]]:
    """The checked geometry as fields of Problem, and the shape of the matrix of windows."""
    expect_4d(shape, op)
    size = pair(kernel, f"{op}: kernel")
    steps, sides, gaps = pair(stride, f"{op}: stride"), four_pads(pad, f"{op}: pad"), pair(dilation, f"{op}: dilation")
    try:
        oh, ow = window_grid((shape[2], shape[3]), size, steps, sides, gaps)
    except ValueError as error:
        raise ValueError(f"{op}: {error}") from None
    fields = {"pads": sides, "stride": steps, "dilation": gaps, "attrs": (("kernel", size),)}
    return fields, (shape[0] * oh * ow, shape[1] * size[0] * size[1])
