"""What the functions share: operands, outputs, and the plans that make a repeated call cheap."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from operator import index
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from .. import backend
from .._array import (
    FLOATS,
    Array,
    DeviceLayout,
    Layout,
    Shape,
    address,
    as_array,
    expect_beside,
    is_device,
    layout,
    prepare,
    result_dtype,
    share_memory,
)
from ..kernels.geometry import Pads, Pair, four_pads, pair
from ..kernels.problem import COMPUTE, FLOAT8, Problem, memory_order

__all__ = [
    "COMPUTE",
    "Array",
    "ArrayLike",
    "Layout",
    "Plan",
    "Problem",
    "Shape",
    "as_array",
    "as_pads",
    "as_pair",
    "axis_index",
    "backend",
    "checked_need",
    "choice_for",
    "expect_4d",
    "expect_beside",
    "expect_shape",
    "gradient_dtype",
    "is_device",
    "layout",
    "memory_order",
    "np",
    "one",
    "output",
    "plan",
    "plans",
    "remember",
    "to_dtype",
    "two",
    "vector",
]

_ndarray = np.ndarray
choice_for = backend.choice_for
T = TypeVar("T")

# ---- plans ----------------------------------------------------------------------------------------------------------

# Everything about a call that follows from shapes, strides, dtypes and parameters is checked and worked out once, and
# looked up afterwards: 0.5 microseconds instead of some 20. A key names all that its plan depends on, backend.Choice
# included.
plans: dict[Hashable, Any] = {}


def remember(key: Hashable, plan: T) -> T:
    """Stores a plan. A full table is emptied: a program with a fixed set of nets never fills it."""
    if len(plans) >= 4096:
        plans.clear()
    plans[key] = plan
    return plan


class Plan(NamedTuple):
    """One kernel call: its description, its function, the layout of its output."""

    problem: Problem
    kernel: Callable[..., None]
    out: Layout


def plan(problem: Problem, out: Layout, choice: backend.Choice) -> Plan:
    """A plan that runs ``problem`` with the settings ``choice``."""
    return Plan(problem, backend.kernel(problem, choice), out)


# ---- operands -------------------------------------------------------------------------------------------------------


def one(
    a: Any,
    op: str,
    name: str = "x",
    dtype: np.dtype[Any] | None = None,
    beside: Array | None = None,
    beside_name: str = "x",
) -> Array:
    """``a`` as an array that a kernel takes, of ``dtype`` or of the dtype that a result of ``a`` alone has.

    It has to be where the array ``beside`` is, which messages call ``beside_name``.
    """
    if (
        type(a) is _ndarray
        and (a.dtype is dtype or (dtype is None and a.dtype in FLOATS))
        and a.flags.aligned
        and (beside is None or type(beside) is _ndarray)
    ):
        return a
    a = as_array(a, f"{op}: {name}", beside)
    if beside is not None:
        expect_beside(op, name, a, beside_name, beside)
    if type(a) is not _ndarray and a.dtype in FLOATS and (dtype is None or a.dtype == dtype):
        return a  # CuPy's are aligned and in native byte order
    own = result_dtype(a, what=f"{op}: {name}")
    return prepare(a, own if dtype is None else dtype)


def two(a: Any, b: Any, op: str, names: str) -> tuple[Array, Array]:
    """Both arrays in the dtype of a result of the two; ``names`` is what messages call them."""
    if (
        type(a) is _ndarray
        and type(b) is _ndarray
        and a.dtype is b.dtype
        and a.dtype in FLOATS
        and a.flags.aligned
        and b.flags.aligned
    ):
        return a, b
    first, second = names.split()
    a, b = as_array(a, f"{op}: {first}", b), as_array(b, f"{op}: {second}", a)
    expect_beside(op, first, a, second, b)
    if type(a) is not _ndarray and a.dtype in FLOATS and a.dtype == b.dtype:
        return a, b
    result_dtype(a, what=f"{op}: {first}")
    result_dtype(b, what=f"{op}: {second}")
    dtype = result_dtype(a, b, what=f"{op}: {first} with {second}")
    return prepare(a, dtype), prepare(b, dtype)


def vector(v: Any, size: int, storage: np.dtype[Any], what: str, beside: Array) -> Array:
    """A bias, gamma or statistic of ``size`` elements where ``beside`` is; a dtype wider than the one of the sums is
    rounded to that."""
    if (
        type(v) is _ndarray
        and v.dtype is storage
        and v.shape == (size,)
        and v.flags.aligned
        and type(beside) is _ndarray
    ):
        return v
    v = as_array(v, what, beside)
    op, _, name = what.partition(": ")
    expect_beside(op, name, v, "x", beside)
    if v.shape != (size,):
        raise ValueError(f"{what} must have shape ({size},), got {v.shape}")
    dtype = result_dtype(v, what=what)
    compute = np.dtype(COMPUTE[storage.name])
    # Beside other dtypes than its own no kernel reads float8.
    foreign = dtype.name in FLOAT8 and storage.name not in FLOAT8
    return prepare(v, compute if foreign or dtype.itemsize > compute.itemsize else dtype)


def gradient_dtype(own: np.dtype[Any] | None, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Dtype of the gradient of a tensor of dtype ``own``: that, or ``dtype`` where the tensor holds integers."""
    return own.newbyteorder("=") if own is not None and own.name in COMPUTE else dtype


