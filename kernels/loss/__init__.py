"""softmax, softmax_cross_entropy: along the rows of a matrix (rows, classes).

With m = max_j x[i, j], e[i, j] = exp(x[i, j] - m) and s[i] = sum_j e[i, j]::

    softmax forward                  out[i, j] = e[i, j] / s[i]
    softmax backward                 dx[i, j] = y[i, j] * (dout[i, j] - sum_k dout[i, k] * y[i, k])
    softmax_cross_entropy forward    probabilities[i, j] = e[i, j] / s[i]
                                     losses[i] = log(s[i]) - (x[i, label[i]] - m)
    softmax_cross_entropy backward   dx[i, j] = (probabilities[i, j] - (1 if j == label[i] else 0)) * scale[0]

``softmax_forward(problem, x, out, threads)``, ``softmax_backward(problem, dout, y, dx, threads)``,
``softmax_cross_entropy_forward(problem, x, labels, losses, probabilities, threads)``,
``softmax_cross_entropy_backward(problem, probabilities, labels, scale, dx, threads)``

* *Problem*: ``shapes == ((rows, classes),)``. Every array may have any strides.
* ``x``, ``out``, ``dout``, ``y`` and ``dx`` have dtype ``storage``; ``losses`` (rows,), ``probabilities`` (rows,
  classes) and ``scale`` (one element) the compute dtype; ``labels`` (rows,) is int64.
* s is at least 1, so there is no division by 0, and a loss is right where the probability of its label underflows: no
  constant is added inside the logarithm. exp and log are those of ``_common/vmath.h``.
* -inf is a probability of 0. A row that holds NaN or inf, or only -inf, becomes NaN, its loss too.
* Labels are not checked. One outside 0 .. classes - 1 has the loss NaN and subtracts nothing in the backward pass.
* Sums along a row of compiled kernels: fewer than 16 terms from left to right; else lane l of 16 adds up the terms l,
  l + 16, l + 32, ..., and the lanes are added in pairs (l, l + 8), (l, l + 4), ... The same on every ISA level.
  Of CUDA's: classes in 16 bytes of ``storage`` neighbour each other in a thread, which adds them up from left to right,
  one such group of each 8 (up to 32 bytes of sums in a thread), 32 (128 bytes) or 256 groups; the threads of a warp are
  added in pairs (l, l + 16), (l, l + 8), ..., and warps from left to right. exp and log are CUDA's.
* No output overlaps an input or another output.
"""

from __future__ import annotations

from .._common.tiling import itemsize
from ..problem import Problem

#: Values in one block of rows (which has at least one): 16 KiB of float32, which the later passes find in L1.
BLOCK = 4096


def workspace(problem: Problem, isa: str, threads: int) -> int:
    """Bytes of scratch: each thread has at most three blocks of rows, and two numbers for each row of a block."""
    (_, classes), size = problem.shapes[0], itemsize(problem.compute)
    rows = max(1, BLOCK // max(classes, 1))
    return threads * (3 * (rows * classes * size + 128) + 2 * (rows * size + 128))
