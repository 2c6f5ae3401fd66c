"""exp, tanh and sigmoid for Numba kernels: the methods, the coefficients and the error bounds are those of ``vmath.h``.

Without branches, tables and calls a loop over them becomes vector code; calls of the C library stay calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from .jit import bit_cast, inline

_EXP_FLOAT32 = ("0x1.6a2258p-10", "0x1.123b02p-7", "0x1.5558f8p-5", "0x1.555490p-3", "0x1.fffffcp-2")
_EXP_FLOAT64 = (
    *("0x1.ad7e88f31d30ap-26", "0x1.28ae346591867p-22", "0x1.71df271f76292p-19", "0x1.a01999445b0a1p-16"),
    *("0x1.a01a0128fe40dp-13", "0x1.6c16c1846fc86p-10", "0x1.111111112816fp-7", "0x1.5555555550754p-5"),
    *("0x1.55555555554f8p-3", "0x1.000000000000ap-1"),
)


_F = tuple(np.float32(float.fromhex(c)) for c in _EXP_FLOAT32)
_D = tuple(float.fromhex(c) for c in _EXP_FLOAT64)


@inline
def _polynomial_float32(r):
    """(e**r - 1 - r) / r**2"""
    q = (_F[0] * r + _F[1]) * r + _F[2]
    return (q * r + _F[3]) * r + _F[4]


@inline
def _polynomial_float64(r):
    q = ((_D[0] * r + _D[1]) * r + _D[2]) * r + _D[3]
    q = ((q * r + _D[4]) * r + _D[5]) * r + _D[6]
    return ((q * r + _D[7]) * r + _D[8]) * r + _D[9]


def _functions(
    real: Any, whole: Any, mantissa: int, bias: int, polynomial: Any, high: str, low: str, *ends: float
) -> tuple[Callable[..., Any], ...]:
    """exp, tanh and sigmoid of one type. ``high`` and ``low`` are the parts of ln(2)."""
    to_word, from_word = bit_cast(real, whole), bit_cast(whole, real)
    T: Any = np.float32 if real == types.float32 else np.float64
    U: Any = np.uint32 if real == types.float32 else np.uint64
    least, most, tanh_is_one = map(T, ends)
    log2_e, ln2_high, ln2_low = T(float.fromhex("0x1.71547652b82fep+0")), *(T(float.fromhex(s)) for s in (high, low))
    shift, one, two, none = T(1.5 * 2.0**mantissa + 2 * bias), T(1), T(2), T(0)
    mask, unit, bits_up, biased_0 = U(4 * bias + 3), U(1), U(mantissa), U(bias)
    sign_bit = U(1 << (np.dtype(U).itemsize * 8 - 1))

    @inline
    def reduce(x):
        """x = n ln(2) + r: e**r - 1, and n + 2 * bias."""
        shifted = x * log2_e + shift  # leaves an integer at the bottom of the mantissa
        n = shifted - shift
        r = (x - n * ln2_high) - n * ln2_low
        return r + r * r * polynomial(r), to_word(shifted) & mask

    @inline
    def exp(x):
        x = least if x < least else x  # NaN stays
        x = most if x > most else x
        m, biased = reduce(x)
        first = biased >> unit  # 2**n in two factors, as it may be out of range
        return (one + m) * from_word(first << bits_up) * from_word((biased - first) << bits_up)

    @inline
    def tanh(x):
        sign = to_word(x) & sign_bit
        a = from_word(to_word(x) ^ sign)
        a = tanh_is_one if a > tanh_is_one else a
        r, biased = reduce(two * a)
        power = from_word((biased - biased_0) << bits_up)
        m = power * r + (power - one)
        return from_word(to_word(m / (m + two)) | sign)

    @inline
    def sigmoid(x):
        e = exp(from_word(to_word(x) | sign_bit))
        return (e if x < none else one) / (one + e)

    return exp, tanh, sigmoid


_exp_float32, _tanh_float32, _sigmoid_float32 = _functions(
    types.float32, types.uint32, 23, 127, _polynomial_float32, "0x1.62e4p-1", "0x1.7f7d1cp-20", -104.5, 89.0, 10.0
)
_exp_float64, _tanh_float64, _sigmoid_float64 = _functions(
    types.float64, types.uint64, 52, 1023, _polynomial_float64,
    "0x1.62e42fefa3800p-1", "0x1.ef35793c76730p-45", -746.0, 710.0, 20.0,
)  # fmt: skip


def exp(x: Any) -> Any:
    """e**x. (Only in kernels.)"""
    raise NotImplementedError("exp is for kernels")


def tanh(x: Any) -> Any:
    """The hyperbolic tangent. (Only in kernels.)"""
    raise NotImplementedError("tanh is for kernels")


def sigmoid(x: Any) -> Any:
    """1 / (1 + e**-x). (Only in kernels.)"""
    raise NotImplementedError("sigmoid is for kernels")


@overload(exp, inline="always")
def _exp(x):  # type: ignore[no-untyped-def]
    return (lambda x: _exp_float32(x)) if x == types.float32 else (lambda x: _exp_float64(x))


@overload(tanh, inline="always")
def _tanh(x):  # type: ignore[no-untyped-def]
    return (lambda x: _tanh_float32(x)) if x == types.float32 else (lambda x: _tanh_float64(x))


@overload(sigmoid, inline="always")
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return (lambda x: _sigmoid_float32(x)) if x == types.float32 else (lambda x: _sigmoid_float64(x))
