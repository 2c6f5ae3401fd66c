"""Records of whole networks as ``fastdl bench`` writes them, with made-up times: for tests of what shows them.

Shapes, operations and bytes are those of the networks; times follow from speeds written down here, with noise from a
seeded generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fastdl.bench.record import CUDA, Check, FmaPeak, Machine, Measurement, Peaks, Record, Triad

MACHINE = Machine(
    cpu="AMD EPYC 9R45",
    architecture="x86_64",
    features=["avx2", "avx512f"],
    cpus=64,
    affinity=2,
    cgroup_cpus=2.0,
    memory=2**34,
    caches={"L1d": 48 * 2**10, "L1i": 32 * 2**10, "L2": 2**20, "L3": 2**25},
    governor=None,
    load=[0.4, 0.9, 1.2],
    system="Linux-6.1-x86_64-with-glibc2.36",
    versions={"fastdl": "0.1.0", "python": "3.11.7", "numpy": "2.4.6", "torch": "2.13.0"},
    build={"compiler": "gcc 12.2", "threading": "pthreads"},
    revision="0123456789abcdef0123456789abcdef01234567",
)
GPU = {"name": "NVIDIA H100 80GB HBM3", "multiprocessors": 132, "memory": 80 * 2**30, "driver": "570.86"}
#: Bytes of the triad -> GB/s with one thread.
TRIAD = {98304: 210.0, 393216: 190.0, 1572864: 120.0, 6291456: 60.0, 25165824: 55.0, 402653184: 21.0}


class Row(NamedTuple):
    """A row of a network, for one image."""

    name: str
    group: str
    op: str
    flop: float
    values: int  # that are read and written
    parameters: int = 0
    layers: tuple[str, ...] = ()


def _conv(name: str, c: int, k: int, side: int, out: int, filters: int, *more: str, groups: int = 1) -> Row:
    parameters = k * c // groups * filters * filters
    flop = 2.0 * out * out * parameters
    return Row(name, "convolution", "conv2d", flop, c * side * side + k * out * out, parameters, (name, *more))


def _dense(name: str, inputs: int, outputs: int, *more: str) -> Row:
    return Row(name, "dense", "linear", 2.0 * inputs * outputs, inputs + outputs, inputs * outputs, (name, *more))


def _light(name: str, group: str, op: str, c: int, side: int, flop: float = 2.0) -> Row:
    return Row(name, group, op, flop * c * side * side, 2 * c * side * side, 0, (name,))


def alexnet() -> Iterator[Row]:
    """As in 2012: the network of the picture of shares."""
    yield _conv("conv1", 3, 96, 227, 55, 11, "relu1")
    yield _light("norm1", "normalisation", "local_response_norm", 96, 55, 10)
    yield _light("pool1", "pooling", "max_pool2d", 96, 27, 9)
    yield _conv("conv2", 96, 256, 27, 27, 5, "relu2", groups=2)
    yield _light("norm2", "normalisation", "local_response_norm", 256, 27, 10)
    yield _light("pool2", "pooling", "max_pool2d", 256, 13, 9)
    yield _conv("conv3", 256, 384, 13, 13, 3, "relu3")
    yield _conv("conv4", 384, 384, 13, 13, 3, "relu4", groups=2)
    yield _conv("conv5", 384, 256, 13, 13, 3, "relu5", groups=2)
    yield _light("pool5", "pooling", "max_pool2d", 256, 6, 9)
    yield _dense("fc6", 9216, 4096, "relu6")
    yield _light("drop6", "dropout", "dropout", 4096, 1)
    yield _dense("fc7", 4096, 4096, "relu7")
    yield _light("drop7", "dropout", "dropout", 4096, 1)
    yield _dense("fc8", 4096, 1000)
    yield _light("loss", "loss", "softmax_cross_entropy", 1000, 1, 5)


def lenet() -> Iterator[Row]:
    """Five rows."""
    yield _conv("conv1", 1, 6, 28, 28, 5, "relu1", "pool1")
    yield _conv("conv2", 6, 16, 14, 10, 5, "relu2", "pool2")
    yield _dense("fc3", 400, 120, "relu3")
    yield _dense("fc4", 120, 84, "relu4")
    yield _dense("fc5", 84, 10)


def resnet152() -> Iterator[Row]:
    """Over 200 rows: every convolution with its normalisation, and the sums."""
    yield _conv("conv1", 3, 64, 224, 112, 7, "bn1", "relu1")
    yield _light("pool1", "pooling", "max_pool2d", 64, 56, 9)
    c = 64
    for stage, (blocks, width, side) in enumerate(((3, 64, 56), (8, 128, 28), (36, 256, 14), (3, 512, 7)), 1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            yield _conv(f"{name}.conv1", c, width, side, side, 1, f"{name}.bn1", f"{name}.relu1")
            yield _conv(f"{name}.conv2", width, width, side, side, 3, f"{name}.bn2", f"{name}.relu2")
            yield _conv(f"{name}.conv3", width, 4 * width, side, side, 1, f"{name}.bn3")
            if block == 0:
                yield _conv(f"{name}.downsample", c, 4 * width, side, side, 1)
            yield _light(f"{name}.add", "join", "add", 4 * width, side, 1)
            c = 4 * width
    yield _light("avgpool", "pooling", "global_avg_pool2d", 2048, 7, 1)
    yield _dense("fc", 2048, 1000)


NETWORKS = {"alexnet": alexnet, "lenet": lenet, "resnet152": resnet152}

#: GFLOP/s of products and GB/s of everything else with one thread, seconds of a call; the part of threads that helps.
SPEEDS = {
    "fastdl cython": (220.0, 20.0, 4e-6, 0.97),
    "fastdl numba": (110.0, 17.0, 9e-6, 0.93),
    "torch cpu": (105.0, 11.0, 12e-6, 0.85),
    "fastdl numpy": (9.0, 1.1, 60e-6, 0.2),
    "fastdl cuda": (21_000.0, 1900.0, 5e-6, 0.0),
    "torch cuda": (24_000.0, 1700.0, 8e-6, 0.0),
}


def _seconds(row: Row, participant: str, batch: int, threads: int, backward: bool, wide: int) -> float:
    products, bandwidth, call, parallel = SPEEDS[participant]
    help_ = 1 / (1 - parallel + parallel / threads)
    moved = 4 * wide * (batch * row.values + row.parameters)
    busy = batch * row.flop / (products * 1e9) * wide if row.group in ("convolution", "dense") else 0.0
    return (call + max(busy, moved / (bandwidth * 1e9)) / help_) * (2.1 if backward else 1.0)


def network_record(
    network: str = "alexnet",
    *,
    participants: Sequence[str] = ("fastdl cython", "fastdl numba", "torch cpu"),
    batches: Sequence[int] = (16,),
    threads: Sequence[int] = (2,),
    dtypes: Sequence[str] = ("float32",),
    directions: Sequence[str] = ("forward", "backward"),
    calls: int = 15,
    noise: float = 0.02,
    seed: int = 0,
) -> Record:
    """A finished record; on a GPU there is one "thread". ``noise`` is the standard deviation of a time's logarithm."""
    rng = np.random.default_rng(seed)
    rows = list(NETWORKS[network]())
    cuda = any(name.endswith("cuda") for name in participants)
    absent = {} if cuda else {"fastdl cuda": "there is no CUDA device"}
    record = Record(
        "network", ["fastdl", "bench", network], MACHINE, _peaks(threads, cuda), complete=True, absent=absent
    )
    if cuda:
        record.machine = Machine(**(vars(MACHINE) | {"gpu": GPU}))
    for dtype in dtypes:
        for batch in batches:
            for direction in directions:
                for count in threads:
                    for name in participants:
                        on_gpu = name.endswith("cuda")
                        if on_gpu and count != threads[-1]:
                            continue
                        setting = (network, name, dtype, 1 if on_gpu else count, batch, direction)
                        record.measurements += _pass(rows, setting, calls, noise, rng)
    return record


