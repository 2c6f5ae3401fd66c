"""The layer suite: plain data.

Every distinct convolution, pooling, normalisation and dense layer of DeepConvNet (batch 100), AlexNet, VGG-16,
GoogLeNet, ResNet-50 and MobileNet (version 1, its depthwise layers), and memory-bound operations at a few of their
sizes. A layer has the name of the first network that has it; those that repeat it are its ``aliases``.

AlexNet is the single-tower form (Krizhevsky et al. 2012 without the split in two groups): images of 227, 96 filters
11x11 first, response normalisation, overlapping pooling. GoogLeNet is that of Szegedy et al. 2014 with response
normalisation, ResNet-50 that of He et al. 2015 with the stride in the 3x3 layer (as in torchvision).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

#: What means are taken over, in the order of the tables.
GROUPS = (
    "3x3 s1",
    "5x5 s1",
    "1x1",
    "first",
    "strided",
    "depthwise",
    "dense",
    "pool",
    "norm",
    "elementwise",
    "loss",
    "optimizer",
)
CONVOLUTIONS = GROUPS[:6]
NETWORKS = ("deepconvnet", "alexnet", "vgg16", "googlenet", "resnet50", "mobilenet")


@dataclass(frozen=True)
class Layer:
    """One case. ``shape`` is that of its input; ``settings`` are the keywords of its function in fastdl.functional."""

    name: str
    op: str
    group: str
    shape: tuple[int, ...]
    weight: tuple[int, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    aliases: tuple[str, ...] = field(default=(), compare=False)

    @property
    def options(self) -> dict[str, Any]:
        """``settings`` as keywords."""
        return dict(self.settings)

    @property
    def directions(self) -> tuple[str, ...]:
        """The passes. Nobody needs the gradient of a first layer by its images."""
        if self.op in ("conv2d", "linear"):
            return ("forward", "backward_weight") if self.group == "first" else PASSES[:3]
        if self.group == "optimizer":
            return ("step",)
        if self.op in ("add", "concat", "cast", "dropout"):
            return ("forward",)
        return ("forward", "inference", "backward") if self.op == "batch_norm" else ("forward", "backward")

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Of its output, where that differs from its input's."""
        n, c, *size = self.shape
        if self.op == "linear":
            return n, self.weight[1]
        if self.op == "global_avg_pool2d":
            return n, c, 1, 1
        if self.op in ("conv2d", "max_pool2d", "avg_pool2d"):
            from fastdl.kernels.geometry import four_pads, pair, window_grid

            o = self.options
            kernel = self.weight[2:] if self.weight else pair(o["size"], "size")
            pads = four_pads(o.get("pad", 0))
            steps = pair(o.get("stride", 1), "stride")
            return (
                n,
                self.weight[0] if self.weight else c,
                *window_grid(tuple(size), kernel, steps, pads, ceil_mode=o.get("ceil_mode", False)),
            )
        return self.shape

    @property
    def macs(self) -> float:
        """Multiply-adds of one pass of a convolution or dense layer; 0 for the others."""
        if self.op == "conv2d":
            return float(math.prod(self.out_shape) * math.prod(self.weight[1:]))
        return float(math.prod(self.weight) * self.shape[0]) if self.op == "linear" else 0.0

    @property
    def elements(self) -> float:
        """Of inputs and outputs together, roughly: for estimates."""
        return float(math.prod(self.shape) + math.prod(self.out_shape) + math.prod(self.weight or (0,)))


PASSES = ("forward", "backward_input", "backward_weight", "backward", "inference", "step")


def _settings(**settings: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(settings.items()))


