"""The layers of *Deep Learning from Scratch*, on compiled kernels, and what its readers miss there.

Every layer has ``forward(x)`` and ``backward(dout)``. Arrays of images have the shape (N, C, H, W); layers take any
memory order and pass channels-last memory on.
"""

from .activation import Relu, Relu6, Sigmoid, Tanh
from .base import Layer
from .binary import BinaryAffine, BinaryConvolution
from .conv import Convolution
from .dense import Affine
from .dropout import Dropout
from .loss import SoftmaxWithLoss
from .norm import BatchNormalization, LocalResponseNormalization
from .pool import AveragePooling, Pooling

__all__ = [
    "Affine",
    "AveragePooling",
    "BatchNormalization",
    "BinaryAffine",
    "BinaryConvolution",
    "Convolution",
    "Dropout",
    "Layer",
    "LocalResponseNormalization",
    "Pooling",
    "Relu",
    "Relu6",
    "Sigmoid",
    "SoftmaxWithLoss",
    "Tanh",
]
