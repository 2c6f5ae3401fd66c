"""bench/formats.py: every participant gives what float32 gives, and a wrong one is not timed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rich")
BENCH = Path(__file__).parent.parent / "bench"
if not BENCH.is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)


@pytest.fixture
def formats(monkeypatch):
    """The script as a module, with tiny layers."""
    monkeypatch.syspath_prepend(os.fspath(BENCH))
    import formats

    monkeypatch.setattr(
        formats, "LAYERS", {"conv 5": ((2, 5, 9, 8), 7, 3, 2, 1), "gemm 40": ((1, 40, 1, 40), 40, 1, 1, 0)}
    )
    monkeypatch.setattr(formats, "CAN_TELL", False)
    yield formats
    sys.modules.pop("formats", None)


def test_every_format_is_timed(formats, tmp_path, capsys):
    assert (
        formats.main(["--rounds", "1", "--no-peers", "--threads", "1", "--json", os.fspath(tmp_path / "r.json")]) == 0
    )
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    kinds = ["int8", "int8 from float32", "1 bit", "1 bit from float32"]
    floats = [name for dtype in ("float32", "bfloat16", "float16") for name in (f"{dtype} direct", dtype)]
    assert [row["format"] for row in rows if row["layer"] == "conv 5"] == [*floats, *kinds]
    assert [row["format"] for row in rows if row["layer"] == "gemm 40"] == ["float32", "bfloat16", "float16", *kinds]
    for row in rows:
        assert row["kernel"]
        assert row["direct"] > 0
    shown = capsys.readouterr().out
    assert "gemm 40" in shown
    assert "WRONG" not in shown


def test_a_wrong_result_is_not_timed(formats, monkeypatch, capsys):
    wrong = formats.F.conv2d_int8
    monkeypatch.setattr(formats.F, "conv2d_int8", lambda *args, **more: np.maximum(wrong(*args, **more), 129))
    assert formats.main(["--only", "conv*", "--rounds", "1", "--no-peers"]) == 1
    assert "WRONG" in capsys.readouterr().out
