"""fastdl.functional: what holds for every function. Dtype rules, odd inputs, ``out=``, messages, threads, processes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import re
import signal
import threading
import warnings

import numpy as np
import pytest

import fastdl
from fastdl import _array
from fastdl import functional as F
from fastdl.functional import _call
from fastdl.kernels.problem import COMPUTE
from layouts import LAYOUTS
from small_arrays import conv2d_in_numpy, integers

# ---- dtypes ---------------------------------------------------------------------------------------------------------

RESULTS = [
    ("float32", "float32", "float32"),
    ("float32", "float64", "float64"),
    ("float16", "float32", "float32"),
    ("float16", "float16", "float16"),
    ("bfloat16", "bfloat16", "bfloat16"),
    ("bfloat16", "float32", "float32"),
    ("uint8", "float32", "float32"),
    ("int32", "float32", "float64"),
    ("bool", "float16", "float16"),
    ("uint8", "int64", "float64"),
]


@pytest.mark.parametrize(("x_dtype", "w_dtype", "wanted"), RESULTS)
@pytest.mark.parametrize("b_dtype", ["float16", "float64", "int64"])
def test_result_dtype_is_numpys_and_each_gradient_has_its_tensors(backend, rng, x_dtype, w_dtype, wanted, b_dtype):
    if "bfloat16" in (x_dtype, w_dtype):
        pytest.importorskip("ml_dtypes")
    x = integers(rng, (2, 3, 4, 4), low=0).astype(x_dtype)
    w, b = integers(rng, (5, 3, 3, 3), low=0).astype(w_dtype), np.arange(5).astype(b_dtype)
    out = F.conv2d(x, w, b)
    assert out.dtype.name == wanted
    reference = conv2d_in_numpy(x, w) + np.arange(5)[:, None, None]
    assert np.array_equal(out, reference.astype(out.dtype))

    def own(tensor):
        return tensor.dtype.name if tensor.dtype.name in COMPUTE else wanted

    dx, dw, db = F.conv2d_backward(np.ones(out.shape), x, w)
    assert (dx.dtype.name, dw.dtype.name, db.dtype.name) == (own(x), own(w), own(w))
    a, v = x.reshape(2, -1), w.reshape(5, -1)[:, :16].repeat(3, 1).T
    assert F.linear(a, v, b).dtype.name == wanted
    dx, dw, db = F.linear_backward(np.ones((2, 5)), a, v)
    assert (dx.dtype.name, dw.dtype.name, db.dtype.name) == (own(x), own(w), own(w))
    assert F.add(x, x.astype(w_dtype)).dtype.name == wanted
    assert F.concat([x, x.astype(w_dtype)]).dtype.name == wanted


def test_default_dtype_decides_for_integers(backend):
    x = np.arange(4).reshape(1, 1, 2, 2)
    assert F.relu(x).dtype == np.float64
    fastdl.set_default_dtype("float32")
    assert F.relu(x).dtype == np.float32
    assert F.conv2d(x, x).dtype == np.float32
    assert F.relu(x.astype(np.float64)).dtype == np.float64


def test_halves_of_two_kinds_do_not_mix():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x, w = np.ones((1, 1, 2, 2), np.float16), np.ones((1, 1, 2, 2), bfloat16)
    message = "conv2d: x with w mixes float16 and bfloat16, and none of them holds the other's values: cast one"
    with pytest.raises(TypeError, match=message):
        F.conv2d(x, w)
    with pytest.raises(TypeError, match="concat: arrays mixes float16 and bfloat16"):
        F.concat([x, w])
    with pytest.raises(TypeError, match="add: a with b mixes int32 and bfloat16"):
        F.add(x.astype(np.int32), w)


@pytest.mark.parametrize("bad", [np.complex64, np.longdouble, object, "U3", "M8[s]"])
def test_unsupported_dtypes(bad):
    if np.dtype(bad) == np.float64:
        pytest.skip("long double is double here")
    x, good = np.zeros((1, 1, 3, 3), bad), np.zeros((1, 1, 3, 3))
    supported = f"supported are {', '.join(COMPUTE)}, integers and bool"
    for name, call in {
        "conv2d: x": lambda: F.conv2d(x, good),
        "conv2d: w": lambda: F.conv2d(good, x),
        "conv2d: b": lambda: F.conv2d(good, good, x.reshape(-1)[:1]),
        "conv2d_backward: dout": lambda: F.conv2d_backward(x[:, :, :1, :1], good, good),
        "relu: x": lambda: F.relu(x),
        "max_pool2d: x": lambda: F.max_pool2d(x, 2),
        "softmax_cross_entropy: x": lambda: F.softmax_cross_entropy(x[0, 0], [0, 1, 2]),
    }.items():
        with pytest.raises(TypeError, match=rf"^{name} has dtype .*; {supported}$"):
            call()


# ---- inputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
def test_any_memory_layout(backend, rng, name):
    x, w, dout = integers(rng, (2, 4, 6, 7)), integers(rng, (6, 2, 3, 3)), integers(rng, (2, 6, 4, 5))
    place = LAYOUTS[name]
    expected = [F.conv2d(x, w, groups=2), *F.conv2d_backward(dout, x, w, groups=2), F.max_pool2d(x, 2)]
    x, w, dout = place(x), place(w), place(dout)
    for a in (x, w, dout):
        a.flags.writeable = False
    got = [F.conv2d(x, w, groups=2), *F.conv2d_backward(dout, x, w, groups=2), F.max_pool2d(x, 2)]
    for a, b in zip(got, expected, strict=True):
        assert np.array_equal(a, b)
        assert a.strides == b.strides


def test_foreign_byte_order_unaligned_and_broadcast_inputs(backend, rng):
    x, w = integers(rng, (2, 3, 5, 5), np.float32), integers(rng, (4, 3, 3, 3), np.float32)
    expected = F.conv2d(x, w)
    swapped = x.astype(x.dtype.newbyteorder("S"))
    memory = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = memory[1:].view(np.float32).reshape(x.shape)
    unaligned[...] = x
    assert not unaligned.flags.aligned
    for a in (swapped, unaligned):
        out = F.conv2d(a, w)
        assert out.dtype == np.float32
        assert out.dtype.isnative
        assert np.array_equal(out, expected)
    dx = F.conv2d_backward(np.broadcast_to(np.float32(1), expected.shape), swapped, w)[0]
    assert dx.dtype == np.float32
    assert np.array_equal(dx, F.conv2d_backward(np.ones_like(expected), x, w)[0])


def test_equal_dtype_objects_that_are_not_the_same(backend, rng):
    """Unpickled arrays have dtypes of their own."""
    import pickle

    x = integers(rng, (1, 1, 4, 4), np.float32)
    again = pickle.loads(pickle.dumps(x))
    assert again.dtype is not x.dtype
    out = F.conv2d(x, again, again[0, 0, 0, :1])
    assert out.dtype == np.float32
    assert F.conv2d_backward(out, again, x)[0].dtype == np.float32


def test_lists_matrices_and_memory_maps(backend, tmp_path):
    assert F.relu([[-1.0, 2.0]]).tolist() == [[0.0, 2.0]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        matrix = np.matrix([[1.0, -2.0]])
    for a in (matrix, np.memmap(tmp_path / "a", np.float64, "w+", shape=(1, 2))):
        assert type(F.relu(a)) is np.ndarray
        assert type(F.linear(a, np.ones((2, 2)))) is np.ndarray


def test_masked_arrays_are_refused():
    with pytest.raises(TypeError, match="relu: x is a masked array, whose mask would be lost; fill it first"):
        F.relu(np.ma.masked_array([1.0], [True]))


@pytest.mark.parametrize(("module", "advice"), [("torch", "tensor.detach"), ("jaxlib", "numpy.asarray")])
def test_arrays_of_other_libraries_are_refused(module, advice):
    tensor = type("Tensor", (), {"__module__": f"{module}.core"})()
    with pytest.raises(
        TypeError, match=rf"conv2d: x is a {module} Tensor; fastdl takes NumPy arrays, so pass {advice}"
    ):
        F.conv2d(tensor, np.ones((1, 1, 1, 1)))


def test_empty_batch(backend, dtype):
    x, w = np.zeros((0, 3, 5, 5), dtype), np.ones((4, 3, 3, 3), dtype)
    out = F.conv2d(x, w, np.ones(4, dtype))
    assert out.shape == (0, 4, 3, 3)
    dx, dw, db = F.conv2d_backward(out, x, w)
    assert dx.shape == x.shape
    assert not dw.any()
    assert not db.any()
    for pool, back in ((F.max_pool2d, F.max_pool2d_backward), (F.avg_pool2d, F.avg_pool2d_backward)):
        pooled = pool(x, 2)
        assert pooled.shape == (0, 3, 2, 2)
        assert back(pooled, x, 2).shape == x.shape
    assert F.global_avg_pool2d(x).shape == (0, 3, 1, 1)
    assert F.global_avg_pool2d_backward(F.global_avg_pool2d(x), x).shape == x.shape
    weights = np.ones((75, 2), dtype)
    rows = F.linear(x, weights, np.ones(2, dtype))
    assert rows.shape == (0, 2)
    dx, dw, db = F.linear_backward(rows, x, weights)
    assert dx.shape == x.shape
    assert dw.shape == weights.shape
    assert not dw.any()
    assert not db.any()
    gamma = np.ones(3, dtype)
    assert F.batch_norm_inference(x, gamma, gamma, gamma, gamma).shape == x.shape
    for same in (
        F.relu(x),
        F.sigmoid(x),
        F.tanh(x),
        F.add(x, x),
        F.local_response_norm(x),
        F.softmax(x, 1),
        F.cast(x, dtype),
    ):
        assert same.shape == x.shape
    assert F.dropout(x, F.dropout_mask(x.shape, 0.5, 0, 0)).shape == x.shape
    assert F.concat([x, x]).shape == (0, 6, 5, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, probabilities = F.softmax_cross_entropy(rows, np.zeros(0, np.int64))
    assert np.isnan(loss)
    assert F.softmax_cross_entropy_backward(probabilities, np.zeros((0, 2))).shape == (0, 2)
    assert F.im2col(x, 2).shape == (0, 12)


def test_zero_channels_and_filters(backend):
    assert F.conv2d(np.ones((2, 3, 4, 4)), np.ones((0, 3, 2, 2))).shape == (2, 0, 3, 3)
    out = F.conv2d(np.ones((2, 0, 4, 4)), np.ones((5, 0, 2, 2)), np.arange(5.0))
    assert np.array_equal(out, np.broadcast_to(np.arange(5.0)[:, None, None], (2, 5, 3, 3)))
    assert not F.conv2d(np.ones((1, 1, 0, 4)), np.ones((1, 1, 2, 2)), pad=1).any()


def test_scalars(backend):
    assert F.relu(np.float32(-3)) == 0
    assert F.relu(3).shape == ()
    assert F.add(1.0, 2.0) == 3.0


# ---- outputs --------------------------------------------------------------------------------------------------------


def calls_with_out(rng):
    """(name, call with out=, expected) of every function that takes ``out``."""
    x, w, gamma = integers(rng, (2, 3, 6, 6)), integers(rng, (4, 3, 3, 3)), np.ones(3)
    rows, mask = integers(rng, (3, 4)), np.ones(x.shape, np.uint8)
    calls = {
        "conv2d": lambda **k: F.conv2d(x, w, **k),
        "linear": lambda **k: F.linear(rows, rows.T, **k),
        "max_pool2d": lambda **k: F.max_pool2d(x, 2, **k),
        "avg_pool2d": lambda **k: F.avg_pool2d(x, 2, **k),
        "batch_norm": lambda **k: F.batch_norm(x, gamma, gamma, **k)[0],
        "batch_norm_inference": lambda **k: F.batch_norm_inference(x, gamma, gamma, gamma, gamma, **k),
        "local_response_norm": lambda **k: F.local_response_norm(x, **k),
        "relu": lambda **k: F.relu(x, **k),
        "relu_backward": lambda **k: F.relu_backward(x, x, **k),
        "sigmoid": lambda **k: F.sigmoid(x, **k),
        "tanh_backward": lambda **k: F.tanh_backward(x, x, **k),
        "add": lambda **k: F.add(x, x, **k),
        "concat": lambda **k: F.concat([x, x], **k),
        "dropout": lambda **k: F.dropout(x, mask, **k),
        "cast": lambda **k: F.cast(x, "float64", **k),
        "softmax_cross_entropy_backward": lambda **k: F.softmax_cross_entropy_backward(rows, [0, 1, 2], **k),
    }
    return calls, [x, w, gamma, rows, mask]


def test_out(backend, rng):
    calls, inputs = calls_with_out(rng)
    before = [a.copy() for a in inputs]
    for name, call in calls.items():
        expected = call()
        for out in (
            np.full(expected.shape, 77.0),
            np.full(expected.shape, 77.0, order="F"),
            np.full((*expected.shape, 2), 77.0)[..., 1],
            np.full(expected.shape, 77.0)[::-1],
        ):
            assert call(out=out) is out, name
            assert np.array_equal(out, expected), name
        base = np.full((*expected.shape, 2), 77.0)
        call(out=base[..., 1])
        assert (base[..., 0] == 77).all(), f"{name} wrote beside its output"
    for a, b in zip(inputs, before, strict=True):
        assert np.array_equal(a, b), "an input changed"


def test_wrong_out(rng):
    calls, inputs = calls_with_out(rng)
    for name, call in calls.items():
        good = call()
        shape = good.shape
        read_only = np.full(shape, 77.0)
        read_only.flags.writeable = False
        unaligned = np.zeros(good.nbytes + 1, np.uint8)[1:].view(np.float64).reshape(shape)
        wrong = [
            (np.full((*shape, 1), 77.0), ValueError, rf"{name}: out must have shape .*, got "),
            (np.full(shape, 77.0, np.float32), TypeError, f"{name}: out must have dtype float64, got float32"),
            (read_only, ValueError, f"{name}: out is read-only"),
            (unaligned, ValueError, f"{name}: the elements of out are not aligned"),
            (good.tolist(), TypeError, f"{name}: out must be a NumPy array, not list"),
        ]
        if name != "linear":
            broadcast = np.lib.stride_tricks.as_strided(np.full(1, 77.0), shape, (0,) * len(shape))
            wrong.append((broadcast, ValueError, f"{name}: out is a broadcast view"))
        for out, error, message in wrong:
            with pytest.raises(error, match=message):
                call(out=out)
            assert isinstance(out, list) or not (out != (0 if out is unaligned else 77)).any(), "out was written to"
    x = inputs[0]
    before = x.copy()
    x32 = x.astype(np.float32)
    overlapping = np.lib.stride_tricks.as_strided(x, (2, 4, 4, 4), x.strides, writeable=True)[:, :, :, :]
    for call in (
        lambda: F.conv2d(x, inputs[1], out=overlapping),
        lambda: F.batch_norm(x, inputs[2], inputs[2], out=x),
        lambda: F.relu(x[:, :, 1:], out=x[:, :, :-1]),
        lambda: F.relu(x, out=x[::-1]),
        lambda: F.cast(x, x.dtype, out=x),
        lambda: F.stochastic_cast(x32, "float16", 0, 0, out=x32.view(np.float16)[..., ::2]),
    ):
        with pytest.raises(ValueError, match="out shares memory with an input"):
            call()
    assert np.array_equal(x, before)


def test_results_never_share_memory(backend, rng):
    """Large results come from a pool, which must not hand out memory that is still in use."""
    x, w = integers(rng, (4, 8, 20, 20)), integers(rng, (8, 8, 3, 3))
    kept = [F.conv2d(x, w * i, pad=1) for i in range(5)]
    assert kept[0].nbytes >= _array.POOLED_BYTES
    copies = [a.copy() for a in kept]
    view = F.conv2d(x, w * 9, pad=1)[1:, ::2]
    copy = view.copy()
    for i in range(20):
        F.conv2d(x, w * -i, pad=1)
    assert all(np.array_equal(a, b) for a, b in zip(kept, copies, strict=True))
    assert np.array_equal(view, copy)
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations([*kept, view], 2))


# ---- messages -------------------------------------------------------------------------------------------------------

A = np.ones((2, 4, 6, 6))
K = np.ones((6, 4, 3, 3))
MESSAGES = {
    "conv2d: x must have shape (N, C, H, W), got (3, 28, 28)": lambda: F.conv2d(np.ones((3, 28, 28)), K),
    "conv2d: w must have shape (K, C / groups, R, S), got (3, 3)": lambda: F.conv2d(A, np.ones((3, 3))),
    "conv2d: w (16, 3, 3, 3) takes 3 channels per group, x has 4 with groups=1": lambda: F.conv2d(
        A, np.ones((16, 3, 3, 3))
    ),
    "conv2d: groups=2 does not divide the 3 filters of w (3, 2, 1, 1)": lambda: F.conv2d(
        A, np.ones((3, 2, 1, 1)), groups=2
    ),
    "conv2d: groups must be at least 1, not 0": lambda: F.conv2d(A, K, groups=0),
    "conv2d: w (6, 4, 0, 3) has an empty window": lambda: F.conv2d(A, np.ones((6, 4, 0, 3))),
    "conv2d: b must have shape (6,), got (1, 6)": lambda: F.conv2d(A, K, np.ones((1, 6))),
    "conv2d: stride must be at least 1, not 0": lambda: F.conv2d(A, K, stride=0),
    "conv2d: stride must be an int or a (vertical, horizontal) pair, not 1.5": lambda: F.conv2d(A, K, stride=1.5),
    "conv2d: pad must be an int, a (vertical, horizontal) pair or (top, bottom, left, right), not (1, 2, 3)": (
        lambda: F.conv2d(A, K, pad=(1, 2, 3))
    ),
    "conv2d: pad must be at least 0, not -1": lambda: F.conv2d(A, K, pad=-1),
    "conv2d: dilation must be at least 1, not (1, 0)": lambda: F.conv2d(A, K, dilation=(1, 0)),
    "conv2d: a 3x3 window with dilation (3, 3) does not fit an input of 6x6": lambda: F.conv2d(A, K, dilation=3),
    "conv2d_backward: dout must have shape (2, 6, 4, 4), got (2, 6, 6, 6)": lambda: F.conv2d_backward(
        np.ones((2, 6, 6, 6)), A, K
    ),
    "conv2d_backward: need holds 'x', 'w' and 'b', not 'dx'": lambda: F.conv2d_backward(
        np.ones((2, 6, 4, 4)), A, K, need=["dx"]
    ),
    "linear_backward: need holds 'x', 'w' and 'b', not 'q'": lambda: F.linear_backward(
        np.ones((2, 3)), np.ones((2, 4)), np.ones((4, 3)), need="q"
    ),
    "linear: W (4, 3) takes 4 features, x has 144": lambda: F.linear(A, np.ones((4, 3))),
    "linear: W must have shape (in, out), got (4,)": lambda: F.linear(np.ones((2, 4)), np.ones(4)),
    "linear: x must have shape (N, ...), got (4,)": lambda: F.linear(np.ones(4), np.ones((4, 3))),
    "linear: b must have shape (3,), got (4,)": lambda: F.linear(np.ones((2, 4)), np.ones((4, 3)), np.ones(4)),
    "linear_backward: dout must have shape (2, 3), got (3, 2)": lambda: F.linear_backward(
        np.ones((3, 2)), np.ones((2, 4)), np.ones((4, 3))
    ),
    "im2col: x must have shape (N, C, H, W), got (4, 4)": lambda: F.im2col(np.ones((4, 4)), 2),
    "im2col: kernel must be at least 1, not 0": lambda: F.im2col(A, 0),
    "col2im: col must have shape (50, 16), got (3, 3)": lambda: F.col2im(np.ones((3, 3)), A.shape, 2),
    "max_pool2d: x must have shape (N, C, H, W), got (6, 6)": lambda: F.max_pool2d(A[0, 0], 2),
    "max_pool2d: a 7x7 window with dilation (1, 1) does not fit an input of 6x6": lambda: F.max_pool2d(A, 7),
    "max_pool2d: size must be an int or a (vertical, horizontal) pair, not '2'": lambda: F.max_pool2d(A, "2"),
    "max_pool2d_backward: dout must have shape (2, 4, 3, 3), got (2, 4, 6, 6)": lambda: F.max_pool2d_backward(A, A, 2),
    "max_pool2d_backward: indices must have shape (2, 4, 3, 3), got (2, 4, 6, 6)": lambda: F.max_pool2d_backward(
        A[:, :, :3, :3], A, 2, indices=A.astype(np.uint8)
    ),
    "avg_pool2d: stride must be at least 1, not (0, 1)": lambda: F.avg_pool2d(A, 2, stride=(0, 1)),
    "avg_pool2d_backward: dout must have shape (2, 4, 3, 3), got (2, 4, 6, 6)": lambda: F.avg_pool2d_backward(A, A, 2),
    "global_avg_pool2d: the channels of x (2, 3, 0, 4) have no elements to take a mean of": lambda: F.global_avg_pool2d(
        np.ones((2, 3, 0, 4))
    ),
    "global_avg_pool2d_backward: dout must have shape (2, 4, 1, 1), got (2, 4)": lambda: F.global_avg_pool2d_backward(
        np.ones((2, 4)), A
    ),
    "batch_norm: x must have shape (N, features, ...), got (4,)": lambda: F.batch_norm(np.ones(4), [1.0], [1.0]),
    "batch_norm: gamma must have shape (4,), got (3,)": lambda: F.batch_norm(A, np.ones(3), np.ones(4)),
    "batch_norm: beta must have shape (4,), got (1, 4)": lambda: F.batch_norm(A, np.ones(4), np.ones((1, 4))),
    "batch_norm: eps must be at least 0, not -1.0": lambda: F.batch_norm(A, np.ones(4), np.ones(4), eps=-1),
    "batch_norm: x (0, 4, 6, 6) has no elements to take statistics of": lambda: F.batch_norm(
        A[:0], np.ones(4), np.ones(4)
    ),
    "batch_norm_backward: dout must have shape (2, 4, 6, 6), got (2, 4)": lambda: F.batch_norm_backward(
        A[:, :, 0, 0], A, np.ones(4), np.ones(4), np.ones(4)
    ),
    "batch_norm_inference: var must have shape (4,), got (2, 4)": lambda: F.batch_norm_inference(
        A, np.ones(4), np.ones(4), np.ones(4), np.ones((2, 4))
    ),
    "local_response_norm: size must be at least 1, not 0": lambda: F.local_response_norm(A, 0),
    "local_response_norm_backward: dout must have shape (2, 4, 6, 6), got (1, 4, 6, 6)": lambda: (
        F.local_response_norm_backward(A[:1], A)
    ),
    "relu_backward: dout must have shape (2, 4, 6, 6), got (6, 6)": lambda: F.relu_backward(A[0, 0], A),
    "add: b must have shape (2, 4, 6, 6), got (1, 4, 6, 6)": lambda: F.add(A, A[:1]),
    "concat: arrays must hold at least one array": lambda: F.concat([]),
    "concat: arrays[1] (2, 4, 6, 5) must agree with arrays[0] (2, 4, 6, 6) in all but axis 1": lambda: F.concat(
        [A, A[..., 1:]]
    ),
    "concat: arrays[1] (6, 6) must agree with arrays[0] (2, 4, 6, 6)": lambda: F.concat([A, A[0, 0]]),
    "concat: axis 4 is out of range for 4 dimensions": lambda: F.concat([A], axis=4),
    "concat_backward: sizes (1, 2) must add up to dout's 4 along axis 1": lambda: F.concat_backward(A, (1, 2)),
    "dropout_mask: ratio must be at least 0 and below 1, not 1.0": lambda: F.dropout_mask((3,), 1, 0, 0),
    "dropout_mask: seed must be at least 0 and below 2**64, not -1": lambda: F.dropout_mask((3,), 0.5, -1, 0),
    "dropout: mask must have shape (2, 4, 6, 6), got (4, 6, 6)": lambda: F.dropout(A, np.ones((4, 6, 6), bool)),
    "softmax: axis -5 is out of range for 4 dimensions": lambda: F.softmax(A, -5),
    "softmax_backward: dout must have shape (2, 4, 6, 6), got (6, 6)": lambda: F.softmax_backward(A[0, 0], A),
    "softmax_cross_entropy: x must have shape (N, classes) with at least one class, got (2, 4, 6, 6)": lambda: (
        F.softmax_cross_entropy(A, [0, 1])
    ),
    "softmax_cross_entropy: t must be class numbers (6,) or (6, 1), or one-hot (6, 6), got (2,)": lambda: (
        F.softmax_cross_entropy(A[0, 0], [0, 1])
    ),
    "softmax_cross_entropy: t must hold classes from 0 to 5, got -1 to 3": lambda: F.softmax_cross_entropy(
        A[0, 0], [-1, 0, 1, 2, 3, 3]
    ),
    "softmax_cross_entropy: t must hold classes from 0 to 5, got 0 to 6": lambda: F.softmax_cross_entropy(
        A[0, 0], [6, 0, 1, 2, 3, 3]
    ),
    "softmax_cross_entropy: each row of a one-hot t must hold one 1 and otherwise 0": lambda: F.softmax_cross_entropy(
        A[0, 0], A[0, 0]
    ),
    "softmax_cross_entropy_backward: dout must be one number, got shape (2,)": lambda: F.softmax_cross_entropy_backward(
        A[0, 0], [0] * 6, [1.0, 2.0]
    ),
}
TYPE_MESSAGES = {
    "max_pool2d_backward: indices must have dtype uint8 for this window, got int64": lambda: F.max_pool2d_backward(
        A[:, :, :3, :3], A, 2, indices=np.ones((2, 4, 3, 3), np.int64)
    ),
    "local_response_norm: size must be an int, not 2.5": lambda: F.local_response_norm(A, 2.5),
    "concat: axis must be an int, not 1.0": lambda: F.concat([A], axis=1.0),
    "dropout_mask: step must be an int, not 'a'": lambda: F.dropout_mask((3,), 0.5, 0, "a"),
    "dropout: mask must have dtype uint8 or bool, got float64": lambda: F.dropout(A, A),
    f"cast: dtype must be one of {', '.join(COMPUTE)}, not int32": lambda: F.cast(A, "int32"),
    f"cast: dtype must be one of {', '.join(COMPUTE)}, not 'nonsense'": lambda: F.cast(A, "nonsense"),
    "stochastic_cast: dtype must be float16 or bfloat16, not float32": lambda: F.stochastic_cast(A, "float32", 0, 0),
    "stochastic_cast: x must have dtype float32, got float64": lambda: F.stochastic_cast(A, "float16", 0, 0),
    "stochastic_cast: seed must be an int, not 0.5": lambda: F.stochastic_cast(A.astype("f"), "float16", 0.5, 0),
    "softmax_cross_entropy: t must hold integer class numbers, got float64": lambda: F.softmax_cross_entropy(
        A[0, 0], np.full(6, np.nan)
    ),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_value_errors_name_what_was_expected_and_given(message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        MESSAGES[message]()


@pytest.mark.parametrize("message", TYPE_MESSAGES)
def test_type_errors_name_what_was_expected_and_given(message):
    with pytest.raises(TypeError, match="^" + re.escape(message)):
        TYPE_MESSAGES[message]()


@pytest.mark.parametrize("bad", [np.nan, 0.5, 2.0])
def test_one_hot_labels_hold_zeros_and_ones(bad):
    t = np.eye(3)
    t[1, 0] = bad
    with pytest.raises(ValueError, match="one-hot"):
        F.softmax_cross_entropy(np.ones((3, 3)), t)


def test_a_call_that_worked_makes_no_wrong_one_work():
    """1.0 == 1 == True: a plan found by its key must not skip a check."""
    F.conv2d(A, K, stride=1, pad=(1, 1))
    F.max_pool2d(A, 2)
    for call in (
        lambda: F.conv2d(A, K, stride=1.0),
        lambda: F.conv2d(A, K, pad=(1.0, 1.0)),
        lambda: F.conv2d(A, K, groups=1.0),
        lambda: F.max_pool2d(A, 2.0),
    ):
        with pytest.raises(ValueError, match="must be"):
            call()
    assert np.array_equal(F.conv2d(A, K, stride=np.int64(1), pad=[np.int32(0)] * 2), F.conv2d(A, K))


def test_full_table_of_plans_starts_anew(monkeypatch):
    monkeypatch.setattr(_call, "plans", dict.fromkeys(range(4096)))
    _call.remember("one more", None)
    assert list(_call.plans) == ["one more"]


# ---- threads and processes ------------------------------------------------------------------------------------------


def workload(seed: int) -> list[np.ndarray]:
    """Results of one forward and backward pass, large enough for several threads."""
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(8, 16, 24, 24)).astype(np.float32), rng.normal(size=(24, 16, 3, 3)).astype(np.float32)
    y = F.conv2d(x, w, pad=1)
    a = F.relu(y)
    p, indices = F.max_pool2d(a, 2, return_indices=True)
    s, mean, var = F.batch_norm(p, np.ones(24), np.zeros(24))
    v = rng.normal(size=(24 * 144, 10)).astype(np.float32)
    loss, probabilities = F.softmax_cross_entropy(F.linear(s, v), np.arange(8))
    ds, dv, _ = F.linear_backward(F.softmax_cross_entropy_backward(probabilities, np.arange(8)), s, v)
    dp, dgamma, _ = F.batch_norm_backward(ds, p, np.ones(24), mean, var)
    da = F.max_pool2d_backward(dp, a, 2, indices=indices)
    return [y, p, s, np.asarray(loss), dv, dgamma, *F.conv2d_backward(F.relu_backward(da, a), x, w, pad=1)]


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_same_bits_from_any_number_of_threads(backend):
    with fastdl.threads(1):
        expected = workload(0)
    for n in (2, 3, 7):
        with fastdl.threads(n):
            assert same(workload(0), expected)


def test_python_threads_at_once(backend):
    expected = {seed: workload(seed) for seed in range(4)}
    failures: list[object] = []

    def work(seed):
        try:
            fastdl.use_backend(backend)
            for turn in range(4):
                with fastdl.threads(1 + (seed + turn) % 3):
                    if not same(workload(seed), expected[seed]):
                        failures.append(seed)
        except Exception as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in expected]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_works_after_a_fork_from_a_live_pool(backend):
    with fastdl.threads(2), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: forks beside threads
        expected = workload(1)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                signal.alarm(60)
                status = 0 if same(workload(1), expected) else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert same(workload(1), expected)


def _in_child(seed: int) -> list[np.ndarray]:
    with fastdl.threads(2):
        return workload(seed)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
def test_pools_of_forked_processes():
    with fastdl.threads(2), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        expected = workload(2)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            results = pool.map_async(_in_child, [2, 2, 2]).get(timeout=120)
    assert all(same(result, expected) for result in results)
