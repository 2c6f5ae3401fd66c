"""Whole networks in PyTorch's words, an implementation that shares nothing with ours: scores, losses and gradients."""

from __future__ import annotations

import numpy as np
import pytest

from fastdl import layers as L
from fastdl import network
from fastdl.network import Concat, Residual
from test_networks import SMALL_NETS, alive, data, heads

torch = pytest.importorskip("torch")


class Peer:
    """The layers of a network, each as PyTorch's function, on copies of the parameters."""

    def __init__(self, net):
        self.net, self.parameters = net, {}
        for name, p in net.params.items():
            self.parameters[name] = self.parameters[id(p)] = torch.tensor(p, requires_grad=True)

    def loss(self, x, t):
        """That of the network, and all scores: those of the classifiers on the way, the network's own."""
        self.scores = []
        self.scores.append(self.run(self.net.layers, torch.tensor(x)))
        *others, own = [torch.nn.functional.cross_entropy(scores, torch.tensor(t)) for scores in self.scores]
        return own + 0.3 * sum(others)

    def run(self, layers, x):
        for layer in layers:
            x = self.layer(layer, x)
        return x

    def layer(self, layer, x):
        F, own = torch.nn.functional, {name: self.parameters[id(p)] for name, p in layer.params.items()}
        if isinstance(layer, L.Convolution):
            return F.conv2d(x, own["W"], own.get("b"), layer.stride, layer.pad, layer.dilation, layer.groups)
        if isinstance(layer, L.Affine):
            return x.flatten(1) @ own["W"] + own["b"]
        if isinstance(layer, L.BatchNormalization):
            return F.batch_norm(x, None, None, own["gamma"], own["beta"], training=True, eps=1e-5)
        if isinstance(layer, L.Pooling):
            return F.max_pool2d(x, layer.pool_h, layer.stride, layer.pad, ceil_mode=layer.ceil_mode)
        if isinstance(layer, L.AveragePooling):
            return F.avg_pool2d(x, (layer.pool_h, layer.pool_w), layer.stride)
        if isinstance(layer, L.LocalResponseNormalization):
            return F.local_response_norm(x, layer.size, layer.alpha, layer.beta, layer.k)
        if isinstance(layer, (L.Relu, L.Tanh)):
            return torch.relu(x) if isinstance(layer, L.Relu) else torch.tanh(x)
        if isinstance(layer, Residual):
            return self.run(layer.main, x) + self.run(layer.shortcut, x)
        if isinstance(layer, Concat):
            return torch.cat([self.run(branch, x) for branch in layer.branches], 1)
        if layer in heads(self.net):
            self.scores.append(self.run(layer.layers, x))
            return x
        assert isinstance(layer, L.Dropout) and layer.dropout_ratio == 0, layer
        return x


@pytest.mark.parametrize("name", SMALL_NETS)
def test_scores_losses_and_gradients_are_pytorchs(name):
    net = SMALL_NETS[name]()
    alive(net)
    for layer in network.leaves(net.layers):
        if isinstance(layer, L.Dropout):
            layer.dropout_ratio = 0.0
    x, t = data(net, 6)
    peer = Peer(net)
    loss = peer.loss(x, t)
    loss.backward()
    tolerance = 8 * len(list(network.leaves(net.layers))) * np.finfo(np.float64).eps  # some roundings in each layer
    np.testing.assert_allclose(net.predict(x, True), peer.scores[-1].detach().numpy(), rtol=0, atol=tolerance)
    found, grads = net.loss_and_gradient(x, t)
    least = min(torch.softmax(scores.detach(), 1).min().item() for scores in peer.scores)
    assert found == pytest.approx(loss.item(), abs=1.6e-7 / least), "the book's loss is -log(y + 1e-7)"
    for key, grad in grads.items():
        expected = peer.parameters[key].grad.numpy()
        scale = max(np.abs(expected).max(), 1.0)
        np.testing.assert_allclose(grad, expected, rtol=0, atol=tolerance * scale, err_msg=key)
    assert np.abs(grads["W1"]).max() > 1e-4, "a dead network proves nothing"
