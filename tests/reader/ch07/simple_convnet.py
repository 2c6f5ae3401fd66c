import os
import pickle
import sys

sys.path.append(os.pardir)
from collections import OrderedDict

import numpy as np
from common.gradient import numerical_gradient
from common.layers import *


class SimpleConvNet:
    """conv relu pool affine relu affine softmax."""

    def __init__(self, input_dim=(1, 28, 28), conv_param=None, hidden_size=100, output_size=10, weight_init_std=0.01):
        conv_param = conv_param or {"filter_num": 30, "filter_size": 5, "pad": 0, "stride": 1}
        filters, size = conv_param["filter_num"], conv_param["filter_size"]
        pad, stride = conv_param["pad"], conv_param["stride"]
        conv_size = (input_dim[1] - size + 2 * pad) / stride + 1
        pool_size = int(filters * (conv_size / 2) * (conv_size / 2))
        self.params = {}
        self.params["W1"] = weight_init_std * np.random.randn(filters, input_dim[0], size, size)
        self.params["b1"] = np.zeros(filters)
        self.params["W2"] = weight_init_std * np.random.randn(pool_size, hidden_size)
        self.params["b2"] = np.zeros(hidden_size)
        self.params["W3"] = weight_init_std * np.random.randn(hidden_size, output_size)
        self.params["b3"] = np.zeros(output_size)
        self.layers = OrderedDict()
        self.layers["Conv1"] = Convolution(self.params["W1"], self.params["b1"], stride, pad)
        self.layers["Relu1"] = Relu()
        self.layers["Pool1"] = Pooling(pool_h=2, pool_w=2, stride=2)
        self.layers["Affine1"] = Affine(self.params["W2"], self.params["b2"])
        self.layers["Relu2"] = Relu()
        self.layers["Affine2"] = Affine(self.params["W3"], self.params["b3"])
        self.last_layer = SoftmaxWithLoss()

    def predict(self, x):
        for layer in self.layers.values():
            x = layer.forward(x)
        return x

    def loss(self, x, t):
        return self.last_layer.forward(self.predict(x), t)

    def accuracy(self, x, t, batch_size=100):
        if t.ndim != 1:
            t = np.argmax(t, axis=1)
        right = 0.0
        for i in range(int(x.shape[0] / batch_size)):
            rows = slice(i * batch_size, (i + 1) * batch_size)
            right += np.sum(np.argmax(self.predict(x[rows]), axis=1) == t[rows])
        return right / x.shape[0]

    def numerical_gradient(self, x, t):
        return {key: numerical_gradient(lambda w: self.loss(x, t), value) for key, value in self.params.items()}

    def gradient(self, x, t):
        self.loss(x, t)
        dout = self.last_layer.backward(1)
        for layer in reversed(list(self.layers.values())):
            dout = layer.backward(dout)
        grads = {}
        for i, key in enumerate(("Conv1", "Affine1", "Affine2"), 1):
            grads["W" + str(i)], grads["b" + str(i)] = self.layers[key].dW, self.layers[key].db
        return grads

    def save_params(self, file_name="params.pkl"):
        with open(file_name, "wb") as file:
            pickle.dump(dict(self.params), file)

    def load_params(self, file_name="params.pkl"):
        with open(file_name, "rb") as file:
            for key, value in pickle.load(file).items():
                self.params[key] = value
        for i, key in enumerate(("Conv1", "Affine1", "Affine2"), 1):
            self.layers[key].W, self.layers[key].b = self.params["W" + str(i)], self.params["b" + str(i)]
