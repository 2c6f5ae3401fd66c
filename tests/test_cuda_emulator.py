"""The emulation of CUDA kernels: that it runs them as a GPU would, and that it fails where a GPU might.

The second half changes one thing in a kernel that is right (a barrier, a wait, an index, an address) and demands that
the harness notices.
"""

from __future__ import annotations

import numpy as np
import pytest

from fastdl.kernels._common import cuda
from fastdl.kernels._common.cuda import launch
from fastdl.kernels._common.cuda.source import Source
from fastdl.kernels.conv import _cuda as conv
from fastdl.kernels.gemm import _cuda as gemm
from fastdl.kernels.problem import Problem

pytestmark = pytest.mark.skipif(bool(cuda.missing(True)), reason="no C++ compiler emulates CUDA kernels here")

SEEDS = range(1, 9)
HEAD = '#include "device.cuh"\n'


def source_of(tmp_path, text):
    """A source of its own, for float32."""
    (tmp_path / "_cuda.cu").write_text(HEAD + text)
    return Source(str(tmp_path / "_cuda.py"), storages=("float32",))


def run(source, name, blocks, seed=1, shared=0, **arguments):
    launch.Emulation(seed).load(source, "float32").launch(name, blocks, shared=shared, **arguments)


REVERSE = """
struct Reverse {
    const float *x;
    float *out;
    i64 n;
};

KERNEL(reverse, 128, 4, Reverse) {
    SHARED(float, held, 128);
    i64 i = i64(BLOCK_X) * 128 + THREAD;
    held[THREAD] = a.x[i];
    BARRIER();
    a.out[i] = held[127 - THREAD];
}
"""


def reversed_by(source, seed):
    x = np.arange(512, dtype=np.float32)
    out = np.full_like(x, np.nan)
    run(source, "reverse", 4, seed, x=cuda.pointer(x), out=cuda.pointer(out), n=512)
    return np.array_equal(out.reshape(4, 128), x.reshape(4, 128)[:, ::-1])


def test_blocks_threads_and_shared_memory(tmp_path):
    source = source_of(tmp_path, REVERSE)
    assert all(reversed_by(source, seed) for seed in SEEDS)


def test_a_missing_barrier_is_noticed_at_once(tmp_path):
    source = source_of(tmp_path, REVERSE.replace("    BARRIER();\n", ""))
    assert not any(reversed_by(source, seed) for seed in SEEDS)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("if (THREAD < 64) BARRIER(); else { BARRIER(); }\n", None),  # legal: two places, but each thread waits once
        ("if (THREAD == 3) return; warp_sum(1.0f);", "left before a warp-wide operation"),
        ("if (THREAD & 1) warp_barrier(); else warp_sum(1.0f);", "different places"),
        ("if (THREAD < 32) warp_barrier(); else BARRIER(); if (THREAD < 32) BARRIER(); else warp_barrier();", None),
        ("SHARED(float, s, 8); s[8 + THREAD % 4] = 1;", "beyond an array in shared memory"),
        ("SHARED(float, s, 64); store((void *)(s + 1), Wide{});", "not aligned"),
        ("SHARED(float, s, 64); copy_async(s, (const u8 *)a.x + 4, 16);", "not aligned"),
    ],
)
def test_what_a_gpu_would_not_forgive(tmp_path, kernel, message):
    text = "struct Args {\n    const float *x;\n};\n\nKERNEL(tried, 128, 1, Args) { " + kernel + " }\n"
    source = source_of(tmp_path, text)
    x = np.zeros(64, np.float32)
    if message is None:
        for seed in SEEDS:
            try:
                run(source, "tried", 2, seed, x=cuda.pointer(x))
            except launch.EmulationError as error:
                assert "different places" in str(error)
        return
    with pytest.raises(launch.EmulationError, match=message):
        run(source, "tried", 2, x=cuda.pointer(x))


def test_launch_names_what_is_missing(tmp_path):
    source = source_of(tmp_path, REVERSE)
    with pytest.raises(TypeError, match="reverse takes n, out, x, not x"):
        run(source, "reverse", 1, x=0)
    with pytest.raises(TypeError, match="not m, n, out, x"):
        run(source, "reverse", 1, x=0, out=0, n=0, m=0)
    with pytest.raises(ValueError, match="a launch has at most"):
        run(source, "reverse", (1, 65536), x=0, out=0, n=0)
    with pytest.raises(ValueError, match="lists no variant"):
        launch.Emulation(1).load(source, "float64")


def test_a_kernel_that_does_not_compile_says_where(tmp_path):
    source = source_of(tmp_path, "struct Args {\n    int n;\n};\nKERNEL(broken, 32, 1, Args) { nonsense(a.n); }\n")
    with pytest.raises(launch.EmulationError, match=r"_cuda\.cu:5.*nonsense"):
        run(source, "broken", 1, n=1)


