"""Reading and writing named arrays: `.npz` archives, and the weight pickles that are already in the world.

A pickle is a program, so `load_arrays` never runs one with NumPy's or Python's own classes. The few names
that a pickle of arrays needs are replaced by the stand-ins below, which check what they are given and build
arrays from plain bytes; every other name is refused before anything is imported.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import re
import reprlib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from .._files import replacing

NUMERIC_KINDS = "biufc"


class ArrayFileError(ValueError):
    """A file of arrays is damaged, or holds something else than numeric arrays."""


class RefusedPickleError(ArrayFileError, pickle.UnpicklingError):
    """A pickle asks for something else than numeric arrays and plain containers."""


def load_arrays(path: str | os.PathLike, *, max_bytes: int = 2**32) -> dict[str, np.ndarray]:
    """Named arrays of the `.npz` archive or pickle at `path`; which of the two it is, its content tells.

    A pickle must be a dict with `str` keys, or a list or tuple (whose keys become "0", "1", ...); its values
    are NumPy arrays, or NumPy scalars and Python numbers (which become arrays of shape ()). All arrays that
    come back are new, writable, of a bool, integer, float or complex dtype in native byte order, and have the
    shape and memory order (C or Fortran) in which they were saved.

    Raises RefusedPickleError (a pickle.UnpicklingError) naming `module.name` if a pickle asks for anything
    else, ArrayFileError (a ValueError) if the file is damaged, holds other arrays or would unpack to more
    than `max_bytes`, and OSError if it cannot be read.
    """
    path = Path(path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise ArrayFileError(f"{path}: expected at most {max_bytes} bytes (max_bytes), found {size}")
        data = file.read()
    try:
        if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            return _read_npz(data, max_bytes)
        return _read_pickle(data)
    except RefusedPickleError as error:
        raise RefusedPickleError(f"{path}: {error}") from None
    except ArrayFileError as error:
        raise ArrayFileError(f"{path}: {error}") from None
    except Exception as error:  # damaged input makes zipfile, zlib, pickle and NumPy raise nearly anything
        raise ArrayFileError(
            f"{path}: expected an .npz archive or a pickle of arrays, found {len(data)} bytes that are "
            f"damaged or something else ({type(error).__name__}: {error})"
        ) from error


def save_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Write numeric `arrays` to `path` as an `.npz` archive, which `load_arrays` and `numpy.load` read.

    The archive is written beside `path` and then renamed, so an error or a crash leaves the old file as it
    was. No ending is added to `path`. Equal arrays give equal files. Raises TypeError for a key that is no
    `str` or an array of another dtype than bool, integer, float or complex (bfloat16 and object arrays among
    them), before anything is written; OSError if writing fails.
    """
    path = Path(path)
    checked = {}
    for key, value in arrays.items():
        if not isinstance(key, str):
            raise TypeError(f"{path}: expected names of type str, found {key!r}")
        checked[key] = array = np.asarray(value)
        if array.dtype.kind not in NUMERIC_KINDS:
            raise TypeError(f"{path}: expected bool, integer, float or complex arrays, found {key!r} of {array.dtype}")
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "x") as archive:
        for key, array in checked.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _read_npz(data: bytes, max_bytes: int) -> dict[str, np.ndarray]:
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        size = sum(member.file_size for member in members)
        if size > max_bytes:
            raise ArrayFileError(f"expected arrays of at most {max_bytes} bytes (max_bytes), found {size}")
        for member in members:
            key = member.filename.removesuffix(".npy")
            if key == member.filename:
                raise ArrayFileError(f"expected an archive of .npy files, found {member.filename!r}")
            with archive.open(member) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
                if file.read(1):  # reading to the end also makes zipfile compare the checksum
                    raise ArrayFileError(f"expected nothing after the array {key!r}, found more bytes")
            arrays[key] = _numeric(key, array)
    return arrays


def _read_pickle(data: bytes) -> dict[str, np.ndarray]:
    # latin1 is how pickles of Python 2 spell the bytes of their arrays; newer ones have no use for it.
    content = _Unpickler(io.BytesIO(data), encoding="latin1").load()
    if type(content) in (list, tuple):
        content = {str(i): value for i, value in enumerate(content)}
    if type(content) is not dict:
        raise RefusedPickleError(f"expected a pickled dict, list or tuple of arrays, found {_kind(content)}")
    # An honest array brings its own bytes; many arrays over the same bytes could fill any memory.
    size = sum({id(value): value.nbytes for value in content.values() if type(value) is _Array}.values())
    if size > len(data):
        raise ArrayFileError(f"expected arrays of at most {len(data)} bytes, the file's own, found {size}")
    arrays = {}
    for key, value in content.items():
        if type(key) is not str:
            raise RefusedPickleError(f"expected names of type str, found {_kind(key)}")
        if type(value) is _Array:
            value = value.to_numpy()
        elif type(value) not in (bool, int, float):
            raise RefusedPickleError(f"expected an array or a number for {key!r}, found {_kind(value)}")
        arrays[key] = _numeric(key, np.asarray(value))
    return arrays


