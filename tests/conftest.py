"""Fixtures that every test file shares."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from fastdl import _array
from fastdl import backend as settings

# A shell that starts a command with & lets it ignore Ctrl-C, which the tests of interrupted runs send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: Scripts, some of them called ..._test.py, and no tests.
collect_ignore = ["reader"]


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
