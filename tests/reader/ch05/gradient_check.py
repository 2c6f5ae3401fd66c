import os
import sys

sys.path.append(os.pardir)
import numpy as np
from dataset.mnist import load_mnist
from two_layer_net import TwoLayerNet

np.random.seed(4)
(x_train, t_train), _ = load_mnist(normalize=True, one_hot_label=True)
x, t = x_train[:3, 320:350], t_train[:3]
network = TwoLayerNet(input_size=30, hidden_size=8, output_size=10, weight_init_std=0.3)
numerical, backprop = network.numerical_gradient(x, t), network.gradient(x, t)
for key in numerical:
    print(key, bool(np.average(np.abs(backprop[key] - numerical[key])) < 1e-5))
