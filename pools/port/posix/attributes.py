"""Extended attributes where the file system has none that can be reached portably: kept in files of ours beneath the share's root.

Owns: ``.millpond/attributes/XX/KEY`` beneath one root, for each file with attributes one record with all of them. KEY is the file's inode
number, with its device's in front where that is not the root's. Invariants: a record is replaced whole, under its directory's lock, so a
reader sees all of one state; who may not read or write the file may not read or write what is kept of it, as with attributes that a file
system keeps; the directory is root's alone where the server is root, and one that is somebody else's is never used.

A file that is renamed or linked keeps its record; one that is removed or made by this server loses it. When something else removes a file,
its record stays until a file of that number is made here; where systems tell the birth time, a record of an earlier file counts as absent.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Final

from pools.port.interface import NO_ATTRIBUTE
from pools.port.posix.rights import bits_allow

_DIRECTORY: Final = (b".millpond", b"attributes")
_STEP: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HEAD: Final = struct.Struct("<4sIQ")  # magic, version, birth time in microseconds or 0
_ENTRY: Final = struct.Struct("<HI")  # bytes of name and value, which follow
_MAGIC: Final = b"mpat"
_VERSION: Final = 1
_MOST: Final = 1 << 16  # bytes of a record: it is written anew with each change
_SMALL: Final = 256
_USER: Final = "user."


class SideAttributes:
    """See ``interface.Attributes``."""

    __slots__ = ("_as_root", "_device", "_root")

    def __init__(self, root: int, as_root: Callable[[], AbstractContextManager[None]]) -> None:
        self._root = root
        self._device = os.fstat(root).st_dev
        self._as_root = as_root

    # What files have

    def get(self, fd: int, name: str) -> bytes | None:
        """See ``interface.Attributes``."""
        return self._read(os.fstat(fd), name)

    def small(self, fd: int, name: bytes) -> bytes | None:
        """See ``interface.Attributes``."""
        value = self._read(os.fstat(fd), name.decode())
        return value if value is None or len(value) <= _SMALL else None

    def at(self, directory: int, name: bytes, attribute: bytes) -> bytes | None:
        """See ``interface.Attributes``."""
        try:
            value = self._read(os.stat(name, dir_fd=directory, follow_symlinks=False), attribute.decode())
        except OSError:
            return None
        return value if value is None or len(value) <= _SMALL else None

    def names(self, fd: int) -> list[str]:
        """See ``interface.Attributes``."""
        return list(self._load(os.fstat(fd)))

    def set(self, fd: int, name: str, value: bytes) -> None:
        """See ``interface.Attributes``."""
        found = self._writable(fd, name)
        with self._bucket(found, True) as (bucket, key):
            record = self._parsed(bucket, key, found)
            record[name] = value
            self._replace(bucket, key, _packed(found, record))

    def remove(self, fd: int, name: str) -> None:
        """See ``interface.Attributes``."""
        found = self._writable(fd, name)
        try:
            with self._bucket(found, False) as (bucket, key):
                record = self._parsed(bucket, key, found)
                if record.pop(name, None) is None:
                    raise FileNotFoundError
                self._replace(bucket, key, _packed(found, record) if record else b"")
        except FileNotFoundError:
            raise OSError(NO_ATTRIBUTE, os.strerror(NO_ATTRIBUTE), name) from None

    # Files that come and go

    def fresh(self, fd: int) -> None:
        """See ``interface.Attributes``."""
        found = os.fstat(fd)
        self.gone((found.st_dev, found.st_ino))

    def gone(self, key: tuple[int, int]) -> None:
        """See ``interface.Attributes``."""
        bucket, name = self._names(*key)
        with suppress(FileNotFoundError, PermissionError), self._as_root(), self._directory(bucket) as directory:
            os.unlink(name, dir_fd=directory)

    # Where they lie

    def _names(self, device: int, inode: int) -> tuple[bytes, bytes]:
        """(directory, record) of a file."""
        name = b"%x" % inode if device == self._device else b"%x-%x" % (device, inode)
        return b"%02x" % (inode & 0xFF), name

    @contextmanager
    def _directory(self, bucket: bytes, make: bool = False) -> Iterator[int]:
        """A descriptor of ``.millpond/attributes/XX``, which is made where it is missing if ``make``."""
        at = os.dup(self._root)
        try:
            for name in (*_DIRECTORY, bucket):
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(name, 0o700, dir_fd=at)
                inner = os.open(name, _STEP, dir_fd=at)
                os.close(at)
                at = inner
                _check_ours(at)
            yield at
        finally:
            os.close(at)

    @contextmanager
    def _bucket(self, found: os.stat_result, make: bool) -> Iterator[tuple[int, bytes]]:
        """The directory and the name of a file's record, for a change: nobody else's comes between."""
        bucket, key = self._names(found.st_dev, found.st_ino)
        with self._as_root(), self._directory(bucket, make) as directory:
            fcntl.flock(directory, fcntl.LOCK_EX)  # let go when the descriptor is closed
            yield directory, key

    def _load(self, found: os.stat_result) -> dict[str, bytes]:
        bucket, key = self._names(found.st_dev, found.st_ino)
        try:
            with self._as_root(), self._directory(bucket) as directory:
                return self._parsed(directory, key, found)
        except (FileNotFoundError, PermissionError):
            return {}  # what somebody else has put there counts for nothing

    def _read(self, found: os.stat_result, name: str) -> bytes | None:
        value = self._load(found).get(name)
        if value is not None and name.startswith(_USER) and not bits_allow(found, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return value

    def _writable(self, fd: int, name: str) -> os.stat_result:
        """The file, if its attributes are the caller's to change: with write permission, and all but user.* by root alone."""
        found = os.fstat(fd)
        if not bits_allow(found, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        if not name.startswith(_USER) and os.geteuid() != 0:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), name)
        return found

    def _parsed(self, directory: int, key: bytes, found: os.stat_result) -> dict[str, bytes]:
        try:
            fd = os.open(key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except FileNotFoundError:
            return {}
        with open(fd, "rb") as record:
            return _unpacked(found, record.read(_MOST))

    def _replace(self, directory: int, key: bytes, content: bytes) -> None:
        """ENOSPC for a record that would be too large: streams then find another place."""
        if len(content) > _MOST:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if not content:
            os.unlink(key, dir_fd=directory)
            return
        draft = b"%b.%b" % (key, secrets.token_hex(4).encode())
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
        try:
            with open(fd, "wb") as record:
                record.write(content)
            os.rename(draft, key, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            os.unlink(draft, dir_fd=directory)
            raise


def _check_ours(directory: int) -> None:
    """Who may write to the share's root may have made the directory before us, with records to his liking: PermissionError."""
    found = os.fstat(directory)
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "belongs to somebody else, or others may write there: remove it", ".millpond/attributes")


def _birth(found: os.stat_result) -> int:
    """In microseconds, what a float holds of it; 0 where nobody tells."""
    return int(getattr(found, "st_birthtime", 0.0) * 1_000_000)


def _packed(found: os.stat_result, record: dict[str, bytes]) -> bytes:
    parts = [_HEAD.pack(_MAGIC, _VERSION, _birth(found))]
    for name, value in record.items():
        raw = os.fsencode(name)
        parts += (_ENTRY.pack(len(raw), len(value)), raw, value)
    return b"".join(parts)


def _unpacked(found: os.stat_result, content: bytes) -> dict[str, bytes]:
    """Nothing for a record that was another file's, or that somebody has spoilt."""
    if len(content) < _HEAD.size or _HEAD.unpack_from(content) != (_MAGIC, _VERSION, _birth(found)):
        return {}
    record: dict[str, bytes] = {}
    at = _HEAD.size
    while at + _ENTRY.size <= len(content):
        name_bytes, value_bytes = _ENTRY.unpack_from(content, at)
        middle = at + _ENTRY.size + name_bytes
        at = middle + value_bytes
        if at > len(content):
            break
        record[os.fsdecode(content[middle - name_bytes : middle])] = content[middle:at]
    return record
