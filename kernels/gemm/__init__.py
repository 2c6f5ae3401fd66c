"""gemm: matrix product with bias and ReLU.

    out[m, n] = f(sum_k a[m, k] * b[k, n] + bias[n])

``gemm_forward(problem, a, b, bias, out, threads)``

* *Problem*: ``shapes == ((M, K), (K, N))``; ``epilogue`` is ``"none"`` (``bias`` is None, f the identity),
  ``"bias"`` or ``"bias_relu"`` (f(v) = 0 where v <= 0, else v: NaN passes).
* ``a``, ``b``, ``out`` have dtype ``storage`` and any strides; ``bias`` (N,) any float dtype up to the compute width.
* Sums run in the compute dtype over blocks of K whose size depends on K alone, and are rounded to ``storage`` once.
* ``out`` must not overlap an input. K == 0 gives f(bias).
"""
