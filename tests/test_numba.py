"""What Numba's kernels share: halves, threads, shapes, the folder of compiled kernels. (Values: test_matrix.py.)"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import fastdl
from fastdl import functional as F
from fastdl import optim
from fastdl.kernels import registry

pytestmark = pytest.mark.skipif(bool(registry.numba_missing()), reason="Numba is not installed")
if not registry.numba_missing():
    import numba

    from fastdl.kernels._common import jit, streaming, tasks
    from fastdl.kernels._common.tasks import parallel

    @numba.njit
    def widened(a, out):
        for i in range(a.size):
            out[i] = jit.widen(a[i])

    @numba.njit
    def narrowed(a, out):
        for i in range(a.size):
            out[i] = jit.narrow(jit.round_to_odd(a[i], out), out)

    @numba.njit
    def portably_widened(a, out):
        for i in range(a.size):
            out[i] = jit.portable_widen(a[i])

    @numba.njit
    def portably_narrowed(a, out):
        for i in range(a.size):
            out[i] = jit.portable_narrow(a[i])

    @numba.njit(nogil=True)
    def count(first, last, hits):
        for i in range(first, last):
            hits[i] += 1


def halves(dtype):
    """All 65,536 of them."""
    pytest.importorskip("ml_dtypes")
    from fastdl import _array

    return np.arange(65536, dtype=np.uint16).view(_array.float_dtype(dtype, "dtype"))


def floats(dtype, values, rng):
    """Numbers of every size, ties between neighbouring ``values`` and what lies next to them, and what is special."""
    wide = rng.standard_normal(200_000) * 10.0 ** rng.uniform(-50, 45, 200_000)
    ties = ((values[:-1] + values[1:]) / 2).astype(dtype)
    with np.errstate(over="ignore"):
        found = [wide.astype(dtype), values.astype(dtype), ties, [np.inf, np.nan, 65520, 65519.99, 3.396e38, 3.4e38]]
    found += [np.nextafter(ties, ties.dtype.type(np.inf)), np.nextafter(ties, ties.dtype.type(-np.inf))]
    found = np.concatenate(found).astype(dtype)
    return np.concatenate([found, -found])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("portable", [False, True])
def test_every_half_is_widened_exactly(dtype, portable):
    if portable and dtype == "bfloat16":
        pytest.skip("there is one way only")
    a = halves(dtype)
    found, expected = np.empty(a.size, np.float32), a.astype(np.float32)
    (portably_widened if portable else widened)(jit.bits(a), found)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(found[number].view(np.uint32), expected[number].view(np.uint32))
    assert np.isnan(found[~number]).all()


@pytest.mark.parametrize("source", ["float32", "float64"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("portable", [False, True])
def test_numbers_are_rounded_once_to_nearest_even(dtype, source, portable, rng):
    if portable and (dtype == "bfloat16" or source == "float64"):
        pytest.skip("there is one way only")
    all_halves = halves(dtype)
    values = np.unique(all_halves[np.isfinite(all_halves.astype(np.float32))].astype(np.float64))
    a = floats(source, values, rng)
    found = np.empty(a.size, all_halves.dtype)
    (portably_narrowed if portable else narrowed)(a, jit.bits(found))
    number = ~np.isnan(a)
    assert np.isnan(found[~number].astype(np.float32)).all()
    # The nearest half, by its distance in float64; of two, the one whose last bit is 0; then infinities.
    largest, step = values[-1], values[-1] - values[-2]
    x = a[number].astype(np.float64)
    inside = np.abs(x) < largest + step / 2
    got = found[number].astype(np.float64)
    assert np.isinf(got[~inside]).all()
    above = np.clip(np.searchsorted(values, x[inside]), 1, values.size - 1)
    low, high = values[above - 1], values[above]
    distance = np.abs(got[inside] - x[inside])
    np.testing.assert_array_equal(distance, np.minimum(np.abs(low - x[inside]), np.abs(high - x[inside])))
    tie = np.abs(low - x[inside]) == np.abs(high - x[inside])
    assert tie.sum() > 60_000
    assert (found[number][inside][tie].view(np.uint16) & 1 == 0).all()


@pytest.mark.parametrize(("tasks", "threads"), [(0, 4), (1, 4), (7, 1), (7, 3), (3, 8), (1000, 2)])
def test_each_task_is_done_once(tasks, threads):
    hits = np.zeros(max(tasks, 1), np.int64)
    parallel(count, tasks, threads, 1e9, hits)
    assert hits.tolist() == [1] * tasks or tasks == 0


def test_callers_on_several_threads():
    hits = np.zeros((6, 1000), np.int64)
    barrier = threading.Barrier(6)

    def call(mine):
        barrier.wait()
        for _ in range(50):
            parallel(count, 1000, 1 + len(threads) % 4, 1e9, mine)

    threads = [threading.Thread(target=call, args=(mine,)) for mine in hits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (hits == 50).all()


def test_an_error_in_a_task_arrives():
    with pytest.raises(TypeError):
        parallel(lambda first, last: None if first == 0 else first + "", 4, 2, 1e9)


FORKED = """
import os, sys, numpy as np, fastdl
from fastdl import functional as F
fastdl.use_backend("numba")
fastdl.set_num_threads(2)
x = np.random.default_rng(0).standard_normal(2_000_000).astype(np.float32)
expected = F.relu(x)
child = os.fork()
same = np.array_equal(F.relu(x), expected)
if child == 0:
    os._exit(0 if same else 1)
