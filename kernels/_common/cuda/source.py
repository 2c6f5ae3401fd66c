"""Sources of CUDA kernels: their text with everything they include, their kernels, and the structs these take."""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent
#: Storage dtype -> its type in a source.
STORAGES = {"float32": "float", "float64": "double", "float16": "f16", "bfloat16": "bf16"}

_INCLUDE = re.compile(r'^#include "([\w./]+\.cuh)"$', re.MULTILINE)
_STRUCT = re.compile(r"^struct (\w+) \{\n(.*?)^\};", re.MULTILINE | re.DOTALL)
_KERNEL = re.compile(r"^\s*KERNEL\((\w+), (\w+), (\w+), (\w+)\)", re.MULTILINE)
_CONSTANT = re.compile(r"\b([A-Z][A-Z0-9_]*) = (\w+)")
_FIELD = re.compile(r"(\**)\s*(\w+)(?:\[(\w+)\])?$")
_TYPES: dict[str, Any] = {
    "int": ctypes.c_int, "u32": ctypes.c_uint32, "i64": ctypes.c_int64, "u64": ctypes.c_uint64,
    "float": ctypes.c_float, "double": ctypes.c_double,
}  # fmt: skip


class Variant(NamedTuple):
    """One way to compile a source: a storage dtype and macros."""

    storage: str
    macros: tuple[tuple[str, str], ...] = ()
    oldest: int = 75  # the oldest architecture that it is for: 75 is sm_75
    newest: int = 0  # the newest one, or 0: it has no end


class Entry(NamedTuple):
    """A kernel of a source."""

    name: str
    threads: int  # of a block
    resident: int  # blocks that a multiprocessor is to hold at once: the budget of registers
    arguments: str  # its struct


class Source:
    """A ``_cuda.cu`` beside the file ``path``, and the ways in which it is compiled.

    Those are each of ``storages`` with each of ``macros``, ``({"KERNEL_SIZE": "3"}, ...)``, or ``variants``. A place
    compiles one of them only, and the tests compile them all.
    """

    def __init__(
        self,
        path: str,
        storages: Sequence[str] = tuple(STORAGES),
        macros: Sequence[dict[str, str]] = ({},),
        variants: Sequence[Variant] = (),
    ) -> None:
        self.path = Path(path).with_name("_cuda.cu")
        self.variants = tuple(variants) or tuple(
            Variant(storage, tuple(sorted(given.items()))) for storage in storages for given in macros
        )

    @functools.cached_property
    def text(self) -> str:
        """The source with everything it includes from ``_common/cuda`` or beside it, each file once."""
        seen: set[Path] = set()

        def expand(path: Path) -> str:
            def included(found: re.Match[str]) -> str:
                places = (path.parent / found[1], FOLDER / found[1])
                target = next((place for place in places if place.exists()), None)
                if target is None:
                    raise FileNotFoundError(f"{path} includes {found[1]}, which is neither beside it nor in {FOLDER}")
                if target in seen:
                    return ""
                seen.add(target)
                line = text.count("\n", 0, found.start()) + 2
                return f'{expand(target)}\n#line {line} "{path.name}"'

            text = path.read_text().replace("#pragma once\n", "\n")
            return f'#line 1 "{path.name}"\n' + _INCLUDE.sub(included, text)

        return expand(self.path)

    def defines(self, variant: Variant) -> dict[str, str]:
        """The macros of a variant."""
        return {"FD_STORAGE": STORAGES[variant.storage], **dict(variant.macros)}

    @functools.cached_property
    def _constants(self) -> dict[str, str]:
        return dict(_CONSTANT.findall(self.text))

    def _number(self, text: str, macros: dict[str, str]) -> int:
        while not text.isdigit():
            known = macros | self._constants
            if text not in known:
                raise ValueError(f"{self.path} has no constant {text}")
            text = known[text]
        return int(text)

    def entries(self, variant: Variant) -> dict[str, Entry]:
        """The kernels by name, those too that ``#if`` leaves out, unless they need a macro that the variant lacks."""
        macros = dict(variant.macros)
        found = {}
        for name, threads, resident, arguments in _KERNEL.findall(self.text):
            if all(text.isdigit() or text in macros or text in self._constants for text in (threads, resident)):
                numbers = self._number(threads, macros), self._number(resident, macros)
                found[name] = Entry(name, *numbers, arguments)
        return found

    def struct(self, name: str, variant: Variant) -> type[ctypes.Structure]:
        """The struct ``name`` of the source as a ctypes class."""
        found = next((body for title, body in _STRUCT.findall(self.text) if title == name), None)
        if found is None:
            raise ValueError(f"{self.path} has no struct {name}")
        fields: list[tuple[str, Any]] = []
        ctype: Any
        compute = "double" if variant.storage == "float64" else "float"
        for statement in re.sub(r"//.*", "", found).split(";"):
            if not statement.strip():
                continue
            kind, rest = re.fullmatch(r"\s*((?:const )?\w+)\s*(.*)", statement, re.DOTALL).groups()  # type: ignore[union-attr]
            kind = kind.removeprefix("const ")
            for declarator in rest.split(","):
                stars, field, length = _FIELD.match(declarator.strip().removeprefix("__restrict__ ")).groups()  # type: ignore[union-attr]
                if stars:
                    ctype = ctypes.c_void_p
                elif kind == "S":
                    ctype = _TYPES[compute]
                else:
                    ctype = _TYPES.get(kind) or self.struct(kind, variant)
                fields.append((field, ctype * self._number(length, dict(variant.macros)) if length else ctype))
        return type(name, (ctypes.Structure,), {"_fields_": fields})