def to_dtype(a: Array, dtype: np.dtype[Any]) -> Array:
    """``a`` rounded to ``dtype``; itself where it has that already."""
    return a if a.dtype is dtype else prepare(a, dtype)


# ---- parameters -----------------------------------------------------------------------------------------------------


def as_pair(value: Any, what: str) -> int | Pair:
    """An int as it is, anything else as a checked pair: equal keys then mean equal geometry (1.0 == 1 does not)."""
    return value if type(value) is int else pair(value, what)


def as_pads(value: Any, what: str) -> int | Pads:
    """An int as it is, anything else as four checked sides."""
    return value if type(value) is int else four_pads(value, what)


def axis_index(axis: Any, ndim: int, op: str) -> int:
    """``axis`` counted from the front."""
    try:
        value = index(axis)
    except TypeError:
        raise TypeError(f"{op}: axis must be an int, not {axis!r}") from None
    if not -ndim <= value < ndim:
        raise ValueError(f"{op}: axis {value} is out of range for {ndim} dimensions")
    return value % ndim


def checked_need(need: Collection[str], op: str) -> tuple[bool, bool, bool]:
    """Which of the gradients by x, w and b ``need`` names."""
    if unknown := set(need) - {"x", "w", "b"}:
        raise ValueError(f"{op}: need holds 'x', 'w' and 'b', not {', '.join(sorted(map(repr, unknown)))}")
    return "x" in need, "w" in need, "b" in need


def expect_4d(shape: Shape, op: str, name: str = "x", axes: str = "(N, C, H, W)") -> None:
    """Raises ``ValueError`` unless ``shape`` has four axes."""
    if len(shape) != 4:
        raise ValueError(f"{op}: {name} must have shape {axes}, got {shape}")


def expect_shape(shape: Shape, wanted: Shape, op: str, name: str) -> None:
    """Raises ``ValueError`` unless the shapes are equal."""
    if shape != wanted:
        raise ValueError(f"{op}: {name} must have shape {wanted}, got {shape}")


# ---- outputs --------------------------------------------------------------------------------------------------------


def output(out: Any, wanted: Layout, op: str, apart: tuple[Array | None, ...], over: tuple[Array, ...] = ()) -> Array:
    """The caller's ``out`` after every check, before anything is written.

    It must share no memory with the arrays ``apart``; an array of ``over`` it may also be, element on element.
    """
    on_device = isinstance(wanted, DeviceLayout)
    if not (is_device(out) if on_device else type(out) is _ndarray):
        kind = "CuPy" if on_device else "NumPy"
        given = type(out)
        name = given.__name__ if given.__name__ != "ndarray" else f"{given.__module__}.ndarray"
        raise TypeError(f"{op}: out must be a {kind} array, not {name}")
    if out.shape != wanted.shape:
        raise ValueError(f"{op}: out must have shape {wanted.shape}, got {out.shape}")
    if out.dtype != wanted.dtype:
        raise TypeError(f"{op}: out must have dtype {wanted.dtype}, got {out.dtype}")
    if not on_device:
        flags = out.flags
        if not flags.writeable:
            raise ValueError(f"{op}: out is read-only")
        if not flags.aligned:
            raise ValueError(f"{op}: the elements of out are not aligned")
    if 0 in out.strides and any(s == 0 and n > 1 for s, n in zip(out.strides, out.shape, strict=True)) and out.size:
        raise ValueError(f"{op}: out is a broadcast view, whose elements share memory")
    for a in apart:
        if a is not None and share_memory(a, out):
            raise ValueError(f"{op}: out shares memory with an input")
    for a in over:
        if a is not out and share_memory(a, out) and not _same_elements(a, out):
            raise ValueError(f"{op}: out shares memory with an input")
    return out


def _same_elements(a: Array, b: Array) -> bool:
    """Whether both arrays are the same elements in memory."""
    return (a.shape, a.strides, a.dtype) == (b.shape, b.strides, b.dtype) and address(a) == address(b)
