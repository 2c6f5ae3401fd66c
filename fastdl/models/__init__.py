"""Networks on compiled layers: the book's, with its constructors, names and methods, and the classics since LeNet.

:mod:`fastdl.models.catalog` has them by name.
"""

from .alexnet import AlexNet
from .base import Model
from .deep_convnet import DeepConvNet
from .googlenet import GoogLeNet
from .lenet import LeNet
from .mlp import MLP
from .resnet import ResNet
from .simple_convnet import SimpleConvNet
from .vgg import VGG

__all__ = ["MLP", "VGG", "AlexNet", "DeepConvNet", "GoogLeNet", "LeNet", "Model", "ResNet", "SimpleConvNet"]
