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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from . import _device, checkpoint, network, optim
from ._steps import DeviceSteps
from .checkpoint import CheckpointError

__all__ = ["CheckpointError", "Progress", "Trainer"]

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

    Attributes
    ----------
    train_loss_list, train_acc_list, test_acc_list : a loss per step, accuracies per epoch.
    history : a dict per epoch: epoch, train_loss (the mean over the steps since the last record), train_accuracy,
        test_accuracy, seconds (of training, without evaluation), images_per_second.
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
        if _device.parsed(place) is not None:
            self._device = DeviceSteps(self, place, graph)
        elif device is not None and getattr(network, "device", "cpu") != "cpu":
            network.to("cpu")
        self._training = False

        self._rng = np.random.default_rng(seed)
        self._order: np.ndarray | None = None  # of this epoch's images
        self._evaluation_due = False
        self._seconds = 0.0  # of training since the last record
        self._images = 0
        self._recorded = 0  # steps up to the last record
        self._busy = False  # in the middle of a step, whose state no checkpoint may hold
        self._stop = False  # Ctrl-C came in the middle of a step

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
            self._read_losses()
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
        self.optimizer.update(self.network.params, grads)
        return float(self.network.loss(x, t)) if loss is None else loss

    def _step_on_device(self, device: DeviceSteps, chosen: np.ndarray) -> float:
        """The same on a device; the last loss that is known."""
        first = self.current_iter % int(self.iter_per_epoch) * self.batch_size
        loss = device.step(chosen, self._order if self.sampling == "shuffle" else None, first)
        if loss is not None:
            device.read_losses()
            self.train_loss_list.append(loss)
        elif not self._training:
            device.read_losses()
        return self.train_loss_list[-1] if self.train_loss_list else math.nan

    def _read_losses(self) -> None:
        """Waits for a device, whose losses are then in ``train_loss_list``."""
        if self._device is not None:
            begin = time.perf_counter()
            self._device.read_losses()
            self._seconds += time.perf_counter() - begin

    @property
    def graph_reason(self) -> str:
        """Why steps are no CUDA graph; empty where they are, or will be after the first few."""
        return "the network is not on a GPU" if self._device is None else self._device.reason

    def _accuracies(self, n: int | None) -> tuple[float, float]:
        """Of the first ``n`` images of each set."""
        net, on_device = self.network, self._device
        if on_device is None:
            return float(net.accuracy(self.x_train[:n], self.t_train[:n])), self._test_accuracy(n)
        with on_device.current():
            train_acc = float(net.accuracy(on_device.x_train[:n], on_device.t_train[:n]))
        return train_acc, self._test_accuracy(n)

    def _test_accuracy(self, n: int | None) -> float:
        if self._device is None:
            return float(self.network.accuracy(self.x_test[:n], self.t_test[:n]))
        with self._device.current():
            return float(self.network.accuracy(self._device.x_test[:n], self._device.t_test[:n]))

    def _next_batch(self) -> np.ndarray:
        """Which images are next."""
        if self.sampling == "book":
            return np.random.choice(self.train_size, self.batch_size)
        first = self.current_iter % int(self.iter_per_epoch) * self.batch_size
        if first == 0 or self._order is None:
            self._order = self._rng.permutation(self.train_size)
        return self._order[first : first + self.batch_size]

    def _loss_and_gradient(self, x: np.ndarray, t: np.ndarray) -> tuple[float | None, Mapping[str, np.ndarray]]:
        """The gradients, and the loss where it is known before the update and wanted from there."""
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
        train_acc, test_acc = self._accuracies(self.evaluate_sample_num_per_epoch)
        self._busy = True
        self.current_epoch += 1
        self.train_acc_list.append(train_acc)
        self.test_acc_list.append(test_acc)
        record = {
            "epoch": self.current_epoch,
            "train_loss": float(np.mean(self.train_loss_list[self._recorded :])),
            "train_accuracy": train_acc,
            "test_accuracy": test_acc,
            "seconds": self._seconds,
            "images_per_second": self._images / self._seconds if self._seconds else 0.0,
        }
        self.history.append(record)
        self._recorded, self._seconds, self._images = len(self.train_loss_list), 0.0, 0
        self._evaluation_due = self._busy = False
        if self.verbose:
            print(f"=== epoch:{self.current_epoch}, train acc:{train_acc}, test acc:{test_acc} ===")
        self.progress.epoch(self, record)
        if self.output is not None and self.current_epoch % self.checkpoint_every == 0:
            self.save_checkpoint()

    def _finish(self) -> None:
        whole = self.evaluate_sample_num_per_epoch is None and self.sampling == "shuffle"
        if whole and self.test_acc_list:
            self.final_test_acc = self.test_acc_list[-1]
        else:
            self.final_test_acc = self._test_accuracy(None)
        if self.verbose:
            print("=============== Final Test Accuracy ===============")
            print(f"test acc:{self.final_test_acc}")
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
        layers = getattr(self.network, "layers", ())
        return list(layers.values() if isinstance(layers, Mapping) else layers)

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
            **self.settings,
        }

    def save_checkpoint(self, path: str | os.PathLike | None = None) -> None:
        """Writes everything that ``resume`` needs to ``path``, or to ``checkpoint_path``; whole or not at all.

        That is: parameters, running statistics, the states of the optimizer and of the generators (this trainer's,
        ``numpy.random``'s global one, seed and step of each dropout), the place in the epoch, what was recorded, and
        the settings. States of layers that are not fastdl's own are not part of it.
        """
        if path is None:
            path = self.checkpoint_path
            if path is None:
                raise ValueError("a Trainer without output needs the path of the checkpoint")
            path.parent.mkdir(parents=True, exist_ok=True)
        self._read_losses()
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
            saved = _Saved(self, document, arrays)
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{name} is damaged or incomplete: {type(error).__name__}: {error}") from error
        saved.restore(self)


