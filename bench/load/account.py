"""What a server costs: CPU seconds and private memory of its whole process tree.

Owns: the two sums. Invariant: processes that ended and were waited for are counted through their parent.
"""

from __future__ import annotations

from collections.abc import Iterator

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
        yield times.user + times.system + times.children_user + times.children_system


def cpu_seconds(pid: int) -> float:
    """User and system seconds of the tree, with those of ended children. Resolution: 10 ms."""
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
