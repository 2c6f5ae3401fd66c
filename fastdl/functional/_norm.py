"""Batch normalisation and local response normalisation."""

from __future__ import annotations

import math
from operator import index
from typing import Any

from .._array import assign, reshaped
from ._call import (
    COMPUTE,
    Array,
    ArrayLike,
    Problem,
    as_array,
    backend,
    choice_for,
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
    vector,
)


def _features(x: Array, op: str) -> int:
    if x.ndim < 2:
        raise ValueError(f"{op}: x must have shape (N, features, ...), got {x.shape}")
    return x.shape[1]


def _image(a: Array) -> Array:
    """An array with other axes than (N, D) or (N, D, H, W), which are those that kernels take, as (N, D, 1, pixels)."""
    return reshaped(a, (*a.shape[:2], 1, math.prod(a.shape[2:])))


def _restored(found: Array, x: Array, out: Array | None, op: str, inputs: tuple[Array, ...]) -> Array:
    """What came of the image of ``x``, in the shape of x: a view, or written to ``out``, which is checked first."""
    found = reshaped(found, x.shape)
    if out is None:
        return found
    out = output(out, layout(x.shape, x.dtype, like=x), op, inputs)
    assign(out, found)
    return out


def _plan(direction: str, x: Array, gamma: Array, eps: float, op: str) -> Any:
    """A plan for ``direction`` whose output is like x, the layout of a statistic, and that of gamma's gradient."""
    eps, choice = float(eps), choice_for(x)
    key = (op, x.shape, x.strides, x.dtype, gamma.dtype, eps, choice)
    found = plans.get(key)
    if found is None:
        if not eps >= 0:
            raise ValueError(f"{op}: eps must be at least 0, not {eps}")
        if direction != "inference" and x.size == 0 != x.shape[1]:
            raise ValueError(f"{op}: x {x.shape} has no elements to take statistics of")
        attrs = (("eps", eps),)
        problem = Problem("batch_norm", direction, (x.shape,), x.dtype.name, (memory_order(x),), attrs=attrs)
        statistic = layout(gamma.shape, np.dtype(COMPUTE[x.dtype.name]), on=x)
        out = layout(x.shape, x.dtype, like=x)
        found = remember(key, (plan(problem, out, choice), statistic, layout(gamma.shape, gamma.dtype, on=x)))
    return found


def batch_norm(
    x: ArrayLike, gamma: ArrayLike, beta: ArrayLike, *, eps: float = 1e-5, out: Array | None = None
) -> tuple[Array, Array, Array]:
    """Batch normalisation with the statistics of the batch, as in training.

    ::

        out = gamma * (x - mean) / sqrt(var + eps) + beta

    with mean and biased variance over every axis but axis 1 (Ioffe and Szegedy, arXiv:1502.03167, algorithm 1).

    Parameters
    ----------
    x
        (N, D, ...): per channel for (N, C, H, W), per feature for (N, D). Any memory order.
    gamma, beta
        (D,). Their dtypes do not widen the result.
    out
        Where the result goes: an array of x's shape and dtype, apart from the inputs.

    Returns
    -------
    out
        Shape, dtype and memory order of x.
    mean, var
        (D,), in the dtype of the sums: float64 for float64, else float32.

    Raises ``ValueError`` where x has no elements to take statistics of.
    """
    op = "batch_norm"
    x = one(x, op)
    features = _features(x, op)
    gamma = vector(gamma, features, x.dtype, f"{op}: gamma", x)
    beta = vector(beta, features, x.dtype, f"{op}: beta", x)
    if x.ndim not in (2, 4):
        found, mean, var = batch_norm(_image(x), gamma, beta, eps=eps)
        return _restored(found, x, out, op, (x, gamma, beta)), mean, var
    (problem, kernel, wanted), statistic, _ = _plan("forward", x, gamma, eps, op)
    out = wanted.empty() if out is None else output(out, wanted, op, (x, gamma, beta))
    mean, var = statistic.empty(), statistic.empty()
    kernel(problem, x, gamma, beta, out, mean, var, backend.get_num_threads())
    return out, mean, var


def batch_norm_inference(
    x: ArrayLike,
    gamma: ArrayLike,
    beta: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    *,
    eps: float = 1e-5,
    out: Array | None = None,
) -> Array:
    """``gamma * (x - mean) / sqrt(var + eps) + beta`` with given statistics, (D,) like gamma and beta.

    x is (N, D, ...), and may be empty. Returns x's shape, dtype and memory order.
    """
    op = "batch_norm_inference"
    x = one(x, op)
    features = _features(x, op)
    gamma = vector(gamma, features, x.dtype, f"{op}: gamma", x)
    beta = vector(beta, features, x.dtype, f"{op}: beta", x)
    if x.ndim not in (2, 4):
        found = batch_norm_inference(_image(x), gamma, beta, mean, var, eps=eps)
        return _restored(found, x, out, op, (x, gamma, beta, as_array(mean, op, x), as_array(var, op, x)))
    (problem, kernel, wanted), statistic, _ = _plan("inference", x, gamma, eps, op)
    mean = to_dtype(vector(mean, features, x.dtype, f"{op}: mean", x), statistic.dtype)
    var = to_dtype(vector(var, features, x.dtype, f"{op}: var", x), statistic.dtype)
    out = wanted.empty() if out is None else output(out, wanted, op, (x, gamma, beta, mean, var))
    kernel(problem, x, gamma, beta, mean, var, out, backend.get_num_threads())
    return out


