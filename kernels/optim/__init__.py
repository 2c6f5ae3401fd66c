"""sgd, momentum, nesterov, adagrad, rmsprop, adam: one step of an optimizer over a list of arrays, in place; and
unscale, which makes gradients of a scaled loss ready for one.

With parameter p, gradient g, learning rate lr and the states of the same shape (right sides: old values unless an
earlier line has replaced them)::

    sgd        p = p - lr * g
    momentum   v = momentum * v - lr * g                              (Polyak 1964)
               p = p + v
    nesterov   p = p + momentum**2 * v - (1 + momentum) * lr * g      (Bengio et al., arXiv:1212.0901, eq. 7)
               v = momentum * v - lr * g
    adagrad    h = h + g * g                                          (Duchi et al., JMLR 12, 2011)
               p = p - lr * g / (sqrt(h) + eps)
    rmsprop    h = decay_rate * h + (1 - decay_rate) * g * g          (Tieleman, Hinton 2012)
               p = p - lr * g / (sqrt(h) + eps)
    adam       m = m + (1 - beta1) * (g - m)                          (Kingma, Ba, arXiv:1412.6980, section 2:
               v = v + (1 - beta2) * (g * g - v)                       both bias corrections in the rate, eps
               p = p - rate * m / (sqrt(v) + eps)                      beside the uncorrected root)
               rate = lr * sqrt(1 - beta2**step) / (1 - beta1**step)

Nesterov moves p with the *old* v. An early printing of *Deep Learning from Scratch* has the two lines the other way
round; its later ones have this order, which is the paper's.

``sgd_step(problem, params, grads, lr, threads)``, ``momentum_step`` and ``nesterov_step(problem, params, grads, v, lr,
threads)``, ``adagrad_step`` and ``rmsprop_step(problem, params, grads, h, lr, threads)``, ``adam_step(problem, params,
grads, m, v, lr, step, threads)``

* *Problem*: ``shapes`` holds the shape of each parameter; ``storage`` is float32 or float64, and the one dtype of all
  parameters, gradients and states. ``attrs``: ``momentum``; ``eps``; ``decay_rate, eps``; ``beta1, beta2, eps``.
* ``params``, ``grads`` and each state are lists of one length; entry i of each has ``shapes[i]``. Every array may have
  its own strides (a gradient may be a transposed or broadcast view). Empty lists, empty and 0-d arrays are fine.
* ``lr`` is a one-element float64 array; ``step`` a one-element int64 array, 1 at the first call. They are read, not
  written: the caller counts.
* The scalars of a formula (``(1 + momentum) * lr``, ``1 - beta1``, ``rate``, ...) are worked out in float64 and rounded
  once to ``storage``; the arrays are then combined in ``storage``, in the order that the formulas show, except that a
  product and the sum it goes into may be one fused operation.
* Each element depends on its own p, g and states alone, so NaN and infinity stay where they are. The root of a
  negative state is NaN.
* Gradients are not written. No parameter or state may overlap another array of the call, or itself.

In mixed precision the loss is multiplied by a scale, so that small gradients do not vanish in float16 (Micikevicius et
al., arXiv:1710.03740, section 3.2). Before a step that is taken back::

    unscale    g = g * (1 / scale)
               overflow = 1 if some g was infinite or NaN before, else 0

``unscale_step(problem, grads, scale, overflow, threads)``

* *Problem*: ``shapes`` holds the shape of each gradient; ``storage`` is the one dtype of all gradients, any of the
  four. ``grads`` is a list of arrays with any strides, updated in place; it and they may be empty. None may overlap
  another or itself.
* ``scale`` is a one-element float64 array, read. Its reciprocal is worked out in float64 and rounded once to the
  compute dtype. Each product with that is rounded once, to ``storage``, in halves too.
* ``overflow`` is a one-element int32 array, written in any case. A product that becomes infinite does not count. What
  is infinite or NaN stays so by the product's rules; the sign and payload of a NaN are not part of the contract.
"""

from __future__ import annotations

from ..problem import Problem


def workspace(problem: Problem, isa: str, threads: int) -> int:
    """Bytes of scratch: a table with an entry of at most 1 KiB for each array."""
    return len(problem.shapes) * 1024 + 128
