"""CUDA kernels of relu, relu6, sigmoid and tanh: their launches."""

from __future__ import annotations

from typing import Any

from .._common.cuda import Source
from .._common.cuda.elementwise import run
from ..problem import Problem

SOURCE = Source(__file__)


def relu_forward(problem: Problem, x: Any, out: Any, threads: int) -> None:
    run(SOURCE, "relu_forward", problem.storage, threads, x, out)


def relu_backward(problem: Problem, dout: Any, y: Any, dx: Any, threads: int) -> None:
    run(SOURCE, "relu_backward", problem.storage, threads, dout, y, dx)


def relu6_forward(problem: Problem, x: Any, out: Any, threads: int) -> None:
    run(SOURCE, "relu6_forward", problem.storage, threads, x, out)


def relu6_backward(problem: Problem, dout: Any, y: Any, dx: Any, threads: int) -> None:
    run(SOURCE, "relu6_backward", problem.storage, threads, dout, y, dx)


def sigmoid_forward(problem: Problem, x: Any, out: Any, threads: int) -> None:
    run(SOURCE, "sigmoid_forward", problem.storage, threads, x, out)


def sigmoid_backward(problem: Problem, dout: Any, y: Any, dx: Any, threads: int) -> None:
    run(SOURCE, "sigmoid_backward", problem.storage, threads, dout, y, dx)


def tanh_forward(problem: Problem, x: Any, out: Any, threads: int) -> None:
    run(SOURCE, "tanh_forward", problem.storage, threads, x, out)


def tanh_backward(problem: Problem, dout: Any, y: Any, dx: Any, threads: int) -> None:
    run(SOURCE, "tanh_backward", problem.storage, threads, dout, y, dx)
