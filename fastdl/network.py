"""Sequential, Residual, Concat: layers made of layers; and what any network asks of its layers.

The functions take layers in the order of the forward pass. The arrays of the n-th layer with parameters ``W`` and ``b``
are named ``Wn`` and ``bn``, those of the n-th batch normalisation ``gamman`` and ``betan``: the book's names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np

from . import _device, backend, functional, fusion
from ._array import prepare
from ._device import is_device
from .data.pickles import load_arrays, save_arrays
from .functional._call import gradient_dtype
from .layers import Layer
from .layers.base import move_layers

# ---- layers in a row ------------------------------------------------------------------------------------------------


def forward(layers: Iterable[Any], x: np.ndarray, train_flg: bool) -> np.ndarray:
    """The output of the last layer. Neighbours that can share a kernel do; see :mod:`fastdl.fusion`."""
    return fusion.forward(list(_unpacked(layers)), x, train_flg)


def backward(
    layers: Iterable[Any], dout: np.ndarray, need_dx: bool = True, release: bool = False, keep_dout: bool = False
) -> np.ndarray | None:
    """The gradient by the input of the first layer, or None where it is not needed and the layer can do without.

    With ``release`` each layer gives its activations up as soon as nothing needs them. ``keep_dout`` leaves ``dout`` as
    it is; otherwise a last ReLU works in it, as in the book.
    """
    steps = list(_unpacked(layers))
    if not release:
        return fusion.backward(steps, dout, need_dx, keep_dout)
    with fusion.releasing(leaves(steps)):
        return fusion.backward(steps, dout, need_dx, keep_dout)


def _unpacked(layers: Iterable[Any]) -> Iterator[Any]:
    """The layers, those of a Sequential in its place, unless that has passes of its own."""
    for layer in layers:
        if fusion.runs(layer, Sequential):
            yield from _unpacked(layer.layers)
        else:
            yield layer


def sequence(net: Any) -> list[Any]:
    """The layers of a model, which are a list or a dict; none of an object that has no ``layers``."""
    layers = getattr(net, "layers", ())
    return list(layers.values() if isinstance(layers, Mapping) else layers)


def leaves(layers: Iterable[Any]) -> Iterator[Layer]:
    """The layers themselves, those of containers in the place of the container."""
    for layer in layers:
        if isinstance(layer, Container):
            yield from leaves(layer.inside)
        elif isinstance(layer, Layer):
            yield layer


def numbered(layers: Iterable[Any]) -> Iterator[tuple[Layer, int]]:
    """Each layer that has parameters, with its number among the layers with parameters of these names."""
    counts: dict[str, int] = {}
    for layer in leaves(layers):
        if layer.parameters:
            first = layer.parameters[0]
            counts[first] = counts.get(first, 0) + 1
            yield layer, counts[first]


def named_params(layers: Iterable[Any]) -> dict[str, np.ndarray]:
    """The layers' own arrays (no copies) as W1, b1, ..."""
    return {f"{name}{n}": value for layer, n in numbered(layers) for name, value in layer.params.items()}


def named_grads(layers: Iterable[Any]) -> dict[str, np.ndarray]:
    """The gradients of the last backward pass as W1, b1, ..."""
    grads = {}
    for layer, n in numbered(layers):
        for name, grad in layer.grads.items():
            if grad is None:
                raise RuntimeError(f"there is no gradient of {name}{n} yet: call backward first")
            grads[f"{name}{n}"] = grad
    return grads


def named_buffers(layers: Iterable[Any]) -> dict[str, np.ndarray]:
    """What training changes beside the parameters, and that there is so far: running_mean1, running_var1, ..."""
    return {
        f"{name}{n}": value
        for layer, n in numbered(layers)
        for name in layer.buffers
        if (value := getattr(layer, name)) is not None
    }


def set_arrays(layers: Iterable[Any], arrays: Mapping[str, np.ndarray], *, copy_into: bool = False) -> None:
    """Gives the layers the parameters and buffers in ``arrays``: each parameter, and those buffers that are there.

    ``copy_into`` writes the values into the parameters that the layers have, in their dtype; otherwise the layers refer
    to the new arrays. Buffers are always copied. Raises ``ValueError``, before anything is changed, where a parameter
    is missing, has another shape, or is not one of these layers'.
    """
    layers = list(layers)
    check_arrays(arrays, named_params(layers), [f"{b}{n}" for layer, n in numbered(layers) for b in layer.buffers])
    for layer, n in numbered(layers):
        for name, value in layer.params.items():
            if copy_into and is_device(value):
                _device.overwrite(value, arrays[f"{name}{n}"])
            elif copy_into:
                value[...] = arrays[f"{name}{n}"]
            else:
                setattr(layer, name, arrays[f"{name}{n}"])
    set_buffers(layers, arrays)


