"""Settings, dispatch, explain, and what an import costs."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

import fastdl
from fastdl import _cpus
from fastdl import backend as settings
from fastdl import functional as F
from fastdl.kernels import registry
from fastdl.kernels.problem import Problem

COMPILED = "cython" in settings.available_backends()
needs_kernels = pytest.mark.skipif(not COMPILED, reason="the compiled kernels are not built")

X = np.ones((1, 2, 5, 5), np.float32)
W = np.ones((3, 2, 3, 3), np.float32)
CONV = Problem("conv2d", "forward", (X.shape, W.shape), "float32", ("nchw", "nchw"))


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter; only the given FASTDL_ variables are set."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("FASTDL_")}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=clean | environment
    )


def output_of(program: str, **environment: str) -> str:
    done = python(program, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def error_of(program: str, **environment: str) -> str:
    done = python(program, **environment)
    assert done.returncode != 0, done.stdout
    return done.stderr.strip().splitlines()[-1]


def in_new_thread(function):
    """What ``function`` returns in a thread of its own."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


# ---- import ---------------------------------------------------------------------------------------------------------

HEAVY = ("numba", "cupy", "scipy", "torch", "matplotlib", "typer", "rich", "ml_dtypes", "pooch", "platformdirs")


@pytest.mark.parametrize(
    "program",
    [
        "import fastdl",
        "import fastdl.functional as F, numpy as np; F.conv2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)))",
    ],
)
def test_import_brings_no_heavy_module(program):
    loaded = output_of(f"{program}\nimport sys; print(*sorted(sys.modules))").split()
    assert "fastdl" in loaded
    heavy = set(HEAVY)
    if not COMPILED and "conv2d" in program:  # runs on Numba's kernels, where it is installed
        heavy -= {"numba", "scipy", "platformdirs"}
    assert not {name.partition(".")[0] for name in loaded} & heavy


def test_import_of_the_package_alone_loads_no_other_module_of_it():
    loaded = output_of("import sys, fastdl; print(*[m for m in sys.modules if m.startswith('fastdl')])").split()
    assert sorted(loaded) == ["fastdl", "fastdl.kernels"]


def test_every_exported_name_is_there():
    for name in fastdl.__all__:
        assert getattr(fastdl, name) is not None
        assert name in dir(fastdl)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        fastdl.nonsense  # noqa: B018


def test_functional_exports_what_it_says():
    assert F.__all__ == sorted(F.__all__)
    for name in F.__all__:
        assert callable(getattr(F, name))
        assert getattr(F, name).__doc__


# ---- backend --------------------------------------------------------------------------------------------------------


def test_use_backend_as_a_block():
    assert settings.get_backend() == "auto"
    with fastdl.use_backend("numpy"):
        assert settings.get_backend() == "numpy"
        with fastdl.use_backend("auto"):
            assert settings.get_backend() == "auto"
        assert settings.get_backend() == "numpy"
    assert settings.get_backend() == "auto"


def test_use_backend_block_ends_on_an_error():
    with pytest.raises(KeyError), fastdl.use_backend("numpy"):
        raise KeyError
    assert settings.get_backend() == "auto"


def test_use_backend_as_a_call_holds_for_the_rest_of_the_context():
    def script():
        fastdl.use_backend("numpy")
        return settings.get_backend()

    assert contextvars.copy_context().run(script) == "numpy"
    assert settings.get_backend() == "auto"


def test_use_backend_inside_a_block_ends_with_it():
    with fastdl.use_backend("numpy"):
        fastdl.use_backend("auto")
        assert settings.get_backend() == "auto"
    assert settings.get_backend() == "auto"


def test_one_use_backend_can_be_entered_again():
    def script():
        numpy = fastdl.use_backend("numpy")
        with numpy:
            assert settings.get_backend() == "numpy"
        assert settings.get_backend() == "auto"
        with numpy:
            assert settings.get_backend() == "numpy"
        assert settings.get_backend() == "auto"

    contextvars.copy_context().run(script)


@pytest.mark.parametrize("call", [settings.use_backend, settings.set_backend])
def test_unknown_backend_names_the_known(call):
    with pytest.raises(ValueError, match=r"'auto', 'numpy', 'cython', 'numba', 'cuda', 'cuda-emulated', not 'fortran'"):
        call("fortran")
    assert settings.get_backend() == "auto"


def test_backend_that_is_not_built_is_an_error_at_once(monkeypatch):
    monkeypatch.setattr(settings, "missing", lambda name: "no compiler" if name == "cython" else "")
    with pytest.raises(settings.KernelError, match="'cython' cannot run: no compiler"):
        fastdl.use_backend("cython")
    assert settings.available_backends() == ("numpy", "numba")
    assert settings.get_backend() == "auto"


