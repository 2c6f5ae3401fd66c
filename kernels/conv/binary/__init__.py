"""conv2d_binary: convolution of signs, 32 channels in a word: exact, and the same from every kernel.

A bit stands for a sign: 1 for +1, 0 for -1. Bit i of word j is channel 32 j + i of its group (``kernels/bits``); with
``channels`` channels in a group and ``words`` = ceil(channels / 32), the last word's other bits are 0. With x (N,
groups * words, H, W) uint32, w (K, words, R, S) uint32, scale float32 (K,) or None (1 for all), and the indices of
``conv``::

    dot[n, k, i, j] = sum of sign(w) * sign(x) over the channels and those taps that lie inside x
    out[n, k, i, j] = float32(dot) * scale[k]

Positions beside x are no -1: they add nothing, as the zeros that pad a convolution of numbers.

* ``conv2d_binary_forward(problem, x, w, scale, out, threads)``: ``epilogue`` is ``"none"``,
  ``problem.attr("channels")`` the channels of a group, out float32. ``Problem.shapes == (x, w)``, ``Problem.orders``
  are theirs.

Signs multiply to -1 where their bits differ: dot = pairs - 2 popcount(x ^ w) (Rastegari et al., 2016,
arXiv:1603.05279). Compiled kernels pad with words of zeros and take what those add, the ones of w at that tap, off
again; only outputs whose columns reach beside x have any, for filter rows beside it are left out.
"""
