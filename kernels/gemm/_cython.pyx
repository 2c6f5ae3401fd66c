"""Compiled gemm; the contract is the folder's docstring, the loops are in gemm.h."""

include "kernel.pxi"

from fastdl.kernels.gemm.plan import THIN, plan

cdef extern from "gemm_call.h":
    ctypedef struct gemm_call:
        fd_tensor a
        fd_tensor b
        fd_tensor out
        int relu
        int half_sums
        ptrdiff_t mc
        ptrdiff_t nc
        ptrdiff_t kc
        ptrdiff_t thin
    int gemm_start(gemm_call *g, const fd_tensor *bias, int threads) nogil

ISA = __name__.rpartition("_")[2]


cdef int _product(problem, a, b, bias, out, int threads, int factors, int half_sums) except -1:
    """The element type that factors are read as, if it is not their own, and whether sums are rounded to float16."""
    cdef gemm_call g
    cdef fd_tensor bias_tensor
    cdef const fd_tensor *bias_or_null
    cdef int status
    g.mc, g.kc, g.nc = plan(problem, ISA)
    g.thin = THIN
    fd_tensor_of(a, &g.a)
    fd_tensor_of(b, &g.b)
    fd_tensor_of(out, &g.out)
    if factors >= 0:
        g.a.type = g.b.type = factors
    g.half_sums = half_sums
    bias_or_null = optional(bias, &bias_tensor)
    g.relu = problem.epilogue == "bias_relu"
    with nogil:
        status = gemm_start(&g, bias_or_null, threads)
    return finish(status)


def gemm_forward(problem, a, b, bias, out, int threads):
    """out = f(a @ b + bias)."""
    _product(problem, a, b, bias, out, threads, -1, False)


def gemm_forward_tf32(problem, a, b, bias, out, int threads):
    """out = f(a @ b + bias) with both factors rounded to TF32."""
    _product(problem, a, b, bias, out, threads, FD_TF32, False)


def gemm_forward_float16_sums(problem, a, b, bias, out, int threads):
    """out = f(a @ b + bias), each product and each partial sum rounded to float16."""
    _product(problem, a, b, bias, out, threads, -1, True)
