"""Summaries of repeated times."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Summary(NamedTuple):
    """Median and quartiles."""

    median: float
    lower: float
    upper: float

    @property
    def spread(self) -> float:
        """The distance of the quartiles, relative to the median."""
        return (self.upper - self.lower) / self.median if self.median else 0.0


def summary(values: Sequence[float]) -> Summary:
    """Of at least one value; quartiles interpolate between values (the method of ``numpy.percentile``)."""
    if not values:
        raise ValueError("there is nothing to summarise")
    if len(values) == 1:
        return Summary(values[0], values[0], values[0])
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Summary(median, lower, upper)


def geometric_mean(values: Iterable[float]) -> float:
    """NaN where there is no value."""
    found = list(values)
    return statistics.geometric_mean(found) if found else float("nan")


def student_t(level: float, freedom: int) -> float:
    """The t between whose negative and itself Student's distribution with so many degrees of freedom has ``level``.

    By bisection of the closed form for whole degrees (Abramowitz and Stegun, "Handbook of Mathematical Functions",
    26.7.3 and 26.7.4).
    """

    def within(t: float) -> float:
        angle = math.atan(t / math.sqrt(freedom))
        sine, cosine = math.sin(angle), math.cos(angle)
        odd = freedom % 2
        if freedom == 1:
            return 2 / math.pi * angle
        term = total = cosine if odd else 1.0
        for k in range(2 + odd, freedom, 2):
            term *= (k - 1) / k * cosine**2
            total += term
        return 2 / math.pi * (angle + sine * total) if odd else sine * total

    if not 0 <= level < 1 or freedom < 1:
        raise ValueError(f"the level lies between 0 and 1 and there is a degree of freedom, not {level} and {freedom}")
    low, high = 0.0, 1.0
    while within(high) < level:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < level else (low, middle)
    return high
