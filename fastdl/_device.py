"""The one place that knows CuPy: which arrays are its, where they are, and how values get there and back.

fastdl takes memory, streams and launches from CuPy, and runs no kernel of CuPy's own: those need the headers of the
CUDA toolkit, which a plain ``pip install cupy-cuda13x`` does not bring. CuPy is imported when a CuPy array comes in or
a device is asked for, and not before.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .kernels import registry
from .kernels._common.cuda.launch import device_memory, kept, pointer, uploaded
from .kernels.registry import KernelError

if TYPE_CHECKING:
    from . import backend

Shape = tuple[int, ...]

# DLPack's names for memory of CUDA: its own and managed memory.
_DLPACK_CUDA = (2, 13)


# ---- which arrays ---------------------------------------------------------------------------------------------------


def is_device(a: Any) -> bool:
    """Whether ``a`` is a CuPy array."""
    kind = getattr(sys.modules.get("cupy"), "ndarray", None)
    return kind is not None and isinstance(a, kind)


def is_foreign(a: Any) -> bool:
    """Whether ``a`` is an array in CUDA memory that belongs to another library, such as a torch tensor."""
    if is_device(a) or isinstance(a, np.ndarray):
        return False
    where = getattr(a, "__dlpack_device__", None)
    if where is not None:
        return int(where()[0]) in _DLPACK_CUDA
    return hasattr(a, "__cuda_array_interface__")


def adopted(a: Any, what: str) -> Any:
    """A foreign array as a CuPy array over the same memory."""
    module = type(a).__module__.partition(".")[0]
    if reason := registry.cuda_missing("cuda"):
        raise TypeError(f"{what} is a {module} {type(a).__name__} in CUDA memory, which fastdl takes by CuPy: {reason}")
    import cupy

    try:
        return cupy.from_dlpack(a) if hasattr(a, "__dlpack__") else cupy.asarray(a)
    except Exception as error:
        raise TypeError(f"{what} is a {module} {type(a).__name__} that CuPy cannot take: {error}") from error


def number_of(a: Any) -> int:
    """The device of a CuPy array."""
    return int(a.data.device_id)


def place_of(a: Any) -> int | None:
    """The device of a CuPy array; None for others."""
    return number_of(a) if is_device(a) else None


def device_of(a: Any) -> str:
    """Where an array is: ``"cpu"`` or ``"cuda:0"``."""
    return f"cuda:{number_of(a)}" if is_device(a) else "cpu"


def description(a: Any) -> str:
    """An array's kind, for messages."""
    return f"a CuPy array on {device_of(a)}" if is_device(a) else "a NumPy array"


# ---- which kernels ---------------------------------------------------------------------------------------------------


def choice(a: Any, choice: backend.Choice) -> backend.Choice:
    """``choice`` for the array ``a``: see ``backend.choice_for``."""
    if not is_device(a):
        return choice
    import cupy

    number, current_number = number_of(a), cupy.cuda.runtime.getDevice()
    found = choice._siblings.get(("cuda", choice.cap, choice.conv, choice.arithmetic, number))
    if found is not None and number == current_number and choice.backend in ("auto", "cuda"):
        return found
    if choice.backend not in ("auto", "cuda"):
        raise KernelError(
            f"the backend in use is {choice.backend!r}, and CuPy arrays run on 'cuda' alone: use 'auto' or 'cuda', or "
            f"move the arrays with fastdl.to_device(array, 'cpu')"
        )
    if number != current_number:
        raise KernelError(
            f"the array is on cuda:{number} and the current device is cuda:{current_number}: call inside `with "
            f"cupy.cuda.Device({number}):`, or move the array with fastdl.to_device(array, 'cuda:{current_number}')"
        )
    if reason := registry.cuda_missing("cuda"):
        raise KernelError(f"CuPy arrays cannot be used: {reason}")
    return choice.replace(backend="cuda", device=number)


# ---- moving ---------------------------------------------------------------------------------------------------------


