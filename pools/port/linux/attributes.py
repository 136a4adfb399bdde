"""Extended attributes of Linux: the file system keeps them with the file.

Owns: the calls that cost no exception for what is absent. Result buffers belong to the calling thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from typing import Final

from pools.port.interface import Attributes

_SYS_GETXATTRAT: Final = 464  # Linux 6.13
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_SMALL: Final = 256
_ARGS: Final = struct.Struct("<QII")  # struct xattr_args

_free = ctypes.CDLL(None, use_errno=True)  # releases the interpreter lock: a disk may be asked
_getxattrat = _free["syscall"]
_getxattrat.restype = ctypes.c_long
_getxattrat.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
_fgetxattr = _free.fgetxattr
_fgetxattr.restype = ctypes.c_ssize_t
_fgetxattr.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]


class _Scratch(threading.local):
    """Result buffers, one set for each thread."""

    def __init__(self) -> None:
        self.value = ctypes.create_string_buffer(_SMALL)
        self.view = memoryview(self.value).cast("B")
        self.address = ctypes.addressof(self.value)
        self.args = ctypes.create_string_buffer(_ARGS.pack(self.address, _SMALL, 0), _ARGS.size)
        self.args_address = ctypes.addressof(self.args)


_scratch = _Scratch()


def _path(fd: int) -> str:
    """Names the very file that ``fd`` does, for calls that take no O_PATH descriptor."""
    return f"/proc/self/fd/{fd}"


def get(fd: int, name: str) -> bytes | None:
    """fgetxattr(2), which refuses O_PATH descriptors with EBADF."""
    try:
        try:
            return os.getxattr(fd, name)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
        return os.getxattr(_path(fd), name)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def small(fd: int, name: bytes) -> bytes | None:
    """fgetxattr(2)."""
    count: int = _fgetxattr(fd, name, _scratch.address, _SMALL)
    if count >= 0:
        return bytes(_scratch.view[:count])
    code = ctypes.get_errno()
    if code in (errno.ENODATA, errno.EOPNOTSUPP, errno.ERANGE):
        return None
    raise OSError(code, os.strerror(code), name)


_has_xattrat = True


def at(directory: int, name: bytes, attribute: bytes) -> bytes | None:
    """getxattrat(2), or the way through /proc on older kernels."""
    global _has_xattrat
    if _has_xattrat:
        count: int = _getxattrat(_SYS_GETXATTRAT, directory, name, _AT_SYMLINK_NOFOLLOW, attribute, _scratch.args_address, _ARGS.size)
        if count >= 0:
            return bytes(_scratch.view[:count])
        if ctypes.get_errno() != errno.ENOSYS:
            return None
        _has_xattrat = False
    try:
        return os.getxattr(b"/proc/self/fd/%d/%b" % (directory, name), attribute, follow_symlinks=False)
    except OSError:
        return None


class Xattrs:
    """All files of the machine: it matters not beneath which root. See ``interface.Attributes``."""

    __slots__ = ()

    get = staticmethod(get)
    small = staticmethod(small)
    at = staticmethod(at)

    def names(self, fd: int) -> list[str]:
        """See ``interface.Attributes``. An empty list, the usual one, is cheaper than asking for a single attribute in vain."""
        try:
            return os.listxattr(fd)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
        return os.listxattr(_path(fd))

    def set(self, fd: int, name: str, value: bytes) -> None:
        """See ``interface.Attributes``."""
        os.setxattr(_path(fd), name, value)

    def remove(self, fd: int, name: str) -> None:
        """See ``interface.Attributes``."""
        os.removexattr(_path(fd), name)

    def fresh(self, fd: int) -> None:
        """A new inode has none."""

    def gone(self, key: tuple[int, int]) -> None:
        """They went with the inode."""


ATTRIBUTES: Final[Attributes] = Xattrs()
