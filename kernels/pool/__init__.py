"""Pooling: the largest element or the mean of each window, and the mean of each channel.

With oh, ow a window, kh, kw one of its taps and (top, bottom, left, right) the padding, a tap stands on the element

    h = oh * stride_h - top  + kh * dilation_h
    w = ow * stride_w - left + kw * dilation_w          or in the padding where that lies outside of the image

                 left      W      right
               +------+---------+------+
           top |      .         .      |          Windows lie on a grid of OH x OW; geometry.window_grid gives its size
               | +----.---+     .      |          from any stride, any four pads (also wider than the window), dilation
               | |    +---|-----+      |          and ceil_mode, which lets the last windows reach beyond the padding.
             H | +----|---+     |      |          A window may lie wholly in the padding.
               |      +---------+      |
        bottom |                       |
               +-----------------------+

``x``, ``out``, ``dout`` and ``dx`` have dtype ``storage`` and any strides; every element of an output is written, and
no output may overlap an input. *Problem*: ``shapes == (x.shape,)`` in both directions; attributes ``kernel`` (KH, KW)
and ``ceil_mode`` for max and average, ``count_include_pad`` for average. The shape of ``out`` is (N, C, OH, OW).

``max_pool2d_forward(problem, x, out, indices, threads)``

    out[n, c, oh, ow] = max of x[n, c, h, w] over the window's taps on the image

* ``indices`` (shape of ``out``) gets the number kh * KW + kw of the tap that holds the maximum: uint8, or int32 where
  KH * KW > 255. It may be None (inference).
* Ties (also -0.0 and +0.0) go to the first tap in row-major order. NaN is larger than anything: the first NaN wins.
* Padding never wins, not even against -inf. A window wholly in the padding gives -inf and the largest value of the
  dtype of ``indices``. Values are compared in the compute dtype, so halves come out as they went in.

``max_pool2d_backward(problem, dout, indices, out, dx, threads)``

    dx[n, c, h, w] = sum of dout[n, c, oh, ow] over the windows whose index names (h, w)

* ``indices`` as written by forward. A sum starts at 0, runs in the compute dtype over the windows in row-major order,
  and is rounded to ``storage`` once.
* ``epilogue`` is ``"none"`` (``out`` is None) or ``"relu_mask"``: ``out`` is forward's result, and windows whose result
  is <= 0 are left out. Where x is the output of a ReLU, dx is then the gradient by the ReLU's input: the windows that
  name an element all have that element as their result, so that its whole sum stays or is 0 (NaN is not <= 0: it
  stays, as it does in the ReLU). This way the mask is read from the smaller array.

``avg_pool2d_forward(problem, x, out, threads)`` and ``avg_pool2d_backward(problem, dout, dx, threads)``

    out[n, c, oh, ow] = (sum of x[n, c, h, w] over the window's taps on the image) / divisor[oh, ow]
    dx[n, c, h, w]    = sum of dout[n, c, oh, ow] / divisor[oh, ow] over the windows that cover (h, w)

* PyTorch's divisor: with ``count_include_pad`` the size of the window inside the padded image (in ceil_mode a window
  may reach beyond the padding; those taps do not count), without it the number of taps on the image. A window wholly
  in the padding gives 0. Dilation is 1.
* Sums start at 0 and run in the compute dtype, forward over taps and backward over windows in row-major order.

``global_avg_pool2d_forward(problem, x, out, threads)`` and ``global_avg_pool2d_backward(problem, dout, dx, threads)``

    out[n, c, 0, 0] = (sum of x[n, c, h, w] over h, w) / (H * W)
    dx[n, c, h, w]  = dout[n, c, 0, 0] / (H * W)

* ``out`` and ``dout`` are (N, C, 1, 1). H * W must not be 0. The compiled sum is made of blocks of 128 pixels, each of
  8 interleaved sums, in any memory order of ``x``: rounding errors grow with H * W / 128 instead of H * W. CUDA's is
  made of trees of 8 pixels, four of these in a chain, and then runs in float64.
"""

from __future__ import annotations

from ..problem import Problem


def workspace(problem: Problem, isa: str, threads: int) -> int:
    """Bytes of scratch: none. The state of a window lives in registers or in buffers of fixed size on the stack."""
    return 0
