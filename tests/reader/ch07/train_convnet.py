import os
import sys

sys.path.append(os.pardir)
import matplotlib.pyplot as plt
import numpy as np
from common.trainer import Trainer
from dataset.mnist import load_mnist
from simple_convnet import SimpleConvNet

(x_train, t_train), (x_test, t_test) = load_mnist(flatten=False)
x_train, t_train = x_train[:5000], t_train[:5000]
x_test, t_test = x_test[:1000], t_test[:1000]
np.random.seed(10)
network = SimpleConvNet(hidden_size=100, output_size=10, weight_init_std=0.01)
trainer = Trainer(network, x_train, t_train, x_test, t_test, epochs=int(sys.argv[1]) if len(sys.argv) > 1 else 20,
                  mini_batch_size=100, optimizer="Adam", optimizer_param={"lr": 0.001},
                  evaluate_sample_num_per_epoch=1000)  # fmt: skip
trainer.train()
if len(sys.argv) > 2:
    network.save_params(sys.argv[2])
    again = SimpleConvNet(hidden_size=100, output_size=10, weight_init_std=0.01)
    again.load_params(sys.argv[2])
    print(bool(again.accuracy(x_test, t_test) == network.accuracy(x_test, t_test)))
plt.plot(np.arange(trainer.current_epoch), trainer.train_acc_list, marker="o", label="train")
plt.plot(np.arange(trainer.current_epoch), trainer.test_acc_list, marker="s", label="test")
plt.show()
