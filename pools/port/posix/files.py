"""Files by portable calls: a path is walked one component at a time, by descriptors.

Owns: the walk. Invariant: ``open_beneath`` never yields a file outside the tree below ``root``, whatever is renamed or replaced by a
symlink meanwhile: each step opens one name in a directory that was reached the same way, O_NOFOLLOW, so that a symlink is an error of that
step and never followed by the kernel. One that may be followed is read and walked likewise; '..' goes back to the directory the walk came
through, never up by the kernel's idea of a parent.

What that costs: a directory must be readable by its user to be walked (there is no portable O_PATH or O_SEARCH), and a file that somebody
else renamed while it was open cannot be opened anew, because no portable call says where a descriptor's file is now.
"""

from __future__ import annotations

import errno
import os
import stat as modes
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, suppress
from typing import TYPE_CHECKING, Final

from pools.port import portable
from pools.port.interface import Attributes, Place, Quota, Stat
from pools.port.posix.attributes import SideAttributes
from pools.port.posix.rights import bits_allow

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PATH_ONLY = os.O_NONBLOCK | os.O_NOCTTY  # for reading, but never waiting for what a pipe or a device may wait for
WARM = 1

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
pwrite = portable.pwrite
read = portable.read
read_link = portable.read_link
readv = portable.readv
remove = portable.remove
remove_path = portable.remove_path
remove_tree = portable.remove_tree
scandir = portable.scandir
set_link_times = portable.set_link_times
stat = portable.stat
symlink = portable.symlink
sync_directory = portable.sync_directory
truncate = portable.truncate
unlock = portable.unlock
volume = os.fstatvfs
write = portable.write
chmod = os.fchmod
chown = os.fchown

_STEP: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# What systems say when O_NOFOLLOW meets a symlink; ENOTDIR where O_DIRECTORY is looked at first.
_PERHAPS_A_LINK: Final = frozenset({errno.ELOOP, errno.EMLINK, errno.ENOTDIR, getattr(errno, "EFTYPE", errno.ELOOP)})
_MOST_LINKS: Final = 40  # as Linux has it
_ZEROES: Final = bytes(1 << 16)
_SECOND: Final = 1_000_000_000


class _Walk:
    """One way down from a root: the directories it went through, which it holds open until its end."""

    __slots__ = ("_fds", "_follow", "_left", "_links", "_names", "_root")

    def __init__(self, root: int, path: bytes, follow: bool) -> None:
        self._root = root
        self._follow = follow
        self._fds: list[int] = []
        self._names: list[bytes] = []
        self._links = 0
        self._left = _components(path)

    def open(self, flags: int, mode: int) -> tuple[int, bytes]:
        """The descriptor at the end of the path, and the path without symlinks that led there."""
        try:
            while self._left:
                name = self._left.pop()
                if name == b"..":
                    self._back()
                    continue
                try:
                    if not self._left:
                        fd = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=self._here())
                        return fd, b"/".join((*self._names, name))
                    self._fds.append(os.open(name, _STEP, dir_fd=self._here()))
                    self._names.append(name)
                except OSError as error:
                    if error.errno not in _PERHAPS_A_LINK:
                        raise
                    self._turn(name, error)
            return os.open(b".", flags | os.O_CLOEXEC, dir_fd=self._here()), b"/".join(self._names)
        finally:
            for fd in self._fds:
                os.close(fd)

    def _here(self) -> int:
        return self._fds[-1] if self._fds else self._root

    def _back(self) -> None:
        if not self._fds:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        os.close(self._fds.pop())
        self._names.pop()

    def _turn(self, name: bytes, refused: OSError) -> None:
        """``name`` could not be opened for what it is: if it is a symlink, go on where it points."""
        try:
            target = os.readlink(name, dir_fd=self._here())
        except OSError:
            raise refused from None
        self._links += 1
        if not self._follow or self._links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
        if target.startswith(b"/"):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
        self._left += _components(target)


def _components(path: bytes) -> list[bytes]:
    """Last first."""
    return [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]


def _directory_asked(path: bytes) -> int:
    """The flag that a trailing slash or dot means."""
    return os.O_DIRECTORY if path.endswith((b"/", b"/.")) else 0


