"""File-system operations of Linux, among them those that Python's ``os`` has not: openat2, statx, renameat2, fallocate, utimensat.

Owns: the system-call numbers and structures. Invariant: every failure leaves as ``OSError`` with the system's errno (EINTR is retried), and
``open_beneath`` never yields a file outside the tree below ``root``: the kernel's RESOLVE_BENEATH decides, not a check of ours.

The calls go through ``PyDLL``, which keeps the interpreter lock, where the kernel answers from memory, and through ``CDLL`` where a disk
may be asked. Result buffers belong to the calling thread.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import pathlib
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final

from pools.port import portable
from pools.port.interface import Attributes, Place, Stat
from pools.port.linux import quotas
from pools.port.linux.attributes import ATTRIBUTES

PATH_ONLY = os.O_PATH
WARM = os.RWF_NOWAIT

# Calls that need nothing of Linux's.
close = portable.close
data_ranges = portable.data_ranges
dup = portable.dup
fstat = portable.fstat
fsync = portable.fsync
link = portable.link
link_path = portable.link_path
listdir = portable.listdir
lock = portable.lock
may_access_path = portable.may_access_path
mkdir = portable.mkdir
move_path = portable.move_path
open = portable.open
pread = portable.pread
preadv = portable.preadv
pwrite = portable.pwrite
read = portable.read
read_link = portable.read_link
readv = portable.readv
remove = portable.remove
remove_path = portable.remove_path
remove_tree = portable.remove_tree
reserve = portable.reserve
scandir = portable.scandir
set_link_times = portable.set_link_times
stat = portable.stat
symlink = portable.symlink
sync_directory = portable.sync_directory
truncate = portable.truncate
unlock = portable.unlock
volume = os.fstatvfs
write = portable.write
copy_range = os.copy_file_range
quota = quotas.quota
next_quota = quotas.next_quota
set_quota = quotas.set_quota

_SYS_OPENAT2: Final = 437
_SYS_CACHESTAT: Final = 451
_PAGE: Final = portable.PAGE

_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08
_RENAME_NOREPLACE: Final = 1
_FALLOC_KEEP_SIZE: Final = 1
_FALLOC_PUNCH_HOLE: Final = 2
_FALLOC_ZERO_RANGE: Final = 16
_AT_EMPTY_PATH: Final = 0x1000
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_FDCWD: Final = -100
_UTIME_OMIT: Final = 0x3FFFFFFE
_STRAIGHT: Final = _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS
_FOLLOWING: Final = _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS
_DELETED: Final = b" (deleted)"
_STATX_WANTED: Final = 0x7FF | 0x800  # basic stats and the birth time

_free = ctypes.CDLL(None, use_errno=True)  # releases the interpreter lock
_held = ctypes.PyDLL(None, use_errno=True)  # keeps it
_openat2 = _free["syscall"]
_openat2.restype = ctypes.c_long
_openat2.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
_cachestat = _free["syscall"]
_cachestat.restype = ctypes.c_long
_cachestat.argtypes = [ctypes.c_long, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint]
_renameat2 = _free.renameat2
_renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
_fallocate = _free.fallocate64 if hasattr(_free, "fallocate64") else _free.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_fstatfs = _free.fstatfs64 if hasattr(_free, "fstatfs64") else _free.fstatfs
_fstatfs.argtypes = [ctypes.c_int, ctypes.c_void_p]
_utimensat = _free.utimensat
_utimensat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int]
_statx_held = _held.statx
_statx_free = _free.statx
for _function in (_statx_held, _statx_free):
    _function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]

# struct open_how; struct statx up to stx_dev_minor
_RANGE = struct.Struct("<QQ")  # struct cachestat_range
_CACHED = struct.Struct("<Q")  # the first field of struct cachestat
_HOW = struct.Struct("<QQQ")
_TIMES = struct.Struct("<qqqq")  # two struct timespec
_FLOCK = struct.Struct("@hhqqi4x")  # struct flock
_CLONE = struct.Struct("<qQQQ")  # struct file_clone_range
_FLAGS = struct.Struct("@I4x")  # of an inode
_FS_TYPE = struct.Struct("@l")  # the first field of struct statfs
_STATX = struct.Struct("<IIQ IIIH2x QQQQ qI4x qI4x qI4x qI4x II II")


class _Scratch(threading.local):
    """The result buffer, one for each thread."""

    def __init__(self) -> None:
        self.buffer = ctypes.create_string_buffer(256)
        self.address = ctypes.addressof(self.buffer)
        self.statx = _statx_held


_scratch = _Scratch()


def may_wait() -> None:
    """The calling thread is one that waits for slow disks: nobody else is to wait with it."""
    _scratch.statx = _statx_free


_hows: dict[tuple[int, int, int], tuple[ctypes.Array[ctypes.c_char], int]] = {}


def _raise(name: bytes | str = b"") -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), name) if name else OSError(code, os.strerror(code))


def _how(flags: int, mode: int, resolve: int) -> int:
    key = (flags, mode, resolve)
    made = _hows.get(key)
    if made is None:
        buffer = ctypes.create_string_buffer(_HOW.pack(flags | os.O_CLOEXEC, mode, resolve), _HOW.size)
        made = _hows.setdefault(key, (buffer, ctypes.addressof(buffer)))  # another thread's may be in use already
    return made[1]


def open_beneath(root: int, path: bytes, flags: int, mode: int = 0, follow: bool = False) -> int:
    """openat2(2) with RESOLVE_BENEATH and RESOLVE_NO_MAGICLINKS, and RESOLVE_NO_SYMLINKS unless ``follow``."""
    how = _how(flags, mode, _FOLLOWING if follow else _STRAIGHT)
    while True:
        fd: int = _openat2(_SYS_OPENAT2, root, path, how, 24)
        if fd >= 0:
            return fd
        # EAGAIN past a symlink: something was renamed while the kernel walked past its '..', and it asks to try again. Else it is the
        # answer to O_NONBLOCK: a program has a lease on the file.
        code = ctypes.get_errno()
        if code != errno.EINTR and not (code == errno.EAGAIN and follow):
            raise _raise(path)


def reopen(fd: int, flags: int, place: Place) -> int:
    """Through /proc, which leads to the file itself: no name is looked up."""
    del place
    return os.open(b"/proc/self/fd/%d" % fd, flags | os.O_CLOEXEC)


def scan(directory: int) -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
    """Through /proc, as above: what the interpreter opens by a path is its own."""
    try:
        return os.scandir(f"/proc/self/fd/{directory}")
    except OSError:
        return os.scandir(directory)


def where(fd: int, place: Place) -> bytes | None:
    """Where the kernel says that both are now."""
    here = os.readlink(b"/proc/self/fd/%d" % fd)
    base = os.readlink(b"/proc/self/fd/%d" % place.root).rstrip(b"/")
    if here == base or here == b"/" == base + b"/":
        return b""
    if not here.startswith(base + b"/") or here.endswith(_DELETED):
        return None
    return here[len(base) + 1 :]


def may_access(fd: int, mode: int, place: Place) -> bool:
    """faccessat(2): what the kernel, access control lists included, would say."""
    del place
    return os.access(f"/proc/self/fd/{fd}", mode, effective_ids=True)


def stat_fd(fd: int) -> Stat:
    """statx of an open descriptor (O_PATH will do). The inode is in memory, so the interpreter lock is kept: half a microsecond cheaper;
    not on a thread that ``may_wait``, where the inode's file system may be one that asks somebody else.
    """
    scratch = _scratch  # not one buffer for all: another thread may run between the call and the reading of its result
    if scratch.statx(fd, b"", _AT_EMPTY_PATH, _STATX_WANTED, scratch.address) != 0:
        raise _raise()
    return Stat._make(_STATX.unpack_from(scratch.buffer))


def stat_at(directory: int, name: bytes) -> Stat:
    """statx of a name in a directory; a symlink is itself. ``name`` must be a single component."""
    if _statx_free(directory, name, _AT_SYMLINK_NOFOLLOW, _STATX_WANTED, _scratch.address) != 0:
        raise _raise(name)
    return Stat._make(_STATX.unpack_from(_scratch.buffer))


def pin_link(directory: int, name: bytes) -> int:
    """O_PATH and O_NOFOLLOW: the symlink itself."""
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


def is_cached(fd: int, offset: int, length: int) -> bool | None:
    """cachestat(2), Linux 6.5; EPERM where the user neither owns the file nor may write it."""
    scratch = _scratch
    _RANGE.pack_into(scratch.buffer, 0, offset, length)
    if _cachestat(_SYS_CACHESTAT, fd, scratch.address, scratch.address + _RANGE.size, 0) != 0:
        return None
    (cached,) = _CACHED.unpack_from(scratch.buffer, _RANGE.size)
    return bool(cached >= (offset + length - 1) // _PAGE - offset // _PAGE + 1)


def attributes(root: int, as_root: Callable[[], AbstractContextManager[None]]) -> Attributes:
    """The file system's own: no root descriptor, nobody's rights but the caller's."""
    del root, as_root
    return ATTRIBUTES


