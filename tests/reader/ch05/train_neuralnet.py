import os
import sys

sys.path.append(os.pardir)
import numpy as np
from dataset.mnist import load_mnist
from two_layer_net import TwoLayerNet

(x_train, t_train), (x_test, t_test) = load_mnist(normalize=True, one_hot_label=True)
np.random.seed(1)
network = TwoLayerNet(input_size=784, hidden_size=50, output_size=10)
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 10000
for i in range(steps):
    batch = np.random.choice(x_train.shape[0], 100)
    x, t = x_train[batch], t_train[batch]
    grad = network.gradient(x, t)
    for key in ("W1", "b1", "W2", "b2"):
        network.params[key] -= 0.1 * grad[key]
    print("train loss:" + str(network.loss(x, t)))
    if i % 600 == 0:
        print(network.accuracy(x_train, t_train), network.accuracy(x_test, t_test))