class _Saved:
    """A checkpoint's content, taken apart and checked before anything is changed."""

    def __init__(self, trainer: Trainer, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.place = {name: document["place"][name] for name in ("current_iter", "current_epoch", "evaluation_due")}
        self.since = {f"_{name}": document["place"][name] for name in ("seconds", "images", "recorded")}
        self.history = list(document["history"])
        self.final_test_acc = document["final_test_acc"]
        self.counters = list(document["counters"])
        self.generator = checkpoint.random_state_from_json(document["generator"])
        self.numpy_random = checkpoint.random_state_from_json(document["numpy.random"])
        self.lists = {name: arrays[name].tolist() for name in ("train_loss_list", "train_acc_list", "test_acc_list")}
        self.order = arrays.get("order")
        self.params = checkpoint.group("parameter", arrays)
        self.buffers = checkpoint.group("buffer", arrays)
        self.optimizer = dict(document["optimizer"])
        network.check_arrays(self.params, trainer.network.params)
        for state in trainer.optimizer.states:
            found = checkpoint.group(f"optimizer.{state}", arrays)
            if self.optimizer["iter"]:
                network.check_arrays(found, trainer.network.params)
            self.optimizer[state] = found or None
        wanted = set(trainer.optimizer.state_dict())
        if set(self.optimizer) != wanted or len(self.counters) != len(network.counters(trainer._layers())):
            raise KeyError("the states of optimizer or dropout are not those of this training")
        np.random.RandomState().set_state(self.numpy_random)
        np.random.default_rng().bit_generator.state = self.generator

    def restore(self, trainer: Trainer) -> None:
        layers = trainer._layers()
        for name, param in trainer.network.params.items():
            if _device.is_device(param):
                _device.overwrite(param, self.params[name])
            else:
                param[...] = self.params[name]
        if trainer._device is not None:
            trainer._device.forget()
        network.set_buffers(layers, self.buffers)
        network.set_counters(layers, self.counters)
        trainer.optimizer.load_state_dict(self.optimizer)
        trainer._rng.bit_generator.state = self.generator
        np.random.set_state(self.numpy_random)
        trainer.current_iter = self.place["current_iter"]
        trainer.current_epoch = self.place["current_epoch"]
        trainer._evaluation_due = self.place["evaluation_due"]
        for name, value in {**self.since, **self.lists}.items():
            setattr(trainer, name, value)
        trainer._order = self.order
        trainer.history = self.history
        trainer.final_test_acc = self.final_test_acc
        trainer.interrupted = False


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
