"""Binary floating-point formats from their definition: all values of a format, and the one that is nearest."""

from __future__ import annotations

import bisect
import math
from fractions import Fraction

#: name -> (exponent bits, mantissa bits)
FORMATS = {"float16": (5, 10), "bfloat16": (8, 7), "float8_e5m2": (5, 2), "float8_e4m3fn": (4, 3)}
#: Without infinities: only the last pattern is NaN.
FINITE = {"float8_e4m3fn"}


def decode(bits, name):
    """The value of a bit pattern as a Python float."""
    exponent_bits, mantissa_bits = FORMATS[name]
    bias = 2 ** (exponent_bits - 1) - 1
    sign = -1.0 if bits >> (exponent_bits + mantissa_bits) else 1.0
    exponent = (bits >> mantissa_bits) % 2**exponent_bits
    mantissa = bits % 2**mantissa_bits
    if name in FINITE and bits % 2 ** (exponent_bits + mantissa_bits) == 2 ** (exponent_bits + mantissa_bits) - 1:
        return math.copysign(math.nan, sign)
    if exponent == 2**exponent_bits - 1 and name not in FINITE:
        return math.copysign(math.nan, sign) if mantissa else sign * math.inf
    if exponent == 0:
        return sign * math.ldexp(mantissa, 1 - bias - mantissa_bits)
    return sign * math.ldexp(2**mantissa_bits + mantissa, exponent - bias - mantissa_bits)


def finite(name):
    """Every finite value that is not negative, in order, which is the order of their bit patterns."""
    exponent_bits, mantissa_bits = FORMATS[name]
    count = 2 ** (exponent_bits + mantissa_bits) - 1 if name in FINITE else (2**exponent_bits - 1) << mantissa_bits
    return [decode(bits, name) for bits in range(count)]


def encode(value, name, table):
    """Bit pattern of the nearest value, ties to the even one; ``table`` is ``finite(name)``.

    Infinity (or the only NaN of a format without it) is where the next value would be.
    """
    infinity = len(table)
    if math.isnan(value):
        return None
    sign = 2 ** sum(FORMATS[name]) if math.copysign(1.0, value) < 0 else 0
    if math.isinf(value):
        return sign + infinity
    above = bisect.bisect_left(table, abs(value))
    if above < infinity and table[above] == abs(value):
        return sign + above
    low = Fraction(table[above - 1])
    high = Fraction(table[above]) if above < infinity else 2 * low - Fraction(table[above - 2])
    from_low, to_high = Fraction(abs(value)) - low, high - Fraction(abs(value))
    if from_low == to_high:
        return sign + above - (above % 2)
    return sign + (above if to_high < from_low else above - 1)
