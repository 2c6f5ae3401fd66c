"""What the book's networks have in common: params, predict, loss, accuracy, gradient, save_params, load_params."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import backend, network
from ..data.pickles import load_arrays, save_arrays
from ..kernels.problem import COMPUTE


def _dtype(dtype: DTypeLike) -> np.dtype:
    """``dtype`` as one that parameters may have; ``TypeError`` for others."""
    if dtype == "bfloat16":
        import ml_dtypes  # noqa: F401 - makes NumPy know the name
    found = np.dtype(dtype)
    if found.name not in COMPUTE:
        raise TypeError(f"parameters are {', '.join(COMPUTE)}, not {found}")
    return found


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

    def __init__(self, dtype: DTypeLike | None) -> None:
        self.dtype: np.dtype | None = backend.get_default_dtype() if dtype is None else _dtype(dtype)
        self.params: dict[str, np.ndarray] = {}

    def _sequence(self) -> list[Any]:
        return list(self.layers.values() if isinstance(self.layers, Mapping) else self.layers)

    @property
    def _parameter_dtype(self) -> np.dtype:
        return np.dtype(np.float64) if self.dtype is None else self.dtype

    def predict(self, x: np.ndarray, train_flg: bool = False) -> np.ndarray:
        """Scores (N, classes), before the softmax; ``train_flg`` switches dropout and batch statistics on."""
        if self.dtype is not None and x.dtype != self.dtype:
            x = x.astype(self.dtype)
        return network.forward(self._sequence(), x, train_flg)

    def loss(self, x: np.ndarray, t: np.ndarray) -> np.float64:
        """Mean cross entropy of a training pass (dropout active); ``t`` as ``layers.SoftmaxWithLoss`` takes them."""
        return self.last_layer.forward(self.predict(x, train_flg=True), t)

    def accuracy(self, x: np.ndarray, t: np.ndarray, batch_size: int = 100) -> float:
        """The share of images whose highest score is at their label; ``t`` (N,), (N, 1) or one-hot.

        Runs in ``fastdl.inference()`` and counts every image, also of a last batch that is smaller (which the book's
        own ``accuracy`` leaves out). NaN for no images.
        """
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

    def gradient(self, x: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
        """Gradients of ``loss`` under the names of ``params``: new arrays at each call."""
        return self.loss_and_gradient(x, t)[1]

    def loss_and_gradient(self, x: np.ndarray, t: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """The loss, and its gradients by the parameters, from one forward and one backward pass.

        On the way back each layer gives its activations up (``layer.x`` and the like are None then), for the memory.
        """
        loss = self.loss(x, t)
        layers = self._sequence()
        network.backward(layers, self.last_layer.backward(1), need_dx=False, release=True)
        return float(loss), network.named_grads(layers)

    def set_params(self, params: Mapping[str, np.ndarray]) -> None:
        """Uses these arrays (no copies) as parameters, and the running statistics among them.

        Raises ``ValueError``, with nothing changed, where one is missing, has another shape or an unknown name.
        """
        layers = self._sequence()
        network.set_arrays(layers, params)
        self.params.clear()
        self.params.update(network.named_params(layers))

    def cast(self, dtype: DTypeLike) -> None:
        """Rounds the parameters to ``dtype`` (new arrays) and uses inputs in it from now on."""
        self.dtype = _dtype(dtype)
        layers = self._sequence()
        cast = {name: np.asarray(value).astype(self.dtype) for name, value in network.named_params(layers).items()}
        self.set_params(cast)

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
        save_arrays(file_name, network.named_params(self._sequence()) | network.named_buffers(self._sequence()))

    def load_params(self, file_name: str | os.PathLike = "params.npz") -> None:
        """Reads what ``save_params`` has written, or the book's pickled dict of arrays, without running the pickle.

        The parameters become new arrays: of ``dtype`` where the network has one, else of the dtypes in the file. Raises
        ``ValueError`` where the file is damaged, asks for more than arrays or does not fit, ``OSError`` where it cannot
        be read; the parameters are then as they were.
        """
        arrays = load_arrays(file_name)
        if self.dtype is not None:
            mine = self.params.keys()
            arrays = {name: a.astype(self.dtype) if name in mine else a for name, a in arrays.items()}
        try:
            self.set_params(arrays)
        except ValueError as error:
            raise ValueError(f"{os.fspath(file_name)}: {error}") from None
