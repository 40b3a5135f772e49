"""How many CPUs there are for us."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_cpus(membership: Path = Path("/proc/self/cgroup"), root: Path = CGROUPS) -> int:
    """Return the CPUs that this process may run on (sched_getaffinity(2)), or, when that is less, the time that its
    container gets (cpu.max of cgroup v2, cgroups(7)), rounded up."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        count = os.cpu_count() or 1
    return max(1, math.ceil(min(count, _quota(membership, root))))


def _quota(membership: Path, root: Path) -> float:
    """Return the least limit of our control group and those above it; infinite without one."""
    least = math.inf
    try:
        (path,) = (line[3:] for line in membership.read_text().splitlines() if line.startswith("0::"))
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root) and (folder / "cpu.max").exists():
                quota, period = (folder / "cpu.max").read_text().split()
                if quota != "max":
                    least = min(least, int(quota) / int(period))
    except (OSError, ValueError):  # another system, or an older kernel
        pass
    return least