def _pass(
    rows: Sequence[Row],
    setting: tuple[str, str, str, int, int, str],
    calls: int,
    noise: float,
    rng: np.random.Generator,
) -> Iterator[Measurement]:
    network, participant, dtype, threads, batch, direction = setting
    cuda, wide = participant.endswith("cuda"), 2 if dtype == "float64" else 1
    common = {"network": network, "batch": batch, "device": "cuda" if cuda else "cpu"}
    isa = CUDA if cuda else "v4" if "cython" in participant else "any"
    total = 0.0
    for index, row in enumerate(rows):
        once = _seconds(row, participant, batch, threads, direction == "backward", wide)
        total += once
        yield Measurement(
            "network",
            f"{network}/{row.name}",
            row.group,
            row.op,
            direction,
            dtype,
            threads,
            participant,
            isa,
            [float(t) for t in once * np.exp(noise * rng.standard_normal(calls))],
            [f"{row.op} {direction}: {participant.split()[1]}/{row.op}"] if participant.startswith("fastdl") else [],
            flop=batch * row.flop * (2 if direction == "backward" else 1) or None,
            bytes=4.0 * wide * (batch * row.values + row.parameters) * (2 if direction == "backward" else 1),
            check=Check(1e-7, 2e-7, "fastdl numpy in float64"),
            settings=common
            | {
                "index": index,
                "layers": list(row.layers),
                "parameter_bytes": 4 * wide * row.parameters,
                "output_bytes": 2 * wide * batch * row.values,
                "workspace_bytes": 4096 * threads if participant == "fastdl cython" else None,
                "output_shape": [batch, row.values],
            },
        )
    yield Measurement(
        "network",
        network,
        "total",
        "network",
        direction,
        dtype,
        threads,
        participant,
        isa,
        [float(t) for t in 1.02 * total * np.exp(noise * rng.standard_normal(calls))],
        flop=sum(batch * row.flop for row in rows),
        settings=common | {"first_call": 20 * total, "output_shape": [batch, 1000]},
    )


def _peaks(threads: Sequence[int], cuda: bool) -> Peaks:
    fma, triad = [], []
    for count in threads:
        for isa, rate in (("baseline", 70.0), ("v3", 140.0), ("v4", 280.0)):
            fma += [
                FmaPeak(isa, dtype, count, [rate * count / wide, 0.99 * rate * count / wide])
                for dtype, wide in (("float32", 1), ("float64", 2))
            ]
        for nbytes, rate in TRIAD.items():
            every = rate * (count if nbytes < 2**24 else min(count, 1.4))
            triad.append(Triad(nbytes, count, [every, 0.98 * every], [0.9 * every]))
    if cuda:
        fma += [FmaPeak(CUDA, "float32", 1, [51_000.0]), FmaPeak(CUDA, "float64", 1, [50_000.0])]
        triad += [Triad(nbytes, 1, [rate], [rate], CUDA) for nbytes, rate in ((2**24, 4500.0), (2**30, 2600.0))]
    return Peaks(fma, triad, 3e-8)
