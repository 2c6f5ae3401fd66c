"""CuPy arrays from function to kernel, on the stand-in for CuPy: see fake_cupy.py."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import fake_cupy
import fastdl
import fastdl.functional as F
from fastdl import _array, _device, backend, check
from fastdl.backend import KernelError
from fastdl.kernels import registry

UNARY = ("relu", "relu6", "sigmoid", "tanh")


def channels_last(a):
    return np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


# ---- every row ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", sorted({row.op for row in registry.TABLE if row.backend == "cuda"}))
def test_cuda_rows_on_arrays_of_the_device(cupy, op):
    rows = [row for row in registry.TABLE if (row.op, row.backend) == (op, "cuda")]
    results = check.check(check.Selection(ops=(op,), backends=("cuda",), every=9, light=True))
    assert len(results) == sum(len(row.storage) for row in rows)
    assert all(result.status == "passed" and result.cases for result in results), results
    assert fake_cupy.state.launches and fake_cupy.state.reads


@pytest.mark.parametrize("name", ["cuda", "cuda-emulated"])
def test_checks_of_cuda_rows_are_aligned_and_not(cupy, name):
    row = next(row for row in registry.TABLE if row[:3] == ("relu", "forward", name))
    plain = (
        case
        for case in check.cases.cases("relu", "forward", "float32")
        if len(case.operands) == 2 and all(o.order == "nchw" and 0 not in o.shape for o in case.operands)
    )
    expectation = check.runner.Expectation(next(plain))
    seen = []

    def relu(problem, x, out, threads):
        seen.append((_array.address(x) % 256, _array.address(out) % 256))
        registry.load(row)(problem, x, out, threads)

    expectation.check(row, relu)
    assert seen[0] == (0, 0) and all(address % 16 for address in seen[1])

    def beside(problem, x, out, threads):
        memory = out.host if name == "cuda" else out
        registry.load(row)(problem, x, out, threads)
        np.lib.stride_tricks.as_strided(memory.view("u1"), (memory.nbytes + 1,), (1,))[-1] += 1

    with pytest.raises(check.runner.Failure, match="wrote beside the memory of out"):
        expectation.check(row, beside)


# ---- moving ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (5,), (2, 3, 4, 5)])
def test_arrays_go_there_and_back(cupy, shape, rng):
    a = rng.standard_normal(shape)
    there = fastdl.to_device(a, "cuda")
    assert type(there) is cupy.ndarray and there.shape == shape and there.dtype == a.dtype
    assert fastdl.to_device(there, "cuda:0") is there
    back = fastdl.to_device(there, "cpu")
    assert type(back) is np.ndarray and np.array_equal(back, a)
    assert fastdl.to_device(back, "cpu") is back


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "uint8", "int64", "bool", ">f4"])
def test_dtypes_go_there_and_back(cupy, dtype):
    pytest.importorskip("ml_dtypes")
    a = np.arange(6).reshape(2, 3).astype(dtype)
    there = fastdl.to_device(a, "cuda")
    assert there.dtype == a.dtype.newbyteorder("=")
    assert np.array_equal(fastdl.to_device(there, "cpu"), a)


def test_moving_keeps_the_order_in_memory(cupy, rng):
    a = channels_last(rng.standard_normal((2, 3, 4, 5)))
    there = fastdl.to_device(a, "cuda")
    assert there.strides == a.strides and np.array_equal(there.host, a)
    assert fastdl.to_device(there, "cpu").strides == a.strides
    view = there[:, ::2, 1:, ::-1]
    assert np.array_equal(fastdl.to_device(view, "cpu"), a[:, ::2, 1:, ::-1])
    assert np.array_equal(fastdl.to_device(a[:, ::2, 1:, ::-1], "cuda").host, a[:, ::2, 1:, ::-1])


def test_devices_have_names(cupy):
    fake_cupy.state.devices = 2
    a = fastdl.to_device([1.0, 2.0], "cuda:1")
    assert _device.device_of(a) == "cuda:1"
    assert _device.device_of(fastdl.to_device(a, "cuda:0")) == "cuda:0"
    with pytest.raises(ValueError, match=r"no device 'cuda:2': this machine has cuda:0 \.\.\. cuda:1"):
        fastdl.to_device(a, "cuda:2")
    for name in ("gpu", "cuda:", "cuda:-1", "cuda:x", 0):
        with pytest.raises(ValueError, match="a device is 'cpu', 'cuda'"):
            fastdl.to_device(a, name)


class Tensor:
    """A tensor of another library in CUDA memory."""

    def __init__(self, a, refuses=""):
        self.a, self.refuses = a, refuses

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **options):
        if self.refuses:
            raise BufferError(self.refuses)
        return self.a


Tensor.__module__ = "torch"


def test_arrays_of_other_libraries_in_cuda_memory_are_taken(cupy, rng):
    a = fastdl.to_device(rng.standard_normal((2, 3)), "cuda")
    out = F.relu(Tensor(a))
    assert np.array_equal(out.host, np.maximum(a.host, 0))
    interface = type("Buffer", (), {"__cuda_array_interface__": a.__cuda_array_interface__})()
    taken = _array.as_array(interface, "x")
    assert taken.data.ptr == a.data.ptr
    with pytest.raises(TypeError, match="relu: x is a torch Tensor that CuPy cannot take: it requires grad"):
        F.relu(Tensor(a, "it requires grad"))


def test_arrays_in_cuda_memory_need_cupy():
    if not (reason := backend.missing("cuda")):
        pytest.skip("there is a GPU here")
    with pytest.raises(
        TypeError, match="relu: x is a torch Tensor in CUDA memory, which fastdl takes by CuPy"
    ) as error:
        F.relu(Tensor(None))
    assert reason in str(error.value)
    with pytest.raises(KernelError, match="the device 'cuda' cannot be used"):
        fastdl.to_device([1.0], "cuda")


# ---- functions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNARY)
def test_activations_run_on_the_device(cupy, name, dtype, rng):
    x = channels_last(rng.standard_normal((2, 3, 4, 5))).astype(dtype)
    dout = rng.standard_normal(x.shape).astype(dtype)
    there = fastdl.to_device(x, "cuda")
    reads = fake_cupy.state.reads
    y = getattr(F, name)(there)
    dx = getattr(F, f"{name}_backward")(fastdl.to_device(dout, "cuda"), y)
    assert fake_cupy.state.launches == [f"{name}_forward", f"{name}_backward"] and fake_cupy.state.reads == reads
    assert type(y) is cupy.ndarray and y.strides == x.strides and y.dtype == dtype and dx.strides == x.strides
    with backend.use_backend("cuda-emulated"):
        wanted = getattr(F, name)(x)
        wanted_dx = getattr(F, f"{name}_backward")(dout, wanted)
    assert np.array_equal(y.host, wanted) and np.array_equal(dx.host, wanted_dx)


def test_out_may_be_given(cupy, rng):
    x = fastdl.to_device(rng.standard_normal((4, 6)), "cuda")
    before = x.host.copy()
    assert F.relu(x, out=x) is x and np.array_equal(x.host, np.maximum(before, 0))
    with pytest.raises(TypeError, match=r"relu: out must be a CuPy array, not numpy\.ndarray"):
        F.relu(x, out=np.empty((4, 6)))
    with pytest.raises(TypeError, match=r"relu: out must be a NumPy array, not cupy\.ndarray"):
        F.relu(np.ones((4, 6)), out=x)
    with pytest.raises(ValueError, match="shares memory with an input"):
        F.relu(x[:, :4], out=x[:, 2:])
    with pytest.raises(ValueError, match="out must have shape"):
        F.relu(x, out=x[1:])


def test_numpy_and_cupy_arrays_do_not_mix(cupy):
    x, there = np.ones((2, 3)), fastdl.to_device(np.ones((2, 3)), "cuda")
    message = (
        r"relu_backward: dout is a NumPy array and y is a CuPy array on cuda:0; move one of them: "
        r"fastdl.to_device\(dout, 'cuda:0'\) or fastdl.to_device\(y, 'cpu'\)"
    )
    with pytest.raises(TypeError, match=message):
        F.relu_backward(x, there)
    with pytest.raises(TypeError, match="dout is a CuPy array on cuda:0 and y is a NumPy array"):
        F.relu_backward(there, x)
    with pytest.raises(TypeError, match="linear: x is a CuPy array on cuda:0 and W is a NumPy array"):
        F.linear(there, np.ones((3, 4)))
    with pytest.raises(TypeError, match="dropout: mask is a NumPy array and x is a CuPy array"):
        F.dropout(there, np.ones((2, 3), bool))
    with pytest.raises(TypeError, match=r"concat: arrays\[1\] is a NumPy array and arrays\[0\] is a CuPy array"):
        F.concat([there, x])


def test_lists_go_to_the_device(cupy):
    y = fastdl.to_device(np.array([[1.0, 0.0]]), "cuda")
    assert np.array_equal(F.relu_backward([[3.0, 4.0]], y).host, [[3.0, 0.0]])


def test_device_arrays_beside_those_of_another_device(cupy):
    fake_cupy.state.devices = 2
    a, b = fastdl.to_device(np.ones((2, 2)), "cuda:0"), fastdl.to_device(np.ones((2, 2)), "cuda:1")
    with pytest.raises(TypeError, match="dout is a CuPy array on cuda:1 and y is a CuPy array on cuda:0"):
        F.relu_backward(b, a)
    with pytest.raises(KernelError, match="the array is on cuda:1 and the current device is cuda:0"):
        F.relu(b)
    with cupy.cuda.Device(1):
        assert _device.device_of(F.relu(b)) == "cuda:1"


def test_plans_of_host_and_device_are_apart(cupy, rng):
    x = rng.standard_normal((3, 4))
    there = fastdl.to_device(x, "cuda")
    for _ in range(2):
        assert type(F.relu(x)) is np.ndarray and type(F.relu(there)) is cupy.ndarray


# ---- dispatch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["numpy", "cython", "numba", "cuda-emulated"])
def test_other_backends_refuse_device_arrays(cupy, name):
    if backend.missing(name):
        pytest.skip(backend.missing(name))
    there = fastdl.to_device(np.ones(3), "cuda")
    with (
        backend.use_backend(name),
        pytest.raises(KernelError, match=f"in use is '{name}', and CuPy arrays run on 'cuda'"),
    ):
        F.relu(there)
    F.relu(there)


def test_backend_cuda_refuses_numpy_arrays(cupy):
    there = fastdl.to_device(np.ones(3), "cuda")
    with backend.use_backend("cuda"):
        with pytest.raises(KernelError, match="'cuda', which takes CuPy arrays, and these are NumPy's"):
            F.relu(np.ones(3))
        F.relu(there)


def test_explain_names_the_cuda_kernel(cupy):
    there = fastdl.to_device(np.ones(3), "cuda")
    assert "-> cuda/elementwise" in fastdl.explain(F.relu, there)


def test_a_missing_kernel_is_one_sentence(cupy, monkeypatch):
    monkeypatch.setattr(registry, "TABLE", tuple(r for r in registry.TABLE if (r.op, r.backend) != ("tanh", "cuda")))
    registry.choose.cache_clear()
    there = fastdl.to_device(np.ones(3), "cuda")
    with pytest.raises(KernelError, match="no CUDA kernel runs tanh forward on float64") as error:
        F.tanh(there)
    assert "\n" not in str(error.value)
    registry.choose.cache_clear()


def test_an_old_cupy_is_one_sentence(cupy):
    there = fastdl.to_device(np.ones(3), "cuda")
    cupy.__version__ = "12.3.0"
    fake_cupy.forget()
    with pytest.raises(KernelError, match=r"CuPy 12\.3\.0 is too old"):
        F.relu(there)


def test_no_memory_is_one_sentence(cupy):
    there = fastdl.to_device(np.ones(1 << 17), "cuda")
    fake_cupy.state.total = fake_cupy.state.used
    with pytest.raises(MemoryError, match=r"the GPU has no memory for another 1.0 MiB: 0.0 of its 1.0 MiB are free"):
        F.relu(there)


def test_import_takes_no_cupy():
    code = "import sys, fastdl.train, fastdl.models, numpy as np; fastdl.functional.relu(np.ones(3)); "
    code += "assert 'cupy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
