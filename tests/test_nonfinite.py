"""Training that meets NaN or infinity: it stops, names the layer, and keeps the last good checkpoint."""

from __future__ import annotations

import numpy as np
import pytest

from fastdl import nonfinite
from fastdl.layers import Affine, BatchNormalization, Convolution, Dropout, Pooling, Relu
from fastdl.models import Model
from fastdl.network import Residual
from fastdl.train import NonFiniteError, Progress, Trainer


class Net(Model):
    """Convolutions beside and inside a container, batch statistics, dropout."""

    def __init__(self, between: tuple = (), dtype: str = "float32") -> None:
        super().__init__(dtype)
        rng = np.random.default_rng(0)

        def w(*shape):
            return (0.4 * rng.standard_normal(shape)).astype(dtype)

        norm = BatchNormalization(np.ones(3, dtype), np.zeros(3, dtype), per_channel=True)
        layers = [
            Convolution(w(3, 1, 3, 3), w(3), pad=1),
            norm,
            Relu(),
            Residual([Convolution(w(3, 3, 3, 3), w(3), pad=1), Relu()]),
            *between,
            Convolution(w(2, 3, 3, 3), w(2), pad=1),
            Pooling(2, 2),
            Affine(w(8, 3), w(3)),
            Dropout(0.1, seed=1),
        ]
        self._assemble((1, 4, 4), layers)


class PlainNet(Net):
    """Its batch normalisation is gone, which would take a huge scale away again."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self._assemble((1, 4, 4), [layer for layer in self.layers if not isinstance(layer, BatchNormalization)])


class Spoiler(Relu):
    """Its gradient is NaN from a step on."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step

    def backward(self, dout):
        self.left -= 1
        return super().backward(dout) if self.left > 0 else np.full_like(dout, np.nan)


RNG = np.random.default_rng(3)
X, T = RNG.random((20, 1, 4, 4)).astype(np.float32), RNG.integers(3, size=20)


def trainer(net=None, x=X, **options) -> Trainer:
    options = {"epochs": 3, "mini_batch_size": 5, "verbose": False, "seed": 0, "optimizer": "Adam", **options}
    return Trainer(net or Net(), x, T, X[:6], T[:6], **options)


class Do(Progress):
    """Does something after a step."""

    def __init__(self, step: int, what) -> None:
        self.at, self.what = step, what

    def step(self, trainer, loss):
        if trainer.current_iter == self.at:
            self.what(trainer)


def spoil(name: str, value: float = np.nan):
    def change(trainer):
        trainer.network.params[name].flat[-1] = value

    return change


# ---- which layer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("name", "layer", "what"),
    [
        ("W1", "Convolution 1 (W1)", "parameter W"),
        ("b2", "Convolution 2 (W2)", "parameter b"),
        ("beta1", "BatchNormalization 1 (gamma1)", "parameter beta"),
        ("W4", "Affine 1 (W4)", "parameter W"),
    ],
)
def test_a_bad_parameter_is_named(name, layer, what, value):
    run = trainer(progress=Do(2, spoil(name, value)))
    with pytest.raises(NonFiniteError) as error:
        run.train()
    assert (error.value.layer, error.value.step, error.value.checkpoint) == (layer, 3, None)
    found = str(error.value)
    assert found.startswith("the loss is nan at step 3 of 12: ")
    assert found.endswith(f"the {what} of {layer} is the first that is not finite; there is no checkpoint")
    assert isinstance(error.value, FloatingPointError)


def test_an_output_that_overflows_is_named():
    net = PlainNet()
    net.params["W1"] *= 1e25
    net.params["W2"] *= 1e25
    before = {name: p.copy() for name, p in net.params.items()}
    with pytest.raises(NonFiniteError, match=r"at step 1 of 12: the output of Convolution 2 \(W2\) is the first that"):
        trainer(net).train()
    for name, p in net.params.items():
        np.testing.assert_array_equal(p, before[name], err_msg="there was no update")
    assert not any({"forward", "backward"} & set(layer.__dict__) for layer, _ in nonfinite.names(net.layers))


def test_a_gradient_that_is_bad_shows_in_the_next_loss_and_names_the_layer_before_it():
    run = trainer(Net((Spoiler(2),)))
    with pytest.raises(NonFiniteError, match=r"the loss is nan at step 3") as error:
        run.train()
    assert error.value.layer == "Convolution 2 (W2)", "what comes after the spoiler has good gradients"
    assert len(run.train_loss_list) == 2 and np.isfinite(run.train_loss_list).all()


def test_bad_images_are_named():
    x = X.copy()
    x[7] = np.inf
    with pytest.raises(NonFiniteError, match="the batch of images is the first that is not finite") as error:
        trainer(x=x).train()
    assert error.value.layer is None


def test_a_gradient_is_found_in_the_backward_pass():
    layer, what = nonfinite.culprit(net := Net((Spoiler(0),)), X, T)
    assert (layer, what) == ("Spoiler 1", "the gradient by the input of Spoiler 1 is the first that is not finite")
    layer, what = nonfinite.culprit(Net(), X, T)
    assert layer is None and what.startswith("no layer showed it when the batch was repeated")
    assert not any({"forward", "backward"} & set(layer.__dict__) for layer, _ in nonfinite.names(net.layers))


