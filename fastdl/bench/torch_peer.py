"""A network of fastdl's layers in PyTorch: the same weights, layer by layer. torch is imported when one is made."""

from __future__ import annotations

import functools
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .. import layers as L
from .._device import to_device
from ..functional._call import as_pads, as_pair
from ..network import Concat, Residual, Sequential


def missing(device: str) -> str:
    """Why PyTorch cannot run on ``"cpu"`` or ``"cuda"`` here; empty where it can."""
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed: pip install torch"
    import torch

    if device == "cpu":
        return ""
    if not torch.cuda.is_available():
        return "this PyTorch finds no CUDA device"
    return "fastdl bench runs PyTorch on the CPU; on a GPU bench/gpu.py of the sources measures layers beside cuDNN"


def tensor(a: Any, device: str) -> Any:
    """A copy of an array, channels-last where it has four axes."""
    import torch

    host = np.ascontiguousarray(to_device(a, "cpu"))
    if host.dtype.name == "bfloat16":
        found = torch.from_numpy(host.view(np.int16).copy()).view(torch.bfloat16)
    else:
        found = torch.from_numpy(host.copy())
    found = found.to(device)
    return found.to(memory_format=torch.channels_last) if found.dim() == 4 else found


def array(t: Any) -> np.ndarray:
    """A tensor's values, as float64."""
    return t.detach().double().cpu().numpy()  # type: ignore[no-any-return]


class NoCounterpart(TypeError):
    """PyTorch has no such layer, or none with these settings."""


# ---- layers ---------------------------------------------------------------------------------------------------------


class _Leaf:
    """A layer: parameters and a function of them."""

    def __init__(self, layer: Any, params: Sequence[Any], run: Callable[..., Any]) -> None:
        self.layer, self.params, self.run = layer, list(params), run
        self.alone = run  # where the input is kept: in a graph of its own
        self.works_in: _Leaf | None = None  # a ReLU: the layer before it, in whose graph it works in place
        self.x: Any = None
        self.out: Any = None


def _leaf(layer: Any, net: Network) -> _Leaf:
    for kind, make in _MAKERS.items():
        if type(layer) is kind:
            found = make(layer, net)
            return found if isinstance(found, _Leaf) else _Leaf(layer, [], found)
    raise NoCounterpart(f"PyTorch has no counterpart of the layer {type(layer).__name__}")


def _padded(pad: Any, fill: float = 0.0) -> tuple[Any, Callable[[Any], Any]]:
    """PyTorch's padding argument, and what is done before where its functions cannot: four different sides."""
    from torch.nn import functional as F

    top, bottom, left, right = _four(pad)
    if (top, left) == (bottom, right):
        return (top, left), lambda x: x
    return (0, 0), lambda x: F.pad(x, (left, right, top, bottom), value=fill)


def _four(pad: Any) -> tuple[int, int, int, int]:
    sides = as_pads(pad, "pad")
    return (sides,) * 4 if isinstance(sides, int) else sides


def _convolution(layer: Any, net: Network) -> _Leaf:
    from torch.nn import functional as F

    padding, before = _padded(layer.pad)
    stride, dilation, groups = as_pair(layer.stride, "stride"), as_pair(layer.dilation, "dilation"), layer.groups
    params = net.parameters(layer.W, layer.b)

    def run(x: Any, w: Any, b: Any = None) -> Any:
        return F.conv2d(before(x), w, b, stride, padding, dilation, groups)

    return _Leaf(layer, params, run)


def _affine(layer: Any, net: Network) -> _Leaf:
    from torch.nn import functional as F

    params = net.parameters(None if layer.W is None else layer.W.T, layer.b)

    def run(x: Any, w: Any, b: Any = None) -> Any:
        return F.linear(x.flatten(1), w, b)

    return _Leaf(layer, params, run)


def _max_pooling(layer: Any, net: Network) -> Any:
    from torch.nn import functional as F

    padding, before = _padded(layer.pad, -np.inf)
    size, stride, dilation = (layer.pool_h, layer.pool_w), layer.stride, layer.dilation
    return lambda x: F.max_pool2d(before(x), size, stride, padding, dilation, layer.ceil_mode)


def _average_pooling(layer: Any, net: Network) -> Any:
    from torch.nn import functional as F

    padding, before = _padded(layer.pad)
    if padding == (0, 0) and any(_four(layer.pad)) and not layer.count_include_pad:
        raise NoCounterpart("PyTorch's average pooling has no four sides of padding that do not count")
    size, stride = (layer.pool_h, layer.pool_w), layer.stride
    return lambda x: F.avg_pool2d(before(x), size, stride, padding, layer.ceil_mode, layer.count_include_pad)


