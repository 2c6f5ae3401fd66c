"""The proof of the kernels: cases, tolerances and the runner behind ``fastdl check`` and the tests.

``check(Selection(ops=("gemm",)))`` runs every row of gemm on this machine and returns one `Result` for each row and
storage dtype. Adding an op means a function in ``grid/`` and a formula in ``tolerances.py``.
"""

from __future__ import annotations

from .runner import Result, Selection, check, succeeded, to_json

__all__ = ["Result", "Selection", "check", "succeeded", "to_json"]
