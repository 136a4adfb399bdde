"""A network and mounts of its own, for a thread and all that it starts.

Owns: the system calls. Invariant: what such a thread and its children do to the packet filter, the ports and the mounts, nobody else on the
machine sees; and it goes with the last of them, however that ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from typing import Final

# <linux/sched.h>, <linux/mount.h>, <linux/sockios.h>, <linux/if.h>
_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWNET: Final = 0x40000000
_MS_REC_PRIVATE: Final = 0x4000 | 0x40000
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_IFREQ: Final = struct.Struct("16sh22x")


def enter() -> str:
    """Moves the calling thread; what is in the way, if it cannot. The new network has a loopback interface and nothing else."""
    if os.geteuid() != 0:
        return "to have their own takes root"
    libc = ctypes.CDLL(None, use_errno=True)
    # Mounts first: until they are private, those of the thread are seen outside, as they would be without all this.
    if libc.unshare(_CLONE_NEWNS) or libc.mount(None, b"/", None, _MS_REC_PRIVATE, None) or libc.unshare(_CLONE_NEWNET):
        return os.strerror(ctypes.get_errno())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", _IFF_UP))
    return ""
