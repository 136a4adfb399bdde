"""Processes as POSIX has them.

Owns: nothing. Contracts are in ``interface.Processes``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pools.port import portable

claimed = time.thread_time
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

_LOOK_AGAIN: Final = 0.05  # seconds


@contextmanager
def watched(pid: int) -> Iterator[Callable[[float], bool]]:
    """Signal 0 asks whether it is there; a process that is not our child tells nobody of its end."""
    if not _is_there(pid):
        raise ProcessLookupError

    def ended(seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while _is_there(pid):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, _LOOK_AGAIN))
        return True

    yield ended


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # and somebody else's
    return True
