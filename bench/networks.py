"""The networks that benchmarks train, and how far results of two implementations may be apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

BOOK = "book numpy"
MODES = ("training_step", "inference")


def words(text: str) -> list[str]:
    """A list with commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


class Network(NamedTuple):
    """A network that all participants can build."""

    image: tuple[int, int, int]
    classes: int
    batch: int  # of the measurement
    small: int  # of the comparison
    rounds: int
    layers: int  # with weights
    build: Callable[..., Any]  # dtype -> fastdl's
    book: bool = False  # there is a book-style one


def _deepconvnet(dtype: str) -> Any:
    from fastdl.models import DeepConvNet

    return DeepConvNet(dtype=dtype, seed=0)


def _alexnet(dtype: str) -> Any:
    from fastdl.models import AlexNet

    return AlexNet(channels=(96, 256, 384, 384, 256), dtype=dtype, seed=0)


def _vgg16(dtype: str) -> Any:
    from fastdl.models import VGG

    return VGG(16, dtype=dtype, seed=0)


NETWORKS = {
    "deepconvnet": Network((1, 28, 28), 10, 100, 100, 15, 8, _deepconvnet, book=True),
    "alexnet": Network((3, 227, 227), 1000, 16, 2, 7, 8, _alexnet),
    "vgg16": Network((3, 224, 224), 1000, 16, 1, 5, 16, _vgg16),
}


def batch(network: Network, size: int, dtype: str) -> tuple[Any, Any]:
    """Random images and labels."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.random((size, *network.image), dtype=np.float32).astype(dtype)
    return images, rng.integers(0, network.classes, size)


def tolerance(network: Network, mode: str, participant: str, dtype: str) -> float:
    """Relative to the largest element: in each layer roundings of sums as long as a filter's gradient's (a product for
    each pixel of the batch) add up, most of them cancelling. ``compare`` says in which dtype."""
    import numpy as np

    if mode == "training_step" or participant == BOOK:
        dtype = "float64"
    longest = network.small * math.prod(network.image[1:])
    return 4 * network.layers * math.sqrt(longest) * float(np.finfo(dtype).eps) / 2


def distance(theirs: dict[str, Any], expected: dict[str, Any]) -> float:
    """The largest difference in any array, relative to its largest element."""
    import numpy as np

    return max(float(np.abs(theirs[key] - a).max() / np.abs(a).max()) for key, a in expected.items())


def without_dropout(net: Any) -> None:
    """The book's dropout scales in evaluation, so it is taken out."""
    from torch import nn

    for i, module in enumerate(net):
        if "Dropout" in type(module).__name__:
            net[i] = nn.Identity()
