"""Sequential: order, names, aliasing, nesting, files."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from fastdl import network
from fastdl.layers import Affine, BatchNormalization, Convolution, Dropout, Pooling, Relu, Tanh
from fastdl.network import Sequential
from numerical import check_gradients


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def make() -> Sequential:
    return Sequential(
        [
            Convolution(normal(3, 2, 3, 3), normal(3), pad=1),
            BatchNormalization(1.0 + normal(3), normal(3, seed=1), per_channel=True),
            Tanh(),
            Pooling(2, 2),
            Sequential([Affine(normal(12, 5), None), BatchNormalization(np.ones(5), np.zeros(5)), Relu()]),
            Dropout(0.2, seed=4),
            Affine(normal(5, 2), normal(2)),
        ]
    )


NAMES = ["W1", "b1", "gamma1", "beta1", "W2", "gamma2", "beta2", "W3", "b3"]


def test_parameters_are_numbered_by_kind_and_are_the_layers_own():
    net = make()
    assert list(net.params) == NAMES
    assert net.params["W1"] is net.layers[0].W
    assert net.params["gamma2"] is net.layers[4].layers[1].gamma
    net.layers[0].W = replacement = normal(3, 2, 3, 3, seed=9)
    assert net.params["W1"] is replacement
    with pytest.raises(TypeError):
        net.params["W1"] = replacement


def test_gradients_through_all_layers():
    net, x, weights = make(), normal(4, 2, 4, 4), normal(4, 2, seed=5)

    def f():
        net.layers[5].step = 0
        return float((net.forward(x) * weights).sum())

    f()
    dx = net.backward(weights)
    assert list(net.grads) == NAMES
    check_gradients(f, {"x": x, **net.params}, {"x": dx, **net.grads}, tolerance=1e-6)


def test_a_sequence_is_a_layer():
    net, x = make(), normal(4, 2, 4, 4)
    outer = Sequential([net])
    np.testing.assert_array_equal(outer(x, train_flg=False), net.forward(x, train_flg=False))
    assert list(outer.params) == NAMES
    dout = np.ones((4, 2))
    outer.forward(x)
    assert outer.backward(dout).shape == x.shape
    outer.forward(x)
    assert outer.backward(dout, need_dx=False) is None
    assert Sequential([]).forward(x) is x
    assert Sequential([]).backward(x) is x


def test_train_flag_reaches_the_layers_that_take_it():
    net, x = make(), normal(4, 2, 4, 4)
    before = net.forward(x, train_flg=False)
    np.testing.assert_array_equal(net.forward(x, train_flg=False), before)
    net.forward(x)
    assert net.layers[5].step == 1
    assert np.abs(net.forward(x, train_flg=False) - before).max() > 1e-3, "running statistics moved"


def test_gradients_need_a_backward_pass():
    with pytest.raises(RuntimeError, match="W1"):
        _ = make().grads


def test_other_peoples_layers_may_take_part():
    class Double:
        def forward(self, x):
            return 2 * x

        def backward(self, dout):
            return 2 * dout

    net = Sequential([Affine(np.eye(2), np.zeros(2)), Double()])
    np.testing.assert_array_equal(net.forward(np.ones((1, 2))), [[2, 2]])
    np.testing.assert_array_equal(net.backward(np.ones((1, 2))), [[2, 2]])
    assert list(net.params) == ["W1", "b1"]


def test_save_and_load(tmp_path):
    net, x = make(), normal(4, 2, 4, 4)
    net.forward(x)
    expected = net.forward(x, train_flg=False)
    net.save(tmp_path / "net.npz")
    other = make()
    for array in other.params.values():
        array *= 0.5
    w = other.layers[0].W
    other.load(tmp_path / "net.npz")
    assert other.layers[0].W is w, "loaded into the arrays that are there"
    np.testing.assert_array_equal(other.forward(x, train_flg=False), expected)
    with np.load(tmp_path / "net.npz") as saved:
        assert list(saved) == [*NAMES, "running_mean1", "running_var1", "running_mean2", "running_var2"]


def test_load_changes_nothing_where_something_does_not_fit(tmp_path):
    path = tmp_path / "net.npz"
    net = make()
    arrays = {name: value + 1 for name, value in net.params.items()}
    arrays["W9"] = arrays.pop("W2")
    arrays["b3"] = np.zeros(7)
    np.savez(path, **arrays)
    expected = {name: value.copy() for name, value in net.params.items()}
    with pytest.raises(ValueError, match=r"W2 is missing; W9 is not a parameter; b3 is \(7,\) and not \(2,\)"):
        net.load(path)
    for name, value in net.params.items():
        np.testing.assert_array_equal(value, expected[name])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"net\.npz"):
        net.load(path)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_independent(duplicate):
    net, x = make(), normal(4, 2, 4, 4)
    expected = net.forward(x, train_flg=False)
    twin = duplicate(net)
    assert twin.layers[0].x is None
    for array in net.params.values():
        array += 1
    np.testing.assert_array_equal(twin.forward(x, train_flg=False), expected)


def test_counters():
    net = make()
    net.forward(normal(4, 2, 4, 4))
    assert network.counters(net.layers) == [4, 1]
    network.set_counters(net.layers, [8, 5])
    assert (net.layers[5].seed, net.layers[5].step) == (8, 5)
    with pytest.raises(ValueError, match="counters"):
        network.set_counters(net.layers, [])
