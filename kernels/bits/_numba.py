"""pack_bits in Numba; the contract is the folder's docstring."""

from __future__ import annotations

import numpy as np

from .._common.jit import bits, compute_dtype, kernel, widen
from .._common.tasks import parallel
from ..problem import Problem


@kernel
def _pack(first, last, channels, levels, x, out):
    """Tasks are rows of pixels; x is (N, H, W, C)."""
    words = (channels + 31) // 32
    for task in range(first, last):
        n, h = divmod(task, x.shape[1])
        for w in range(x.shape[2]):
            for j in range(out.shape[3]):
                group, part = divmod(j, words)
                c0, word = group * channels + 32 * part, np.uint32(0)
                for i in range(min(32, channels - 32 * part)):
                    if widen(x[n, h, w, c0 + i]) >= levels[c0 + i]:
                        word |= np.uint32(1) << np.uint32(i)
                out[n, h, w, j] = word


def pack_bits_forward(
    problem: Problem, x: np.ndarray, threshold: np.ndarray | None, out: np.ndarray, threads: int
) -> None:
    """out = bits of x >= threshold."""
    if out.size == 0:
        return
    if x.ndim == 2:
        x, out = x[:, :, None, None], out[:, :, None, None]
    dtype = compute_dtype(x)
    levels = np.zeros(x.shape[1], dtype) if threshold is None else np.ascontiguousarray(threshold, dtype)
    turned = bits(x).transpose(0, 2, 3, 1), out.transpose(0, 2, 3, 1)
    parallel(_pack, x.shape[0] * x.shape[2], threads, 0.7 * x.size, x.shape[1] // problem.groups, levels, *turned)
