"""Processes on Linux: a process can be waited for by anyone, through a descriptor.

Owns: nothing. Contracts are in ``interface.Processes``.
"""

from __future__ import annotations

import os
import pathlib
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pools.port import portable

close_others = portable.close_others
descriptor_limit = portable.descriptor_limit
ended = portable.ended
exit_now = portable.exit_now
fork = portable.fork
hold_signals = portable.hold_signals
kill = portable.kill
name_thread = portable.name_thread
on_signals = portable.on_signals
own_pid = portable.own_pid
own_thread = portable.own_thread
physical_memory = portable.physical_memory
raise_descriptor_limit = portable.raise_descriptor_limit
reap = portable.reap
release_signals = portable.release_signals
set_title = portable.set_title
set_umask = portable.set_umask
start_thread = portable.start_thread
wait = portable.wait
wake_by_signals = portable.wake_by_signals


def claimed() -> float:
    """The first two fields of schedstat, where the kernel keeps it."""
    try:
        with pathlib.Path("/proc/thread-self/schedstat").open(encoding="ascii") as file:
            ran, waited, _ = file.read().split()
    except FileNotFoundError:
        return time.thread_time()
    return (int(ran) + int(waited)) / 1e9


@contextmanager
def watched(pid: int) -> Iterator[Callable[[float], bool]]:
    """pidfd_open(2): nobody is asked again and again, and the number cannot become another process's meanwhile."""
    process = os.pidfd_open(pid)
    try:
        yield lambda seconds: bool(select.select([process], [], [], seconds)[0])
    finally:
        os.close(process)
