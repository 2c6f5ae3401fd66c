"""The runtime that all kernels share: pooled output memory, the arena, what it reports."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import numpy as np
import pytest

from fastdl.kernels import registry

if not registry.available_levels():
    pytest.skip("the compiled kernels were not built", allow_module_level=True)

from fastdl.kernels._common import _runtime
from fastdl.kernels.problem import Problem

SIZE = 1_000_003  # a size that nothing else here asks for


def array():
    return np.ndarray((SIZE,), np.uint8, buffer=_runtime.Block(SIZE))


def test_memory_is_reused_only_after_the_last_view_is_gone():
    a = array()
    address, view = a.ctypes.data, a[5:10][::2]
    del a
    gc.collect()
    other = array()
    assert other.ctypes.data != address, "the view still needs the memory"
    view[...] = 7
    del view, other
    gc.collect()
    addresses = {array().ctypes.data for _ in range(3)}
    assert addresses & {address} or len(addresses) == 1


def test_two_live_results_never_share_memory():
    results = [array() for _ in range(8)]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(results) for b in results[:i])
    assert all(a.ctypes.data % 64 == 0 and a.flags.writeable for a in results)


def test_the_pool_keeps_little_more_than_the_peak_and_gives_memory_back():
    blocks = [_runtime.Block(300_000 + 4096 * i) for i in range(20)]
    del blocks
    for i in range(200):  # ever new sizes: nothing of this can be reused
        _runtime.Block(310_000 + 8192 * i)
    stats = _runtime.pool_stats()
    assert stats["live"] + stats["cached"] <= 1.5 * stats["peak"]
    assert _runtime.trim_pool() == stats["cached"]
    assert _runtime.pool_stats()["cached"] == 0


def test_sizes_that_take_turns_need_no_fresh_memory():
    """Like the layers of a network: the arrays of one size come when those of another have gone."""
    code = """if True:
        from fastdl.kernels._common._runtime import Block, pool_stats
        def step():
            for size in (1_000_000, 600_000, 300_000, 900_000, 500_000, 700_000):
                kept = [Block(size) for _ in range(8)]
        for _ in range(4):
            step()
        before = pool_stats()
        step()
        after = pool_stats()
        assert after["fresh"] == before["fresh"], (before, after)
        assert after["live"] + after["cached"] <= 1.5 * after["peak"], after
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_impossible_size_is_a_memory_error():
    with pytest.raises(MemoryError):
        _runtime.Block(1 << 60)


def gemm(seed, threads):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((300, 200)), rng.standard_normal((200, 150))
    problem = Problem("gemm", "forward", (a.shape, b.shape), "float64")
    out = np.empty((300, 150))
    registry.choose(problem, "cython", registry.LEVELS[-1])[1](problem, a, b, None, out, threads)
    return out


def test_the_arena_is_empty_between_calls_and_stays_bounded_over_threads_that_come_and_go():
    gemm(0, 1)
    one = _runtime.arena_peak(reset=True)
    assert one > 0
    assert _runtime.arena_peak() == 0
    for _ in range(3):
        worker = threading.Thread(target=gemm, args=(0, 1))
        worker.start()
        worker.join()
    before = _runtime.arena_reserved()
    for _ in range(30):
        worker = threading.Thread(target=gemm, args=(0, 1))
        worker.start()
        worker.join()
    # The arena of a thread that Python has joined may for a moment still be its own.
    assert _runtime.arena_reserved() < before + 10 * one


def test_many_short_calls_with_many_threads_all_finish():
    expected = gemm(1, 1)
    for count in (1, 2, 3, 8) * 25:
        np.testing.assert_array_equal(gemm(1, count), expected)


def test_the_interpreter_exits_while_workers_sleep():
    program = (
        "import numpy as np\nfrom fastdl.kernels import registry\nfrom fastdl.kernels.problem import Problem\n"
        "a = np.ones((512, 512)); p = Problem('gemm', 'forward', (a.shape, a.shape), 'float64')\n"
        "registry.choose(p, 'cython', 'v4')[1](p, a, a, None, np.empty_like(a), 4)\nprint('done')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "done"


def test_what_it_says_about_itself():
    assert _runtime.cpu_level() in registry.LEVELS
    info = _runtime.build_info()
    assert info["compiler"] and info["threading"] in ("pthreads", "none")
    with pytest.raises(TypeError, match="takes NumPy arrays, not list"):
        problem = Problem("gemm", "forward", ((1, 1), (1, 1)), "float64")
        registry.choose(problem, "cython", "v4")[1](problem, [[1.0]], np.ones((1, 1)), None, np.ones((1, 1)), 1)
