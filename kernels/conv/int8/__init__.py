"""conv2d_int8: convolution of bytes, with sums of 32 bits: exact, and the same from every kernel.

With x (N, C, H, W) uint8, w (K, C/groups, R, S) int8, bias int32 (K,) or None, scale float32 (K,), zeros int32 (2,) =
the bytes that stand for 0 in x and in out, and the indices of ``conv``::

    sum[n, k, i, j] = bias[k] + sum_{c, r, s} w[k, c, r, s] * (x[...] - zeros[0])        only over taps inside x
    v = float32(sum) * scale[k]                                                          each rounded once, to even
    out = f(v)                                                            where out is float32
    out = clip(rint(v) + zeros[1], zeros[1] if f is ReLU else 0, 255)     where it is uint8; ties to even

* ``conv2d_int8_forward(problem, x, w, bias, scale, zeros, out, threads)``: ``epilogue`` is ``"none"`` (bias is None),
  ``"bias"`` or ``"bias_relu"``; ``problem.attr("out")`` names the dtype of out. ``Problem.shapes == (x, w)``,
  ``Problem.orders`` are theirs.

A number a is stored as the byte q that stands for (q - zero) * step; with bias = b / (x's step * w's step) and
scale[k] = x's step * w[k]'s step (/ out's step) the formula is that of ``conv2d`` on such numbers (Jacob et al., 2018,
arXiv:1712.05877, equation 4, with one step for each output channel). Every sum must fit into 32 bits, which up to
``plan.TERMS`` products do whatever their values; scale is finite.

Compiled kernels take four channels at a time where the CPU has VNNI (``vpdpbusd``), else two of 16 bits (``pmaddwd``):
``words.h``.
"""
