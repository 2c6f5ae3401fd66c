"""Compiled gemm; the contract is the folder's docstring, the loops are in gemm.h."""

include "kernel.pxi"

from fastdl.kernels.gemm.plan import THIN, plan

cdef extern from "gemm_call.h":
    ctypedef struct gemm_call:
        fd_tensor a
        fd_tensor b
        fd_tensor out
        int relu
        ptrdiff_t mc
        ptrdiff_t nc
        ptrdiff_t kc
        ptrdiff_t thin
    int gemm_start(gemm_call *g, const fd_tensor *bias, int threads) nogil

ISA = __name__.rpartition("_")[2]


def gemm_forward(problem, a, b, bias, out, int threads):
    """out = f(a @ b + bias)."""
    cdef gemm_call g
    cdef fd_tensor bias_tensor
    cdef const fd_tensor *bias_or_null
    cdef int status
    g.mc, g.kc, g.nc = plan(problem, ISA)
    g.thin = THIN
    fd_tensor_of(a, &g.a)
    fd_tensor_of(b, &g.b)
    fd_tensor_of(out, &g.out)
    bias_or_null = optional(bias, &bias_tensor)
    g.relu = problem.epilogue == "bias_relu"
    with nogil:
        status = gemm_start(&g, bias_or_null, threads)
    finish(status)
