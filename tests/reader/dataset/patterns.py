"""Ten patterns with noise: images that need no file."""

import numpy as np


def load_patterns(n=400, flatten=True):
    rng = np.random.RandomState(7)
    patterns = rng.rand(10, 1, 28, 28)
    t = rng.randint(0, 10, n)
    x = (0.6 * patterns[t] + 0.4 * rng.rand(n, 1, 28, 28)).astype(np.float32)
    return x.reshape(n, -1) if flatten else x, t
