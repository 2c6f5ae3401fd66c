"""The one small array module: which arrays are taken, which dtype a result has, and where its memory comes from.

An array is NumPy's or CuPy's. All arrays of a call are where its first is: outputs come from there, lists and numbers
go there, and other arrays must be there. (:mod:`fastdl._device` knows the rest about CuPy.)
"""

from __future__ import annotations

import importlib.util
import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _device, backend
from ._device import is_device
from .kernels.problem import COMPUTE, FLOAT8, Problem

try:
    from .kernels._common._runtime import Block  # type: ignore[import-not-found]
except ImportError:  # nothing is compiled
    Block = None

#: NumPy's arrays; CuPy's have the same attributes, and no types that a checker could know.
Array: TypeAlias = NDArray[Any]
Shape = tuple[int, ...]

# Outputs of at least this many bytes come from the pool of output memory. Below it malloc recycles memory as well as
# the pool does, and a Block costs 0.15 microseconds more.
POOLED_BYTES = 32 * 1024

#: Names that NumPy knows once the package ml_dtypes is imported.
ML_DTYPES = ("bfloat16", *FLOAT8)
#: Dtypes that kernels store, in native byte order. Those of ml_dtypes join them when the first array of one is seen.
FLOATS = {np.dtype(name) for name in ("float16", "float32", "float64")}


# ---- memory ---------------------------------------------------------------------------------------------------------


class Layout(NamedTuple):
    """What an output needs: made once for each kind of call, used at every call."""

    shape: Shape
    dtype: np.dtype[Any]
    strides: tuple[int, ...]
    nbytes: int

    def empty(self) -> Array:
        """A new array of this layout; its values are undefined."""
        shape, dtype, strides, nbytes = self
        if nbytes >= POOLED_BYTES and Block is not None:
            return np.ndarray(shape, dtype, Block(nbytes), 0, strides)
        return np.ndarray(shape, dtype, None, 0, strides)


class DeviceLayout(Layout):
    """What an output on a device needs."""

    __slots__ = ()

    def empty(self) -> Any:
        """A new CuPy array of this layout on the current device; its values are undefined."""
        return _device.empty(self.shape, self.dtype, self.strides)


