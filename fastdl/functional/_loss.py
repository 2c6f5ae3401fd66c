"""Softmax, and softmax cross entropy."""

from __future__ import annotations

from typing import Any

from .. import _device
from .._array import float_dtype, reshaped
from ._call import (
    COMPUTE,
    Array,
    ArrayLike,
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
    to_dtype,
)


def _rows(a: Array, axis: int) -> Array:
    """``a`` as a matrix whose rows run along ``axis``: a view where its memory allows one."""
    moved = a.transpose((*range(axis), *range(axis + 1, a.ndim), axis))
    return reshaped(moved, (moved.size // moved.shape[-1] if moved.size else 0, moved.shape[-1]))


def _like(a: Array, axis: int) -> tuple[Array, Array]:
    """A new array of the shape of ``a`` with ``axis`` innermost in memory, and the same as a matrix of rows."""
    shape, last = a.shape, a.ndim - 1
    memory = layout((*shape[:axis], *shape[axis + 1 :], shape[axis]), a.dtype, on=a).empty()
    return memory.transpose((*range(axis), last, *range(axis, last))), _rows(memory, last)


def softmax(x: ArrayLike, axis: int = -1) -> Array:
    """``exp(x - max(x)) / sum(exp(x - max(x)))`` along ``axis``.

    Returns x's shape and dtype, with ``axis`` innermost in memory: channels-last for axis 1 of (N, C, H, W).
    """
    op = "softmax"
    x = one(x, op)
    along = axis_index(axis, x.ndim, op)
    rows = _rows(x, along)
    out, out_rows = _like(x, along)
    backend.run(Problem(op, "forward", (rows.shape,), x.dtype.name, (memory_order(rows),)), rows, out_rows)
    return out


def softmax_backward(dout: ArrayLike, y: ArrayLike, axis: int = -1) -> Array:
    """``y * (dout - sum(dout * y))`` along ``axis``: the gradient of ``sum(softmax(x) * dout)`` by x.

    ``y`` is ``softmax(x)``. Returns y's shape and dtype, with ``axis`` innermost in memory.
    """
    op = "softmax_backward"
    y = one(y, op, "y")
    dout = one(dout, op, "dout", y.dtype, y, "y")
    expect_shape(dout.shape, y.shape, op, "dout")
    along = axis_index(axis, y.ndim, op)
    rows, dout_rows = _rows(y, along), _rows(dout, along)
    dx, dx_rows = _like(y, along)
    orders = (memory_order(dout_rows), memory_order(rows))
    backend.run(Problem("softmax", "backward", (rows.shape,), y.dtype.name, orders), dout_rows, rows, dx_rows)
    return dx


def _labels(t: Any, shape: Shape, op: str) -> Array:
    """``t`` as int64 class numbers (N,), checked."""
    t = as_array(t, f"{op}: t")
    n, classes = shape
    if t.shape == shape and classes > 1:
        ones = t == 1
        if not ((ones | (t == 0)).all() and (np.count_nonzero(ones, axis=1) == 1).all()):
            raise ValueError(f"{op}: each row of a one-hot t must hold one 1 and otherwise 0")
        return ones.argmax(axis=1).astype(np.int64, copy=False)
    if t.shape not in ((n,), (n, 1)):
        raise ValueError(f"{op}: t must be class numbers ({n},) or ({n}, 1), or one-hot {shape}, got {t.shape}")
    if classes == 1 and t.ndim == 2 and (t == 1).all():  # one-hot with a single class
        return np.zeros(n, np.int64)
    if t.dtype.kind not in "iu":
        raise TypeError(f"{op}: t must hold integer class numbers, got {t.dtype}")
    if n and (t.min() < 0 or t.max() >= classes):
        raise ValueError(f"{op}: t must hold classes from 0 to {classes - 1}, got {t.min()} to {t.max()}")
    return np.ascontiguousarray(t.reshape(n), np.int64)


def device_labels(t: Any, shape: Shape, op: str, beside: Array, name: str = "x") -> Array:
    """``t`` as int64 class numbers (N,) on the device of ``beside``; shapes and dtypes are checked, values are not."""
    from ..kernels.device import _cuda as kernels

    t = as_array(t, f"{op}: t", beside)
    expect_beside(op, "t", t, name, beside)
    n, classes = shape
    if t.size == n * classes and classes > 1 and n:
        t = reshaped(t, shape)
        found = layout((n,), np.dtype(np.int64), on=t).empty()
        kernels.argmax(t, found)
        return found
    if t.shape not in ((n,), (n, 1)):
        raise ValueError(f"{op}: t must be class numbers ({n},) or ({n}, 1), or one-hot {shape}, got {t.shape}")
    if t.dtype.kind not in "iu":
        raise TypeError(f"{op}: t must hold integer class numbers, got {t.dtype}")
    t = reshaped(t, (n,))
    if t.dtype == np.int64:
        return t
    found = layout((n,), np.dtype(np.int64), on=t).empty()
    kernels.labels(t, found)
    return found


def _expect_matrix(shape: Shape, op: str, name: str) -> None:
    if len(shape) != 2 or shape[1] == 0:
        raise ValueError(f"{op}: {name} must have shape (N, classes) with at least one class, got {shape}")


def softmax_cross_entropy(x: ArrayLike, t: ArrayLike) -> tuple[Any, Array]:
    """The mean over the rows of ``log(sum(exp(x))) - x[label]``, and the softmax of x.

    It is worked out from the logits and so exact also where the label's probability underflows. (The book's layer adds
    1e-7 to the probability instead; see ``fastdl.layers.SoftmaxWithLoss``.)

    Parameters
    ----------
    x
        (N, classes): logits.
    t
        Class numbers, integers of shape (N,) or (N, 1), or one-hot (N, classes) of any dtype. Both are checked. On a
        device their values are not: a label outside the classes makes NaN of the loss, and the largest element of a
        row of a one-hot t counts.

    Returns
    -------
    loss
        A NumPy scalar in the dtype of the sums: float64 for float64, else float32. NaN for an empty batch. On a device
        a CuPy array without dimensions, which nobody has waited for.
    probabilities
        (N, classes) in that dtype.
    """
    op = "softmax_cross_entropy"
    x = one(x, op)
    _expect_matrix(x.shape, op, "x")
    if is_device(x):
        from ..kernels.device import _cuda as kernels

        losses, probabilities = cross_entropy_rows(x, device_labels(t, x.shape, op, x))
        loss = layout((), probabilities.dtype, on=x).empty()
        kernels.mean(losses, loss)
        return loss, probabilities
    losses, probabilities = cross_entropy_rows(x, _labels(t, x.shape, op))
    mean = losses.sum(dtype=np.float64) / x.shape[0] if x.shape[0] else np.nan
    return probabilities.dtype.type(mean), probabilities


def cross_entropy_rows(x: Array, labels: Array) -> tuple[Array, Array]:
    """The loss of each row and the softmax; ``x`` is a matrix of a float dtype, ``labels`` are checked int64 (N,)."""
    choice = choice_for(x)
    key = ("softmax_cross_entropy", x.shape, x.strides, x.dtype, choice)
    found = plans.get(key)
    if found is None:
        compute = np.dtype(COMPUTE[x.dtype.name])
        problem = Problem("softmax_cross_entropy", "forward", (x.shape,), x.dtype.name, (memory_order(x),))
        found = remember(
            key, (plan(problem, layout(x.shape, compute, on=x), choice), layout(x.shape[:1], compute, on=x))
        )
    (problem, kernel, wanted), wanted_losses = found
    losses, probabilities = wanted_losses.empty(), wanted.empty()
    kernel(problem, x, labels, losses, probabilities, backend.get_num_threads())
    return losses, probabilities


def softmax_cross_entropy_backward(
    probabilities: ArrayLike, t: ArrayLike, dout: ArrayLike = 1.0, dtype: Any = None, *, out: Array | None = None
) -> Array:
    """``(probabilities - one_hot(t)) * dout / N``, the gradient of :func:`softmax_cross_entropy` by its logits.

    ``dout`` is a number or an array of one element. ``dtype`` is that of the logits; None takes that of the
    probabilities, which differs for float16 and bfloat16. Returns (N, classes).
    """
    op = "softmax_cross_entropy_backward"
    probabilities = one(probabilities, op, "probabilities")
    storage = probabilities.dtype if dtype is None else float_dtype(dtype, f"{op}: dtype")
    compute = np.dtype(COMPUTE[storage.name])
    probabilities = to_dtype(probabilities, compute)
    _expect_matrix(probabilities.shape, op, "probabilities")
    dout = one(dout, op, "dout")
    if dout.size != 1:
        raise ValueError(f"{op}: dout must be one number, got shape {dout.shape}")
    if is_device(probabilities):
        labels = device_labels(t, probabilities.shape, op, probabilities, "probabilities")
        if is_device(dout):
            return cross_entropy_rows_backward(probabilities, labels, to_dtype(dout, compute), storage, out)
    else:
        labels = _labels(t, probabilities.shape, op)
        if is_device(dout):
            expect_beside(op, "dout", dout, "probabilities", probabilities)
    return cross_entropy_rows_backward(probabilities, labels, float(dout.reshape(())), storage, out)


def cross_entropy_rows_backward(
    probabilities: Array, labels: Array, dout: Any, storage: np.dtype[Any], out: Array | None = None
) -> Array:
    """The gradient by the logits, of dtype ``storage``; probabilities are of its compute dtype, labels are checked.

    ``dout`` is a number, or beside probabilities on a device an array of one in their dtype.
    """
    shape, choice = probabilities.shape, choice_for(probabilities)
    key = ("softmax_cross_entropy_backward", shape, probabilities.strides, storage, choice)
    found = plans.get(key)
    if found is None:
        orders = (memory_order(probabilities),)
        problem = Problem("softmax_cross_entropy", "backward", (shape,), storage.name, orders)
        found = remember(key, plan(problem, layout(shape, storage, on=probabilities), choice))
    problem, kernel, wanted = found
    scale: Any
    if not is_device(probabilities):
        scale = np.full(1, dout / max(shape[0], 1), probabilities.dtype)
    elif not is_device(dout):
        scale = _device.constant(dout / max(shape[0], 1), probabilities.dtype)
    else:
        from ..kernels.device import _cuda as kernels

        scale = layout((1,), probabilities.dtype, on=probabilities).empty()
        kernels.scaled(dout, 1 / max(shape[0], 1), scale)
    out = wanted.empty() if out is None else output(out, wanted, key[0], (probabilities, labels))
    kernel(problem, probabilities, labels, scale, out, backend.get_num_threads())
    return out
