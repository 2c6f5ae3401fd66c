"""Numbers that carry a bound of their error, and what sums may lose: running error analysis (Higham, *Accuracy and
Stability of Numerical Algorithms*, 2nd ed., section 3.3). ``tolerances.py`` says how they are used."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .arrays import EXPONENTS, SIGNIFICAND

Error = np.ndarray | float


class Blocks(NamedTuple):
    """How a row adds up many terms: ``depth`` roundings on the longest path through a block of ``terms``."""

    terms: int
    depth: int
    wide: bool  # the blocks' sums are added in float64
    about: float | None = (
        None  # bound, in variances, of squared distances of centres and means; None: of the first rows
    )


#: One false alarm in so many cases.
CASES_PER_ALARM = 1e9


class Precision(NamedTuple):
    """Unit roundoff, and what a result in the subnormal range may lose."""

    u: float
    eta: float


def precision_of(dtype: str) -> Precision:
    """Of one rounding to ``dtype``."""
    return Precision(2.0 ** -SIGNIFICAND[dtype], math.ldexp(1.0, EXPONENTS[dtype][0]))


def computing_in(dtype: str) -> Precision:
    """Of one operation in ``dtype``, together with what float64 loses where the expectation is computed."""
    kernel, reference = precision_of(dtype), precision_of("float64")
    return Precision(kernel.u + reference.u, kernel.eta + reference.eta)


def roundings(terms: float, elements: int) -> float:
    """How many u of sum|terms| one chain of ``terms`` terms may lose."""
    if terms <= 1:
        return 0.0
    spread = math.sqrt(2 * math.log(2 * terms * max(elements, 1) * CASES_PER_ALARM))
    return min(terms - 1.0, spread * math.sqrt(terms))


def lost(terms: float, elements: int, u: float, blocks: Blocks | None = None) -> float:
    """What share of sum|terms| a sum of ``terms`` terms may lose, in one chain or in blocks.

    Beside blocks stands what the reference loses, which adds in one chain, and more than `roundings` where all terms
    are the same: 88 u for 863 times 0.92 in float64.
    """
    if blocks is None:
        return u * roundings(terms, elements)
    across = roundings(math.ceil(terms / blocks.terms), elements)
    kernel = u * min(blocks.depth, max(terms - 1.0, 0.0)) + across * (computing_in("float64").u if blocks.wide else u)
    return kernel + precision_of("float64").u * max(terms - 1.0, 0.0)


class Number:
    """Values and a bound for the error of each."""

    __slots__ = ("error", "precision", "value")

    def __init__(self, value: Error, error: Error, precision: Precision) -> None:
        self.value, self.error, self.precision = value, error, precision

    @classmethod
    def exact(cls, value: Error, precision: Precision) -> Number:
        """An input: without error."""
        return cls(value, 0.0, precision)

    @classmethod
    def rounded(cls, value: float, precision: Precision) -> Number:
        """A scalar worked out in float64 and rounded once."""
        return cls(value, precision.u * abs(value) + precision.eta, precision)

    def to(self, precision: Precision) -> Number:
        """Rounded to another precision, in which what follows is computed."""
        return Number(self.value, self.error, precision)._rounded()

    def _rounded(self, roundings: float = 1.0) -> Number:
        u, eta = self.precision
        error = self.error + roundings * (u * (np.abs(self.value) + self.error) + eta)
        # An infinity or NaN is that, or the kernel is wrong: what follows from it has no error on its account.
        return Number(self.value, np.where(np.isfinite(self.value), error, 0.0), self.precision)

    def _with(self, other: Number | float) -> tuple[Number, Precision]:
        if not isinstance(other, Number):
            other = Number(other, 0.0, self.precision)
        return other, max(self.precision, other.precision)

    def __add__(self, other: Number | float) -> Number:
        b, p = self._with(other)
        return Number(self.value + b.value, self.error + b.error, p)._rounded()

    __radd__ = __add__

    def __neg__(self) -> Number:
        return Number(-self.value, self.error, self.precision)

    def __sub__(self, other: Number | float) -> Number:
        return self + (-other)

    def __rsub__(self, other: float) -> Number:
        return -self + other

    def __mul__(self, other: Number | float) -> Number:
        b, p = self._with(other)
        error = np.abs(self.value) * b.error + np.abs(b.value) * self.error + self.error * b.error
        return Number(self.value * b.value, error, p)._rounded()

    __rmul__ = __mul__

    def __truediv__(self, other: Number | float) -> Number:
        b, p = self._with(other)
        quotient, room = self.value / b.value, np.abs(b.value) - b.error
        error = (self.error + np.abs(quotient) * b.error) / np.where(room > 0, room, np.nan)
        unsure = (np.asarray(b.error) > 0) & ~(np.asarray(room) > 0)
        return Number(quotient, np.where(unsure, np.inf, error), p)._rounded()

    def sqrt(self) -> Number:
        """Correctly rounded, as IEEE 754 demands."""
        v, e = np.asarray(self.value), np.asarray(self.error)
        near = e / (2 * np.sqrt(np.maximum(v - e, 0)))
        return Number(np.sqrt(v), np.where(e < v / 2, near, np.sqrt(np.abs(v) + e)), self.precision)._rounded()

    def within(self, ulps: float) -> Number:
        """The result of a function that is right to so many units in the last place (each at most 2 u |value|)."""
        return self._rounded(2 * ulps)

    def exp(self, ulps: float) -> Number:
        """e**v."""
        value = np.exp(self.value)
        return Number(value, value * np.expm1(self.error), self.precision).within(ulps)

    def log(self, ulps: float) -> Number:
        """The natural logarithm."""
        ratio = np.asarray(self.error / self.value)
        error = np.where(ratio < 1, -np.log1p(-np.minimum(ratio, 0.5)) * np.maximum(1, 2 * ratio), np.inf)
        return Number(np.log(self.value), error, self.precision).within(ulps)

    def power(self, exponent: float, ulps: dict[str, float]) -> Number:
        """v**exponent as exp(exponent * log(v)); a product of roots is better than that."""
        return (self.log(ulps["log"]) * Number.rounded(exponent, self.precision)).exp(ulps["exp"])

    def take(self, function: Callable[[np.ndarray], np.ndarray]) -> Number:
        """The same reshaping or indexing of values and errors."""
        value = np.asarray(self.value)
        error = np.broadcast_to(np.asarray(self.error, np.float64), value.shape)
        return Number(function(value), function(error), self.precision)

    def sum(self, axis: int | tuple[int, ...], blocks: Blocks | None = None, keepdims: bool = False) -> Number:
        """Along ``axis``, in one chain or in blocks."""
        total = np.sum(self.value, axis, keepdims=keepdims)
        axes = (axis,) if isinstance(axis, int) else axis
        terms = math.prod(np.shape(self.value)[a] for a in axes)
        errors = np.broadcast_to(self.error, np.shape(self.value))
        share = lost(terms, total.size, self.precision.u, blocks)
        magnitude = np.sum(np.abs(self.value) + errors, axis, keepdims=keepdims)
        error = np.sum(errors, axis, keepdims=keepdims) + share * magnitude
        return Number(total, np.where(np.isfinite(total), error, 0.0), self.precision)