assert same
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_after_fork_has_threads_of_its_own():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


CACHED = """
import numpy as np, fastdl
from fastdl import functional as F
from fastdl.kernels._common import jit
fastdl.use_backend("numba")
F.tanh(np.ones(3, np.float32))
from fastdl.kernels.activation import _numba
stats = _numba._forward_line.stats
print(jit.cache_folder().parent, sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
import numba
print(numba.config.CACHE_DIR)
"""


def test_compiled_kernels_are_kept(tmp_path):
    """In a folder of their own; the user's setting of Numba's is left alone."""
    environment = os.environ | {"FASTDL_CACHE_DIR": str(tmp_path / "kept"), "NUMBA_CACHE_DIR": str(tmp_path / "own")}
    for hits, misses in ((0, 1), (1, 0)):
        done = subprocess.run(
            [sys.executable, "-c", CACHED], env=environment, capture_output=True, text=True, check=False
        )
        assert done.stdout.split() == [
            str(tmp_path / "kept/numba"), str(hits), str(misses), str(tmp_path / "own")
        ], done.stderr  # fmt: skip
    assert not (tmp_path / "own").exists()


def test_another_source_has_another_folder(tmp_path, monkeypatch):
    before = jit._fingerprint.__wrapped__()
    copy = tmp_path / "kernels"
    root = jit.Path(jit.__file__).parent.parent
    for path in root.rglob("*.py"):
        target = copy / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    monkeypatch.setattr(jit, "__file__", str(copy / "_common/jit.py"))
    assert jit._fingerprint.__wrapped__() == before
    with open(copy / "activation/_numba.py", "a") as file:
        file.write("# changed\n")
    assert jit._fingerprint.__wrapped__() != before


def test_where_nothing_can_be_kept_kernels_are_compiled_all_the_same(tmp_path):
    (tmp_path / "file").write_text("no folder")
    environment = os.environ | {"FASTDL_CACHE_DIR": str(tmp_path / "file")}
    done = subprocess.run([sys.executable, "-c", CACHED], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 3), (4, 5), (2, 3, 4, 5), (2, 1, 3, 2, 2), (2, 2, 1, 2, 3, 2)])
def test_elements_of_any_shape_and_order(shape, rng):
    base = rng.standard_normal(shape).astype(np.float32)
    views = [base, base.T, base[..., ::-1] if shape else base, np.broadcast_to(base, (2, *shape))]
    with fastdl.use_backend("numba"):
        for x in views:
            np.testing.assert_array_equal(F.relu(x), np.maximum(x, 0))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize(("size", "start"), [(1, 0), (17, 3), (5000, 0), (5003, 1), (5003, 7)])
