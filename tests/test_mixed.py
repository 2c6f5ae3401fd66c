"""Training in 16 bits: float32 parameters, the loss scale, steps that are skipped, stochastic rounding, checkpoints."""

from __future__ import annotations

import numpy as np
import pytest

import fake_cupy
from fastdl import backend as settings
from fastdl import functional as F
from fastdl import mixed, network, optim
from fastdl.layers import Affine, BatchNormalization, Convolution, Dropout, Layer, Pooling, Relu, SoftmaxWithLoss
from fastdl.models import Model
from fastdl.train import CheckpointError, NonFiniteError, Progress, Trainer


class Net(Model):
    """Small, with everything that has a state: batch statistics, and both kinds of dropout."""

    def __init__(self, seed: int = 0, dtype: str = "float32", first: tuple = ()) -> None:
        super().__init__(dtype)
        rng = np.random.default_rng(seed)

        def w(*shape):
            return (0.4 * rng.standard_normal(shape)).astype(dtype)

        norm = BatchNormalization(1 + w(3), w(3), per_channel=True)
        layers = [
            *first,
            Convolution(w(3, 1, 3, 3), w(3), pad=1),
            norm,
            Relu(),
            Pooling(2, 2),
            Affine(w(12, 8), w(8)),
            Dropout(0.2),
            Affine(w(8, 3), w(3)),
            Dropout(0.1, seed=seed + 1),
        ]
        self._assemble((1, 4, 4), layers)


RNG = np.random.default_rng(0)
T = RNG.integers(0, 3, 23)
X = (RNG.random((23, 1, 4, 4)) + 0.3 * T[:, None, None, None]).astype(np.float32)


def make(net=None, precision: str | None = "float16", **options) -> Trainer:
    options = {"epochs": 3, "mini_batch_size": 5, "verbose": False, "seed": 0, "optimizer": "Adam", **options}
    options.setdefault("optimizer_param", {"lr": 0.01})
    return Trainer(net or Net(), X, T, X[:9], T[:9], precision=precision, **options)


@pytest.fixture(autouse=True)
def numpys_stream():
    """From which one of the dropouts draws: with some masks a gradient overflows that others leave."""
    np.random.seed(3)


@pytest.fixture(params=mixed.DTYPES)
def precision(request):
    """Each precision of 16 bits."""
    if request.param == "bfloat16":
        pytest.importorskip("ml_dtypes")
    return request.param


def state(trainer: Trainer) -> dict[str, np.ndarray]:
    norm = network.sequence(trainer.network)[1]
    return {
        **{name: p.copy() for name, p in trainer.network.params.items()},
        "running_mean": norm.running_mean,
        "running_var": norm.running_var,
        "counters": np.array(network.counters(network.sequence(trainer.network))),
        "m": np.concatenate([m.ravel() for m in trainer.optimizer.m.values()]),
        "losses": np.array(trainer.train_loss_list),
        "accuracies": np.array([trainer.train_acc_list, trainer.test_acc_list]),
        "scale": np.array([trainer.loss_scale or 0, trainer.skipped_steps]),
        "history": np.array([[r["train_loss"], r["skipped_steps"], r["loss_scale"] or 0] for r in trainer.history]),
    }


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


# ---- a step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", ["float32", "float64"])
@pytest.mark.parametrize("scale", [None, 2.0**10])
def test_steps_are_those_of_the_recipe(precision, stored, scale):
    """Round the parameters, run the passes, take the scale back in the parameters' dtype, update."""
    np.random.seed(1)
    run = make(Net(dtype=stored), precision, loss_scale=scale, epochs=1)
    run.train()

    np.random.seed(1)
    net, optimizer = Net(dtype=stored), optim.Adam(0.01)
    half = net.astype(precision)
    half.last_layer.gradient_scale = scale or 1.0
    order, losses = np.random.default_rng(0).permutation(23), []
    for first in range(0, 23, 5):
        chosen = order[first : first + 5]
        for name, p in net.params.items():
            half.params[name][...] = p.astype(half.dtype)
        loss, grads = half.loss_and_gradient(X[chosen].astype(stored), T[chosen])
        losses.append(loss)
        assert {g.dtype for g in grads.values()} == {half.dtype}
        optimizer.update(net.params, {k: g.astype(stored) / (scale or 1) for k, g in grads.items()})
    assert run.train_loss_list == losses
    for name, p in net.params.items():
        assert p.dtype == stored
        np.testing.assert_array_equal(run.network.params[name], p, err_msg=name)
    mine, other = run.network.layers[1], half.layers[1]
    np.testing.assert_array_equal(mine.running_mean, other.running_mean)
    np.testing.assert_array_equal(mine.running_var, other.running_var)
    assert network.counters(run.network.layers) == network.counters(half.layers)


