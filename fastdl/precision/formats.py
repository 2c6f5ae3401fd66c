"""The formats of the laboratory, and how a network gets into each of them.

A **storage** format keeps weights and activations in so many bits; its kernels read them as they are, multiply and sum
in float32 (or float64), and round a result once. An **emulated** one rounds where no instruction of the CPU does: what
it says of accuracy is exact, what it says of time means nothing. A **quantized** one has integers with a scale for each
channel. **Binary** networks are trained as such: rounding the weights of another one to a bit leaves nothing of it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from .. import backend
from .._array import float_dtype
from ..models import Model
from .quantization import quantize

#: What a report is about.
INFER, TRAIN = "infer", "train"
STORAGE, EMULATED, QUANTIZED, BINARY = "storage", "emulated", "quantized", "binary"


class Range(NamedTuple):
    """Exponents of two."""

    subnormal: int  # the smallest positive number
    normal: int  # the smallest with all its bits
    top: int  # the smallest power of two beyond the largest number


class Format(NamedTuple):
    """One of them."""

    name: str
    title: str
    kind: str
    bits: int  # of a weight and of an activation
    significand: int  # significant bits, the hidden one included
    sums: str  # what products are added in
    storage: str  # dtype of parameters and images in inference, where they have one
    range: Range | None = None  # None for integers
    #: What ``backend.emulate`` takes; empty: the arithmetic is the storage's.
    arithmetic: str = ""
    #: What ``Trainer(precision=...)`` takes; None: it is not trained in.
    precision: str | None = None

    @property
    def emulated(self) -> bool:
        """Whether its times say nothing."""
        return self.kind == EMULATED

    def context(self) -> AbstractContextManager[Any]:
        """In which its networks compute."""
        return backend.emulate(self.arithmetic) if self.arithmetic else nullcontext()

    def images(self, x: np.ndarray) -> np.ndarray:
        """Images as its networks take them."""
        if self.kind in (QUANTIZED, BINARY):
            return x.astype(np.float32, copy=False)
        return _rounded(self, x).astype(float_dtype(self.storage, "storage"), copy=False)

    def network(self, net: Model, calibration: np.ndarray) -> Model:
        """A trained network for inference in this format: ``predict``, ``params``. ``net`` stays as it is.

        ``calibration`` are images from which a quantized network takes the ranges of its activations.
        """
        if self.kind == QUANTIZED:
            return quantize(net.astype("float32"), calibration.astype(np.float32, copy=False), self.name)
        if self.kind == BINARY:
            return quantize(net, None, self.name)
        found = net.astype(self.storage)
        for value in found.params.values():
            value[...] = _rounded(self, value)
        return found


def _rounded(format: Format, a: np.ndarray) -> np.ndarray:
    """What the book does: the values of float16, in an array of another dtype."""
    return a.astype(np.float16) if format.name == BOOK.name else a


_SINGLE = Range(-149, -126, 128)
#: What the book calls float16: its values in the arrays and the arithmetic of float64.
BOOK = Format(
    "float16_rounded", "weights and images rounded to float16, in float64 arithmetic", EMULATED, 16, 11, "float64",
    "float64", Range(-24, -14, 16),
)  # fmt: skip

FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Format("float64", "float64", STORAGE, 64, 53, "float64", "float64", Range(-1074, -1022, 1024), precision=""),
        Format("float32", "float32", STORAGE, 32, 24, "float32", "float32", _SINGLE, precision=""),
        Format("tf32", "float32, factors rounded to TF32's 11 bits", EMULATED, 32, 11, "float32", "float32", _SINGLE,
               arithmetic="tf32", precision=""),
        Format("bfloat16", "bfloat16", STORAGE, 16, 8, "float32", "bfloat16", Range(-133, -126, 128),
               precision="bfloat16"),
        Format("float16", "float16", STORAGE, 16, 11, "float32", "float16", Range(-24, -14, 16), precision="float16"),
        Format("float16_sums", "float16, every sum rounded to float16", EMULATED, 16, 11, "float16", "float16",
               Range(-24, -14, 16), arithmetic="float16_sums"),
        Format("float8_e4m3fn", "float8 with 4 bits of exponent", STORAGE, 8, 4, "float32", "float8_e4m3fn",
               Range(-9, -6, 9)),
        Format("float8_e5m2", "float8 with 5 bits of exponent", STORAGE, 8, 3, "float32", "float8_e5m2",
               Range(-16, -14, 16)),
        Format("int8", "integers of 8 bits, a scale for each channel", QUANTIZED, 8, 8, "int32", ""),
        Format("binary", "one bit in the inner layers", BINARY, 1, 1, "int32", "", precision="binary"),
        BOOK,
    )
}  # fmt: skip
#: What ``all`` means: BOOK is that of the preset.
ALL = tuple(name for name in FORMATS if name != BOOK.name)


def chosen(names: Sequence[str]) -> list[Format]:
    """The formats with these names, ``"all"`` among them, in the order of the table; ``ValueError`` for another one."""
    wanted = {name for given in names for name in (ALL if given == "all" else (given,))}
    if unknown := sorted(wanted - set(FORMATS)):
        raise ValueError(f"there is no format {unknown[0]!r}; there are {', '.join(FORMATS)}, and all")
    if not wanted:
        raise ValueError("there is no format to look at")
    return [format for format in FORMATS.values() if format.name in wanted]


def missing(format: Format, mode: str, try_out: Callable[[Format], Any]) -> str:
    """Why a network cannot run (or train) in ``format`` here; empty where it can.

    ``try_out`` does it once, on very few images.
    """
    if mode == TRAIN and format.precision is None:
        return "networks are not trained in it, only run"
    needs_ml_dtypes = "float8" in format.storage or format.storage == "bfloat16"
    if needs_ml_dtypes and importlib.util.find_spec("ml_dtypes") is None:
        return "it needs the package ml_dtypes: pip install 'fastdl[bfloat16]'"
    try:
        with format.context():
            try_out(format)
    except (backend.KernelError, ImportError, TypeError, ValueError) as error:
        return " ".join(str(error).split())
    return ""
