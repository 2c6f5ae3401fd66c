"""Fixtures that every test file shares."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import numpy as np
import pytest

import browser
import fake_cupy
from fastdl import _array
from fastdl import backend as settings

# A shell that starts a command with & lets it ignore Ctrl-C, which the tests of interrupted runs send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: Scripts, some of them called ..._test.py, and no tests.
collect_ignore = ["reader"]
BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture(params=settings.available_backends())
def backend(request):
    """Each backend that is built, in use during the test; its name."""
    with settings.use_backend(request.param):
        yield request.param


@pytest.fixture(params=["float32", "float64", "float16", "bfloat16"])
def dtype(request):
    """Each dtype that kernels store."""
    if request.param == "bfloat16":
        pytest.importorskip("ml_dtypes")
    return _array.float_dtype(request.param, "dtype")


@pytest.fixture
def rng():
    """A generator with a fixed seed."""
    return np.random.default_rng(20160924)


@pytest.fixture(autouse=True)
def process_settings():
    """Puts process-wide settings back after each test."""
    before = settings._process_choice, settings._process_threads, settings._default_dtype
    yield
    settings._process_choice, settings._process_threads, settings._default_dtype = before


@pytest.fixture
def run(capsys):
    """Runs the command line in this process: (exit code, stdout, stderr)."""
    from fastdl.cli import main

    def call(*arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call


@pytest.fixture
def cupy():
    """The stand-in for CuPy, as ``import cupy`` finds it during the test."""
    if missing := settings.missing("cuda-emulated"):
        pytest.skip(missing)
    with fake_cupy.installed() as module:
        yield module


@pytest.fixture
def bench(monkeypatch):
    """The scripts in ``bench/`` as importable modules."""
    if not BENCH.exists():
        pytest.skip("the tests do not stand beside the sources")
    monkeypatch.syspath_prepend(str(BENCH))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(BENCH) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A running browser."""
    executable = browser.find()
    if executable is None:
        pytest.skip(f"there is no browser: CHROME names none, and none of {', '.join(browser.NAMES)} is on the path")
    with browser.Browser(executable, tmp_path_factory.mktemp("profile")) as found:
        yield found
