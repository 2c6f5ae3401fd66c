"""Compiled peak measurements; what they are is the folder's docstring, the loops are in peak.h.in."""

include "kernel.pxi"

from libc.math cimport NAN, isfinite

cdef extern from "peak.h":
    enum: PEAK_CHAINS
    enum: FD_LANES_f32, FD_LANES_f64
    double peak_fma_run(int wide, ptrdiff_t loops, ptrdiff_t tasks, int threads) nogil
    int peak_triad_run(double *a, const double *b, const double *c, double s, ptrdiff_t n, int streaming,
                       int threads) nogil
    double peak_ping_pong(long rounds) nogil


def fma(str dtype, ptrdiff_t loops, ptrdiff_t tasks, int threads):
    """Floating-point operations done: ``tasks * loops`` rounds of independent multiply-adds in registers."""
    cdef int wide = dtype == "float64"
    cdef double result
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64, not {dtype!r}")
    with nogil:
        result = peak_fma_run(wide, loops, tasks, threads)
    if not isfinite(result):
        raise ArithmeticError("the chains of multiply-adds have left the finite numbers")
    return 2 * PEAK_CHAINS * (FD_LANES_f64 if wide else FD_LANES_f32) * loops * tasks


cdef int _vector(object array, fd_tensor *out) except -1:
    fd_tensor_of(array, out)
    if out.type != FD_F64 or out.ndim != 1 or (out.size > 1 and out.stride[0] != 8):
        raise ValueError("the triad takes contiguous float64 vectors")
    return 0


def triad(a, b, c, double s, bint streaming, int threads):
    """a = b + s * c."""
    cdef fd_tensor a_tensor, b_tensor, c_tensor
    cdef int status
    _vector(a, &a_tensor)
    _vector(b, &b_tensor)
    _vector(c, &c_tensor)
    if not a_tensor.size == b_tensor.size == c_tensor.size:
        raise ValueError("the vectors of the triad have one length")
    with nogil:
        status = peak_triad_run(<double *>a_tensor.data, <const double *>b_tensor.data, <const double *>c_tensor.data,
                                s, a_tensor.size, streaming, threads)
    finish(status)


def ping_pong(long rounds):
    """Nanoseconds for one way of a cache line from core to core; NaN where no second thread took part."""
    cdef double nanoseconds
    with nogil:
        nanoseconds = peak_ping_pong(rounds)
    return nanoseconds if nanoseconds >= 0 else NAN
