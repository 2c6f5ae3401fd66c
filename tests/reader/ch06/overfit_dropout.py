import os
import sys

sys.path.append(os.pardir)
import numpy as np
from common.multi_layer_net_extend import MultiLayerNetExtend
from common.trainer import Trainer
from dataset.mnist import load_mnist

(x_train, t_train), (x_test, t_test) = load_mnist(normalize=True)
x_train, t_train = x_train[:300], t_train[:300]
np.random.seed(7)
network = MultiLayerNetExtend(input_size=784, hidden_size_list=[100] * 6, output_size=10, weight_decay_lambda=0.01,
                              use_dropout=True, dropout_ration=0.2)  # fmt: skip
trainer = Trainer(network, x_train, t_train, x_test, t_test, epochs=int(sys.argv[1]) if len(sys.argv) > 1 else 301,
                  mini_batch_size=100, optimizer="sgd", optimizer_param={"lr": 0.01})  # fmt: skip
trainer.train()
print(trainer.train_acc_list[-1], np.random.rand())
