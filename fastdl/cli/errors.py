"""What ends a command early."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake of the user or a lack of the machine: one line, exit code 2."""


class Failed(Exception):
    """Work that went wrong, through no mistake on the command line: one line, exit code 1."""


class Interrupted(Exception):
    """Ctrl-C, with what the user should know about it."""


@contextmanager
def user_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turns exceptions of these kinds into ``UserError``."""
    try:
        yield
    except kinds as error:
        raise UserError(_text(error)) from error


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