def open_beneath(root: int, path: bytes, flags: int, mode: int = 0, follow: bool = False) -> int:
    """See ``interface.Files``."""
    if path.startswith(b"/"):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    return _Walk(root, path, follow).open(flags | _directory_asked(path), mode)[0]


def _again(fd: int, flags: int, place: Place) -> tuple[int, bytes]:
    """``place`` walked once more; FileNotFoundError when it does not lead to the file of ``fd``."""
    try:
        fresh, path = _Walk(place.root, place.path, True).open(flags, 0)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.ELOOP):  # somebody put a link on its way that leads out of the share
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place.path) from error
        raise
    if not os.path.samestat(os.fstat(fd), os.fstat(fresh)):
        os.close(fresh)
        raise FileNotFoundError(errno.ENOENT, "another file has this name now", place.path)
    return fresh, path


def reopen(fd: int, flags: int, place: Place) -> int:
    """A directory by itself, a file by the path it was found at."""
    if modes.S_ISDIR(os.fstat(fd).st_mode):
        return os.open(b".", flags | os.O_CLOEXEC, dir_fd=fd)
    return _again(fd, flags, place)[0]


def scan(directory: int) -> AbstractContextManager[Iterator[os.DirEntry[str]]]:
    """The descriptor has to be there as long as the entries: where a directory does not tell what they are, each looks for itself in it."""
    return closing(_scan(directory))


def _scan(directory: int) -> Generator[os.DirEntry[str], None, None]:
    try:
        own = os.open(b".", PATH_ONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        own = os.dup(directory)
    try:
        with os.scandir(own) as found:
            yield from found
    finally:
        os.close(own)


def where(fd: int, place: Place) -> bytes | None:
    """Where it was, if it still is there."""
    try:
        fresh, path = _again(fd, PATH_ONLY, place)
    except OSError:
        return None
    os.close(fresh)
    return path


def may_access(fd: int, mode: int, place: Place) -> bool:
    """Of a file by trying, which asks for access control lists, too; of what cannot be opened anew, what its mode says."""
    found = os.fstat(fd)
    if modes.S_ISREG(found.st_mode) and mode & (os.R_OK | os.W_OK):
        flags = os.O_RDWR if mode & os.R_OK and mode & os.W_OK else os.O_WRONLY if mode & os.W_OK else os.O_RDONLY
        try:
            os.close(_again(fd, flags | os.O_NONBLOCK | os.O_NOCTTY, place)[0])
        except FileNotFoundError:
            return bits_allow(found, mode)
        except OSError:
            return False
        return True
    return bits_allow(found, mode)


def _stat(found: os.stat_result) -> Stat:
    birth = int(getattr(found, "st_birthtime", 0.0) * _SECOND)  # BSD and macOS have it
    return Stat(
        mask=0,
        blksize=found.st_blksize,
        stx_attributes=0,
        nlink=found.st_nlink,
        uid=found.st_uid,
        gid=found.st_gid,
        mode=found.st_mode,
        ino=found.st_ino,
        size=found.st_size,
        blocks=found.st_blocks,
        attributes_mask=0,
        atime=found.st_atime_ns // _SECOND,
        atime_ns=found.st_atime_ns % _SECOND,
        btime=birth // _SECOND,
        btime_ns=birth % _SECOND,
        ctime=found.st_ctime_ns // _SECOND,
        ctime_ns=found.st_ctime_ns % _SECOND,
        mtime=found.st_mtime_ns // _SECOND,
        mtime_ns=found.st_mtime_ns % _SECOND,
        rdev_major=os.major(found.st_rdev),
        rdev_minor=os.minor(found.st_rdev),
        dev_major=os.major(found.st_dev),
        dev_minor=os.minor(found.st_dev),
    )


def stat_fd(fd: int) -> Stat:
    """See ``interface.Files``."""
    return _stat(os.fstat(fd))


def stat_at(directory: int, name: bytes) -> Stat:
    """See ``interface.Files``."""
    return _stat(os.stat(name, dir_fd=directory, follow_symlinks=False))


def pin_link(directory: int, name: bytes) -> int:
    """A symlink cannot be opened."""
    del directory, name
    return -1


def set_times(fd: int, access_ns: int | None, modification_ns: int | None) -> None:
    """The time that is to stay is set as it was a moment ago: utimensat's UTIME_OMIT cannot be said from here."""
    found = os.fstat(fd)
    access_ns = found.st_atime_ns if access_ns is None else access_ns
    modification_ns = found.st_mtime_ns if modification_ns is None else modification_ns
    os.utime(fd, ns=(access_ns, modification_ns))


def in_memory(device: int) -> bool:
    """Nobody says."""
    del device
    return False


def asks_others(path: str) -> bool:
    """Nobody says: a disk is slow when it has been."""
    del path
    return False


def may_wait() -> None:
    """Every call of the standard library lets other threads run."""


def is_cached(fd: int, offset: int, length: int) -> None:
    """Nobody says."""
    del fd, offset, length


def attributes(root: int, as_root: Callable[[], AbstractContextManager[None]]) -> Attributes:
    """See ``posix.attributes``."""
    return SideAttributes(root, as_root)


def rename(source: int, name: bytes, target: int, new_name: bytes, *, replace: bool) -> None:
    """A file that must replace nothing gets a second name, which fails in one step where there is something, and loses the first. What
    cannot have two (a directory, or all on some file systems) is looked for and renamed, with a gap between.
    """
    if not replace:
        directory = modes.S_ISDIR(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode)
        if not directory and _renamed_by_link(source, name, target, new_name):
            return
        with suppress(FileNotFoundError):
            os.stat(new_name, dir_fd=target, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new_name)
    os.rename(name, new_name, src_dir_fd=source, dst_dir_fd=target)


def _renamed_by_link(source: int, name: bytes, target: int, new_name: bytes) -> bool:
    try:
        os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG):
            raise
        return False
    try:
        os.unlink(name, dir_fd=source)
    except OSError:
        os.unlink(new_name, dir_fd=target)
        raise
    return True


