"""Trainer: sampling, the book's loop, records, checkpoints, interruption."""

from __future__ import annotations

import json
import signal
import threading

import numpy as np
import pytest

from fastdl.layers import Affine, BatchNormalization, Convolution, Dropout, Pooling, Relu, SoftmaxWithLoss
from fastdl.models import Model
from fastdl.network import named_params
from fastdl.optim import SGD, Adam, Momentum
from fastdl.train import CheckpointError, Progress, Trainer


class Net(Model):
    """Small, with everything that has a state: batch statistics, and both kinds of dropout."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__("float32")
        rng = np.random.default_rng(seed)

        def w(*shape):
            return (0.4 * rng.standard_normal(shape)).astype(np.float32)

        self.layers = [
            Convolution(w(3, 1, 3, 3), w(3), pad=1),
            BatchNormalization(1 + w(3), w(3), per_channel=True),
            Relu(),
            Pooling(2, 2),
            Affine(w(12, 8), w(8)),
            Dropout(0.2),
            Affine(w(8, 3), w(3)),
            Dropout(0.1, seed=seed + 1),
        ]
        self.last_layer = SoftmaxWithLoss()
        self.params = named_params(self.layers)


def data(n: int = 23, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    t = rng.integers(0, 3, n)
    return (rng.random((n, 1, 4, 4)) + 0.3 * t[:, None, None, None]).astype(np.float32), t


X, T = data()
X_TEST, T_TEST = data(11, 1)


def make(network=None, **options) -> Trainer:
    options = {"epochs": 3, "mini_batch_size": 5, "verbose": False, "seed": 0, "optimizer": "Adam", **options}
    options.setdefault("optimizer_param", {"lr": 0.01})
    return Trainer(network or Net(), X, T, X_TEST, T_TEST, **options)


class Recorder:
    """A network that records its batches: a batch is known by its labels, which are the images' numbers."""

    def __init__(self) -> None:
        self.params = {"W1": np.zeros(2)}
        self.batches: list[list[int]] = []
        self.events: list[str] = []

    def gradient(self, x, t):
        np.testing.assert_array_equal(x[:, 0], t)
        self.batches.append(t.tolist())
        self.events.append("gradient")
        return {"W1": np.ones(2)}

    def loss(self, x, t):
        self.events.append("loss")
        return np.float64(t.sum())

    def accuracy(self, x, t):
        self.events.append(f"accuracy {len(x)}")
        return len(x) / 100


def recorded(n: int = 10, n_test: int = 4, **options) -> tuple[Recorder, Trainer]:
    network, numbers = Recorder(), np.arange(n)
    x = np.repeat(numbers[:, None], 2, axis=1).astype(float)
    options = {"epochs": 2, "mini_batch_size": 4, "verbose": False, **options}
    trainer = Trainer(network, x, numbers, x[:n_test], numbers[:n_test], **options)
    trainer.train()
    return network, trainer


# ---- sampling and records -------------------------------------------------------------------------------------------


def test_shuffled_epochs_visit_every_image_once():
    network, trainer = recorded(seed=0)
    assert [len(batch) for batch in network.batches] == [4, 4, 2, 4, 4, 2]
    first, second = ([i for batch in network.batches[k : k + 3] for i in batch] for k in (0, 3))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert (trainer.max_iter, trainer.current_iter, trainer.current_epoch) == (6, 6, 2)
    assert network.events == (["gradient", "loss"] * 3 + ["accuracy 10", "accuracy 4"]) * 2
    assert recorded(seed=0)[0].batches == network.batches
    assert recorded(seed=1)[0].batches != network.batches


def test_a_batch_may_be_larger_than_the_training_set():
    assert [len(batch) for batch in recorded(mini_batch_size=99)[0].batches] == [10, 10]


def test_history_has_a_record_per_epoch():
    network, trainer = recorded(seed=0)
    assert trainer.train_acc_list == [0.1, 0.1]
    assert trainer.test_acc_list == [0.04, 0.04]
    assert trainer.final_test_acc == 0.04
    assert trainer.train_loss_list == [float(sum(batch)) for batch in network.batches]
    assert [r["epoch"] for r in trainer.history] == [1, 2]
    for record in trainer.history:
        assert list(record) == [
            "epoch", "train_loss", "train_accuracy", "test_accuracy", "seconds", "images_per_second"
        ]  # fmt: skip
        assert record["train_loss"] == 15.0
        assert (record["train_accuracy"], record["test_accuracy"]) == (0.1, 0.04)
        np.testing.assert_allclose(record["images_per_second"] * record["seconds"], 10)
    json.dumps(trainer.history)


