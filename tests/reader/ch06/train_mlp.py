"""Batch normalisation, dropout, sigmoid, weight decay; three optimizers."""

import os
import sys

sys.path.append(os.pardir)
import numpy as np
from common.layers import Affine, BatchNormalization, Dropout, Relu, Sigmoid, SoftmaxWithLoss
from common.optimizer import SGD, Adam, Momentum
from dataset.patterns import load_patterns

x, t = load_patterns()
one_hot = np.eye(10)[t]
for optimizer in (SGD(lr=0.01), Momentum(), Adam(lr=0.01)):
    np.random.seed(1)
    params = {"W1": 0.05 * np.random.randn(784, 60), "b1": np.zeros(60), "gamma1": np.ones(60), "beta1": np.zeros(60)}
    params.update({"W2": 0.1 * np.random.randn(60, 40), "b2": np.zeros(40)})
    params.update({"W3": 0.1 * np.random.randn(40, 10), "b3": np.zeros(10)})
    norm = BatchNormalization(params["gamma1"], params["beta1"])
    affine = [Affine(params["W" + str(i)], params["b" + str(i)]) for i in (1, 2, 3)]
    layers = [affine[0], norm, Relu(), Dropout(0.2), affine[1], Sigmoid(), affine[2]]
    last = SoftmaxWithLoss()
    for step in range(40):
        batch = np.random.choice(x.shape[0], 50)
        out = x[batch]
        for layer in layers:
            out = layer.forward(out, True) if isinstance(layer, (BatchNormalization, Dropout)) else layer.forward(out)
        print(repr(float(last.forward(out, one_hot[batch]))))
        dout = last.backward()
        for layer in layers[::-1]:
            dout = layer.backward(dout)
        grads = {"gamma1": norm.dgamma, "beta1": norm.dbeta}
        for i, layer in enumerate(affine):
            grads["W" + str(i + 1)] = layer.dW + 0.001 * layer.W
            grads["b" + str(i + 1)] = layer.db
        optimizer.update(params, grads)
print(np.random.rand())