# ---- primitives -----------------------------------------------------------------------------------------------------

CONVERT = """
struct Convert {
    const float *x;
    const double *d;
    u16 *half;
    u16 *brain;
    u16 *from_double;
    float *back;
    int n;
};

KERNEL(convert, 256, 1, Convert) {
    int i = BLOCK_X * 256 + THREAD;
    if (i >= a.n) return;
    a.half[i] = narrow<f16>(a.x[i]).bits;
    a.brain[i] = narrow<bf16>(a.x[i]).bits;
    a.from_double[i] = narrow<f16>(a.d[i]).bits;
    a.back[i] = widen(f16{u16(i)});
}
"""


def test_conversions_are_numpys(tmp_path, rng):
    """All 65,536 halves, and floats around every tie between two of them."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    x = halves.astype(np.float32)
    with np.errstate(all="ignore"):
        steps = np.nextafter(x, np.inf) if rng.random() < 0.5 else x
        x = np.where(np.isfinite(x), (x + np.roll(x, 1)) / 2, x).astype(np.float32)
        x = np.choose(rng.integers(0, 3, x.shape), [x, np.nextafter(x, np.inf), steps]).astype(np.float32)
        d = np.where(np.isfinite(x), x.astype(np.float64) * (1 + 2.0**-40 * rng.integers(-1, 2, x.shape)), x)
        want = x.astype(np.float16), x.astype(ml_dtypes.bfloat16), d.astype(np.float16)
    got = [np.zeros(65536, np.uint16) for _ in range(3)]
    back = np.zeros(65536, np.float32)
    names = ("half", "brain", "from_double")
    run(
        source_of(tmp_path, CONVERT), "convert", 256, x=cuda.pointer(x), d=cuda.pointer(d), back=cuda.pointer(back),
        n=65536, **{name: cuda.pointer(a) for name, a in zip(names, got, strict=True)},
    )  # fmt: skip
    for name, a, b in zip(names, got, want, strict=True):
        number = ~np.isnan(b.astype(np.float32))
        assert np.array_equal(a[number], b.view(np.uint16)[number]), name
        assert np.isnan(a.view(b.dtype)[~number].astype(np.float32)).all()
    assert np.array_equal(back, halves.astype(np.float32), equal_nan=True)


TENSOR = """
struct Product {
    const T *a;
    const T *b;
    float *d;
};

