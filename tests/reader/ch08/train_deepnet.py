import os
import sys

sys.path.append(os.pardir)
import numpy as np
from common.optimizer import Adam
from dataset.patterns import load_patterns
from deep_convnet import DeepConvNet

steps, batch_size = int(sys.argv[1]), int(sys.argv[2])
x, t = load_patterns(flatten=False)
np.random.seed(0)
network = DeepConvNet()
optimizer = Adam(lr=0.001)
for i in range(steps):
    batch = np.random.choice(x.shape[0], batch_size)
    grads = network.gradient(x[batch], t[batch])
    optimizer.update(network.params, grads)
    print("train loss:" + repr(float(network.loss(x[batch], t[batch]))))
print("accuracy:" + repr(float(network.accuracy(x, t))))
print(network.layers[0].W is network.params["W1"], network.layers[0].col.dtype, network.layers[4].arg_max.shape)
