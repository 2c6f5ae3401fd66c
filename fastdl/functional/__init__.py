"""Layers as functions of NumPy or CuPy arrays: stateless, each with its gradient.

Four-dimensional arrays have the shape (N, C, H, W) and, where a function made them, channels-last memory (the strides
of an (N, H, W, C) array), which is the order that the kernels read fastest; any other order, views, read-only and empty
arrays are taken as well. A result has the dtype ``numpy.result_type`` of its main operands, a gradient the dtype of its
tensor. Arrays are float32, float64, float16 or bfloat16 (halves are summed in float32 and rounded once), in inference
also float8_e4m3fn or float8_e5m2, likewise; integers are converted, see :func:`fastdl.set_default_dtype`. Which kernel
runs a call: :func:`fastdl.explain`.

The arrays of a call are in one place, and so is the result: NumPy arrays run on the CPU, CuPy arrays (and what else is
in CUDA memory, such as torch tensors) on their GPU, without waiting for it. Lists and numbers go where the arrays are;
:func:`fastdl.to_device` moves arrays.
"""

from __future__ import annotations

from ._bits import conv2d_binary, linear_binary, pack_bits
from ._bytes import conv2d_int8, dequantize, linear_int8, max_pool2d_int8, quantize
from ._conv import col2im, conv2d, conv2d_backward, im2col
from ._linear import linear, linear_backward
from ._loss import softmax, softmax_backward, softmax_cross_entropy, softmax_cross_entropy_backward
from ._norm import (
    batch_norm,
    batch_norm_backward,
    batch_norm_inference,
    local_response_norm,
    local_response_norm_backward,
)
from ._pointwise import (
    add,
    cast,
    concat,
    concat_backward,
    dropout,
    dropout_mask,
    relu,
    relu6,
    relu6_backward,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    stochastic_cast,
    tanh,
    tanh_backward,
)
from ._pool import (
    avg_pool2d,
    avg_pool2d_backward,
    global_avg_pool2d,
    global_avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
)

__all__ = [
    "add",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_inference",
    "cast",
    "col2im",
    "concat",
    "concat_backward",
    "conv2d",
    "conv2d_backward",
    "conv2d_binary",
    "conv2d_int8",
    "dequantize",
    "dropout",
    "dropout_mask",
    "global_avg_pool2d",
    "global_avg_pool2d_backward",
    "im2col",
    "linear",
    "linear_backward",
    "linear_binary",
    "linear_int8",
    "local_response_norm",
    "local_response_norm_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool2d_int8",
    "pack_bits",
    "quantize",
    "relu",
    "relu6",
    "relu6_backward",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "softmax",
    "softmax_backward",
    "softmax_cross_entropy",
    "softmax_cross_entropy_backward",
    "stochastic_cast",
    "tanh",
    "tanh_backward",
]
