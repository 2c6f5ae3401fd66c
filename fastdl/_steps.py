"""Training steps on a device: data that stays there, losses that are read once an epoch, and steps as CUDA graphs.

A step of a small network is some hundred launches of a few microseconds each, and Python takes longer to ask for them
than the device to run them. After ``WARM`` steps of whole batches the launches of one are recorded, and from then on
the record is replayed: one call for a step. What changes from step to step is in arrays on the device: the numbers of
the batch's images, the learning rate, the counters of optimizer and dropout.

The recorded step has memory of its own: those arrays that a step makes and drops are at the same addresses in each
replay, and nobody else may get them in between.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from . import _device, backend, network
from .kernels.device import _cuda as kernels

#: Whole batches before one is recorded: kernels are compiled, tables and constants are on the device, memory is there.
WARM = 3
#: Losses that wait on the device.
LOSSES = 4096


class _Captured(NamedTuple):
    """A recorded step."""

    graph: Any
    loss: Any
    passes: list[tuple[Any, int]]  # layers that count, and by how much in a step
    arrays: list[Any]  # what the record refers to from outside: parameters and states
    numbers: tuple[Any, ...]  # what the record holds by value


class DeviceSteps:
    """The steps of a Trainer on ``device``."""

    def __init__(self, trainer: Any, device: str, graph: bool) -> None:
        self._number = _device.parsed(device)
        if not hasattr(trainer.network, "to"):
            raise TypeError(
                f"a {type(trainer.network).__name__} cannot be trained on {device!r}: it has no method to()"
            )
        import cupy

        self._trainer = trainer
        self._graph_wanted = graph and trainer.sampling == "shuffle"
        #: Why steps are launched one kernel at a time; empty where they are replayed, or are going to be.
        self.reason = "" if self._graph_wanted else "graphs were not asked for"
        if graph and trainer.sampling != "shuffle":
            self.reason = f"sampling={trainer.sampling!r} computes each loss on its own"
        with cupy.cuda.Device(self._number):
            self._stream = cupy.cuda.Stream()
            self._pool = cupy.cuda.MemoryPool()
            trainer.network.to(device)
            self.x_train, self.t_train, self.x_test, self.t_test = (
                _device.contiguous(_device.to_device(a, device))
                for a in (trainer.x_train, trainer.t_train, trainer.x_test, trainer.t_test)
            )
            self._rows = _device.empty((trainer.batch_size,), np.dtype(np.int64))
        self._order: tuple[Any, Any] = (None, None)  # of an epoch, here and there
        self._captured: _Captured | None = None
        self._warm = 0
        self._losses: Any = None
        self._waiting = 0

    @contextmanager
    def current(self) -> Iterator[None]:
        """Inside the block the device and its stream are the current ones."""
        import cupy

        with cupy.cuda.Device(self._number), self._stream:
            yield

    # ---- a step -----------------------------------------------------------------------------------------------------

    def step(self, chosen: np.ndarray, order: np.ndarray | None, first: int) -> float | None:
        """One batch: the images ``chosen``, which begin at ``first`` of ``order`` if there is one.

        The loss joins those that wait, or is returned.
        """
        with self.current():
            if order is None:
                rows = _device.from_host(np.ascontiguousarray(chosen, np.int64), self._number or 0)
            else:
                if self._order[0] is not order:
                    self._order = order, _device.from_host(order.astype(np.int64), self._number or 0)
                rows = self._order[1][first : first + len(chosen)]
            if self._graph_wanted and len(chosen) == len(self._rows):
                loss = self._whole_batch(rows)
            else:
                loss = self._launched(rows)
            if not _device.is_device(loss):
                return float(loss)
            self._keep(loss)
        return None

    def _launched(self, rows: Any) -> Any:
        """A step kernel by kernel; its loss."""
        trainer = self._trainer
        x, t = self._taken(self.x_train, rows), self._taken(self.t_train, rows)
        net, optimizer, mixed = trainer.network, trainer.optimizer, trainer._mixed
        if mixed is not None:
            mixed.round(trainer.current_iter)
            loss, grads = mixed.network.unread_loss_and_gradient(x, t)
            optimizer.update(net.params, grads)
            mixed.updated()
            return loss
        combined = getattr(net, "unread_loss_and_gradient", None) or getattr(net, "loss_and_gradient", None)
        if combined is None or trainer.sampling == "book":
            optimizer.update(net.params, net.gradient(x, t))
            return net.loss(x, t)
        loss, grads = combined(x, t)
        optimizer.update(net.params, grads)
        return loss

    def _taken(self, source: Any, rows: Any) -> Any:
        out = _device.empty((len(rows), *source.shape[1:]), source.dtype)
        kernels.take(source, rows, out)
        return out

    def _whole_batch(self, rows: Any) -> Any:
        import cupy

        _device.copy(self._rows, rows)
        if self._captured is not None and not self._fits(self._captured):
            self.forget()
        if self._captured is None:
            with cupy.cuda.using_allocator(self._pool.malloc):
                if self._warm < WARM:
                    self._warm += 1
                    return self._launched(self._rows)
                if not self._capture():
                    return self._launched(self._rows)
        else:
            self._count(self._captured)
        captured = self._captured
        assert captured is not None
        captured.graph.launch()
        return captured.loss

    def _count(self, captured: _Captured) -> None:
        """Tells the host what the replay will do."""
        optimizer = self._trainer.optimizer
        optimizer.before_replay(self._rows)
        optimizer.replayed()
        for layer, passes in captured.passes:
            layer.replayed(passes)

    # ---- recording --------------------------------------------------------------------------------------------------

    def _capture(self) -> bool:
        """Records a step, which counts but does not run. Whether that went well."""
        trainer, layers = self._trainer, self._trainer._layers()
        counters, iterations = network.counters(layers), trainer.optimizer.iter
        counting: list[Any] = [layer for layer in network.leaves(layers) if hasattr(layer, "replayed")]
        steps = [layer.step for layer in counting]
        arrays, numbers = self._arrays(), self._numbers()
        trainer.optimizer.before_replay(self._rows)
        error: Exception | None = None
        graph = loss = None
        try:
            self._stream.begin_capture()
            try:
                loss = self._launched(self._rows)
            finally:
                graph = self._stream.end_capture()
            if not _device.is_device(loss):
                raise RuntimeError("the network reads its loss in the middle of the step")
        except Exception as failure:
            error = failure
        if error is not None:
            network.set_counters(layers, counters)
            trainer.optimizer.iter = iterations
            self._graph_wanted = False
            self.reason = " ".join(str(error).split()) or type(error).__name__
            warnings.warn(
                f"the training step could not become a CUDA graph and runs kernel by kernel, which is slower for small "
                f"networks: {self.reason}",
                RuntimeWarning,
                stacklevel=2,
            )
            return False
        passes = [(layer, layer.step - step) for layer, step in zip(counting, steps, strict=True)]
        self._captured = _Captured(graph, loss, passes, arrays, numbers)
        return True

    def _arrays(self) -> list[Any]:
        """What a step writes and does not make."""
        trainer = self._trainer
        found = [*trainer.network.params.values(), *network.named_buffers(trainer._layers()).values()]
        if trainer._mixed is not None:
            found += trainer._mixed.network.params.values()
        for name in trainer.optimizer.states:
            found += (getattr(trainer.optimizer, name) or {}).values()
        return found

    def _numbers(self) -> tuple[Any, ...]:
        optimizer = self._trainer.optimizer
        numbers = (getattr(optimizer, name) for name in optimizer.numbers)
        return (optimizer, optimizer.weight_decay, backend.current(), *numbers)

    def _fits(self, captured: _Captured) -> bool:
        """Whether the record is still that of a step."""
        arrays = self._arrays()
        return (
            len(arrays) == len(captured.arrays)
            and all(a is b for a, b in zip(arrays, captured.arrays, strict=True))
            and self._numbers() == captured.numbers
        )

    def forget(self) -> None:
        """Drops the record: the next steps make another."""
        if self._captured is not None:
            self._stream.synchronize()
        self._captured, self._warm = None, 0

    # ---- losses -----------------------------------------------------------------------------------------------------

    def _keep(self, loss: Any) -> None:
        if self._losses is None or self._losses.dtype != loss.dtype:
            self._read()
            self._losses = _device.empty((LOSSES,), loss.dtype)
        elif self._waiting == LOSSES:
            self._read()
        self._losses[self._waiting : self._waiting + 1].data.copy_from_device_async(loss.data, loss.nbytes)
        self._waiting += 1

    def _read(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, 0
            self._trainer.train_loss_list += _device.to_host(self._losses[:waiting]).astype(np.float64).tolist()

    def read_losses(self) -> None:
        """Waits for the device, and adds the losses of the last steps to ``train_loss_list``."""
        if self._waiting:
            with self.current():
                self._read()