// One 16 x 8 product over 32 bytes of depth: a is (16, depth), b (8, depth).
KERNEL(product, 32, 1, Product) {
    constexpr int DEPTH = 32 / sizeof(T);
    SHARED(T, left, 16 * DEPTH);
    SHARED(T, right, 16 * DEPTH);
    for (int i = THREAD; i < 16 * DEPTH; i += 32) {
        left[i] = a.a[i];
        right[i] = i < 8 * DEPTH ? a.b[i] : T{};
    }
    warp_barrier();
    u32 fa[4], fb[4];
    int matrix = LANE >> 3, i = LANE & 7;
    load_matrices(fa, (u8 *)(left + ((matrix & 1) * 8 + i) * DEPTH) + 16 * (matrix >> 1));
    load_matrices(fb, (u8 *)(right + ((matrix >> 1) * 8 + i) * DEPTH) + 16 * (matrix & 1));
    float d[4] = {};
    u32 pair[2] = {fb[0], fb[1]};
    multiply<T>(d, fa, pair);
    for (int e = 0; e < 4; e++) a.d[(LANE / 4 + e / 2 * 8) * 8 + LANE % 4 * 2 + e % 2] = d[e];
}
"""


@pytest.mark.parametrize("storage", ["float16", "bfloat16", "float32"])
def test_a_tensor_core_product(tmp_path, rng, storage):
    if storage == "bfloat16":
        pytest.importorskip("ml_dtypes")
    (tmp_path / "_cuda.cu").write_text(HEAD + TENSOR)
    source = Source(str(tmp_path / "_cuda.py"), storages=(storage,))
    depth = 8 if storage == "float32" else 16
    a, b = (rng.integers(-9, 10, (n, depth)).astype(storage) for n in (16, 8))
    d = np.full((16, 8), np.nan, np.float32)
    for seed in SEEDS:
        kernels = launch.Emulation(seed).load(source, storage)
        kernels.launch("product", 1, a=cuda.pointer(a), b=cuda.pointer(b), d=cuda.pointer(d))
        assert np.array_equal(d, a.astype(np.float64) @ b.astype(np.float64).T)


# ---- mutations ------------------------------------------------------------------------------------------------------


def mutated(original, old, new, count=1):
    """The source ``original`` with one thing changed."""
    assert original.text.count(old) >= 1, f"the kernel has no {old!r} any more"
    source = Source(str(original.path.with_name("_cuda.py")), variants=original.variants)
    source.__dict__["text"] = original.text.replace(old, new, count)
    return source


def gemm_is_right(monkeypatch, source, seed, storage="float16"):
    """A product of small integers with more stages than the pipeline holds."""
    monkeypatch.setattr(gemm, "SOURCE", source)
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-3, 4, (70, 336)).astype(storage), rng.integers(-3, 4, (336, 72)).astype(storage)
    out = np.full((70, 72), np.nan, storage)
    gemm.gemm_forward(Problem("gemm", "forward", (a.shape, b.shape), storage), a, b, None, out, seed)
    return np.array_equal(out, a.astype(np.float64) @ b.astype(np.float64))


def conv_is_right(monkeypatch, source, seed, storage="float16"):
    """All three passes of a strided, padded convolution against sums of products."""
    monkeypatch.setattr(conv, "SOURCE", source)
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, (2, 9, 7, 16)).astype(storage).transpose(0, 3, 1, 2)
    w = rng.integers(-2, 3, (24, 16, 3, 3)).astype(storage)
    problem = Problem("conv2d", "forward", (x.shape, w.shape), storage, pads=(1, 1, 1, 1), stride=(2, 1))
    dout = rng.integers(-2, 3, (2, 5, 7, 24)).astype(storage).transpose(0, 3, 1, 2)
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    out, dx, dw = (np.zeros(shape) for shape in (dout.shape, padded.shape, w.shape))
    for r in range(3):
        for s in range(3):
            window = np.s_[:, :, r : r + 9 : 2, s : s + 7]
            out += np.einsum("nchw,kc->nkhw", padded[window], w[:, :, r, s].astype(np.float64))
            dx[window] += np.einsum("nkhw,kc->nchw", dout.astype(np.float64), w[:, :, r, s].astype(np.float64))
            dw[:, :, r, s] = np.einsum("nkhw,nchw->kc", dout.astype(np.float64), padded[window])
    got = [np.full(shape, np.nan, storage) for shape in (out.shape, x.shape, w.shape)]
    conv.conv2d_forward(problem, x, w, None, got[0], seed)
    conv.conv2d_backward_input(problem._replace(direction="backward_input"), dout, w, None, got[1], seed)
    conv.conv2d_backward_weight(problem._replace(direction="backward_weight"), dout, x, got[2], seed)
    return all(np.array_equal(a, b) for a, b in zip(got, (out, dx[:, :, 1:-1, 1:-1], dw), strict=True))


def test_the_unchanged_kernels_are_right(monkeypatch):
    for seed in SEEDS:
        assert gemm_is_right(monkeypatch, gemm.SOURCE, seed)
        assert conv_is_right(monkeypatch, conv.SOURCE, seed)


@pytest.mark.parametrize(
    ("is_right", "old", "new"),
    [
        (gemm_is_right, "BARRIER(); // everybody's copies", "// everybody's copies"),
        (gemm_is_right, "copy_wait<STAGES - 2>()", "copy_wait<STAGES - 1>()"),
        (gemm_is_right, "int slot = 0, next = STAGES - 1;", "int slot = 0, next = STAGES - 2;"),
        (gemm_is_right, "later_row = of_b ? matrix >> 1 : matrix & 1", "later_row = of_b ? matrix & 1 : matrix & 1"),
        (gemm_is_right, "at += DEPTH;", "at += DEPTH / 2;"),
        (gemm_is_right, "(depth - at) * int(sizeof(T))", "(depth - at - 1) * int(sizeof(T))"),
        (conv_is_right, "if (c >= w.channels) {", "if (c > w.channels) {"),
        (conv_is_right, "base[j] = image + n * w.batch;", "base[j] = image;"),
        (conv_is_right, "if (v[j] >= w.grid_w) {", "if (v[j] > w.grid_w) {"),
        (conv_is_right, "* w.move_h + w.start_h : -(1 << 30)", "* w.move_h : -(1 << 30)"),
        (conv_is_right, "group * a.columns;\n            row.out[n", "0;\n            row.out[n + 1"),
        (conv_is_right, "BARRIER(); // everybody's copies", "// everybody's copies"),
    ],
)
def test_one_change_is_noticed(monkeypatch, is_right, old, new):
    original = {gemm_is_right: gemm, conv_is_right: conv}[is_right].SOURCE
    source = mutated(original, old, new)
    noticed = 0
    for seed in SEEDS:
        try:
            noticed += not is_right(monkeypatch, source, seed)
        except launch.EmulationError:
            noticed += 1
    assert noticed, "no seed notices the change"
