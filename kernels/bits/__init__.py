"""pack_bits: the signs of numbers, 32 neighbouring channels in a word.

With x (N, C, ...) of two or four dimensions, ``problem.groups`` groups of channels = C / groups each, words =
ceil(channels / 32) and out (N, groups * words, ...) uint32::

    bit i of out[n, g * words + j, ...] = 1 if x[n, g * channels + 32 j + i, ...] >= threshold[...] else 0

with threshold 0 where it is None, and bits beyond the channels of a group 0. -0 is >= 0, and NaN is not.

* ``pack_bits_forward(problem, x, threshold, out, threads)``: threshold float32 (C,), compared with x in the compute
  dtype, or None. ``Problem.shapes == (x,)``; ``Problem.orders`` is that of x.

A ReLU is no part of a binary network, but a batch normalisation before the sign is: gamma (x - mean) / std + beta >= 0
where x >= mean - beta std / gamma, if gamma > 0.
"""

from __future__ import annotations

from ..problem import Problem


def workspace(problem: Problem, isa: str, threads: int) -> int:
    """Bytes of scratch of all threads together, at most: the thresholds."""
    return problem.shapes[0][1] * 8 + 128
