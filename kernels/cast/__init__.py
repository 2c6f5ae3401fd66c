"""cast: the same values in another floating-point dtype.

forward
-------
    out[i] = x[i], rounded to nearest, ties to even

``cast_forward(problem, x, out, threads)``

* *Problem*: ``shapes == (x.shape,)``; ``storage`` is the dtype of ``out``; ``attrs``: ``source``, the dtype of ``x``.
  Each of the two is one of float32, float64, float16, bfloat16, float8_e4m3fn, float8_e5m2; they may be equal.
* ``x`` and ``out`` have any strides.
* There is one rounding, also from float64 to float16, bfloat16 and float8. What is too large becomes an infinity (in
  float8_e4m3fn, which has none, NaN), what is too small a subnormal or a zero with its sign. Widening is exact.
* NaN stays NaN with its sign. Its payload is not part of the contract (the compiled rows keep the upper bits, the same
  at every level and in every layout; a signalling NaN may become quiet).
* ``out`` must not overlap ``x``.

stochastic
----------
    out[i] = sign(x[i]) * (above if word(i) < floor(2**32 * share) else below)
    share  = (|x[i]| - below) / (above - below)

where below <= |x[i]| < above are neighbours in the dtype of ``out``, so that the mean over the words is x[i] (Gupta,
Agrawal, Gopalakrishnan, Narayanan: *Deep Learning with Limited Numerical Precision*, ICML 2015). word(i) is dropout's:
word ``i % 4`` of block ``i // 4`` of Philox4x32-10 for (seed, step), with i the index in row-major order, whatever the
strides are. See ``kernels/dropout``.

``cast_stochastic(problem, x, state, out, threads)``

* *Problem*: ``shapes == (x.shape,)``; ``storage``, float16 or bfloat16, is the dtype of ``out``. ``x`` is float32.
* ``state`` is the uint64 array [seed, step]; it is not written: the caller counts steps.
* ``x`` and ``out`` have any strides.
* A value that ``out`` holds stays as it is. The share of every other one is a multiple of 2**-32, and the mean exact,
  but where a float16 comes of |x| < 2**-33: there the share, cut to such a multiple, is up to 2**-32 too small, an
  error of the mean below 2**-56.
* Beyond the largest finite value there is no neighbour above: such values are rounded to nearest, ties to even, which
  gives the largest one or an infinity. NaN stays NaN with its sign, as in *forward*; zeros keep theirs.
* ``out`` must not overlap an input.
"""
