"""Networks on compiled layers: the book's, with its constructors, names and methods, and the classics of ImageNet."""

from .alexnet import AlexNet
from .base import Model
from .deep_convnet import DeepConvNet
from .simple_convnet import SimpleConvNet
from .vgg import VGG

__all__ = ["VGG", "AlexNet", "DeepConvNet", "Model", "SimpleConvNet"]
