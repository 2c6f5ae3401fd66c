"""Numbers as bytes: quantized convolution, matrix product and pooling, for inference."""

from __future__ import annotations

from operator import index
from typing import Any, Literal

from ._call import (
    Array,
    ArrayLike,
    Plan,
    Problem,
    as_array,
    backend,
    choice_for,
    expect_shape,
    layout,
    memory_order,
    np,
    one,
    plan,
    plans,
    remember,
)
from ._conv import IntOrPair, conv_fields
from ._conv import parameters as conv_parameters
from ._pool import parameters as pool_parameters
from ._pool import pool_fields

_BYTE, _SIGNED, _INT, _SINGLE = (np.dtype(name) for name in ("uint8", "int8", "int32", "float32"))
#: Products of two bytes that a sum of 32 bits holds, whatever their values.
MOST_TERMS = (2**31 - 1) // (255 * 128)


def _typed(a: Any, dtype: np.dtype[Any], what: str) -> Array:
    """``a`` as a NumPy array, which must have this dtype."""
    a = as_array(a, what)
    if type(a) is not np.ndarray:
        raise TypeError(f"{what} must be a NumPy array: bytes and bits are computed on the CPU")
    if a.dtype != dtype:
        raise TypeError(f"{what} must have dtype {dtype}, got {a.dtype}")
    return a if a.flags.aligned and a.dtype.isnative else a.astype(dtype)


def _zero(value: Any, what: str) -> int:
    zero = index(value)
    if not 0 <= zero <= 255:
        raise ValueError(f"{what} must be a byte, 0 to 255, not {zero}")
    return zero


def _step(value: Any, what: str) -> np.float32:
    step = np.float32(value)
    if not (np.isfinite(step) and step > 0 and np.isfinite(np.float32(1) / step)):
        raise ValueError(f"{what} must be a positive number that float32 and its inverse hold, not {value!r}")
    return step


def quantize(x: ArrayLike, step: float, zero: int = 0) -> Array:
    """``clip(rint(x / step) + zero, 0, 255)``: numbers as bytes, of which ``zero`` stands for 0 and each counts
    ``step``.

    Computed in float32 as ``x * (1 / step)``, ties to even; NaN becomes 0. Returns uint8 in x's shape and memory order.
    """
    x = one(x, "quantize")
    inverse, byte = np.float32(1) / _step(step, "quantize: step"), _zero(zero, "quantize: zero")
    return _elementwise("quantize", x, x.dtype, _BYTE, inverse, byte)


def dequantize(x: ArrayLike, step: float, zero: int = 0, dtype: Any = np.float32) -> Array:
    """``(x - zero) * step``, what bytes stand for, in ``dtype`` (computed in float32); x's shape and memory order."""
    x = _typed(x, _BYTE, "dequantize: x")
    wanted = one(np.empty(0, dtype), "dequantize", "dtype").dtype
    return _elementwise(
        "dequantize", x, wanted, wanted, _step(step, "dequantize: step"), _zero(zero, "dequantize: zero")
    )


def _elementwise(
    op: str, x: Array, storage: np.dtype[Any], dtype: np.dtype[Any], factor: np.float32, zero: int
) -> Array:
    choice = choice_for(x)
    key = (op, x.shape, x.strides, storage, choice)
    found: Plan | None = plans.get(key)
    if found is None:
        problem = Problem(op, "forward", (x.shape,), storage.name, (memory_order(x),))
        found = remember(key, plan(problem, layout(x.shape, dtype, like=x), choice))
    problem, kernel, wanted = found
    out = wanted.empty()
    kernel(problem, x, np.array([factor], _SINGLE), np.array([zero], _INT), out, backend.get_num_threads())
    return out


