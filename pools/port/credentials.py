"""Credentials of the calling thread.

Owns: the raw system calls. glibc's setresuid and its kind change every thread of a process; a worker's threads act for different users at
once, so the kernel is asked directly, which changes the calling thread alone. Invariant: only effective ids move. Real and saved user id
stay 0, which is what lets ``set_effective(0, ...)`` come back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Final

_AARCH64 = platform.machine() in ("aarch64", "arm64")
_SYS_SETRESUID: Final = 147 if _AARCH64 else 117
_SYS_SETRESGID: Final = 149 if _AARCH64 else 119
_SYS_SETGROUPS: Final = 159 if _AARCH64 else 116
_KEEP: Final = -1
_INVALID: Final = 0xFFFFFFFF

_libc = ctypes.PyDLL(None, use_errno=True)  # no call below ever waits
_three = _libc["syscall"]
_three.restype = ctypes.c_long
_three.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_long]


def _call(number: int, first: int, second: int, third: int) -> None:
    if _three(number, first, second, third) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _check(number: int) -> None:
    """4294967295 is -1 to the kernel: "keep", which here would mean root."""
    if not 0 <= number < _INVALID:
        raise OSError(errno.EINVAL, f"{number} is no user's or group's id")


def can_switch() -> bool:
    """Whether this process may act as others: it started as root."""
    return os.getresuid()[0] == 0 or os.getresuid()[2] == 0


def set_effective_uid(uid: int) -> None:
    """Of this thread; groups stay as they are."""
    _check(uid)
    _call(_SYS_SETRESUID, _KEEP, uid, _KEEP)


def set_effective(uid: int, gid: int, groups: tuple[int, ...]) -> None:
    """All three of this thread. Passes through root, which alone may set groups; on failure the thread is root or the new user, never a
    mixture with the old one's groups and the new one's id.
    """
    for number in (uid, gid, *groups):
        _check(number)
    _call(_SYS_SETRESUID, _KEEP, 0, _KEEP)
    array = (ctypes.c_uint32 * len(groups))(*groups)
    _call(_SYS_SETGROUPS, len(groups), ctypes.addressof(array) if groups else 0, 0)
    _call(_SYS_SETRESGID, _KEEP, gid, _KEEP)
    if uid != 0:
        _call(_SYS_SETRESUID, _KEEP, uid, _KEEP)
