"""cast: the same values in another floating-point dtype.

    out[i] = x[i], rounded to nearest, ties to even

``cast_forward(problem, x, out, threads)``

* *Problem*: ``shapes == (x.shape,)``; ``storage`` is the dtype of ``out``; ``attrs``: ``source``, the dtype of ``x``.
  Each of the two is one of float32, float64, float16, bfloat16; they may be equal.
* ``x`` and ``out`` have any strides.
* There is one rounding, also from float64 to float16 and bfloat16. What is too large becomes an infinity, what is too
  small a subnormal or a zero with its sign. Widening is exact.
* NaN stays NaN with its sign. Its payload is not part of the contract (the compiled rows keep the upper bits, the same
  at every level and in every layout; a signalling NaN may become quiet).
* ``out`` must not overlap ``x``.
"""
