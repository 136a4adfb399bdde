"""Credentials of the calling thread.

Owns: the raw system calls. glibc's setresuid and its kind change every thread of a process; a worker's threads act for different users at
once, so the kernel is asked directly, which changes the calling thread alone. Invariant: only effective ids move. Real and saved user id
stay 0, which is what lets ``set_effective(0, ...)`` come back.
"""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Final

from pools.port import portable

PER_THREAD = True
effective = portable.effective
effective_uid = portable.effective_uid
groups_of = portable.groups_of
real = portable.real

_AARCH64 = platform.machine() in ("aarch64", "arm64")
_SYS_SETRESUID: Final = 147 if _AARCH64 else 117
_SYS_SETRESGID: Final = 149 if _AARCH64 else 119
_SYS_SETGROUPS: Final = 159 if _AARCH64 else 116
_KEEP: Final = -1

_libc = ctypes.PyDLL(None, use_errno=True)  # no call below ever waits
_three = _libc["syscall"]
_three.restype = ctypes.c_long
_three.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_long]


def _call(number: int, first: int, second: int, third: int) -> None:
    if _three(number, first, second, third) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def can_switch() -> bool:
    """See ``interface.Credentials``."""
    return os.getresuid()[0] == 0 or os.getresuid()[2] == 0


def set_effective_uid(uid: int) -> None:
    """Of this thread; groups stay as they are."""
    portable.check_id(uid)
    _call(_SYS_SETRESUID, _KEEP, uid, _KEEP)


def set_effective(uid: int, gid: int, groups: tuple[int, ...]) -> None:
    """All three of this thread."""
    for number in (uid, gid, *groups):
        portable.check_id(number)
    _call(_SYS_SETRESUID, _KEEP, 0, _KEEP)
    array = (ctypes.c_uint32 * len(groups))(*groups)
    _call(_SYS_SETGROUPS, len(groups), ctypes.addressof(array) if groups else 0, 0)
    _call(_SYS_SETRESGID, _KEEP, gid, _KEEP)
    if uid != 0:
        _call(_SYS_SETRESUID, _KEEP, uid, _KEEP)
