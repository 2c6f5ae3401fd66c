from collections import OrderedDict

import numpy as np
from common.layers import *


class MultiLayerNetExtend:
    """Affine, batch normalisation, ReLU, dropout, as wanted."""

    def __init__(self, input_size, hidden_size_list, output_size, weight_init_std="relu", weight_decay_lambda=0,
                 use_dropout=False, dropout_ration=0.5, use_batchnorm=False):  # fmt: skip
        self.weight_decay_lambda = weight_decay_lambda
        self.use_dropout, self.use_batchnorm = use_dropout, use_batchnorm
        sizes = [input_size, *hidden_size_list, output_size]
        self.last = len(hidden_size_list) + 1
        self.params = {}
        self.layers = OrderedDict()
        for i in range(1, self.last + 1):
            scale = np.sqrt(2.0 / sizes[i - 1]) if weight_init_std == "relu" else weight_init_std
            self.params["W" + str(i)] = scale * np.random.randn(sizes[i - 1], sizes[i])
            self.params["b" + str(i)] = np.zeros(sizes[i])
            self.layers["Affine" + str(i)] = Affine(self.params["W" + str(i)], self.params["b" + str(i)])
            if i == self.last:
                break
            if use_batchnorm:
                self.params["gamma" + str(i)] = np.ones(sizes[i])
                self.params["beta" + str(i)] = np.zeros(sizes[i])
                norm = BatchNormalization(self.params["gamma" + str(i)], self.params["beta" + str(i)])
                self.layers["BatchNorm" + str(i)] = norm
            self.layers["Activation" + str(i)] = Relu()
            if use_dropout:
                self.layers["Dropout" + str(i)] = Dropout(dropout_ration)
        self.last_layer = SoftmaxWithLoss()

    def predict(self, x, train_flg=False):
        for key, layer in self.layers.items():
            x = layer.forward(x, train_flg) if "Dropout" in key or "BatchNorm" in key else layer.forward(x)
        return x

    def loss(self, x, t, train_flg=False):
        y = self.predict(x, train_flg)
        decay = 0
        for i in range(1, self.last + 1):
            decay += 0.5 * self.weight_decay_lambda * np.sum(self.params["W" + str(i)] ** 2)
        return self.last_layer.forward(y, t) + decay

    def accuracy(self, X, T):
        y = np.argmax(self.predict(X, train_flg=False), axis=1)
        if T.ndim != 1:
            T = np.argmax(T, axis=1)
        return np.sum(y == T) / float(X.shape[0])

    def gradient(self, x, t):
        self.loss(x, t, train_flg=True)
        dout = self.last_layer.backward(1)
        for layer in reversed(list(self.layers.values())):
            dout = layer.backward(dout)
        grads = {}
        for i in range(1, self.last + 1):
            affine = self.layers["Affine" + str(i)]
            grads["W" + str(i)] = affine.dW + self.weight_decay_lambda * affine.W
            grads["b" + str(i)] = affine.db
            if self.use_batchnorm and i != self.last:
                grads["gamma" + str(i)] = self.layers["BatchNorm" + str(i)].dgamma
                grads["beta" + str(i)] = self.layers["BatchNorm" + str(i)].dbeta
        return grads