def test_evaluation_on_a_sample_and_at_the_end_on_everything():
    network, trainer = recorded(evaluate_sample_num_per_epoch=3)
    assert [e for e in network.events if e.startswith("acc")] == ["accuracy 3"] * 4 + ["accuracy 4"]
    assert trainer.final_test_acc == 0.04


def test_a_model_is_run_once_per_step():
    class Counting(Net):
        calls = 0

        def loss(self, x, t):
            self.calls += 1
            return super().loss(x, t)

    network = Counting()
    trainer = make(network)
    trainer.train()
    assert network.calls == trainer.max_iter == 15


def test_training_learns():
    trainer = make(epochs=40)
    trainer.train()
    assert np.mean(trainer.train_loss_list[-5:]) < 0.7 * np.mean(trainer.train_loss_list[:5])
    assert trainer.test_acc_list[-1] > 0.6


def test_schedule_sets_the_rate_of_every_step():
    seen, rates = [], []

    def schedule(epoch):
        seen.append(epoch)
        return 0.1 / (1 + epoch)

    class Spy(SGD):
        def update(self, params, grads):
            rates.append(self.lr)
            super().update(params, grads)

    recorded(schedule=schedule, optimizer=Spy())
    np.testing.assert_allclose(seen, np.arange(6) / 3)
    np.testing.assert_allclose(rates, 0.1 / (1 + np.arange(6) / 3))


def test_optimizers_by_name_and_as_objects():
    for name, kind in (("SGD", SGD), ("adam", Adam), ("momentum", Momentum), ("rmsprpo", None)):
        trainer = make(optimizer=name)
        assert kind is None or type(trainer.optimizer) is kind
        assert trainer.optimizer.lr == 0.01
    assert Trainer(Net(), X, T, X, T).optimizer.lr == 0.01
    assert make(weight_decay=0.5).optimizer.weight_decay == 0.5
    mine = Adam(0.5)
    assert make(optimizer=mine, optimizer_param=None).optimizer is mine
    with pytest.raises(ValueError, match="one of SGD"):
        make(optimizer="lion")
    with pytest.raises(ValueError, match="belong to an optimizer that is named"):
        make(optimizer=mine, optimizer_param=None, weight_decay=0.1)


@pytest.mark.parametrize(
    "options", [{"sampling": "none"}, {"mini_batch_size": 0}, {"epochs": -1}, {"checkpoint_every": 0}]
)
def test_options_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        make(**options)
    with pytest.raises(ValueError, match="23 training images with 22 labels"):
        Trainer(Net(), X, T[:-1], X_TEST, T_TEST)


def test_no_epochs_still_evaluate():
    trainer = make(epochs=0)
    trainer.train()
    assert trainer.train_loss_list == []
    assert 0 <= trainer.final_test_acc <= 1


# ---- the book's loop ------------------------------------------------------------------------------------------------


def test_book_sampling_is_the_books_loop_number_for_number():
    np.random.seed(4)
    trainer = make(Net(), sampling="book", epochs=2, evaluate_sample_num_per_epoch=8)
    trainer.train()
    state_after = np.random.get_state(legacy=False)["state"]["pos"]

    np.random.seed(4)
    network, optimizer = Net(), Adam(0.01)
    losses, train_accs, test_accs = [], [], []
    per_epoch = 23 / 5
    for i in range(int(2 * per_epoch)):
        chosen = np.random.choice(23, 5)
        optimizer.update(network.params, network.gradient(X[chosen], T[chosen]))
        losses.append(network.loss(X[chosen], T[chosen]))
        if i % per_epoch == 0:
            train_accs.append(network.accuracy(X[:8], T[:8]))
            test_accs.append(network.accuracy(X_TEST[:8], T_TEST[:8]))
    assert trainer.train_loss_list == losses
    assert trainer.train_acc_list == train_accs
    assert trainer.test_acc_list == test_accs
    assert trainer.final_test_acc == network.accuracy(X_TEST, T_TEST)
    assert np.random.get_state(legacy=False)["state"]["pos"] == state_after
    for name, p in network.params.items():
        np.testing.assert_array_equal(trainer.network.params[name], p)


def test_book_epochs_are_evaluated_after_their_first_step():
    network, _ = recorded(n=8, sampling="book")
    once = ["gradient", "loss"]
    assert network.events == [*once, "accuracy 8", "accuracy 4", *once] * 2 + ["accuracy 4"]


def test_verbose_prints_what_the_book_prints(capsys):
    make(sampling="book", epochs=1, verbose=True).train()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("train loss:")
    assert lines[1].startswith("=== epoch:1, train acc:0.")
    assert ", test acc:0." in lines[1] and lines[1].endswith(" ===")
    assert lines[-2] == "=============== Final Test Accuracy ==============="
    assert lines[-1].startswith("test acc:0.")
    assert len(lines) == 4 + 3
    make(epochs=2, verbose=True).train()
    assert len(capsys.readouterr().out.splitlines()) == 2 + 2, "a line per epoch without the steps"


