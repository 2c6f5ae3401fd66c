"""Builds every ``kernels/<op>/_cython.pyx`` once for each ISA level, as ``fastdl.kernels.<op>._cython_<level>``;
likewise those of the algorithms that have a folder of their own, ``kernels/<op>/<algorithm>/_cython.pyx``.

Python 3.11+, GCC or Clang. Environment: ``FASTDL_NO_EXTENSIONS=1`` builds a pure-Python package (NumPy backend only),
``FASTDL_NO_THREADS=1`` serial kernels, ``FASTDL_DEBUG=1`` unoptimised kernels with Cython's bounds checks and the
compiler's address and undefined-behaviour checks, ``FASTDL_BUILD_ONLY=gemm,conv/winograd`` only the kernels of these
folders (for ``build_ext --inplace`` while working on one).
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent.resolve()
GENERATED = ROOT / "build" / "generated"
DEBUG = os.environ.get("FASTDL_DEBUG") == "1"

# The x86-64 psABI levels: the instruction sets that every CPU of a generation has, never those of the build machine.
ISA_FLAGS = {
    "baseline": [],
    "v3": ["-march=x86-64-v3"],
    # GCC's default of 256-bit vectors for AVX-512 suits mixed code; kernels run long enough for the full width.
    "v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}
# Instructions beyond a level, in modules of their own: (level, flag).
FEATURE_FLAGS = {
    "v4bf16": ("v4", "-mavx512bf16"),
    "v4vnni": ("v4", "-mavx512vnni"),
    "v4popcnt": ("v4", "-mavx512vpopcntdq"),
}
# The folders that have such modules: beside those of the levels, or in their place.
VARIANTS = {"conv/dot": ["v4bf16"], "conv/int8": ["levels", "v4vnni"], "conv/binary": ["levels", "v4popcnt"]}
FLAGS = [
    "-O0" if DEBUG else "-O3",
    "-g",
    "-std=gnu11",
    # Kernels read no errno and no floating-point exception flags; without these two the compiler may not turn sqrt
    # and conditional expressions into vector code. Neither changes a result.
    "-fno-math-errno",
    "-fno-trapping-math",
    # a * b + c becomes one FMA where the level has it (GCC's default, made explicit for Clang).
    "-ffp-contract=fast",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-unused-function",
]


def compiles(flags: list[str], source: str, link: bool = False) -> bool:
    """Whether the C compiler takes ``source`` with ``flags``."""
    compiler = os.environ.get("CC", "cc").split()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.c"
        path.write_text(source)
        output = ["-o", str(path.with_suffix(""))] + ([] if link else ["-c"])
        try:
            run = subprocess.run([*compiler, *flags, str(path), *output], capture_output=True, check=False)
        except OSError:
            return False
        return run.returncode == 0


def loud(message: str) -> None:
    """A build warning that nobody overlooks; pip shows it with -v and where the build fails."""
    line = "*" * 100
    print(f"\n{line}\nfastdl: {message}\n{line}\n", file=sys.stderr)
    warnings.warn(message, stacklevel=2)


def generate(source: Path, target: Path, isa: str) -> None:
    """Copies ``source`` into the generated tree, expanding it if it is a template; leaves unchanged files alone."""
    text = source.read_text()
    if source.suffix == ".in":
        from Cython import Tempita

        text = Tempita.sub(text, isa=isa)
        target = target.with_suffix("")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


def extensions() -> list[Extension]:
    """One extension for the runtime and one for each op and ISA level that the compiler can build."""
    if os.environ.get("FASTDL_NO_EXTENSIONS") == "1":
        return []
    if sys.platform == "win32":
        loud("on Windows only the NumPy backend is installed: the kernels need GCC or Clang (WSL 2 has both)")
        return []
    vectors = "typedef float v __attribute__((vector_size(16))); v f(v a, v b) { return a * b; }"
    if not compiles([], vectors):
        loud("no C compiler with GCC's vector extensions was found (set CC): only the NumPy backend is installed")
        return []

    import numpy
    from Cython.Build import cythonize

    macros = [("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")]
    threads: list[str] = []
    thread_probe = (
        "#include <pthread.h>\n#include <stdatomic.h>\n_Atomic int n;\nstatic void *f(void *p) { n++; return p; }\n"
        "int main(void) { pthread_t t; return pthread_create(&t, 0, f, 0) || pthread_join(t, 0); }\n"
    )
    if os.environ.get("FASTDL_NO_THREADS") != "1" and compiles(["-pthread"], thread_probe, link=True):
        threads = ["-pthread"]
    else:
        loud("the kernels are built WITHOUT threads: every call will run on one core")
        macros.append(("FD_NO_THREADS", "1"))

    levels = ["baseline"]
    if platform.machine().lower() in ("x86_64", "amd64"):
        for isa in ("v3", "v4"):
            if compiles(ISA_FLAGS[isa], vectors):
                levels.append(isa)
            else:
                loud(f"this compiler has no {ISA_FLAGS[isa][0]}: kernels of level {isa} are left out")

    features = []
    for isa, (level, flag) in FEATURE_FLAGS.items():
        if level in levels and compiles([*ISA_FLAGS[level], flag], vectors):
            features.append(isa)
        elif level in levels:
            loud(f"this compiler has no {flag}: kernels of level {isa} are left out")

    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"] if DEBUG else []
    kernels = ROOT / "kernels"
    found: list[Extension] = []

    def add(folder: str, module: str, isa: str, include: list[str]) -> None:
        tree = GENERATED / isa
        level, *feature = FEATURE_FLAGS.get(isa, (isa,))
        # An algorithm's folder sees the headers of its op.
        folders = [folder, *(str(parent) for parent in Path(folder).parents if parent.name)]
        for name in folders:
            sources = {path.name.removesuffix(".in") for path in (kernels / name).iterdir()}
            for stale in (tree / name).glob("*.h"):
                if stale.name not in sources:  # renamed: it would shadow a header of the same name in _common
                    stale.unlink()
        for name in ("_common", *folders):
            for source in sorted((kernels / name).glob("*.[hp]*")):
                if source.suffix in (".h", ".in"):
                    generate(source, tree / name / source.name, level)
        headers = [path for name in ("_common", *folders) for path in (tree / name).glob("*.h")]
        # Beside the .pyx, not on Cython's include path: what Cython finds there it puts first on the C compiler's
        # path as well, and one level would be compiled with the headers of another.
        for name in ("_common", *folders):
            for source in sorted((kernels / name).glob("*.pxi")):
                generate(source, tree / folder / source.name, level)
        pyx = tree / folder / f"{module}.pyx"
        generate(kernels / folder / (module.removesuffix(f"_{isa}") + ".pyx"), pyx, level)
        found.append(
            Extension(
                f"fastdl.kernels.{folder.replace('/', '.')}.{module}",
                [str(pyx.relative_to(ROOT))],
                include_dirs=[*(str(tree / name) for name in ("_common", *folders)), *include],
                define_macros=macros,
                extra_compile_args=[*FLAGS, *threads, *ISA_FLAGS[level], *feature, *sanitize],
                extra_link_args=[*threads, *sanitize],
                depends=[str(p) for p in sorted([*tree.glob("_common/*.*"), *headers])],
            )
        )

    add("_common", "_runtime", "baseline", [numpy.get_include()])
    only = os.environ.get("FASTDL_BUILD_ONLY", "").split(",")
    for pyx in sorted(kernels.rglob("_cython.pyx")):
        folder = pyx.parent.relative_to(kernels).as_posix()
        if only != [""] and folder not in only:
            continue
        for wanted in VARIANTS.get(folder, ["levels"]):
            for isa in levels if wanted == "levels" else [wanted] if wanted in features else []:
                add(folder, f"_cython_{isa}", isa, [])

    return cythonize(
        found,
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "cdivision": True,
            "embedsignature": True,
            "freethreading_compatible": False,
        },
        nthreads=0,
    )


def packages() -> list[str]:
    """Every folder of Python files below ``fastdl/``, and ``kernels/`` under its installed name."""
    names = []
    for top, name in (("fastdl", "fastdl"), ("kernels", "fastdl.kernels")):
        for path in sorted((ROOT / top).rglob("__init__.py")):
            names.append(".".join([name, *path.parent.relative_to(ROOT / top).parts]))
    return names


if DEBUG and GENERATED.exists():
    shutil.rmtree(GENERATED)

setup(
    packages=packages(),
    package_dir={"fastdl": "fastdl", "fastdl.kernels": "kernels"},
    package_data={
        "fastdl": ["py.typed"],
        "fastdl.bench": ["*.css", "*.js"],
        "fastdl.data": ["*.npz", "*.md"],
        "fastdl.kernels": ["*.md", "**/*.pyx", "**/*.pxi", "**/*.h", "**/*.in", "**/*.cu", "**/*.cuh"],
    },
    ext_modules=extensions(),
    # Compiling is what takes time: use every core that this process may use.
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
)
