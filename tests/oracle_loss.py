"""softmax and softmax cross entropy on lists of Python floats: exact sums (fsum), one row after the other."""

from __future__ import annotations

import math

Row = list[float]


def softmax(row: Row) -> Row:
    """Each probability by its own sum, 1 / sum_k exp(x[k] - x[j]): neither a maximum nor a division by a common sum."""
    if not row or not all(v < math.inf for v in row) or max(row) == -math.inf:
        return [math.nan] * len(row)
    return [_probability(row, j) for j in range(len(row))]


def _probability(row: Row, j: int) -> float:
    if row[j] == -math.inf:
        return 0.0
    differences = [v - row[j] for v in row]
    if max(differences) > 700:
        return math.exp(-max(differences)) / math.fsum(math.exp(d - max(differences)) for d in differences)
    return 1.0 / math.fsum(math.exp(d) for d in differences)


def softmax_gradient(dout: Row, y: Row) -> Row:
    """By the Jacobian: dx[j] = sum_k dout[k] * y[k] * ((k == j) - y[j])."""
    n = len(y)
    return [math.fsum(dout[k] * y[k] * ((k == j) - y[j]) for k in range(n)) for j in range(n)]


def cross_entropy(row: Row, label: int) -> float:
    """log(sum_k exp(x[k] - x[label]))."""
    if not 0 <= label < len(row) or any(math.isnan(p) for p in softmax(row)):
        return math.nan
    if row[label] == -math.inf:
        return math.inf
    differences = [v - row[label] for v in row]
    most = max(differences)
    return most + math.log(math.fsum(math.exp(d - most) for d in differences))


def cross_entropy_gradient(probabilities: Row, label: int, scale: float) -> Row:
    return [(p - 1.0 if j == label else p) * scale for j, p in enumerate(probabilities)]
