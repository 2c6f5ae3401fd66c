"""conv2d: two-dimensional cross-correlation (what the field calls convolution), grouped, with an epilogue.

With x (N, C, H, W), w (K, C/groups, R, S), out (N, K, OH, OW) by ``geometry.window_grid``, g = k // (K/groups)::

    out[n, k, i, j] = f(sum_{c, r, s} w[k, c, r, s] * x[n, g*C/groups + c, i*stride_h + r*dilation_h - top,
                                                                           j*stride_w + s*dilation_w - left] + b[k])

where x is 0 outside its borders. ``Problem.shapes == (x, w)`` in all directions but
backward_bias, which has (dout,); ``Problem.orders`` are those of the inputs: (x, w), (dout, w), (dout, x) and (dout,).

* ``conv2d_forward(problem, x, w, b, out, threads)``: ``epilogue`` is ``"none"`` (b is None, f the identity), ``"bias"``
  or ``"bias_relu"`` (f(v) = 0 where v <= 0, else v: NaN passes).
* ``conv2d_forward_pooled(problem, x, w, b, out, pooled, indices, threads)``: ``epilogue`` is ``"bias_relu"``; out as
  above, or None, and what max pooling (see ``pool``) of out, rounded to storage, by 2x2 windows with stride 2 gives:
  ``pooled`` (N, K, OH // 2, OW // 2), and ``indices``, uint8 of the same shape, or None. OH and OW are at least 2.
* ``conv2d_backward_input(problem, dout, w, y, dx, threads)``: the gradient of sum(out * dout) by x, as a gather::

    dx[n, c, y, x] = sum_{k, r, s} w[k, c, r, s] * dout[n, k, i, j]   over the i, j that read position y, x at tap r, s

  ``epilogue`` is ``"none"`` (y is None) or ``"relu_mask"``: y has the shape and dtype of dx, and dx is 0 where y <= 0.
  With y = x, the output of a ReLU, that is the gradient by the ReLU's input, without another pass over dx.

* ``conv2d_backward_weight(problem, dout, x, dw, threads)``: ``dw[k, c, r, s] = sum_{n, i, j} dout[n, k, i, j] x[...]``.
* ``conv2d_backward_bias(problem, dout, db, threads)``: ``db[k] = sum_{n, i, j} dout[n, k, i, j]``.

Arrays have dtype ``storage`` and any strides; b and db any float dtype of at most the compute width. The fast path is
channels-last memory. Outputs are written completely and must not overlap inputs. An empty batch gives empty outputs and
zero dw and db. Beyond the borders of x (of dout in backward_input) a kernel may add products with 0 or leave them out:
where the other factor holds NaN or infinities, elements that only such products make NaN may be NaN or not. Sums run in
the compute dtype, in blocks laid down in ``plan.py``, and are rounded to storage once.

Emulated arithmetic (``registry.Row.arithmetic``), with the same arguments:

* ``conv2d_forward_tf32``, ``conv2d_backward_input_tf32``, ``conv2d_backward_weight_tf32``, float32: the two factors of
  the products are rounded to TF32 first, as in ``gemm``.
* ``conv2d_forward_float16_sums``, float16: a chain of terms in the order r, s, c (the last one fastest), each product
  and each partial sum rounded to float16, as in ``gemm``; b is added in float32. The bits are the same on every row.
"""
