import os
import sys

sys.path.append(os.pardir)
import numpy as np
from common.trainer import Trainer
from dataset.mnist import load_mnist
from deep_convnet import DeepConvNet

(x_train, t_train), (x_test, t_test) = load_mnist(flatten=False)
np.random.seed(0)
network = DeepConvNet()
trainer = Trainer(network, x_train, t_train, x_test, t_test, epochs=20, mini_batch_size=100, optimizer="Adam",
                  optimizer_param={"lr": 0.001}, evaluate_sample_num_per_epoch=1000)  # fmt: skip
if len(sys.argv) > 1:
    trainer.max_iter = int(sys.argv[1])
trainer.train()
