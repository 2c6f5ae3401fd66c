from collections import OrderedDict

import numpy as np
from common.gradient import numerical_gradient
from common.layers import *


class MultiLayerNet:
    """Affine layers with an activation after all but the last; weight decay."""

    def __init__(self, input_size, hidden_size_list, output_size, activation="relu", weight_init_std="relu",
                 weight_decay_lambda=0):  # fmt: skip
        self.weight_decay_lambda = weight_decay_lambda
        self.sizes = [input_size, *hidden_size_list, output_size]
        self.hidden_layer_num = len(hidden_size_list)
        self.params = {}
        for i in range(1, len(self.sizes)):
            scale = weight_init_std
            if str(weight_init_std).lower() in ("relu", "he"):
                scale = np.sqrt(2.0 / self.sizes[i - 1])
            elif str(weight_init_std).lower() in ("sigmoid", "xavier"):
                scale = np.sqrt(1.0 / self.sizes[i - 1])
            self.params["W" + str(i)] = scale * np.random.randn(self.sizes[i - 1], self.sizes[i])
            self.params["b" + str(i)] = np.zeros(self.sizes[i])
        self.layers = OrderedDict()
        for i in range(1, self.hidden_layer_num + 1):
            self.layers["Affine" + str(i)] = Affine(self.params["W" + str(i)], self.params["b" + str(i)])
            self.layers["Activation" + str(i)] = {"sigmoid": Sigmoid, "relu": Relu}[activation]()
        i = str(self.hidden_layer_num + 1)
        self.layers["Affine" + i] = Affine(self.params["W" + i], self.params["b" + i])
        self.last_layer = SoftmaxWithLoss()

    def predict(self, x):
        for layer in self.layers.values():
            x = layer.forward(x)
        return x

    def loss(self, x, t):
        y = self.predict(x)
        decay = 0
        for i in range(1, self.hidden_layer_num + 2):
            decay += 0.5 * self.weight_decay_lambda * np.sum(self.params["W" + str(i)] ** 2)
        return self.last_layer.forward(y, t) + decay

    def accuracy(self, x, t):
        y = np.argmax(self.predict(x), axis=1)
        if t.ndim != 1:
            t = np.argmax(t, axis=1)
        return np.sum(y == t) / float(x.shape[0])

    def numerical_gradient(self, x, t):
        return {key: numerical_gradient(lambda _: self.loss(x, t), value) for key, value in self.params.items()}

    def gradient(self, x, t):
        self.loss(x, t)
        dout = self.last_layer.backward(1)
        for layer in reversed(list(self.layers.values())):
            dout = layer.backward(dout)
        grads = {}
        for i in range(1, self.hidden_layer_num + 2):
            affine = self.layers["Affine" + str(i)]
            grads["W" + str(i)] = affine.dW + self.weight_decay_lambda * affine.W
            grads["b" + str(i)] = affine.db
        return grads
