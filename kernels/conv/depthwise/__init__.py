"""Depthwise convolution: one filter for each channel (groups == C == K), vectorised over the channels.

Every vector of channels is a convolution of its own, with vectors in place of numbers. A task copies the part of one
image that its output pixels read, zero padding included, into scratch memory, a plane for each vector of channels::

    plane[row][column] = one vector       tap (r, s) of pixel q lies at
    +---------------------------+             base(q) + offset[tap]
    | .  .  .  .  .  .  .  .  . |         base(q)   = (qi * scale_h * columns + qj * scale_w) * vector
    | .  A  B  C  .  .  .  .  . |         offset[t] = (row offset * columns + column offset) * vector
    | .  D  E  F  .  .  .  .  . |
    +---------------------------+

* forward: a register tile of neighbouring pixels of one row; for each tap its vector of weights times their vectors.
* backward_input: the same gather from dout. Pixels of dx with the same remainder by the stride meet the same taps: each
  pair of remainders is a phase with a list of taps of its own, scale 1, and a step of `stride` between its pixels.
* backward_weight: a register tile of taps; for each pixel the vector of dout times the vectors of x at its taps. A tile
  sums over a few rows, their sum is added to that of a slice of blocks, and the slices are added up in order.
"""
