import os
import sys

sys.path.append(os.pardir)
import numpy as np
from common.multi_layer_net_extend import MultiLayerNetExtend
from common.optimizer import SGD
from dataset.mnist import load_mnist

(x_train, t_train), _ = load_mnist(normalize=True)
x_train, t_train = x_train[:1000], t_train[:1000]
np.random.seed(6)
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
for scale in (0.3, 0.03):
    shape = {"input_size": 784, "hidden_size_list": [100] * 5, "output_size": 10, "weight_init_std": scale}
    networks = [MultiLayerNetExtend(**shape, use_batchnorm=True), MultiLayerNetExtend(**shape)]
    optimizer = SGD(lr=0.01)
    for i in range(steps):
        batch = np.random.choice(x_train.shape[0], 100)
        x, t = x_train[batch], t_train[batch]
        for network in networks:
            optimizer.update(network.params, network.gradient(x, t))
        print("train loss:" + " ".join(str(network.loss(x, t, True)) for network in networks))
    print(" ".join(str(network.accuracy(x_train, t_train)) for network in networks))