def test_set_backend_reaches_new_threads_and_use_backend_does_not():
    with fastdl.use_backend("numpy"):
        assert in_new_thread(settings.get_backend) == "auto"
    settings.set_backend("numpy")
    assert in_new_thread(settings.get_backend) == "numpy"
    assert settings.get_backend() == "numpy"


def test_settings_of_concurrent_tasks_do_not_mix():
    async def task(name, n):
        with fastdl.use_backend(name), fastdl.threads(n):
            await asyncio.sleep(0)
            seen = settings.get_backend(), settings.get_num_threads()
            await asyncio.sleep(0)
        return seen

    async def both():
        return await asyncio.gather(task("numpy", 3), task("auto", 5))

    assert asyncio.run(both()) == [("numpy", 3), ("auto", 5)]


@needs_kernels
def test_auto_runs_compiled_kernels():
    with fastdl.explain() as log:
        F.conv2d(X, W)
    assert "-> cython/" in str(log)


def without_convolutions(monkeypatch, *backends):
    choose = registry.choose

    def without(problem, backend, *rest):
        if backend in backends:
            raise registry.KernelError("no kernel runs this")
        return choose(problem, backend, *rest)

    monkeypatch.setattr(registry, "choose", without)


@needs_kernels
@pytest.mark.skipif(bool(registry.numba_missing()), reason="Numba is not installed")
def test_auto_falls_back_to_numba_first(monkeypatch):
    without_convolutions(monkeypatch, "cython")
    monkeypatch.setattr(settings, "_warned", set())
    with pytest.warns(RuntimeWarning, match=r"conv2d forward on its Numba kernels: no kernel runs this"):
        settings.kernel(CONV)
    assert "-> numba/" in fastdl.explain(CONV)


@needs_kernels
def test_auto_falls_back_to_numpy_with_one_warning(monkeypatch):
    without_convolutions(monkeypatch, "cython", "numba")
    monkeypatch.setattr(settings, "_warned", set())
    with pytest.warns(
        RuntimeWarning, match=r"conv2d forward on its slow NumPy reference: no kernel runs this"
    ) as found:
        settings.kernel(CONV)
    assert Path(found[0].filename) == Path(__file__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settings.kernel(CONV)
        assert "fallback to numpy: no kernel runs this" in fastdl.explain(CONV)
    with fastdl.use_backend("cython"), pytest.raises(settings.KernelError, match="no kernel runs this"):
        settings.kernel(CONV)


@pytest.mark.parametrize(
    ("absent", "what"), [(("cython",), "Numba kernels"), (("cython", "numba"), "slow NumPy reference")]
)
def test_auto_without_any_kernel_says_so_once(monkeypatch, absent, what):
    if "numba" not in absent and registry.numba_missing():
        pytest.skip("Numba is not installed")
    monkeypatch.setattr(settings, "missing", lambda name: "no compiler" if name in absent else "")
    monkeypatch.setattr(settings, "_warned", set())
    with pytest.warns(RuntimeWarning, match=f"fastdl runs on its {what}: no compiler"):
        settings.kernel(CONV)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settings.kernel(CONV._replace(storage="float64"))


def test_kernels_of_an_op_that_cannot_be_loaded(monkeypatch):
    def broken(*args):
        raise ImportError("undefined symbol")

    monkeypatch.setattr(registry, "choose", broken)
    with fastdl.use_backend("numpy"), pytest.raises(settings.KernelError, match="conv2d cannot be loaded: undefined"):
        settings.kernel(CONV)


def test_unknown_op(backend):
    with pytest.raises(settings.KernelError, match="no op 'conv9d'"):
        settings.run(CONV._replace(op="conv9d"))


# ---- ISA level ------------------------------------------------------------------------------------------------------


@needs_kernels
@pytest.mark.parametrize("level", registry.available_levels() or ["baseline"])
def test_isa_caps_the_level(level):
    with fastdl.use_backend("cython"), settings.isa(level), fastdl.explain() as log:
        assert settings.get_isa() == level
        F.conv2d(X, W)
    (line,) = [line for line in str(log).splitlines() if "->" in line]
    assert line.split()[1].endswith(f"/{level}")


def test_isa_and_backend_are_independent():
    with settings.isa("baseline"), fastdl.use_backend("numpy"):
        assert (settings.get_isa(), settings.get_backend()) == ("baseline", "numpy")
    with fastdl.use_backend("numpy"), settings.isa("baseline"):
        assert (settings.get_isa(), settings.get_backend()) == ("baseline", "numpy")
    assert settings.get_isa() == registry.environment_cap()


def test_unknown_isa():
    with pytest.raises(ValueError, match="baseline, v3, v4, not 'sse9'"), settings.isa("sse9"):
        pass


# ---- threads --------------------------------------------------------------------------------------------------------


def test_threads():
    default = fastdl.get_num_threads()
    with fastdl.threads(3):
        assert fastdl.get_num_threads() == 3
        assert in_new_thread(fastdl.get_num_threads) == default
        fastdl.set_num_threads(2)
        assert fastdl.get_num_threads() == 3
        assert in_new_thread(fastdl.get_num_threads) == 2
    assert fastdl.get_num_threads() == 2


@pytest.mark.parametrize("n", [0, -1, True])
def test_number_of_threads_is_at_least_one(n):
    with pytest.raises(ValueError, match=f"number of threads must be at least 1, not {n}"):
        fastdl.set_num_threads(n)
    with pytest.raises(ValueError, match="at least 1"), fastdl.threads(n):
        pass


def test_number_of_threads_is_an_int():
    with pytest.raises(TypeError, match=r"must be an int, not 1\.5"):
        fastdl.set_num_threads(1.5)


def test_default_threads_stay_within_the_affinity():
    program = (
        "import os, fastdl; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(fastdl.get_num_threads())"
    )
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity")
    assert output_of(program) == "1"


@pytest.mark.parametrize(
    ("lines", "files", "cpus"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n"}, 2.0),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/of/the/host\n", {"cpu.max": "300000 100000\n"}, 3.0),
        ("4:cpu,cpuacct:/x\n1:memory:/\n", {"cpu,cpuacct/x/cpu.cfs_quota_us": "250000\n",
                                            "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"}, 2.5),
        ("4:cpu:/host\n0::/\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "50000\n"}, 2.0),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("9:name=systemd:/\n", {}, None),
        ("0::/\n", {"cpu.max": "garbage\n"}, None),
    ],
)  # fmt: skip
def test_control_group_quota(tmp_path, lines, files, cpus):
    process, root = tmp_path / "cgroup", tmp_path / "fs"
    process.write_text(lines)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    assert _cpus.cgroup_limit(process, root) == cpus


def test_no_control_groups(tmp_path, monkeypatch):
    assert _cpus.cgroup_limit(tmp_path / "absent", tmp_path) is None
    monkeypatch.setattr(_cpus, "cgroup_limit", lambda: 0.3)
    assert _cpus.available() == 1
    monkeypatch.setattr(_cpus, "cgroup_limit", lambda: 1e9)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(7)), raising=False)
    assert _cpus.available() == 7
    monkeypatch.setattr(_cpus, "cgroup_limit", lambda: 2.5)
    assert _cpus.available() == math.ceil(2.5)


