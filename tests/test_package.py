"""The wheel and the sdist: everything is in them, and the wheel works elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KERNELS = sorted(path.parent.name for path in (ROOT / "kernels").glob("*/_cython.pyx"))

SOME = ["gemm", "im2col"]

pytestmark = [
    pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="the tests do not stand beside the sources"),
    pytest.mark.xdist_group("package"),  # built once
]


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(
    scope="module",
    params=[pytest.param(SOME, id="some"), pytest.param(KERNELS, id="all", marks=pytest.mark.slow)],
)
def built(request, tmp_path_factory):
    """(wheel, sdist, ops with compiled kernels), built from the unpacked sdist: the working tree stays as it is.

    All kernels take minutes to compile.
    """
    if not KERNELS:
        pytest.fail("no kernel was found in the source tree")
    folder = tmp_path_factory.mktemp("dist")
    only = {} if request.param is KERNELS else {"FASTDL_BUILD_ONLY": ",".join(SOME)}
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, env=os.environ | only)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist, request.param


def test_sdist_holds_the_sources(built):
    with tarfile.open(built[1]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for op in KERNELS:
        assert f"kernels/{op}/_cython.pyx" in names
        if op != "peak":  # it measures the machine and computes nothing
            assert f"kernels/{op}/reference.py" in names
    for name in ("kernels/_common/tiles.h.in", "kernels/_common/runtime.h", "setup.py", "README.md", "LICENSE"):
        assert name in names
    assert not [name for name in names if name.endswith((".so", ".c")) or "build/" in name]


def test_wheel_holds_kernels_at_every_level_and_works_elsewhere(built, tmp_path):
    from fastdl.kernels import registry

    with zipfile.ZipFile(built[0]) as archive:
        names = archive.namelist()
    assert not [name for name in names if name.startswith("kernels/")], "kernels is another project's import name"
    assert {"fastdl/bench/page.css", "fastdl/bench/page.js"} <= set(names)
    levels = [isa for isa in registry.LEVELS if "not built" not in registry.level_missing(isa)]
    assert levels, "the compiled kernels were not built"
    for op in built[2]:
        for isa in levels:
            assert any(name.startswith(f"fastdl/kernels/{op}/_cython_{isa}.") for name in names), (op, isa)
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    with zipfile.ZipFile(built[0]) as archive:
        archive.extractall(site)
    # The dependencies come from this environment; fastdl itself must come from the wheel.
    dependencies = os.pathsep.join(path for path in sys.path if path.endswith(("site-packages", "dist-packages")))
    program = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in type(f).__module__.lower()\n"
        "                                and 'editable' not in getattr(f, '__name__', '').lower()]\n"
        "import fastdl, numpy as np, pathlib\n"
        f"assert pathlib.Path(fastdl.__file__).is_relative_to({site!r}), fastdl.__file__\n"
        "from fastdl import functional as F\n"
        "from fastdl.kernels import registry\n"
        "assert registry.available_levels()\n"
        "x = np.arange(2 * 3, dtype='float32').reshape(2, 3); w = np.ones((3, 4), 'float32')\n"
        "with fastdl.use_backend('cython'): a = F.linear(x, w)\n"
        "with fastdl.use_backend('numpy'): b = F.linear(x, w)\n"
        "assert (a == b).all()\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run(python, "-c", program, cwd=tmp_path, env=environment | {"PYTHONPATH": dependencies})


def test_importing_from_the_source_tree_after_a_plain_install_explains_itself(tmp_path):
    """The source folder has fastdl/ but no fastdl.kernels: the message must say so, as NumPy's does."""
    program = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in type(f).__module__.lower()\n"
        "                                and 'editable' not in getattr(f, '__name__', '').lower()]\n"
        "import fastdl"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "source tree" in done.stderr and "pip install -e" in done.stderr
