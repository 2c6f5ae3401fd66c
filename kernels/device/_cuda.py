"""Small things that happen to arrays on a device: their launches."""

from __future__ import annotations

from typing import Any

from .._common.cuda import Source, cut, place_of, pointer
from .._common.cuda.elementwise import extents, run

SOURCE = Source(__file__)

_BLOCK = 256
#: As ``number`` in _cuda.cu.
_KINDS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "float16",
          "bfloat16")  # fmt: skip


def _kind(a: Any) -> int:
    return 1 if a.dtype.name == "bool" else _KINDS.index(a.dtype.name)


def _kernels(out: Any, storage: str = "float32") -> Any:
    return place_of(out, 1).load(SOURCE, storage)


def copy(a: Any, out: Any) -> None:
    """out = a."""
    kernels = _kernels(out)
    if a.itemsize not in (1, 2, 4, 8):
        raise TypeError(f"arrays of {a.dtype} cannot be copied on a device")
    for extent, views in extents(a, out):
        kernels.launch("copy", cut(extent[0], _BLOCK), extent=extent, views=views, itemsize=a.itemsize)


def numbers(a: Any, out: Any) -> None:
    """Integers as floating-point numbers."""
    kernels, kind = _kernels(out, out.dtype.name), _kind(a)
    for extent, views in extents(a, out):
        kernels.launch("numbers", cut(extent[0], _BLOCK), extent=extent, views=views, kind=kind)


def take(source: Any, rows: Any, out: Any) -> None:
    """out[i] = source[rows[i]]."""
    n = len(rows)
    nbytes = out.nbytes // n if n else 0
    start = (pointer(source) | pointer(out) | nbytes) if n else 0
    width = 16 if start % 16 == 0 else 4 if start % 4 == 0 else 1
    _kernels(out).launch(
        "take", cut(n * (nbytes // width), _BLOCK), source=pointer(source), rows=pointer(rows), out=pointer(out), n=n,
        units=nbytes // width, width=width,
    )  # fmt: skip


def labels(t: Any, out: Any) -> None:
    """Integers as int64."""
    _kernels(out).launch(
        "labels", cut(t.size, _BLOCK), t=pointer(t), out=pointer(out), n=t.size, kind=_kind(t), itemsize=t.itemsize
    )


def argmax(t: Any, out: Any) -> None:
    """The largest of each row."""
    rows, classes = t.shape
    _kernels(out).launch(
        "argmax", cut(rows, _BLOCK), t=pointer(t), out=pointer(out), rows=rows, classes=classes,
        row_stride=t.strides[0], class_stride=t.strides[1], kind=_kind(t),
    )  # fmt: skip


def count_equal(a: Any, b: Any, total: Any) -> None:
    """total += elements that agree."""
    _kernels(total).launch("count_equal", 1, a=pointer(a), b=pointer(b), total=pointer(total), n=a.size)


def advance(counter: Any) -> None:
    """counter += 1."""
    _kernels(counter).launch("advance", 1, counter=pointer(counter))


def mean(values: Any, out: Any) -> None:
    """The mean of all values."""
    _kernels(out, values.dtype.name).launch("mean", 1, values=pointer(values), out=pointer(out), n=values.size)


def book_loss(y: Any, labels: Any, out: Any) -> None:
    """The book's mean cross entropy."""
    rows, classes = y.shape
    _kernels(out, y.dtype.name).launch(
        "book_loss", 1, y=pointer(y), labels=pointer(labels), out=pointer(out), rows=rows, classes=classes,
        row_stride=y.strides[0], class_stride=y.strides[1],
    )  # fmt: skip


def book_gradient(y: Any, t: Any, dx: Any) -> None:
    """(y - t) / rows."""
    kernels = _kernels(dx, dx.dtype.name)
    for extent, views in extents(y, t, dx):
        kernels.launch("book_gradient", cut(extent[0], _BLOCK), extent=extent, views=views, rows=float(y.shape[0]))


def scaled(a: Any, by: float, out: Any) -> None:
    """One number times another."""
    _kernels(out, out.dtype.name).launch("scaled", 1, **{"from": pointer(a)}, to=pointer(out), by=by)


def decayed(grad: Any, param: Any, by: float, out: Any) -> None:
    """grad + by * param."""
    run(SOURCE, "decayed", out.dtype.name, 1, grad, param, out, by=by)


def running(mean: Any, batch: Any, momentum: float) -> None:
    """A running statistic, one batch later."""
    _kernels(mean, batch.dtype.name).launch(
        "running", cut(mean.size, _BLOCK), mean=pointer(mean), batch=pointer(batch), n=mean.size, momentum=momentum
    )