def parsed(device: Any) -> int | None:
    """The number of the device ``"cuda"`` (the current one) or ``"cuda:1"``; None for ``"cpu"``.

    Raises ``ValueError`` for another name or a device that is not there, ``KernelError`` where there is none at all.
    """
    name = str(device).lower()
    if name == "cpu":
        return None
    kind, colon, text = name.partition(":")
    if kind != "cuda" or (colon and not text.isdecimal()):
        raise ValueError(f"a device is 'cpu', 'cuda', 'cuda:0', 'cuda:1', ..., not {device!r}")
    if reason := registry.cuda_missing("cuda"):
        raise KernelError(f"the device {name!r} cannot be used: {reason}")
    import cupy

    if not text:
        return int(cupy.cuda.runtime.getDevice())
    count = cupy.cuda.runtime.getDeviceCount()
    if int(text) >= count:
        there = "cuda:0" if count == 1 else f"cuda:0 ... cuda:{count - 1}"
        raise ValueError(f"there is no device {name!r}: this machine has {there}")
    return int(text)


def to_device(a: Any, device: str) -> Any:
    """``a`` on a device: a CuPy array for ``"cuda"`` (the current one) or ``"cuda:0"``, a NumPy array for ``"cpu"``.

    An array that is there already is returned as it is; others are copied, in their order of axes in memory. ``a`` may
    also be a list, a number, or an array in CUDA memory of another library.
    """
    number = parsed(device)
    if not is_device(a):
        a = adopted(a, "to_device: the array") if is_foreign(a) else np.asarray(a)
    if number is None:
        return to_host(a) if is_device(a) else a
    if is_device(a):
        if number_of(a) == number:
            return a
        a = to_host(a)
    return from_host(a, number)


def from_host(a: np.ndarray, number: int) -> Any:
    """A copy of a NumPy array on device ``number``."""
    import cupy

    if is_capturing():
        raise RuntimeError("an array of the host is needed in the middle of the step")
    axes = _memory_axes(a.strides)
    dense = np.ascontiguousarray(a.transpose(axes)).reshape([a.shape[axis] for axis in axes])
    if not dense.dtype.isnative:
        dense = dense.astype(dense.dtype.newbyteorder("="))
    with cupy.cuda.Device(number):
        return uploaded(dense).transpose(tuple(int(axis) for axis in np.argsort(axes)))


def to_host(a: Any) -> np.ndarray:
    """A copy of a CuPy array as a NumPy array. Waits for the device."""
    import cupy

    with cupy.cuda.Device(number_of(a)):
        axes = _memory_axes(a.strides)
        view = a.transpose(axes)
        if not view.flags.c_contiguous:
            view = contiguous(view)
        out = np.empty(view.shape, a.dtype)
        if out.size:
            view.data.copy_to_host_async(ctypes.c_void_p(pointer(out)), out.nbytes)
            cupy.cuda.get_current_stream().synchronize()
    return out.transpose(np.argsort(axes))


def _memory_axes(strides: Sequence[int]) -> tuple[int, ...]:
    """The axes in the order in which they lie in memory."""
    return tuple(sorted(range(len(strides)), key=lambda axis: (-abs(strides[axis]), axis)))


# ---- memory ---------------------------------------------------------------------------------------------------------


def empty(shape: Shape, dtype: np.dtype[Any], strides: tuple[int, ...] | None = None) -> Any:
    """A new array of undefined values on the current device."""
    return device_memory(shape, dtype, strides)


def zeros(shape: Shape, dtype: np.dtype[Any]) -> Any:
    """A new array of zeros on the current device."""
    out = empty(shape, dtype)
    if out.size:
        out.data.memset_async(0, out.nbytes)
    return out


_constants: dict[tuple[Any, ...], Any] = {}


def constant(value: Any, dtype: Any) -> Any:
    """A one-element array on the current device, kept: nothing is copied to the device the second time."""
    import cupy

    host = np.full(1, value, dtype)
    key = host.dtype, host.tobytes(), int(cupy.cuda.runtime.getDevice())
    found = _constants.get(key)
    if found is None:
        if len(_constants) >= 4096:
            _constants.clear()
        found = _constants[key] = uploaded(host)
    return kept(found)


