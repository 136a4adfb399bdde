"""What a server costs: CPU seconds and private memory of its whole process tree.

Owns: the two sums. Invariant: processes that ended and were waited for are counted through their parent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil


def tree(pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _times(processes: list[psutil.Process]) -> Iterator[float]:
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        # Ticks of 10 ms are cut off for each process, which hides much of what a hundred of them did; the scheduler's own sum is exact but
        # forgets threads that ended. Neither is ever too large.
        yield max(times.user + times.system, _scheduled(process.pid)) + times.children_user + times.children_system


def _scheduled(pid: int) -> float:
    """Seconds that the living threads of a process have run; 0 where the kernel keeps no such sum."""
    total = 0
    with suppress(OSError):  # the process has ended
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with suppress(OSError, ValueError, IndexError):  # the thread has
                total += int(path.read_text(encoding="ascii").split()[0])
    return total / 1e9


def cpu_seconds(pid: int) -> float:
    """User and system seconds of the tree, with those of ended children, who are known to 10 ms only."""
    return sum(_times(tree(pid)))


def private_bytes(pid: int) -> int:
    """USS of the tree: what would come back if it ended, without what its processes share with each other."""
    total = 0
    for process in tree(pid):
        try:
            total += process.memory_full_info().uss
        except psutil.NoSuchProcess:
            continue
    return total