def test_evaluation_runs_in_the_precision(precision):
    seen = []

    class Look(Layer):
        """Passes on, and notes the dtype."""

        def forward(self, x):
            seen.append(x.dtype.name)
            return x

        def backward(self, dout):
            return dout

    run = make(Net(first=(Look(),)), precision, epochs=4)
    run.train()
    assert set(seen) == {precision}
    assert run.test_acc_list[-1] == run.network.astype(precision).accuracy(X[:9], T[:9])
    assert {p.dtype.name for p in run.network.params.values()} == {"float32"}
    assert run.network.predict(X).dtype == np.float32, "the user's network stays what it was"


def test_updates_that_16_bits_would_lose_add_up(precision):
    net = Net()
    run = make(net, precision, optimizer="SGD", optimizer_param={"lr": 1e-5}, epochs=4)
    before = {name: p.copy() for name, p in net.params.items()}
    run.train()
    weights, old = net.params["W2"], before["W2"]
    assert (weights != old).mean() > 0.8
    step = np.abs(weights - old).max()
    assert step < np.spacing(np.abs(old).max().astype(np.float16)), "a half would not have seen one of these steps"


def test_a_scale_saves_small_gradients():
    """The second layer's weights make the first one's gradients too small for float16."""
    net = Model("float32")
    rng = np.random.default_rng(2)
    w1, w2 = rng.standard_normal((16, 4)).astype("f"), (1e-7 * rng.standard_normal((4, 3))).astype("f")
    net._assemble((16,), [Affine(w1, None), Affine(w2, None)])
    wanted = net.gradient(X[:5].reshape(5, 16), T[:5])["W1"]
    found = {}
    for scale in (None, 2.0**12):
        passes = mixed.MixedPrecision(net, "float16", scale, None, X[:2].reshape(2, 16), T[:2])
        passes.round(0)
        found[scale] = passes.loss_and_gradient(X[:5].reshape(5, 16), T[:5])[1]["W1"]
    share = np.abs(found[None] - wanted).max() / np.abs(wanted).max()
    assert share > 0.2, "without a scale they are rounded to multiples of 6e-8"
    # W2 itself is rounded to such multiples in float16, all other roundings are relative ones.
    rounded = net.astype("float16").astype("float32").gradient(X[:5].reshape(5, 16), T[:5])["W1"]
    assert np.abs(found[2.0**12] - rounded).max() <= 8 * 2.0**-11 * np.abs(rounded).max()


@pytest.mark.parametrize("labels", [T[:5], T[:5, None], np.eye(3)[T[:5]]])
def test_the_loss_scales_its_gradient_before_it_is_rounded(dtype, labels):
    plain, scaled = SoftmaxWithLoss(), SoftmaxWithLoss()
    scaled.gradient_scale = 64.0
    scores = np.random.default_rng(1).standard_normal((5, 3)).astype(dtype)
    assert plain.forward(scores, labels) == scaled.forward(scores, labels)
    found = scaled.backward()
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, (64 * plain.backward().astype(np.float64)).astype(dtype))


# ---- overflow -------------------------------------------------------------------------------------------------------


class Overflows(Layer):
    """Its gradient is infinite in some backward passes, or where it is beyond a limit, as if the dtype ended there."""

    def __init__(self, passes: tuple = (), limit: float | None = None) -> None:
        self.passes, self.limit, self.count = passes, limit, 0

    def forward(self, x):
        return x

    def backward(self, dout):
        self.count += 1
        if self.count - 2 in self.passes:  # the first is that of the trial
            return np.full_like(dout, np.inf)
        if self.limit is not None:
            return np.where(np.abs(dout) > self.limit, dout.dtype.type(np.inf), dout)
        return dout