# ---- default dtype, inference ---------------------------------------------------------------------------------------


def test_default_dtype():
    assert fastdl.get_default_dtype() is None
    for given in ("float64", np.float64, np.dtype(">f8")):
        fastdl.set_default_dtype(given)
        assert fastdl.get_default_dtype() == np.dtype("float64")
        assert fastdl.get_default_dtype().isnative
        assert in_new_thread(fastdl.get_default_dtype) == np.float64
    fastdl.set_default_dtype(None)
    assert fastdl.get_default_dtype() is None


def test_default_bfloat16():
    pytest.importorskip("ml_dtypes")
    fastdl.set_default_dtype("bfloat16")
    assert fastdl.get_default_dtype().name == "bfloat16"


@pytest.mark.parametrize("dtype", ["int32", "complex64", "float128", "nonsense", object, 3])
def test_default_dtype_is_a_float(dtype):
    with pytest.raises(TypeError, match=r"default dtype must be one of float64, .*, bfloat16, float8_e4m3fn, .* not"):
        fastdl.set_default_dtype(dtype)
    assert fastdl.get_default_dtype() is None


def test_inference():
    assert not settings.is_inference()
    with fastdl.inference():
        assert settings.is_inference()
        assert not in_new_thread(settings.is_inference)
    assert not settings.is_inference()


def test_blocks_are_decorators():
    @fastdl.inference()
    @fastdl.threads(7)
    def inside():
        return settings.is_inference(), fastdl.get_num_threads()

    assert inside() == inside() == (True, 7)
    assert not settings.is_inference()


# ---- environment ----------------------------------------------------------------------------------------------------


