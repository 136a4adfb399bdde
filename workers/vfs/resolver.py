"""From a client's path to a descriptor.

Owns: the order of attempts (exact, then through symlinks, then another spelling) and the share's name cache. Invariant: each descriptor
comes from ``open_beneath`` the root, or is one that did opened anew; the reserved directory is never the result.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from pools.port import files
from pools.port.interface import Place
from smbd.smb2.names import Path, fold
from workers.vfs.interface import PathNotFound
from workers.vfs.namecache import NameCache
from workers.vfs.root import RESERVED, Root

READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
_DIRECTORY: Final = READ | os.O_DIRECTORY
# O_PATH instead: not readable by the user, a socket, a lease of a local program, a device without a driver
_UNREADABLE: Final = (errno.EACCES, errno.EPERM, errno.ENXIO, errno.EWOULDBLOCK, errno.ENODEV, errno.EBUSY)


class Resolver:
    """One share's."""

    __slots__ = ("names", "root")

    def __init__(self, root: Root) -> None:
        self.root = root
        self.names = NameCache(short_names=root.settings.mangled_names != "no")

    def open_fd(self, real: bytes) -> tuple[int, bool, bool]:
        """(descriptor, readable, whether a symlink was followed)."""
        root = self.root.fd
        try:
            return files.open_beneath(root, real, READ), True, False
        except OSError as error:
            if error.errno in _UNREADABLE:
                with suppress(OSError):
                    return files.open_beneath(root, real, files.PATH_ONLY), False, False
            if error.errno != errno.ELOOP and error.errno not in _UNREADABLE:
                raise
            refused = error
        if not self.root.settings.follow_symlinks:
            raise PermissionError(errno.EACCES, "symlink") from refused
        try:
            fd = files.open_beneath(root, real, files.PATH_ONLY, follow=True)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.ELOOP):  # it leads out of the share, or in a circle
                raise PermissionError(errno.EACCES, "symlink") from error
            raise
        return self._through_link(fd, real)

    def _through_link(self, fd: int, real: bytes) -> tuple[int, bool, bool]:
        """Symlinks may lead to what no name reaches: our own directory. And now that it is known to be a file, open it for reading."""
        try:
            if self.root.relative(fd, real) is None:
                raise PermissionError(errno.EACCES, "symlink")
            if stat.S_IFMT(files.fstat(fd).st_mode) in (stat.S_IFREG, stat.S_IFDIR):
                with suppress(OSError):
                    readable = files.reopen(fd, READ, Place(self.root.fd, real))
                    files.close(fd)
                    return readable, True, True
        except OSError:
            files.close(fd)
            raise
        return fd, False, True

    def find(self, components: tuple[str, ...]) -> bytes:
        """The spelling on disk. FileNotFoundError: the last is missing; PathNotFound: one before."""
        if not components:
            raise FileNotFoundError(errno.ENOENT, "the share's root")
        with self.directory(components[:-1]) as (fd, parent):
            stored = self.spelling(fd, components[-1])
        if stored is None or fold(stored) == fold(RESERVED):
            raise FileNotFoundError(errno.ENOENT, components[-1])
        return join(parent, os.fsencode(stored))

    def spelling(self, directory: int, name: str) -> str | None:
        """Needs the right to list; a user without it gets exact names only."""
        try:
            return self.names.find(directory, name)
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.EACCES):  # EBADF: O_PATH was all the user got
                raise
            return None

    @contextmanager
    def directory(self, components: tuple[str, ...]) -> Iterator[tuple[int, bytes]]:
        """A descriptor of a directory (O_PATH if it may not be listed) and its spelling on disk, symlinks followed."""
        fd, real = self._open_directory(components)
        try:
            yield fd, real
        finally:
            files.close(fd)

    def _open_directory(self, components: tuple[str, ...]) -> tuple[int, bytes]:
        real = "/".join(components).encode()
        if self.root.conceals(Path(components)):
            raise PathNotFound(errno.ENOENT, RESERVED)
        try:
            return self.directory_fd(real), real
        except FileNotFoundError:
            pass
        except NotADirectoryError as error:
            raise PathNotFound(errno.ENOTDIR, "/".join(components)) from error
        try:
            real = self.find(components)
            return self.directory_fd(real), real
        except (FileNotFoundError, NotADirectoryError) as error:
            raise PathNotFound(errno.ENOENT, "/".join(components)) from error

    def directory_fd(self, real: bytes) -> int:
        real = real or b"."
        try:
            return files.open_beneath(self.root.fd, real, _DIRECTORY)
        except PermissionError:
            return files.open_beneath(self.root.fd, real, files.PATH_ONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        return self.open_fd(real + b"/.")[0]


def join(parent: bytes, name: bytes) -> bytes:
    """Relative paths on disk; the root is b""."""
    return parent + b"/" + name if parent else name