def conv2d_int8(
    x: ArrayLike,
    w: ArrayLike,
    bias: ArrayLike | None,
    scale: ArrayLike,
    *,
    x_zero: int = 0,
    out_zero: int = 0,
    relu: bool = False,
    dtype: Literal["uint8", "float32"] = "uint8",
    stride: IntOrPair = 1,
    pad: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Array:
    """Convolution of bytes, exactly summed, with one scale for each output channel.

    ::

        sum = bias[k] + sum over c, r, s of w[k, c, r, s] * (x[...] - x_zero)       in 32 bits
        out = float32(sum) * scale[k], 0 where that is <= 0 with ``relu``           dtype "float32"
        out = clip(rint(float32(sum) * scale[k]) + out_zero, low, 255)              dtype "uint8"; low is out_zero with ``relu``, else 0

    Parameters
    ----------
    x, w
        (N, C, H, W) uint8, channels-last memory for speed; (K, C / groups, R, S) int8.
    bias, scale
        (K,) int32 or None; (K,) float32.
    x_zero, out_zero
        The bytes that stand for 0.
    stride, pad, dilation, groups
        As in :func:`conv2d`; what pads stands for 0.

    Returns
    -------
    (N, K, OH, OW) in channels-last memory. The same from every kernel, bit for bit.

    Raises
    ------
    ValueError
        Shapes do not fit together, or a sum of so many products could exceed 32 bits (``MOST_TERMS``).
    TypeError
        An array has another dtype.
    """  # noqa: E501 - the formula
    x, w = _typed(x, _BYTE, "conv2d_int8: x"), _typed(w, _SIGNED, "conv2d_int8: w")
    stride, pad, dilation, groups = conv_parameters("conv2d_int8", stride, pad, dilation, groups)
    choice = choice_for(x)
    key = (
        "conv2d_int8", x.shape, x.strides, w.shape, w.strides, stride, pad, dilation, groups, bias is None, relu, dtype,
        choice,
    )  # fmt: skip
    found: Plan | None = plans.get(key)
    if found is None:
        if dtype not in ("uint8", "float32"):
            raise ValueError(f"conv2d_int8: dtype must be 'uint8' or 'float32', not {dtype!r}")
        fields, shape = conv_fields("conv2d_int8", x.shape, w.shape, stride, pad, dilation, groups)
        if (terms := w[0].size if len(w) else 0) > MOST_TERMS:
            raise ValueError(f"conv2d_int8: a sum of {terms} products may exceed 32 bits; it takes {MOST_TERMS}")
        epilogue = "bias_relu" if relu else "none" if bias is None else "bias"
        orders = (memory_order(x), memory_order(w))
        problem = Problem(
            "conv2d_int8", "forward", (x.shape, w.shape), "uint8", orders, epilogue=epilogue, attrs=(("out", dtype),),
            **fields,
        )  # fmt: skip
        found = remember(key, plan(problem, layout(shape, np.dtype(dtype), "nhwc"), choice))
    problem, kernel, wanted = found
    if bias is not None:
        bias = _typed(bias, _INT, "conv2d_int8: bias")
        expect_shape(bias.shape, w.shape[:1], "conv2d_int8", "bias")
    scale = _typed(scale, _SINGLE, "conv2d_int8: scale")
    expect_shape(scale.shape, w.shape[:1], "conv2d_int8", "scale")
    zeros = np.array([_zero(x_zero, "conv2d_int8: x_zero"), _zero(out_zero, "conv2d_int8: out_zero")], _INT)
    out = wanted.empty()
    kernel(problem, x, w, bias, scale, zeros, out, backend.get_num_threads())
    return out


def linear_int8(
    x: ArrayLike,
    w: ArrayLike,
    bias: ArrayLike | None,
    scale: ArrayLike,
    *,
    x_zero: int = 0,
    out_zero: int = 0,
    relu: bool = False,
    dtype: Literal["uint8", "float32"] = "uint8",
) -> Array:
    """:func:`conv2d_int8` for matrices: x (M, K) uint8, w (K, N) int8, bias and scale (N,); returns (M, N)."""
    x, w = _typed(x, _BYTE, "linear_int8: x"), _typed(w, _SIGNED, "linear_int8: w")
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[0]:
        raise ValueError(f"linear_int8: x must be (M, K) and w (K, N), got {x.shape} and {w.shape}")
    # One image of one row, whose pixels are the rows of x.
    out = conv2d_int8(
        x.T[None, :, None, :], w.T[:, :, None, None], bias, scale, x_zero=x_zero, out_zero=out_zero, relu=relu,
        dtype=dtype,
    )  # fmt: skip
    return out[0, :, 0].T


def max_pool2d_int8(
    x: ArrayLike,
    size: IntOrPair,
    *,
    stride: IntOrPair | None = None,
    pad: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
) -> Array:
    """The largest byte of each window of x (N, C, H, W) uint8, as :func:`max_pool2d` has windows; 0 for one wholly in
    the padding. Returns (N, C, OH, OW) uint8 in channels-last memory."""
    op = "max_pool2d_int8"
    x = _typed(x, _BYTE, f"{op}: x")
    geometry = pool_parameters(op, size, stride, pad, dilation)
    ceil_mode, choice = bool(ceil_mode), choice_for(x)
    key = (op, x.shape, x.strides, geometry, ceil_mode, choice)
    found: Plan | None = plans.get(key)
    if found is None:
        fields, shape = pool_fields(op, x.shape, geometry, ceil_mode)
        problem = Problem(op, "forward", (x.shape,), "uint8", (memory_order(x),), **fields)
        found = remember(key, plan(problem, layout(shape, _BYTE, "nhwc"), choice))
    problem, kernel, wanted = found
    out = wanted.empty()
    kernel(problem, x, out, backend.get_num_threads())
    return out
