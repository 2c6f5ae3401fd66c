"""Networks and training on a device, on the stand-in for CuPy; ops without kernels run their reference there."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import fake_cupy
import fastdl
from fastdl import backend, layers, models, optim
from fastdl.backend import KernelError
from fastdl.network import Sequential
from fastdl.train import Progress, Trainer

CONV = {"filter_num": 4, "filter_size": 3, "pad": 1, "stride": 1}


def deep(**options):
    """Convolutions, poolings, dropout."""
    return models.DeepConvNet((1, 8, 8), CONV, CONV, CONV, CONV, CONV, CONV, 8, 5, **options)


class WithNorm(models.base.Model):
    """Batch normalisation, average pooling, sigmoid, LRN, a container."""

    def __init__(self, dtype="float64", seed=1):
        super().__init__(dtype)
        rng = np.random.default_rng(seed)

        def draw(*shape):
            return rng.standard_normal(shape).astype(dtype)

        self.layers = [
            layers.Convolution(draw(3, 1, 3, 3), None, pad=1),
            layers.BatchNormalization(np.ones(3, dtype), np.zeros(3, dtype), per_channel=True),
            layers.Relu6(),
            layers.LocalResponseNormalization(),
            layers.AveragePooling(2, 2),
            Sequential([layers.Affine(draw(48, 6), draw(6)), layers.Sigmoid(), layers.Dropout(0.3, seed=4)]),
            layers.Affine(draw(6, 5), draw(5)),
            layers.BatchNormalization(np.ones(5, dtype), np.zeros(5, dtype)),
            layers.Tanh(),
        ]
        self.last_layer = layers.SoftmaxWithLoss()
        self.params = fastdl.network.named_params(self.layers)


NETS = {"deep": lambda dtype="float64": deep(seed=3, dtype=dtype), "norm": lambda dtype="float64": WithNorm(dtype)}


@pytest.fixture
def data(rng):
    """Images and labels."""
    return rng.standard_normal((22, 1, 8, 8)), rng.integers(5, size=22)


def trained(net, data, device=None, **options):
    """A Trainer at its end, on the host with the reference."""
    x, t = data
    chosen = {"epochs": 3, "mini_batch_size": 4, "optimizer": "Adam", "verbose": False, "seed": 7, **options}
    trainer = Trainer(net, x, t, x[:10], t[:10], device=device, **chosen)
    if device is None:
        with backend.use_backend("numpy"):
            trainer.train()
    else:
        trainer.train()
    return trainer


def same(a, b, tolerance=0.0):
    """Whether networks and what was recorded agree: exactly, but for the sum of the losses."""
    for name, value in a.network.params.items():
        other = fastdl.to_device(b.network.params[name], "cpu")
        assert np.allclose(value, other, rtol=tolerance, atol=tolerance), name
    assert (
        np.allclose(a.train_loss_list, b.train_loss_list, rtol=max(tolerance, 1e-6))
        and len(a.train_loss_list) == a.max_iter
    )
    assert (a.train_acc_list, a.test_acc_list, a.final_test_acc) == (
        b.train_acc_list,
        b.test_acc_list,
        b.final_test_acc,
    )


# ---- networks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("labels", ["numbers", "column", "one-hot", "uint8"])
def test_gradients_on_the_device(cupy, kind, labels, data):
    x, t = data
    t = {"numbers": t, "column": t[:, None], "one-hot": np.eye(5)[t], "uint8": t.astype(np.uint8)}[labels]
    net = NETS[kind]()
    with backend.use_backend("numpy"):
        loss, wanted = copy.deepcopy(net).loss_and_gradient(x, t)
    assert net.to("cuda") is net and net.device == "cuda:0"
    x, t = fastdl.to_device(x, "cuda"), fastdl.to_device(t, "cuda")
    reads = fake_cupy.state.reads
    found, grads = net.unread_loss_and_gradient(x, t)
    assert fake_cupy.state.reads == reads, "a step has read from the device"
    assert abs(float(found) - loss) < 1e-12
    for name, grad in grads.items():
        assert type(grad) is cupy.ndarray and np.allclose(grad.host, wanted[name], rtol=1e-12, atol=1e-15), name


@pytest.mark.parametrize("kind", NETS)
def test_accuracy_reads_one_number(cupy, kind, data):
    x, t = data
    net = NETS[kind]()
    with backend.use_backend("numpy"):
        wanted = net.accuracy(x, t, batch_size=5)
    net.to("cuda")
    x, t = fastdl.to_device(x, "cuda"), fastdl.to_device(t, "cuda")
    reads = fake_cupy.state.reads
    assert net.accuracy(x, t, batch_size=5) == wanted
    assert fake_cupy.state.reads == reads + 1


def test_moving_keeps_what_is_shared_and_comes_back(cupy):
    w = np.ones((2, 2))
    net = Sequential([layers.Affine(w, None), layers.Affine(w, None)])
    assert net.to("cuda").layers[0].W is net.layers[1].W and type(net.layers[0].W) is cupy.ndarray
    net.to("cpu")
    assert type(net.layers[0].W) is np.ndarray and net.layers[0].dW is None


def test_arrays_of_another_place_than_the_network(cupy, data):
    net = deep(seed=1).to("cuda")
    with pytest.raises(TypeError, match="conv2d: x is a NumPy array and w is a CuPy array on cuda:0"):
        net.predict(data[0])


def test_parameters_are_saved_and_loaded(cupy, tmp_path):
    net, other = WithNorm(seed=1).to("cuda"), WithNorm(seed=2)
    net.loss(fastdl.to_device(np.ones((2, 1, 8, 8)), "cuda"), fastdl.to_device([1, 2], "cuda"))
    net.save_params(tmp_path / "p.npz")
    other.load_params(tmp_path / "p.npz")
    assert all(np.array_equal(net.params[name].host, value) for name, value in other.params.items())
    third = WithNorm(seed=3).to("cuda")
    third.load_params(tmp_path / "p.npz")
    assert third.device == "cuda:0"
    assert np.array_equal(third.layers[1].running_var.host, other.layers[1].running_var)
    sequence = Sequential(WithNorm(seed=4).layers).to("cuda")
    sequence.save(tmp_path / "s.npz")
    sequence.load(tmp_path / "s.npz")
    third.cast("float32")
    assert third.params["W1"].dtype == np.float32 and type(third.params["W1"]) is cupy.ndarray


def test_astype_on_the_device(cupy, data):
    net = WithNorm().to("cuda")
    net.loss(fastdl.to_device(data[0], "cuda"), fastdl.to_device(data[1], "cuda"))
    other, here = net.astype("float32"), copy.deepcopy(net.to("cpu")).astype("float32")
    assert other.device == "cuda:0" and other.last_layer.loss is None
    for name, p in other.params.items():
        assert type(p) is cupy.ndarray and np.array_equal(p.host, here.params[name]), name
    found = other.layers[1].running_mean
    assert type(found) is cupy.ndarray and np.array_equal(found.host, net.layers[1].running_mean)


# ---- optimizers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(optim.BY_NAME))
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_optimizers_on_the_device(cupy, name, decay, rng):
    here = {"W1": rng.standard_normal((3, 4)), "b1": rng.standard_normal(4)}
    there = {key: fastdl.to_device(value, "cuda") for key, value in here.items()}
    ours, theirs = (optim.BY_NAME[name](weight_decay=decay) for _ in range(2))
    for step in range(4):
        grads = {key: rng.standard_normal(value.shape) for key, value in here.items()}
        ours.lr = theirs.lr = 0.1 / (step + 1)
        with backend.use_backend("numpy"):
            ours.update(here, grads)
        reads = fake_cupy.state.reads
        theirs.update(there, {key: fastdl.to_device(value, "cuda") for key, value in grads.items()})
        assert fake_cupy.state.reads == reads
        if step == 1:  # a state goes through the host
            theirs.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert all(np.allclose(there[key].host, value, rtol=1e-13) for key, value in here.items())


def test_an_optimizer_takes_arrays_of_one_place(cupy):
    params = {"W1": fastdl.to_device(np.ones(3), "cuda"), "b1": np.ones(3)}
    with pytest.raises(TypeError, match="update: b1 is a NumPy array and W1 is a CuPy array"):
        optim.SGD().update(params, {name: np.ones(3) for name in params})
    params = {"W1": fastdl.to_device(np.ones(3), "cuda")}
    with pytest.raises(TypeError, match="update: the gradient of W1 is a NumPy array"):
        optim.SGD().update(params, {"W1": np.ones(3)})


def test_unscale_on_the_device(cupy, rng):
    """Two launches for all arrays of a dtype, and nothing is read."""
    here = [rng.standard_normal(shape).astype(dtype) for shape in ((3, 40), (7,)) for dtype in ("float16", "float32")]
    here[3][5] = np.nan
    there = [fastdl.to_device(g, "cuda") for g in here]
    scale = fastdl.to_device(np.array([8.0]), "cuda")
    for factor in (8.0, scale):
        with backend.use_backend("numpy"):
            want = optim.unscale(here, 8.0)
        reads = fake_cupy.state.reads
        fake_cupy.state.launches.clear()
        found = optim.unscale(there, factor)
        assert fake_cupy.state.launches == ["unscale_clear", "unscale_step"] * 2
        assert fake_cupy.state.reads == reads
        assert type(found) is cupy.ndarray and found.host.tolist() == want.tolist() == [0, 1]
        assert all(np.array_equal(t.host, h, equal_nan=True) for t, h in zip(there, here, strict=True))
    with pytest.raises(TypeError, match="unscale: the gradient 1 is a NumPy array and the gradient 0 is a CuPy array"):
        optim.unscale([there[0], here[0]], 8.0)
    with pytest.raises(TypeError, match="unscale: scale is a CuPy array"):
        optim.unscale(here, scale)


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("optimizer", ["Adam", "Momentum"])
def test_training_gives_the_same_numbers_as_on_the_host(cupy, kind, graph, optimizer, data):
    wanted = trained(NETS[kind](), data, optimizer=optimizer)
    found = trained(NETS[kind](), data, "cuda", optimizer=optimizer, graph=graph)
    same(wanted, found, 1e-9)
    # Five whole batches and a smaller one in each of three epochs: three to warm up, twelve that are replayed.
    assert fake_cupy.state.graphs == (12 if graph else 0)
    assert found.graph_reason == ("" if graph else "graphs were not asked for")
    counted = [
        (a, b) for a, b in zip(*(fastdl.network.counters(n.network.layers) for n in (wanted, found)), strict=True)
    ]
    assert all(a == b for a, b in counted) and wanted.optimizer.iter == found.optimizer.iter


def test_schedule_and_weight_decay_reach_a_replayed_step(cupy, data):
    options = {"schedule": lambda epoch: 0.01 / (1 + epoch), "weight_decay": 0.1, "optimizer": "SGD",
               "optimizer_param": {}}  # fmt: skip
    wanted, found = trained(deep(seed=3, dtype="float64"), data, **options), None
    found = trained(deep(seed=3, dtype="float64"), data, "cuda", **options)
    same(wanted, found, 1e-9)
    assert fake_cupy.state.graphs == 12


def test_no_step_reads_from_the_device(cupy, data):
    reads = []

    class Listener(Progress):
        def step(self, trainer, loss):
            reads.append(fake_cupy.state.reads)

    trained(NETS["norm"](), data, "cuda", epochs=2, progress=Listener())
    assert len(reads) == 12 and len(set(reads[:6])) == 1 and len(set(reads[6:])) == 1


def test_a_step_that_cannot_be_recorded_says_why_and_runs(cupy, data):
    np.random.seed(5)
    wanted = trained(deep(dtype="float64"), data)
    np.random.seed(5)
    with pytest.warns(RuntimeWarning, match="could not become a CUDA graph .* a Dropout without seed draws its masks"):
        found = trained(deep(dtype="float64"), data, "cuda")
    assert "give it a seed" in found.graph_reason and fake_cupy.state.graphs == 0
    same(wanted, found, 1e-9)


def test_new_parameters_are_noticed_by_a_recorded_step(cupy, data):
    x, t = data
    trainer = Trainer(NETS["norm"](), x, t, x, t, epochs=9, mini_batch_size=11, verbose=False, device="cuda", seed=1)
    for _ in range(5):
        trainer.train_step()
    assert fake_cupy.state.graphs == 2 and len(trainer.train_loss_list) == 5
    trainer.network.set_params({n: fastdl.to_device(p.host, "cpu") for n, p in trainer.network.params.items()})
    trainer.network.to("cuda")
    for _ in range(3):
        trainer.train_step()
    assert fake_cupy.state.graphs == 2
    trainer.train_step()
    assert fake_cupy.state.graphs == 3
    trainer.optimizer.weight_decay = 0.5
    trainer.train_step()
    assert fake_cupy.state.graphs == 3


def test_checkpoints_go_on_to_the_same_numbers(cupy, data, tmp_path):
    whole = trained(NETS["norm"](), data, "cuda", epochs=4)
    x, t = data
    options = {"mini_batch_size": 4, "optimizer": "Adam", "verbose": False, "seed": 7, "device": "cuda"}
    first = Trainer(NETS["norm"](), x, t, x[:10], t[:10], epochs=4, **options)
    for _ in range(13):
        first.train_step()
    first.save_checkpoint(tmp_path / "c.npz")
    second = Trainer(NETS["norm"](), x, t, x[:10], t[:10], epochs=4, **options)
    second.train_step()
    second.resume(tmp_path / "c.npz")
    second.train()
    assert second.train_loss_list == whole.train_loss_list
    for name, value in whole.network.params.items():
        assert np.array_equal(value.host, second.network.params[name].host), name


def test_the_books_loop_on_the_device(cupy, data):
    np.random.seed(3)
    wanted = trained(NETS["norm"](), data, sampling="book", epochs=2)
    np.random.seed(3)
    found = trained(NETS["norm"](), data, "cuda", sampling="book", epochs=2)
    same(wanted, found, 1e-9)
    assert "sampling='book'" in found.graph_reason


def test_images_of_bytes_become_numbers_on_the_device(cupy, rng):
    data = rng.integers(256, size=(12, 1, 8, 8)).astype(np.uint8), rng.integers(5, size=12)
    wanted = trained(NETS["deep"]("float32"), data, epochs=2)
    same(wanted, trained(NETS["deep"]("float32"), data, "cuda", epochs=2), 1e-4)


def test_devices_that_a_trainer_cannot_use(cupy, data):
    x, t = data
    with pytest.raises(ValueError, match="no device 'cuda:3'"):
        Trainer(deep(seed=1), x, t, x, t, device="cuda:3")
    with pytest.raises(TypeError, match="a object cannot be trained on 'cuda': it has no method"):
        Trainer(object(), x, t, x, t, device="cuda")
    with backend.use_backend("numpy"), pytest.raises(KernelError, match="the backend in use is 'numpy'"):
        Trainer(deep(seed=1), x, t, x, t, device="cuda", verbose=False).train()
    there = deep(seed=1).to("cuda")
    assert Trainer(there, x, t, x, t)._device is not None
    assert Trainer(there, x, t, x, t, device="cpu")._device is None and there.device == "cpu"
