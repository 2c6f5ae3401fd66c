"""batch_norm and local_response_norm.

batch_norm
==========

x is (M, D), or (N, D, H, W) with M = N H W rows; every statistic belongs to one channel, an index of axis 1::

    mean = sum(x) / M            var = sum((x - mean)^2) / M                                        (biased)
    out  = gamma (x - mean) / sqrt(var + eps) + beta
    dbeta = sum(dout)            dgamma = sum(dout (x - mean)) / sqrt(var + eps)
    dx   = gamma / sqrt(var + eps) (dout - dbeta / M - (x - mean) / sqrt(var + eps) dgamma / M)

(Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167, dx simplified.)

``batch_norm_forward(problem, x, gamma, beta, out, mean, var, threads)`` writes out, mean and var;
``batch_norm_inference(problem, x, gamma, beta, mean, var, out, threads)`` reads mean and var;
``batch_norm_backward(problem, dout, x, gamma, mean, var, dx, dgamma, dbeta, threads)`` takes the mean and var of its x.

* *Problem*: ``shapes == (x.shape,)``; attrs: eps (float).
* x, out, dout, dx have dtype ``storage`` and any strides, all four independently; mean and var (D,) the compute dtype;
  gamma, beta, dgamma, dbeta (D,) any float dtype each. Fast where the channels of a row are beside each other (2-D C
  order, channels-last), about half as fast where the pixels of a channel are (NCHW).
* out is computed from mean and var as they are stored: inference with a forward's statistics gives that forward's bits.
  gamma / sqrt(var + eps) is rounded to the compute dtype once; the map is (x - mean) * scale + beta, in that order.
* Sums: blocks of 128 rows in the compute dtype (a tree of 8 rows, 16 of these in a chain), these in float64 in at most
  64 chunks of whole blocks. Variance comes from squares about the mean of each block's first 8 rows, joined about the
  block's mean: no offset cancels, and at worst the squares are 17 times those about the mean. With float32 sums, mean
  and var are within about one rounding of exact for rows in no particular order. The sums do not depend on the memory
  order.
* CUDA's sums (batch_norm.cuh): a thread adds up trees of 8 rows, four of these in a chain (in backward eight of 4),
  and these in float64. The squares of a chain are about the mean of its first tree: at most 4 times those about its own
  mean, whatever the order of the rows. How the rows are cut follows from the shape and the memory order of x.
* out and dx of at least 8 MB are stored around the caches (_common/stream.h) where they have the compute dtype and the
  channels of a row are beside each other.
* Within a block, sums of x, and of squares about the mean, must be finite in the compute dtype (|x| < max / 128).
* A NaN or an infinity in x makes NaN of var, out and dx in its own channel and leaves the others alone; mean is what
  the sum gives. var + eps == 0 divides by zero as IEEE 754 does.
* M == 0: forward writes NaN to mean and var, backward zeros to dgamma and dbeta. (``functional`` rejects it.)
* No output may overlap an input.

local_response_norm
===================

Across the channels of x (N, C, H, W), as ONNX's LRN (https://onnx.ai/onnx/operators/onnx__LRN.html, where k is named
bias)::

    s[c]   = k + alpha / size * sum(x[j]^2 for j in window(c))
    out[c] = x[c] * s[c]^-beta
    dx[c]  = dout[c] * s[c]^-beta - 2 alpha beta / size * x[c] * sum(t[j] for every j that has c in window(j))
    t[j]   = dout[j] * x[j] * s[j]^(-beta - 1)

    window(c) = max(0, c - floor((size - 1) / 2)) ... min(C - 1, c + ceil((size - 1) / 2))

PyTorch's ``local_response_norm`` is the same for odd sizes; for even ones its window has the additional channel in
front (c - size / 2 ... c + size / 2 - 1), not behind: flip the channels before and after. ``tf.nn.lrn`` does not divide
alpha by size.

``local_response_norm_forward(problem, x, out, threads)``
``local_response_norm_backward(problem, dout, x, dx, threads)``

* *Problem*: ``shapes == (x.shape,)``; attrs: size (int, at least 1, also above C), alpha, beta, k (floats).
* Arrays have dtype ``storage`` and any strides, each its own.
* Each window is summed from its first channel to its last in the compute dtype: with k and alpha at least 0, s has a
  relative error of at most (size + 3) roundoffs (half an eps).
* s^-0.75 is 1 / (sqrt(s) sqrt(sqrt(s))): at most 4.5 roundoffs more. Any other power is exp(-beta log(s)), with the
  errors of _common/vmath.h: at most 1.3 + 2.9 beta |log(s)| roundoffs more. (In CUDA they are CUDA's own exp and log.)
* s is computed again in backward. NaN and infinities reach the windows that contain them. s == 0 gives the infinity
  that IEEE 754's pow gives; s < 0 (a negative k or alpha) is outside the contract.
* No output may overlap an input.
"""

from .plan import workspace as workspace
