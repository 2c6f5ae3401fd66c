"""The accuracy of trained weights, then with weights and images rounded to float16 inside their own arrays."""

import os
import sys

sys.path.append(os.pardir)
import numpy as np
from dataset.mnist import load_mnist
from deep_convnet import DeepConvNet

_, (x_test, t_test) = load_mnist(flatten=False)
network = DeepConvNet()
network.load_params(sys.argv[1])
images = int(sys.argv[2]) if len(sys.argv) > 2 else 10000
x_test, t_test = x_test[:images], t_test[:images]
print("accuracy:" + str(network.accuracy(x_test, t_test)))
x_test = x_test.astype(np.float16)
for param in network.params.values():
    param[...] = param.astype(np.float16)
print("rounded:" + str(network.accuracy(x_test, t_test)))
