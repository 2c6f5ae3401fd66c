"""The optimizers and unscale in Numba; the contract is the folder's docstring.

All arrays that lie dense are updated in one call of a kernel, whose tasks are their elements, one array after the
other; each of the others has a call of its own. The scalars of a formula are worked out in float64 and come rounded, as
``numbers``.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.np.arrayobj import make_array, populate_array

from .._common.jit import bits, compute_dtype, inline, intrinsic, kernel, multiply_add, narrow, round_to_odd, widen
from .._common.tasks import parallel, pieces
from ..problem import Problem
from .reference import adam_rate

Arrays = Sequence[np.ndarray]
SGD, MOMENTUM, NESTEROV, ADAGRAD, RMSPROP, ADAM = range(6)
#: Nanoseconds of an element on one thread.
_COST = (0.15, 0.2, 0.25, 0.4, 0.4, 0.4)
_UNSCALE_COST = {2: 0.6, 4: 0.15, 8: 0.3}  # by the bytes of an element

# ---- arrays of one call -------------------------------------------------------------------------------------------

#: What NumPy's macros read: in an array object the address of its elements comes after the head of every object, its
#: flags 48 bytes later. (Asking each array in Python takes as long as a step of a small net.)
_HEAD, _FLAGS, _C_CONTIGUOUS = object.__basicsize__, 48, 1


def _layout_is_known() -> bool:
    sample = np.zeros((2, 3))
    if ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    data, flags = id(sample) + _HEAD, id(sample) + _HEAD + _FLAGS
    found = ctypes.c_int64.from_address(data).value, ctypes.c_int32.from_address(flags).value
    return found == (sample.__array_interface__["data"][0], sample.flags.num)


_KNOWN = _layout_is_known()


@intrinsic
def _word(context: Any, address: Any) -> Any:
    """The int64 at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()))

    return types.int64(types.int64), generate


