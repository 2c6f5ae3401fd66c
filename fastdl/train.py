"""Trainer: the book's training loop, with shuffled epochs, a record of each epoch, and checkpoints.

::

    trainer = Trainer(net, x_train, t_train, x_test, t_test, epochs=20, optimizer="Adam", optimizer_param={"lr": 0.001},
                      output="run")
    trainer.train()                       # Ctrl-C leaves run/checkpoint.npz
    trainer.resume("run/checkpoint.npz")  # in a new process, after the same lines: continues to the same numbers
    trainer.train()
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from . import _device, checkpoint, network, nonfinite, optim
from ._steps import DeviceSteps
from .checkpoint import CheckpointError
from .layers.binary import binary_weights
from .mixed import DTYPES, LossScale, MixedPrecision
from .nonfinite import NonFiniteError

__all__ = ["CheckpointError", "NonFiniteError", "Progress", "Trainer"]

Schedule = Callable[[float], float]

#: The file that ``output`` gets.
CHECKPOINT_NAME = "checkpoint.npz"


class Progress:
    """What a Trainer tells; override what is of interest.

    Every method is called between two steps: a ``KeyboardInterrupt`` raised here is handled like Ctrl-C.
    """

    def start(self, trainer: Trainer) -> None:
        """``trainer.train()`` begins; ``trainer.current_iter`` steps of ``trainer.max_iter`` are done."""

    def step(self, trainer: Trainer, loss: float) -> None:
        """A step is done, with this loss."""

    def epoch(self, trainer: Trainer, record: Mapping[str, Any]) -> None:
        """An epoch is evaluated; ``record`` is the last entry of ``trainer.history``."""

    def finish(self, trainer: Trainer) -> None:
        """``trainer.train()`` ends, normally or with an exception."""


class Trainer:
    """Trains ``network`` on ``x_train``, ``t_train`` and evaluates it on ``x_test``, ``t_test``, epoch by epoch.

    Parameters
    ----------
    network : has ``params``, ``gradient(x, t)``, ``loss(x, t)`` and ``accuracy(x, t)``: fastdl's models, the book's.
        ``loss_and_gradient(x, t)`` is used where there is one, and saves the second forward pass.
    x_train, t_train, x_test, t_test : arrays; the first axis counts images.
    optimizer : a name (SGD, Momentum, Nesterov, AdaGrad, RMSprop, Adam, in any case) or a ``fastdl.optim.Optimizer``.
    optimizer_param : keyword arguments for the optimizer that is named.
    evaluate_sample_num_per_epoch : evaluate on this many first images of each set; all by default.
    verbose : print a line per epoch and the final accuracy; with ``sampling="book"`` also each loss, as in the book.
    sampling : ``"shuffle"``: each epoch visits every image once, in a new order (the last batch may be smaller), and is
        evaluated at its end; the loss of a step is that of its own forward pass.
        ``"book"``: the book's loop, number for number: each batch is drawn with replacement by ``numpy.random.choice``,
        the loss comes from a second forward pass after the update, and epochs are evaluated after their *first* step.
    seed : of the orders of ``"shuffle"``. Weights and dropout have their own seeds.
    schedule : a function from the epoch, counted from 0 with fractions, to the learning rate, called before each step.
    weight_decay : for the optimizer that is named; see ``fastdl.optim``.
    output : a folder, made where needed, for ``checkpoint.npz``; None: no checkpoints.
    checkpoint_every : epochs between checkpoints. There is also one at the end, and one at Ctrl-C.
    progress : a ``Progress``.
    settings : further settings (values that JSON can express) to be stored, and compared when training is resumed.
    device : ``"cpu"``, ``"cuda"`` or ``"cuda:1"``: the network moves there and stays, the data are copied there. None:
        where the network is. On a GPU losses are read once an epoch; until then ``Progress.step`` gets the last one
        that is known (NaN before), and ``train_loss_list`` lacks them.
    graph : on a GPU, record a step as a CUDA graph and replay it. Where that cannot be done, a ``RuntimeWarning`` says
        why, and so does ``graph_reason``.
    precision : ``"float16"`` or ``"bfloat16"``: forward and backward passes, and evaluation, run in a copy of the
        network in that dtype (``net.astype(precision)``); the network's own parameters, float32 or float64, are what
        the optimizer updates, and what ``net.predict`` uses afterwards. It goes with ``"shuffle"``. ``"binary"``: for
        what ``fastdl.binarize`` returns, whose binary weights are clipped to -1 ... 1 after each update; on the CPU.
        See :mod:`fastdl.mixed`.
    loss_scale : ``"dynamic"``, a number or None (no scale, no look at the gradients), for a precision of 16 bits.
        ``"auto"``: dynamic for float16, None for bfloat16, whose range is that of float32. On a GPU there is None only.
    stochastic_rounding : round the weights on their way to 16 bits up or down at random, the nearer the likelier.

    A loss, gradient or parameter that is infinite or NaN, and that no dynamic loss scale can help, ends training with
    ``NonFiniteError``, a ``FloatingPointError`` which names the layer. Bad parameters are not written to a checkpoint.

    Attributes
    ----------
    train_loss_list, train_acc_list, test_acc_list : a loss per step, accuracies per epoch.
    history : a dict per epoch: epoch, train_loss (the mean over the steps since the last record), train_accuracy,
        test_accuracy, seconds (of training, without evaluation), images_per_second; with a precision of 16 bits also
        skipped_steps (of this epoch) and loss_scale.
    skipped_steps, loss_scale : steps left out so far because gradients overflowed, and the scale now; 0 and None with
        no precision of 16 bits.
    binary_weights : the names of the parameters that are clipped, with ``precision="binary"``.
    current_iter, max_iter, iter_per_epoch : steps done, steps in all, steps per epoch.
    current_epoch : epochs evaluated.
    final_test_acc : accuracy on the whole test set after the last step, None before.
    interrupted : whether the last ``train()`` ended by Ctrl-C.
    """

    def __init__(
        self,
        network: Any,
        x_train: np.ndarray,
        t_train: np.ndarray,
        x_test: np.ndarray,
        t_test: np.ndarray,
        epochs: int = 20,
        mini_batch_size: int = 100,
        optimizer: str | optim.Optimizer = "SGD",
        optimizer_param: Mapping[str, Any] | None = None,
        evaluate_sample_num_per_epoch: int | None = None,
        verbose: bool = True,
        *,
        sampling: str = "shuffle",
        seed: int | None = None,
        schedule: Schedule | None = None,
        weight_decay: float = 0.0,
        output: str | os.PathLike | None = None,
        checkpoint_every: int = 1,
        progress: Progress | None = None,
        settings: Mapping[str, Any] | None = None,
        device: str | None = None,
        graph: bool = True,
        precision: str | None = None,
        loss_scale: LossScale = "auto",
        stochastic_rounding: bool = False,
    ) -> None:
        if sampling not in ("shuffle", "book"):
            raise ValueError(f"sampling must be 'shuffle' or 'book', not {sampling!r}")
        if not len(x_train) or len(x_train) != len(t_train) or len(x_test) != len(t_test):
            raise ValueError(
                f"there must be a label for each image, and something to train on: {len(x_train)} training images "
                f"with {len(t_train)} labels, {len(x_test)} test images with {len(t_test)}"
            )
        if mini_batch_size < 1 or epochs < 0 or checkpoint_every < 1:
            raise ValueError("mini_batch_size and checkpoint_every must be at least 1, and epochs at least 0")
        self.network = network
        self.x_train, self.t_train, self.x_test, self.t_test = x_train, t_train, x_test, t_test
        self.epochs = epochs
        self.batch_size = mini_batch_size
        self.optimizer = _optimizer(optimizer, optimizer_param, weight_decay)
        self._initial_lr = self.optimizer.lr
        self.evaluate_sample_num_per_epoch = evaluate_sample_num_per_epoch
        self.verbose = verbose
        self.sampling = sampling
        self.seed = seed
        self.schedule = schedule
        self.output = None if output is None else Path(output)
        self.checkpoint_every = checkpoint_every
        self.progress = progress or Progress()
        self.settings = dict(settings or {})

        self.train_size = len(x_train)
        self.iter_per_epoch: float = max(self.train_size / mini_batch_size, 1)
        if sampling == "shuffle":
            self.iter_per_epoch = math.ceil(self.iter_per_epoch)
        self.max_iter = int(epochs * self.iter_per_epoch)
        self.current_iter = 0
        self.current_epoch = 0
        self.train_loss_list: list[float] = []
        self.train_acc_list: list[float] = []
        self.test_acc_list: list[float] = []
        self.history: list[dict[str, Any]] = []
        self.final_test_acc: float | None = None
        self.interrupted = False

        self._device: DeviceSteps | None = None
        place = getattr(network, "device", "cpu") if device is None else device
        if precision == "binary" and _device.parsed(place) is not None:
            raise ValueError(f"precision={precision!r} is for training on the CPU, not on {place!r}")
        if _device.parsed(place) is not None:
            self._device = DeviceSteps(self, place, graph)
        elif device is not None and getattr(network, "device", "cpu") != "cpu":
            network.to("cpu")
        self._training = False
        self.precision = precision
        self._loss_scale = loss_scale
        self._stochastic_rounding = stochastic_rounding
        self._mixed = self._mixed_precision()
        self.binary_weights = binary_weights(network) if precision == "binary" else []

        self._rng = np.random.default_rng(seed)
        self._order: np.ndarray | None = None  # of this epoch's images
        self._evaluation_due = False
        self._seconds = 0.0  # of training since the last record
        self._images = 0
        self._recorded = 0  # steps up to the last record
        self._busy = False  # in the middle of a step, whose state no checkpoint may hold
        self._stop = False  # Ctrl-C came in the middle of a step
        self._good: tuple[Path, int] | None = None  # the last checkpoint, and its step

    def _mixed_precision(self) -> MixedPrecision | None:
        if self.precision in DTYPES:
            if self.sampling != "shuffle":
                raise ValueError(f"precision={self.precision!r} goes with sampling='shuffle', not {self.sampling!r}")
            seed = np.random.SeedSequence(self.seed, spawn_key=(1,)) if self._stochastic_rounding else None
            few, place = slice(min(2, self.batch_size)), self if self._device is None else self._device
            with self._current():
                return MixedPrecision(
                    self.network, self.precision, self._loss_scale, seed, place.x_train[few], place.t_train[few]
                )
        if self.precision not in (None, "binary"):
            raise ValueError(f"precision must be one of {', '.join(DTYPES)}, binary or None, not {self.precision!r}")
        if self._loss_scale != "auto" or self._stochastic_rounding:
            raise ValueError(f"loss_scale and stochastic_rounding go with a precision of {' or '.join(DTYPES)}")
        return None

    # ---- training ---------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Trains up to the last epoch, from wherever training stands.

        Ctrl-C takes effect after the step that runs (a second one at once): a checkpoint is written if there is an
        ``output``, ``interrupted`` is set and ``KeyboardInterrupt`` raised.
        """
        self.interrupted = self._busy = self._stop = False
        self._training = True
        try:
            self.progress.start(self)
            with self._deferred_interrupt():
                while self.current_iter < self.max_iter:
                    self.train_step()
                    if self._stop:
                        raise KeyboardInterrupt
                self._evaluate_if_due()
                if self._stop:
                    raise KeyboardInterrupt
                self._finish()
        except KeyboardInterrupt:
            self.interrupted = True
            if self.output is not None and not self._busy:
                self.save_checkpoint()
            raise
        finally:
            self._training = False
            try:
                self._read_losses()
            finally:
                self.progress.finish(self)

    def train_step(self) -> None:
        """One batch: gradient, update, and the evaluation of the epoch where it is due."""
        self._evaluate_if_due()
        if self.schedule is not None:
            self.optimizer.lr = float(self.schedule(self.current_iter / self.iter_per_epoch))
        self._busy = True
        begin = time.perf_counter()
        chosen = self._next_batch()
        if self._device is not None:
            loss = self._step_on_device(self._device, chosen)
        else:
            loss = self._step(self.x_train[chosen], self.t_train[chosen])
            self.train_loss_list.append(loss)
        self._seconds += time.perf_counter() - begin
        self._images += len(chosen)
        if self.sampling == "book":
            self._evaluation_due = self.current_iter % self.iter_per_epoch == 0
        self.current_iter += 1
        if self.sampling == "shuffle":
            self._evaluation_due = self.current_iter % self.iter_per_epoch == 0
        self._busy = False
        if self.verbose and self.sampling == "book":
            print(f"train loss:{loss}")
        self.progress.step(self, loss)
        if not self._stop:
            self._evaluate_if_due()

    def _step(self, x: np.ndarray, t: np.ndarray) -> float:
        """Gradient and update; the loss."""
        loss, grads = self._loss_and_gradient(x, t)
        if loss is not None and not math.isfinite(loss):
            raise self._failure(f"the loss is {loss}", self.current_iter, x, t)
        if grads is None:
            assert self._mixed is not None and loss is not None
            if not self._mixed.skip():
                raise self._failure(
                    f"a gradient is infinite or NaN with loss scale {self.loss_scale}", self.current_iter, x, t
                )
            return loss
        self.optimizer.update(self.network.params, grads)
        if self._mixed is not None:
            self._mixed.updated()
        for name in self.binary_weights:
            np.clip(self.network.params[name], -1, 1, out=self.network.params[name])
        if loss is None:
            loss = float(self.network.loss(x, t))
            if not math.isfinite(loss):
                raise self._failure(f"the loss is {loss}", self.current_iter, x, t)
        return loss

    def _step_on_device(self, device: DeviceSteps, chosen: np.ndarray) -> float:
        """The same on a device; the last loss that is known."""
        first = self.current_iter % int(self.iter_per_epoch) * self.batch_size
        loss = device.step(chosen, self._order if self.sampling == "shuffle" else None, first)
        known = len(self.train_loss_list)
        if loss is not None:
            device.read_losses()
            self.train_loss_list.append(loss)
        elif not self._training:
            device.read_losses()
        self._expect_finite_losses(known)
        return self.train_loss_list[-1] if self.train_loss_list else math.nan

    def _read_losses(self) -> None:
        """Waits for a device, whose losses are then in ``train_loss_list``."""
        if self._device is not None:
            begin, known = time.perf_counter(), len(self.train_loss_list)
            self._device.read_losses()
            self._seconds += time.perf_counter() - begin
            self._expect_finite_losses(known)

    # ---- what is not finite -----------------------------------------------------------------------------------------

    def _expect_finite_losses(self, first: int) -> None:
        """``NonFiniteError`` for a loss of a device, from that of step ``first`` (counted from 0) on."""
        for step, loss in enumerate(self.train_loss_list[first:], start=first):
            if not math.isfinite(loss):
                raise self._failure(f"the loss is {loss}", step)

    def _expect_finite_parameters(self) -> None:
        if not nonfinite.all_finite(self.network):
            raise self._failure("parameters are infinite or NaN", self.current_iter - 1)

    def _failure(self, what: str, step: int, x: Any = None, t: Any = None) -> NonFiniteError:
        """The error of ``step``, counted from 0, which is repeated with ``x`` and ``t`` where they are given."""
        with self._current():
            net = self._computing()
        return nonfinite.error(net, what, (step + 1, self.max_iter), self._good, x, t)

    @property
    def skipped_steps(self) -> int:
        """How many steps were left out because gradients overflowed."""
        return 0 if self._mixed is None else self._mixed.skipped

    @property
    def loss_scale(self) -> float | None:
        """What the loss is multiplied by; None where it is not."""
        return None if self._mixed is None else self._mixed.scale

    def _computing(self) -> Any:
        """The network whose passes run, up to date. (On a device: inside its context.)"""
        if self._mixed is None:
            return self.network
        self._mixed.round(self.current_iter)
        return self._mixed.network

    @property
    def graph_reason(self) -> str:
        """Why steps are no CUDA graph; empty where they are, or will be after the first few."""
        return "the network is not on a GPU" if self._device is None else self._device.reason

    def _current(self) -> AbstractContextManager[None]:
        """Inside the block the device is the current one, where there is one."""
        return nullcontext() if self._device is None else self._device.current()

    def _accuracies(self, n: int | None) -> tuple[float, float]:
        """Of the first ``n`` images of each set."""
        data = self if self._device is None else self._device
        with self._current():
            train_acc = float(self._computing().accuracy(data.x_train[:n], data.t_train[:n]))
        return train_acc, self._test_accuracy(n)

    def _test_accuracy(self, n: int | None) -> float:
        data = self if self._device is None else self._device
        with self._current():
            return float(self._computing().accuracy(data.x_test[:n], data.t_test[:n]))

    def _next_batch(self) -> np.ndarray:
        """Which images are next."""
        if self.sampling == "book":
            return np.random.choice(self.train_size, self.batch_size)
        first = self.current_iter % int(self.iter_per_epoch) * self.batch_size
        if first == 0 or self._order is None:
            self._order = self._rng.permutation(self.train_size)
        return self._order[first : first + self.batch_size]

    def _loss_and_gradient(self, x: np.ndarray, t: np.ndarray) -> tuple[float | None, Mapping[str, np.ndarray] | None]:
        """The gradients (None where they overflowed), and the loss where it is known before the update and wanted from
        there."""
        if self._mixed is not None:
            self._mixed.round(self.current_iter)
            return self._mixed.loss_and_gradient(x, t)
        combined = getattr(self.network, "loss_and_gradient", None)
        if combined is None or self.sampling == "book":
            return None, self.network.gradient(x, t)
        loss, grads = combined(x, t)
        return float(loss), grads

    def _evaluate_if_due(self) -> None:
        """Evaluates the epoch; changes nothing before everything is known, so that it may be interrupted."""
        if not self._evaluation_due:
            return
        self._read_losses()
        self._expect_finite_parameters()
        train_acc, test_acc = self._accuracies(self.evaluate_sample_num_per_epoch)
        self._busy = True
        self.current_epoch += 1
        self.train_acc_list.append(train_acc)
        self.test_acc_list.append(test_acc)
        record: dict[str, Any] = {
            "epoch": self.current_epoch,
            "train_loss": float(np.mean(self.train_loss_list[self._recorded :])),
            "train_accuracy": train_acc,
            "test_accuracy": test_acc,
            "seconds": self._seconds,
            "images_per_second": self._images / self._seconds if self._seconds else 0.0,
        }
        if self._mixed is not None:
            record["skipped_steps"] = self.skipped_steps - sum(r["skipped_steps"] for r in self.history)
            record["loss_scale"] = self.loss_scale
        self.history.append(record)
        self._recorded, self._seconds, self._images = len(self.train_loss_list), 0.0, 0
        self._evaluation_due = self._busy = False
        if self.verbose:
            print(f"=== epoch:{self.current_epoch}, train acc:{train_acc}, test acc:{test_acc} ===")
        self.progress.epoch(self, record)
        if self.output is not None and self.current_epoch % self.checkpoint_every == 0:
            self.save_checkpoint()

    def _finish(self) -> None:
        self._expect_finite_parameters()
        whole = self.evaluate_sample_num_per_epoch is None and self.sampling == "shuffle"
        if whole and self.test_acc_list:
            self.final_test_acc = self.test_acc_list[-1]
        else:
            self.final_test_acc = self._test_accuracy(None)
        if self.verbose:
            print("=============== Final Test Accuracy ===============")
            print(f"test acc:{self.final_test_acc}")
            if self._mixed is not None:
                print(f"skipped steps:{self.skipped_steps} of {self.current_iter}, loss scale:{self.loss_scale}")
        if self.output is not None:
            self.save_checkpoint()

    @contextmanager
    def _deferred_interrupt(self) -> Iterator[None]:
        """Inside the block Ctrl-C waits for the end of a step, where Python's own handler was in charge of it."""
        ours = threading.current_thread() is threading.main_thread()
        if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return

        def handler(number: int, frame: Any) -> None:
            if not self._busy or self._stop:
                raise KeyboardInterrupt
            self._stop = True

        signal.signal(signal.SIGINT, handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    # ---- checkpoints ------------------------------------------------------------------------------------------------

    @property
    def checkpoint_path(self) -> Path | None:
        """Where checkpoints go: ``checkpoint.npz`` in ``output``."""
        return None if self.output is None else self.output / CHECKPOINT_NAME

    def _layers(self) -> list[Any]:
        return network.sequence(self.network)

    def _settings(self) -> dict[str, Any]:
        """What has to be the same for a training to go on to the same numbers. The number of epochs may grow."""
        schedule = self.schedule
        return {
            "network": type(self.network).__name__,
            "parameters": {name: f"{p.dtype} {p.shape}" for name, p in self.network.params.items()},
            "training set": checkpoint.fingerprint(
                *(np.asarray(_device.to_device(a, "cpu")) for a in (self.x_train, self.t_train))
            ),
            "mini_batch_size": self.batch_size,
            "sampling": self.sampling,
            "seed": self.seed,
            "optimizer": type(self.optimizer).__name__,
            "weight_decay": self.optimizer.weight_decay,
            **{name: getattr(self.optimizer, name) for name in self.optimizer.numbers},
            "lr": None if schedule else self._initial_lr,
            "schedule": schedule and getattr(schedule, "__qualname__", type(schedule).__qualname__),
            "precision": self.precision,
            "loss_scale": None if self._mixed is None else self._loss_scale,
            "stochastic_rounding": self._stochastic_rounding or None,
            **self.settings,
        }

    def save_checkpoint(self, path: str | os.PathLike | None = None) -> None:
        """Writes everything that ``resume`` needs to ``path``, or to ``checkpoint_path``; whole or not at all.

        That is: parameters, running statistics, the states of the optimizer and of the generators (this trainer's,
        ``numpy.random``'s global one, seed and step of each dropout), the place in the epoch, what was recorded, and
        the settings. States of layers that are not fastdl's own are not part of it.
        Raises ``NonFiniteError``, and writes nothing, where a parameter or a loss is infinite or NaN.
        """
        if path is None:
            path = self.checkpoint_path
            if path is None:
                raise ValueError("a Trainer without output needs the path of the checkpoint")
            path.parent.mkdir(parents=True, exist_ok=True)
        self._read_losses()
        self._expect_finite_parameters()
        layers = self._layers()
        numbers: dict[str, Any] = {}
        states: dict[str, np.ndarray] = {}
        for name, value in self.optimizer.state_dict().items():
            if name in self.optimizer.states:
                states |= checkpoint.grouped(f"optimizer.{name}", value or {})
            else:
                numbers[name] = value
        document = {
            "settings": self._settings(),
            "epochs": self.epochs,
            "place": {
                "current_iter": self.current_iter,
                "current_epoch": self.current_epoch,
                "evaluation_due": self._evaluation_due,
                "seconds": self._seconds,
                "images": self._images,
                "recorded": self._recorded,
            },
            "history": self.history,
            "final_test_acc": self.final_test_acc,
            "optimizer": numbers,
            "counters": network.counters(layers),
            "mixed": None if self._mixed is None else self._mixed.state_dict(),
            "generator": checkpoint.random_state_to_json(self._rng.bit_generator.state),
            "numpy.random": checkpoint.random_state_to_json(np.random.get_state(legacy=False)),
        }
        arrays = {
            **checkpoint.grouped("parameter", network.on_host(self.network.params)),
            **checkpoint.grouped("buffer", network.on_host(network.named_buffers(layers))),
            **states,
            "train_loss_list": np.array(self.train_loss_list, np.float64),
            "train_acc_list": np.array(self.train_acc_list, np.float64),
            "test_acc_list": np.array(self.test_acc_list, np.float64),
        }
        if self._order is not None:
            arrays["order"] = self._order
        checkpoint.save_checkpoint(path, document, arrays)
        self._good = Path(path), self.current_iter

    def resume(self, path: str | os.PathLike) -> None:
        """Puts network, optimizer, generators (``numpy.random`` too) and this trainer where the checkpoint was written.

        ``train()`` then goes on to the same numbers, bit for bit, as if it had never stopped (with the same kernels: on
        a machine with the same ISA level). Raises ``CheckpointError``, with nothing changed, where the file is damaged
        or was written with other settings; ``epochs`` alone may differ. ``OSError`` where the file cannot be read.
        """
        document, arrays = checkpoint.load_checkpoint(path)
        name = os.fspath(path)
        try:
            mine = json.loads(json.dumps(self._settings()))
            if found := checkpoint.differences(mine, document["settings"]):
                raise CheckpointError(f"{name} belongs to a training with other settings: {'; '.join(found)}")
            saved = checkpoint.Saved(self, document, arrays)
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{name} is damaged or incomplete: {type(error).__name__}: {error}") from error
        saved.restore(self)
        self._good = Path(path), self.current_iter


def _optimizer(
    optimizer: str | optim.Optimizer, param: Mapping[str, Any] | None, weight_decay: float
) -> optim.Optimizer:
    if not isinstance(optimizer, str):
        if param or weight_decay:
            raise ValueError("optimizer_param and weight_decay belong to an optimizer that is named, not to an object")
        return optimizer
    # The book's Trainer knows RMSprop by a misspelling only, which its readers' scripts therefore use.
    kind = optim.BY_NAME.get(optimizer.lower().replace("rmsprpo", "rmsprop"))
    if kind is None:
        names = ", ".join(kind.__name__ for kind in optim.BY_NAME.values())
        raise ValueError(f"optimizer must be one of {names}, not {optimizer!r}")
    chosen = {"lr": 0.01} if param is None else dict(param)
    return kind(**({"weight_decay": weight_decay} if weight_decay else {}), **chosen)
