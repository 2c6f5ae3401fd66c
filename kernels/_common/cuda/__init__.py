"""What every ``_cuda.py`` starts with: sources, where arrays are, and launches.

A ``_cuda.cu`` is written over ``device.cuh``, whose primitives have two bodies. So the same text runs on a GPU,
compiled by NVRTC through CuPy for CuPy arrays, and on a CPU, compiled by a C++ compiler over ``emulator.h`` for NumPy
arrays: the backends "cuda" and "cuda-emulated". A ``_cuda.py`` does not tell them apart::

    SOURCE = Source(__file__)

    def shift_forward(problem, x, by, out, threads):
        gpu = place_of(out, threads)
        kernels = gpu.load(SOURCE, problem.storage)
        kernels.launch("shift_forward", cut(x.size, 256), x=pointer(x), out=pointer(out), n=x.size, by=by)

``launch`` takes the name of a ``KERNEL``, the number of blocks (an int or up to three) and the fields of its struct
of arguments, all of them. ``gpu.scratch(nbytes)`` is memory for the call. ``threads`` means nothing on a GPU and is the
seed of the schedule in the emulation, so that every check runs more than one schedule and compares the bits.
"""

from .launch import Kernels as Kernels
from .launch import Place as Place
from .launch import cut as cut
from .launch import missing as missing
from .launch import place_of as place_of
from .launch import pointer as pointer
from .source import Source as Source
from .source import Variant as Variant
