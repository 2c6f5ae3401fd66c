"""Dot products of pairs of bfloat16 in hardware: forward and backward_input of ``conv2d``, and ``gemm``.

``vdpbf16ps`` multiplies 16 pairs of neighbouring bfloat16 with 16 others and adds both products of each to a float32:
twice the multiply-adds of a float32 FMA. Two neighbouring channels are one word, and words are convolved as
``kernels/conv/words.h`` describes; nothing is widened on the way. The last of an odd number of channels has 0 beside
it.

Products are exact in float32, and a sum of two products is rounded as two FMAs would be. Unlike the other rows the
instruction takes numbers below 2**-126 for 0, factors and sums alike (Intel's and AMD's manuals: DAZ and FTZ, whatever
MXCSR says).
"""