def test_names_are_those_of_the_parameters():
    net = Net()
    assert [name for _, name in nonfinite.names(net.layers)] == [
        "Convolution 1 (W1)",
        "BatchNormalization 1 (gamma1)",
        "Relu 1",
        "Convolution 2 (W2)",
        "Relu 2",
        "Convolution 3 (W3)",
        "Pooling 1",
        "Affine 1 (W4)",
        "Dropout 1",
    ]
    for layer, name in nonfinite.names(net.layers):
        if "(" in name:
            assert net.params[name.partition("(")[2][:-1]] is layer.params[layer.parameters[0]]


def test_networks_without_layers_stop_too():
    class Odd:
        """Its loss becomes NaN."""

        def __init__(self):
            self.params, self.calls = {"W1": np.zeros(2)}, 0

        def gradient(self, x, t):
            return {"W1": np.ones(2)}

        def loss(self, x, t):
            self.calls += 1
            return 1.0 if self.calls < 3 else float("nan")

        def accuracy(self, x, t):
            return 0.5

    with pytest.raises(NonFiniteError, match="the loss is nan at step 3 of 12: no layer showed it"):
        trainer(Odd()).train()


# ---- checkpoints ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["shuffle", "book"])
def test_the_last_good_checkpoint_stays_and_training_goes_on_from_it(tmp_path, sampling):
    np.random.seed(5)
    straight = trainer(sampling=sampling, epochs=2)
    straight.train()

    np.random.seed(5)
    run = trainer(sampling=sampling, epochs=2, output=tmp_path, progress=Do(6, spoil("W3")))
    with pytest.raises(NonFiniteError) as error:
        run.train()
    assert error.value.step == 7 and error.value.checkpoint == tmp_path / "checkpoint.npz"
    step = 4 if sampling == "shuffle" else 5
    assert f"; the last good checkpoint is {run.checkpoint_path}, of step {step}" in str(error.value)
    kept = run.checkpoint_path.read_bytes()
    with pytest.raises(NonFiniteError):
        run.save_checkpoint()
    assert run.checkpoint_path.read_bytes() == kept

    again = trainer(sampling=sampling, epochs=2, output=tmp_path)
    again.resume(error.value.checkpoint)
    assert again.current_iter == step
    again.train()
    for name, p in straight.network.params.items():
        np.testing.assert_array_equal(again.network.params[name], p)


@pytest.mark.parametrize("step", [4, 12])
def test_bad_parameters_after_the_last_step_of_an_epoch_are_not_written(tmp_path, step):
    run = trainer(Net((Spoiler(step),)), output=tmp_path)
    with pytest.raises(NonFiniteError, match="parameters are infinite or NaN") as error:
        run.train()
    assert (error.value.step, error.value.layer) == (step, "Convolution 2 (W2)")
    assert error.value.checkpoint == (None if step == 4 else run.checkpoint_path)
    assert run.checkpoint_path.exists() == (step == 12)
    assert len(run.history) == step // 4 - 1


def test_bad_running_statistics_are_seen():
    def spoil_statistics(trainer):
        trainer.network.layers[1].running_var = np.array([1.0, np.nan, 1.0])

    with pytest.raises(NonFiniteError, match=r"the running_var of BatchNormalization 1 \(gamma1\)"):
        trainer(progress=Do(3, spoil_statistics)).train()


def test_ctrl_c_does_not_save_what_is_bad(tmp_path):
    def interrupt(trainer):
        spoil("W1")(trainer)
        raise KeyboardInterrupt

    run = trainer(output=tmp_path, progress=Do(6, interrupt))
    with pytest.raises(NonFiniteError, match="of step 4"):
        run.train()
    with np.load(run.checkpoint_path) as kept:
        assert np.isfinite(kept["parameter.W1"]).all()


def test_a_checkpoint_that_was_resumed_is_a_good_one(tmp_path):
    first = trainer(epochs=1, output=tmp_path)
    first.train()
    second = trainer(progress=Do(5, spoil("W1")))
    second.resume(first.checkpoint_path)
    with pytest.raises(NonFiniteError, match=r"the last good checkpoint is .*checkpoint\.npz, of step 4"):
        second.train()


def test_good_steps_look_at_no_array(monkeypatch):
    looks, after_steps = [], []

    class Count(Progress):
        def step(self, trainer, loss):
            after_steps.append(len(looks))

    finite = nonfinite.finite
    monkeypatch.setattr(nonfinite, "finite", lambda value: looks.append(1) or finite(value))
    run = trainer(epochs=2, progress=Count())
    run.train()
    each = len(run.network.params) + 2
    assert after_steps == [0] * 4 + [each] * 4


# ---- on a device ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [True, False])
def test_losses_of_a_device_stop_training_where_they_are_read(cupy, tmp_path, graph):
    net = Net(dtype="float64")
    x = X.astype(np.float64)
    x[np.random.default_rng(0).permutation(20)[5]] = np.nan  # of the second batch
    run = trainer(net, x, epochs=2, device="cuda", graph=graph, output=tmp_path)
    with pytest.raises(NonFiniteError, match="the loss is nan at step 2 of 8") as error:
        run.train()
    assert error.value.step == 2 and list(tmp_path.iterdir()) == []
