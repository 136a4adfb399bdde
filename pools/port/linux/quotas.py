"""Users' quotas by quotactl_fd(2), Linux 5.14 and later: of whatever file system a descriptor lies on, no device needed.

Owns: the call's numbers and its structure. Invariant: what a file system without quotas, or a kernel without the call, answers is None; any
other failure is ``OSError``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

from pools.port.interface import Quota

_SYS_QUOTACTL_FD: Final = 443
_GET, _SET, _GET_NEXT = (code << 8 for code in (0x800007, 0x800008, 0x800009))  # of users: the type is 0
_LIMITS: Final = 1  # QIF_BLIMITS
_BLOCK: Final = 1024  # what limits are counted in
_DQBLK = struct.Struct("=QQQQQQQQII")  # struct if_nextdqblk; struct if_dqblk is the same without the id at the end
_NONE: Final = frozenset({errno.ESRCH, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})

_quotactl_fd = ctypes.CDLL(None, use_errno=True)["syscall"]
_quotactl_fd.restype = ctypes.c_long
_quotactl_fd.argtypes = [ctypes.c_long, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p]


def _call(fd: int, command: int, uid: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
    """0, or the errno."""
    return 0 if _quotactl_fd(_SYS_QUOTACTL_FD, fd, command, uid, ctypes.addressof(buffer)) == 0 else ctypes.get_errno()


def _failure(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def quota(fd: int, uid: int) -> Quota | None:
    """See ``interface.Files``."""
    buffer = ctypes.create_string_buffer(_DQBLK.size)
    code = _call(fd, _GET, uid, buffer)
    if code in _NONE:
        return None
    if code:
        raise _failure(code)
    return unpack(buffer.raw)[1]


def next_quota(fd: int, uid: int) -> tuple[int, Quota] | None:
    """See ``interface.Files``."""
    buffer = ctypes.create_string_buffer(_DQBLK.size)
    code = _call(fd, _GET_NEXT, uid, buffer)
    if code in _NONE or code == errno.ENOENT:
        return None
    if code:
        raise _failure(code)
    return unpack(buffer.raw)


def set_quota(fd: int, uid: int, soft: int, hard: int) -> None:
    """See ``interface.Files``."""
    buffer = ctypes.create_string_buffer(pack(soft, hard), _DQBLK.size)
    code = _call(fd, _SET, uid, buffer)
    if code:
        raise _failure(errno.EOPNOTSUPP if code in _NONE else code)


def pack(soft: int, hard: int) -> bytes:
    """The structure that sets limits, in whole blocks: a little more rather than less."""
    return _DQBLK.pack(-(-hard // _BLOCK), -(-soft // _BLOCK), 0, 0, 0, 0, 0, 0, _LIMITS, 0)


def unpack(raw: bytes) -> tuple[int, Quota]:
    """The uid (of _GET_NEXT's answer) and what the structure says."""
    hard, soft, used, _, _, _, _, _, _, uid = _DQBLK.unpack(raw)
    return uid, Quota(used, soft * _BLOCK, hard * _BLOCK)
