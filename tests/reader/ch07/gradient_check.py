import numpy as np
from simple_convnet import SimpleConvNet

np.random.seed(9)
network = SimpleConvNet(input_dim=(1, 10, 10), conv_param={"filter_num": 3, "filter_size": 3, "pad": 0, "stride": 1},
                        hidden_size=6, output_size=10, weight_init_std=0.1)  # fmt: skip
x, t = np.random.rand(100).reshape((1, 1, 10, 10)), np.array([1])
numerical, backprop = network.numerical_gradient(x, t), network.gradient(x, t)
for key in numerical:
    print(key, bool(np.average(np.abs(backprop[key] - numerical[key])) < 1e-5))
