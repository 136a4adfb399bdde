"""Change notification from the kernel: fanotify with names for whole file systems, inotify for single directories.

Owns: the layouts of both interfaces' events. Invariant: nothing here keeps state; whoever calls owns the descriptors. Names are bytes as
the file system has them.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

# The bits of both interfaces that are the same in both (inotify(7), fanotify(7)).
ATTRIBUTES: Final = 0x4
CLOSE_WRITE: Final = 0x8
MOVED_FROM: Final = 0x40
MOVED_TO: Final = 0x80
CREATED: Final = 0x100
DELETED: Final = 0x200
IGNORED: Final = 0x8000
RENAMED: Final = 0x10000000
DIRECTORY: Final = 0x40000000

_FAN_CLOEXEC_NONBLOCK_NAMES: Final = 0x1 | 0x2 | 0x400 | 0x800  # FAN_REPORT_DIR_FID and FAN_REPORT_NAME
_FAN_MARK_ADD_FILESYSTEM: Final = 0x1 | 0x100
_FAN_MARK_FLUSH_FILESYSTEM: Final = 0x80 | 0x100
_FAN_MASK: Final = ATTRIBUTES | CLOSE_WRITE | CREATED | DELETED | RENAMED | DIRECTORY
_FAN_NAMES: Final = frozenset({2, 10, 12})  # FAN_EVENT_INFO_TYPE_DFID_NAME, ..._OLD_DFID_NAME, ..._NEW_DFID_NAME
_IN_FLAGS: Final = 0x80000 | 0x800  # IN_CLOEXEC and IN_NONBLOCK
_IN_MASK: Final = ATTRIBUTES | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATED | DELETED | 0x01000000 | 0x02000000  # ONLYDIR, DONT_FOLLOW
_READ: Final = 65536
_AT_FDCWD: Final = -100

_METADATA: Final = Struct("=IBBHQii")  # struct fanotify_event_metadata
_INFO: Final = Struct("=BBH8sIi")  # struct fanotify_event_info_fid up to f_handle
_INOTIFY: Final = Struct("=iIII")  # struct inotify_event up to name
_HANDLE_AT: Final = 12  # where struct file_handle begins in an info record

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fanotify_mark.argtypes = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p]
_libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]


class Place(NamedTuple):
    """A name in a directory; the directory as a kernel file handle (type and bytes as they lie in memory)."""

    handle: bytes
    name: bytes


class FanotifyEvent(NamedTuple):
    """One change somewhere on a marked file system. A rename has two places, every other event one; an overflow none."""

    mask: int
    pid: int
    places: tuple[Place, ...]


class InotifyEvent(NamedTuple):
    """One change in a watched directory. The two halves of a rename have the same ``cookie``."""

    watch: int
    mask: int
    cookie: int
    name: bytes


def _checked(result: int, path: str = "") -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def fanotify() -> int:
    """A fanotify group that reports names; PermissionError without CAP_SYS_ADMIN, OSError where the kernel is too old."""
    return _checked(_libc.fanotify_init(_FAN_CLOEXEC_NONBLOCK_NAMES, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_LARGEFILE", 0)))


def mark_filesystem(group: int, path: str) -> None:
    """Report changes on the file system that ``path`` lies on; OSError where it cannot (no stable handles, no FAN_RENAME)."""
    _checked(_libc.fanotify_mark(group, _FAN_MARK_ADD_FILESYSTEM, _FAN_MASK, _AT_FDCWD, os.fsencode(path)), path)


def unmark_filesystems(group: int) -> None:
    """Report nothing any more."""
    _checked(_libc.fanotify_mark(group, _FAN_MARK_FLUSH_FILESYSTEM, 0, _AT_FDCWD, None))


def fanotify_events(group: int) -> list[FanotifyEvent]:
    """What happened; empty when nothing has."""
    try:
        data = os.read(group, _READ)
    except BlockingIOError:
        return []
    return list(_fanotify_parse(data))


def _fanotify_parse(data: bytes) -> Iterator[FanotifyEvent]:
    at = 0
    while at + _METADATA.size <= len(data):
        length, _, _, head, mask, fd, pid = _METADATA.unpack_from(data, at)
        if fd >= 0:
            os.close(fd)
        yield FanotifyEvent(mask, pid, tuple(_places(data[at + head : at + length])))
        at += length


def _places(records: bytes) -> Iterator[Place]:
    at = 0
    while at + _INFO.size <= len(records):
        kind, _, length, _, handle_bytes, _ = _INFO.unpack_from(records, at)
        if kind in _FAN_NAMES:
            handle_end = at + _INFO.size + handle_bytes
            yield Place(records[at + _HANDLE_AT : handle_end], records[handle_end : at + length].split(b"\0", 1)[0])
        at += length


def handle_path(mount: int, handle: bytes) -> bytes:
    """Where the directory of a ``Place`` is now, on the file system of the descriptor ``mount``. FileNotFoundError when it is gone."""
    fd = _checked(_libc.open_by_handle_at(mount, ctypes.create_string_buffer(handle, len(handle)), os.O_PATH | os.O_CLOEXEC))
    try:
        return os.readlink(os.fsencode(f"/proc/self/fd/{fd}"))
    finally:
        os.close(fd)


def inotify() -> int:
    """An inotify instance; OSError when the user has too many."""
    return _checked(_libc.inotify_init1(_IN_FLAGS))


def watch_directory(instance: int, path: str) -> int:
    """Watch one directory; the watch's number. OSError when it is gone or there are too many."""
    return _checked(_libc.inotify_add_watch(instance, os.fsencode(path), _IN_MASK), path)


def unwatch_directory(instance: int, watch: int) -> None:
    """End a watch; one that ended by itself is no error."""
    _libc.inotify_rm_watch(instance, watch)


def inotify_events(instance: int) -> list[InotifyEvent]:
    """What happened; empty when nothing has."""
    try:
        data = os.read(instance, _READ)
    except BlockingIOError:
        return []
    found = []
    at = 0
    while at + _INOTIFY.size <= len(data):
        watch, mask, cookie, length = _INOTIFY.unpack_from(data, at)
        at += _INOTIFY.size
        found.append(InotifyEvent(watch, mask, cookie, data[at : at + length].split(b"\0", 1)[0]))
        at += length
    return found
