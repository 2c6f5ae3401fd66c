"""Central differences, which perturb the arrays in place, beside backpropagation."""

import os
import sys

sys.path.append(os.pardir)
import numpy as np
from common.layers import *

np.random.seed(3)
params = {
    "W1": np.random.randn(3, 1, 3, 3),
    "b1": np.random.randn(3),
    "W2": 0.1 * np.random.randn(12, 4),
    "b2": np.zeros(4),
}
layers = [
    Convolution(params["W1"], params["b1"], stride=2),
    Relu(),
    Pooling(1, 1, 1),
    Affine(params["W2"], params["b2"]),
]
last = SoftmaxWithLoss()
x, t = np.random.randn(5, 1, 6, 6), np.array([0, 1, 2, 3, 1])


def loss():
    out = x
    for layer in layers:
        out = layer.forward(out)
    return last.forward(out, t)


loss()
dout = last.backward(1)
for layer in reversed(layers):
    dout = layer.backward(dout)
found = {"W1": layers[0].dW, "b1": layers[0].db, "W2": layers[3].dW, "b2": layers[3].db}
for name, array in params.items():
    flat, expected = array.reshape(-1), []
    for i in range(flat.size):
        value = flat[i]
        flat[i] = value + 1e-4
        above = loss()
        flat[i] = value - 1e-4
        below = loss()
        flat[i] = value
        expected.append((above - below) / 2e-4)
    print(name, bool(np.abs(np.array(expected) - found[name].reshape(-1)).max() < 1e-6))