def chmod(fd: int, mode: int) -> None:
    """Takes O_PATH descriptors too."""
    os.chmod(f"/proc/self/fd/{fd}", mode)


def chown(fd: int, uid: int, gid: int) -> None:
    """Takes O_PATH descriptors too."""
    os.chown(f"/proc/self/fd/{fd}", uid, gid)


def set_times(fd: int, access_ns: int | None, modification_ns: int | None) -> None:
    """utimensat(2); None leaves a time alone. Takes O_PATH descriptors too."""
    fields: list[int] = []
    for value in (access_ns, modification_ns):
        fields += (0, _UTIME_OMIT) if value is None else divmod(value, 1_000_000_000)
    times = ctypes.create_string_buffer(_TIMES.pack(*fields), _TIMES.size)
    if _utimensat(_AT_FDCWD, b"/proc/self/fd/%d" % fd, ctypes.addressof(times), 0) != 0:
        raise _raise()


def rename(source: int, name: bytes, target: int, new_name: bytes, *, replace: bool) -> None:
    """renameat2(2), which checks and renames in one step; checked first, with a gap, where the file system does not know the flag."""
    if not replace:
        if _renameat2(source, name, target, new_name, _RENAME_NOREPLACE) == 0:
            return
        refused = _raise(new_name)
        if refused.errno != errno.EINVAL or _exists(target, new_name):
            raise refused
    os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)


