import numpy as np


def numerical_gradient(f, x):
    h = 1e-4
    grad = np.zeros_like(x)
    places = np.nditer(x, flags=["multi_index"], op_flags=["readwrite"])
    while not places.finished:
        place = places.multi_index
        before = x[place]
        x[place] = float(before) + h
        above = f(x)
        x[place] = before - h
        below = f(x)
        grad[place] = (above - below) / (2 * h)
        x[place] = before
        places.iternext()
    return grad
