"""Small seeded runs of a class or function: what comes out of the script's own and of fastdl's must be the same.

A probe takes the class or function and returns named arrays. It may use ``np.random``: whoever runs it seeds that
before, and restores the state of the script's stream afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Found = dict[str, Any]
Probe = Callable[[Any], Found]


def _rng() -> np.random.RandomState:
    return np.random.RandomState(1)


def _state(layer: Any) -> Found:
    """What scripts can read of a layer. (Those of another book have lists of parameters where this one has none.)"""
    public = {name: getattr(layer, name) for name in dir(layer) if not name.startswith("_")}
    return {f"attribute {name}": value for name, value in public.items() if not callable(value)}


def _passes(layer: Any, x: np.ndarray, **kwargs: Any) -> Found:
    """Forward, backward, and the attributes that they leave."""
    out = layer.forward(x, **kwargs)
    dx = layer.backward(_rng().randn(*out.shape))
    return {"forward": out, "backward": dx, **_state(layer)}


def _images() -> np.ndarray:
    return _rng().randn(2, 3, 6, 7)


def convolution(cls: Any) -> Found:
    """Two geometries; float32 in, float64 out."""
    rng = _rng()
    found: Found = {}
    for n, (stride, pad) in enumerate(((1, 1), (2, 0))):
        layer = cls(rng.randn(4, 3, 3, 2), rng.randn(4), stride, pad)
        x = _images() if n else _images().astype(np.float32)
        found |= {f"{n} {k}": v for k, v in _passes(layer, x).items()}
    return found


def pooling(cls: Any) -> Found:
    """With equal elements, of which the first wins."""
    x = np.round(_images())
    return {
        f"{n} {k}": v
        for n, layer in enumerate((cls(2, 2, 2), cls(3, 2, stride=1), cls(2, 2)))
        for k, v in _passes(layer, x).items()
    }


def relu(cls: Any) -> Found:
    """With a zero, in two dimensions and four."""
    x = _images()
    x[0, 0, 0, :2] = 0.0, -0.0
    return _passes(cls(), x) | {f"2-D {k}": v for k, v in _passes(cls(), x[0, 0].copy()).items()}


def sigmoid(cls: Any) -> Found:
    """Small and large numbers."""
    return _passes(cls(), 5 * _rng().randn(4, 5))


def affine(cls: Any) -> Found:
    """Two dimensions and four."""
    rng = _rng()
    first, second = cls(rng.randn(5, 3), rng.randn(3)), cls(rng.randn(126, 4), rng.randn(4))
    found = _passes(first, rng.randn(4, 5))
    return found | {f"4-D {k}": v for k, v in _passes(second, _images()).items()}


def softmax_with_loss(cls: Any) -> Found:
    """Labels as integers and one-hot."""
    found: Found = {}
    scores = 3 * _rng().randn(4, 5)
    labels = np.array([0, 4, 2, 2])
    for kind, t in (("integers", labels), ("one-hot", np.eye(5)[labels])):
        layer = cls()
        found |= {f"{kind} forward": layer.forward(scores, t), f"{kind} backward": layer.backward()}
        found |= {f"{kind} {k}": v for k, v in _state(layer).items()}
    return found


def dropout(cls: Any) -> Found:
    """The mask comes from np.random, and a prediction scales."""
    x = _rng().randn(5, 6)
    found = _passes(cls(0.3), x)
    default = {f"default {k}": v for k, v in _passes(cls(), x).items()}
    return found | default | {"prediction": cls(0.3).forward(x, train_flg=False)}


def batch_normalization(cls: Any) -> Found:
    """Two steps and a prediction, in two dimensions and four."""
    found: Found = {}
    for name, x in (("2-D", _rng().randn(6, 5)), ("4-D", _images())):
        size = x[0].size
        layer = cls(_rng().rand(size) + 0.5, _rng().randn(size))
        for step in range(2):
            found |= {f"{name} {step} {k}": v for k, v in _passes(layer, x + step).items()}
        found[f"{name} prediction"] = layer.forward(x, train_flg=False)
    return found


def function(function: Any) -> Found:
    """Numbers, small and large arrays, in both precisions."""
    rng = _rng()
    inputs = (
        0.5,
        np.array(-2),
        rng.randn(7),
        rng.randn(4, 5),
        3 * rng.randn(300, 10),
        rng.randn(50, 60).astype(np.float32),
    )
    return {f"of {getattr(x, 'shape', 'a number')}": function(x) for x in inputs}


def im2col(function: Any) -> Found:
    """Default and other geometries; the result is float64 whatever comes in."""
    x = _images()
    return {"default": function(x.astype(np.float32), 3, 2), "other": function(x, 2, 3, 2, 1)}


def col2im(function: Any) -> Found:
    """The sums of overlapping windows."""
    rng = _rng()
    return {
        "default": function(rng.randn(2 * 4 * 6, 18), (2, 3, 6, 7), 3, 2),
        "other": function(rng.randn(2 * 4 * 4, 18), (2, 3, 6, 7), 2, 3, 2, 1),
    }


def optimizer(cls: Any) -> Found:
    """Three updates, in place, with a gradient that is 0 somewhere."""
    rng = _rng()
    params = {"W1": rng.randn(3, 4), "b1": rng.randn(4)}
    kept, rule = dict(params), cls(lr=0.05)
    found: Found = {}
    for step in range(3):
        grads = {name: rng.randn(*a.shape) * (rng.rand(*a.shape) > 0.2) for name, a in params.items()}
        rule.update(params, grads)
        found |= {f"{step} {name}": a.copy() for name, a in params.items()}
        found |= {f"{step} {name} in place": params[name] is kept[name] for name in params}
    defaults = cls()
    return found | {name: getattr(defaults, name) for name in ("lr", "momentum", "decay_rate", "beta1", "beta2")
                    if hasattr(defaults, name)}  # fmt: skip
