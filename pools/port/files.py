"""File-system operations of Linux that Python's ``os`` has not: openat2, statx, renameat2, fallocate, utimensat, getxattrat.

Owns: the system-call numbers and structures. Invariant: every failure leaves as ``OSError`` with the system's errno (EINTR is retried), and
``open_beneath`` never yields a file outside the tree below ``root``: the kernel's RESOLVE_BENEATH decides, not a check of ours.

The calls go through ``PyDLL``, which keeps the interpreter lock, where the kernel answers from memory, and through ``CDLL`` where a disk
may be asked. Result buffers belong to the calling thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from typing import Final, NamedTuple

_SYS_OPENAT2: Final = 437
_SYS_GETXATTRAT: Final = 464  # Linux 6.13

RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RENAME_NOREPLACE: Final = 1
FALLOC_KEEP_SIZE: Final = 1
FALLOC_PUNCH_HOLE: Final = 2
FALLOC_ZERO_RANGE: Final = 16
_AT_EMPTY_PATH: Final = 0x1000
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_FDCWD: Final = -100
_UTIME_OMIT: Final = 0x3FFFFFFE
_SMALL: Final = 256  # what an xattr read by xattr_at may hold
_STATX_WANTED: Final = 0x7FF | 0x800  # basic stats and the birth time

_free = ctypes.CDLL(None, use_errno=True)  # releases the interpreter lock
_held = ctypes.PyDLL(None, use_errno=True)  # keeps it
_openat2 = _free["syscall"]
_openat2.restype = ctypes.c_long
_openat2.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
_renameat2 = _free.renameat2
_renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
_fallocate = _free.fallocate64 if hasattr(_free, "fallocate64") else _free.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_utimensat = _free.utimensat
_utimensat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int]
_getxattrat = _free["syscall"]
_getxattrat.restype = ctypes.c_long
_getxattrat.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
_fgetxattr = _free.fgetxattr
_fgetxattr.restype = ctypes.c_ssize_t
_fgetxattr.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
_statx_held = _held.statx
_statx_free = _free.statx
for _function in (_statx_held, _statx_free):
    _function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]

# struct open_how; struct statx up to stx_dev_minor
_HOW = struct.Struct("<QQQ")
_TIMES = struct.Struct("<qqqq")  # two struct timespec
_XATTR_ARGS = struct.Struct("<QII")
_STATX = struct.Struct("<IIQ IIIH2x QQQQ qI4x qI4x qI4x qI4x II II")


class Stat(NamedTuple):
    """struct statx. Times are (seconds, nanoseconds) pairs in sequence; the birth time is 0, 0 where the file system keeps none."""

    mask: int
    blksize: int
    stx_attributes: int
    nlink: int
    uid: int
    gid: int
    mode: int
    ino: int
    size: int
    blocks: int
    attributes_mask: int
    atime: int
    atime_ns: int
    btime: int
    btime_ns: int
    ctime: int
    ctime_ns: int
    mtime: int
    mtime_ns: int
    rdev_major: int
    rdev_minor: int
    dev_major: int
    dev_minor: int


class _Scratch(threading.local):
    """Result buffers, one set for each thread."""

    def __init__(self) -> None:
        self.buffer = ctypes.create_string_buffer(256)
        self.address = ctypes.addressof(self.buffer)
        self.value = ctypes.create_string_buffer(_SMALL)
        self.view = memoryview(self.value).cast("B")
        self.value_address = ctypes.addressof(self.value)
        packed = _XATTR_ARGS.pack(ctypes.addressof(self.value), _SMALL, 0)
        self.args = ctypes.create_string_buffer(packed, _XATTR_ARGS.size)
        self.args_address = ctypes.addressof(self.args)


_scratch = _Scratch()
_hows: dict[tuple[int, int, int], tuple[ctypes.Array[ctypes.c_char], int]] = {}


def _raise(name: bytes | str = b"") -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), name) if name else OSError(code, os.strerror(code))


def _how(flags: int, mode: int, resolve: int) -> int:
    key = (flags, mode, resolve)
    made = _hows.get(key)
    if made is None:
        buffer = ctypes.create_string_buffer(_HOW.pack(flags | os.O_CLOEXEC, mode, resolve), _HOW.size)
        made = _hows[key] = (buffer, ctypes.addressof(buffer))
    return made[1]


def open_beneath(root: int, path: bytes, flags: int, mode: int = 0, resolve: int = RESOLVE_NO_SYMLINKS) -> int:
    """openat2(2) with RESOLVE_BENEATH and RESOLVE_NO_MAGICLINKS, and by default no symlinks (ELOOP)."""
    how = _how(flags, mode, resolve | RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
    while True:
        fd: int = _openat2(_SYS_OPENAT2, root, path, how, 24)
        if fd >= 0:
            return fd
        # EAGAIN: something was renamed while the kernel walked past '..' of a symlink; it asks to try again
        if ctypes.get_errno() not in (errno.EINTR, errno.EAGAIN):
            raise _raise(path)


def stat_fd(fd: int) -> Stat:
    """statx of an open descriptor (O_PATH will do). The inode is in memory, so the interpreter lock is kept: half a microsecond cheaper."""
    scratch = _scratch  # not one buffer for all: another thread may run between the call and the reading of its result
    if _statx_held(fd, b"", _AT_EMPTY_PATH, _STATX_WANTED, scratch.address) != 0:
        raise _raise()
    return Stat._make(_STATX.unpack_from(scratch.buffer))


def stat_at(directory: int, name: bytes) -> Stat:
    """statx of a name in a directory; a symlink is itself. ``name`` must be a single component."""
    if _statx_free(directory, name, _AT_SYMLINK_NOFOLLOW, _STATX_WANTED, _scratch.address) != 0:
        raise _raise(name)
    return Stat._make(_STATX.unpack_from(_scratch.buffer))


def get_xattr(target: int | str, name: str) -> bytes | None:
    """The attribute of a readable descriptor or of a ``proc_path``; None when there is none or the file system keeps none."""
    try:
        return os.getxattr(target, name)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def small_xattr(fd: int, name: bytes) -> bytes | None:
    """As ``get_xattr`` for a readable descriptor and a value that fits; absence, the usual answer, costs no exception."""
    count: int = _fgetxattr(fd, name, _scratch.value_address, _SMALL)
    if count >= 0:
        return bytes(_scratch.view[:count])
    if ctypes.get_errno() in (errno.ENODATA, errno.EOPNOTSUPP, errno.ERANGE):
        return None
    raise _raise(name)


_has_xattrat = True


def xattr_at(directory: int, name: bytes, attribute: bytes) -> bytes | None:
    """A small attribute of a name in a directory (symlinks are themselves); None for absent, unreadable or gone. Never an exception: a
    listing asks it of every entry.
    """
    global _has_xattrat
    if _has_xattrat:
        count: int = _getxattrat(_SYS_GETXATTRAT, directory, name, _AT_SYMLINK_NOFOLLOW, attribute, _scratch.args_address, 16)
        if count >= 0:
            return bytes(_scratch.view[:count])
        if ctypes.get_errno() != errno.ENOSYS:
            return None
        _has_xattrat = False
    try:
        return os.getxattr(b"/proc/self/fd/%d/%b" % (directory, name), attribute, follow_symlinks=False)
    except OSError:
        return None


def set_times(fd: int, access_ns: int | None, modification_ns: int | None) -> None:
    """utimensat(2); None leaves a time alone. Takes O_PATH descriptors too."""
    fields: list[int] = []
    for value in (access_ns, modification_ns):
        fields += (0, _UTIME_OMIT) if value is None else divmod(value, 1_000_000_000)
    times = ctypes.create_string_buffer(_TIMES.pack(*fields), _TIMES.size)
    if _utimensat(_AT_FDCWD, b"/proc/self/fd/%d" % fd, ctypes.addressof(times), 0) != 0:
        raise _raise()


def rename(source: int, name: bytes, target: int, new_name: bytes, flags: int) -> None:
    """renameat2(2). EINVAL: the file system does not know the flag."""
    if _renameat2(source, name, target, new_name, flags) != 0:
        raise _raise(new_name)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2). EOPNOTSUPP where the file system has no such thing."""
    while _fallocate(fd, mode, offset, length) != 0:
        if ctypes.get_errno() != errno.EINTR:
            raise _raise()


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Deallocates; reads as zeroes; the size stays."""
    fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, offset, length)


def zero_range(fd: int, offset: int, length: int) -> None:
    """Zeroes that stay allocated; the size stays."""
    fallocate(fd, FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE, offset, length)


def data_ranges(fd: int, offset: int, length: int, limit: int) -> list[tuple[int, int]]:
    """(offset, length) of what is allocated in the window, at most ``limit`` pairs. One whole range where holes are not told apart."""
    ranges: list[tuple[int, int]] = []
    end = offset + length
    while offset < end and len(ranges) < limit:
        try:
            start = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end of file
                break
            raise
        if start >= end:
            break
        stop = min(os.lseek(fd, start, os.SEEK_HOLE), end)
        ranges.append((start, stop - start))
        offset = stop
    return ranges


_fstatfs = _held.fstatfs
_fstatfs.argtypes = [ctypes.c_int, ctypes.c_void_p]
_MEMORY_TYPES: Final = frozenset({0x01021994, 0x858458F6})  # tmpfs and ramfs (statfs(2))


def in_memory(fd: int) -> bool:
    """Whether the file lies on a file system that is memory and never waits for anything."""
    result = ctypes.create_string_buffer(256)
    return _fstatfs(fd, ctypes.addressof(result)) == 0 and struct.unpack_from("<l", result)[0] & 0xFFFFFFFF in _MEMORY_TYPES


def proc_path(fd: int) -> str:
    """A path that names the very file ``fd`` does, for calls that take no O_PATH descriptor."""
    return f"/proc/self/fd/{fd}"


def current_path(fd: int) -> bytes:
    """Where the kernel says the file is now; ends in ' (deleted)' when it has no name."""
    return os.readlink(b"/proc/self/fd/%d" % fd)
