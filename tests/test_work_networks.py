"""Multiply-adds of an image's way through each network of the catalog, summed over the kernels that ran, against those
that others have published."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl import network
from fastdl.bench import work
from fastdl.models import GoogLeNet
from fastdl.models.catalog import NETWORKS

#: In 1e9, convolutions and fully connected layers, padding counted, biases and activations not: the "GFLOPS" in the
#: documentation of torchvision's models, which have the same layers. Our AlexNet takes images of 227 without padding,
#: theirs of 224 with a padding of 2; both make 55 x 55 of them.
TORCHVISION = {
    "alexnet": 0.714,
    "vgg11": 7.609,
    "vgg11-bn": 7.609,
    "vgg13": 11.308,
    "vgg13-bn": 11.308,
    "vgg16": 15.47,
    "vgg16-bn": 15.47,
    "vgg19": 19.632,
    "vgg19-bn": 19.632,
    "resnet18": 1.814,
    "resnet34": 3.664,
    "resnet50": 4.089,
    "resnet101": 7.801,
    "resnet152": 11.514,
}


def macs(problems, ops=("conv2d", "gemm")) -> int:
    """Of one image, whatever the batch was."""
    total = 0.0
    for p in problems:
        if p.op in ops:
            assert p.direction in ("forward", "forward_pooled")
            image = (1, *p.shapes[0][1:]), p.shapes[1]
            total += work.of(p._replace(shapes=image, direction="forward", epilogue="none")).flop / 2
    return int(total)


def ran(net, images: int = 0) -> list:
    """The problems of a prediction, by default of no images: the same kernels, with nothing to do."""
    with fastdl.explain() as log:
        assert net.predict(np.zeros((images, *net.input_dim), np.float32)).shape[0] == images
    return log.problems


def full_size(name: str):
    return NETWORKS[name].build(dtype="float32", weight_init_std=0)


@pytest.mark.parametrize("name", TORCHVISION)
def test_multiply_adds_are_those_of_torchvision(name):
    """To the last of its three decimals."""
    assert macs(ran(full_size(name))) / 1e9 == pytest.approx(TORCHVISION[name], abs=0.0005, rel=0)


def test_multiply_adds_of_convolutions_and_of_what_is_behind_them():
    """Chen et al. (Eyeriss, ISSCC 2016): 666M and 15.3G of convolutions in the original AlexNet (at 227) and VGG-16.
    Sze et al., "Efficient processing of deep neural networks" (2017), table II: 58.6M and 124M behind, 724M in all.

    To the last figure that is given.
    """
    original, vgg = ran(full_size("alexnet-grouped")), ran(full_size("vgg16"))
    assert macs(original, ("conv2d",)) / 1e6 == pytest.approx(666, abs=0.5, rel=0)
    assert macs(original, ("gemm",)) / 1e6 == pytest.approx(58.6, abs=0.05, rel=0)
    assert macs(original) / 1e6 == pytest.approx(724, abs=0.5, rel=0)
    assert macs(vgg, ("conv2d",)) / 1e9 == pytest.approx(15.3, abs=0.05, rel=0)
    assert macs(vgg, ("gemm",)) / 1e6 == pytest.approx(124, abs=0.5, rel=0)


def test_multiply_adds_of_lenet():
    """By hand: filters x outputs of each convolution, inputs x outputs of each fully connected layer."""
    expected = 25 * 6 * 28**2 + 6 * 25 * 16 * 10**2 + 400 * 120 + 120 * 84 + 84 * 10
    assert macs(ran(full_size("lenet"))) == expected


#: In 1e6, of the paper's table 1: the 3x3 convolution with the 1x1 before it, the modules 3a to 5b, the affine layer.
GOOGLENET = [360, 128, 304, 73, 88, 100, 119, 170, 54, 71, 1]


def test_multiply_adds_of_googlenet():
    """Row by row of the paper, which says 1.5e9, and twice more or less than its own sizes give.

    Its first convolution has 7 x 7 x 3 x 64 weights on 112 x 112 places: 118M, and not 34M; 5a 1,042,432 on 7 x 7: 51M,
    and not 54M.
    """
    x, found = np.zeros((0, 3, 224, 224), np.float32), []
    for layer in GoogLeNet(dtype="float32", weight_init_std=0).layers:
        with fastdl.explain() as log:
            x = network.forward([layer], x, False)
        found.append(macs(log.problems))
    first, reduction, second, *others = (count for count in found if count)
    rows = [reduction + second, *others]
    assert (first, rows[8]) == (7 * 7 * 3 * 64 * 112 * 112, 1_042_432 * 7 * 7)
    for row, published in zip(rows[:8] + rows[9:], GOOGLENET[:8] + GOOGLENET[9:], strict=True):
        assert row / 1e6 == pytest.approx(published, abs=1, rel=0)  # rounded up in one row, down in another
    assert macs(ran(full_size("googlenet"))) == sum(found)
    assert sum(found) / 1e6 == pytest.approx(sum(GOOGLENET) + first / 1e6 - 54 + 51, abs=2, rel=0)


@pytest.mark.parametrize("name", ["lenet", "googlenet", "resnet18"])
def test_an_image_takes_the_way_of_none(name):
    net = full_size(name)
    one = [p for p in ran(net, 1) if p.op in ("conv2d", "gemm")]
    none = [p for p in ran(net) if p.op in ("conv2d", "gemm")]
    assert len(one) > 4
    assert [p.shapes for p in one] == [((1, *p.shapes[0][1:]), p.shapes[1]) for p in none]
    assert macs(one) == macs(none)
