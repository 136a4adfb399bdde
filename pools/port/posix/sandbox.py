"""What a process can give up anywhere.

Owns: nothing. Contracts are in ``interface.Sandbox``.
"""

from __future__ import annotations

import os
import signal

from pools.port import portable

write_no_core = portable.write_no_core


def die_with_parent(parent: int) -> None:
    """No kernel can be asked portably: the hub's socket alone tells of the parent's end."""
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