def _batch_norm(layer: Any, net: Network) -> _Leaf:
    from torch.nn import functional as F

    params = net.parameters(layer.gamma, layer.beta)
    if np.size(layer.gamma) == 1:
        raise NoCounterpart("PyTorch's batch normalisation has no single gamma for all features")
    zeros = np.zeros(layer.gamma.shape)  # with which fastdl's begin, as the book's do
    mean, var = (
        tensor(zeros if have is None else have, net.device).to(params[0].dtype)
        for have in (layer.running_mean, layer.running_var)
    )

    def run(x: Any, gamma: Any, beta: Any) -> Any:
        flat = x if layer.per_channel or x.dim() == 2 else x.flatten(1)
        # Its own copies of the statistics: fastdl's network keeps its own.
        out = F.batch_norm(flat, mean, var, gamma, beta, net.training, 1 - layer.momentum, layer.eps)
        return out.reshape(x.shape)

    return _Leaf(layer, params, run)


def _response_norm(layer: Any, net: Network) -> Any:
    from torch.nn import functional as F

    return lambda x: F.local_response_norm(x, layer.size, layer.alpha, layer.beta, layer.k)


def _work_in_place(relu: _Leaf, before: _Leaf) -> None:
    """As PyTorch's users write it behind layers whose gradients need no output: half of the memory traffic."""
    from torch.nn import functional as F

    if type(before.layer) in (L.Convolution, L.Affine, L.BatchNormalization):
        relu.run = functools.partial(F.relu, inplace=True)
    if type(before.layer) in (L.Convolution, L.Affine):  # one row of fastdl's
        relu.works_in = before


def _function(name: str) -> Callable[[Any, Network], Any]:
    def make(layer: Any, net: Network) -> Any:
        import torch

        return getattr(torch.nn.functional, name, None) or getattr(torch, name)

    return make


def _dropout(layer: Any, net: Network) -> Any:
    from torch.nn import functional as F

    def run(x: Any) -> Any:
        if net.training:
            out = F.dropout(x, layer.dropout_ratio)
            return out if layer.inverted else out * (1 - layer.dropout_ratio)
        return x if layer.inverted else x * (1 - layer.dropout_ratio)

    return run


_MAKERS: dict[type, Callable[[Any, Any], Any]] = {
    L.Convolution: _convolution,
    L.Affine: _affine,
    L.Pooling: _max_pooling,
    L.AveragePooling: _average_pooling,
    L.BatchNormalization: _batch_norm,
    L.LocalResponseNormalization: _response_norm,
    L.Relu: _function("relu"),
    L.Relu6: _function("relu6"),
    L.Sigmoid: _function("sigmoid"),
    L.Tanh: _function("tanh"),
    L.Dropout: _dropout,
}


# ---- the network ----------------------------------------------------------------------------------------------------


class Network:
    """Layers and, with ``loss``, a softmax with cross entropy, on ``device``. ``NoCounterpart`` for other layers.

    ``leaves`` has each layer by the id of fastdl's.
    """

    def __init__(self, layers: Sequence[Any], loss: Any, device: str) -> None:
        self.device = device
        self.training = True
        self.loss_layer = loss
        self.leaves: dict[int, _Leaf] = {}
        self._make(layers)
        self.layers = list(layers)

    def _make(self, layers: Sequence[Any]) -> None:
        before: _Leaf | None = None
        for layer in layers:
            if isinstance(layer, (Residual, Concat)):
                for branch in layer.branches:
                    self._make(branch)
                before = None
            elif isinstance(layer, Sequential):
                self._make(layer.layers)
                before = None
            else:
                leaf = self.leaves[id(layer)] = _leaf(layer, self)
                if type(layer) is L.Relu and before is not None:
                    _work_in_place(leaf, before)
                before = leaf

    def parameters(self, *arrays: Any) -> list[Any]:
        """Copies as parameters; None is left out."""
        found = []
        for a in arrays:
            if a is not None:
                parameter = tensor(a, self.device).requires_grad_()
                found.append(parameter)
        return found

    def all_parameters(self) -> list[Any]:
        """Of every layer, in the order of the leaves."""
        return [p for leaf in self.leaves.values() for p in leaf.params]

    def forget_gradients(self) -> None:
        """As before the first backward pass."""
        for p in self.all_parameters():
            p.grad = None

    def gradients(self) -> dict[tuple[int, int], np.ndarray]:
        """(id of fastdl's layer, number of the parameter) -> gradient, as fastdl stores it."""
        found = {}
        for key, leaf in self.leaves.items():
            for i, p in enumerate(leaf.params):
                grad = array(p.grad)
                found[key, i] = grad.T if type(leaf.layer) is L.Affine and i == 0 else grad
        return found

    def forward(self, x: Any) -> Any:
        """Scores."""
        return self.run(self.layers, x, lambda leaf, x: leaf.run(x, *leaf.params), _join)

    def loss(self, x: Any, t: Any) -> Any:
        """The mean cross entropy; the scores where the network has no loss."""
        scores = self.forward(x)
        return scores if self.loss_layer is None else _cross_entropy(scores, t)

    def run(self, layers: Sequence[Any], x: Any, call: Callable[[_Leaf, Any], Any], join: Callable[..., Any]) -> Any:
        """``x`` through ``layers``: ``call(leaf, x)`` is a layer, ``join(container, outputs)`` the end of branches."""
        for layer in layers:
            if isinstance(layer, Sequential):
                x = self.run(layer.layers, x, call, join)
            elif isinstance(layer, (Residual, Concat)):
                x = join(layer, [self.run(branch, x, call, join) for branch in layer.branches])
            else:
                x = call(self.leaves[id(layer)], x)
        return x


