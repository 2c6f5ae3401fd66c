"""dropout in NumPy: the specification."""

from __future__ import annotations

import numpy as np

from ..problem import Problem
from . import threshold

#: Philox4x32's two multipliers, and what is added to the two key words from round to round
#: (Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3. SC 2011).
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = 0xFFFFFFFF


def philox4x32(counter: tuple[np.ndarray, ...], key: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Philox4x32-10: four arrays of 32-bit words from four arrays of counter words; all are held in uint64."""
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in counter)
    k0, k1 = key
    shift, low = np.uint64(32), np.uint64(_LOW)
    for _ in range(_ROUNDS):
        p0 = c0 * np.uint64(_MULTIPLIERS[0])
        p1 = c2 * np.uint64(_MULTIPLIERS[1])
        c0, c1, c2, c3 = (
            (p1 >> shift) ^ c1 ^ np.uint64(k0),
            p1 & low,
            (p0 >> shift) ^ c3 ^ np.uint64(k1),
            p0 & low,
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def random_words(seed: int, step: int, first: int, blocks: int) -> np.ndarray:
    """The words of blocks ``first``, ``first + 1``, ..., four each, as one array."""
    block = np.arange(blocks, dtype=np.uint64) + np.uint64(first)
    low, shift = np.uint64(_LOW), np.uint64(32)
    steps = np.full(blocks, step, np.uint64)
    counter = (block & low, block >> shift, steps & low, steps >> shift)
    return np.stack(philox4x32(counter, (seed & _LOW, seed >> 32)), axis=-1).reshape(-1)


def dropout_mask(problem: Problem, state: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out[i] = 1 where word i is at least ratio * 2**32, else 0."""
    seed, step = state.tolist()
    words = random_words(seed, step, 0, -(-out.size // 4))[: out.size]
    out[...] = (words >= np.uint64(threshold(problem.attr("ratio")))).reshape(out.shape)


def dropout_forward(problem: Problem, x: np.ndarray, mask: np.ndarray, out: np.ndarray, threads: int) -> None:
    """out = x * (mask * scale)."""
    compute = np.dtype(problem.compute)
    scale = compute.type(problem.attr("scale"))
    out[...] = x.astype(compute) * (mask.astype(compute) * scale)
