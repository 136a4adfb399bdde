"""What a process gives up on Linux.

Owns: nothing. Contracts are in ``interface.Sandbox``.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

from pools.port import portable

write_no_core = portable.write_no_core

_PR_SET_PDEATHSIG: Final = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """SIGKILL when ``parent`` ends. The kernel forgets this when the process changes its effective or file-system ids (prctl(2)), and
    workers do that.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
