"""Batch and local response normalisation one number at a time: what the NumPy reference is checked against.

Gradients are sums over the Jacobian, entry by entry, so that they share no algebra with the reference.
"""

from __future__ import annotations

import math

import numpy as np


def _channel_values(x: np.ndarray, c: int) -> list[tuple[tuple[int, ...], float]]:
    """Every (index, value) of channel ``c``."""
    return [(i, float(x[i])) for i in np.ndindex(*x.shape) if i[1] == c]


def batch_norm_statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean, biased variance) of every channel, from exactly rounded sums."""
    mean, var = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for c in range(x.shape[1]):
        values = [v for _, v in _channel_values(x, c)]
        mean[c] = math.fsum(values) / len(values)
        var[c] = math.fsum((v - mean[c]) ** 2 for v in values) / len(values)
    return mean, var


def batch_norm_apply(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, var: np.ndarray, eps: float
) -> np.ndarray:
    """gamma * (x - mean) / sqrt(var + eps) + beta."""
    out = np.zeros(x.shape)
    for c in range(x.shape[1]):
        for i, v in _channel_values(x, c):
            out[i] = float(gamma[c]) * (v - mean[c]) / math.sqrt(var[c] + eps) + float(beta[c])
    return out


def batch_norm_gradients(
    dout: np.ndarray, x: np.ndarray, gamma: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dx, dgamma, dbeta); d out_j / d x_i = gamma / std * (delta_ij - 1 / M - n_i * n_j / M), n the normalised x."""
    dx, dgamma, dbeta = np.zeros(x.shape), np.zeros(x.shape[1]), np.zeros(x.shape[1])
    mean, var = batch_norm_statistics(x)
    for c in range(x.shape[1]):
        std = math.sqrt(var[c] + eps)
        entries = [(i, (v - mean[c]) / std) for i, v in _channel_values(x, c)]
        for i, ni in entries:
            dgamma[c] += float(dout[i]) * ni
            dbeta[c] += float(dout[i])
            for j, nj in entries:
                jacobian = float(gamma[c]) / std * ((1.0 if i == j else 0.0) - (1 + ni * nj) / len(entries))
                dx[i] += float(dout[j]) * jacobian
    return dx, dgamma, dbeta


def _window(c: int, channels: int, size: int) -> range:
    """ONNX's region: max(0, c - floor((size - 1) / 2)) <= j <= min(C - 1, c + ceil((size - 1) / 2))."""
    first = max(0, c - math.floor((size - 1) / 2))
    last = min(channels - 1, c + math.ceil((size - 1) / 2))
    return range(first, last + 1)


def _response_scale(x: np.ndarray, n: int, c: int, h: int, w: int, size: int, alpha: float, k: float) -> float:
    return k + alpha / size * sum(float(x[n, j, h, w]) ** 2 for j in _window(c, x.shape[1], size))


def local_response_norm(x: np.ndarray, size: int, alpha: float, beta: float, k: float) -> np.ndarray:
    """x / (k + alpha / size * sum of the window's squares) ** beta."""
    out = np.zeros(x.shape)
    for n, c, h, w in np.ndindex(*x.shape):
        out[n, c, h, w] = float(x[n, c, h, w]) / _response_scale(x, n, c, h, w, size, alpha, k) ** beta
    return out


def local_response_norm_gradient(
    dout: np.ndarray, x: np.ndarray, size: int, alpha: float, beta: float, k: float
) -> np.ndarray:
    """Every out_j scatters d out_j / d x_c = delta_jc s_j^-beta - 2 alpha beta / size x_j x_c s_j^(-beta - 1)."""
    dx = np.zeros(x.shape)
    for n, j, h, w in np.ndindex(*x.shape):
        s = _response_scale(x, n, j, h, w, size, alpha, k)
        d, xj = float(dout[n, j, h, w]), float(x[n, j, h, w])
        dx[n, j, h, w] += d * s**-beta
        for c in _window(j, x.shape[1], size):
            dx[n, c, h, w] -= d * xj * float(x[n, c, h, w]) * 2 * alpha * beta / size * s ** (-beta - 1)
    return dx
