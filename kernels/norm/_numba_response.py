"""local_response_norm in Numba; the contract is the folder's docstring."""

from __future__ import annotations

import math

import numpy as np

from .._common.jit import compute_dtype, inline, kernel, narrow, widen, zero
from .._common.tasks import parallel
from ..problem import Problem
from ._numba_layout import as_grids, as_lines
from .plan import response_plan


@inline
def _window_sums(v, step, taps, sums):
    """sums[i] = v[i] + v[i + step] + ... over the taps, from left to right."""
    for i in range(sums.size):
        sums[i] = v[i]
    for t in range(1, taps):
        part = v[t * step :]
        for i in range(sums.size):
            sums[i] += part[i]


@inline
def _powers(s, power, k, factor, beta, one):
    """s = k + factor * s, power = s ** -beta."""
    for i in range(s.size):
        s[i] = k + factor * s[i]
    if beta == 0.75:
        for i in range(s.size):
            root = math.sqrt(s[i])
            power[i] = one / (root * math.sqrt(root))
    else:
        for i in range(s.size):
            power[i] = s[i] ** -beta


@kernel
def _response(first, last, backward, together, pixels, before, after, k, factor, beta, slope, one, dout, x, out):
    """x is (1, 1, pixels, C) where the channels are ``together``, else (N, H, C, W).

    A task is a slab: ``pixels`` lines of channels, or one line of as many pixels for each channel. It lies in a buffer
    with margins of zeros on either side of its channels, which are ``step`` elements apart. (What is computed between
    lines of channels is not used.)
    """
    _, outer, lines, run = x.shape
    channels = run if together else lines
    groups = ((lines if together else run) + pixels - 1) // pixels
    most = pixels * (before + channels + after)
    padded, sums, powers = np.full(most, zero(x)), np.full(most, zero(x)), np.full(most, zero(x))
    for t in range(first, last):
        image, group = divmod(t, groups)
        a, b = divmod(image, outer)
        low, high, left, right = 0, lines, group * pixels, min(run, group * pixels + pixels)
        step, pitch = right - left, right - left
        if together:
            low, high, left, right = left, min(lines, group * pixels + pixels), 0, run
            step, pitch = 1, before + channels + after
        size = (high - low) * pitch + (0 if together else (before + after) * step)
        s = sums[: size - (before + after) * step]
        p = powers[: s.size]
        padded[:size] = zero(x)
        for q in range(low, high):
            at = before * step + (q - low) * pitch
            for i in range(right - left):
                v = widen(x[a, b, np.uintp(q), np.uintp(left + i)])
                padded[np.uintp(at + i)] = v * v
        _window_sums(padded, step, before + after + 1, s)
        _powers(s, p, k, factor, beta, one)
        if backward:  # channel c is in the windows of c - after ... c + before
            padded[:size] = zero(x)
            for q in range(low, high):
                at = (q - low) * pitch
                for i in range(right - left):
                    j, w = np.uintp(at + i), np.uintp(left + i)
                    seen = widen(dout[a, b, np.uintp(q), w]) * widen(x[a, b, np.uintp(q), w]) * p[j] / s[j]
                    padded[np.uintp(at + after * step + i)] = seen
            _window_sums(padded, step, before + after + 1, s)
        for q in range(low, high):
            at = (q - low) * pitch
            for i in range(right - left):
                j, w = np.uintp(at + i), np.uintp(left + i)
                v = widen(dout[a, b, np.uintp(q), w]) * p[j]
                if backward:
                    v -= slope * widen(x[a, b, np.uintp(q), w]) * s[j]
                out[a, b, np.uintp(q), w] = narrow(v, out)


def respond(problem: Problem, backward: bool, threads: int, *arrays: np.ndarray) -> None:
    """Either direction: dout (in forward x), x and what is written."""
    x = arrays[1]
    if x.size == 0:
        return
    size, alpha, beta, k = (problem.attr(name) for name in ("size", "alpha", "beta", "k"))
    before, after = (min(margin, x.shape[1] - 1) for margin in ((size - 1) // 2, size // 2))
    numbers = (k, alpha / size, beta, 2 * alpha * beta / size, 1)
    compute, pixels = compute_dtype(x), response_plan(problem).pixels
    channels = x.shape[1]
    lines = as_lines(*arrays)
    if lines is not None:
        views = [a.reshape(1, 1, -1, channels) for a in lines]
        tasks = -(-(x.size // channels) // pixels)
    else:
        views = [a.transpose(0, 2, 1, 3) for a in as_grids(*arrays)]
        n, height, _, width = views[0].shape
        pixels = min(pixels, width)
        tasks = n * height * -(-width // pixels)
    cost = (6.0 if beta == 0.75 else 15.0) * x.size
    parallel(_response, tasks, threads, cost, backward, lines is not None, pixels, before, after,
             *(compute.type(v) for v in numbers), *views)  # fmt: skip
