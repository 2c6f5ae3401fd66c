"""Pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

from ..kernels.geometry import Pair, four_pads, pair, window_grid
from ._call import (
    Array,
    ArrayLike,
    Problem,
    Shape,
    as_array,
    as_pads,
    as_pair,
    backend,
    choice_for,
    expect_4d,
    expect_beside,
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
)

IntOrPair = int | Sequence[int]
_ndarray = np.ndarray


def parameters(op: str, size: Any, stride: Any, pad: Any, dilation: Any = 1) -> tuple[Any, Any, Any, Any]:
    """The geometry as a part of a key."""
    size = as_pair(size, f"{op}: size")
    stride = size if stride is None else as_pair(stride, f"{op}: stride")
    return size, stride, as_pads(pad, f"{op}: pad"), as_pair(dilation, f"{op}: dilation")


def pool_fields(
    op: str, shape: Shape, geometry: tuple[Any, Any, Any, Any], ceil_mode: bool, **attrs: Any
) -> tuple[dict[str, Any], Shape]:
    """The checked geometry as fields of Problem, and the shape of the output."""
    expect_4d(shape, op)
    kernel, stride = pair(geometry[0], f"{op}: size"), pair(geometry[1], f"{op}: stride")
    pads, dilation = four_pads(geometry[2], f"{op}: pad"), pair(geometry[3], f"{op}: dilation")
    try:
        grid = window_grid((shape[2], shape[3]), kernel, stride, pads, dilation, ceil_mode)
    except ValueError as error:
        raise ValueError(f"{op}: {error}") from None
    attrs |= {"kernel": kernel, "ceil_mode": ceil_mode}
    fields = {"pads": pads, "stride": stride, "dilation": dilation, "attrs": tuple(sorted(attrs.items()))}
    return fields, (*shape[:2], *grid)


def _index_dtype(kernel: Pair) -> np.dtype[Any]:
    """Dtype of max pooling's indices: they count taps, and the largest value marks a window that has none."""
    return np.dtype(np.uint8 if kernel[0] * kernel[1] <= 255 else np.int32)


@overload
def max_pool2d(
    x: ArrayLike,
    size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    pad: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
    out: Array | None = None,
) -> Array: ...
@overload
def max_pool2d(
    x: ArrayLike,
    size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    pad: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: Literal[True],
    out: Array | None = None,
) -> tuple[Array, Array]: ...
def max_pool2d(
    x: ArrayLike,
    size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    pad: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    out: Array | None = None,
) -> Array | tuple[Array, Array]:
    """The largest element of each window.

    Parameters
    ----------
    x
        (N, C, H, W), any memory order.
    size, stride, dilation
        int or (vertical, horizontal); a stride of None is the size.
    pad
        int, (vertical, horizontal) or (top, bottom, left, right), of minus infinity; also wider than the window.
    ceil_mode
        Rounds the output size up, as PyTorch and ONNX do: a last window may reach beyond the padding.
    return_indices
        Also return what :func:`max_pool2d_backward` needs.
    out
        Where the result goes: an array of its shape and dtype, apart from x.

    Returns
    -------
    out
        (N, C, OH, OW), x's dtype, channels-last memory. Ties go to the first element in row-major order, NaN is larger
        than anything, a window wholly in the padding gives minus infinity.
    indices
        With ``return_indices``: which tap of its window each result is, counted row by row. uint8, int32 for windows of
        more than 255 taps; the dtype's largest value marks a window wholly in the padding.
    """
    op = "max_pool2d"
    x = one(x, op)
    geometry = parameters(op, size, stride, pad, dilation)
    ceil_mode, choice = bool(ceil_mode), choice_for(x)
    key = (op, x.shape, x.strides, x.dtype, geometry, ceil_mode, choice)
    found = plans.get(key)
    if found is None:
        fields, shape = pool_fields(op, x.shape, geometry, ceil_mode)
        problem = Problem(op, "forward", (x.shape,), x.dtype.name, (memory_order(x),), **fields)
        taps = layout(shape, _index_dtype(problem.attr("kernel")), "nhwc", on=x)
        found = remember(key, (plan(problem, layout(shape, x.dtype, "nhwc", on=x), choice), taps))
    (problem, kernel, wanted), wanted_indices = found
    out = wanted.empty() if out is None else output(out, wanted, op, (x,))
    if not return_indices:
        kernel(problem, x, out, None, backend.get_num_threads())
        return out
    indices = wanted_indices.empty()
    kernel(problem, x, out, indices, backend.get_num_threads())
    return out, indices


