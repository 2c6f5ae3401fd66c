"""What every ``_numba.py`` starts with: how kernels are compiled and kept, and halves. (``tasks.py``: threads.)

A ``_numba.py`` holds functions with the signatures of the reference, which unwrap arrays and call kernels, and kernels,
which are decorated with :func:`kernel` and see nothing but arrays and numbers. A kernel's first two arguments are the
first task and the one after the last: ``tasks.parallel`` deals tasks out to threads. Tasks are cut by the Problem
alone, so that the bits do not depend on the threads.

Storage and compute dtype: Numba has no float16 on a CPU and no bfloat16 at all. :func:`bits` passes float16 as uint16
and bfloat16 as int16; in a kernel ``widen(a[i])`` reads an element as a number of the compute dtype, and
``out[i] = narrow(value, out)`` rounds one to nearest even. ``zero(a)`` is 0 in the compute dtype of ``a``. Other
constants come in as arguments of the compute dtype: a float32 and an int make a float64.

A loop over a slice is vectorised, one that begins at ``first`` is not: an index might be negative, and count from the
end (100,000 elements: 6 against 47 microseconds).

No fastmath but contraction: a product and the sum that it goes into may become one FMA, as in the compiled kernels. A
sum of two products takes :func:`multiply_add`.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
import platformdirs
from llvmlite import binding, ir
from numba import extending, types
from numba.extending import overload

#: Numba's annotation knows nothing of the context that an intrinsic gets.
intrinsic: Any = extending.intrinsic

# ---- compiling ------------------------------------------------------------------------------------------------------

#: Of every function that is compiled here. (Numba's annotations do not take them as a dict.)
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}, "boundscheck": False}
njit: Any = numba.njit
_config: Any = numba.config
_caching = threading.Lock()
_kernels: list[Any] = []


@functools.cache
def _fingerprint() -> str:
    """A hash of every kernel's source, of the versions and of the CPU.

    Numba's own key is the file of the kernel: it would keep what was compiled with another version of a function that
    the kernel calls.
    """
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.parent.rglob("*.py")):
        found.update(path.read_bytes())
    cpu = (binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten())
    versions = (numba.__version__, llvmlite.__version__, np.__version__, platform.python_version())
    found.update(repr((cpu, versions)).encode())
    return found.hexdigest()[:16]


def cache_folder() -> Path:
    """Where compiled kernels are kept: ``FASTDL_CACHE_DIR``, or this user's cache; ``numba/`` and a hash below it."""
    home = os.environ.get("FASTDL_CACHE_DIR") or platformdirs.user_cache_dir("fastdl", appauthor=False)
    return Path(home) / "numba" / _fingerprint()


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles ``function`` for each combination of types at its first call, and keeps the result on disk."""
    with _caching:  # Numba asks for the folder when it decorates, and a user's own kernels have theirs
        before = _config.CACHE_DIR
        _config.CACHE_DIR = str(cache_folder())
        try:
            found = njit(cache=True, **OPTIONS)(function)
        except RuntimeError:  # no folder can be written
            found = njit(**OPTIONS)(function)
        finally:
            _config.CACHE_DIR = before
    _kernels.append(found)
    return found  # type: ignore[no-any-return]


def statistics() -> tuple[int, int]:
    """Kernels that were compiled in this process, and that were loaded from disk, each type of arguments counted."""
    stats = [kernel.stats for kernel in _kernels]
    return sum(sum(s.cache_misses.values()) for s in stats), sum(sum(s.cache_hits.values()) for s in stats)


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that kernels call: compiled into them."""
    return njit(**OPTIONS)(function)


def spliced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Like :func:`inline`, but into Numba's own code: what LLVM finds too long to inline leaves a loop scalar."""
    return njit(inline="always", **OPTIONS)(function)


