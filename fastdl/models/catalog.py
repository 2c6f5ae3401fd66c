"""The networks by name, with the images that they were made for: for benchmarks and command lines."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from . import MLP, VGG, AlexNet, DeepConvNet, GoogLeNet, LeNet, Model, ResNet, SimpleConvNet, resnet, vgg


class Network(NamedTuple):
    """A network of this package in its published size."""

    #: Takes the keywords of the model's constructor, of which every model has ``dtype`` and ``seed``.
    build: Callable[..., Model]
    #: The shape of an image, the model's ``input_dim``.
    image: tuple[int, ...]
    classes: int
    #: Images in a batch of benchmarks on a CPU.
    batch: int


_DIGIT, _PHOTO = (1, 28, 28), (3, 224, 224)

NETWORKS: dict[str, Network] = {
    "mlp": Network(MLP, (784,), 10, 100),
    "lenet": Network(LeNet, _DIGIT, 10, 100),
    "simpleconvnet": Network(SimpleConvNet, _DIGIT, 10, 100),
    "deepconvnet": Network(DeepConvNet, _DIGIT, 10, 100),
    "alexnet": Network(AlexNet, (3, 227, 227), 1000, 16),
    "alexnet-grouped": Network(partial(AlexNet, grouped=True), (3, 227, 227), 1000, 16),
    **{f"vgg{n}": Network(partial(VGG, n), _PHOTO, 1000, 16) for n in vgg.BLOCKS},
    **{f"vgg{n}-bn": Network(partial(VGG, n, batch_norm=True), _PHOTO, 1000, 16) for n in vgg.BLOCKS},
    "googlenet": Network(partial(GoogLeNet, aux=False), _PHOTO, 1000, 16),
    "googlenet-aux": Network(GoogLeNet, _PHOTO, 1000, 16),
    **{f"resnet{n}": Network(partial(ResNet, n), _PHOTO, 1000, 16 if n < 101 else 8) for n in resnet.BLOCKS},
}
