"""conv2d by Winograd's minimal filtering: fewer products than taps, for 3x3 and 5x5 filters of stride 1.

F(m x m, r x r) computes a tile of m x m results from n x n inputs, n = m + r - 1, with n * n products for each pair of
channels instead of m * m * r * r (Winograd 1980; Lavin, Gray, *Fast Algorithms for Convolutional Neural Networks*, CVPR
2016)::

    Y = A^T [ (G w G^T) * (B^T x B) ] A        * is elementwise; over all channels it is n * n matrix products

=====================  ======  =====================  =====================================
row                    points  products per result    instead of
=====================  ======  =====================  =====================================
``winograd_4x4_3x3``   6 x 6   2.25                   9
``winograd_2x2_3x3``   4 x 4   4                      9 (less to waste where outputs are tiny)
``winograd_2x2_5x5``   6 x 6   9                      25
=====================  ======  =====================  =====================================

::

    x   tiles overlap by r - 1               strip of tiles      V[n*n]        U[n*n]      M[n*n]
       +--+--+--+--+--+--+                   of one tile row    +---------+   +------+    +------+
       |  0  |  .  |  .  |    down columns,  +---+---+---+      | tile x  | x | c x  |  = | tile |   -> m x m results
       +     +--+--+--+--+    along rows  -> |   |   |   |  ->  | channel |   | nr   |    | x nr |      each
       |  .  |  .  |  .  |                   +---+---+---+      +---------+   +------+    +------+
       +--+--+--+--+--+--+

* forward, and backward_input with the filter read backwards: blocks of tiles are transformed, multiplied and stored by
  one task each (winograd_gather.h). U is made once for a call.
* backward_weight is F(r x r, m x m): the tiles of dout are the filters (winograd_weight.h).

Beyond the op's contract: a NaN or an infinity in a tile's inputs may make all results of that tile NaN, and so may
overflow in a transform (inputs above a tenth of the largest number). Results are not exact on integers; rounding errors
are larger than those of the direct rows, by the factor that ``fastdl.check.tolerances`` computes for each result.
"""
