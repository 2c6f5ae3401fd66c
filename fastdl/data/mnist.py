"""MNIST: 60,000 training and 10,000 test images of handwritten digits, 28x28 (LeCun, Cortes, Burges)."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from .._files import replacing
from ._common import Split, prepare_images, prepare_labels

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)


class IdxFile(NamedTuple):
    """One of the four files: name, number of dimensions, published md5 of the unpacked content."""

    stem: str
    ndim: int
    md5: str

    @property
    def name(self) -> str:
        return f"{self.stem}-idx{self.ndim}-ubyte"

    @property
    def spellings(self) -> tuple[str, ...]:
        dotted = f"{self.stem}.idx{self.ndim}-ubyte"
        return self.name, f"{self.name}.gz", dotted, f"{dotted}.gz"


FILES = (
    IdxFile("train-images", 3, "6bbc9ace898e44ae57da46a324031adb"),
    IdxFile("train-labels", 1, "a25bea736e30d166cdddb491f175f624"),
    IdxFile("t10k-images", 3, "2646ac647ad5339dbf082846283269ea"),
    IdxFile("t10k-labels", 1, "27ae3e4e09519cfbb04c329615203637"),
)


def load_mnist(
    normalize: bool = True,
    flatten: bool = True,
    one_hot_label: bool = False,
    *,
    data_dir: str | os.PathLike | None = None,
    download: bool = True,
    dtype: DTypeLike = np.float32,
) -> tuple[Split, Split]:
    """`(x_train, t_train), (x_test, t_test)`, N = 60,000 and 10,000, in the published order.

    x: (N, 784) if `flatten`, else (N, 1, 28, 28); of `dtype`, in 0..1, if `normalize`, else uint8 in 0..255.
    t: (N,) uint8, or (N, 10) float64 if `one_hot_label`.

    The four idx files, gzipped or not, are looked for in `data_dir`; without it in the folder that the
    environment variable FASTDL_DATA_DIR names, then in the user's cache folder, where they are downloaded to
    if `download`. Each may be the folder with the files, or the one above it that has them in `mnist/`.

    Raises FileNotFoundError if files are missing (with `data_dir` given, nothing else is tried) or could not
    be downloaded, ValueError naming the file if one is damaged, TypeError if `dtype` is an integer type.
    """
    paths = _locate(data_dir, download)
    arrays = []
    for images, labels in (FILES[:2], FILES[2:]):
        x_path, t_path = paths[images], paths[labels]
        x, t = read_idx(x_path, images.ndim), read_idx(t_path, labels.ndim)
        if x.shape[1:] != (28, 28):
            raise ValueError(f"{x_path}: expected images of 28x28 pixels, found shape {x.shape}")
        if len(x) != len(t):
            raise ValueError(f"{t_path}: expected {len(x)} labels, one for each image, found {len(t)}")
        if t.size and t.max() > 9:
            raise ValueError(f"{t_path}: expected labels 0 to 9, found {t.max()}")
        arrays.append((prepare_images(x, normalize, flatten, dtype), prepare_labels(t, one_hot_label)))
    return arrays[0], arrays[1]


def read_idx(path: str | os.PathLike, ndim: int) -> np.ndarray:
    """The uint8 array with `ndim` dimensions of the idx file at `path`, which may be gzipped.

    Raises ValueError naming the file if it is truncated, too long, damaged or of another kind.
    """
    content = _unpack(Path(path))
    header, magic = 4 + 4 * ndim, 0x0800 + ndim  # 0x08 means uint8, the low byte counts the dimensions
    if len(content) < header:
        raise ValueError(f"{path}: expected an idx header of {header} bytes, found a file of {len(content)}")
    found, *shape = struct.unpack_from(f">{1 + ndim}I", content)
    if found != magic:
        raise ValueError(f"{path}: expected the idx magic number 0x{magic:08x}, found 0x{found:08x}")
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"{path}: expected {math.prod(shape)} bytes of data for shape {tuple(shape)}, found {len(content) - header}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()


def _unpack(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}: expected a complete gzip file, found a truncated or damaged one of {len(content)} bytes ({error})"
        ) from error


def _present(folder: Path) -> dict[IdxFile, Path]:
    found = {}
    for file in FILES:
        for name in file.spellings:
            if (folder / name).is_file():
                found[file] = folder / name
                break
    return found


def _look_in(root: Path) -> tuple[dict[IdxFile, Path], str]:
    """The files in `root` or `root/mnist`, whichever has more of them, and in words what it lacks (or "")."""
    folder = max(root, root / "mnist", key=lambda folder: len(_present(folder)))
    found = _present(folder)
    missing = ", ".join(file.name for file in FILES if file not in found)
    return found, missing and f"{folder} lacks {missing}"


def _locate(data_dir: str | os.PathLike | None, download: bool) -> dict[IdxFile, Path]:
    """The paths of all four files, downloaded if need be."""
    if data_dir is not None:
        root = Path(data_dir).expanduser()
        found, lack = _look_in(root)
        if lack:
            raise FileNotFoundError(f"expected the MNIST files, plain or .gz, in {root} or {root / 'mnist'}; {lack}")
        return found

    from platformdirs import user_cache_dir

    cache = Path(user_cache_dir("fastdl")) / "mnist"
    roots = [cache]
    if from_environment := os.environ.get("FASTDL_DATA_DIR"):
        roots.insert(0, Path(from_environment).expanduser())
    lacks = []
    for root in roots:
        found, lack = _look_in(root)
        if not lack:
            return found
        lacks.append(lack)
    reason = _download(cache) if download else "download=False"
    if reason:
        raise FileNotFoundError(
            f"MNIST was not found: {'; '.join(lacks)}. Three ways to provide it: give the folder of its "
            f"files as data_dir= (--data-dir); name that folder in the environment variable FASTDL_DATA_DIR; "
            f"or, on a machine with a network, download {', '.join(file.name + '.gz' for file in FILES)} "
            f"from {MIRRORS[0]} and put them into {cache}. It was not downloaded now: {reason}"
        )
    return _present(cache)


def _download(cache: Path) -> str:
    """Complete the files in `cache`; why that failed, or an empty string."""
    import pooch  # type: ignore[import-untyped]

    fetch = pooch.HTTPDownloader(timeout=30)
    for file in FILES:
        if file in _present(cache):
            continue
        reasons = []
        for mirror in MIRRORS:
            try:
                cache.mkdir(parents=True, exist_ok=True)
                with replacing(cache / f"{file.name}.gz") as temporary:
                    fetch(f"{mirror}{file.name}.gz", str(temporary), None)
                    _verify(temporary, file)
                break
            except (OSError, ValueError) as error:
                reasons.append(f"{mirror}{file.name}.gz: {error}")
        else:
            return "; ".join(reasons)
    return ""


def _verify(path: Path, file: IdxFile) -> None:
    """Compare the unpacked content: packing the same content again changes the checksum of a .gz file."""
    found = hashlib.md5(_unpack(path), usedforsecurity=False).hexdigest()
    if found != file.md5:
        raise ValueError(f"expected md5 {file.md5} of the unpacked {file.name}, found {found}")