def borrowing(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that kernels call, without memory of its own: nothing is counted where it makes a view.

    (Where a function makes views in branches Numba counts references to their memory, with atomics: 20 ns a call.)
    """
    return njit(_nrt=False, **OPTIONS)(function)


@intrinsic
def multiply_add(context: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, in one FMA where the processor has it.

    For a * b + d * e: which of the two products becomes part of an FMA may differ between the vectors of a loop and its
    scalar rest, and so the bits with the cut of the tasks.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = arguments[0].type
        name = "llvm.fmuladd.f64" if number == ir.DoubleType() else "llvm.fmuladd.f32"
        form = ir.FunctionType(number, [number] * 3)
        return builder.call(builder.module.globals.get(name) or ir.Function(builder.module, form, name), arguments)

    return a(a, a, a), generate


# ---- halves ---------------------------------------------------------------------------------------------------------

#: Whether the processor converts float16 itself. (Without, LLVM calls a function that no library here has.)
HARDWARE_HALVES = bool(binding.get_host_cpu_features().get("f16c")) or platform.machine() in ("aarch64", "arm64")


def bits(a: np.ndarray) -> np.ndarray:
    """``a`` as kernels take it: float16 as uint16, bfloat16 as int16, everything else as it is."""
    if a.itemsize != 2 or a.dtype.kind in "iu":
        return a
    return a.view(np.uint16 if a.dtype == np.float16 else np.int16)


def bit_cast(source: Any, target: Any) -> Callable[..., Any]:
    """An intrinsic that reads the bits of a number of type ``source`` as one of ``target``."""

    @intrinsic
    def convert(context: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(target))

        return target(source), generate

    return convert


_float_of = bit_cast(types.uint32, types.float32)
_word_of = bit_cast(types.float32, types.uint32)


@intrinsic
def _hardware_widen(context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def _hardware_narrow(context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate


@inline
def portable_widen(half: Any) -> Any:
    """float16 bits -> float32. The exponent is moved by a product, which is exact for subnormals too."""
    word = np.uint32(half)
    magnitude = (word & np.uint32(0x7FFF)) << np.uint32(13)
    found = _word_of(_float_of(magnitude) * np.float32(2.0**112))
    if magnitude >= np.uint32(0x0F800000):  # infinity or NaN
        found = magnitude | np.uint32(0x7F800000)
    return _float_of(found | ((word & np.uint32(0x8000)) << np.uint32(16)))


@inline
def portable_narrow(value: Any) -> Any:
    """float32 -> float16 bits, to nearest even."""
    word = _word_of(value)
    sign, magnitude = (word >> np.uint32(16)) & np.uint32(0x8000), word & np.uint32(0x7FFFFFFF)
    if magnitude > np.uint32(0x7F800000):
        found = np.uint32(0x7E00) | ((magnitude >> np.uint32(13)) & np.uint32(0x3FF))
    elif magnitude >= np.uint32(0x47800000):  # 65536
        found = np.uint32(0x7C00)
    elif magnitude < np.uint32(0x38800000):  # below 2**-14: 0.5 has the last bit where a subnormal has it
        found = _word_of(_float_of(magnitude) + np.float32(0.5)) - np.uint32(0x3F000000)
    else:
        odd = (magnitude >> np.uint32(13)) & np.uint32(1)
        found = (magnitude - np.uint32(0x38000000) + np.uint32(0xFFF) + odd) >> np.uint32(13)
    return np.uint16(sign | found)


@inline
def _widen_bfloat16(half: Any) -> Any:
    return _float_of(np.uint32(np.uint16(half)) << np.uint32(16))


@inline
def _narrow_bfloat16(value: Any) -> Any:
    word = _word_of(value)
    rounded = (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    if (word & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):
        rounded = (word >> np.uint32(16)) | np.uint32(0x40)
    return np.int16(np.uint16(rounded))


_widen_float16 = _hardware_widen if HARDWARE_HALVES else portable_widen
_narrow_float16 = _hardware_narrow if HARDWARE_HALVES else portable_narrow


def widen(element: Any) -> Any:
    """An element of an array that :func:`bits` gave, in the compute dtype. (Only in kernels.)"""
    raise NotImplementedError("widen is for kernels")


@overload(widen, inline="always")
def _widen(element):  # type: ignore[no-untyped-def]  # Numba compares names and annotations with the lambdas
    if element == types.uint16:
        return lambda element: _widen_float16(element)
    if element == types.int16:
        return lambda element: _widen_bfloat16(element)
    if element in (types.float32, types.float64):
        return lambda element: element
    return None


def narrow(value: Any, out: Any) -> Any:
    """``value`` as an element of the array ``out``, rounded once. (Only in kernels.)"""
    raise NotImplementedError("narrow is for kernels")


@overload(narrow, inline="always")
def _narrow(value, out):  # type: ignore[no-untyped-def]
    if out.dtype == types.uint16:
        return lambda value, out: _narrow_float16(np.float32(value))
    if out.dtype == types.int16:
        return lambda value, out: _narrow_bfloat16(np.float32(value))
    if out.dtype == types.float32:
        return lambda value, out: np.float32(value)
    if out.dtype == types.float64:
        return lambda value, out: np.float64(value)
    return None


def round_to_odd(value: Any, out: Any) -> Any:
    """A number on its way to the array ``out``: a float64 for a half as the float32 that rounds to the same half.

    An inexact float32 gets an odd last bit, which keeps on which side of every half and every tie between two the
    float64 lay. (Only in kernels.)
    """
    raise NotImplementedError("round_to_odd is for kernels")


@overload(round_to_odd, inline="always")
def _round_to_odd(value, out):  # type: ignore[no-untyped-def]
    if value == types.float64 and out.dtype in (types.uint16, types.int16):
        return lambda value, out: odd_float32(value)
    return lambda value, out: value


@inline
def odd_float32(value: Any) -> Any:
    near = np.float32(value)
    word = _word_of(near)
    if (word & np.uint32(1)) == np.uint32(0):
        if abs(np.float64(near)) < abs(value):
            word += np.uint32(1)
        elif abs(np.float64(near)) > abs(value):
            word -= np.uint32(1)
    return _float_of(word)


def zero(a: Any) -> Any:
    """0 in the compute dtype of the array ``a``. (Only in kernels.)"""
    raise NotImplementedError("zero is for kernels")


@overload(zero, inline="always")
def _zero(a):  # type: ignore[no-untyped-def]
    if a.dtype == types.float64:
        return lambda a: 0.0
    return lambda a: np.float32(0)


_SINGLE, _WIDE = np.dtype(np.float32), np.dtype(np.float64)


def compute_dtype(a: np.ndarray) -> np.dtype[Any]:
    """The compute dtype of an array of a storage dtype."""
    return _WIDE if a.dtype == _WIDE else _SINGLE
