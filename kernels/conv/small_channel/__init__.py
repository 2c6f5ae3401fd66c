"""Convolutions that read few channels (at most four): the first layer of a net.

There are too few channels to fill a vector, so the vectors run over the output channels. The inner dimension of the
forward pass is the filter's taps, all channels included. A task copies the part of one image that a block of its output
rows reads, zero padding included and channels interleaved, into scratch memory; no im2col copy is made::

    buffer[row][column][channel]      tap (r, s, c) of output pixel (i, j) lies at
    +---------------------------+         base(i, j) + offset[tap]
    | .  .  .  .  .  .  .  .  . |     base(i, j)      = (i * stride_h * columns + j * stride_w) * C
    | .  a  b  c  .  .  .  .  . |     offset[r, s, c] = (r * dilation_h * columns + s * dilation_w) * C + c
    | .  d  e  f  .  .  .  .  . |
    +---------------------------+     neighbours (s, c) of one filter row form a run without gaps (dilation_w == 1)

* forward: a register tile of pixels x output channels; for each tap one scalar per pixel times one row of weights.
  Sums run in the order (r, s, c), whatever the memory order of x.
* backward_weight: a register tile of taps x output channels; for each pixel the scalars at its taps times the vectors
  of dout. A tile sums over one block of one image, its sum is added to that of a slice of blocks, and the slices are
  added up in order.

* backward_input: a register tile of input pixels x channels. The vectors run over the output channels, of which a
  padded copy of dout is made; at the end the lanes of each sum are added up. The trainings of the book ask for the
  gradient of a picture in every step, and throw it away.
"""
