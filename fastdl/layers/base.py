"""What all layers share: names of parameters and states, copies without activations, error messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Self, TypeVar

import numpy as np

from .._device import to_device

T = TypeVar("T")


class Layer:
    """A step of a network: ``forward`` keeps what ``backward`` needs, unless it runs in ``fastdl.inference()``.

    A parameter ``W`` is the attribute ``W``, and its gradient, new after each backward pass, the attribute ``dW``. A
    layer refers to the arrays that it is given and copies none of them: an optimizer that updates them in place updates
    the layer, and assigning another array to ``layer.W`` takes effect at the next call.

    Copies (``copy.deepcopy``) and pickles of a layer leave activations and gradients out.
    """

    #: Names of the parameters, in the order in which a network numbers them.
    parameters: ClassVar[tuple[str, ...]] = ()
    #: Arrays that training changes and no gradient: saved with the parameters.
    buffers: ClassVar[tuple[str, ...]] = ()
    #: Numbers that decide what a training pass draws next: part of a checkpoint, but not of the weights.
    counters: ClassVar[tuple[str, ...]] = ()
    #: What one pass leaves behind: None at first, after a pass in ``fastdl.inference()`` and in a copy.
    activations: ClassVar[tuple[str, ...]] = ()
    #: Whether ``forward(x, train_flg=True)`` distinguishes training from prediction.
    takes_train_flg: ClassVar[bool] = False
    #: Whether ``backward(dout, need_dx=False)`` leaves out the gradient by the input and returns None.
    can_skip_dx: ClassVar[bool] = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output for an input; each layer has its own arguments."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self, *args: Any, **kwargs: Any) -> Any:
        """The gradient by the last input, given the one by the last output; parameters' gradients become attributes."""
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    @property
    def params(self) -> dict[str, np.ndarray]:
        """The parameters by name; those that are None are left out."""
        return {name: value for name in self.parameters if (value := getattr(self, name)) is not None}

    @property
    def grads(self) -> dict[str, np.ndarray | None]:
        """The gradients of the last backward pass under the names of ``params``; None before the first."""
        return {name: getattr(self, f"d{name}") for name in self.params}

    def to(self, device: str) -> Self:
        """Moves parameters and buffers to ``"cpu"``, ``"cuda"`` or ``"cuda:1"``, as new arrays; returns the layer.

        Gradients and activations are dropped. The layer then takes arrays of that device.
        """
        move_layers([self], device)
        return self

    def _kept(self, activation: T | None) -> T:
        """``activation``, or the error that a backward pass without its forward pass deserves."""
        if activation is None:
            raise RuntimeError(
                f"{type(self).__name__}.backward needs the activations of a forward pass: call forward first, "
                f"outside fastdl.inference()"
            )
        return activation

    def __getstate__(self) -> dict[str, Any]:
        dropped = {*self.activations, *(f"d{name}" for name in self.parameters)}
        return {name: None if name in dropped else value for name, value in self.__dict__.items()}


def move_layers(layers: Iterable[Layer], device: str) -> None:
    """Moves the parameters and buffers of layers; what two of them share stays shared."""
    moved: dict[int, Any] = {}
    for layer in layers:
        for name in (*layer.parameters, *layer.buffers):
            old = getattr(layer, name)
            if old is not None:
                new = moved.setdefault(id(old), to_device(old, device))
                moved[id(new)] = new
                setattr(layer, name, new)
        for name in (*(f"d{name}" for name in layer.parameters), *layer.activations):
            setattr(layer, name, None)