def dense_strides(shape: Shape, itemsize: int, axes: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of an array without gaps whose ``axes`` lie in memory in this order, the outermost first."""
    strides = [itemsize] * len(shape)
    step = itemsize
    for axis in reversed(axes):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return tuple(strides)


def layout(
    shape: Shape, dtype: np.dtype[Any], order: str = "nchw", like: Array | None = None, on: Any = None
) -> Layout:
    """The layout of a dense array, where the array ``like`` or ``on`` is; in host memory without one.

    ``order`` is ``"nchw"`` (C-contiguous) or ``"nhwc"`` (channels last: the shape stays (N, C, H, W), the memory is
    that of an (N, H, W, C) array; other numbers of dimensions are C-contiguous). ``like`` instead takes the order of
    axes of an array of the same shape.
    """
    axes = tuple(range(len(shape)))
    if like is not None:
        if not like.flags.c_contiguous:
            strides = like.strides
            axes = tuple(sorted(axes, key=lambda axis: (-abs(strides[axis]), axis)))
    elif order == "nhwc":
        axes = (0, 2, 3, 1) if len(shape) == 4 else axes
    elif order != "nchw":
        raise ValueError(f"order must be 'nchw' or 'nhwc', not {order!r}")
    place = like if on is None else on
    kind = DeviceLayout if place is not None and type(place) is not np.ndarray and is_device(place) else Layout
    return kind(shape, dtype, dense_strides(shape, dtype.itemsize, axes), math.prod(shape) * dtype.itemsize)


def empty(shape: Shape, dtype: DTypeLike, order: str = "nchw", like: Array | None = None, on: Any = None) -> Array:
    """A new array of undefined values, from the pool of output memory where it is large. See :func:`layout`.

    Memory goes back to the pool when the last view of it is gone: results may be kept for as long as one likes.
    """
    return layout(tuple(shape), np.dtype(dtype), order, like, on).empty()


def zeros(shape: Shape, dtype: np.dtype[Any], on: Any) -> Array:
    """A new C-contiguous array of zeros where ``on`` is."""
    return _device.zeros(shape, dtype) if is_device(on) else np.zeros(shape, dtype)


def assign(out: Array, a: Array) -> None:
    """``out[...] = a``, for arrays of one shape and dtype."""
    if is_device(out):
        _device.copy(out, a)
    else:
        out[...] = a


def copied(a: Array) -> Array:
    """A copy without gaps, in the order in which the axes of ``a`` lie in memory."""
    out = empty(a.shape, a.dtype, like=a)
    assign(out, a)
    return out


def reshaped(a: Array, shape: Shape) -> Array:
    """``a`` with another shape, in the order of its axes; a copy where its memory is not in that order."""
    return a.reshape(shape) if type(a) is np.ndarray or not is_device(a) else _device.reshaped(a, shape)


def share_memory(a: Array, b: Array) -> bool:
    """Whether the memory of the arrays may overlap."""
    return _device.share_memory(a, b) if is_device(a) else np.may_share_memory(a, b)


def address(a: Array) -> int:
    """That of the first element."""
    return _device.pointer(a)


def arranged(a: Array, wanted: Layout) -> Array:
    """``a`` in the shape and memory order of ``wanted``, itself where it has them.

    A layer's gradient gets the order of its input this way, so that the layer before reads both in one: the gradient of
    a 2x2 pooling to 8x8 images took 30 times as long in two.
    """
    shaped = reshaped(a, wanted.shape)
    if shaped.strides == wanted.strides:
        return shaped
    out = wanted.empty()
    assign(out, shaped)
    return out


# ---- dtypes ---------------------------------------------------------------------------------------------------------


def float_dtype(dtype: Any, what: str) -> np.dtype[Any]:
    """``dtype``, a name or a dtype, as one of those that kernels store; ``TypeError`` for any other."""
    foreign = isinstance(dtype, str) and dtype in ML_DTYPES
    if foreign and importlib.util.find_spec("ml_dtypes") is not None:
        import ml_dtypes  # noqa: F401 - makes the name known to NumPy
    try:
        found = np.dtype(dtype)
    except TypeError:
        hint = f" ({dtype} needs the package ml_dtypes)" if foreign else ""
        raise TypeError(f"{what} must be one of {', '.join(COMPUTE)}, not {dtype!r}{hint}") from None
    if found.name not in COMPUTE:
        raise TypeError(f"{what} must be one of {', '.join(COMPUTE)}, not {found}")
    return found.newbyteorder("=")


def _check_dtype(dtype: np.dtype[Any], what: str) -> None:
    if dtype in FLOATS or dtype.kind in "biu":
        return
    if dtype.name not in COMPUTE:
        raise TypeError(f"{what} has dtype {dtype}; supported are {', '.join(COMPUTE)}, integers and bool")
    FLOATS.add(dtype.newbyteorder("="))


def result_dtype(*arrays: Array | np.dtype[Any], what: str = "an array") -> np.dtype[Any]:
    """The dtype of a result of these arrays (or dtypes): ``numpy.result_type``, if that is one that kernels store.

    Integers follow NumPy (int32 with float32 gives float64, uint8 with float32 gives float32). Integers alone give the
    default dtype, or float64 where none is set. Raises ``TypeError`` for float16 with bfloat16, neither of which can
    hold the other, for float8 with what ml_dtypes has no common dtype for, and for dtypes that no kernel stores:
    complex, object, longdouble, ...
    """
    dtypes = [a if isinstance(a, np.dtype) else a.dtype for a in arrays]
    for dtype in dtypes:
        _check_dtype(dtype, what)
    if all(dtype.kind in "biu" for dtype in dtypes):
        return backend.get_default_dtype() or np.dtype(np.float64)
    try:
        return np.result_type(*dtypes).newbyteorder("=")
    except TypeError:
        shown = " and ".join(dict.fromkeys(dtype.name for dtype in dtypes))
        raise TypeError(
            f"{what} mixes {shown}, and none of them holds the other's values: cast one, for example with "
            "fastdl.functional.cast(array, 'float32')"
        ) from None


# ---- operands -------------------------------------------------------------------------------------------------------

_OTHER_LIBRARIES = {
    "torch": "tensor.detach().cpu().numpy()",
    "jax": "numpy.asarray(array)",
    "jaxlib": "numpy.asarray(array)",
    "tensorflow": "tensor.numpy()",
}


def as_array(a: Any, what: str, beside: Any = None) -> Array:
    """``a`` as a plain NumPy or CuPy array, without copying one; lists and scalars become arrays where ``beside`` is.

    Arrays in CUDA memory of other libraries, such as torch tensors, become CuPy arrays over the same memory. Raises
    ``TypeError`` for masked arrays (their mask would be lost) and for arrays of other libraries in host memory.
    """
    if type(a) is np.ndarray:
        return a
    if isinstance(a, np.ndarray):
        if isinstance(a, np.ma.MaskedArray):
            raise TypeError(f"{what} is a masked array, whose mask would be lost; fill it first: a.filled(value)")
        return a.view(np.ndarray)
    if is_device(a):
        return a  # type: ignore[no-any-return]
    if _device.is_foreign(a):
        return _device.adopted(a, what)  # type: ignore[no-any-return]
    module = type(a).__module__.partition(".")[0]
    if module in _OTHER_LIBRARIES:
        raise TypeError(
            f"{what} is a {module} {type(a).__name__}; fastdl takes NumPy arrays, so pass {_OTHER_LIBRARIES[module]}"
        )
    array = np.asarray(a)
    return _device.from_host(array, _device.number_of(beside)) if is_device(beside) else array


def expect_beside(op: str, name: str, a: Array, other_name: str, other: Array) -> None:
    """``TypeError`` unless both arrays are in one place."""
    if _device.place_of(a) != _device.place_of(other):
        place, other_place = _device.device_of(a), _device.device_of(other)
        raise TypeError(
            f"{op}: {name} is {_device.description(a)} and {other_name} is {_device.description(other)}; move one of "
            f"them: fastdl.to_device({name}, {other_place!r}) or fastdl.to_device({other_name}, {place!r})"
        )


def prepare(a: Array, dtype: np.dtype[Any]) -> Array:
    """``a`` with ``dtype``, native byte order and aligned elements: itself where it is so, else a copy of its layout.

    The natural alignment of the floating-point dtypes is their size, so that an aligned array also has strides
    that are multiples of it.
    """
    on_device = type(a) is not np.ndarray and is_device(a)
    if a.dtype == dtype and (on_device or a.flags.aligned):
        return a
    source = a.dtype.newbyteorder("=")
    if not on_device and (a.dtype != source or not a.flags.aligned):
        a = a.astype(source, order="K")
    if source == dtype:
        return a
    if source.name not in COMPUTE:
        return numbers(a, dtype)
    out = empty(a.shape, dtype, like=a)
    problem = Problem("cast", "forward", (a.shape,), dtype.name, attrs=(("source", source.name),))
    backend.run(problem, a, out)
    return out


def numbers(a: Array, dtype: np.dtype[Any]) -> Array:
    """Integers or bool as ``dtype``, in their layout."""
    if not is_device(a):
        return a.astype(dtype, order="K")
    from .kernels.device import _cuda as kernels

    out = empty(a.shape, dtype, like=a)
    kernels.numbers(a, out)
    return out