def conv(name: str, x: tuple[int, int, int, int], k: int, size: int, stride: int = 1, pad: int = 0, groups: int = 1):
    """A convolution with k filters size x size."""
    c = x[1]
    if c <= 3:
        group = "first"
    elif groups == c:
        group = "depthwise"
    elif stride > 1:
        group = "strided"
    else:
        group = "1x1" if size == 1 else f"{size}x{size} s1"
    settings = _settings(stride=stride, pad=pad, groups=groups)
    return Layer(name, "conv2d", group, x, (k, c // groups, size, size), settings)


def pool(name: str, x: tuple[int, int, int, int], size: int, stride: int, pad: int = 0, ceil_mode: bool = False):
    """Max pooling."""
    settings = _settings(size=size, stride=stride, pad=pad, ceil_mode=ceil_mode)
    return Layer(name, "max_pool2d", "pool", x, settings=settings)


def dense(name: str, batch: int, inputs: int, outputs: int):
    """A fully connected layer."""
    return Layer(name, "linear", "dense", (batch, inputs), (inputs, outputs))


def _deepconvnet() -> Iterator[Layer]:
    n = 100
    for i, (c, size, k, pad) in enumerate(
        [(1, 28, 16, 1), (16, 28, 16, 1), (16, 14, 32, 1), (32, 14, 32, 2), (32, 8, 64, 1), (64, 8, 64, 1)], start=1
    ):
        yield conv(f"deepconvnet/conv{i}", (n, c, size, size), k, 3, pad=pad)
    for i, (c, size) in enumerate([(16, 28), (32, 16), (64, 8)], start=1):
        yield pool(f"deepconvnet/pool{i}", (n, c, size, size), 2, 2)
    yield dense("deepconvnet/affine7", n, 1024, 50)
    yield dense("deepconvnet/affine8", n, 50, 10)


def _alexnet(n: int = 16) -> Iterator[Layer]:
    response = _settings(size=5, alpha=5e-4, beta=0.75, k=2.0)
    yield conv("alexnet/conv1", (n, 3, 227, 227), 96, 11, stride=4)
    yield Layer("alexnet/norm1", "local_response_norm", "norm", (n, 96, 55, 55), settings=response)
    yield pool("alexnet/pool1", (n, 96, 55, 55), 3, 2)
    yield conv("alexnet/conv2", (n, 96, 27, 27), 256, 5, pad=2)
    yield Layer("alexnet/norm2", "local_response_norm", "norm", (n, 256, 27, 27), settings=response)
    yield pool("alexnet/pool2", (n, 256, 27, 27), 3, 2)
    yield conv("alexnet/conv3", (n, 256, 13, 13), 384, 3, pad=1)
    yield conv("alexnet/conv4", (n, 384, 13, 13), 384, 3, pad=1)
    yield conv("alexnet/conv5", (n, 384, 13, 13), 256, 3, pad=1)
    yield pool("alexnet/pool5", (n, 256, 13, 13), 3, 2)
    for name, inputs, outputs in (("fc6", 9216, 4096), ("fc7", 4096, 4096), ("fc8", 4096, 1000)):
        yield dense(f"alexnet/{name}", n, inputs, outputs)


def _vgg16() -> Iterator[Layer]:
    """The batch shrinks where the images are large, so that a layer takes tens of milliseconds."""
    c = 3
    for block, (size, k, convolutions, n) in enumerate(
        [(224, 64, 2, 4), (112, 128, 2, 4), (56, 256, 3, 8), (28, 512, 3, 8), (14, 512, 3, 16)], start=1
    ):
        for i in range(1, convolutions + 1):
            yield conv(f"vgg16/conv{block}_{i}", (n, c, size, size), k, 3, pad=1)
            c = k
        yield pool(f"vgg16/pool{block}", (n, c, size, size), 2, 2)
    for name, inputs, outputs in (("fc6", 25088, 4096), ("fc7", 4096, 4096), ("fc8", 4096, 1000)):
        yield dense(f"vgg16/{name}", 16, inputs, outputs)


#: Inception modules: size, channels in, then filters: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
INCEPTION = {
    "3a": (28, 192, 64, 96, 128, 16, 32, 32),
    "3b": (28, 256, 128, 128, 192, 32, 96, 64),
    "4a": (14, 480, 192, 96, 208, 16, 48, 64),
    "4b": (14, 512, 160, 112, 224, 24, 64, 64),
    "4c": (14, 512, 128, 128, 256, 24, 64, 64),
    "4d": (14, 512, 112, 144, 288, 32, 64, 64),
    "4e": (14, 528, 256, 160, 320, 32, 128, 128),
    "5a": (7, 832, 256, 160, 320, 32, 128, 128),
    "5b": (7, 832, 384, 192, 384, 48, 128, 128),
}


def _googlenet(n: int = 16) -> Iterator[Layer]:
    response = _settings(size=5, alpha=5e-4, beta=0.75, k=2.0)
    yield conv("googlenet/conv1", (n, 3, 224, 224), 64, 7, stride=2, pad=3)
    yield pool("googlenet/pool1", (n, 64, 112, 112), 3, 2, ceil_mode=True)
    yield Layer("googlenet/norm1", "local_response_norm", "norm", (n, 64, 56, 56), settings=response)
    yield conv("googlenet/conv2_reduce", (n, 64, 56, 56), 64, 1)
    yield conv("googlenet/conv2", (n, 64, 56, 56), 192, 3, pad=1)
    yield Layer("googlenet/norm2", "local_response_norm", "norm", (n, 192, 56, 56), settings=response)
    yield pool("googlenet/pool2", (n, 192, 56, 56), 3, 2, ceil_mode=True)
    for name, (size, c, one, three_in, three, five_in, five, projection) in INCEPTION.items():
        at = f"googlenet/{name}"
        x = (n, c, size, size)
        yield conv(f"{at}_1x1", x, one, 1)
        yield conv(f"{at}_3x3_reduce", x, three_in, 1)
        yield conv(f"{at}_3x3", (n, three_in, size, size), three, 3, pad=1)
        yield conv(f"{at}_5x5_reduce", x, five_in, 1)
        yield conv(f"{at}_5x5", (n, five_in, size, size), five, 5, pad=2)
        yield pool(f"{at}_pool", x, 3, 1, pad=1)
        yield conv(f"{at}_pool_projection", x, projection, 1)
        if name in ("3b", "4e"):
            yield pool(f"googlenet/pool{name[0]}", (n, one + three + five + projection, size, size), 3, 2, 0, True)
    yield Layer(
        "googlenet/concat_3a", "concat", "elementwise", (n, 256, 28, 28), settings=_settings(parts=(64, 128, 32, 32))
    )
    yield Layer("googlenet/pool5_average", "avg_pool2d", "pool", (n, 1024, 7, 7), settings=_settings(size=7, stride=1))
    yield dense("googlenet/fc", n, 1024, 1000)


def _resnet50(n: int = 16) -> Iterator[Layer]:
    def norm(name: str, *shape: int) -> Layer:
        return Layer(f"resnet50/{name}", "batch_norm", "norm", (n, *shape))

    yield conv("resnet50/conv1", (n, 3, 224, 224), 64, 7, stride=2, pad=3)
    yield norm("conv1_norm", 64, 112, 112)
    yield pool("resnet50/pool1", (n, 64, 112, 112), 3, 2, pad=1)
    c = 64
    for stage, (blocks, width, size) in enumerate([(3, 64, 56), (4, 128, 28), (6, 256, 14), (3, 512, 7)], start=2):
        for block in range(1, blocks + 1):
            at = f"conv{stage}_{block}"
            stride = 2 if block == 1 and stage > 2 else 1
            before = size * stride
            yield conv(f"resnet50/{at}_reduce", (n, c, before, before), width, 1)
            yield norm(f"{at}_reduce_norm", width, before, before)
            yield conv(f"resnet50/{at}_3x3", (n, width, before, before), width, 3, stride=stride, pad=1)
            yield norm(f"{at}_3x3_norm", width, size, size)
            yield conv(f"resnet50/{at}_expand", (n, width, size, size), 4 * width, 1)
            yield norm(f"{at}_expand_norm", 4 * width, size, size)
            if block == 1:
                yield conv(f"resnet50/{at}_projection", (n, c, before, before), 4 * width, 1, stride=stride)
                yield norm(f"{at}_projection_norm", 4 * width, size, size)
            c = 4 * width
    yield Layer("resnet50/add_2", "add", "elementwise", (n, 256, 56, 56))
    yield Layer("resnet50/pool5_average", "global_avg_pool2d", "pool", (n, 2048, 7, 7))
    yield dense("resnet50/fc", n, 2048, 1000)


def _mobilenet(n: int = 16) -> Iterator[Layer]:
    for i, (c, size, stride) in enumerate(
        [
            *[(32, 112, 1), (64, 112, 2), (128, 56, 1), (128, 56, 2), (256, 28, 1), (256, 28, 2)],
            *[(512, 14, 1)] * 5,
            *[(512, 14, 2), (1024, 7, 1)],
        ],
        start=1,
    ):
        yield conv(f"mobilenet/depthwise{i}", (n, c, size, size), c, 3, stride=stride, pad=1, groups=c)


#: Shapes of DeepConvNet's parameters.
PARAMETERS = (
    *[(16, 1, 3, 3), (16,), (16, 16, 3, 3), (16,), (32, 16, 3, 3), (32,), (32, 32, 3, 3), (32,)],
    *[(64, 32, 3, 3), (64,), (64, 64, 3, 3), (64,), (1024, 50), (50,), (50, 10), (10,)],
)


def _memory_bound() -> Iterator[Layer]:
    sizes = {
        "deepconvnet": (100, 16, 28, 28),
        "vgg16_1": (4, 64, 224, 224),
        "vgg16_5": (16, 512, 14, 14),
        "resnet50_2": (16, 256, 56, 56),
    }
    for name, shape in sizes.items():
        yield Layer(f"memory/relu_{name}", "relu", "elementwise", shape)
    for name, shape in {"deepconvnet": (100, 50), "vgg16_fc": (16, 4096), "image": (16, 256, 27, 27)}.items():
        yield Layer(f"memory/dropout_{name}", "dropout", "elementwise", shape, settings=_settings(ratio=0.5))
    for source, target in (("float32", "float16"), ("float16", "float32"), ("float32", "float64")):
        settings = _settings(source=source, target=target)
        yield Layer(f"memory/cast_{source}_to_{target}", "cast", "elementwise", sizes["resnet50_2"], settings=settings)
    for name, shape in {"digits": (100, 10), "imagenet": (64, 1000), "words": (64, 32000)}.items():
        yield Layer(f"memory/cross_entropy_{name}", "softmax_cross_entropy", "loss", shape)
    for op in ("sgd", "momentum", "adam"):
        for name, shapes in {"deepconvnet": PARAMETERS, "vgg16_fc7": ((4096, 4096),)}.items():
            count = sum(math.prod(shape) for shape in shapes)
            yield Layer(f"memory/{op}_{name}", op, "optimizer", (1, count), settings=_settings(parameters=shapes))


def _distinct(layers: Iterator[Layer]) -> tuple[Layer, ...]:
    found: dict[tuple[Any, ...], Layer] = {}
    for layer in layers:
        key = (layer.op, layer.shape, layer.weight, layer.settings)
        first = found.get(key)
        if first is None:
            found[key] = layer
        else:
            found[key] = dataclasses.replace(first, aliases=(*first.aliases, layer.name))
    return tuple(found.values())


def _all() -> Iterator[Layer]:
    for network in (_deepconvnet, _alexnet, _vgg16, _googlenet, _resnet50, _mobilenet, _memory_bound):
        yield from network()


def one_of_each(layers: Iterable[Layer]) -> list[Layer]:
    """The first layer of each op and group."""
    found: dict[tuple[str, str], Layer] = {}
    for layer in layers:
        found.setdefault((layer.op, layer.group), layer)
    return list(found.values())


def small(layer: Layer) -> Layer:
    """A layer of the same kind that is computed in no time, by an emulation of a GPU too."""
    options = layer.options
    if layer.group == "optimizer":
        shapes = ((5, 3), (3,))
        return dataclasses.replace(layer, shape=(1, 18), settings=(("parameters", shapes),))
    if layer.op == "concat":
        return dataclasses.replace(layer, shape=(2, 5, 4, 4), settings=(("parts", (3, 2)),))
    if layer.op == "linear":
        return dataclasses.replace(layer, shape=(3, 16), weight=(16, 8))
    if len(layer.shape) == 2:
        return dataclasses.replace(layer, shape=(4, 9))
    least = 2 * max(*(layer.weight[2:] or (1,)), options.get("size", 1) if layer.group == "pool" else 1)
    channels = min(layer.shape[1], 8)
    shape = (2, channels, *(min(n, max(least, 4)) for n in layer.shape[2:]))
    weight = layer.weight
    if weight:
        groups = channels if options["groups"] > 1 else 1
        weight = (channels if groups > 1 else min(weight[0], 8), channels // groups, *weight[2:])
        options["groups"] = groups
    return dataclasses.replace(layer, shape=shape, weight=weight, settings=tuple(sorted(options.items())))


LAYERS = _distinct(_all())
