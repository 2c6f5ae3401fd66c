"""add by exact fractions and one rounding, concat by one index after the other."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction


def rounded(value: Fraction, bits: int, smallest: int, largest: int) -> float:
    """The nearest multiple of 2**smallest with ``bits`` significant bits, ties to even; inf above the range."""
    exponent = max(smallest, value.numerator.bit_length() - value.denominator.bit_length() - bits - 2)
    while abs(value) >= Fraction(2) ** (exponent + bits):
        exponent += 1
    steps = value / Fraction(2) ** exponent
    whole = math.floor(steps)
    rest = steps - whole
    if rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1):
        whole += 1
    if abs(whole) * Fraction(2) ** exponent >= Fraction(2) ** (largest + 1):
        return math.copysign(math.inf, whole)
    return math.ldexp(whole, exponent)


def add(a: float, b: float, bits: int, smallest: int, largest: int) -> float:
    if not math.isfinite(a) or not math.isfinite(b):
        return a + b
    if a == 0 and b == 0:
        return -0.0 if math.copysign(1, a) < 0 and math.copysign(1, b) < 0 else 0.0
    return rounded(Fraction(a) + Fraction(b), bits, smallest, largest)


def concat(arrays: list, axis: int) -> dict:
    """Index of the output -> value, from arrays with a ``shape`` that are indexed by tuples."""
    result: dict = {}
    start = 0
    for a in arrays:
        for index in itertools.product(*(range(n) for n in a.shape)):
            moved = list(index)
            moved[axis] += start
            result[tuple(moved)] = a[index]
        start += a.shape[axis]
    return result
