"""What rounding may do to Winograd's convolution.

Each result is A^T [sum over c of (G w G^T) * (B^T x B)] A. With the absolute values of all matrices and inputs the same
formula bounds the sum of the magnitudes of everything that is added up on the way; that is larger than sum|x||w| by the
growth factor of the transforms, and it reaches across the tile: a result next to a large one carries the large one's
rounding errors. The number of roundings on a path is counted, each loses at most u of its magnitude (Higham, section
3.1; for this algorithm Barabasz, Anderson, Soodhalter, Gregg, *Error Analysis and Improving the Accuracy of Winograd
Convolution for Deep Neural Networks*, ACM TOMS 46, 2020).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from ..kernels.problem import Problem

Matrices = tuple[np.ndarray, np.ndarray, np.ndarray]

#: The finite interpolation points by their number and that of infinity together.
POINTS = {4: (0.0, 1.0, -1.0), 6: (0.0, 0.5**0.5, -(0.5**0.5), 2.0**0.5, -(2.0**0.5))}


@cache
def matrices(results: int, taps: int) -> Matrices:
    """|B^T| (n, n), |G| (n, taps) and |A^T| (results, n) of F(results, taps)."""
    n = results + taps - 1
    points = np.array(POINTS[n])
    bt, g, at = np.zeros((n, n)), np.zeros((n, taps)), np.zeros((results, n))
    for i, p in enumerate(points):
        others = np.delete(points, i)
        bt[i, : n - 1] = np.poly(others)[::-1]
        g[i] = p ** np.arange(taps) / np.prod(p - others)
        at[:, i] = p ** np.arange(results)
    bt[n - 1] = np.poly(points)[::-1]
    g[n - 1, taps - 1] = at[results - 1, n - 1] = 1
    # Coefficients that are 0 in exact arithmetic come out of the float64 polynomials as some 1e-17.
    return tuple(np.where(np.abs(a) < 1e-12, 0.0, np.abs(a)) for a in (bt, g, at))  # type: ignore[return-value]


def roundings(results: int, taps: int) -> int:
    """Roundings on the longest path from an input to a result, without the sum over channels or tiles.

    In each of two dimensions: the input's transform has 3 operations and a rounded coefficient, the filter's one
    product for each tap, its sums and a rounded coefficient, the result's 5 operations and a rounded coefficient. One
    product.
    """
    return 2 * 4 + 2 * (taps + 2) + 2 * 6 + 1


def _both(matrix: np.ndarray, tiles: np.ndarray) -> np.ndarray:
    return matrix @ tiles @ matrix.T


def _tiles(a: np.ndarray, top: int, left: int, down: int, across: int, move: int, size: int) -> np.ndarray:
    """(N, C, down, across, size, size): tiles ``move`` apart from (-top, -left) on, zeros outside of ``a``."""
    n, c = a.shape[:2]
    high, wide = (down - 1) * move + size, (across - 1) * move + size
    padded = np.zeros((n, c, high, wide))
    y, x = max(top, 0), max(left, 0)
    inside = a[:, :, max(-top, 0) :, max(-left, 0) :][:, :, : max(high - y, 0), : max(wide - x, 0)]
    padded[:, :, y : y + inside.shape[2], x : x + inside.shape[3]] = inside
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3))
    return windows[:, :, ::move, ::move]


def magnitudes(problem: Problem, m: int, r: int, source: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The bound of the sum of magnitudes for each result of F(m x m, r x r).

    ``source``, ``other``: |x|, |w| (forward), |dout|, |w| (backward_input) or |x|, |dout| (backward_weight).
    """
    n, groups = m + r - 1, problem.groups
    top, _, left, _ = problem.pads
    (_, _, h, w), (oh, ow) = problem.shapes[0], problem.grid()
    if problem.direction == "backward_weight":
        down, across = -(-oh // m), -(-ow // m)
        bt, g, at = matrices(r, m)
        v = _both(bt, _tiles(source, top, left, down, across, m, n))
        d = _both(g, _tiles(other, 0, 0, down, across, m, m))
        v, d = (a.reshape(a.shape[0], groups, a.shape[1] // groups, *a.shape[2:]) for a in (v, d))
        return _both(at, np.einsum("agcijxy,agkijxy->gkcxy", v, d, optimize=True)).reshape(problem.shapes[1])
    if problem.direction == "backward_input":
        weights = other.reshape(groups, -1, *other.shape[1:])[..., ::-1, ::-1]  # (g, k, c, r, s)
        top, left, high, wide = r - 1 - top, r - 1 - left, h, w
        paths = "agkijxy,gkcxy->agcijxy"
    else:
        weights = other.reshape(groups, -1, *other.shape[1:])
        high, wide = oh, ow
        paths = "agcijxy,gkcxy->agkijxy"
    down, across = -(-high // m), -(-wide // m)
    bt, g, at = matrices(m, r)
    v = _both(bt, _tiles(source, top, left, down, across, m, n))
    v = v.reshape(v.shape[0], groups, v.shape[1] // groups, *v.shape[2:])
    y = _both(at, np.einsum(paths, v, _both(g, weights), optimize=True))
    batch, _, channels = y.shape[:3]
    y = y.transpose(0, 1, 2, 3, 5, 4, 6).reshape(batch, groups * channels, down * m, across * m)
    return y[:, :, :high, :wide]