def set_buffers(layers: Iterable[Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Gives the layers copies of those of their buffers that ``arrays`` has, where their parameters are."""
    for layer, n in numbered(layers):
        for name in layer.buffers:
            if f"{name}{n}" in arrays:
                copied = np.array(_device.to_device(arrays[f"{name}{n}"], "cpu"))
                place = _device.device_of(next(iter(layer.params.values()), None))
                setattr(layer, name, _device.to_device(copied, place))


def on_host(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays as NumPy's: those on a device are copied."""
    return {name: _device.to_device(value, "cpu") for name, value in arrays.items()}


def check_arrays(
    arrays: Mapping[str, np.ndarray], params: Mapping[str, np.ndarray], optional: Iterable[str] = ()
) -> None:
    """``ValueError`` unless ``arrays`` holds each of ``params`` in its shape, and beyond them only ``optional``."""
    problems = [f"{name} is missing" for name in params if name not in arrays]
    problems += [f"{name} is not a parameter" for name in arrays if name not in {*params, *optional}]
    problems += [
        f"{name} is {np.shape(arrays[name])} and not {np.shape(value)}"
        for name, value in params.items()
        if name in arrays and np.shape(arrays[name]) != np.shape(value)
    ]
    if problems:
        raise ValueError(f"these arrays do not fit the network: {'; '.join(problems)}")


def counters(layers: Iterable[Any]) -> list[int | None]:
    """The layers' counters (seed and step of each dropout) in their order."""
    return [getattr(layer, name) for layer in leaves(layers) for name in layer.counters]


def set_counters(layers: Iterable[Any], values: Sequence[int | None]) -> None:
    """Sets what :func:`counters` has returned."""
    places = [(layer, name) for layer in leaves(layers) for name in layer.counters]
    if len(places) != len(values):
        raise ValueError(f"{len(values)} counters do not fit a network with {len(places)}")
    for (layer, name), value in zip(places, values, strict=True):
        setattr(layer, name, value)


# ---- containers -----------------------------------------------------------------------------------------------------


class Container(Layer):
    """A layer made of layers, ``inside``, which may be containers too.

    Any object with ``forward(x)`` and ``backward(dout)`` may be a layer; only fastdl's own take part in ``params``,
    ``grads``, ``save`` and ``load``.
    """

    takes_train_flg = True
    can_skip_dx = True

    @property
    def inside(self) -> list[Any]:
        """The layers, in the order in which their parameters are numbered."""
        raise NotImplementedError(f"{type(self).__name__} does not say what is inside")

    @property
    def params(self) -> Mapping[str, np.ndarray]:  # type: ignore[override]
        """The layers' own arrays by name, W1, b1, ...: update them in place, or replace them in their layers."""
        return MappingProxyType(named_params(self.inside))

    @property
    def grads(self) -> dict[str, np.ndarray]:  # type: ignore[override]
        """The gradients of the last backward pass under the names of ``params``."""
        return named_grads(self.inside)

    def to(self, device: str) -> Self:
        """Moves the parameters and buffers of all layers to ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; returns itself.

        An optimizer's states follow at its next update. The network then takes arrays of that device.
        """
        move_layers(leaves(self.inside), device)
        return self

    def save(self, file_name: str | os.PathLike) -> None:
        """Writes parameters and running statistics as an ``.npz`` archive, whole or not at all."""
        save_arrays(file_name, on_host(named_params(self.inside) | named_buffers(self.inside)))

    def load(self, file_name: str | os.PathLike) -> None:
        """Copies what ``save`` has written (or a pickled dict of arrays) into the layers' arrays.

        Raises ``ValueError`` where names or shapes do not fit or the file is damaged, ``OSError`` where it cannot be
        read.
        """
        set_arrays(self.inside, load_arrays(file_name), copy_into=True)


class Sequential(Container):
    """``layers`` one after the other; itself a layer, so that it may stand among the layers of another."""

    def __init__(self, layers: Iterable[Any]) -> None:
        self.layers = list(layers)

    @property
    def inside(self) -> list[Any]:
        """``layers``."""
        return self.layers

    def forward(self, x: np.ndarray, train_flg: bool = True) -> np.ndarray:
        """The output of the last layer; ``train_flg`` goes to the layers that distinguish training and prediction."""
        return forward(self.layers, x, train_flg)

    def backward(self, dout: np.ndarray, *, need_dx: bool = True) -> np.ndarray | None:
        """The gradient by the input of the last forward pass; ``need_dx=False`` as for the first layer."""
        return backward(self.layers, dout, need_dx)


class _Branched(Container):
    """Branches that get the same input, each a list of layers; the gradient by it is the sum of theirs.

    All of them read ``x``, into which a layer of your own must not write. ``dout`` stays as it is whatever they do.
    """

    activations: ClassVar[tuple[str, ...]] = ("_dtype",)

    def __init__(self, branches: Iterable[Any]) -> None:
        self.branches = [list(b) if isinstance(b, Iterable) else [b] for b in branches]
        self._dtype: np.dtype | None = None

    @property
    def inside(self) -> list[Any]:
        """The layers of the first branch, of the second, ..."""
        return [layer for branch in self.branches for layer in branch]

    def _join(self, outputs: list[np.ndarray]) -> np.ndarray:
        """The output."""
        raise NotImplementedError

    def _parts(self, dout: np.ndarray) -> Sequence[np.ndarray]:
        """The gradients by the branches' outputs."""
        raise NotImplementedError

    def forward(self, x: np.ndarray, train_flg: bool = True) -> np.ndarray:
        """A new array; ``ValueError``, which names the shapes, where the branches' outputs do not fit."""
        out = self._join([forward(branch, x, train_flg) for branch in self.branches])
        self._dtype = None if backend.is_inference() else x.dtype
        return out

    def backward(self, dout: np.ndarray, *, need_dx: bool = True) -> np.ndarray | None:
        """The gradient by x, in its dtype; None with ``need_dx=False``."""
        dtype = gradient_dtype(self._kept(self._dtype), dout.dtype)
        total, own = None, False
        for branch, part in zip(self.branches, self._parts(dout), strict=True):
            dx = backward(branch, part, need_dx, keep_dout=True)
            if not need_dx:
                continue
            dx = prepare(dx, dtype)  # type: ignore[arg-type]
            if total is None:
                total = dx
            else:
                total, own = functional.add(total, dx, out=total if own else None), True
        return total


class Residual(_Branched):
    """main(x) + shortcut(x), where both are a layer or a list of layers; without ``shortcut`` main(x) + x.

    The building block of residual networks (He et al., arXiv:1512.03385). Parameters of ``main`` come first.
    """

    def __init__(self, main: Any, shortcut: Any = None) -> None:
        super().__init__([main, () if shortcut is None else shortcut])

    @property
    def main(self) -> list[Any]:
        """The layers of the first branch."""
        return self.branches[0]

    @property
    def shortcut(self) -> list[Any]:
        """The layers of the second branch; none where the input itself is added."""
        return self.branches[1]

    def _join(self, outputs: list[np.ndarray]) -> np.ndarray:
        main, shortcut = outputs
        if main.shape != shortcut.shape:
            raise ValueError(f"Residual: main gives {main.shape} and shortcut {shortcut.shape}, which are to be added")
        return functional.add(main, shortcut)

    def _parts(self, dout: np.ndarray) -> Sequence[np.ndarray]:
        return dout, dout


class Concat(_Branched):
    """The outputs of ``branches``, each a layer or a list of layers, one after another along ``axis``.

    A branch without layers passes x on. Parameters are numbered branch by branch.
    """

    activations = ("_dtype", "_sizes")

    def __init__(self, branches: Iterable[Any], axis: int = 1) -> None:
        super().__init__(branches)
        if not self.branches:
            raise ValueError("Concat takes at least one branch")
        self.axis = axis
        self._sizes: list[int] | None = None

    def _join(self, outputs: list[np.ndarray]) -> np.ndarray:
        out = functional.concat(outputs, self.axis)
        self._sizes = None if backend.is_inference() else [a.shape[self.axis] for a in outputs]
        return out

    def _parts(self, dout: np.ndarray) -> Sequence[np.ndarray]:
        return functional.concat_backward(dout, self._kept(self._sizes), self.axis)
