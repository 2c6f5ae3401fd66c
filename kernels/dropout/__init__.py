"""dropout: a random mask, and its product with an array.

mask
----
    mask[i] = 1 where word(i) >= ratio * 2**32 (rounded to an integer), else 0

with i the index in row-major order, so that the share ``1 - ratio`` of the elements is kept. word(i) is word ``i % 4``
of block ``i // 4`` of Philox4x32-10 (Salmon, Moraes, Dror, Shaw: *Parallel Random Numbers: As Easy as 1, 2, 3*, 2011),
a function of a counter and a key without any state, and so the same from any backend, ISA level and thread count::

    counter words   0: i // 4, low half   1: i // 4, high half   2: step, low half   3: step, high half
    key words       0: seed, low half     1: seed, high half

``dropout_mask(problem, state, out, threads)``

* *Problem*: ``shapes == (mask.shape,)``; ``storage`` is the dtype of the array that the mask is for (it changes
  nothing); ``attrs``: ``ratio``, 0 <= ratio < 1. Ratio 0 keeps everything.
* ``state`` is the uint64 array [seed, step]; it is not written: the caller counts steps.
* ``out`` is a C-contiguous uint8 array, 1 = keep.

forward
-------
    out[i] = x[i] * (mask[i] * scale)

``dropout_forward(problem, x, mask, out, threads)``: also the backward pass, with dout in place of x.

* *Problem*: ``shapes == (x.shape,)``; ``attrs``: ``scale`` (1 as in the book, or 1 / (1 - ratio)), which is rounded to
  the compute dtype.
* ``x`` and ``out`` have dtype ``storage``, ``mask`` has the shape of x and dtype uint8 or bool, all have any strides.
* It is a product and not a choice, bit for bit what ``x * mask`` is in NumPy for scale 1: a dropped NaN or infinity is
  NaN, a dropped negative number is -0.
* ``out`` may be ``x``; otherwise it must not overlap an input.
"""

from __future__ import annotations


def threshold(ratio: float) -> int:
    """The smallest 32-bit word that keeps its element."""
    return round(ratio * 2.0**32)
