"""pack_bits in NumPy: the specification."""

from __future__ import annotations

import numpy as np

from ..problem import Problem


def signs(words: np.ndarray, channels: int) -> np.ndarray:
    """(N, words, ...) -> (N, channels, ...): +1 and -1, int32."""
    positions = np.arange(32, dtype=np.uint32).reshape(32, *(1,) * (words.ndim - 2))
    bits = (words[:, :, None] >> positions) & np.uint32(1)
    return (2 * bits.astype(np.int32) - 1).reshape(len(words), 32 * words.shape[1], *words.shape[2:])[:, :channels]


def pack_bits_forward(
    problem: Problem, x: np.ndarray, threshold: np.ndarray | None, out: np.ndarray, threads: int
) -> None:
    """out = bits of x >= threshold."""
    channels = x.shape[1] // problem.groups
    words = out.shape[1] // problem.groups
    level = np.zeros((x.shape[1],), problem.compute) if threshold is None else threshold.astype(problem.compute)
    ones = x.astype(problem.compute) >= level.reshape(-1, *(1,) * (x.ndim - 2))
    out[...] = 0
    for c in range(x.shape[1]):
        group, inside = divmod(c, channels)
        out[:, group * words + inside // 32] |= ones[:, c].astype(np.uint32) << np.uint32(inside % 32)
