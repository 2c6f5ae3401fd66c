"""How many CPUs this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path


def cgroup_limit(process: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPUs that the control group of this process and its parents may use, or None where nothing limits them."""
    try:
        lines = process.read_text().splitlines()
    except OSError:
        return None
    limits: list[float] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        for mount in (root,) if not controllers else (root / controllers, root / "cpu"):
            folder = mount / group.lstrip("/")
            # A container may see the path of the host here, and its own group at the root of the mount.
            for place in (folder, *folder.parents):
                limit = _version_2_limit(place) if not controllers else _version_1_limit(place)
                if limit is not None:
                    limits.append(limit)
                if place == mount:
                    break
    return min(limits, default=None)


def _version_2_limit(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _version_1_limit(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return None if quota <= 0 else quota / int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):
        return None


def available() -> int:
    """CPUs that this process may run on: its affinity, and its control group's quota rounded up."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cpus = os.cpu_count() or 1
    quota = cgroup_limit()
    return max(1, cpus if quota is None else min(cpus, math.ceil(quota)))
