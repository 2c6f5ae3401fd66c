"""Direct convolution: dilation 1, any stride, pads, groups, dtype and memory order; all three directions of ``conv2d``.

In channels-last memory the taps of one filter row and the channels under them are neighbours: S * C values, one run. So
the register tiles (``_common/tiles.h.in``) need no im2col. They walk over R runs for each output position::

    a chunk's source rows, zero-padded, in a buffer of the thread           weights [K/nr][C/cb][R][S][cb][nr]

           | column 0 | column 1 | column 2 | ...                             run r: S * cb rows of nr values
    row 0  | c c c c  | c c c c  | c c c c  |
    row 1  | c c c c  | c c c c  | c c c c  |     position (i, j), run r, reads buffer row i * stride + r from
    row 2  | c c c c  | c c c c  | c c c c  |     column j * stride on: a tile's rows are stride * cb apart

* The copy into the buffer is the only code that knows dtype, memory order and padding; where C is large it blocks the
  channels (cb), so that the weights of a block and a panel stay in L2. Filter rows that lie wholly in the padding are
  skipped. Where the filter is narrower than the stride, positions that no tap reads are left out of the buffer.
* **backward_input** is the same loop over dout with the weight's two channel axes exchanged. Input positions with the
  same remainder by the stride meet the same taps (``kernels/conv/plan.py``): each class is a small convolution with
  stride 1 over the same buffer, and no product with an inserted zero is computed.
* **backward_weight** reads the buffer along the other axis: S * cb neighbouring taps and channels are the rows of a
  tile, its inner loop walks over the pixels of a chunk, [row][column], beside panels of dout, [K/nr][pixel][nr].

Sums: forward and backward_input add up R * S * cb products in one register and then the blocks; backward_weight adds up
a chunk (at most 512 pixels of an image) in one register, the chunks of a slice in their order, the slices in theirs.
"""