def with_overflow(**options) -> Net:
    net = Net()
    net.layers.insert(4, Overflows(**options))
    return net


def test_steps_that_overflow_are_skipped_and_leave_no_trace():
    net, seen = with_overflow(passes=(0, 2, 3)), []

    class Look(Progress):
        def step(self, trainer, loss):
            layers = network.sequence(trainer.network)
            arrays = {**trainer.network.params, **network.named_buffers(layers)}
            seen.append(
                (
                    {name: a.copy() for name, a in arrays.items()},
                    network.counters(layers),
                    trainer.optimizer.iter,
                    trainer.loss_scale,
                    trainer.skipped_steps,
                )
            )

    start = {name: p.copy() for name, p in net.params.items()}
    run = make(net, progress=Look(), epochs=2)
    run.train()
    first = mixed.FIRST_SCALE
    assert [s[3] for s in seen[:5]] == [first / 2, first / 2, first / 4, first / 8, first / 8]
    assert [s[4] for s in seen] == [1, 1, 2, 3, 3, 3, 3, 3, 3, 3]
    assert [s[2] for s in seen] == [0, 1, 1, 1, 2, 3, 4, 5, 6, 7]
    same({name: seen[0][0][name] for name in start}, start)
    assert seen[0][0].keys() == start.keys(), "no running statistics of a pass that did not count"
    for skipped in (2, 3):
        same(seen[skipped][0], seen[1][0])
        assert seen[skipped][1] == seen[1][1]
    assert any((seen[4][0][name] != seen[1][0][name]).any() for name in start)
    assert len(run.train_loss_list) == 10 and np.isfinite(run.train_loss_list).all()
    assert [(r["skipped_steps"], r["loss_scale"]) for r in run.history] == [(3, first / 8), (0, first / 8)]


def test_the_scale_falls_until_the_gradients_fit_and_rises_again(monkeypatch):
    monkeypatch.setattr(mixed, "PATIENCE", 3)
    scales = []

    class Look(Progress):
        def step(self, trainer, loss):
            scales.append(trainer.loss_scale)

    make(with_overflow(limit=500), progress=Look(), epochs=8).train()
    steps = np.diff(np.log2([mixed.FIRST_SCALE, *scales]))
    assert list(steps[:4]) == [-1] * 4, "from 65536 until the gradients fit"
    marks = "".join({-1: "s", 0: ".", 1: "d"}[int(step)] for step in steps)
    assert marks.count("d") > 3 and "ds" in marks, "the doubled scale is tried, and too large"
    assert all(run == "." * len(run) and len(run) < 3 for run in marks.replace("..d", "s").split("s")), marks


def test_a_rounding_to_bfloat16_needs_no_scale():
    pytest.importorskip("ml_dtypes")
    run = make(precision="bfloat16", epochs=1)
    run.train()
    assert run.loss_scale is None and run.skipped_steps == 0
    assert make(precision="bfloat16", loss_scale="dynamic").loss_scale == mixed.FIRST_SCALE
    assert make(loss_scale=8).loss_scale == 8.0
    assert make(loss_scale=None).loss_scale is None


def test_a_gradient_that_no_scale_can_save_ends_training():
    net = with_overflow(passes=range(1, 99))
    run = make(net, epochs=9)
    with pytest.raises(NonFiniteError, match=r"a gradient is infinite or NaN with loss scale 1\.0 at step 18") as error:
        run.train()
    assert error.value.layer == "Overflows 1"
    assert run.skipped_steps == 16


def test_a_fixed_scale_skips_nothing():
    with pytest.raises(NonFiniteError, match=r"with loss scale 4096\.0 at step 3 of 15") as error:
        make(with_overflow(passes=(2, 3)), loss_scale=4096).train()
    assert error.value.layer == "Overflows 1"


def test_outputs_beyond_float16_end_training_and_are_named():
    net = Net()
    net.params["W2"][...] = 6e4
    with pytest.raises(NonFiniteError, match=r"the loss is nan at step 1 .*: the output of Affine 1 \(W2\)"):
        make(net).train()
    assert np.isfinite(net.params["W1"]).all()


