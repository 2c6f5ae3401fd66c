"""A network of two layers, whose gradients are central differences."""

import os
import sys

sys.path.append(os.pardir)
import numpy as np
from common.functions import *
from common.gradient import numerical_gradient
from dataset.mnist import load_mnist


class TwoLayerNet:
    def __init__(self, input_size, hidden_size, output_size):
        self.params = {
            "W1": 0.01 * np.random.randn(input_size, hidden_size),
            "b1": np.zeros(hidden_size),
            "W2": 0.01 * np.random.randn(hidden_size, output_size),
            "b2": np.zeros(output_size),
        }

    def predict(self, x):
        z = sigmoid(np.dot(x, self.params["W1"]) + self.params["b1"])
        return softmax(np.dot(z, self.params["W2"]) + self.params["b2"])

    def loss(self, x, t):
        return cross_entropy_error(self.predict(x), t)

    def numerical_gradient(self, x, t):
        return {key: numerical_gradient(lambda W: self.loss(x, t), value) for key, value in self.params.items()}


np.random.seed(2)
(x_train, t_train), _ = load_mnist(normalize=True, one_hot_label=True)
x_train = x_train[:, 300:340]
network = TwoLayerNet(input_size=40, hidden_size=6, output_size=10)
for i in range(3):
    batch = np.random.choice(x_train.shape[0], 100)
    grad = network.numerical_gradient(x_train[batch], t_train[batch])
    for key in ("W1", "b1", "W2", "b2"):
        network.params[key] -= 10 * grad[key]
    print(repr(float(network.loss(x_train[batch], t_train[batch]))))
