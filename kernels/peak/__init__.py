"""What this machine can do at most: arithmetic, memory bandwidth, the way from core to core. Not an op of the registry:
``fastdl.bench.peak`` measures with it, and percentages in benchmark records are of these figures.

``fma(dtype, loops, tasks, threads)``
    does ``tasks * loops`` rounds of independent fused multiply-adds in registers and returns how many floating-point
    operations that were (an FMA counts as two). At level baseline, which has no FMA, multiplications and additions.

``triad(a, b, c, s, streaming, threads)``
    STREAM's triad, ``a = b + s * c`` on contiguous float64 arrays of one length. Memory sees three arrays. A plain
    store reads its cache line first, which makes four; with ``streaming`` the stores go around the caches and save that
    (on x86-64; elsewhere they are plain ones). Which of the two is faster depends on the size, so both are measured.

``ping_pong(rounds)``
    two threads take turns at writing to one cache line: nanoseconds for one way from core to core, NaN where no second
    thread came.

The level of the module decides about the vectors. The kernels are no part of any result, so ``ping_pong`` may use the
atomics that other kernels do without.
"""
