"""Compiled activations; the contract is the folder's docstring, the loops are in activation_rows.h."""

include "kernel.pxi"

cdef extern from "activation.h":
    ctypedef struct activation:
        pass
    const activation RELU_FORWARD, RELU_BACKWARD, RELU6_FORWARD, RELU6_BACKWARD
    const activation SIGMOID_FORWARD, SIGMOID_BACKWARD, TANH_FORWARD, TANH_BACKWARD
    const activation EXP, LOG
    int activation_run(const activation *a, const fd_tensor *const *t, int operands, int threads) nogil


cdef int forward(const activation *a, x, out, int threads) except -1:
    cdef fd_tensor tensor[2]
    cdef const fd_tensor *t[2]
    cdef int status
    fd_tensor_of(x, &tensor[0])
    fd_tensor_of(out, &tensor[1])
    t[0], t[1] = &tensor[0], &tensor[1]
    with nogil:
        status = activation_run(a, t, 2, threads)
    return finish(status)


cdef int backward(const activation *a, dout, y, dx, int threads) except -1:
    cdef fd_tensor tensor[3]
    cdef const fd_tensor *t[3]
    cdef int status
    fd_tensor_of(dout, &tensor[0])
    fd_tensor_of(y, &tensor[1])
    fd_tensor_of(dx, &tensor[2])
    t[0], t[1], t[2] = &tensor[0], &tensor[1], &tensor[2]
    with nogil:
        status = activation_run(a, t, 3, threads)
    return finish(status)


def relu_forward(problem, x, out, int threads):
    """out = 0 where x <= 0, else x."""
    forward(&RELU_FORWARD, x, out, threads)


def relu_backward(problem, dout, y, dx, int threads):
    """dx = 0 where y <= 0, else dout."""
    backward(&RELU_BACKWARD, dout, y, dx, threads)


def relu6_forward(problem, x, out, int threads):
    """out = 0 where x <= 0, 6 where x >= 6, else x."""
    forward(&RELU6_FORWARD, x, out, threads)


def relu6_backward(problem, dout, y, dx, int threads):
    """dx = 0 where y <= 0 or y >= 6, else dout."""
    backward(&RELU6_BACKWARD, dout, y, dx, threads)


def sigmoid_forward(problem, x, out, int threads):
    """out = 1 / (1 + exp(-x))."""
    forward(&SIGMOID_FORWARD, x, out, threads)


def sigmoid_backward(problem, dout, y, dx, int threads):
    """dx = dout * y * (1 - y)."""
    backward(&SIGMOID_BACKWARD, dout, y, dx, threads)


def tanh_forward(problem, x, out, int threads):
    """out = tanh(x)."""
    forward(&TANH_FORWARD, x, out, threads)


def tanh_backward(problem, dout, y, dx, int threads):
    """dx = dout * (1 - y * y)."""
    backward(&TANH_BACKWARD, dout, y, dx, threads)


def vmath(str name, x, out):
    """exp, log, sigmoid or tanh of vmath.h on float32 or float64 arrays: for the test of its error bounds."""
    if name == "exp":
        forward(&EXP, x, out, 1)
    elif name == "log":
        forward(&LOG, x, out, 1)
    elif name == "sigmoid":
        forward(&SIGMOID_FORWARD, x, out, 1)
    elif name == "tanh":
        forward(&TANH_FORWARD, x, out, 1)
    else:
        raise ValueError(f"vmath.h has no function {name!r}")
