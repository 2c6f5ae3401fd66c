"""What the book's networks have in common: params, predict, loss, accuracy, gradient, save_params, load_params."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from .. import _device, backend, functional, network
from .._array import as_array, copied, empty, float_dtype, is_device, prepare, zeros
from ..data.pickles import load_arrays, save_arrays
from ..functional._loss import device_labels
from ..kernels.device import _cuda as kernels
from ..kernels.problem import FLOAT8
from ..layers import SoftmaxWithLoss
from ..layers.base import move_layers

_PARAMETERS = "the dtype of parameters"


def _cast(value: Any, dtype: np.dtype) -> Any:
    """A new array of ``dtype``."""
    return functional.cast(value, dtype) if is_device(value) else np.asarray(value).astype(dtype)


class Model:
    """Layers, a last layer that gives the loss, and the parameters by name.

    ``params`` is a dict of the layers' own arrays: an optimizer updates them in place. To replace one, assign to the
    layer too, or use ``load_params``, ``set_params`` or ``cast``. The layers are a list or, as in some of the book's
    networks, a dict in the order of the forward pass.

    ``dtype`` is the dtype to which inputs are cast before the first layer, or None: then they are used as they are, and
    the results have the dtype of inputs and parameters together (``numpy.result_type``).
    """

    layers: Any
    last_layer: Any
    #: (C, H, W) of an image, or (D,).
    input_dim: tuple[int, ...]

    def __init__(self, dtype: DTypeLike | None) -> None:
        self.dtype: np.dtype | None = backend.get_default_dtype() if dtype is None else float_dtype(dtype, _PARAMETERS)
        self.params: dict[str, np.ndarray] = {}

    def _assemble(self, input_dim: Sequence[int], layers: Any) -> None:
        """Sets the attributes of a network that ends in a softmax."""
        self.input_dim = tuple(input_dim)
        self.layers = layers
        self.last_layer = SoftmaxWithLoss()
        self.params = network.named_params(self._sequence())

    def _sequence(self) -> list[Any]:
        return network.sequence(self)

    @property
    def _parameter_dtype(self) -> np.dtype:
        return np.dtype(np.float64) if self.dtype is None else self.dtype

    def predict(self, x: np.ndarray, train_flg: bool = False) -> np.ndarray:
        """Scores (N, classes), before the softmax; ``train_flg`` switches dropout and batch statistics on."""
        if self.dtype is not None and x.dtype != self.dtype:
            x = prepare(x, self.dtype) if is_device(x) else x.astype(self.dtype)
        return network.forward(self._sequence(), x, train_flg)

    def loss(self, x: np.ndarray, t: np.ndarray) -> Any:
        """Mean cross entropy of a training pass (dropout active); ``t`` as ``layers.SoftmaxWithLoss`` takes them.

        A NumPy float64, or on a device a CuPy array without dimensions. Raises ``TypeError`` in a dtype that is for
        inference alone (float8).
        """
        if self.dtype is not None and self.dtype.name in FLOAT8:
            raise TypeError(
                f"the network computes in {self.dtype}, in which there are neither losses nor gradients: train it in "
                f"another dtype (net.cast('float32')) and cast it afterwards"
            )
        return self.last_layer.forward(self.predict(x, train_flg=True), t)

    def accuracy(self, x: np.ndarray, t: np.ndarray, batch_size: int = 100) -> float:
        """The share of images whose highest score is at their label; ``t`` (N,), (N, 1) or one-hot.

        Runs in ``fastdl.inference()`` and counts every image, also of a last batch that is smaller (which the book's
        own ``accuracy`` leaves out). NaN for no images.
        """
        if is_device(x):
            return self._accuracy_on_device(x, t, batch_size)
        labels = np.asarray(t)
        if labels.ndim > 1:
            labels = labels.reshape(len(labels)) if labels.shape[1] == 1 else labels.argmax(axis=1)
        if len(x) != len(labels):
            raise ValueError(f"{len(x)} images have {len(labels)} labels")
        if not len(x):
            return float("nan")
        right = 0
        with backend.inference():
            for start in range(0, len(x), batch_size):
                part = slice(start, start + batch_size)
                right += int(np.count_nonzero(self.predict(x[part]).argmax(axis=1) == labels[part]))
        return right / len(x)

    def _accuracy_on_device(self, x: Any, t: Any, batch_size: int) -> float:
        """``accuracy`` that reads one number from the device, at its end."""
        t = as_array(t, "accuracy: t", x)
        n = len(x)
        if len(t) != n:
            raise ValueError(f"{n} images have {len(t)} labels")
        if not n:
            return float("nan")
        labels = device_labels(t, (n, t.size // n), "accuracy", x)
        right = zeros((1,), np.dtype(np.int64), x)
        found = empty((batch_size,), np.int64, on=x)
        with backend.inference():
            for start in range(0, n, batch_size):
                part = slice(start, start + batch_size)
                scores = self.predict(x[part])
                kernels.argmax(scores, found)
                kernels.count_equal(labels[part], found, right)
        return int(_device.to_host(right)[0]) / n

    def gradient(self, x: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
        """Gradients of ``loss`` under the names of ``params``: new arrays at each call."""
        return self.loss_and_gradient(x, t)[1]

    def loss_and_gradient(self, x: np.ndarray, t: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """The loss, and its gradients by the parameters, from one forward and one backward pass.

        On the way back each layer gives its activations up (``layer.x`` and the like are None then), for the memory.
        """
        loss, grads = self.unread_loss_and_gradient(x, t)
        return float(loss), grads

    def unread_loss_and_gradient(self, x: np.ndarray, t: np.ndarray) -> tuple[Any, dict[str, np.ndarray]]:
        """:meth:`loss_and_gradient` with the loss as :meth:`loss` gives it: nobody waits for a device."""
        loss = self.loss(x, t)
        return loss, self.backward()

    def backward(self) -> dict[str, np.ndarray]:
        """Gradients of the last :meth:`loss` under the names of ``params``: new arrays. Once for each ``loss``: each
        layer gives its activations up."""
        layers = self._sequence()
        network.backward(layers, self.last_layer.backward(1), need_dx=False, release=True)
        return network.named_grads(layers)

    @property
    def device(self) -> str:
        """Where the parameters are: ``"cpu"`` or ``"cuda:0"``."""
        return _device.device_of(next(iter(self.params.values()), None))

    def to(self, device: str) -> Self:
        """Moves parameters and running statistics to ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; returns the network.

        ``params`` then refers to the new arrays, and an optimizer's states follow at its next update. Inputs and labels
        have to be on that device too: ``fastdl.to_device(x, net.device)``.
        """
        layers = self._sequence()
        move_layers([*network.leaves(layers), self.last_layer], device)
        self.params.clear()
        self.params.update(network.named_params(layers))
        return self

    def set_params(self, params: Mapping[str, np.ndarray]) -> None:
        """Uses these arrays (no copies) as parameters, and the running statistics among them.

        Raises ``ValueError``, with nothing changed, where one is missing, has another shape or an unknown name.
        """
        layers = self._sequence()
        network.set_arrays(layers, params)
        self.params.clear()
        self.params.update(network.named_params(layers))

    def cast(self, dtype: DTypeLike) -> None:
        """Rounds the parameters to ``dtype`` (new arrays) and uses inputs in it from now on.

        In ``float8_e4m3fn`` and ``float8_e5m2`` a network predicts, and does not train.
        """
        self.dtype = float_dtype(dtype, _PARAMETERS)
        layers = self._sequence()
        cast = {name: _cast(value, self.dtype) for name, value in network.named_params(layers).items()}
        self.set_params(cast)

    def astype(self, dtype: DTypeLike) -> Self:
        """A copy of the network as :meth:`cast` would make it, which shares no array with this one.

        Running statistics, seeds and masks' counters are copied as they are; activations and gradients are left out.
        """
        wanted, layers = float_dtype(dtype, _PARAMETERS), self._sequence()
        known = {id(value): value for value in network.named_params(layers).values()}  # until cast makes new ones
        known |= {id(value): copied(value) for value in network.named_buffers(layers).values()}
        found = copy.deepcopy(self, known)
        found.cast(wanted)
        return found

    def save_params(self, file_name: str | os.PathLike = "params.npz") -> None:
        """Writes parameters and running statistics as an ``.npz`` archive, whole or not at all.

        The archive gets exactly this name. Where that ends in ``.pkl`` a ``UserWarning`` says that it is no pickle all
        the same: ``load_params`` and ``numpy.load`` read it, ``pickle.load`` does not.
        """
        if os.fspath(file_name).endswith((".pkl", ".pickle")):
            warnings.warn(
                f"{os.fspath(file_name)} will be an .npz archive, which load_params and numpy.load read, and not a "
                f"pickle: the name .npz would say so",
                stacklevel=2,
            )
        layers = self._sequence()
        save_arrays(file_name, network.on_host(network.named_params(layers) | network.named_buffers(layers)))

    def load_params(self, file_name: str | os.PathLike = "params.npz") -> None:
        """Reads what ``save_params`` has written, or the book's pickled dict of arrays, without running the pickle.

        The parameters become new arrays where the old ones were: of ``dtype`` where the network has one, else of the
        dtypes in the file. Raises
        ``ValueError`` where the file is damaged, asks for more than arrays or does not fit, ``OSError`` where it cannot
        be read; the parameters are then as they were.
        """
        arrays = load_arrays(file_name)
        if self.dtype is not None:
            mine = self.params.keys()
            arrays = {name: a.astype(self.dtype) if name in mine else a for name, a in arrays.items()}
        try:
            self.set_params({name: _device.to_device(a, self.device) for name, a in arrays.items()})
        except ValueError as error:
            raise ValueError(f"{os.fspath(file_name)}: {error}") from None
