"""Optimizers: the book's formulas, in place, for any dict of arrays."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from fastdl.optim import BY_NAME, SGD, AdaGrad, Adam, Momentum, Nesterov, RMSprop, unscale


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def sgd(p, g, s, n, lr=0.01):
    return p - lr * g


def momentum(p, g, s, n, lr=0.01, momentum=0.9):
    s["v"] = momentum * s.get("v", 0) - lr * g
    return p + s["v"]


def nesterov(p, g, s, n, lr=0.01, momentum=0.9):
    v = s.get("v", 0)
    s["v"] = momentum * v - lr * g
    return p + momentum * momentum * v - (1 + momentum) * lr * g


def adagrad(p, g, s, n, lr=0.01):
    s["h"] = s.get("h", 0) + g * g
    return p - lr * g / (np.sqrt(s["h"]) + 1e-7)


def rmsprop(p, g, s, n, lr=0.01, decay_rate=0.99):
    s["h"] = decay_rate * s.get("h", 0) + (1 - decay_rate) * g * g
    return p - lr * g / (np.sqrt(s["h"]) + 1e-7)


def adam(p, g, s, n, lr=0.001, beta1=0.9, beta2=0.999):
    m, v = s.get("m", 0), s.get("v", 0)
    s["m"], s["v"] = m + (1 - beta1) * (g - m), v + (1 - beta2) * (g * g - v)
    rate = lr * np.sqrt(1 - beta2**n) / (1 - beta1**n)
    return p - rate * s["m"] / (np.sqrt(s["v"]) + 1e-7)


CASES = [
    (SGD, sgd, {}),
    (SGD, sgd, {"lr": 0.3}),
    (Momentum, momentum, {}),
    (Momentum, momentum, {"lr": 0.1, "momentum": 0.5}),
    (Nesterov, nesterov, {}),
    (Nesterov, nesterov, {"lr": 0.1, "momentum": 0.5}),
    (AdaGrad, adagrad, {"lr": 0.1}),
    (RMSprop, rmsprop, {}),
    (RMSprop, rmsprop, {"lr": 0.1, "decay_rate": 0.5}),
    (Adam, adam, {}),
    (Adam, adam, {"lr": 0.1, "beta1": 0.8, "beta2": 0.9}),
]
KINDS = [SGD, Momentum, Nesterov, AdaGrad, RMSprop, Adam]


@pytest.mark.parametrize(("kind", "formula", "numbers"), CASES)
def test_five_steps_are_the_books(kind, formula, numbers):
    params = {"W1": normal(3, 4), "b1": normal(4), "empty": np.zeros((0, 2))}
    arrays = dict(params)
    expected, states = {name: p.copy() for name, p in params.items()}, {name: {} for name in params}
    optimizer = kind(**numbers)
    for n in range(1, 6):
        grads = {name: normal(*p.shape, seed=n) for name, p in params.items()}
        given = copy.deepcopy(grads)
        optimizer.update(params, grads)
        for name in params:
            expected[name] = formula(expected[name], grads[name], states[name], n, **numbers)
            np.testing.assert_allclose(params[name], expected[name], rtol=1e-12, atol=1e-14)
            np.testing.assert_array_equal(grads[name], given[name])
    assert all(params[name] is arrays[name] for name in params), "in place"
    assert optimizer.iter == 5
    for state in optimizer.states:
        for name, value in getattr(optimizer, state).items():
            np.testing.assert_allclose(value, states[name][state], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_positional_arguments_and_attributes_are_the_books(kind):
    optimizer = kind(0.25)
    assert optimizer.lr == 0.25
    assert all(getattr(optimizer, state) is None for state in optimizer.states)
    if kind is Adam:
        optimizer = Adam(0.1, 0.8, 0.7)
        assert (optimizer.beta1, optimizer.beta2, optimizer.iter) == (0.8, 0.7, 0)
    assert Momentum(0.1, 0.8).momentum == 0.8
    assert RMSprop(0.1, 0.8).decay_rate == 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_memory_order_and_dtypes_may_be_mixed(kind):
    base = normal(6, 8).astype(np.float32)
    params = {"W1": base[::2, ::-1], "W2": normal(3, 4).T, "b1": normal(5).astype(np.float32), "s": np.array(1.0)}
    grads = {"W1": normal(3, 8, seed=1), "W2": np.broadcast_to(np.float16(0.5), (4, 3)), "b1": normal(5), "s": 2.0}
    plain = {name: np.ascontiguousarray(p).reshape(p.shape) for name, p in params.items()}
    untouched = base[1::2].copy()
    first, second = kind(0.1), kind(0.1)
    for _ in range(3):
        first.update(params, grads)
        second.update(plain, {name: np.array(g, plain[name].dtype) for name, g in grads.items()})
    for name, p in params.items():
        np.testing.assert_allclose(p, plain[name], rtol=1e-6)
        assert p.dtype == plain[name].dtype
    np.testing.assert_array_equal(base[1::2], untouched)
    assert np.shares_memory(params["W1"], base)


def test_numbers_instead_of_arrays_are_replaced():
    params = {"x": -7.0, "y": 2}
    SGD(0.5).update(params, {"x": -0.7, "y": 4.0})
    assert params == {"x": -6.65, "y": 0.0}
    optimizer = Momentum(0.5)
    optimizer.update(params, {"x": 1.0, "y": 1.0})
    optimizer.update(params, {"x": 1.0, "y": 1.0})
    np.testing.assert_allclose(params["x"], -6.65 - 0.5 - 0.95)


def test_an_array_with_two_names_is_updated_for_each():
    shared = np.zeros(3)
    SGD(1.0).update({"W1": shared, "W2": shared}, {"W1": np.ones(3), "W2": np.full(3, 2.0)})
    np.testing.assert_array_equal(shared, [-3, -3, -3])


@pytest.mark.parametrize("kind", KINDS)
def test_weight_decay_pulls_weights_and_nothing_else(kind):
    params = {name: np.full(3, 2.0) for name in ("W1", "b1", "gamma1", "beta1")}
    plain = copy.deepcopy(params)
    grads = {name: normal(3) for name in params}
    kind(0.1, weight_decay=0.25).update(params, grads)
    kind(0.1).update(plain, {**grads, "W1": grads["W1"] + 0.25 * plain["W1"]})
    for name in params:
        np.testing.assert_array_equal(params[name], plain[name])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("duplicate", ["state_dict", "pickle"])
def test_a_restored_optimizer_goes_on_exactly(kind, duplicate):
    params = {"W1": normal(3, 4), "b1": normal(4)}
    optimizer = kind(0.05, weight_decay=0.01)
    for n in range(3):
        optimizer.update(params, {name: normal(*p.shape, seed=n) for name, p in params.items()})
    if duplicate == "pickle":
        twin = pickle.loads(pickle.dumps(optimizer))
    else:
        twin = kind()
        twin.load_state_dict(optimizer.state_dict())
    copies = copy.deepcopy(params)
    grads = {name: normal(*p.shape, seed=9) for name, p in params.items()}
    optimizer.update(params, grads)
    twin.update(copies, grads)
    for name in params:
        np.testing.assert_array_equal(params[name], copies[name])
    assert twin.iter == 4


def test_a_state_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="no state of Adam"):
        Adam().load_state_dict(SGD().state_dict())


def test_learning_rate_may_change():
    params, optimizer = {"W1": np.zeros(2)}, SGD(1.0)
    optimizer.update(params, {"W1": np.ones(2)})
    optimizer.lr = 0.5
    optimizer.update(params, {"W1": np.ones(2)})
    np.testing.assert_array_equal(params["W1"], [-1.5, -1.5])


def test_new_parameters_start_with_empty_states():
    params, optimizer = {"W1": np.zeros(2)}, Momentum(1.0)
    optimizer.update(params, {"W1": np.ones(2)})
    params["W2"] = np.zeros(2)
    optimizer.update(params, {"W1": np.ones(2), "W2": np.ones(2)})
    np.testing.assert_allclose(params["W1"], -2.9)
    np.testing.assert_allclose(params["W2"], -1.0)


@pytest.mark.parametrize(
    ("params", "grads", "error", "message"),
    [
        ({"W1": np.zeros(2), "b1": np.zeros(2)}, {"W1": np.ones(2)}, KeyError, "b1"),
        ({"W1": np.zeros(2)}, {"W1": None}, KeyError, "W1"),
        ({"W1": np.zeros(2)}, {"W1": np.ones(3)}, ValueError, r"W1.*\(3,\).*\(2,\)"),
        ({"W1": np.zeros(2, np.float16)}, {"W1": np.ones(2)}, TypeError, "float16"),
        ({"W1": np.zeros(2, int)}, {"W1": np.ones(2)}, TypeError, "int64"),
        ({"W1": [0.0, 0.0]}, {"W1": np.ones(2)}, TypeError, "NumPy array"),
    ],
)
def test_errors_come_before_any_change(params, grads, error, message):
    optimizer = Momentum()
    with pytest.raises(error, match=message):
        optimizer.update(params, grads)
    assert optimizer.iter == 0
    assert not np.any(params["W1"])


def test_a_read_only_parameter_is_refused():
    w = np.zeros(2)
    w.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        SGD().update({"W1": w}, {"W1": np.ones(2)})


def test_names():
    assert set(BY_NAME) == {"sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam"}


# ---- unscale --------------------------------------------------------------------------------------------------------


def test_unscale_multiplies_in_place_and_finds_what_is_no_number():
    grads = {"W1": normal(3, 4), "b1": normal(4), "empty": np.zeros((0, 2)), "s": np.array(3.0)}
    before, arrays = copy.deepcopy(grads), dict(grads)
    overflow = unscale(grads, 1024)
    assert (overflow.shape, overflow.dtype, overflow[0]) == ((1,), np.int32, 0)
    for name, g in grads.items():
        assert g is arrays[name]
        np.testing.assert_array_equal(g, before[name] / 1024)
    grads["b1"][2] = np.inf
    assert unscale(list(grads.values()), np.array([0.5])).tolist() == [1]
    np.testing.assert_array_equal(grads["W1"], before["W1"] / 512)
    assert grads["b1"][2] == np.inf
    assert unscale(grads.values(), np.float32(2.0)).tolist() == [1]
    assert unscale([], 2.0).tolist() == unscale({}, 2.0).tolist() == [0]


def test_unscale_has_a_flag_for_each_dtype():
    pytest.importorskip("ml_dtypes")
    names = ("float16", "float32", "float16", "bfloat16", "float64")
    grads = [np.full((2, 3), 3.0).astype(np.dtype(name) if name != "bfloat16" else bfloat16()) for name in names]
    assert unscale(grads, 4.0).tolist() == [0, 0, 0, 0]
    assert all((g == 0.75).all() for g in grads)
    grads[2][1, 1] = np.nan
    assert unscale(grads, 4.0).tolist() == [1, 0, 0, 0]
    grads[4][0, 0] = -np.inf
    assert unscale(grads, 4.0).tolist() == [1, 0, 0, 1]


def bfloat16():
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def test_unscale_takes_views_and_an_array_with_two_names_once():
    base = normal(6, 8).astype(np.float32)
    want = base.copy()
    view = base[::2, ::-1].T
    want[::2] /= 8
    assert unscale({"W1": view, "W2": view}, 8.0).tolist() == [0]
    np.testing.assert_array_equal(base, want)


def read_only():
    a = np.ones(2)
    a.flags.writeable = False
    return a


@pytest.mark.parametrize(
    ("bad", "scale", "error", "message"),
    [
        ([1.0], 2.0, TypeError, "'W2' must be an array .* not list"),
        (np.float64(1.0), 2.0, TypeError, "'W2' must be an array .* not float64"),
        (np.ones(2, int), 2.0, TypeError, "dtype of the gradient 'W2'.*int64"),
        (np.ones(2, ">f8"), 2.0, TypeError, "'W2' is not in native byte order"),
        (read_only(), 2.0, ValueError, "'W2' is read-only"),
        (np.ones(2), [2.0, 3.0], ValueError, "scale must be one number, not 2"),
    ],
)
def test_errors_of_unscale_come_before_any_change(bad, scale, error, message):
    first = np.ones(3)
    with pytest.raises(error, match=message):
        unscale({"W1": first, "W2": bad}, scale)
    assert (first == 1).all()
