"""Makes ``import fastdl`` work in a checkout that nobody has installed: scripts import this first.

The package is ``fastdl/`` with ``kernels/`` as ``fastdl.kernels``. Where this checkout is not the one that is
installed, a temporary folder of symlinks has it in this form. Without compiled kernels NumPy arrays run on the
reference, and CuPy's as always.
(``FASTDL_NO_EXTENSIONS=1 pip install --no-build-isolation --no-deps -e .`` installs the same without a network.)
"""

from __future__ import annotations

import atexit
import importlib
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.resolve()


def links(root: Path = ROOT) -> Path:
    """A temporary folder with the package in it, removed when the program ends."""
    folder = Path(tempfile.mkdtemp(prefix="fastdl-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    package = folder / "fastdl"
    package.mkdir()
    for path in (root / "fastdl").iterdir():
        if path.name != "kernels":
            (package / path.name).symlink_to(path)
    (package / "kernels").symlink_to(root / "kernels")
    return folder


def importable() -> None:
    """Afterwards ``import fastdl`` gives this checkout, unless another one is imported already."""
    if "fastdl" in sys.modules:
        return
    try:
        found = importlib.import_module("fastdl").__file__
        if Path(found or "").resolve() == ROOT / "fastdl" / "__init__.py":
            return
    except ImportError:
        pass
    for name in [name for name in sys.modules if name.partition(".")[0] == "fastdl"]:
        del sys.modules[name]
    sys.path.insert(0, str(links()))
    importlib.invalidate_caches()
    importlib.import_module("fastdl")


importable()
