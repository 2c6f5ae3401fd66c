"""The networks in PyTorch, written as its users write them: the peers to reach. Imports it only when used.

``BUILDERS`` has a function for each network of ``step.NETWORKS``; ``TorchNet`` trains one and takes over the weights of
the same network of fastdl: its ``W1 b1 W2 b2 ...`` are those of the convolutions and dense layers in their order.

``fastdl.bench.torch_peer`` makes any of fastdl's networks in PyTorch, layer by layer. These are faster and need less
memory: their ReLUs work in place, and no copy of fastdl's weights is in the process. They also state the networks a
second time, without fastdl's layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .book_numpy import CONVOLUTIONS


def deepconvnet() -> Any:
    """The network of ``book_numpy``, with the book's dropout: a plain mask in training, a factor otherwise."""
    import torch
    from torch import nn

    class BookDropout(nn.Module):
        def forward(self, h: torch.Tensor) -> torch.Tensor:
            return h * (torch.rand_like(h) > 0.5) if self.training else h * 0.5

    layers: list[nn.Module] = []
    for i, (filters, channels, pad) in enumerate(CONVOLUTIONS, start=1):
        layers += [nn.Conv2d(channels, filters, 3, padding=pad), nn.ReLU(inplace=True)]
        if i % 2 == 0:
            layers.append(nn.MaxPool2d(2))
    layers += [
        nn.Flatten(),
        nn.Linear(1024, 50),
        nn.ReLU(inplace=True),
        BookDropout(),
        nn.Linear(50, 10),
        BookDropout(),
    ]
    return nn.Sequential(*layers)


def _classifier(features: int) -> list[Any]:
    from torch import nn

    return [
        nn.Flatten(),
        *(nn.Linear(features, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5)),
        *(nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(0.5)),
        nn.Linear(4096, 1000),
    ]


def alexnet() -> Any:
    """Single-tower AlexNet with the filters of 2012, response normalisation and overlapping pooling; images of 227."""
    from torch import nn

    def norm() -> nn.Module:  # the paper's alpha of 1e-4 is not divided by the size
        return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)

    return nn.Sequential(
        *(nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(inplace=True), norm(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(96, 256, 5, padding=2), nn.ReLU(inplace=True), norm(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 384, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        *_classifier(256 * 6 * 6),
    )


def vgg16() -> Any:
    """Configuration D of Simonyan and Zisserman; images of 224."""
    from torch import nn

    layers: list[nn.Module] = []
    channels = 3
    for filters, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            layers += [nn.Conv2d(channels, filters, 3, padding=1), nn.ReLU(inplace=True)]
            channels = filters
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, *_classifier(512 * 7 * 7))


BUILDERS: dict[str, Callable[[], Any]] = {"deepconvnet": deepconvnet, "alexnet": alexnet, "vgg16": vgg16}


class TorchNet:
    """A network for (N, C, H, W) images and integer labels (N,), in one memory format, with Adam in its fused form."""

    def __init__(
        self,
        build: Callable[[], Any],
        channels_last: bool = False,
        dtype: str = "float32",
        seed: int = 0,
        device: str = "cpu",
        capturable: bool = False,
    ):
        import torch

        torch.manual_seed(seed)
        self.device = device
        self.dtype = getattr(torch, dtype)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.net = build().to(device=device, dtype=self.dtype, memory_format=self.memory_format)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.001, fused=True, capturable=capturable)

    def _weighted(self) -> list[Any]:
        from torch import nn

        return [module for module in self.net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]

    def load(self, params: Mapping[str, np.ndarray]) -> None:
        """Takes over fastdl's parameters. PyTorch's dense weights are (outputs, inputs), fastdl's (inputs, outputs)."""
        import torch

        modules = self._weighted()
        if len(params) != 2 * len(modules):
            raise ValueError(f"{len(params)} parameters for {len(modules)} layers with weight and bias")
        with torch.no_grad():
            for i, module in enumerate(modules, start=1):
                w = params[f"W{i}"]
                for own, value in ((module.weight, w.T if w.ndim == 2 else w), (module.bias, params[f"b{i}"])):
                    if tuple(own.shape) != value.shape:
                        raise ValueError(f"layer {i}: {tuple(own.shape)} here, {value.shape} there")
                    own.copy_(torch.from_numpy(np.ascontiguousarray(value)))

    def _input(self, x: np.ndarray) -> Any:
        import torch

        images = torch.as_tensor(x, dtype=self.dtype, device=self.device)
        return images.contiguous(memory_format=self.memory_format)

    def _loss(self, x: Any, t: Any) -> Any:
        import torch
        import torch.nn.functional as F

        return F.cross_entropy(self.net(self._input(x)), torch.as_tensor(t, dtype=torch.int64, device=self.device))

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Scores (N, classes), dropout off."""
        import torch

        self.net.eval()
        with torch.inference_mode():
            return self.net(self._input(x)).cpu().numpy()

    def gradient(self, x: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
        """Gradients of the loss under fastdl's names and in its shapes. The network stays in the mode it is in."""
        import torch

        modules = self._weighted()
        grads = torch.autograd.grad(self._loss(x, t), [p for m in modules for p in (m.weight, m.bias)])
        arrays = [grad.cpu().numpy().T if grad.ndim == 2 else grad.cpu().numpy() for grad in grads]
        names = [f"{letter}{i}" for i in range(1, len(modules) + 1) for letter in "Wb"]
        return dict(zip(names, arrays, strict=True))

    def step(self, x: np.ndarray, t: np.ndarray) -> float:
        """One training step (forward, cross entropy, backward, Adam); gives the loss before the update."""
        return self.unread_step(x, t).item()

    def unread_step(self, x: Any, t: Any) -> Any:
        """The same; the loss stays where the network is."""
        self.net.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(x, t)
        loss.backward()
        self.optimizer.step()
        return loss.detach()
