"""The layers: gradients, the book's semantics and attributes, memory, copies, errors."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fastdl
from fastdl import functional
from fastdl.layers import (
    Affine,
    AveragePooling,
    BatchNormalization,
    Convolution,
    Dropout,
    Layer,
    LocalResponseNormalization,
    Pooling,
    Relu,
    Relu6,
    Sigmoid,
    SoftmaxWithLoss,
    Tanh,
)
from numerical import check_gradients


def normal(*shape: int, seed: int = 0, dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


# Each layer with the shape of an input for it.
CASES = {
    "convolution": (lambda: Convolution(normal(4, 3, 3, 2), normal(4), 1, 1), (2, 3, 5, 6)),
    "convolution, strides and four pads": (
        lambda: Convolution(normal(4, 3, 2, 3), normal(4), (2, 1), (0, 1, 2, 0)),
        (2, 3, 5, 6),
    ),
    "convolution, dilation and groups": (
        lambda: Convolution(normal(4, 2, 2, 2), normal(4), 1, (1, 0), dilation=(1, 2), groups=2),
        (2, 4, 5, 6),
    ),
    "convolution, depthwise, no bias": (
        lambda: Convolution(normal(6, 1, 3, 3), None, pad=1, groups=3),
        (2, 3, 4, 5),
    ),
    "pooling": (lambda: Pooling(2, 2), (2, 3, 6, 4)),
    "pooling, overlapping and padded": (lambda: Pooling(3, 2, (2, 1), (1, 0)), (2, 3, 6, 5)),
    "pooling, dilated, ceil": (lambda: Pooling(2, 2, 2, dilation=2, ceil_mode=True), (2, 2, 6, 5)),
    "average pooling": (lambda: AveragePooling(2, 2), (2, 3, 6, 4)),
    "average pooling, padded": (lambda: AveragePooling(3, 3, 2, 1), (2, 3, 5, 6)),
    "average pooling, padded, elements only": (
        lambda: AveragePooling(3, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        (2, 3, 6, 6),
    ),
    "affine": (lambda: Affine(normal(6, 4), normal(4)), (3, 6)),
    "affine, images": (lambda: Affine(normal(12, 4), normal(4)), (3, 2, 2, 3)),
    "affine, no bias": (lambda: Affine(normal(6, 4), None), (3, 6)),
    "relu": (Relu, (3, 4, 2)),
    "relu6": (Relu6, (3, 4, 2)),
    "sigmoid": (Sigmoid, (3, 4)),
    "tanh": (Tanh, (3, 4)),
    "dropout": (lambda: Dropout(0.3, seed=1), (5, 7)),
    "dropout, inverted": (lambda: Dropout(0.3, inverted=True, seed=1), (5, 7)),
    "batch normalisation": (lambda: BatchNormalization(normal(4), normal(4, seed=1)), (6, 4)),
    "batch normalisation, images": (lambda: BatchNormalization(normal(12), normal(12, seed=1)), (5, 3, 2, 2)),
    "batch normalisation, per channel": (
        lambda: BatchNormalization(normal(3), normal(3, seed=1), per_channel=True),
        (4, 3, 2, 2),
    ),
    "local response normalisation": (lambda: LocalResponseNormalization(3, 0.5, 0.75, 1.0), (2, 5, 2, 3)),
}


@pytest.fixture(params=CASES)
def case(request):
    make, shape = CASES[request.param]
    return make(), normal(*shape, seed=3)


def restart(layer: Layer) -> None:
    """The next training pass uses the same random numbers as the one before."""
    if isinstance(layer, Dropout):
        layer.step = 0


# ---- all layers -----------------------------------------------------------------------------------------------------


def test_gradients_agree_with_central_differences(case, backend):
    layer, x = case
    weights = normal(*layer.forward(x).shape, seed=4)

    def f():
        restart(layer)
        return float((layer.forward(x) * weights).sum())

    f()
    dx = layer.backward(weights.copy())
    grads = {name: grad.copy() for name, grad in layer.grads.items()}
    check_gradients(f, {"x": x, **layer.params}, {"x": dx, **grads})


def test_float32_stays_float32_whatever_the_other_arrays_are(case):
    layer, x = case
    for name, value in layer.params.items():
        if name == "W":
            setattr(layer, name, value.astype(np.float32))
    out = layer.forward(x.astype(np.float32))
    dx = layer.backward(np.ones(out.shape))
    assert out.dtype == dx.dtype == np.float32
    assert {name: grad.dtype for name, grad in layer.grads.items()} == {n: p.dtype for n, p in layer.params.items()}


@pytest.mark.parametrize("name", [name for name, (_, shape) in CASES.items() if len(shape) == 4])
def test_any_memory_order_gives_the_same_numbers(name):
    make, shape = CASES[name]
    layer, x = make(), normal(*shape)
    expected = layer.forward(x)
    expected_dx = layer.backward(np.ones_like(expected))
    channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    flipped = x[:, :, ::-1].copy()[:, :, ::-1]
    for view in (channels_last, flipped):
        view.flags.writeable = False
        np.testing.assert_allclose(layer.forward(view), expected, atol=1e-13)
        np.testing.assert_allclose(layer.backward(np.ones(expected.shape)), expected_dx, atol=1e-13)


def test_backward_without_forward_is_a_clear_error(case):
    layer, x = case
    with pytest.raises(RuntimeError, match=rf"{type(layer).__name__}\.backward needs .* call forward first"):
        layer.backward(x)


def test_inference_computes_the_same_and_keeps_nothing(case):
    layer, x = case
    expected = layer.forward(x)
    restart(layer)
    with fastdl.inference():
        np.testing.assert_array_equal(layer.forward(x), expected)
    assert all(getattr(layer, name) is None for name in layer.activations)
    with pytest.raises(RuntimeError, match=r"outside fastdl\.inference"):
        layer.backward(np.ones_like(expected))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_have_the_parameters_and_not_the_activations(case, duplicate):
    layer, x = case
    out = layer.forward(x)
    layer.backward(np.ones_like(out))
    restart(layer)
    twin = duplicate(layer)
    assert all(getattr(twin, name) is None for name in twin.activations)
    assert all(grad is None for grad in twin.grads.values())
    assert all(getattr(layer, name) is not None for name in layer.activations), "the original lost its own"
    for name, value in layer.params.items():
        assert twin.params[name] is not value
        np.testing.assert_array_equal(twin.params[name], value)
    np.testing.assert_array_equal(twin(x), out)
    twin.backward(np.ones_like(out))


def test_parameters_are_the_arrays_that_were_given(case):
    layer, x = case
    out = layer.forward(x).copy()
    for name, value in layer.params.items():
        assert getattr(layer, name) is value
        value += 1.0  # as an optimizer does
        changed = layer.forward(x)
        assert np.abs(changed - out).max() > 1e-3, name
        setattr(layer, name, value - 1.0)  # as load_params does
        np.testing.assert_allclose(layer.forward(x), out, atol=1e-12)


# ---- convolution ----------------------------------------------------------------------------------------------------


def plain_convolution(x, w, b, stride, pad):
    """One output at a time."""
    n, _, h, width = x.shape
    k, _, r, s = w.shape
    padded = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    out = np.empty((n, k, (h + 2 * pad - r) // stride + 1, (width + 2 * pad - s) // stride + 1))
    for i, j, y, z in np.ndindex(out.shape):
        window = padded[i, :, y * stride : y * stride + r, z * stride : z * stride + s]
        out[i, j, y, z] = (window * w[j]).sum() + b[j]
    return out


@pytest.mark.parametrize(("stride", "pad"), [(1, 0), (1, 2), (2, 1), (3, 0)])
def test_convolution_is_the_books(stride, pad):
    x, w, b = normal(2, 3, 7, 6), normal(4, 3, 3, 2), normal(4)
    layer = Convolution(w, b, stride, pad)
    out = layer.forward(x)
    np.testing.assert_allclose(out, plain_convolution(x, w, b, stride, pad), atol=1e-12)
    n, k, oh, ow = out.shape
    assert out.transpose(0, 2, 3, 1).flags.c_contiguous, "channels-last memory"
    assert layer.x is x
    assert layer.col.dtype == np.float64
    assert layer.col.shape == (n * oh * ow, 3 * 3 * 2)
    rows = (layer.col @ layer.col_W + b).reshape(n, oh, ow, k).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(out, rows, atol=1e-12)


def test_convolution_attributes_before_and_after():
    layer = Convolution(normal(4, 3, 3, 3, dtype="float32"), normal(4, dtype="float32"))
    assert (layer.stride, layer.pad) == (1, 0)
    assert layer.x is layer.col is layer.col_W is layer.dW is layer.db is None
    out = layer.forward(normal(2, 3, 5, 5, dtype="float32"))
    assert layer.col.dtype == np.float64
    first = layer.backward(np.ones_like(out)), layer.dW, layer.db
    second = layer.backward(np.ones_like(out)), layer.dW, layer.db
    for a, b in zip(first, second, strict=True):
        assert not np.shares_memory(a, b)
        np.testing.assert_array_equal(a, b)


def test_first_layer_may_leave_out_its_input_gradient():
    for layer, x in (
        (Convolution(normal(4, 3, 3, 3), normal(4)), normal(2, 3, 5, 5)),
        (Affine(normal(6, 4), normal(4)), normal(3, 6)),
    ):
        assert layer.can_skip_dx
        dout = normal(*layer.forward(x).shape)
        layer.backward(dout)
        expected = layer.dW, layer.db
        assert layer.backward(dout, need_dx=False) is None
        np.testing.assert_array_equal(layer.dW, expected[0])
        np.testing.assert_array_equal(layer.db, expected[1])


def test_convolution_errors_name_what_does_not_fit():
    layer = Convolution(normal(4, 3, 3, 3), normal(4))
    with pytest.raises(ValueError, match="channels"):
        layer.forward(normal(2, 2, 5, 5))
    with pytest.raises(ValueError, match="does not fit"):
        layer.forward(normal(2, 3, 2, 2))
    layer.forward(normal(2, 3, 5, 5))
    with pytest.raises(ValueError, match="dout"):
        layer.backward(normal(2, 4, 5, 5))


def test_convolution_result_has_the_wider_dtype_of_input_and_filters():
    for x, w, expected in (("float32", "float64", "float64"), ("float16", "float16", "float16")):
        layer = Convolution(normal(2, 1, 2, 2, dtype=w), np.zeros(2), 1, 0)
        out = layer.forward(normal(1, 1, 3, 3, dtype=x))
        assert out.dtype == expected
        assert layer.backward(np.ones_like(out)).dtype == x
        assert (layer.dW.dtype, layer.db.dtype) == (w, "float64")


# ---- pooling --------------------------------------------------------------------------------------------------------


def test_pooling_takes_the_first_of_equal_elements_and_nan_before_any():
    x = np.zeros((1, 1, 2, 4))
    x[0, 0, :, 2:] = [[1.0, np.nan], [2.0, np.nan]]
    layer = Pooling(2, 2)
    assert layer.arg_max is None
    np.testing.assert_array_equal(layer.forward(x).ravel(), [0.0, np.nan])
    np.testing.assert_array_equal(layer.arg_max, [0, 1])
    assert layer.arg_max.dtype == np.int64
    np.testing.assert_array_equal(layer.backward(np.array([[[[5.0, 7.0]]]])).ravel(), [5, 0, 0, 7, 0, 0, 0, 0])


def test_arg_max_counts_windows_and_channels_as_the_book_does():
    x = normal(2, 3, 6, 4)
    layer = Pooling(3, 2, 2)
    out = layer.forward(x)
    expected = []
    for n in range(2):
        for y in range(0, 4, 2):
            for z in range(0, 3, 2):
                expected += [x[n, c, y : y + 3, z : z + 2].argmax() for c in range(3)]
    np.testing.assert_array_equal(layer.arg_max, expected)
    assert out.transpose(0, 2, 3, 1).flags.c_contiguous
    assert layer.x is x


def test_pooling_pads_with_minus_infinity():
    x = -1.0 - np.arange(16.0).reshape(1, 1, 4, 4)
    layer = Pooling(2, 2, 2, 1)
    np.testing.assert_array_equal(layer.forward(x)[0, 0], [[-1, -2, -4], [-5, -6, -8], [-13, -14, -16]])
    np.testing.assert_array_equal(layer.arg_max, [3, 2, 2, 1, 0, 0, 1, 0, 0])


def test_a_window_in_the_padding_has_no_arg_max():
    layer = Pooling(1, 1, 1, 1)
    out = layer.forward(np.ones((1, 1, 1, 1)))
    np.testing.assert_array_equal(out[0, 0], [[-np.inf] * 3, [-np.inf, 1, -np.inf], [-np.inf] * 3])
    np.testing.assert_array_equal(layer.arg_max, [-1, -1, -1, -1, 0, -1, -1, -1, -1])
    np.testing.assert_array_equal(layer.backward(np.ones_like(out)), np.ones((1, 1, 1, 1)))


def test_average_pooling_divides_by_the_window_or_by_its_elements():
    x = np.ones((1, 1, 2, 2))
    np.testing.assert_array_equal(AveragePooling(2, 2, 2, 1).forward(x), np.full((1, 1, 2, 2), 0.25))
    np.testing.assert_array_equal(AveragePooling(2, 2, 2, 1, count_include_pad=False).forward(x), np.ones((1, 1, 2, 2)))


# ---- affine, activations --------------------------------------------------------------------------------------------


def test_affine_flattens_images():
    x, w, b = normal(3, 2, 2, 3), normal(12, 4), normal(4)
    layer = Affine(w, b)
    np.testing.assert_allclose(layer.forward(x), x.reshape(3, 12) @ w + b, atol=1e-12)
    np.testing.assert_array_equal(layer.x, x.reshape(3, 12))
    assert layer.original_x_shape == (3, 2, 2, 3)
    assert layer.backward(normal(3, 4)).shape == (3, 2, 2, 3)
    assert layer.forward(np.zeros((0, 2, 2, 3))).shape == (0, 4)
    assert layer.backward(np.zeros((0, 4))).shape == (0, 2, 2, 3)
    np.testing.assert_array_equal(layer.dW, np.zeros((12, 4)))


def test_relu_backward_writes_into_its_argument_and_returns_it():
    layer = Relu()
    assert layer.mask is None
    x = np.array([[-1.0, 0.0, 2.0, np.nan]])
    np.testing.assert_array_equal(layer.forward(x), [[0.0, 0.0, 2.0, np.nan]])
    np.testing.assert_array_equal(layer.mask, [[True, True, False, False]])
    assert layer.mask.dtype == bool
    dout = np.full((1, 4), 3.0)
    assert layer.backward(dout) is dout
    np.testing.assert_array_equal(dout, [[0, 0, 3, 3]])


def test_relu_backward_makes_an_array_where_it_cannot_write():
    layer = Relu()
    layer.forward(np.array([[-1.0, 2.0]]))
    read_only = np.ones((1, 2))
    read_only.flags.writeable = False
    for dout in (read_only, np.ones((1, 2), np.float32), np.broadcast_to(1.0, (1, 2))):
        dx = layer.backward(dout)
        np.testing.assert_array_equal(dx, [[0.0, 1.0]])
        np.testing.assert_array_equal(dout, [[1.0, 1.0]])
        assert dx.dtype == np.float64


def test_relu_backward_takes_its_own_output():
    layer = Relu()
    out = layer.forward(np.array([[-1.0, 2.0]]))
    np.testing.assert_array_equal(layer.backward(out), [[0.0, 2.0]])


def test_sigmoid_and_tanh_keep_their_output():
    x = np.array([[-1000.0, 0.0, 1000.0]])
    for layer, expected in ((Sigmoid(), [[0.0, 0.5, 1.0]]), (Tanh(), [[-1.0, 0.0, 1.0]])):
        out = layer.forward(x)
        np.testing.assert_array_equal(out, expected)
        assert layer.out is out


# ---- dropout --------------------------------------------------------------------------------------------------------


def test_dropout_is_the_books_with_numpys_global_stream():
    x = normal(4, 5, dtype="float32")
    np.random.seed(7)
    mask = np.random.rand(4, 5) > 0.3
    after = np.random.rand()
    np.random.seed(7)
    layer = Dropout(0.3)
    out = layer.forward(x)
    assert np.random.rand() == after
    np.testing.assert_array_equal(layer.mask, mask)
    assert layer.mask.dtype == bool
    np.testing.assert_array_equal(out, x * mask)
    np.testing.assert_array_equal(layer.backward(x), x * mask)
    assert out.dtype == np.float32


def test_dropout_predicts_with_the_share_that_training_keeps():
    x = normal(4, 5)
    layer = Dropout(0.3)
    np.testing.assert_allclose(layer.forward(x, train_flg=False), x * 0.7, rtol=1e-15)
    np.testing.assert_allclose(layer.backward(x), x * 0.7, rtol=1e-15)
    layer = Dropout(0.3, inverted=True)
    assert layer.forward(x, False) is x
    assert layer.backward(x) is x
    out = layer.forward(x)
    np.testing.assert_allclose(out, x * layer.mask / 0.7, rtol=1e-15)
    assert Dropout().dropout_ratio == 0.5


def test_seeded_dropout_counts_its_training_passes():
    x = np.ones((50, 20))
    layer = Dropout(0.5, seed=9)
    masks = [layer.forward(x).astype(np.uint8) for _ in range(2)]
    layer.forward(x, train_flg=False)
    assert layer.step == 2
    for step, mask in enumerate(masks):
        np.testing.assert_array_equal(mask, functional.dropout_mask(x.shape, 0.5, 9, step))
    assert (masks[0] != masks[1]).any()
    assert 0.4 < masks[0].mean() < 0.6


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_dropout_ratio_is_checked(ratio):
    with pytest.raises(ValueError, match="dropout_ratio"):
        Dropout(ratio)


# ---- batch normalisation --------------------------------------------------------------------------------------------


def test_batch_normalisation_is_the_books_per_element():
    x, gamma, beta = normal(6, 2, 2, 2), normal(8), normal(8, seed=1)
    layer = BatchNormalization(gamma, beta)
    assert layer.running_mean is layer.running_var is layer.std is layer.xc is layer.xn is None
    rows = x.reshape(6, 8)
    std = np.sqrt(rows.var(axis=0) + 1e-6)
    xn = (rows - rows.mean(axis=0)) / std
    np.testing.assert_allclose(layer.forward(x), (gamma * xn + beta).reshape(x.shape), atol=1e-12)
    np.testing.assert_allclose(layer.running_mean, 0.1 * rows.mean(axis=0), atol=1e-15)
    np.testing.assert_allclose(layer.running_var, 0.1 * rows.var(axis=0), atol=1e-15)
    np.testing.assert_allclose(layer.std, std, atol=1e-12)
    np.testing.assert_allclose(layer.xc, rows - rows.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(layer.xn, xn, atol=1e-12)
    assert (layer.batch_size, layer.input_shape) == (6, x.shape)
    mean, var = layer.running_mean, layer.running_var
    expected = gamma * (rows - mean) / np.sqrt(var + 1e-6) + beta
    np.testing.assert_allclose(layer.forward(x, train_flg=False), expected.reshape(x.shape), atol=1e-12)
    assert layer.running_mean is mean, "a prediction leaves the statistics alone"
    with pytest.raises(RuntimeError, match=r"BatchNormalization\.backward needs"):
        layer.backward(x)


def test_batch_normalisation_per_channel():
    x, gamma, beta = normal(4, 3, 5, 2), normal(3), normal(3, seed=1)
    layer = BatchNormalization(gamma, beta, eps=1e-5, per_channel=True)
    mean, var = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
    columns = [a[:, None, None] for a in (gamma, mean, np.sqrt(var + 1e-5), beta)]
    expected = columns[0] * (x - columns[1]) / columns[2] + columns[3]
    np.testing.assert_allclose(layer.forward(x), expected, atol=1e-12)
    np.testing.assert_allclose(layer.xn * columns[0] + columns[3], expected, atol=1e-12)
    assert layer.running_mean.shape == layer.running_var.shape == (3,)


def test_batch_normalisation_starts_its_statistics_at_zero_and_leaves_given_ones_alone():
    x = normal(4, 3)
    layer = BatchNormalization(np.ones(3), np.zeros(3))
    np.testing.assert_allclose(layer.forward(x, train_flg=False), x / 1e-3, rtol=1e-12)
    mean, var = np.full(3, 2.0), np.full(3, 4.0)
    layer = BatchNormalization(np.ones(3), np.zeros(3), 0.5, mean, var)
    np.testing.assert_allclose(layer.forward(x, False), (x - 2) / np.sqrt(4 + 1e-6), rtol=1e-12)
    layer.forward(x)
    np.testing.assert_allclose(layer.running_mean, 1 + 0.5 * x.mean(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(mean, [2, 2, 2])


def test_batch_normalisation_takes_one_number_for_all_features():
    x = normal(4, 3)
    expected = BatchNormalization(np.full(3, 2.0), np.full(3, 1.0)).forward(x)
    layer = BatchNormalization(2.0, 1.0)
    np.testing.assert_array_equal(layer.forward(x), expected)
    layer.backward(x)
    assert layer.dgamma.shape == layer.dbeta.shape == (3,)


def test_batch_normalisation_errors():
    with pytest.raises(ValueError, match="per_channel"):
        BatchNormalization(np.ones(3), np.zeros(3), per_channel=True).forward(normal(4, 3, 2))
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        BatchNormalization(np.ones(3), np.zeros(3)).forward(normal(3))
    with pytest.raises(ValueError, match="gamma"):
        BatchNormalization(np.ones(3), np.zeros(3)).forward(normal(4, 3, 2, 2))


# ---- local response normalisation -----------------------------------------------------------------------------------


def test_local_response_normalisation_divides_alpha_by_its_size():
    x = normal(2, 6, 3, 2)
    s = np.stack([np.square(x[:, max(0, c - 2) : c + 3]).sum(axis=1) for c in range(6)], axis=1)
    expected = x / (2.0 + 1e-4 / 5 * s) ** 0.75
    np.testing.assert_allclose(LocalResponseNormalization().forward(x), expected, rtol=1e-13)


# ---- softmax with loss ----------------------------------------------------------------------------------------------


def test_softmax_with_loss_adds_1e_7_and_takes_labels_in_three_forms():
    x, labels = normal(4, 3), np.array([0, 2, 1, 1])
    y = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    expected = -np.log(y[np.arange(4), labels] + 1e-7).mean()
    dx = (y - np.eye(3)[labels]) / 4
    for t in (labels, labels.astype(np.uint8), labels[:, None], np.eye(3)[labels], np.eye(3, dtype=int)[labels]):
        layer = SoftmaxWithLoss()
        loss = layer.forward(x, t)
        np.testing.assert_allclose(loss, expected, rtol=1e-14)
        assert layer.loss == loss
        assert layer.t is t
        np.testing.assert_allclose(layer.y, y, rtol=1e-14)
        np.testing.assert_allclose(layer.backward(), dx, atol=1e-15)
        np.testing.assert_allclose(layer.backward(123), dx, atol=1e-15)


def test_softmax_with_loss_is_bounded_where_the_exact_loss_is_not():
    layer = SoftmaxWithLoss()
    np.testing.assert_allclose(layer.forward(np.array([[1000.0, 0.0]]), np.array([1])), -np.log(1e-7))


def test_softmax_with_loss_gradient_agrees_with_central_differences():
    x, t = normal(4, 3), np.array([0, 2, 1, 1])
    layer = SoftmaxWithLoss()
    layer.forward(x, t)
    # The gradient leaves the 1e-7 out: the difference is of that size.
    check_gradients(lambda: float(layer.forward(x, t)), {"x": x}, {"x": layer.backward()}, tolerance=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_labels_never_widen_the_gradient(dtype):
    x, labels = normal(4, 3, dtype=dtype), np.array([0, 2, 1, 1])
    for t in (labels, np.eye(3)[labels]):
        layer = SoftmaxWithLoss()
        layer.forward(x, t)
        assert layer.backward().dtype == dtype
        assert layer.y.dtype == np.float32


def test_softened_labels_have_the_books_gradient():
    x, t = normal(2, 3), np.array([[0.1, 0.8, 0.1], [0.5, 0.3, 0.2]])
    layer = SoftmaxWithLoss()
    layer.forward(x, t)
    np.testing.assert_allclose(layer.backward(), (layer.y - t) / 2, rtol=1e-14)


def test_label_errors():
    layer = SoftmaxWithLoss()
    for t in (np.array([0, 3]), np.array([-1, 0])):
        with pytest.raises(ValueError, match=r"labels must lie in 0 \.\.\. 2"):
            layer.forward(normal(2, 3), t)
    for t in (np.array([0, 1, 2]), np.array([0.0, 1.0])):
        with pytest.raises(ValueError, match="labels must be integers"):
            layer.forward(normal(2, 3), t)
    with pytest.raises(ValueError, match="scores"):
        layer.forward(normal(3), np.array([0]))
    with pytest.raises(RuntimeError, match=r"SoftmaxWithLoss\.backward needs"):
        layer.backward()
    with fastdl.inference():
        assert layer.forward(np.zeros((1, 2)), np.array([0])) == layer.loss
    with pytest.raises(RuntimeError, match="inference"):
        layer.backward()


def test_an_empty_batch_has_no_loss():
    layer = SoftmaxWithLoss()
    assert np.isnan(layer.forward(np.zeros((0, 3)), np.zeros(0, int)))
    assert layer.backward().shape == (0, 3)