def _exists(directory: int, name: bytes) -> bool:
    try:
        stat_at(directory, name)
    except FileNotFoundError:
        return False
    return True


def _allocate(fd: int, mode: int, offset: int, length: int) -> None:
    while _fallocate(fd, mode, offset, length) != 0:
        if ctypes.get_errno() != errno.EINTR:
            raise _raise()


def preallocate(fd: int, size: int) -> None:
    """fallocate(2)."""
    _allocate(fd, _FALLOC_KEEP_SIZE, 0, size)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """fallocate(2)."""
    _allocate(fd, _FALLOC_PUNCH_HOLE | _FALLOC_KEEP_SIZE, offset, length)


def zero_range(fd: int, offset: int, length: int) -> None:
    """fallocate(2)."""
    _allocate(fd, _FALLOC_ZERO_RANGE | _FALLOC_KEEP_SIZE, offset, length)


def _set_range(fd: int, kind: int, offset: int, length: int) -> None:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, offset, length, 0))
    except PermissionError as error:  # POSIX lets a system say either
        raise BlockingIOError(errno.EAGAIN, error.strerror) from None


def lock_range(fd: int, offset: int, length: int, *, exclusive: bool) -> None:
    """fcntl(2), open file description locks."""
    _set_range(fd, fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK, offset, length)