def _join(layer: Any, parts: list[Any]) -> Any:
    import torch

    return parts[0] + parts[1] if isinstance(layer, Residual) else torch.cat(parts, layer.axis)


def _cross_entropy(scores: Any, t: Any) -> Any:
    """As fastdl's loss: sums of 16-bit scores in float32."""
    from torch.nn import functional as F

    return F.cross_entropy(scores.float() if scores.element_size() == 2 else scores, t)


class LayerByLayer:
    """Passes of a network in which each layer is a graph of its own, with a clock around it.

    ``seconds`` holds those of the last pass, by the id of fastdl's layer.
    """

    def __init__(self, net: Network) -> None:
        self._net = net
        self.seconds: dict[int, float] = {}
        self._sizes: dict[int, list[int]] = {}  # of the parts of a Concat
        self._scores: Any = None
        self._loss: Any = None

    def _timed(self, layer: Any, call: Callable[..., Any], *args: Any) -> Any:
        begin = time.perf_counter()
        out = call(*args)
        self.seconds[id(layer)] = self.seconds.get(id(layer), 0.0) + time.perf_counter() - begin
        return out

    def predict(self, x: Any) -> None:
        """A forward pass of which nothing is kept."""
        import torch

        def leaf_call(leaf: _Leaf, x: Any) -> Any:
            return self._timed(leaf.layer, leaf.run, x, *leaf.params)

        def join(layer: Any, parts: list[Any]) -> Any:
            return self._timed(layer, _join, layer, parts)

        self.seconds = {}
        with torch.inference_mode():
            self._net.run(self._net.layers, x, leaf_call, join)

    def forward(self, images: Any, t: Any) -> None:
        """A forward pass of training, with the loss where there is one."""

        def leaf_call(leaf: _Leaf, x: Any) -> Any:
            if leaf.works_in is not None:
                leaf.works_in.out = self._timed(leaf.layer, leaf.run, leaf.works_in.out)
                return leaf.works_in.out.detach()
            leaf.x = x.detach().requires_grad_(x is not images)
            leaf.out = self._timed(leaf.layer, leaf.alone, leaf.x, *leaf.params)
            return leaf.out.detach()

        def join(layer: Any, parts: list[Any]) -> Any:
            if isinstance(layer, Concat):
                self._sizes[id(layer)] = [part.shape[layer.axis] for part in parts]
            return self._timed(layer, _join, layer, parts)

        self.seconds = {}
        self._scores = self._net.run(self._net.layers, images, leaf_call, join).requires_grad_()
        if self._net.loss_layer is not None:
            self._loss = self._timed(self._net.loss_layer, _cross_entropy, self._scores, t)

    def backward(self, dout: Any) -> None:
        """The backward pass of the last ``forward``; ``dout`` is the gradient of the output where there is no loss."""
        self.seconds = {}
        if self._net.loss_layer is not None:
            self._timed(self._net.loss_layer, self._loss.backward)
            dout = self._scores.grad
        self._back(self._net.layers, dout)

    def _back(self, layers: Sequence[Any], dout: Any) -> Any:
        for layer in reversed(layers):
            if isinstance(layer, Sequential):
                dout = self._back(layer.layers, dout)
            elif isinstance(layer, (Residual, Concat)):
                dout = self._branches(layer, dout)
            else:
                leaf = self._net.leaves[id(layer)]
                if leaf.works_in is not None:
                    continue
                if leaf.out.requires_grad:
                    self._timed(layer, leaf.out.backward, dout)
                dout, leaf.x, leaf.out = leaf.x.grad, None, None
        return dout

    def _branches(self, layer: Any, dout: Any) -> Any:
        if isinstance(layer, Residual):
            parts = (dout, dout)
        else:
            parts = self._timed(layer, dout.split, self._sizes[id(layer)], layer.axis)
        grads = [self._back(branch, part) for branch, part in zip(layer.branches, parts, strict=True)]
        # None where the branches read the images, whose gradient nobody needs.
        return None if any(g is None for g in grads) else self._timed(layer, sum, grads[1:], grads[0])


@contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch with so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
