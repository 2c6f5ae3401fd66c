"""Options of ``pytest bench/``."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Beside those of pytest-benchmark."""
    group = parser.getgroup("fastdl")
    group.addoption("--bench-dtype", default="float32", choices=["float32", "float64", "float16"])
    group.addoption("--bench-threads", type=int, default=2, help="threads of every participant")
    group.addoption("--bench-rounds", type=int, default=9, help="timed calls")