def forget() -> None:
    """Frees the constants."""
    _constants.clear()


class Mirror:
    """Numbers of the host, and an array on a device that holds the same: written when they differ, in place.

    A captured step cannot be told new numbers. It counts by itself on the device, and the host keeps up.
    """

    def __init__(self, dtype: Any) -> None:
        self._dtype = np.dtype(dtype)
        self._array: Any = None
        self._values: tuple[Any, ...] | None = None

    def array(self, values: tuple[Any, ...], beside: Any) -> Any:
        """The array on the device of ``beside``, holding ``values``."""
        number = number_of(beside)
        if self._array is None or number_of(self._array) != number or self._array.size != len(values):
            self._array, self._values = empty((len(values),), self._dtype), None
        if values != self._values:
            write(self._array, np.array(values, self._dtype))
            self._values = values
        return self._array

    def counted(self, values: tuple[Any, ...]) -> None:
        """Says what a kernel has made of the array."""
        self._values = values

    def __reduce__(self) -> Any:
        return Mirror, (self._dtype,)


def write(out: Any, values: np.ndarray) -> None:
    """Copies C-contiguous values of the host into a C-contiguous array of their shape and dtype."""
    if is_capturing():
        raise RuntimeError("a number of the host is needed in the middle of the step")
    out.data.copy_from_host_async(ctypes.c_void_p(pointer(values)), values.nbytes)


def is_capturing() -> bool:
    """Whether launches are recorded for a graph at the moment."""
    import cupy

    return bool(cupy.cuda.get_current_stream().is_capturing())


def event() -> Any:
    """An event at the end of what the current stream has been given so far; None while launches are recorded."""
    import cupy

    stream = cupy.cuda.get_current_stream()
    if stream.is_capturing():
        return None
    found = cupy.cuda.Event()
    found.record(stream)
    return found


def seconds_between(begin: Any, end: Any) -> float:
    """Between two events of a stream, when both have happened."""
    import cupy

    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(begin, end)) / 1e3


def overwrite(out: Any, values: Any) -> None:
    """``out[...] = values``, for an array on a device and values of its shape from anywhere, in any dtype."""
    values = np.asarray(to_device(values, "cpu")).astype(out.dtype, copy=False)
    copy(out, from_host(values, number_of(out)))


def moved(a: Any, device: str) -> Any:
    """:func:`to_device`, for what may be None."""
    return a if a is None else to_device(a, device)


def copy(out: Any, a: Any) -> None:
    """Writes ``a`` into ``out``: arrays of one shape, dtype and device, with any strides."""
    if not out.size:
        return
    if a.strides == out.strides and a.transpose(_memory_axes(a.strides)).flags.c_contiguous:
        out.data.copy_from_device_async(a.data, a.nbytes)
        return
    from .kernels.device import _cuda as kernels

    kernels.copy(a, out)


def contiguous(a: Any) -> Any:
    """``a`` in C order, itself where it is."""
    if a.flags.c_contiguous:
        return a
    out = empty(a.shape, a.dtype)
    copy(out, a)
    return out


def reshaped(a: Any, shape: Shape) -> Any:
    """``a`` with another shape; a copy unless it is C-contiguous."""
    return contiguous(a).reshape(shape)


def span(a: Any) -> tuple[int, int]:
    """The first address of an array's memory, and the first behind it."""
    if not a.size:
        return 0, 0
    reach = [(n - 1) * s for n, s in zip(a.shape, a.strides, strict=True)]
    start = pointer(a)
    return start + sum(min(r, 0) for r in reach), start + sum(max(r, 0) for r in reach) + a.itemsize


def share_memory(a: Any, b: Any) -> bool:
    """Whether the memory of the arrays may overlap."""
    (a_first, a_last), (b_first, b_last) = span(a), span(b)
    return max(a_first, b_first) < min(a_last, b_last)
