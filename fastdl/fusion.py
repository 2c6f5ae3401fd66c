"""Neighbouring layers of a network that share a kernel: the same bits, in fewer passes over memory.

======== ==================================== ===================================================================
pass     neighbours                           what happens
======== ==================================== ===================================================================
forward  Convolution or Affine, Relu          the ReLU works on the sums on their way to memory
forward  Convolution, Relu, 2x2 Pooling       so does the pooling, where Winograd's kernels compute the convolution
backward Relu, Convolution                    the gradient by the convolution's input is 0 where that input is <= 0
backward Relu, Pooling, another fastdl layer  a window whose largest element is <= 0 passes nothing on
======== ==================================== ===================================================================

In training the second pattern stores the ReLU's output as well, for it is ``Relu.out`` and the ``x`` of the pooling;
under ``fastdl.inference()`` nothing is stored but the pooling's output, a quarter.

Nobody can tell but by the clock. Afterwards each layer has the attributes that its own ``forward`` and ``backward``
would have left: ``x``, ``out``, ``mask``, ``indices``, ``dW``, ``db``. A layer takes part only if it runs the functions
of its class below, neither overridden in a subclass nor replaced in the class or the instance, and a backward step only
if the data have gone that way: the ReLU's output *is* the array that the next layer has kept. Layers called by hand, a
user's own layer in between, and a layer that stands twice in the list therefore work as they always did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from . import backend, blocks
from ._array import copied
from .layers import (
    Affine,
    AveragePooling,
    BatchNormalization,
    Convolution,
    Layer,
    LocalResponseNormalization,
    Pooling,
    Relu,
    Relu6,
    Sigmoid,
    Tanh,
)

_CLASSES = (
    Affine,
    AveragePooling,
    BatchNormalization,
    Convolution,
    LocalResponseNormalization,
    Pooling,
    Relu,
    Relu6,
    Sigmoid,
    Tanh,
)  # none of them hands its input on or writes into it
_KINDS: dict[tuple[Any, Any], type] = {}


def recognise() -> None:
    """Takes the functions that the classes have now for their own: a profile puts clocks around them."""
    _KINDS.clear()
    _KINDS.update({(kind.forward, kind.backward): kind for kind in _CLASSES})


recognise()


def _kind(layer: Any) -> type | None:
    """The class whose passes ``layer`` runs, or None: those of somebody else."""
    own = type(layer)
    kind = _KINDS.get((getattr(own, "forward", None), getattr(own, "backward", None)))
    return kind if kind is not None and _unpatched(layer) else None


def _unpatched(layer: Any) -> bool:
    return "forward" not in layer.__dict__ and "backward" not in layer.__dict__


def runs(layer: Any, kind: type) -> bool:
    """Whether ``layer`` is a ``kind`` and runs its passes, not those of a subclass or of an instance."""
    own = type(layer)
    return isinstance(layer, kind) and _functions(own) == _functions(kind) and _unpatched(layer)


def _functions(kind: Any) -> tuple[Any, Any]:
    return kind.forward, kind.backward


# ---- forward --------------------------------------------------------------------------------------------------------


def _with_relu(layers: Sequence[Any], x: np.ndarray, keep: bool) -> np.ndarray:
    """Convolution or Affine, and the Relu after it."""
    first, relu = layers
    out: np.ndarray = first._forward(x, relu=True)
    relu.out = None if backend.is_inference() else out
    return out


def _with_pool(layers: Sequence[Any], x: np.ndarray, keep: bool) -> np.ndarray | None:
    """Convolution, Relu and Pooling; None where they cannot be one pass."""
    first, relu, pool = layers
    found = first._forward_pooled(x) if pool._halves() else None
    if found is None:
        return None
    relu.out, out, indices = found
    pool._keep(relu.out, indices, None if indices is None or not keep else out)
    return out  # type: ignore[no-any-return]


#: Runs neighbours as one: their layers, the input, and whether a Pooling among them keeps its output (see ``_masks``).
_Run = Callable[[Sequence[Any], np.ndarray, bool], np.ndarray | None]

#: By the first of the neighbours. The first pattern that fits, and whose function does not return None, is taken.
_FORWARD: dict[type, tuple[tuple[tuple[type, ...], _Run], ...]] = {
    Affine: (((Affine, Relu), _with_relu),),
    Convolution: (((Convolution, Relu, Pooling), _with_pool), ((Convolution, Relu), _with_relu)),
}


def forward(layers: Sequence[Any], x: np.ndarray, train_flg: bool) -> np.ndarray:
    """The output of the last layer."""
    kinds = [_kind(layer) for layer in layers]
    if not train_flg and backend.is_inference() and (chain := blocks.chain(layers, kinds, x)):
        count = chain.layers
        x = blocks.run(chain, x, lambda part: _forward(layers[:count], kinds[:count], part, False))
        layers, kinds = layers[count:], kinds[count:]
    return _forward(layers, kinds, x, train_flg)


def _forward(layers: Sequence[Any], kinds: Sequence[type | None], x: np.ndarray, train_flg: bool) -> np.ndarray:
    at = 0
    while at < len(layers):
        kind, layer = kinds[at], layers[at]
        for pattern, run in _FORWARD.get(kind, ()) if kind else ():
            behind = at + len(pattern)
            if tuple(kinds[at:behind]) != pattern:
                continue
            out = run(layers[at:behind], x, _masks(kinds, behind - 1))
            if out is not None:
                x, at = out, behind
                break
        else:
            if kind is Pooling:
                x = layer._forward(x, keep=_masks(kinds, at))
            elif getattr(layer, "takes_train_flg", False):
                x = layer.forward(x, train_flg)
            else:
                x = layer.forward(x)
            at += 1
    return x


def _masks(kinds: Sequence[type | None], at: int) -> bool:
    """Whether the output of the pooling ``at`` can tell the mask of the ReLU before it when it comes to the gradient.

    For that nobody may have written into the output meanwhile, as users may into what they get: the next layer is one
    of ``_CLASSES``.
    """
    return 0 < at < len(kinds) - 1 and kinds[at - 1] is Relu and kinds[at + 1] is not None


# ---- backward -------------------------------------------------------------------------------------------------------

#: How many turns each layer (its id) still has in the backward pass that releases; None where none does.
_turns: ContextVar[Counter[int] | None] = ContextVar("fastdl.turns", default=None)


@contextmanager
def releasing(layers: Iterable[Layer]) -> Iterator[None]:
    """In a backward pass inside the block every one of ``layers`` gives its last gradients up before its turn and its
    activations after it; a layer that stands there several times, after its last turn.

    A step of VGG-16 (batch 16) then takes 3,073 MiB over the idle process, and 3,941 without. That the layers inside
    containers take part is why this is a setting of the context: it passes through their ``backward``.
    """
    token = _turns.set(Counter(map(id, layers)))
    try:
        yield
    finally:
        _turns.reset(token)


def backward(layers: Sequence[Any], dout: np.ndarray, need_dx: bool, keep_dout: bool = False) -> np.ndarray | None:
    """The gradient by the input of the first layer, or None where it is not needed and the layer can do without.

    With ``keep_dout`` nobody writes into ``dout``: others read it too.
    """
    kinds = [_kind(layer) for layer in layers]
    if keep_dout and layers and kinds[-1] is None:  # it may write into what it gets, or hand it on to one that does
        dout = copied(dout)
    turns = _turns.get()
    at = last = len(layers) - 1
    while at >= 0:
        layer, before = layers[at], at - 1
        if turns and turns[id(layer)]:
            _forget(layer, [f"d{name}" for name in layer.parameters])
        fused = at > 0 and kinds[before] is Relu and _reads(layer, kinds[at], layers[before])
        if fused:
            dout = layer._backward(dout, need_dx=True, relu=True)
        elif kinds[at] is Relu:
            dout = layer._backward(dout, keep_dout=keep_dout and at == last)
        elif at == 0 and not need_dx and getattr(layer, "can_skip_dx", False):
            dout = layer.backward(dout, need_dx=False)
        else:
            dout = layer.backward(dout)
        for done in (at, before) if fused else (at,):
            if turns and turns[id(layers[done])]:
                turns[id(layers[done])] -= 1
                if not turns[id(layers[done])]:
                    kept_output = ("_out",) if kinds[done] is Pooling else ()
                    _forget(layers[done], (*layers[done].activations, *kept_output))
        at -= 2 if fused else 1
    return dout


def _forget(layer: Layer, names: Iterable[str]) -> None:
    for name in names:
        setattr(layer, name, None)


def _reads(layer: Any, kind: type | None, relu: Relu) -> bool:
    """Whether ``layer`` can apply the mask of ``relu``: its last input was the ReLU's last output."""
    if kind is Pooling and layer._out is None:
        return False
    return kind in (Convolution, Pooling) and relu.out is not None and layer.x is relu.out
