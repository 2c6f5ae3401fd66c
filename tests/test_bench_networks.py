"""The benchmarks of whole networks and of scripts: their participants agree, and runs from end to end."""

from __future__ import annotations

import importlib.util
import os

import pytest

from fastdl.bench import record
from fastdl.kernels import registry

HAS_TORCH = importlib.util.find_spec("torch") is not None


def test_networks_agree_before_they_are_timed(bench, monkeypatch):
    import step

    monkeypatch.setitem(step.NETWORKS, "deepconvnet", step.NETWORKS["deepconvnet"]._replace(small=4))
    network = step.NETWORKS["deepconvnet"]
    backends = ["cython"] if registry.numba_missing() else ["cython", "numba"]
    found = step.compare("deepconvnet", "float32", backends)
    ours = {step.NUMBA} & set(step.participants(network, backends))
    assert set(found) == {step.BOOK, *ours, *(step.TORCH if HAS_TORCH else ())}
    for participant, modes in found.items():
        assert set(modes) == set(step.MODES)
        for mode, difference in modes.items():
            assert difference <= step.tolerance(network, mode, participant, "float32"), (participant, mode)
        assert step.tolerance(network, "training_step", participant, "float32") < 1e-11


def test_dropout_is_off_wherever_it_is(bench):
    import networks

    from fastdl.layers import Dropout
    from fastdl.models import LeNet
    from fastdl.network import Sequential

    def build(dtype):
        net = LeNet(dtype=dtype)
        net.layers = [Sequential([Dropout(0.5), *net.layers]), Dropout(0.5)]
        return net

    net = networks.without_randomness(networks.NETWORKS["deepconvnet"]._replace(build=build))
    assert net.dtype == "float64"
    assert [net.layers[0].layers[0].dropout_ratio, net.layers[1].dropout_ratio] == [0.0, 0.0]


def test_a_step_is_counted(bench):
    import step

    options = step.arguments(["--batch", "2"])
    call = step.stepper("deepconvnet", step.OURS, "training_step", options)
    found = step._work(call)
    macs = 2 * (
        28 * 28 * 16 * 9 * (1 + 16) + 14 * 14 * 32 * 9 * 16 + 16 * 16 * 32 * 9 * 32 + 8 * 8 * 64 * 9 * (32 + 64)
    )
    assert found["flop"] == pytest.approx(3 * 2 * macs, rel=0.1)
    assert any(name.startswith("adam step") for name in found["kernels"])
    assert step.resident() is None or step.resident() > 2**20


def test_first_steps_are_processes_of_their_own(bench, tmp_path):
    import step

    file = tmp_path / "first.json"
    assert step.main(["--modes", "first_step", "--rounds", "1", "--batch", "2", "--json", str(file)]) == 0
    (found,) = record.load(file).measurements
    assert (found.op, found.participant, len(found.seconds)) == ("first_step", step.OURS, 1)
    assert found.seconds[0] > 0.1, "a new process imports"


def test_scripts_are_compared_and_timed_in_turns(bench, tmp_path):
    """A whole run of one script, in processes of their own."""
    data = os.environ.get("FASTDL_DATA_DIR")
    if not data:
        pytest.skip("needs FASTDL_DATA_DIR")
    import book

    file = tmp_path / "scripts.json"
    assert book.main(["--scripts", "two_layer_net,start-up", "--rounds", "1", "--json", str(file)]) == 0
    found = record.load(file)
    assert found.complete
    assert [(m.case, m.participant, m.dtype) for m in found.measurements] == [
        (case, *who)
        for case in ("two_layer_net", "start-up")
        for who in (("python", "float64"), ("fastdl run", "float64"), ("fastdl run", "float32"))
    ]
    checks = [m.check for m in found.measurements]
    assert [check is None for check in checks] == [True, False, False, True, True, True]
    assert all(check.difference > 0 for check in checks if check is not None)  # the order of sums is another


@pytest.mark.parametrize("options", [["--scripts", "none"], ["--dtypes", "float16"]])
def test_scripts_that_are_not_there(bench, options, capsys):
    import book

    with pytest.raises(SystemExit) as error:
        book.main(options)
    assert error.value.code == 2
    assert options[1] in capsys.readouterr().err
