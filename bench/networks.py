"""The networks that benchmarks train, and how far results of two implementations may be apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from fastdl import network as containers
from fastdl.layers import Dropout
from fastdl.models import catalog

BOOK = "book numpy"
MODES = ("training_step", "inference")


def words(text: str) -> list[str]:
    """A list with commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


class Network(NamedTuple):
    """A network that all participants can build."""

    image: tuple[int, ...]
    classes: int
    batch: int  # of the measurement
    small: int  # of the comparison
    rounds: int
    layers: int  # with weights
    build: Callable[..., Any]  # fastdl's, of a ``dtype``
    book: bool = False  # there is a book-style one


def _network(name: str, small: int, rounds: int, layers: int, book: bool = False, **options: Any) -> Network:
    """That of ``fastdl.models.catalog``, with further keywords of its constructor."""
    known = catalog.NETWORKS[name]
    build = partial(known.build, seed=0, **options)
    return Network(known.image, known.classes, known.batch, small, rounds, layers, build, book)


NETWORKS = {
    "deepconvnet": _network("deepconvnet", small=100, rounds=15, layers=8, book=True),
    # The filters of 2012 without the split in two groups, as in ``suite``.
    "alexnet": _network("alexnet", small=2, rounds=7, layers=8, channels=(96, 256, 384, 384, 256)),
    "vgg16": _network("vgg16", small=1, rounds=5, layers=16),
}


def batch(network: Network, size: int, dtype: str) -> tuple[Any, Any]:
    """Random images and labels."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.random((size, *network.image), dtype=np.float32).astype(dtype)
    return images, rng.integers(0, network.classes, size)


def without_randomness(network: Network) -> Any:
    """fastdl's in float64 without dropout, wherever in the network that is: what others are compared with."""
    net = network.build(dtype="float64")
    for layer in containers.leaves(net._sequence()):
        if isinstance(layer, Dropout):
            layer.dropout_ratio = 0.0
    return net


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
