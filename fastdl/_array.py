"""The one small array module: which arrays are taken, which dtype a result has, and where its memory comes from."""

from __future__ import annotations

import importlib.util
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import backend
from .kernels.problem import COMPUTE, Problem

try:
    from .kernels._common._runtime import Block  # type: ignore[import-not-found]
except ImportError:  # nothing is compiled
    Block = None

Array = NDArray[Any]
Shape = tuple[int, ...]

# Outputs of at least this many bytes come from the pool of output memory. Below it malloc recycles memory as well as
# the pool does, and a Block costs 0.15 microseconds more.
POOLED_BYTES = 32 * 1024

#: Dtypes that kernels store, in native byte order. bfloat16 joins them when the first array of it is seen.
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


def dense_strides(shape: Shape, itemsize: int, axes: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of an array without gaps whose ``axes`` lie in memory in this order, the outermost first."""
    strides = [itemsize] * len(shape)
    step = itemsize
    for axis in reversed(axes):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return tuple(strides)


def layout(shape: Shape, dtype: np.dtype[Any], order: str = "nchw", like: Array | None = None) -> Layout:
    """The layout of a dense array.

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
    return Layout(shape, dtype, dense_strides(shape, dtype.itemsize, axes), math.prod(shape) * dtype.itemsize)


def empty(shape: Shape, dtype: np.dtype[Any] | str, order: str = "nchw", like: Array | None = None) -> Array:
    """A new array of undefined values, from the pool of output memory where it is large. See :func:`layout`.

    Memory goes back to the pool when the last view of it is gone: results may be kept for as long as one likes.
    """
    return layout(tuple(shape), np.dtype(dtype), order, like).empty()


def arranged(a: Array, wanted: Layout) -> Array:
    """``a`` in the shape and memory order of ``wanted``, itself where it has them.

    A layer's gradient gets the order of its input this way, so that the layer before reads both in one: the gradient of
    a 2x2 pooling to 8x8 images took 30 times as long in two.
    """
    shaped = a.reshape(wanted.shape)
    if shaped.strides == wanted.strides:
        return shaped
    out = wanted.empty()
    out[...] = shaped
    return out


# ---- dtypes ---------------------------------------------------------------------------------------------------------


def float_dtype(dtype: Any, what: str) -> np.dtype[Any]:
    """``dtype``, a name or a dtype, as one of the four that kernels store; ``TypeError`` for any other."""
    is_bfloat16 = isinstance(dtype, str) and dtype == "bfloat16"
    if is_bfloat16 and importlib.util.find_spec("ml_dtypes") is not None:
        import ml_dtypes  # noqa: F401 - makes the name known to NumPy
    try:
        found = np.dtype(dtype)
    except TypeError:
        hint = " (bfloat16 needs the package ml_dtypes)" if is_bfloat16 else ""
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
    hold the other, and for dtypes that no kernel stores: complex, object, longdouble, ...
    """
    dtypes = [a.dtype if isinstance(a, np.ndarray) else a for a in arrays]
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
    "cupy": "cupy.asnumpy(array)",
    "torch": "tensor.detach().cpu().numpy()",
    "jax": "numpy.asarray(array)",
    "jaxlib": "numpy.asarray(array)",
    "tensorflow": "tensor.numpy()",
}


def as_array(a: Any, what: str) -> Array:
    """``a`` as a plain ndarray, without copying one; lists and scalars become arrays.

    Raises ``TypeError`` for masked arrays (their mask would be lost) and for arrays of other libraries.
    """
    if type(a) is np.ndarray:
        return a
    if isinstance(a, np.ndarray):
        if isinstance(a, np.ma.MaskedArray):
            raise TypeError(f"{what} is a masked array, whose mask would be lost; fill it first: a.filled(value)")
        return a.view(np.ndarray)
    module = type(a).__module__.partition(".")[0]
    if module in _OTHER_LIBRARIES or hasattr(a, "__cuda_array_interface__"):
        advice = _OTHER_LIBRARIES.get(module, "a copy in host memory")
        raise TypeError(f"{what} is a {module} {type(a).__name__}; fastdl takes NumPy arrays, so pass {advice}")
    return np.asarray(a)


def prepare(a: Array, dtype: np.dtype[Any]) -> Array:
    """``a`` with ``dtype``, native byte order and aligned elements: itself where it is so, else a copy of its layout.

    The natural alignment of the four floating-point dtypes is their size, so that an aligned array also has strides
    that are multiples of it.
    """
    if a.dtype == dtype and a.flags.aligned:
        return a
    source = a.dtype.newbyteorder("=")
    if a.dtype != source or not a.flags.aligned:
        a = a.astype(source, order="K")
    if source == dtype:
        return a
    if source.name not in COMPUTE:
        return a.astype(dtype, order="K")
    out = empty(a.shape, dtype, like=a)
    problem = Problem("cast", "forward", (a.shape,), dtype.name, attrs=(("source", source.name),))
    backend.run(problem, a, out)
    return out
