"""Stores around the caches: when Numba's kernels take them for a result; the reasons are those of ``stream.h``.

LLVM makes no such stores of a loop: ``vectors.stream`` does. (relu from and to memory, 51 MB each, one thread: 2.5 ms
plainly, 1.9 around the caches, 1.8 with the input fetched ahead. Blocks worked out in a buffer and copied from there:
4 ms.) A kernel that goes through contiguous arrays looks like this, where ``streams`` is what :func:`streams` says::

    head, tail = whole_lines(first, last, streams, out)
    zero = every(out, one - one)
    for at in range(head, tail, lanes(out)):
        value = load(x, at)
        fetch(x, at + AHEAD // x.itemsize)
        stream(out, at, choose(value <= zero, zero, value))
    for a, b in ((first, head), (tail, last)):
        ...  # the loop over x[a:b] and out[a:b]
    fence()
"""

from __future__ import annotations

import numpy as np

from .jit import HARDWARE_HALVES, borrowing
from .vectors import REGISTER, misaligned

#: Results of at least so many bytes go around the caches.
STREAM_BYTES = 8 << 20
#: Elements of which there are always whole registers, whatever the dtype.
_STEP = 16


def streams(out: np.ndarray, *inputs: np.ndarray) -> bool:
    """Whether contiguous arrays, as ``jit.bits`` gives them, go around the caches.

    That is where ``out`` is large and no input's memory. Not where loops are faster: what rounds float64 to halves, and
    float16 where the processor does not convert it.
    """
    if out.nbytes < STREAM_BYTES:
        return False
    names = {a.dtype.name for a in (out, *inputs)}
    if ("float64" in names and out.itemsize == 2) or ("uint16" in names and not HARDWARE_HALVES):
        return False
    start = out.__array_interface__["data"][0]
    return start % out.itemsize == 0 and all(a.__array_interface__["data"][0] != start for a in inputs)


@borrowing
def whole_lines(first, last, streams, out):
    """From where to where a kernel stores around the caches: nowhere (last, last) without ``streams``.

    out[head] is aligned to a register, and there are whole registers up to tail.
    """
    if not streams:
        return last, last
    head = min(last, first + (REGISTER - misaligned(out, first)) % REGISTER // out.itemsize)
    return head, head + (last - head) // _STEP * _STEP
