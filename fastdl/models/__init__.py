"""The book's networks, with its constructors, names and methods, on compiled layers."""

from .base import Model
from .deep_convnet import DeepConvNet
from .simple_convnet import SimpleConvNet

__all__ = ["DeepConvNet", "Model", "SimpleConvNet"]