def preadv(fd: int, buffers: Sequence[WriteableBuffer], offset: int, flags: int = 0, /) -> int:
    """Nobody says what is in memory."""
    if flags:
        raise _not_here()
    return os.preadv(fd, buffers, offset)


def preallocate(fd: int, size: int) -> None:
    """posix_fallocate would make the file longer."""
    raise _not_here()


def reserve(fd: int, size: int) -> None:
    """posix_fallocate(3); where there is none, zeroes behind the end: holes before it stay."""
    if hasattr(os, "posix_fallocate"):
        portable.reserve(fd, size)
        return
    for at in range(os.fstat(fd).st_size, size, len(_ZEROES)):
        os.pwrite(fd, _ZEROES[: size - at], at)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Not portable."""
    raise _not_here()


def zero_range(fd: int, offset: int, length: int) -> None:
    """Not portable."""
    raise _not_here()


def lock_range(fd: int, offset: int, length: int, *, exclusive: bool) -> None:
    """A process' locks: closing any descriptor of the file would lose them."""
    raise _not_here()


def unlock_range(fd: int, offset: int, length: int) -> None:
    """Likewise."""
    raise _not_here()


def copy_range(source: int, target: int, count: int, source_offset: int, target_offset: int) -> int:
    """Not portable."""
    raise _not_here()


def may_share_blocks(fd: int) -> bool:
    """Nobody says."""
    del fd
    return False


def clone_range(source: int, target: int, count: int, source_offset: int, target_offset: int) -> None:
    """Not portable."""
    raise _not_here()


def may_compress(fd: int) -> bool:
    """Nobody says."""
    del fd
    return False


def set_compressed(fd: int, on: bool) -> None:
    """Not portable."""
    raise _not_here()


def _not_here() -> OSError:
    return OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def quota(_fd: int, _uid: int) -> Quota | None:
    """POSIX has none."""
    return None


def next_quota(_fd: int, _uid: int) -> tuple[int, Quota] | None:
    """Likewise."""
    return None


def set_quota(_fd: int, _uid: int, _soft: int, _hard: int) -> None:
    """Likewise."""
    raise _not_here()
