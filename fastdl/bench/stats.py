"""Summaries of repeated times."""

from __future__ import annotations

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
