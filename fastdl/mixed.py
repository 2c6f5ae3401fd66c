"""Mixed precision: a copy of the network that computes in half, and float32 parameters that training changes.

A step rounds the parameters to float16 or bfloat16, runs forward and backward passes in it (sums, batch statistics and
the loss are in float32 all the same), and updates the float32 parameters with the gradients (Micikevicius et al. 2018,
Mixed Precision Training): updates that are small beside their weights would be lost in half.

Small gradients would be lost too, in float16, whose smallest number is 6e-8. The loss is multiplied by a scale for that
reason, and the gradients in float32 divided by it. A dynamic scale is as large as the gradients allow: it starts at
``FIRST_SCALE``, is halved when a gradient overflows, the step then being left out, and doubled after ``PATIENCE`` steps
without that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import functional, network
from ._array import is_device, prepare
from .kernels.registry import KernelError
from .layers import SoftmaxWithLoss
from .optim import unscale

DTYPES = ("float16", "bfloat16")
FIRST_SCALE = 2.0**16
#: Good steps before the scale is doubled.
PATIENCE = 2000
#: Gradients that overflow unscaled are none that a scale could save.
SMALLEST_SCALE = 1.0

LossScale = float | str | None


class MixedPrecision:
    """The passes of a training of ``master`` in ``dtype``.

    ``network`` is the copy that computes, ``scale`` what the loss is multiplied by (None: nothing looks at the
    gradients), ``skipped`` counts the steps that were left out. ``loss_scale`` is as for ``Trainer``; ``seed``, where
    there is one, makes the rounding of weights stochastic.

    ``x`` and ``t`` are a batch, where the network is, to try the copy with: ``ValueError`` where a layer cannot do with
    so few bits. On a device there is neither a scale nor stochastic rounding.
    """

    def __init__(
        self,
        master: Any,
        dtype: str,
        loss_scale: LossScale,
        seed: np.random.SeedSequence | None,
        x: np.ndarray,
        t: np.ndarray,
    ) -> None:
        what = f"precision={dtype!r}"
        if not hasattr(master, "astype"):
            raise TypeError(f"{what} needs a network with a method astype(), which a {type(master).__name__} lacks")
        for name, value in master.params.items():
            if value.dtype not in (np.float32, np.float64):
                raise TypeError(f"{what} keeps parameters as float32 or float64; {name} is {value.dtype}")
        if loss_scale == "auto":
            loss_scale = "dynamic" if dtype == "float16" else None
        self.dynamic = loss_scale == "dynamic"
        self.scale: float | None = FIRST_SCALE if self.dynamic else _checked(loss_scale)
        if self.scale is not None and is_device(x):
            raise ValueError(
                f"{what} with a loss scale is for training on the CPU: on a GPU a step would have to wait for the look "
                f"at its gradients; loss_scale=None does without"
            )
        if seed is not None and is_device(x):
            raise ValueError("stochastic_rounding is for training on the CPU")
        self.skipped = 0
        self._good = 0  # steps since the scale was changed
        self.seeds = None if seed is None else [int(s) for s in seed.generate_state(len(master.params), np.uint64)]
        self._master = master
        self.network = master.astype(dtype)
        self._losses = [
            layer
            for layer in (*network.leaves(network.sequence(self.network)), getattr(self.network, "last_layer", None))
            if isinstance(layer, SoftmaxWithLoss)
        ]
        if self.scale is not None and not self._losses:
            raise ValueError("a loss scale needs a network that ends in SoftmaxWithLoss; pass loss_scale=None")
        self._try(what, x, t)

    def _try(self, what: str, x: np.ndarray, t: np.ndarray) -> None:
        """One step that leaves no trace, for its errors."""
        state = np.random.get_state()
        try:
            self.network.gradient(x, t)
            self.network.accuracy(x, t)
        except (KernelError, TypeError, ValueError) as error:
            raise ValueError(f"{type(self._master).__name__} cannot be trained with {what}: {error}") from error
        finally:
            np.random.set_state(state)

    # ---- a step -----------------------------------------------------------------------------------------------------

    def round(self, step: int) -> None:
        """Gives the copy the parameters and states of the network; ``step`` tells stochastic roundings apart."""
        for i, (name, value) in enumerate(self.network.params.items()):
            master = self._master.params[name]
            if self.seeds is None:
                functional.cast(master, value.dtype, out=value)
            else:
                single = prepare(master, np.dtype(np.float32))
                functional.stochastic_cast(single, value.dtype, self.seeds[i], step, out=value)
        self._hand_on(self._master, self.network)

    def loss_and_gradient(self, x: np.ndarray, t: np.ndarray) -> tuple[float, Mapping[str, np.ndarray] | None]:
        """The loss, and its gradients in the parameters' dtypes; None for those that overflowed."""
        for layer in self._losses:
            layer.gradient_scale = 1.0 if self.scale is None else self.scale
        loss, found = self.network.loss_and_gradient(x, t)
        grads = {name: prepare(grad, self._master.params[name].dtype) for name, grad in found.items()}
        if self.scale is not None and unscale(grads, self.scale).any():
            return loss, None
        return loss, grads

    def skip(self) -> bool:
        """Makes up for an overflow by a smaller scale; False where that cannot help, or was not asked for."""
        if not self.dynamic or self.scale is None or self.scale <= SMALLEST_SCALE:
            return False
        self.scale /= 2
        self._good = 0
        self.skipped += 1
        return True

    def updated(self) -> None:
        """After an update: the network gets the running statistics and the counters of its copy."""
        self._hand_on(self.network, self._master)
        self._good += 1
        if self.dynamic and self.scale is not None and self._good == PATIENCE:
            self.scale *= 2
            self._good = 0

    @staticmethod
    def _hand_on(source: Any, target: Any) -> None:
        pairs = zip(network.leaves(network.sequence(source)), network.leaves(network.sequence(target)), strict=True)
        for mine, other in pairs:
            for name in (*mine.buffers, *mine.counters):
                setattr(other, name, getattr(mine, name))

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs to go on exactly; JSON can express it."""
        return {"scale": self.scale, "skipped": self.skipped, "good": self._good, "seeds": self.seeds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what :meth:`state_dict` has returned."""
        self.scale, self.skipped, self._good = state["scale"], state["skipped"], state["good"]
        self.seeds = state["seeds"]


def _checked(scale: LossScale) -> float | None:
    if scale is None:
        return None
    if isinstance(scale, str) or not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"loss_scale is 'dynamic', a positive number or None, not {scale!r}")
    return float(scale)
