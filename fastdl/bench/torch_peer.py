"""A network of fastdl's layers in PyTorch: the same weights, layer by layer. torch is imported when one is made."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .. import layers as L
from .._device import to_device
from ..functional._call import as_pads, as_pair
from ..network import Concat, Residual, Sequential

Clock = Callable[[], float]


def missing(device: str) -> str:
    """Why PyTorch cannot run on ``"cpu"`` or ``"cuda"`` here; empty where it can."""
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed: pip install torch"
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return "this PyTorch finds no CUDA device"
    return ""


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
    zeros, ones = np.zeros(layer.gamma.shape), np.ones(layer.gamma.shape)
    mean, var = (
        tensor(given if have is None else have, net.device).to(params[0].dtype)
        for given, have in ((zeros, layer.running_mean), (ones, layer.running_var))
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

    ``forward`` and ``step`` run it as anybody would. ``timed_forward`` and ``timed_backward`` run one layer after the
    other, each in a graph of its own, with a clock around it: ``{(id of fastdl's layer, pass): seconds}``.
    """

    def __init__(self, layers: Sequence[Any], loss: Any, device: str) -> None:
        self.device = device
        self.training = True
        self.loss_layer = loss
        self._leaves: dict[int, _Leaf] = {}
        self._make(layers)
        self.layers = list(layers)

    def _make(self, layers: Sequence[Any]) -> None:
        for layer in layers:
            if isinstance(layer, (Sequential, Residual, Concat)):
                self._make(layer.inside)
            else:
                self._leaves[id(layer)] = _leaf(layer, self)

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
        return [p for leaf in self._leaves.values() for p in leaf.params]

    def forget_gradients(self) -> None:
        """As before the first backward pass."""
        for p in self.all_parameters():
            p.grad = None

    def gradients(self) -> dict[tuple[int, int], np.ndarray]:
        """(id of fastdl's layer, number of the parameter) -> gradient, as fastdl stores it."""
        found = {}
        for key, leaf in self._leaves.items():
            for i, p in enumerate(leaf.params):
                grad = array(p.grad)
                found[key, i] = grad.T if type(leaf.layer) is L.Affine and i == 0 else grad
        return found

    # ---- as a whole ----

    def forward(self, x: Any) -> Any:
        """Scores."""
        return self._run(self.layers, x, lambda leaf, x: leaf.run(x, *leaf.params))

    def loss(self, x: Any, t: Any) -> Any:
        """The mean cross entropy; the scores where the network has no loss."""
        from torch.nn import functional as F

        scores = self.forward(x)
        return scores if self.loss_layer is None else F.cross_entropy(_wide(scores), t)

    def _run(self, layers: Sequence[Any], x: Any, call: Callable[[_Leaf, Any], Any]) -> Any:
        import torch

        for layer in layers:
            if isinstance(layer, Sequential):
                x = self._run(layer.layers, x, call)
            elif isinstance(layer, (Residual, Concat)):
                parts = [self._run(branch, x, call) for branch in layer.branches]
                x = self._join(layer, parts, torch)
            else:
                x = call(self._leaves[id(layer)], x)
        return x

    def _join(self, layer: Any, parts: list[Any], torch: Any) -> Any:
        return parts[0] + parts[1] if isinstance(layer, Residual) else torch.cat(parts, layer.axis)

    # ---- layer by layer ----

    def timed_forward(self, x: Any, t: Any, clock: Clock, keep: bool) -> dict[tuple[int, str], float]:
        """The forward pass; with ``keep`` for a backward pass, which includes the loss where there is one."""
        import torch
        from torch.nn import functional as F

        found: dict[tuple[int, str], float] = {}
        join = self._join

        def timed(key: int, call: Callable[[], Any]) -> Any:
            begin = clock()
            out = call()
            found[key, "forward"] = found.get((key, "forward"), 0.0) + clock() - begin
            return out

        def leaf_call(leaf: _Leaf, x: Any) -> Any:
            if not keep:
                return timed(id(leaf.layer), lambda: leaf.run(x, *leaf.params))
            leaf.x = x.detach().requires_grad_(x.requires_grad or x is not images)
            leaf.out = timed(id(leaf.layer), lambda: leaf.run(leaf.x, *leaf.params))
            return leaf.out.detach().requires_grad_()

        def timed_join(layer: Any, parts: list[Any], torch: Any) -> Any:
            out = timed(id(layer), lambda: join(layer, parts, torch))
            self._parts[id(layer)] = [p.shape for p in parts]
            return out.detach().requires_grad_() if keep else out

        images = x
        self._parts: dict[int, list[Any]] = {}
        self._join = timed_join  # type: ignore[method-assign]
        try:
            with torch.enable_grad() if keep else torch.no_grad():
                scores = self._run(self.layers, x, leaf_call)
                self._scores = scores.detach().requires_grad_() if keep else scores
                if keep and self.loss_layer is not None:
                    key = id(self.loss_layer)
                    self._loss = timed(key, lambda: F.cross_entropy(_wide(self._scores), t))
        finally:
            del self._join
        return found

    def timed_backward(self, dout: Any, clock: Clock) -> dict[tuple[int, str], float]:
        """The backward pass of the last ``timed_forward``; ``dout`` where there is no loss."""
        import torch

        found: dict[tuple[int, str], float] = {}

        def timed(key: int, call: Callable[[], Any]) -> Any:
            begin = clock()
            out = call()
            found[key, "backward"] = found.get((key, "backward"), 0.0) + clock() - begin
            return out

        def back(layers: Sequence[Any], dout: Any) -> Any:
            for layer in reversed(layers):
                if isinstance(layer, Sequential):
                    dout = back(layer.layers, dout)
                elif isinstance(layer, (Residual, Concat)):
                    dout = branches(layer, dout)
                else:
                    leaf = self._leaves[id(layer)]
                    if leaf.out.requires_grad:
                        timed(id(layer), lambda leaf=leaf, dout=dout: leaf.out.backward(dout))
                    dout = leaf.x.grad
                    leaf.x = leaf.out = None
            return dout

        def branches(layer: Any, dout: Any) -> Any:
            if isinstance(layer, Residual):
                parts = [dout, dout]
            else:
                parts = timed(
                    id(layer), lambda: torch.split(dout, [s[layer.axis] for s in self._parts[id(layer)]], layer.axis)
                )
            grads = [back(branch, part) for branch, part in zip(layer.branches, parts, strict=True)]
            if any(g is None for g in grads):
                return None
            return timed(id(layer), lambda: sum(grads[1:], start=grads[0]))

        if self.loss_layer is not None:
            timed(id(self.loss_layer), self._loss.backward)
            dout = self._scores.grad
        back(self.layers, dout)
        return found


def _wide(scores: Any) -> Any:
    """As fastdl's loss: sums of 16-bit scores in float32."""
    return scores.float() if scores.element_size() == 2 else scores


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
