"""1x1 convolution, stride 1, no padding, one group: a matrix product that reads channels-last memory where it is.

With P = N * H * W pixels, each C neighbouring values::

    forward          out[P][K] = x[P][C] w[K][C]^T       x in place, out in place where it is channels-last
    backward_input   dx[P][C]  = dout[P][K] w[K][C]      likewise
    backward_weight  dw[K][C]  = dout[P][K]^T x[P][C]    x in place, dout too where it is one panel wide

The weight is packed into panels [K/nr][C][nr] once, the last panel one vector wide where that is enough; a task owns a
block of pixels. Such a layer does few products for each value it reads, so while one block is computed the next one is
fetched into L2, a share with every tile: 10-40% faster than the same tiles on a copy (256 -> 64 and 64 -> 256 channels,
56 x 56). Only pixels a multiple of 4 KB apart, which would push each other out of L1, are copied, to a pitch that is
none (1024 -> 256 channels, 14 x 14: 12.4 -> 7.9 ms on one thread). Halves have to be widened and go the direct way.

Sums: forward and backward_input add up all channels in one register. backward_weight adds up a block (at most 64
pixels) in one register, the blocks of a slice in their order, and the slices in theirs.
"""