# ---- stochastic rounding --------------------------------------------------------------------------------------------


def test_stochastic_rounding_is_repeatable_and_its_own_for_each_parameter(precision):
    results = []
    for seed in (0, 0, 1):
        np.random.seed(3)
        run = make(Net(), precision, stochastic_rounding=True, seed=seed)
        run._mixed.round(7)
        results.append({name: p.copy() for name, p in run._mixed.network.params.items()})
        np.testing.assert_array_equal(
            results[-1]["W2"], F.stochastic_cast(run.network.params["W2"], precision, run._mixed.seeds[4], 7)
        )
        assert len(set(run._mixed.seeds)) == len(run.network.params) and list(run.network.params)[4] == "W2"
    same(results[1], results[0])
    assert any((results[2][name] != p).any() for name, p in results[0].items())
    run._mixed.round(8)
    assert any((run._mixed.network.params[name] != p).any() for name, p in results[2].items())
    np.random.seed(3)
    run = make(Net(dtype="float64"), precision, stochastic_rounding=True, epochs=1)
    run.train()
    assert run.network.params["W1"].dtype == np.float64


# ---- checkpoints ----------------------------------------------------------------------------------------------------


class InterruptAfter(Progress):
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def step(self, trainer, loss):
        if trainer.current_iter == self.steps:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("at", [1, 5, 8])
def test_resumed_training_gives_the_same_bits(tmp_path, monkeypatch, precision, stochastic, at):
    monkeypatch.setattr(mixed, "PATIENCE", 2)
    options = {"precision": precision, "stochastic_rounding": stochastic, "loss_scale": "dynamic"}
    np.random.seed(11)
    straight = make(with_overflow(limit=500), **options)
    straight.train()
    assert 0 < straight.skipped_steps < straight.max_iter - 3

    np.random.seed(11)
    first = make(with_overflow(limit=500), output=tmp_path, progress=InterruptAfter(at), **options)
    with pytest.raises(KeyboardInterrupt):
        first.train()
    np.random.seed(99)
    net = with_overflow(limit=500)
    for p in net.params.values():
        p *= 3
    second = make(net, output=tmp_path, **options)
    second.resume(first.checkpoint_path)
    assert (second.current_iter, second.loss_scale) == (at, first.loss_scale)
    second.train()
    same(state(second), state(straight))


def test_checkpoints_of_another_precision_are_refused(tmp_path):
    first = make(output=tmp_path, epochs=1)
    first.train()
    for options, message in (
        ({"precision": None}, "precision is None here and 'float16' in the checkpoint"),
        ({"loss_scale": 2.0}, r"loss_scale is 2\.0 here and 'auto' in the checkpoint"),
        ({"stochastic_rounding": True}, "stochastic_rounding is True here and None in the checkpoint"),
    ):
        with pytest.raises(CheckpointError, match=message):
            make(**options).resume(first.checkpoint_path)
    plain = make(precision=None, output=tmp_path, epochs=1)
    plain.train()
    with pytest.raises(CheckpointError, match="precision is 'float16' here and None"):
        make().resume(plain.checkpoint_path)


def test_the_seeds_of_a_training_without_seed_are_in_its_checkpoint(tmp_path):
    first = make(seed=None, stochastic_rounding=True, output=tmp_path, epochs=1)
    first.train()
    second = make(seed=None, stochastic_rounding=True)
    assert second._mixed.seeds != first._mixed.seeds
    second.resume(first.checkpoint_path)
    assert second._mixed.seeds == first._mixed.seeds


# ---- what cannot be -------------------------------------------------------------------------------------------------


class NeedsFloat32(Layer):
    """A layer of somebody's own."""

    def forward(self, x):
        if x.dtype != np.float32:
            raise TypeError(f"only float32, not {x.dtype}")
        return x

    def backward(self, dout):
        return dout


