"""The arrays of a case: what they hold, how they lie in memory, and memory that ends at a forbidden page."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import math
import mmap
import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .._array import ML_DTYPES

#: bytes -> writable uint8 array of exactly that size
Allocate = Callable[[int], np.ndarray]

#: How an array may lie in memory. Arrays that are not four-dimensional: ``nhwc`` is Fortran order.
ORDERS = ("nchw", "nhwc", "sliced", "gaps", "reversed", "zero")
#: ... or at random: "mixed:17", and for inputs "broadcast:17".
RANDOM_ORDERS = re.compile(r"(mixed|broadcast):\d+")
#: How often "broadcast" shows an entry: the errors of a sum of equal terms do not cancel as tolerances assume.
MOST_REPEATS = 64

#: Significand bits of each dtype, the hidden one included.
SIGNIFICAND = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8, "float8_e4m3fn": 4, "float8_e5m2": 3}
#: Exponent of the smallest subnormal, and of the largest power of two.
EXPONENTS = {
    "float64": (-1074, 1023),
    "float32": (-149, 127),
    "float16": (-24, 15),
    "bfloat16": (-133, 127),
    "float8_e4m3fn": (-9, 8),
    "float8_e5m2": (-16, 15),
}
#: Without infinities: what is too large is NaN, and so is the largest significand with the largest exponent.
FINITE = {"float8_e4m3fn"}


@functools.cache
def dtype_of(name: str) -> np.dtype[Any]:
    """The NumPy dtype of that name, perhaps one of ml_dtypes (``ImportError`` where that is not installed)."""
    if name in ML_DTYPES:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name)


def dtype_missing(name: str) -> str:
    """Why arrays of this dtype cannot be made here; empty where they can."""
    if name in ML_DTYPES and importlib.util.find_spec("ml_dtypes") is None:
        return f"{name} arrays need the package ml_dtypes"
    return ""


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether ``dtype`` is one of the floating-point storages."""
    return dtype.name in SIGNIFICAND


def largest(name: str) -> float:
    """The largest finite number of that dtype."""
    bits = SIGNIFICAND[name] - (name in FINITE)
    return math.ldexp(2.0 - 2.0 ** (1 - bits), EXPONENTS[name][1])


def round_to(values: np.ndarray, name: str) -> np.ndarray:
    """float64 ``values`` rounded to nearest, ties to even, into what dtype ``name`` can hold; again as float64.

    Worked out from the definition, v = m * 2**e with an integer m of the dtype's size, and not by a conversion.
    """
    if name == "float64":
        return values
    bits, lowest = SIGNIFICAND[name], EXPONENTS[name][0]
    with np.errstate(invalid="ignore", over="ignore"):
        _, exponent = np.frexp(values)  # |v| in [2**(exponent - 1), 2**exponent)
        unit = np.maximum(exponent - bits, lowest)
        rounded = np.ldexp(np.rint(np.ldexp(values, -unit)), unit)
        beyond = np.nan if name in FINITE else np.inf
        return np.where(
            np.abs(rounded) > largest(name), np.copysign(beyond, values), np.where(values == 0, values, rounded)
        )


# ---- memory ---------------------------------------------------------------------------------------------------------


class Placed(NamedTuple):
    """An array and all the bytes around it that belong to its buffer."""

    memory: np.ndarray
    array: np.ndarray


def heap(nbytes: int) -> np.ndarray:
    """Ordinary memory, deliberately not aligned to a vector: 8 bytes past where malloc begins, a multiple of 16.

    It ends where the allocation ends, so that address checkers (ASan, valgrind) see a step too far.
    """
    return np.empty(nbytes + 8, np.uint8)[8:]


def aligned(nbytes: int) -> np.ndarray:
    """Memory that begins as a device's does, at a multiple of 256 bytes: for kernels with wide accesses."""
    memory = np.empty(nbytes + 256, np.uint8)
    start = -memory.__array_interface__["data"][0] % 256
    return memory[start : start + nbytes]


