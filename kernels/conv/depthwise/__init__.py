"""Depthwise convolution: one filter for each channel (groups == C == K), vectorised over the channels.

Every vector of channels is a convolution of its own, with vectors in place of numbers. Channels-last images of the
compute dtype are read where they are; taps beside the image are left out. 3 x 3 windows of stride 1 or 2 go down the
image in strips of a few columns::

    source      output (stride 1)          each row of the source is loaded once: it ends the row above, a, belongs to
    . . . . .                              its own, b, and begins the next, c; then a = b, b = c, c = 0
    . . . . .     a a a   <- tap row 2
    x x x x x     b b b   <- tap row 1     stride 2: every other row ends one row and begins the next
    . . . . .     c c c   <- tap row 0     gradient of stride 2: row q makes rows 2q and, with row q + 1, 2q + 1

Other windows go row by row, a register tile of neighbouring pixels at a time. What cannot be read where it is (another
memory order or storage dtype, channels that do not fill a vector) is copied first, zero padding included, a plane for
each vector of channels::

    plane[row][column] = one vector       tap (r, s) of pixel q lies at
    +---------------------------+             (source(q) - corner) + (r * columns + s) * dilation
    | .  .  .  .  .  .  .  .  . |         source(q) = q * scale + offset: position of the first tap
    | .  A  B  C  .  .  .  .  . |
    | .  D  E  F  .  .  .  .  . |
    +---------------------------+

* forward: for each tap its vector of weights times the vectors of the pixels.
* backward_input: the same gather from dout. Pixels of dx with the same remainder by the stride meet the same taps: each
  pair of remainders is a phase with a list of taps of its own, scale 1, and a step of `stride` between its pixels.
* backward_weight: the taps' sums in registers; for each pixel the vector of dout times the vectors of x at its taps.
  They run over a few rows of a strip, their sum is added to that of a slice of blocks, and the slices are added up in
  order.
"""
