"""What processes use: CPU time and memory, as the kernel counts them (proc(5))."""

from __future__ import annotations

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for member in found:
        try:
            tasks = list(Path(f"/proc/{member}/task").iterdir())
            for task in tasks:
                found += map(int, (task / "children").read_text().split())
        except OSError:  # it has ended meanwhile
            pass
    return found


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of the processes until now, in seconds; a hundredth is the least that is told."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def user_bytes(pids: list[int]) -> int:
    """Memory of the processes: the proportional set size, in which a page that several share counts in parts."""
    total = 0
    for pid in pids:
        try:
            rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(row.split()[1]) for row in rows if row.startswith("Pss:")) * 1024
    return total


def kernel_bytes() -> int:
    """Memory of the kernel's own objects on this machine (slab, per-CPU, stacks, page tables), sockets among them."""
    rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    names = ("Slab", "KernelStack", "PageTables", "Percpu")
    return sum(int(rows[name].split()[0]) for name in names if name in rows) * 1024