def batch_norm_backward(
    dout: ArrayLike, x: ArrayLike, gamma: ArrayLike, mean: ArrayLike, var: ArrayLike, *, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """The gradients of ``sum(batch_norm(x, gamma, beta)[0] * dout)`` by x, gamma and beta, through the statistics.

    mean and var are what :func:`batch_norm` returned, eps what it got. Returns dx (shape, dtype and memory order of x),
    dgamma and dbeta, (D,) in the dtype of gamma.
    """
    op = "batch_norm_backward"
    own = getattr(gamma, "dtype", None)
    x = one(x, op)
    features = _features(x, op)
    dout = one(dout, op, "dout", x.dtype, x)
    expect_shape(dout.shape, x.shape, op, "dout")
    if x.ndim not in (2, 4):
        dx, dgamma, dbeta = batch_norm_backward(_image(dout), _image(x), gamma, mean, var, eps=eps)
        return reshaped(dx, x.shape), dgamma, dbeta
    gamma = vector(gamma, features, x.dtype, f"{op}: gamma", x)
    (problem, kernel, wanted), statistic, parameter = _plan("backward", x, gamma, eps, op)
    mean = to_dtype(vector(mean, features, x.dtype, f"{op}: mean", x), statistic.dtype)
    var = to_dtype(vector(var, features, x.dtype, f"{op}: var", x), statistic.dtype)
    dx, dgamma, dbeta = wanted.empty(), parameter.empty(), parameter.empty()
    kernel(problem, dout, x, gamma, mean, var, dx, dgamma, dbeta, backend.get_num_threads())
    if own is not gamma.dtype:
        dtype = gradient_dtype(own, gamma.dtype)
        dgamma, dbeta = to_dtype(dgamma, dtype), to_dtype(dbeta, dtype)
    return dx, dgamma, dbeta


def _response_problem(direction: str, x: Array, size: Any, alpha: Any, beta: Any, k: Any, op: str) -> Problem:
    _features(x, op)
    try:
        count = index(size)
    except TypeError:
        raise TypeError(f"{op}: size must be an int, not {size!r}") from None
    if count < 1:
        raise ValueError(f"{op}: size must be at least 1, not {count}")
    attrs = (("alpha", float(alpha)), ("beta", float(beta)), ("k", float(k)), ("size", count))
    return Problem("local_response_norm", direction, (x.shape,), x.dtype.name, (memory_order(x),), attrs=attrs)


def local_response_norm(
    x: ArrayLike, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0, *, out: Array | None = None
) -> Array:
    """Normalisation by neighbouring channels.

    ::

        out[:, c] = x[:, c] / (k + alpha / size * s[:, c]) ** beta
        s[:, c] = sum of x[:, j] ** 2 over c - (size - 1) // 2 <= j <= c + size // 2

    alpha is divided by size, as in ONNX and PyTorch. AlexNet's paper (Krizhevsky, Sutskever and Hinton, 2012, section
    3.3) does not divide: its alpha = 1e-4 with n = 5 is ``alpha=5e-4`` here. x is (N, C, ...); returns its shape, dtype
    and memory order.
    """
    op = "local_response_norm"
    x = one(x, op)
    problem = _response_problem("forward", x, size, alpha, beta, k, op)
    if x.ndim not in (2, 4):
        return _restored(local_response_norm(_image(x), size, alpha, beta, k), x, out, op, (x,))
    wanted = layout(x.shape, x.dtype, like=x)
    out = wanted.empty() if out is None else output(out, wanted, op, (x,))
    backend.run(problem, x, out)
    return out


def local_response_norm_backward(
    dout: ArrayLike, x: ArrayLike, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> Array:
    """The gradient of ``sum(local_response_norm(x, ...) * dout)`` by x: its shape, dtype and memory order."""
    op = "local_response_norm_backward"
    x = one(x, op)
    dout = one(dout, op, "dout", x.dtype, x)
    expect_shape(dout.shape, x.shape, op, "dout")
    problem = _response_problem("backward", x, size, alpha, beta, k, op)
    if x.ndim not in (2, 4):
        return reshaped(local_response_norm_backward(_image(dout), _image(x), size, alpha, beta, k), x.shape)
    dx = layout(x.shape, x.dtype, like=x).empty()
    backend.run(problem, dout, x, dx)
    return dx