def _numeric(key: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in NUMERIC_KINDS:
        raise ArrayFileError(f"expected numeric arrays, found {key!r} of dtype {array.dtype}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _kind(value: object) -> str:
    return {_Array: "an array", _DType: "a dtype"}.get(type(value), f"a {type(value).__name__}")


_short = reprlib.repr  # a small pickle can build a tuple whose whole repr would never end


class _DType:
    """Stands for `numpy.dtype`: only plain numeric types, no fields, subarrays, objects or metadata."""

    def __init__(self, spec, align=False, copy=False):
        if not (isinstance(spec, str) and re.fullmatch(r"[<>=|]?[biufc]\d{1,2}", spec)):
            raise RefusedPickleError(f"expected a bool, integer, float or complex dtype, found {_short(spec)}")
        self.dtype = np.dtype(spec)

    def __setstate__(self, state):
        _, byteorder, *structure = state
        if byteorder not in ("<", ">", "=", "|") or any(part not in (None, -1, 0) for part in structure):
            raise RefusedPickleError(f"expected a plain dtype, found the state {_short(state)}")
        self.dtype = np.dtype(self.dtype.newbyteorder(byteorder).str)


class _Array:
    """Stands for an array: its bytes, and the dtype and shape that they must fill."""

    def __setstate__(self, state):
        _, shape, dtype, is_fortran, content = state
        self.fill(content, dtype, shape, "F" if is_fortran else "C")

    def fill(self, content, dtype, shape, order, axes=None) -> _Array:
        if type(dtype) is not _DType or type(shape) is not tuple or order not in ("C", "F", "K"):
            raise RefusedPickleError(
                f"expected an array's dtype, shape and order, found {_short((dtype, shape, order))}"
            )
        if not isinstance(content, (bytes, bytearray, str)):
            raise RefusedPickleError(f"expected an array's bytes, found {_kind(content)}")
        if not all(type(length) is int and length >= 0 for length in shape):
            raise ArrayFileError(f"expected an array's shape, found {_short(shape)}")
        self.nbytes = math.prod(shape) * dtype.dtype.itemsize
        if len(content) != self.nbytes:
            raise ArrayFileError(
                f"expected {self.nbytes} bytes for {dtype.dtype} {_short(shape)}, found {len(content)}"
            )
        self.parts = content, dtype.dtype, shape, order, axes
        return self

    def to_numpy(self) -> np.ndarray:
        content, dtype, shape, order, axes = self.parts
        if isinstance(content, str):
            content = content.encode("latin1")
        array = np.frombuffer(content, dtype)
        if order == "K":  # a transposed array: bytes and shape of its memory, axes lead back to the array
            array = array.reshape(shape).transpose(axes)
        else:
            array = array.reshape(shape, order=order)
        return array.copy(order="K")


def _ndarray(*_):
    raise RefusedPickleError("expected numpy.ndarray only as a type, found a call of it")


def _reconstruct(subtype, shape, typecode):
    return _Array()


def _scalar(dtype, content):
    return _Array().fill(content, dtype, (), "C")


def _frombuffer(content, dtype, shape, order, axes=None):
    return _Array().fill(content, dtype, shape, order, axes)


def _encode(text, encoding):
    if encoding != "latin1":
        raise RefusedPickleError(f"expected bytes spelt in latin1, found {_short(encoding)}")
    return text  # encoded later, once, when its array is made


def _no_bytes():
    return b""


_STAND_INS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,  # bytes, in protocols 0 to 2
    ("builtins", "bytes"): _no_bytes,  # empty bytes there
    ("__builtin__", "bytes"): _no_bytes,
}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and NumPy 2
    _STAND_INS[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    _STAND_INS[f"{_core}.multiarray", "scalar"] = _scalar
    _STAND_INS[f"{_core}.numeric", "_frombuffer"] = _frombuffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        stand_in = _STAND_INS.get((module, name))
        if stand_in is None:
            raise RefusedPickleError(
                f"expected a pickle of numeric arrays, found one that asks for {module}.{name}: refused"
            )
        # A pickle can set attributes of what it is handed, so that is a new function each time.
        return lambda *args: stand_in(*args)
