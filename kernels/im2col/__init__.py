"""im2col, col2im: the windows of an image as the rows of a matrix, and the sum of such rows back into an image.

The convolution written as a matrix product, in the order of *Deep Learning from Scratch*. With oh, ow a window,
kh, kw one of its taps and (top, bottom, left, right) the padding, a tap stands on the image element

    h = oh * stride_h - top  + kh * dilation_h
    w = ow * stride_w - left + kw * dilation_w          or in the padding where that lies outside of the image

``im2col_forward(problem, x, out, threads)``

    out[(n, oh, ow), (c, kh, kw)] = x[n, c, h, w]       0 in the padding

* *Problem*: ``shapes == (x.shape,)``, attribute ``kernel`` (KH, KW); stride, four pads of any size, dilation.
* ``x`` (N, C, H, W) and ``out`` (N*OH*OW, C*KH*KW) have dtype ``storage`` and any strides. A copy: the bits of every
  value, NaN payloads included, stay as they are.

``col2im_forward(problem, col, out, threads)``

    out[n, c, h, w] = sum of col[(n, oh, ow), (c, kh, kw)] over the windows and taps that stand on (h, w)

* The transpose of im2col (its gradient), not its inverse: overlaps are summed, padding is dropped, elements that no
  window touches are 0.
* *Problem*: ``shapes == (out.shape, col.shape)``, the rest as for im2col.
* ``col`` and ``out`` have dtype ``storage`` and any strides; every element of ``out`` is written. A sum starts at 0,
  runs in the compute dtype over the taps (kh, kw) in row-major order, and is rounded to ``storage`` once.

``out`` must not overlap an input. Arrays may be empty.
"""