def test_environment_settings():
    program = "from fastdl import backend as b; print(b.get_backend(), b.get_num_threads(), b.get_isa())"
    assert output_of(program, FASTDL_BACKEND="NumPy", FASTDL_NUM_THREADS="3", FASTDL_ISA="v3") == "numpy 3 v3"
    assert output_of(program, FASTDL_NUM_THREADS=" ").split()[0] == "auto"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "FASTDL_BACKEND",
            "fortran",
            "ValueError: FASTDL_BACKEND must be one of 'auto', 'numpy', 'cython', 'numba', 'cuda', 'cuda-emulated', "
            "not 'fortran'",
        ),
        ("FASTDL_NUM_THREADS", "0", "ValueError: FASTDL_NUM_THREADS must be at least 1, not 0"),
        ("FASTDL_NUM_THREADS", "two", "ValueError: FASTDL_NUM_THREADS must be an int of at least 1, not 'two'"),
        ("FASTDL_ISA", "sse9", "ValueError: FASTDL_ISA must be one of baseline, v3, v4, not 'sse9'"),
        ("FASTDL_LOG", "all", "ValueError: FASTDL_LOG must be 'dispatch' or empty, not 'all'"),
    ],
)
def test_wrong_environment(name, value, message):
    assert error_of("import fastdl; fastdl.get_num_threads()", **{name: value}) == message


def test_dispatch_log():
    program = (
        "import numpy as np; from fastdl import functional as F\n"
        "for _ in range(3): F.conv2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)))"
    )
    done = python(program, FASTDL_LOG="dispatch", FASTDL_BACKEND="numpy")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "fastdl.dispatch: conv2d forward ((1, 1, 3, 3), (1, 1, 2, 2)) float64 -> numpy/reference"
    ]
    assert python(program, FASTDL_BACKEND="numpy").stderr == ""


def test_dispatch_logger(caplog):
    registry.choose.cache_clear()
    F.conv2d  # noqa: B018
    with caplog.at_level(logging.INFO, "fastdl.dispatch"), fastdl.use_backend("numpy"):
        settings.kernel(CONV)
    assert [record.message for record in caplog.records] == [
        "conv2d forward ((1, 2, 5, 5), (3, 2, 3, 3)) float32 -> numpy/reference"
    ]


# ---- explain --------------------------------------------------------------------------------------------------------


def running(text: str) -> list[str]:
    """The labels of the rows that ``explain`` says ran."""
    return [line.split()[1] for line in text.splitlines() if line.startswith("  -> ")]


def test_explain_a_function_or_its_name(backend):
    text = fastdl.explain(F.conv2d, X, W, stride=2)
    assert text == fastdl.explain("conv2d", X, W, stride=2)
    assert text.startswith("conv2d forward ((1, 2, 5, 5), (3, 2, 3, 3)) float32\n")
    (label,) = running(text)
    assert label.startswith(backend)
    for row in registry.TABLE:
        if (row.op, row.direction) == ("conv2d", "forward"):
            assert (row.label in text) != row.is_emulated


def test_explain_a_problem_without_running_it(backend, monkeypatch):
    assert running(fastdl.explain(CONV)) == running(fastdl.explain("conv2d", X, W))
    huge = CONV._replace(shapes=((1 << 20, 2, 1 << 20, 1 << 20), W.shape))
    assert running(fastdl.explain(huge))


def test_explain_lists_every_kernel_of_a_call_in_order(backend):
    dout = np.ones((1, 3, 3, 3), np.float32)
    text = fastdl.explain("conv2d_backward", dout, X, W)
    assert [line.split(" (")[0] for line in text.splitlines() if line.startswith("conv2d")] == [
        "conv2d backward_bias",
        "conv2d backward_weight",
        "conv2d backward_input",
    ]
    assert len(running(fastdl.explain("conv2d_backward", dout, X, W, need=("b",)))) == 1


def test_explain_block_counts_calls_and_keeps_results(backend):
    expected = F.conv2d(X, W)
    with fastdl.explain() as log:
        first = F.conv2d(X, W)
        second = F.conv2d(X, W)
        F.conv2d_backward(first, X, W, need=("w",))
    assert np.array_equal(first, expected)
    assert np.array_equal(second, expected)
    assert [problem.direction for problem in log.problems] == ["forward", "forward", "backward_weight"]
    assert "float32, 2 calls" in str(log)
    F.conv2d(X, W)
    assert len(log.problems) == 3, "calls after the block do not belong to it"


def test_explain_sees_settings_changed_inside_it():
    with fastdl.explain() as log, fastdl.use_backend("numpy"):
        F.conv2d(X, W)
    assert running(str(log)) == ["numpy/reference"]


def test_explain_does_not_listen_to_other_threads():
    with fastdl.explain() as log:
        in_new_thread(lambda: F.conv2d(X, W))
    assert str(log) == "no kernel ran"


def test_explain_takes_any_callable():
    assert running(fastdl.explain(lambda: F.conv2d(X, W)))


def test_explain_errors():
    with pytest.raises(ValueError, match=r"fastdl.functional has no 'conv9d'; it has add, "):
        fastdl.explain("conv9d", X)
    with pytest.raises(TypeError, match="explain takes a function"):
        fastdl.explain(3)
    with pytest.raises(ValueError, match="x must have shape"):
        fastdl.explain("conv2d", X[0], W)
    assert settings.current().log is None