def test_progress_is_told_everything_in_order():
    events = []

    class Log(Progress):
        def start(self, trainer):
            events.append(("start", trainer.current_iter, trainer.max_iter))

        def step(self, trainer, loss):
            assert loss == trainer.train_loss_list[-1]
            events.append("step")

        def epoch(self, trainer, record):
            assert record is trainer.history[-1]
            events.append("epoch")

        def finish(self, trainer):
            events.append("finish")

    make(epochs=2, progress=Log()).train()
    assert events == [("start", 0, 10)] + (["step"] * 5 + ["epoch"]) * 2 + ["finish"]


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def state(trainer: Trainer) -> dict[str, np.ndarray]:
    batch_norm = trainer.network.layers[1]
    return {
        **trainer.network.params,
        "running_mean": batch_norm.running_mean,
        "running_var": batch_norm.running_var,
        "m": np.concatenate([m.ravel() for m in trainer.optimizer.m.values()]),
        "losses": np.array(trainer.train_loss_list),
        "train": np.array(trainer.train_acc_list),
        "test": np.array(trainer.test_acc_list),
        "epochs": np.array([r["train_loss"] for r in trainer.history]),
        "final": np.array(trainer.final_test_acc),
        "numpy.random": np.random.rand(3),
    }


class InterruptAfter(Progress):
    """Ctrl-C in a callback, or (``in_step``) a signal in the middle of the next gradient."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def step(self, trainer, loss):
        if trainer.current_iter == self.steps:
            raise KeyboardInterrupt


class SignalledNet(Net):
    """Ctrl-C comes while the n-th gradient is worked out."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.countdown = step

    def loss_and_gradient(self, x, t):
        self.countdown -= 1
        if self.countdown == 0:
            signal.raise_signal(signal.SIGINT)
        return super().loss_and_gradient(x, t)

    def gradient(self, x, t):
        return self.loss_and_gradient(x, t)[1]


class InterruptedEvaluation(Net):
    """Ctrl-C comes while an epoch is evaluated."""

    calls = 0

    def accuracy(self, x, t, batch_size=100):
        self.calls += 1
        if self.calls == 3:
            raise KeyboardInterrupt
        return super().accuracy(x, t, batch_size)


@pytest.mark.parametrize("sampling", ["shuffle", "book"])
@pytest.mark.parametrize("where", ["callback 1", "callback 7", "callback 9", "callback 10", "signal 8", "evaluation"])
def test_interrupted_and_resumed_training_gives_the_same_bits(tmp_path, sampling, where):
    options = {"epochs": 3, "sampling": sampling}
    np.random.seed(11)
    straight = make(**options)
    straight.train()
    expected = state(straight)

    np.random.seed(11)
    kind, _, step = where.partition(" ")
    network = {"signal": lambda: SignalledNet(8), "evaluation": InterruptedEvaluation}.get(kind, Net)()
    network.__class__.__name__ = "Net"
    progress = InterruptAfter(int(step)) if kind == "callback" else None
    first = make(network, output=tmp_path / "run", progress=progress, checkpoint_every=2, **options)
    with pytest.raises(KeyboardInterrupt):
        first.train()
    assert first.interrupted
    assert kind == "evaluation" or first.current_iter == int(step), "the step was finished, and none after it"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["checkpoint.npz"]

    np.random.seed(99)
    second = make(Net(seed=5), output=tmp_path / "run", **options)
    second.resume(first.checkpoint_path)
    assert second.current_iter == first.current_iter
    second.train()
    assert not second.interrupted
    found = state(second)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert len(second.history) == second.current_epoch == straight.current_epoch


def test_training_goes_on_in_the_same_process_too():
    np.random.seed(2)
    straight = make()
    straight.train()
    np.random.seed(2)
    trainer = make(progress=InterruptAfter(7))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train()
    np.testing.assert_array_equal(trainer.network.params["W1"], straight.network.params["W1"])


def test_more_epochs_after_the_end(tmp_path):
    np.random.seed(2)
    straight = make(epochs=4)
    straight.train()
    np.random.seed(2)
    first = make(epochs=2, output=tmp_path)
    first.train()
    second = make(epochs=4, output=tmp_path)
    second.resume(tmp_path / "checkpoint.npz")
    second.train()
    np.testing.assert_array_equal(second.network.params["W1"], straight.network.params["W1"])
    assert second.test_acc_list == straight.test_acc_list
    assert second.current_epoch == 4