def test_what_cannot_run_is_said_before_any_work(precision):
    for options, error, message in (
        ({"sampling": "book"}, ValueError, "goes with sampling='shuffle', not 'book'"),
        ({"loss_scale": "static"}, ValueError, "loss_scale is 'dynamic', a positive number or None, not 'static'"),
        ({"loss_scale": 0}, ValueError, "not 0"),
        ({"loss_scale": float("inf")}, ValueError, "not inf"),
        ({"precision": "float8"}, ValueError, "precision must be one of float16, bfloat16, binary or None"),
        ({"precision": None, "loss_scale": 2}, ValueError, "go with a precision of float16 or bfloat16"),
        ({"precision": None, "stochastic_rounding": True}, ValueError, "go with a precision of"),
    ):
        with pytest.raises(error, match=message):
            make(**{"precision": precision, **options})
    with pytest.raises(TypeError, match="keeps parameters as float32 or float64; W1 is float16"):
        make(Net().astype("float16"), precision)

    class Odd:
        params = {"W1": np.zeros(2)}  # noqa: RUF012

    with pytest.raises(TypeError, match=r"needs a network with a method astype\(\), which a Odd lacks"):
        make(Odd(), precision)
    net = Net(first=(NeedsFloat32(),))
    np.random.seed(4)
    before = np.random.get_state(legacy=False)["state"]["pos"], network.counters(net.layers)
    with pytest.raises(ValueError, match=f"Net cannot be trained with precision='{precision}': only float32, not"):
        make(net, precision)
    assert before == (np.random.get_state(legacy=False)["state"]["pos"], network.counters(net.layers))
    assert net.layers[2].running_mean is None

    net = Net()
    net.last_layer = NeedsFloat32()
    with pytest.raises(ValueError, match="a loss scale needs a network that ends in SoftmaxWithLoss"):
        make(net, precision, loss_scale=2)


def test_the_trial_leaves_no_trace():
    np.random.seed(4)
    before = np.random.get_state(legacy=False)["state"]["pos"]
    net = Net()
    make(net)
    assert np.random.get_state(legacy=False)["state"]["pos"] == before
    assert net.layers[1].running_mean is None and network.counters(net.layers) == [None, 0, 1, 0]


def test_verbose_training_says_what_was_skipped(capsys):
    make(with_overflow(passes=(1,)), verbose=True, epochs=1).train()
    assert capsys.readouterr().out.splitlines()[-1] == "skipped steps:1 of 5, loss scale:32768.0"


# ---- on a device ----------------------------------------------------------------------------------------------------


def on_a_device(precision: str, device: str | None, **options) -> Trainer:
    """A Trainer at its end, on the host with the reference; masks that are drawn on the device too."""
    net = Net()
    net.layers[5] = Dropout(0.2, seed=9)
    run = make(net, precision, device=device, loss_scale=None, epochs=4, mini_batch_size=4, **options)
    with settings.use_backend("auto" if device else "numpy"):
        run.train()
    return run


@pytest.mark.parametrize("graph", [True, False])
def test_training_on_a_device_gives_the_numbers_of_the_host(cupy, precision, graph):
    host, there = on_a_device(precision, None), on_a_device(precision, "cuda", graph=graph)
    assert there.graph_reason == ("" if graph else "graphs were not asked for")
    assert (fake_cupy.state.graphs > 0) == graph
    for name, p in host.network.params.items():
        found = there.network.params[name]
        assert type(found) is cupy.ndarray and found.dtype == np.float32
        np.testing.assert_allclose(found.host, p, rtol=0, atol=2e-2, err_msg=name)
    np.testing.assert_allclose(there.train_loss_list, host.train_loss_list, atol=2e-2)
    assert network.counters(there.network.layers) == network.counters(host.network.layers)
    mean = there.network.layers[1].running_mean
    assert mean.dtype == np.float64 and np.allclose(mean.host, host.network.layers[1].running_mean, atol=2e-2)


def test_what_a_device_cannot_do_is_said_at_once(cupy, precision):
    for options, message in (
        ({"loss_scale": "dynamic"}, "with a loss scale is for training on the CPU: .* loss_scale=None does without"),
        ({"loss_scale": None, "stochastic_rounding": True}, "stochastic_rounding is for training on the CPU"),
        ({"precision": "binary"}, "is for training on the CPU, not on 'cuda'"),
    ):
        with pytest.raises(ValueError, match=message):
            make(Net(), **{"precision": precision, **options}, device="cuda")