def unlock_range(fd: int, offset: int, length: int) -> None:
    """fcntl(2)."""
    _set_range(fd, fcntl.F_UNLCK, offset, length)


_FICLONERANGE: Final = 0x4020940D
_BTRFS: Final = 0x9123683E
_SHARES_BLOCKS: Final = frozenset({_BTRFS, 0x58465342, 0xCA451A4E, 0x7461636F})  # btrfs, XFS, bcachefs, OCFS2


def _kind(fd: int) -> int:
    """The magic number of statfs(2)."""
    if _fstatfs(fd, _scratch.address) != 0:
        raise _raise()
    (kind,) = _FS_TYPE.unpack_from(_scratch.buffer)
    return int(kind) & 0xFFFFFFFF


def may_share_blocks(fd: int) -> bool:
    """By the magic number."""
    return _kind(fd) in _SHARES_BLOCKS


def clone_range(source: int, target: int, count: int, source_offset: int, target_offset: int) -> None:
    """ioctl_ficlonerange(2)."""
    fcntl.ioctl(target, _FICLONERANGE, _CLONE.pack(source, source_offset, count, target_offset))


_LONG: Final = struct.calcsize("l") << 16  # which the numbers say, and the kernel does not mean: it is an int
_GETFLAGS: Final = 0x80006601 | _LONG
_SETFLAGS: Final = 0x40006602 | _LONG
_COMPR_FL: Final = 0x4
_NOCOMP_FL: Final = 0x400
_NOCOW_FL: Final = 0x800000


def may_compress(fd: int) -> bool:
    """By the magic number: ext4 would keep the flag, and compress nothing."""
    return _kind(fd) == _BTRFS


def set_compressed(fd: int, on: bool) -> None:
    """ioctl_iflags(2). btrfs compresses nothing that it overwrites in place, and has a flag for what it found not to be worth it."""
    if not on or may_compress(fd):
        (flags,) = _FLAGS.unpack(fcntl.ioctl(fd, _GETFLAGS, bytes(_FLAGS.size)))
        if not on or not flags & _NOCOW_FL:
            fcntl.ioctl(fd, _SETFLAGS, _FLAGS.pack((flags | _COMPR_FL) & ~_NOCOMP_FL if on else flags & ~_COMPR_FL))
            return
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


_MEMORY_TYPES: Final = frozenset({"tmpfs", "ramfs"})
_MOUNTS: Final = "/proc/self/mountinfo"
_ASKING: Final = frozenset(
    {"9p", "afs", "autofs", "ceph", "cifs", "coda", "gfs2", "gpfs", "lustre", "ncpfs", "ocfs2", "orangefs", "smb3", "smbfs", "virtiofs"}
)


def in_memory(device: int) -> bool:
    """By the table of mounts (proc_pid_mountinfo(5)): a question to the file system may have to wait for it."""
    number = f"{os.major(device)}:{os.minor(device)}"
    return any(fields[2] == number and kind in _MEMORY_TYPES for fields, kind in _mounts())


def asks_others(path: str) -> bool:
    """By the table of mounts. A symlink in the path is not followed."""
    best, kind_there = "", ""
    for fields, kind in _mounts():
        at = _plain(fields[4])
        if len(at) >= len(best) and (path == at or path.startswith(at.rstrip("/") + "/")):
            best, kind_there = at, kind
    return kind_there.startswith(("fuse", "nfs")) or kind_there in _ASKING


def _mounts() -> Iterator[tuple[list[str], str]]:
    """Of each mount: the fields before the hyphen, and the type behind it."""
    with pathlib.Path(_MOUNTS).open(encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            fields, _, rest = line.partition(" - ")
            yield fields.split(" "), rest.split(" ")[0]


def _plain(field: str) -> str:
    """Blanks, tabs, newlines and backslashes are written in octal."""
    for code, text in ("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\"):
        field = field.replace("\\" + code, text)
    return field
