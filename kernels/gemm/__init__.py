"""gemm: matrix product with bias and ReLU.

    out[m, n] = f(sum_k a[m, k] * b[k, n] + bias[n])

``gemm_forward(problem, a, b, bias, out, threads)``

* *Problem*: ``shapes == ((M, K), (K, N))``; ``epilogue`` is ``"none"`` (``bias`` is None, f the identity),
  ``"bias"`` or ``"bias_relu"`` (f(v) = 0 where v <= 0, else v: NaN passes).
* ``a``, ``b``, ``out`` have dtype ``storage`` and any strides; ``bias`` (N,) any float dtype up to the compute width.
* Sums run in the compute dtype over blocks of K whose size depends on K alone, and are rounded to ``storage`` once.
* ``out`` must not overlap an input. K == 0 gives f(bias).

Emulated arithmetic (``registry.Row.arithmetic``), with the same arguments:

* ``gemm_forward_tf32``, float32: ``a`` and ``b`` are rounded to TF32 first (11 significant bits, ties away from zero,
  the range of float32), as tensor cores do; the rest is as above.
* ``gemm_forward_float16_sums``, float16: with s = +0, then for k = 0, 1, ..., K - 1: p = a[m, k] * b[k, n] rounded to
  float16, s = s + p rounded to float16. At last f(s + bias[n]) in float32, rounded to float16. The bits are the same on
  every row.
"""