def _strided(a: np.ndarray, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    """NumPy's as_strided, which does not know the dtypes of ml_dtypes."""
    return as_strided(a.view(f"u{a.itemsize}"), shape, strides).view(a.dtype)


def place(shape: tuple[int, ...], dtype: np.dtype[Any], order: str, allocate: Allocate = heap) -> Placed:
    """An uninitialised array of ``shape`` with the memory layout ``order``, whose last element ends its buffer.

    ``nchw`` is C-contiguous; ``nhwc`` channels-last; ``sliced`` the last channels of a wider channels-last buffer
    (or the last columns of a wider C-contiguous one); ``gaps`` every other element along every axis; ``reversed``
    has negative strides only; ``zero`` repeats its first entry along axis 0 without memory of its own. ``mixed:n`` is
    the n-th of many views: axes in any order, any of them with gaps, margins or a negative stride; ``broadcast:n`` the
    same with repetitions along some axes.
    """
    if RANDOM_ORDERS.fullmatch(order):
        return _random_view(shape, dtype, order, allocate)
    axes = tuple(range(len(shape)))
    if order in ("nhwc", "sliced") and len(shape) == 4:
        axes = (0, 2, 3, 1)
    elif order == "nhwc":
        axes = axes[::-1]
    last = tuple(shape[i] for i in axes)
    buffer = last
    if order == "sliced" and shape:
        buffer = (*last[:-1], last[-1] + 3)
    elif order == "gaps":
        buffer = tuple(max(2 * size - 1, 0) for size in last)
    elif order == "zero" and shape:
        buffer = (min(last[0], 1), *last[1:])
    memory = allocate(math.prod(buffer) * dtype.itemsize)
    view = memory.view(dtype).reshape(buffer)
    if order == "sliced" and shape:
        view = view[..., 3:]
    elif order == "gaps" and shape:
        view = view[(slice(None, None, 2),) * len(shape)]
    elif order == "reversed" and shape:
        view = view[(slice(None, None, -1),) * len(shape)]
    elif order == "zero" and shape:
        view = _strided(view, last, (0, *view.strides[1:]))
    return Placed(memory, view.transpose(np.argsort(axes)) if shape else view)


def _random_view(shape: tuple[int, ...], dtype: np.dtype[Any], order: str, allocate: Allocate) -> Placed:
    """The view that ``order`` stands for, in a buffer that begins and ends with its outermost elements."""
    rng = random.Random(f"{order}/{len(shape)}")
    axes = list(range(len(shape)))
    rng.shuffle(axes)
    strides, pitch, repeats = [0] * len(shape), dtype.itemsize, 1
    for axis in axes:  # fastest first
        step, margin = (rng.randint(1, 3), rng.randint(0, 3)) if rng.random() < 0.3 else (1, 0)
        sign = -1 if rng.random() < 0.25 else 1
        if order.startswith("broadcast") and rng.random() < 0.35 and repeats * shape[axis] <= MOST_REPEATS:
            repeats *= shape[axis]
            continue
        strides[axis] = sign * step * pitch
        pitch *= step * max(shape[axis] - 1, 0) + 1 + margin
    if 0 in shape:
        memory = allocate(0)
        return Placed(memory, memory.view(dtype).reshape(shape))
    reach = [stride * (n - 1) for stride, n in zip(strides, shape, strict=True)]
    below, above = -sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)
    memory = allocate(below + above + dtype.itemsize)
    return Placed(memory, _strided(memory.view(dtype)[below // dtype.itemsize :], shape, tuple(strides)))


def repeated(array: np.ndarray) -> tuple[int, ...]:
    """The axes along which ``array`` shows one entry again and again."""
    return tuple(
        i for i, (n, stride) in enumerate(zip(array.shape, array.strides, strict=True)) if n > 1 and not stride
    )


class GuardedMemory:
    """Buffers that end (or begin) where the process may neither read nor write: one step too far is a crash.

    Linux and macOS; ``ImportError`` elsewhere. Buffers live as long as this object.
    """

    def __init__(self, before: bool = False) -> None:
        if not hasattr(mmap, "PROT_READ"):
            raise ImportError("guard pages need a POSIX system")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._before = before
        self._maps: list[mmap.mmap] = []

    def __call__(self, nbytes: int) -> np.ndarray:
        """A buffer of ``nbytes`` with the forbidden page right behind it, or right before it."""
        page = mmap.PAGESIZE
        room = -(-nbytes // page) * page
        area = mmap.mmap(-1, room + page)
        self._maps.append(area)
        whole = np.frombuffer(area, np.uint8)
        forbidden = whole.ctypes.data + (0 if self._before else room)
        if self._libc.mprotect(ctypes.c_void_p(forbidden), ctypes.c_size_t(page), ctypes.c_int(0)) != 0:
            raise OSError(ctypes.get_errno(), "mprotect failed")
        return whole[page : page + nbytes] if self._before else whole[room - nbytes : room]


def guarded(array: np.ndarray, before: bool = False) -> np.ndarray:
    """A contiguous copy of ``array`` that ends right before a forbidden page (or begins right behind one)."""
    memory = GuardedMemory(before)(array.nbytes)
    copy = memory.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


# ---- values ---------------------------------------------------------------------------------------------------------


def fill(what: str, shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator) -> np.ndarray:
    """Values of kind ``what`` ("name" or "name:number") that ``dtype`` holds exactly.

    integers:m    integers from -m to m
    odd:m         odd integers from -m to m: where m needs every bit of a significand, so do they
    natural:m     integers from 0 to m - 1 (labels, masks)
    normal:s      normal, standard deviation s
    positive      0.25 to 2
    unit          0 to 1, the ends included
    signed_unit   -1 to 1, the ends included
    special:s     normal, with NaN, infinities, zeros of both signs, subnormals and the largest finite values
    gentle:s      the same without the largest finite values, whose sums and squares overflow
    rare:s        normal, with a few NaN and infinities only, so that most sums stay finite
    subnormal:m   integer multiples, -m to m, of the smallest subnormal
    constant:v    v
    list:v;v      these values
    ties:t        numbers half-way between two neighbours of dtype t, and right beside those
    bits          every bit pattern of a dtype of one or two bytes in order, random patterns of a wider one
    """
    kind, _, number = what.partition(":")
    size = float(number) if number and kind not in ("ties", "list") else 1.0
    values: np.ndarray
    if kind == "integers":
        values = rng.integers(-int(size), int(size), shape, endpoint=True)
    elif kind == "odd":
        values = rng.integers(-int(size), int(size), shape, endpoint=True) | 1
        values = np.where(np.abs(values) > size, 1, values)
    elif kind == "natural":
        values = rng.integers(0, int(size), shape)
    elif kind in ("normal", "special", "gentle", "rare"):
        values = np.asarray(rng.standard_normal(shape) * size)
    elif kind == "positive":
        values = rng.uniform(0.25, 2, shape)
    elif kind in ("unit", "signed_unit"):
        values = np.asarray(rng.uniform(-1 if kind == "signed_unit" else 0, 1, shape))
        values[rng.random(shape) < 0.1] = 1
        values[rng.random(shape) < 0.1] = -1 if kind == "signed_unit" else 0
    elif kind == "subnormal":
        values = rng.integers(-int(size), int(size), shape, endpoint=True) * math.ldexp(1.0, EXPONENTS[dtype.name][0])
    elif kind == "constant":
        values = np.full(shape, size)
    elif kind == "list":
        return np.array([(float if is_float(dtype) else int)(part) for part in number.split(";")], dtype).reshape(shape)
    elif kind == "ties":
        return _ties(number, shape, dtype, rng)
    elif kind == "bits":
        return _bit_patterns(shape, dtype, rng)
    else:
        raise ValueError(f"there is no kind of values {what!r}")
    if kind in ("special", "gentle", "rare"):
        _sprinkle(values, kind, dtype.name, rng)
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(values).astype(dtype)


def _sprinkle(values: np.ndarray, kind: str, name: str, rng: np.random.Generator) -> None:
    """Puts what floating point has beside ordinary numbers into ``values``, in place."""
    smallest, bits = EXPONENTS[name][0], SIGNIFICAND[name]
    if kind == "rare":
        special = [math.nan, math.inf, -math.inf]
        places = rng.random(values.shape) < min(0.02, 4 / max(values.size, 1))
    else:
        tiny = math.ldexp(1.0, smallest)
        special = [math.nan, math.inf, -math.inf, 0.0, -0.0, tiny, -tiny, 3 * tiny, tiny * (2 ** (bits - 1) - 1)]
        if kind == "special":
            special += [largest(name), -largest(name)]
        places = rng.random(values.shape) < 0.3
    values[places] = rng.choice(special, int(places.sum()))


def _bit_patterns(shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator) -> np.ndarray:
    """Arrays that hold every kind of number: uniform over the bit patterns, not over the numbers."""
    unsigned = np.dtype(f"u{dtype.itemsize}")
    count = math.prod(shape)
    if dtype.itemsize <= 2:
        patterns = (np.arange(count) % 256**dtype.itemsize).astype(unsigned)
    else:
        patterns = rng.integers(0, np.iinfo(unsigned).max, count, unsigned, endpoint=True)
    return patterns.reshape(shape).view(dtype)


def _ties(target: str, shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator) -> np.ndarray:
    """What rounding to ``target`` can get wrong: midpoints of its neighbours, and their neighbours in ``dtype``."""
    bits, (lowest, highest) = SIGNIFICAND[target], EXPONENTS[target]
    # A midpoint is an odd number of half units in the last place; the unit of subnormals is that of the smallest one.
    small, normal = rng.integers(0, 2**bits, shape), rng.integers(2**bits, 2 ** (bits + 1), shape)
    odd = np.where(rng.random(shape) < 0.2, small, normal)
    unit = np.where(odd < 2**bits, lowest - 1, rng.integers(lowest - 1, highest - bits, shape, endpoint=True))
    with np.errstate(all="ignore"):
        exact = np.ldexp((odd | 1).astype(np.float64), unit).astype(dtype)
        near = np.choose(rng.integers(0, 3, shape), [np.nextafter(exact, -np.inf), exact, np.nextafter(exact, np.inf)])
    return (near * rng.choice([-1, 1], shape)).astype(dtype)
