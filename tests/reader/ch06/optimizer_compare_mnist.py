import os
import sys

sys.path.append(os.pardir)
import matplotlib.pyplot as plt
import numpy as np
from common.multi_layer_net import MultiLayerNet
from common.optimizer import *
from common.util import smooth_curve
from dataset.mnist import load_mnist

(x_train, t_train), _ = load_mnist(normalize=True)
np.random.seed(5)
optimizers = {"SGD": SGD(), "Momentum": Momentum(), "Nesterov": Nesterov(), "AdaGrad": AdaGrad(),
              "RMSprop": RMSprop(lr=0.001), "Adam": Adam()}  # fmt: skip
networks, train_loss = {}, {}
for key in optimizers:
    networks[key] = MultiLayerNet(input_size=784, hidden_size_list=[100, 100, 100, 100], output_size=10)
    train_loss[key] = []
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
for i in range(steps):
    batch = np.random.choice(x_train.shape[0], 128)
    x, t = x_train[batch], t_train[batch]
    for key in optimizers:
        grads = networks[key].gradient(x, t)
        optimizers[key].update(networks[key].params, grads)
        train_loss[key].append(networks[key].loss(x, t))
    print("train loss:" + " ".join(str(losses[-1]) for losses in train_loss.values()))
for key in optimizers:
    plt.plot(np.arange(steps), smooth_curve(np.array(train_loss[key])), label=key)
plt.legend()
plt.show()
