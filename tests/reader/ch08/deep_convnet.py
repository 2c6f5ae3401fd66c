import os
import pickle
import sys

sys.path.append(os.pardir)

import numpy as np
from common.layers import *


class DeepConvNet:
    """conv relu conv relu pool, three times, two affine layers with dropout."""

    def __init__(self, channels=(16, 16, 32, 32, 64, 64), pads=(1, 1, 1, 2, 1, 1), hidden_size=50):
        fan_in = [9 * c for c in (1, *channels[:5])] + [channels[5] * 16, hidden_size]
        scales = np.sqrt(2.0 / np.array(fan_in))
        self.params = {}
        before = 1
        for i, c in enumerate(channels):
            self.params["W" + str(i + 1)] = scales[i] * np.random.randn(c, before, 3, 3)
            self.params["b" + str(i + 1)] = np.zeros(c)
            before = c
        self.params["W7"] = scales[6] * np.random.randn(before * 16, hidden_size)
        self.params["b7"] = np.zeros(hidden_size)
        self.params["W8"] = scales[7] * np.random.randn(hidden_size, 10)
        self.params["b8"] = np.zeros(10)

        self.layers = []
        for i in range(6):
            self.layers.append(Convolution(self.params["W" + str(i + 1)], self.params["b" + str(i + 1)], 1, pads[i]))
            self.layers.append(Relu())
            if i % 2:
                self.layers.append(Pooling(pool_h=2, pool_w=2, stride=2))
        self.layers.append(Affine(self.params["W7"], self.params["b7"]))
        self.layers.append(Relu())
        self.layers.append(Dropout(0.5))
        self.layers.append(Affine(self.params["W8"], self.params["b8"]))
        self.layers.append(Dropout(0.5))
        self.last_layer = SoftmaxWithLoss()

    def predict(self, x, train_flg=False):
        for layer in self.layers:
            if isinstance(layer, Dropout):
                x = layer.forward(x, train_flg)
            else:
                x = layer.forward(x)
        return x

    def loss(self, x, t):
        return self.last_layer.forward(self.predict(x, train_flg=True), t)

    def accuracy(self, x, t, batch_size=100):
        right = 0
        for i in range(0, x.shape[0], batch_size):
            right += np.sum(np.argmax(self.predict(x[i : i + batch_size]), axis=1) == t[i : i + batch_size])
        return right / x.shape[0]

    def gradient(self, x, t):
        self.loss(x, t)
        dout = self.last_layer.backward(1)
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        grads = {}
        numbered = [layer for layer in self.layers if isinstance(layer, (Convolution, Affine))]
        for i, layer in enumerate(numbered):
            grads["W" + str(i + 1)] = layer.dW
            grads["b" + str(i + 1)] = layer.db
        return grads

    def load_params(self, file_name):
        with open(file_name, "rb") as file:
            for key, value in pickle.load(file).items():
                self.params[key] = value
        numbered = [layer for layer in self.layers if isinstance(layer, (Convolution, Affine))]
        for i, layer in enumerate(numbered):
            layer.W = self.params["W" + str(i + 1)]
            layer.b = self.params["b" + str(i + 1)]
