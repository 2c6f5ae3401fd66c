"""add, concat: where the branches of a net meet.

    add      out = a + b
    concat   out[..., start_i + j, ...] = arrays[i][..., j, ...],   start_i = sum of the sizes before i

``add_forward(problem, a, b, out, threads)``

* *Problem*: ``shapes == (a,)``; all three arrays have that shape, the dtype ``storage`` and any strides.
* Each element is rounded to ``storage`` once (the float32 sum of two halves is exact enough for that).
* ``out`` may be the same elements as ``a`` or ``b`` or both (equal strides), else it overlaps neither.

``concat_forward(problem, arrays, out, threads)``

* *Problem*: ``shapes`` and ``orders`` of each array; ``attrs``: ``axis``, counted from the front. The arrays have the
  shape of ``out`` except along that axis, where their sizes add up to that of ``out``; sizes of 0 are allowed.
* All arrays have the dtype ``storage`` and any strides. Bits are copied: NaN payloads stay.
* ``out`` overlaps no array. The arrays may overlap each other.
"""

from __future__ import annotations

from ..problem import Problem


def workspace(problem: Problem, isa: str, threads: int) -> int:
    """Bytes of scratch: concat's table with an entry of at most 576 bytes for each array."""
    return len(problem.shapes) * 576 + 128 if problem.op == "concat" else 0
