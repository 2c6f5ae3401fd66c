"""The DeepConvNet of `book_numpy`, in PyTorch on the CPU: the peer to reach. Imports it only when used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .book_numpy import CONVOLUTIONS, initial_params

if TYPE_CHECKING:
    import torch


class TorchDeepConvNet:
    """DeepConvNet for (N, 1, 28, 28) images and integer labels (N,).

    `params_from_numpy` is a dict as `BookDeepConvNet.params` (copied; default: the same initialisation from
    `seed`). `channels_last` keeps activations and filters in PyTorch's channels-last memory format. `dtype`
    is "float32" or "float64". Dropout is the book's: a plain mask in training, a factor of `1 - ratio` else.
    """

    def __init__(
        self,
        params_from_numpy: dict[str, np.ndarray] | None = None,
        channels_last: bool = False,
        seed: int = 0,
        *,
        lr: float = 0.001,
        dropout_ratio: float = 0.5,
        dtype: str = "float32",
    ):
        import torch

        torch.manual_seed(seed)
        self.dtype = getattr(torch, dtype)
        self.dropout_ratio = dropout_ratio
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.params = {}
        for key, value in (params_from_numpy or initial_params(seed)).items():
            # PyTorch's linear() wants (outputs, inputs), the book's affine weight is (inputs, outputs).
            tensor = torch.tensor(value.T if value.ndim == 2 else value, dtype=self.dtype)
            tensor = tensor.contiguous(memory_format=self._format(tensor))
            self.params[key] = tensor.requires_grad_()
        self.optimizer = torch.optim.Adam(self.params.values(), lr=lr)

    def _format(self, tensor: torch.Tensor) -> torch.memory_format:
        import torch

        return self.memory_format if tensor.ndim == 4 else torch.contiguous_format

    def _forward(self, x: np.ndarray, train_flg: bool) -> torch.Tensor:
        import torch
        import torch.nn.functional as F

        p = self.params
        h = torch.as_tensor(x, dtype=self.dtype).contiguous(memory_format=self.memory_format)
        for i, (_, _, pad) in enumerate(CONVOLUTIONS, start=1):
            h = F.relu(F.conv2d(h, p[f"W{i}"], p[f"b{i}"], padding=pad))
            if i % 2 == 0:
                h = F.max_pool2d(h, 2)
        h = self._dropout(F.relu(F.linear(h.flatten(1), p["W7"], p["b7"])), train_flg)
        return self._dropout(F.linear(h, p["W8"], p["b8"]), train_flg)

    def _dropout(self, h: torch.Tensor, train_flg: bool) -> torch.Tensor:
        import torch

        if not train_flg:
            return h * (1.0 - self.dropout_ratio)
        return h * (torch.rand_like(h) > self.dropout_ratio)

    def _loss(self, x: np.ndarray, t: np.ndarray) -> torch.Tensor:
        import torch
        import torch.nn.functional as F

        return F.cross_entropy(self._forward(x, True), torch.as_tensor(t, dtype=torch.int64))

    def predict(self, x: np.ndarray, train_flg: bool = False) -> np.ndarray:
        """(N, 1, 28, 28) -> scores (N, 10)."""
        import torch

        with torch.no_grad():
            return self._forward(x, train_flg).numpy()

    def loss(self, x: np.ndarray, t: np.ndarray) -> float:
        """Mean cross entropy for integer labels `t` (N,), dropout active."""
        import torch

        with torch.no_grad():
            return self._loss(x, t).item()

    def gradient(self, x: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
        """Gradients of `loss` as NumPy arrays, keyed and shaped like `BookDeepConvNet.params`."""
        import torch

        grads = torch.autograd.grad(self._loss(x, t), list(self.params.values()))
        return {
            key: grad.numpy().T if grad.ndim == 2 else grad.numpy()
            for key, grad in zip(self.params, grads, strict=True)
        }

    def step(self, x: np.ndarray, t: np.ndarray) -> float:
        """One training step (forward, cross entropy, backward, Adam); gives the loss before the update."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(x, t)
        loss.backward()
        self.optimizer.step()
        return loss.item()
