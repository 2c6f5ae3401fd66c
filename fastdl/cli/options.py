"""What options may be."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Dtype(StrEnum):
    """Storage dtypes."""

    float32 = "float32"
    float64 = "float64"
    float16 = "float16"
    bfloat16 = "bfloat16"
    float8_e4m3fn = "float8_e4m3fn"
    float8_e5m2 = "float8_e5m2"


class TrainDtype(StrEnum):
    """What parameters may be."""

    float32 = "float32"
    float64 = "float64"


class Precision(StrEnum):
    """What a training computes in, where that is less than its parameters."""

    float16 = "float16"
    bfloat16 = "bfloat16"
    binary = "binary"


class Backend(StrEnum):
    """Backends of the registry."""

    numpy = "numpy"
    cython = "cython"
    numba = "numba"
    cuda = "cuda"
    cuda_emulated = "cuda-emulated"


class AnyBackend(StrEnum):
    """Backends of NumPy arrays that a call may ask for."""

    auto = "auto"
    numpy = "numpy"
    cython = "cython"
    numba = "numba"


class Isa(StrEnum):
    """ISA levels."""

    baseline = "baseline"
    v3 = "v3"
    v4 = "v4"


class DataSet(StrEnum):
    """Data sets."""

    digits = "digits"
    mnist = "mnist"


class Net(StrEnum):
    """Networks for digits."""

    deepconvnet = "deepconvnet"
    simpleconvnet = "simpleconvnet"
    lenet = "lenet"
    mlp = "mlp"


class Preset(StrEnum):
    """Experiments of the laboratory."""

    book_half = "book-half"


class Schedule(StrEnum):
    """How the learning rate goes."""

    constant = "constant"
    cosine = "cosine"


class Method(StrEnum):
    """Optimizers."""

    sgd = "sgd"
    momentum = "momentum"
    nesterov = "nesterov"
    adagrad = "adagrad"
    rmsprop = "rmsprop"
    adam = "adam"


#: Options of several commands.
DataSetOption = Annotated[
    DataSet, typer.Option(help="The 1,797 digits inside the package, or MNIST's 70,000 images.", rich_help_panel="What")
]
DataFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder with MNIST's files. Default: $FASTDL_DATA_DIR, the user's cache, or a download.",
        rich_help_panel="What",
        show_default=False,
    ),
]