def test_stores_around_the_caches_change_nothing(size, start, dtype, rng, monkeypatch):
    """Wherever the memory begins, on several threads; what lies beside stays as it is."""
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    monkeypatch.setattr(streaming, "STREAM_BYTES", 0)
    monkeypatch.setattr(tasks, "GRAIN", 1)
    x, y = (rng.standard_normal(size + start).astype(dtype)[start:] for _ in range(2))
    x[::3], x[1::5], y[2::7] = 0, np.nan, -np.inf
    mask = rng.integers(0, 2, size).astype(np.uint8)
    single, double = x.astype(np.float32) / 3, x.astype(np.float64) / 3
    calls = [
        lambda out: F.relu(x, out=out),
        lambda out: F.relu_backward(x, y, out=out),
        lambda out: F.add(x, y, out=out),
        lambda out: F.dropout(x, mask, 2.0, out=out),
        lambda out: F.concat([x[: size // 2], x[size // 2 :]], axis=0, out=out),
        lambda out: F.cast(single, out.dtype, out=out),
        lambda out: F.cast(double, out.dtype, out=out),
    ]
    for call in calls:
        found = {}
        for backend in ("numba", "numpy"):
            memory = np.full(size + start + 20, 77, dtype)
            with fastdl.use_backend(backend), fastdl.threads(3), np.errstate(all="ignore"):
                call(memory[start : start + size])
            found[backend] = memory
        np.testing.assert_array_equal(*(memory.astype(np.float64) for memory in found.values()))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(
    ("channels", "groups"), [((5, 32), 1), ((32, 128), 1), ((24, 20), 4), ((32, 32), 32), ((160, 160), 160)]
)
def test_convolutions_around_the_caches_change_nothing(channels, groups, dtype, rng, monkeypatch):
    from fastdl.kernels.conv import _numba as conv

    x = rng.standard_normal((2, 9, 13, channels[0])).astype(dtype).transpose(0, 3, 1, 2)
    w = rng.standard_normal((channels[1], channels[0] // groups, 3, 3)).astype(dtype)
    b = rng.standard_normal(channels[1]).astype(dtype)
    found = []
    for least in (1 << 40, 0):
        monkeypatch.setattr(conv, "STREAM_BYTES", least)
        with fastdl.use_backend("numba"), fastdl.threads(2):
            y = F.conv2d(x, w, b, pad=1, groups=groups)
            found.append((y, F.conv2d_backward(y, x, w, pad=1, groups=groups, need=("x",))[0]))
    for plain, around in zip(*found, strict=True):
        np.testing.assert_array_equal(around, plain)


@pytest.mark.parametrize(("channels", "stride"), [(16, 1), (129, 1), (200, 2), (300, 1)])
def test_depthwise_convolutions_of_several_bundles(channels, stride, rng):
    x = rng.standard_normal((2, 9, 7, channels)).transpose(0, 3, 1, 2)
    w, b = rng.standard_normal((channels, 1, 3, 3)), rng.standard_normal(channels)
    found = {}
    for backend in ("numba", "numpy"):
        with fastdl.use_backend(backend):
            y = F.conv2d(x, w, b, pad=1, stride=stride, groups=channels)
            found[backend] = (y, *F.conv2d_backward(y, x, w, pad=1, stride=stride, groups=channels))
    for mine, expected in zip(found["numba"], found["numpy"], strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("op", ["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam"])
def test_the_bits_of_a_step_do_not_depend_on_the_threads(op, rng, monkeypatch):
    """Nor on where tasks are cut: of a * b + c * d the same product goes into an FMA everywhere."""
    monkeypatch.setattr(tasks, "GRAIN", 1)
    names = {"sgd": "SGD", "adagrad": "AdaGrad", "rmsprop": "RMSprop"}
    start = {i: rng.standard_normal(shape).astype(np.float32) for i, shape in enumerate([(301,), (7, 41), ()])}
    start[3] = rng.standard_normal((20, 30)).astype(np.float32).T[::2]
    grads = {i: rng.standard_normal(p.shape).astype(np.float32) for i, p in start.items()}
    found = []
    for threads in (1, 2, 5, 7):
        params = {i: p.copy() for i, p in start.items()}
        optimizer = getattr(optim, names.get(op, op.capitalize()))(lr=0.1)
        with fastdl.use_backend("numba"), fastdl.threads(threads):
            for _ in range(3):
                optimizer.update(params, grads)
        found.append(b"".join(p.tobytes() for p in params.values()))
    assert len(set(found)) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_unscale_does_not_depend_on_the_threads(dtype, rng, monkeypatch):
    monkeypatch.setattr(tasks, "GRAIN", 1)
    start = [rng.standard_normal(shape).astype(dtype) for shape in [(301,), (7, 41), ()]]
    start.append(rng.standard_normal((20, 30)).astype(dtype).T[::2])
    for broken in (None, *range(4)):
        found = []
        for threads in (1, 2, 5, 7):
            grads = [g.copy(order="K") for g in start]
            if broken is not None:
                grads[broken][(-1,) * grads[broken].ndim] = np.inf
            with fastdl.use_backend("numba"), fastdl.threads(threads):
                assert optim.unscale(grads, 3.0).tolist() == [int(broken is not None)]
            found.append(b"".join(g.tobytes() for g in grads))
        assert len(set(found)) == 1


def test_importing_fastdl_does_not_import_numba():
    program = "import sys, fastdl, fastdl.layers, fastdl.models; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_warmup_compiles_once(tmp_path):
    """The kernels of a network's step and prediction; a second process loads them."""
    command = [sys.executable, "-m", "fastdl", "warmup", "--model", "simpleconvnet", "--json"]
    environment = os.environ | {"FASTDL_CACHE_DIR": str(tmp_path)}
    found = []
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["folder"].startswith(str(tmp_path))
        (network,) = report["networks"]
        assert (network["model"], network["dtype"]) == ("simpleconvnet", "float32")
        found.append((network["compiled"], network["loaded"]))
    assert found[0][0] > 5
    assert found[0][1] == 0
    assert found[1] == found[0][::-1]
