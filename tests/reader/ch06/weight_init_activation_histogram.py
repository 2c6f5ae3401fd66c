import matplotlib.pyplot as plt
import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


np.random.seed(8)
x = np.random.randn(1000, 100)
activations = {}
for i in range(5):
    x = activations[i - 1] if i else x
    activations[i] = sigmoid(np.dot(x, np.random.randn(100, 100)))
for i, a in activations.items():
    plt.subplot(1, len(activations), i + 1)
    counts, _, _ = plt.hist(a.flatten(), 30, range=(0, 1))
    print(counts.astype(int).tolist())
plt.show()
