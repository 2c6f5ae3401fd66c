"""What a context has chosen (see :mod:`fastdl.backend`), and who watches its kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .kernels import registry

Kernel = Callable[..., None]


class Observer(Protocol):
    """Sees every kernel that runs in its context."""

    def observed(self, function: Kernel, row: registry.Row, choice: Choice, fallback: str) -> Kernel:
        """What is called in the place of ``function``, the kernel of ``row``."""


class Choice:
    """Backend, ISA cap, convolution algorithm and arithmetic of a context (members of ``registry``'s lists), for NumPy
    arrays or those of one device. Equal only to itself, so that it is a cheap part of a key."""

    __slots__ = ("_siblings", "arithmetic", "backend", "cap", "conv", "device", "log")

    def __init__(
        self,
        backend: str,
        cap: str,
        conv: str,
        arithmetic: str = "",
        device: int | None = None,
        log: Observer | None = None,
    ) -> None:
        self.backend = backend
        self.cap = cap
        self.conv = conv
        self.arithmetic = arithmetic
        self.device = device
        self.log = log
        self._siblings = {(backend, cap, conv, arithmetic, device): self}

    def replace(
        self,
        backend: str | None = None,
        cap: str | None = None,
        conv: str | None = None,
        arithmetic: str | None = None,
        device: int | None = None,
    ) -> Choice:
        """The one choice with these values and this one's log."""
        products = self.arithmetic if arithmetic is None else arithmetic
        key = (backend or self.backend, cap or self.cap, conv or self.conv, products, device)
        found = self._siblings.get(key)
        if found is None:
            found = Choice(*key, self.log)
            found._siblings = self._siblings
            found = self._siblings.setdefault(key, found)
        return found
