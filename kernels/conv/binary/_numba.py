"""conv2d_binary in Numba; the contract is the folder's docstring."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from ..._common.jit import kernel
from ..._common.tasks import parallel
from ...problem import Problem


@intrinsic
def _count(context: Any, word: Any) -> Any:
    """How many bits of a word are 1."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint32(types.uint32), generate


@kernel
def _rows(first, last, geometry, groups, bits, scale, weights, x, out):
    """Tasks are rows of outputs; x is (N, H, W, words), out (N, OH, OW, K), weights (R, S, words of a group, K). Taps
    beside x are left out."""
    stride_h, stride_w, top, left, down, right = geometry
    words, per_group = weights.shape[2], out.shape[3] // groups
    sums = np.empty(out.shape[3], np.uint32)
    for task in range(first, last):
        n, i = divmod(task, out.shape[1])
        for j in range(out.shape[2]):
            sums[:] = 0
            pairs = 0
            for r in range(weights.shape[0]):
                h = i * stride_h - top + r * down
                if h < 0 or h >= x.shape[1]:
                    continue
                for s in range(weights.shape[1]):
                    w = j * stride_w - left + s * right
                    if w < 0 or w >= x.shape[2]:
                        continue
                    pairs += bits
                    for g in range(groups):
                        to = sums[g * per_group : (g + 1) * per_group]
                        for c in range(words):
                            word = x[n, h, w, g * words + c]
                            row = weights[r, s, c, g * per_group : (g + 1) * per_group]
                            for k in range(to.size):
                                to[k] += _count(word ^ row[k])  # type: ignore[call-arg]
            for k in range(sums.size):
                out[n, i, j, k] = np.float32(np.int32(pairs) - np.int32(2) * np.int32(sums[k])) * scale[k]


def conv2d_binary_forward(
    problem: Problem, x: np.ndarray, w: np.ndarray, scale: np.ndarray | None, out: np.ndarray, threads: int
) -> None:
    """out = correlation of signs * scale."""
    if out.size == 0:
        return
    factors = np.ones(w.shape[0], np.float32) if scale is None else np.ascontiguousarray(scale)
    geometry = (*problem.stride, problem.pads[0], problem.pads[2], *problem.dilation)
    parallel(
        _rows, out.shape[0] * out.shape[2], threads, 0.1 * out.size * w[0].size,
        geometry, problem.groups, problem.attr("channels"), factors, np.ascontiguousarray(w.transpose(2, 3, 1, 0)),
        x.transpose(0, 2, 3, 1), out.transpose(0, 2, 3, 1),
    )  # fmt: skip
