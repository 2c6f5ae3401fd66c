"""fastdl: compiled layers for hand-written convolutional networks on NumPy arrays, and on CuPy's.

Importing this package imports no other; every name below is loaded at its first use.

=====================================================  ==========================================================
``functional``                                         convolution, pooling, ... as functions of arrays
``layers``, ``network``, ``models``, ``optim``         layers with the book's API, nets, optimizers
``train``, ``data``                                    the training loop, data sets
``use_backend``, ``threads``, ``set_num_threads``,     how functions run; see :mod:`fastdl.backend`
``get_num_threads``, ``set_default_dtype``,
``get_default_dtype``, ``set_conv_algorithm``,
``inference``, ``explain``
``profile``                                            the time of each layer in a program
``binarize``, ``quantize``                             a network with binary weights and activations, or with bytes
``to_device``                                          an array's copy on a GPU, or back in host memory
=====================================================  ==========================================================
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

try:
    importlib.import_module(f"{__name__}.kernels")
except ImportError as error:
    if error.name != f"{__name__}.kernels":
        raise
    raise ImportError(
        "you are importing fastdl from its source tree, which holds no fastdl.kernels. Leave this folder to use the "
        "installed package, or install the tree itself with: pip install -e ."
    ) from None

if TYPE_CHECKING:
    from . import data, functional, layers, models, network, optim, train
    from ._device import to_device
    from .backend import (
        explain,
        get_default_dtype,
        get_num_threads,
        inference,
        set_conv_algorithm,
        set_default_dtype,
        set_num_threads,
        set_tf32,
        tf32,
        threads,
        use_backend,
    )
    from .precision.binarization import binarize
    from .precision.quantization import quantize
    from .profiling import profile

__version__ = "0.1.0"

_MODULES = (
    "backend",
    "check",
    "checkpoint",
    "data",
    "functional",
    "initializers",
    "layers",
    "models",
    "network",
    "optim",
    "train",
)
_SETTINGS = (
    "explain",
    "get_default_dtype",
    "get_num_threads",
    "inference",
    "set_conv_algorithm",
    "set_default_dtype",
    "set_num_threads",
    "set_tf32",
    "tf32",
    "threads",
    "use_backend",
)
_ELSEWHERE = {
    "binarize": "precision.binarization",
    "profile": "profiling",
    "quantize": "precision.quantization",
    "to_device": "_device",
}

__all__ = [
    "__version__",
    "binarize",
    "data",
    "explain",
    "functional",
    "get_default_dtype",
    "get_num_threads",
    "inference",
    "layers",
    "models",
    "network",
    "optim",
    "profile",
    "quantize",
    "set_conv_algorithm",
    "set_default_dtype",
    "set_num_threads",
    "set_tf32",
    "tf32",
    "threads",
    "to_device",
    "train",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(f"{__name__}.{_ELSEWHERE[name]}"), name)
    if name in _SETTINGS:
        value = getattr(importlib.import_module(f"{__name__}.backend"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_SETTINGS, *_ELSEWHERE})
