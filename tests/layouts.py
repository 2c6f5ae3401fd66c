"""The same values in every memory layout that a kernel must take."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable

import numpy as np


def contiguous(a: np.ndarray) -> np.ndarray:
    return np.array(a, order="C")


def fortran(a: np.ndarray) -> np.ndarray:
    return np.array(a, order="F")


def channels_last(a: np.ndarray) -> np.ndarray:
    """The second axis varies fastest (of one axis: every other element)."""
    if a.ndim < 2:
        return every_other(a)
    return np.moveaxis(np.array(np.moveaxis(a, 1, -1), order="C"), -1, 1)


def every_other(a: np.ndarray) -> np.ndarray:
    """Each element followed by one that must stay as it is."""
    if a.ndim == 0:
        return contiguous(a)
    base = np.full((*a.shape[:-1], 2 * a.shape[-1] + 1), 77, a.dtype)
    view = base[..., 1::2]
    view[...] = a
    return view


def backwards(a: np.ndarray) -> np.ndarray:
    """Negative strides along every axis."""
    if a.ndim == 0:
        return contiguous(a)
    reverse = (slice(None, None, -1),) * a.ndim
    return contiguous(a[reverse])[reverse]


def window(a: np.ndarray) -> np.ndarray:
    """The inside of a larger array: rows contiguous, axes not mergeable."""
    if a.ndim == 0:
        return contiguous(a)
    base = np.full(tuple(s + 3 for s in a.shape), 77, a.dtype)
    view = base[tuple(slice(1, 1 + s) for s in a.shape)]
    view[...] = a
    return view


def unaligned_to_vectors(a: np.ndarray) -> np.ndarray:
    """Contiguous, one element behind a 64-byte boundary."""
    bytes_ = np.empty(a.nbytes + 64 + a.itemsize, np.int8)
    start = -bytes_.ctypes.data % 64 + a.itemsize
    view = bytes_[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def at_guard_page(a: np.ndarray) -> np.ndarray:
    """Contiguous; the page behind the last element can be neither read nor written."""
    size = -(-max(a.nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = mmap.mmap(-1, size + mmap.PAGESIZE)
    memory = np.frombuffer(pages, np.int8)
    libc = ctypes.CDLL(None, use_errno=True)
    none = 0
    if libc.mprotect(ctypes.c_void_p(memory.ctypes.data + size), ctypes.c_size_t(mmap.PAGESIZE), none) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    view = memory[size - a.nbytes : size].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    f.__name__: f
    for f in (contiguous, fortran, channels_last, every_other, backwards, window, unaligned_to_vectors, at_guard_page)
}


def surroundings(view: np.ndarray) -> np.ndarray | None:
    """The memory of ``every_other`` and ``window`` that does not belong to the view (77 everywhere), else None."""
    base = view.base
    if not isinstance(base, np.ndarray) or base.dtype != view.dtype or base.size <= view.size:
        return None
    inside = np.zeros(base.shape, bool)
    twin = np.lib.stride_tricks.as_strided(
        inside.reshape(-1)[(view.ctypes.data - base.ctypes.data) // view.itemsize :],
        view.shape,
        tuple(s // view.itemsize for s in view.strides),
    )
    twin[...] = True
    return base[~inside]