@intrinsic
def _half_word(context: Any, address: Any) -> Any:
    """The int32 at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(32).as_pointer()))

    return types.int32(types.int64), generate


@intrinsic
def _line(context: Any, address: Any, first: Any, last: Any, like: Any) -> Any:
    """Elements first to last - 1 of those at an address, which have the dtype of ``like``."""
    found = types.Array(like.dtype, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, first, last, _ = arguments
        array, size = make_array(found)(context, builder), address.type(like.dtype.bitwidth // 8)
        data = builder.inttoptr(builder.add(address, builder.mul(first, size)), array.data.type)
        populate_array(array, data, [builder.sub(last, first)], [size], size, None)
        return array._getvalue()

    return found(types.int64, types.int64, types.int64, like), generate


@kernel
def _gather(table):
    """Rows of ids of arrays become addresses of their elements, the last row, their sizes, running sums.

    Returns the sum of all, -1 if an array is not C-contiguous.
    """
    operands, total = table.shape[0] - 1, 0
    for i in range(table.shape[1]):
        for k in range(operands):
            data = table[k, i] + _HEAD
            if not _half_word(data + _FLAGS) & _C_CONTIGUOUS:
                return -1
            table[k, i] = _word(data)
        total += table[operands, i]
        table[operands, i] = total
    return total


def _table(lists: Sequence[Arrays]) -> tuple[np.ndarray, int]:
    """For a kernel of the next section: the addresses of the arrays, row by row, and where each parameter ends.

    Also how many elements there are, -1 if they do not all lie dense. The arrays have to live as long as the table.
    """
    table = np.array([*[[*map(id, arrays)] for arrays in lists], [p.size for p in lists[-1]]], np.int64)
    if _KNOWN:
        return table, _gather(table)
    if not all(a.flags.c_contiguous for arrays in lists for a in arrays):
        return table, -1
    table[:-1] = [[a.__array_interface__["data"][0] for a in arrays] for arrays in lists]
    table[-1] = np.cumsum(table[-1])
    return table, int(table[-1, -1])


# ---- formulas -------------------------------------------------------------------------------------------------------


@inline
def _sgd(rate, p, g):
    return p - rate * g


@inline
def _one_state(rule, n, p, g, s):
    """The parameter and its state after a step."""
    if rule == MOMENTUM:
        s = multiply_add(n[1], s, -n[0] * g)
        return p + s, s
    if rule == NESTEROV:
        return p + n[2] * s - n[3] * g, multiply_add(n[1], s, -n[0] * g)
    if rule == ADAGRAD:
        s = s + g * g
    else:
        s = multiply_add(n[1], s, n[2] * g * g)
    return p - n[0] * g / (math.sqrt(s) + n[3]), s


@inline
def _adam(n, p, g, m, v):
    m = m + n[1] * (g - m)
    v = v + n[2] * (g * g - v)
    return p - n[0] * m / (math.sqrt(v) + n[3]), m, v


# ---- kernels --------------------------------------------------------------------------------------------------------


@inline
def _part(first, last, table, i):
    """What the elements first to last - 1 of all have of array i: a range of its own."""
    start = table[-1, i - 1] if i else 0
    return max(first - start, 0), min(last, table[-1, i]) - start


@kernel
def _sgd_line(first, last, rule, n, table):
    rate = n[0]
    for i in range(table.shape[1]):
        a, b = _part(first, last, table, i)
        if a < b:
            g, p = _line(table[0, i], a, b, n), _line(table[1, i], a, b, n)
            for j in range(p.size):
                p[j] = _sgd(rate, p[j], g[j])


@kernel
def _sgd_grid(first, last, rule, n, g, p):
    for t in range(first, last):
        i, j = divmod(t, p.shape[1])
        for k in range(p.shape[2]):
            for m in range(p.shape[3]):
                p[i, j, k, m] = _sgd(n[0], p[i, j, k, m], g[i, j, k, m])


@kernel
def _one_line(first, last, rule, n, table):
    numbers = (n[0], n[1], n[2], n[3])
    for i in range(table.shape[1]):
        a, b = _part(first, last, table, i)
        if a < b:
            g, s, p = _line(table[0, i], a, b, n), _line(table[1, i], a, b, n), _line(table[2, i], a, b, n)
            for j in range(p.size):
                p[j], s[j] = _one_state(rule, numbers, p[j], g[j], s[j])


@kernel
def _one_grid(first, last, rule, n, g, s, p):
    for t in range(first, last):
        i, j = divmod(t, p.shape[1])
        for k in range(p.shape[2]):
            for m in range(p.shape[3]):
                p[i, j, k, m], s[i, j, k, m] = _one_state(rule, n, p[i, j, k, m], g[i, j, k, m], s[i, j, k, m])


@kernel
def _adam_line(first, last, rule, n, table):
    numbers = (n[0], n[1], n[2], n[3])
    for i in range(table.shape[1]):
        a, b = _part(first, last, table, i)
        if a < b:
            g, m = _line(table[0, i], a, b, n), _line(table[1, i], a, b, n)
            v, p = _line(table[2, i], a, b, n), _line(table[3, i], a, b, n)
            for j in range(p.size):
                p[j], m[j], v[j] = _adam(numbers, p[j], g[j], m[j], v[j])


@kernel
def _adam_grid(first, last, rule, n, g, m, v, p):
    for t in range(first, last):
        i, j = divmod(t, p.shape[1])
        for k in range(p.shape[2]):
            for q in range(p.shape[3]):
                p[i, j, k, q], m[i, j, k, q], v[i, j, k, q] = _adam(
                    n, p[i, j, k, q], g[i, j, k, q], m[i, j, k, q], v[i, j, k, q]
                )


def _run(line, grid, rule: int, numbers: tuple[float, ...], threads: int, params: Arrays, *others: Arrays) -> None:
    """A step of all parameters, with their gradients and states."""
    if not params:
        return
    lists: tuple[Arrays, ...] = (*others, params)
    rounded = np.array(numbers, params[0].dtype)
    table, total = _table(lists)
    if total < 0:
        views = [each for arrays in zip(*lists, strict=True) for each in pieces(*arrays)]
        for each in views:
            size, out = each[-1].size, each[-1]
            if out.ndim > 1:
                parallel(grid, out.shape[0] * out.shape[1], threads, _COST[rule] * size, rule, rounded, *each)
        lists = tuple(zip(*[each for each in views if each[-1].ndim == 1], strict=True))
        table, total = _table(lists) if lists else (table, 0)
    if total > 0:
        parallel(line, total, threads, _COST[rule] * total, rule, rounded, table)


def sgd_step(problem: Problem, params: Arrays, grads: Arrays, lr: np.ndarray, threads: int) -> None:
    """p -= lr * g."""
    _run(_sgd_line, _sgd_grid, SGD, (lr.item(),), threads, params, grads)


def momentum_step(problem: Problem, params: Arrays, grads: Arrays, v: Arrays, lr: np.ndarray, threads: int) -> None:
    """v = momentum * v - lr * g; p += v."""
    numbers = (lr.item(), problem.attr("momentum"), 0.0, 0.0)
    _run(_one_line, _one_grid, MOMENTUM, numbers, threads, params, grads, v)


def nesterov_step(problem: Problem, params: Arrays, grads: Arrays, v: Arrays, lr: np.ndarray, threads: int) -> None:
    """p += momentum**2 * v - (1 + momentum) * lr * g; v = momentum * v - lr * g."""
    rate, momentum = lr.item(), problem.attr("momentum")
    numbers = (rate, momentum, momentum * momentum, (1.0 + momentum) * rate)
    _run(_one_line, _one_grid, NESTEROV, numbers, threads, params, grads, v)


def adagrad_step(problem: Problem, params: Arrays, grads: Arrays, h: Arrays, lr: np.ndarray, threads: int) -> None:
    """h += g * g; p -= lr * g / (sqrt(h) + eps)."""
    numbers = (lr.item(), 0.0, 0.0, problem.attr("eps"))
    _run(_one_line, _one_grid, ADAGRAD, numbers, threads, params, grads, h)


def rmsprop_step(problem: Problem, params: Arrays, grads: Arrays, h: Arrays, lr: np.ndarray, threads: int) -> None:
    """h = decay * h + (1 - decay) * g * g; p -= lr * g / (sqrt(h) + eps)."""
    decay = problem.attr("decay_rate")
    numbers = (lr.item(), decay, 1.0 - decay, problem.attr("eps"))
    _run(_one_line, _one_grid, RMSPROP, numbers, threads, params, grads, h)


def adam_step(
    problem: Problem,
    params: Arrays,
    grads: Arrays,
    m: Arrays,
    v: Arrays,
    lr: np.ndarray,
    step: np.ndarray,
    threads: int,
) -> None:
    """m += (1 - beta1) * (g - m); v += (1 - beta2) * (g * g - v); p -= rate * m / (sqrt(v) + eps)."""
    beta1, beta2 = problem.attr("beta1"), problem.attr("beta2")
    numbers = (adam_rate(lr.item(), beta1, beta2, step.item()), 1.0 - beta1, 1.0 - beta2, problem.attr("eps"))
    _run(_adam_line, _adam_grid, ADAM, numbers, threads, params, grads, m, v)


# ---- unscale --------------------------------------------------------------------------------------------------------


@inline
def _unscaled(g, by, a):
    """An element of ``a``, wide, after its product; and whether it was infinite or NaN."""
    return narrow(round_to_odd(g * by, a), a), g - g != 0


@kernel
def _unscale_line(first, last, by, like, table, overflow):
    found = False
    for i in range(table.shape[1]):
        a, b = _part(first, last, table, i)
        if a < b:
            g = _line(table[0, i], a, b, like)
            for j in range(g.size):
                g[j], here = _unscaled(widen(g[j]), by, g)
                found |= here
    if found:
        overflow[0] = 1


@kernel
def _unscale_grid(first, last, by, g, overflow):
    found = False
    for t in range(first, last):
        i, j = divmod(t, g.shape[1])
        for k in range(g.shape[2]):
            for m in range(g.shape[3]):
                g[i, j, k, m], here = _unscaled(widen(g[i, j, k, m]), by, g)
                found |= here
    if found:
        overflow[0] = 1


def unscale_step(problem: Problem, grads: Arrays, scale: np.ndarray, overflow: np.ndarray, threads: int) -> None:
    """overflow = 1 if some g is infinite or NaN, else 0; g *= 1 / scale."""
    overflow[0] = 0
    if not grads:
        return
    like = bits(grads[0][:0] if grads[0].ndim else grads[0].reshape(1)[:0])
    with np.errstate(all="ignore"):
        by = compute_dtype(grads[0]).type(1.0 / scale[0])
    if like.itemsize == 2:  # a product in float64 is exact
        by = np.float64(by)
    cost = _UNSCALE_COST[like.itemsize]
    table, total = _table((grads,))
    if total < 0:
        views = [view for g in grads for (view,) in pieces(bits(g))]
        for view in views:
            if view.ndim > 1:
                tasks = view.shape[0] * view.shape[1]
                parallel(_unscale_grid, tasks, threads, cost * view.size, by, view, overflow)
        dense = [view for view in views if view.ndim == 1]
        table, total = _table((dense,)) if dense else (table, 0)
    if total > 0:
        parallel(_unscale_line, total, threads, cost * total, by, like, table, overflow)
