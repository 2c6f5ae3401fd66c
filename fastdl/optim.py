"""SGD, Momentum, Nesterov, AdaGrad, RMSprop and Adam, with the book's constructors and ``update(params, grads)``.

::

    optimizer = Adam(lr=0.001)
    optimizer.update(net.params, net.gradient(x, t))

``update`` changes the arrays in ``params`` in place, whatever their strides: all arrays of one dtype in one kernel call
and one pass over their memory. A gradient of another dtype is cast to its parameter's. Parameters are float32 or
float64, NumPy's or CuPy's; the states are where they are.

``weight_decay`` adds ``weight_decay * W`` to the gradient of each parameter whose name starts with W, before anything
else: L2 regularisation of the weights alone, as in the book's ``MultiLayerNet(weight_decay_lambda=...)``.

Where the loss was multiplied by a scale, as in mixed precision, :func:`unscale` takes that back before ``update``.

``lr`` and the other numbers may be assigned at any time. The states ``v``, ``h`` and ``m`` are None before the first
update and then dicts of arrays, one for each parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from . import backend
from ._array import as_array, empty, expect_beside, float_dtype, prepare
from ._device import Mirror, device_of, is_device, to_device
from .kernels.device import _cuda as kernels
from .kernels.problem import Problem

Arrays = dict[str, np.ndarray]
_ndarray = np.ndarray

#: What optimizers update. NumPy puts a dtype's name together again each time that it is asked: a third of a step of 16
#: small arrays.
_NAMES = {np.dtype(name): name for name in ("float32", "float64")}


class Optimizer:
    """What the optimizers share. ``iter`` counts the updates."""

    op: ClassVar[str]  # of the registry
    #: The op's numbers, which are also attributes of the optimizer, in alphabetical order.
    numbers: ClassVar[tuple[str, ...]] = ()
    #: The op's states, in the order of its arguments.
    states: ClassVar[tuple[str, ...]] = ()

    def __init__(self, lr: float, weight_decay: float) -> None:
        self.lr = lr
        self.weight_decay = weight_decay
        self.iter = 0
        self._lr = Mirror(np.float64)
        for name in self.states:
            setattr(self, name, None)

    def update(self, params: Mapping[str, Any], grads: Mapping[str, Any]) -> None:
        """One step for every entry of ``params``; ``grads`` has a gradient of its shape under each name.

        A parameter that is a number and no array is replaced in ``params`` by its new value. Raises ``KeyError`` for a
        missing gradient, ``ValueError`` for one of another shape or a read-only parameter, and ``TypeError`` for a
        parameter of another dtype, before anything is changed.
        """
        arrays = {name: _parameter(name, value) for name, value in params.items()}
        beside: Any = next(iter(arrays.values()), None)
        for name, array in arrays.items():
            if type(array) is not _ndarray or type(beside) is not _ndarray:
                expect_beside("update", name, array, next(iter(arrays)), beside)
        gradients = {name: self._gradient(name, array, grads) for name, array in arrays.items()}
        states = [self._state(name, arrays) for name in self.states]
        attrs = tuple((name, float(getattr(self, name))) for name in self.numbers)
        if is_device(beside):
            scalars = self._device_scalars(beside)
        else:
            self.iter += 1
            scalars = self._scalars()
        for dtype, names in _calls(arrays):
            problem = Problem(self.op, "step", tuple(arrays[name].shape for name in names), dtype, attrs=attrs)
            lists = [[each[name] for name in names] for each in (arrays, gradients, *states)]
            backend.run(problem, *lists, *scalars)
        for name, array in arrays.items():
            if array is not params[name]:
                params[name] = array[()]  # type: ignore[index]

    def _scalars(self) -> tuple[np.ndarray, ...]:
        """The op's arguments after the lists, as one-element arrays."""
        return (np.array([self.lr], np.float64),)

    def _device_scalars(self, beside: Any) -> tuple[Any, ...]:
        """The same on the device of ``beside``, and counts the update there and here."""
        self.iter += 1
        return (self._lr.array((self.lr,), beside),)

    def replayed(self) -> None:
        """Counts an update that ran on a device alone, as a part of a captured step."""
        self.iter += 1

    def before_replay(self, beside: Any) -> None:
        """Tells the device what a captured update will read there."""
        self._lr.array((self.lr,), beside)

    def _gradient(self, name: str, param: np.ndarray, grads: Mapping[str, Any]) -> np.ndarray:
        if grads.get(name) is None:
            raise KeyError(f"there is no gradient for the parameter {name!r}")
        grad = as_array(grads[name], f"the gradient of {name!r}", param)
        if is_device(param) or is_device(grad):
            expect_beside("update", f"the gradient of {name}", grad, name, param)
        if grad.shape != param.shape:
            raise ValueError(f"the gradient of {name!r} is {grad.shape}, its parameter {param.shape}")
        if grad.dtype != param.dtype:
            grad = prepare(grad, param.dtype) if is_device(grad) else grad.astype(param.dtype)
        if self.weight_decay and name.startswith("W"):
            if is_device(param):
                decayed = empty(param.shape, param.dtype, like=param)
                kernels.decayed(grad, param, self.weight_decay, decayed)
                return decayed
            grad = grad + param.dtype.type(self.weight_decay) * param
        return grad

    def _state(self, state: str, arrays: Arrays) -> Arrays:
        """The state's arrays, with zeros for parameters that are new."""
        found: Arrays | None = getattr(self, state)
        if found is None:
            found = {}
            setattr(self, state, found)
        for name, param in arrays.items():
            if name not in found:
                found[name] = _zeros_like(param)
            elif found[name].shape != param.shape:
                raise ValueError(f"{state}[{name!r}] is {found[name].shape}, its parameter {param.shape}")
            elif found[name].dtype != param.dtype:
                found[name] = prepare(found[name], param.dtype)
            if type(param) is not _ndarray or type(found[name]) is not _ndarray:
                found[name] = to_device(found[name], device_of(param))
        return found

    def state_dict(self) -> dict[str, Any]:
        """Copies of all numbers and states, in host memory: what :meth:`load_state_dict` needs to go on exactly."""
        state: dict[str, Any] = {name: getattr(self, name) for name in ("lr", "weight_decay", "iter", *self.numbers)}
        for name in self.states:
            arrays = getattr(self, name)
            state[name] = None if arrays is None else {key: _host_copy(value) for key, value in arrays.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what another optimizer of this kind has returned from :meth:`state_dict`, by copying it.

        Raises ``ValueError``, with nothing changed, where that was one of another kind.
        """
        wanted = {"lr", "weight_decay", "iter", *self.numbers, *self.states}
        if set(state) != wanted:
            raise ValueError(
                f"this is no state of {type(self).__name__}: it has {', '.join(sorted(state))}, "
                f"and not {', '.join(sorted(wanted))}"
            )
        for name, value in state.items():
            copied = {key: _host_copy(a) for key, a in value.items()} if isinstance(value, Mapping) else value
            setattr(self, name, copied)


def unscale(grads: Mapping[str, Any] | Iterable[Any], scale: Any) -> np.ndarray:
    """Multiplies gradients by ``1 / scale`` in place, and says whether one of them was infinite or NaN before.

    ``grads`` holds NumPy or CuPy arrays of float32, float64, float16 or bfloat16, all in one place; an array that is
    there twice is multiplied once. ``scale`` is a number, or a one-element array where they are, which is read there.
    Each element is rounded once.

    Returns an int32 array where the gradients are, 1 for an overflow and 0 for none: one element, or one for each dtype
    in the order in which they come. Nothing waits for a device before somebody looks at it. Raises ``TypeError`` for
    what is no such array and ``ValueError`` for one that is read-only, before anything is changed.
    """
    named = grads.items() if isinstance(grads, Mapping) else enumerate(grads)
    calls: dict[str, dict[int, Any]] = {}
    beside: Any = None
    for name, grad in named:
        what = f"unscale: the gradient {name!r}"
        if not (isinstance(grad, np.ndarray) or is_device(grad)):
            raise TypeError(f"{what} must be an array to be changed in place, not {type(grad).__name__}")
        array = as_array(grad, what)
        if float_dtype(array.dtype, f"unscale: the dtype of the gradient {name!r}") != array.dtype:
            raise TypeError(f"{what} is not in native byte order")
        if type(array) is _ndarray and not (array.flags.writeable and array.flags.aligned):
            raise ValueError(f"{what} is {'not aligned' if array.flags.writeable else 'read-only'}")
        if beside is None:
            first, beside = name, array
        expect_beside("unscale", f"the gradient {name!r}", array, f"the gradient {first!r}", beside)
        calls.setdefault(array.dtype.name, {})[id(grad)] = array
    factor = as_array(scale, "unscale: scale")
    if factor.size != 1:
        raise ValueError(f"unscale: scale must be one number, not {factor.size}")
    if is_device(factor) and beside is not None:
        expect_beside("unscale", "scale", factor, f"the gradient {first!r}", beside)
    factor = prepare(factor, np.dtype(np.float64)).reshape(1)
    overflow = empty((max(len(calls), 1),), np.int32, on=beside)
    if not calls:
        overflow[0] = 0
    for i, (dtype, arrays) in enumerate(calls.items()):
        problem = Problem("unscale", "step", tuple(a.shape for a in arrays.values()), dtype)
        backend.run(problem, list(arrays.values()), factor, overflow[i : i + 1])
    return overflow


def _parameter(name: str, value: Any) -> np.ndarray:
    """``value`` itself, or a number as an array without dimensions."""
    if is_device(value):
        pass
    elif not isinstance(value, np.ndarray):
        number = np.array(value)
        value = number.astype(np.float64) if number.dtype.kind in "iu" and not number.ndim else number
        if value.ndim:
            raise TypeError(f"the parameter {name!r} must be a NumPy array to be updated in place")
    elif not value.flags.writeable:
        raise ValueError(f"the parameter {name!r} is read-only")
    if value.dtype not in _NAMES:
        raise TypeError(f"optimizers update float32 and float64 parameters; {name!r} is {value.dtype}")
    return value  # type: ignore[no-any-return]


def _zeros_like(param: np.ndarray) -> np.ndarray:
    if not is_device(param):
        return np.zeros_like(param)
    state = empty(param.shape, param.dtype, like=param)
    state.data.memset_async(0, state.nbytes)  # type: ignore[attr-defined]
    return state


def _host_copy(a: Any) -> np.ndarray:
    return to_device(a, "cpu") if is_device(a) else np.array(a)


def _calls(arrays: Arrays) -> list[tuple[str, list[str]]]:
    """(dtype, names) of each kernel call. An array with several names is updated once for each, one after the other."""
    calls: dict[tuple[str, int], list[str]] = {}
    seen: dict[int, int] = {}
    for name, array in arrays.items():
        turn = seen.get(id(array), 0)
        seen[id(array)] = turn + 1
        calls.setdefault((_NAMES[array.dtype], turn), []).append(name)
    return [(dtype, names) for (dtype, _), names in sorted(calls.items(), key=lambda call: call[0][1])]


class SGD(Optimizer):
    """p -= lr * g."""

    op = "sgd"

    def __init__(self, lr: float = 0.01, *, weight_decay: float = 0.0) -> None:
        super().__init__(lr, weight_decay)


class Momentum(Optimizer):
    """v = momentum * v - lr * g; p += v."""

    op = "momentum"
    numbers = ("momentum",)
    states = ("v",)
    v: Arrays | None

    def __init__(self, lr: float = 0.01, momentum: float = 0.9, *, weight_decay: float = 0.0) -> None:
        super().__init__(lr, weight_decay)
        self.momentum = momentum


class Nesterov(Optimizer):
    """p += momentum**2 * v - (1 + momentum) * lr * g; v = momentum * v - lr * g (arXiv:1212.0901)."""

    op = "nesterov"
    numbers = ("momentum",)
    states = ("v",)
    v: Arrays | None

    def __init__(self, lr: float = 0.01, momentum: float = 0.9, *, weight_decay: float = 0.0) -> None:
        super().__init__(lr, weight_decay)
        self.momentum = momentum


class AdaGrad(Optimizer):
    """h += g * g; p -= lr * g / (sqrt(h) + eps)."""

    op = "adagrad"
    numbers = ("eps",)
    states = ("h",)
    h: Arrays | None

    def __init__(self, lr: float = 0.01, *, eps: float = 1e-7, weight_decay: float = 0.0) -> None:
        super().__init__(lr, weight_decay)
        self.eps = eps


class RMSprop(Optimizer):
    """h = decay_rate * h + (1 - decay_rate) * g * g; p -= lr * g / (sqrt(h) + eps)."""

    op = "rmsprop"
    numbers = ("decay_rate", "eps")
    states = ("h",)
    h: Arrays | None

    def __init__(
        self, lr: float = 0.01, decay_rate: float = 0.99, *, eps: float = 1e-7, weight_decay: float = 0.0
    ) -> None:
        super().__init__(lr, weight_decay)
        self.decay_rate = decay_rate
        self.eps = eps


class Adam(Optimizer):
    """m += (1 - beta1) * (g - m); v += (1 - beta2) * (g * g - v); p -= rate * m / (sqrt(v) + eps).

    The rate is lr * sqrt(1 - beta2**iter) / (1 - beta1**iter), with 1 for the first iter.
    Both bias corrections are in the rate and ``eps`` beside the uncorrected root, as in the book (arXiv:1412.6980, end
    of section 2), so that ``eps`` weighs a little more in the first steps than in PyTorch.
    """

    op = "adam"
    numbers = ("beta1", "beta2", "eps")
    states = ("m", "v")
    m: Arrays | None
    v: Arrays | None

    def __init__(
        self,
        lr: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps: float = 1e-7,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr, weight_decay)
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps

        self._step = Mirror(np.int64)

    def _scalars(self) -> tuple[np.ndarray, ...]:
        return np.array([self.lr], np.float64), np.array([self.iter], np.int64)

    def _device_scalars(self, beside: Any) -> tuple[Any, ...]:
        step = self._step.array((self.iter,), beside)
        kernels.advance(step)
        scalars = super()._device_scalars(beside)
        self._step.counted((self.iter,))
        return *scalars, step

    def replayed(self) -> None:
        super().replayed()
        self._step.counted((self.iter,))


#: The optimizers by the names that ``Trainer`` takes, in lower case.
BY_NAME: dict[str, type[Optimizer]] = {
    kind.__name__.lower(): kind for kind in (SGD, Momentum, Nesterov, AdaGrad, RMSprop, Adam)
}


def cosine(lr: float, epochs: int) -> Callable[[float], float]:
    """The learning rate of an epoch, half a wave from ``lr`` to 0: a ``schedule`` for ``Trainer``.

    Loshchilov and Hutter 2017, SGDR, formula 5 without restarts.
    """
    return lambda epoch: 0.5 * lr * (1 + math.cos(math.pi * epoch / epochs))
