"""Options of ``pytest bench/``, and its cases."""

from __future__ import annotations

import pytest
from timed import Options, add_options, options_of


def pytest_addoption(parser: pytest.Parser) -> None:
    """See ``timed``."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Says what cannot be before anything is collected."""
    options_of(config)


@pytest.fixture(scope="session")
def options(pytestconfig: pytest.Config) -> Options:
    """What is asked for."""
    return options_of(pytestconfig)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each (group, case, participant) that its module's ``cases`` has: the group is a table."""
    found = list(metafunc.module.cases(options_of(metafunc.config)))
    ids = [f"{group} {participant}" for group, _, participant in found]
    metafunc.parametrize(("group", "case", "participant"), found, ids=ids)