def test_resume_refuses_other_settings_and_changes_nothing(tmp_path):
    first = make(output=tmp_path, settings={"dataset": "toy"})
    first.train()
    path = first.checkpoint_path
    for options, message in (
        ({"mini_batch_size": 6}, "mini_batch_size is 6 here and 5 in the checkpoint"),
        ({"optimizer": "SGD"}, "optimizer is 'SGD' here and 'Adam' in the checkpoint"),
        ({"optimizer_param": {"lr": 0.5}}, r"lr is 0\.5 here and 0\.01"),
        ({"optimizer_param": {"lr": 0.01, "beta1": 0.5}}, r"beta1 is 0\.5"),
        ({"weight_decay": 0.5}, "weight_decay"),
        ({"sampling": "book"}, "sampling"),
        ({"seed": 1}, "seed is 1 here and 0"),
        ({"settings": {"dataset": "other"}}, "dataset is 'other' here and 'toy'"),
        ({"schedule": lambda epoch: 0.1}, "schedule"),
    ):
        network = Net(seed=7)
        before = network.params["W1"].copy()
        with pytest.raises(
            CheckpointError, match=f"{path.name} belongs to a training with other settings: .*{message}"
        ):
            make(network, **{"settings": {"dataset": "toy"}, **options}).resume(path)
        np.testing.assert_array_equal(network.params["W1"], before)
    x, t = data(seed=8)
    with pytest.raises(CheckpointError, match="training set"):
        Trainer(Net(), x, t, X_TEST, T_TEST, 3, 5, "Adam", {"lr": 0.01}, seed=0).resume(path)
    make(settings={"dataset": "toy"}).resume(path)


def test_a_rate_changed_by_hand_is_kept(tmp_path):
    first = make(output=tmp_path)
    first.optimizer.lr = 0.005
    first.train()
    second = make()
    second.resume(first.checkpoint_path)
    assert second.optimizer.lr == 0.005


def test_damaged_checkpoints_are_refused(tmp_path):
    first = make(output=tmp_path)
    first.train()
    path = first.checkpoint_path
    content = path.read_bytes()
    network = Net(seed=7)
    before = network.params["W1"].copy()
    for damaged in (b"", b"not a checkpoint", content[:-50], content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"checkpoint\.npz"):
            make(network).resume(path)
    first.network.save_params(path)
    with pytest.raises(CheckpointError, match="is no checkpoint of a training"):
        make(network).resume(path)
    with pytest.raises(FileNotFoundError):
        make(network).resume(tmp_path / "absent.npz")
    np.testing.assert_array_equal(network.params["W1"], before)


@pytest.mark.parametrize("missing", ["parameter.W2", "optimizer.m.W1", "train_loss_list", "document"])
def test_incomplete_checkpoints_are_refused(tmp_path, missing):
    first = make(output=tmp_path)
    first.train()
    path = first.checkpoint_path
    with np.load(path) as saved:
        arrays = dict(saved)
    assert missing in arrays
    del arrays[missing]
    np.savez(path, **arrays)
    network = Net(seed=7)
    before = network.params["W1"].copy()
    with pytest.raises(CheckpointError, match=r"checkpoint\.npz"):
        make(network).resume(path)
    np.testing.assert_array_equal(network.params["W1"], before)


def test_checkpoints_come_every_so_often(tmp_path):
    found = []

    class Look(Progress):
        def epoch(self, trainer, record):
            found.append(trainer.checkpoint_path.exists())
            trainer.checkpoint_path.unlink(missing_ok=True)

    trainer = make(epochs=4, output=tmp_path, checkpoint_every=2, progress=Look())
    trainer.train()
    assert found == [False, False, True, False]
    assert trainer.checkpoint_path.exists(), "at the end"


def test_checkpoints_by_hand(tmp_path):
    trainer = make()
    trainer.train_step()
    trainer.save_checkpoint(tmp_path / "mine")
    other = make(Net(seed=3))
    other.resume(tmp_path / "mine")
    np.testing.assert_array_equal(other.network.params["W1"], trainer.network.params["W1"])
    with pytest.raises(ValueError, match="needs the path"):
        trainer.save_checkpoint()


def test_ctrl_c_twice_stops_at_once_and_writes_nothing(tmp_path):
    class Impatient(Net):
        def loss_and_gradient(self, x, t):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("still running")

    trainer = make(Impatient(), output=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.interrupted
    assert list(tmp_path.iterdir()) == []


def test_training_runs_in_any_thread():
    trainer, errors = make(epochs=1), []

    def run():
        try:
            trainer.train()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert errors == []
    assert trainer.current_epoch == 1


def test_a_handler_of_the_callers_own_stays():
    def handler(number, frame):
        pass

    before = signal.signal(signal.SIGINT, handler)
    try:
        make(SignalledNet(2), epochs=1).train()
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