def _image(x: Any, op: str, dtype: np.dtype[Any]) -> tuple[Shape, np.dtype[Any]]:
    """Shape and gradient dtype of ``x``, an array or only its shape."""
    if type(x) is tuple and all(isinstance(n, (int, np.integer)) for n in x):
        return x, dtype
    x = as_array(x, f"{op}: x")  # for its shape alone: anywhere
    return x.shape, gradient_dtype(x.dtype, dtype)


def max_pool2d_backward(
    dout: ArrayLike,
    x: ArrayLike,
    size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    pad: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    indices: Array | None = None,
) -> Array:
    """The gradient of ``sum(max_pool2d(x, size, ...) * dout)`` by x.

    Parameters
    ----------
    dout
        The shape of max_pool2d's result, any memory order.
    x, size, stride, pad, dilation, ceil_mode
        What :func:`max_pool2d` got. With indices, only the shape of x matters: a tuple (N, C, H, W) will do.
    indices
        What max_pool2d returned; None finds them once more.

    Returns
    -------
    dx: shape and dtype of x (dout's dtype where x is a shape), channels-last memory.
    """
    return fused_max_pool2d_backward(dout, x, size, stride, pad, dilation, ceil_mode, indices, None)


def fused_max_pool2d_backward(
    dout: Any,
    x: Any,
    size: Any,
    stride: Any,
    pad: Any,
    dilation: Any,
    ceil_mode: Any,
    indices: Array | None,
    out: Array | None,
) -> Array:
    """:func:`max_pool2d_backward` with its epilogue: ``out``, max_pool2d's result, makes dx 0 where x is <= 0.

    Where x is the output of a ReLU, dx is then the gradient by the ReLU's input.
    """
    op = "max_pool2d_backward"
    if indices is None:
        x = one(x, op)
        _, indices = max_pool2d(
            x, size, stride=stride, pad=pad, dilation=dilation, ceil_mode=ceil_mode, return_indices=True
        )
    dout = one(dout, op, "dout")
    shape, dtype = _image(x, op, dout.dtype)
    dout = to_dtype(dout, dtype)
    indices = as_array(indices, f"{op}: indices", dout)
    if type(dout) is not _ndarray or type(indices) is not _ndarray or (out is not None and type(out) is not _ndarray):
        expect_beside(op, "indices", indices, "dout", dout)
        if out is not None:
            expect_beside(op, "out", out, "dout", dout)
    geometry = parameters(op, size, stride, pad, dilation)
    ceil_mode, choice = bool(ceil_mode), choice_for(dout)
    relu = out is not None
    key = (op, dout.shape, dout.strides, shape, dtype, indices.shape, indices.dtype, geometry, ceil_mode, relu, choice)
    found = plans.get(key)
    if found is None:
        fields, grid = pool_fields(op, shape, geometry, ceil_mode)
        fields["epilogue"] = "relu_mask" if relu else "none"
        problem = Problem("max_pool2d", "backward", (shape,), dtype.name, (memory_order(dout),), **fields)
        expect_shape(dout.shape, grid, op, "dout")
        expect_shape(indices.shape, grid, op, "indices")
        wanted = _index_dtype(problem.attr("kernel"))
        if indices.dtype != wanted:
            raise TypeError(f"{op}: indices must have dtype {wanted} for this window, got {indices.dtype}")
        found = remember(key, plan(problem, layout(shape, dtype, "nhwc", on=dout), choice))
    dx = found.out.empty()
    found.kernel(found.problem, dout, indices, out, dx, backend.get_num_threads())
    return dx


def avg_pool2d(
    x: ArrayLike,
    size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    pad: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    out: Array | None = None,
) -> Array:
    """The mean of each window.

    Parameters
    ----------
    x, size, stride, pad, ceil_mode, out
        As in :func:`max_pool2d`; the padding holds zeros.
    count_include_pad
        Divides by the size of the window inside the padded image; otherwise by the number of its elements on the image.

    Returns
    -------
    (N, C, OH, OW), x's dtype, channels-last memory. A window wholly in the padding gives 0.
    """
    op = "avg_pool2d"
    x = one(x, op)
    geometry = parameters(op, size, stride, pad)
    ceil_mode, include, choice = bool(ceil_mode), bool(count_include_pad), choice_for(x)
    key = (op, x.shape, x.strides, x.dtype, geometry, ceil_mode, include, choice)
    found = plans.get(key)
    if found is None:
        fields, shape = pool_fields(op, x.shape, geometry, ceil_mode, count_include_pad=include)
        problem = Problem(op, "forward", (x.shape,), x.dtype.name, (memory_order(x),), **fields)
        found = remember(key, plan(problem, layout(shape, x.dtype, "nhwc", on=x), choice))
    problem, kernel, wanted = found
    out = wanted.empty() if out is None else output(out, wanted, op, (x,))
    kernel(problem, x, out, backend.get_num_threads())
    return out


def avg_pool2d_backward(
    dout: ArrayLike,
    x: ArrayLike,
    size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    pad: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """The gradient of ``sum(avg_pool2d(x, size, ...) * dout)`` by x.

    Only the shape of x matters: a tuple (N, C, H, W) will do. Returns dx of x's shape and dtype (dout's dtype where x
    is a shape), channels-last memory.
    """
    op = "avg_pool2d_backward"
    dout = one(dout, op, "dout")
    shape, dtype = _image(x, op, dout.dtype)
    dout = to_dtype(dout, dtype)
    geometry = parameters(op, size, stride, pad)
    ceil_mode, include, choice = bool(ceil_mode), bool(count_include_pad), choice_for(dout)
    key = (op, dout.shape, dout.strides, shape, dtype, geometry, ceil_mode, include, choice)
    found = plans.get(key)
    if found is None:
        fields, grid = pool_fields(op, shape, geometry, ceil_mode, count_include_pad=include)
        expect_shape(dout.shape, grid, op, "dout")
        problem = Problem("avg_pool2d", "backward", (shape,), dtype.name, (memory_order(dout),), **fields)
        found = remember(key, plan(problem, layout(shape, dtype, "nhwc", on=dout), choice))
    dx = found.out.empty()
    found.kernel(found.problem, dout, dx, backend.get_num_threads())
    return dx


def _expect_pixels(shape: Shape, op: str) -> None:
    expect_4d(shape, op)
    if shape[2] * shape[3] == 0:
        raise ValueError(f"{op}: the channels of x {shape} have no elements to take a mean of")


def global_avg_pool2d(x: ArrayLike) -> Array:
    """The mean of each channel: (N, C, H, W) to (N, C, 1, 1), x's dtype."""
    op = "global_avg_pool2d"
    x = one(x, op)
    _expect_pixels(x.shape, op)
    out = layout((*x.shape[:2], 1, 1), x.dtype, "nhwc", on=x).empty()
    backend.run(Problem(op, "forward", (x.shape,), x.dtype.name, (memory_order(x),)), x, out)
    return out


def global_avg_pool2d_backward(dout: ArrayLike, x: ArrayLike) -> Array:
    """The gradient of ``sum(global_avg_pool2d(x) * dout)`` by x; dout is (N, C, 1, 1).

    Only the shape of x matters: a tuple (N, C, H, W) will do. Returns dx of x's shape and dtype (dout's dtype where x
    is a shape), channels-last memory.
    """
    op = "global_avg_pool2d_backward"
    dout = one(dout, op, "dout")
    shape, dtype = _image(x, op, dout.dtype)
    dout = to_dtype(dout, dtype)
    _expect_pixels(shape, op)
    expect_shape(dout.shape, (*shape[:2], 1, 1), op, "dout")
    dx = layout(shape, dtype, "nhwc", on=dout).empty()
    backend.run(Problem("global_avg_pool2d", "backward", (shape,), dtype.name, (memory_order(dout),)), dout, dx)
    return dx
