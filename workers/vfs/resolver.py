"""From a client's path to a descriptor.

Owns: the order of attempts (exact, then through symlinks, then another spelling), what is in the way when none of them leads there, and the
share's name cache. Invariant: each descriptor comes from ``open_beneath`` the root, or is one that did opened anew; the reserved directory
is never the result.
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
from smbd.smb2.fscc import reparse
from smbd.smb2.names import EXACT, Path, display
from workers.vfs import links
from workers.vfs.interface import LinkMet, PathNotFound, Unfollowed
from workers.vfs.links import LinkHandle
from workers.vfs.namecache import NOTHING, NameCache
from workers.vfs.root import RESERVED, Root

READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
_DIRECTORY: Final = READ | os.O_DIRECTORY
# PATH_ONLY instead: not readable by the user, a socket, a lease of a local program, a device without a driver
_UNREADABLE: Final = (errno.EACCES, errno.EPERM, errno.ENXIO, errno.EWOULDBLOCK, errno.ENODEV, errno.EBUSY)


class Resolver:
    """One share's."""

    __slots__ = ("names", "root")

    def __init__(self, root: Root) -> None:
        self.root = root
        self.names = NameCache(short_names=root.settings.mangled_names != "no")

    def open_fd(self, real: bytes, exact: bool = False) -> tuple[int, bool, bool]:
        """(descriptor, readable, whether a symlink was followed). ``exact``: none is."""
        root = self.root.fd
        try:
            return files.open_beneath(root, real, READ), True, False
        except OSError as error:
            if error.errno in _UNREADABLE:
                with suppress(OSError):
                    return files.open_beneath(root, real, files.PATH_ONLY), False, False
            if error.errno == errno.EWOULDBLOCK or (error.errno != errno.ELOOP and error.errno not in _UNREADABLE):
                raise
            refused = error
        if exact or not self.root.settings.follow_symlinks:
            raise Unfollowed(errno.EACCES, "symlink") from refused
        try:
            fd = files.open_beneath(root, real, files.PATH_ONLY, follow=True)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.ELOOP):  # it leads out of the share, or in a circle
                raise Unfollowed(errno.EACCES, "symlink") from error
            raise
        return self._through_link(fd, real)

    def _through_link(self, fd: int, real: bytes) -> tuple[int, bool, bool]:
        """Symlinks may lead to what no name reaches: our own directory. And now that it is known to be a file, open it for reading."""
        try:
            if self.root.relative(fd, real) is None:
                raise Unfollowed(errno.EACCES, "symlink")
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
            stored = self.spelling(fd, components[-1], len(components) - 1)
        if stored is None or self.root.conceals(Path((display(stored),))):  # a short name may have led there
            raise FileNotFoundError(errno.ENOENT, components[-1])
        return join(parent, os.fsencode(stored))

    def spelling(self, directory: int, name: str, depth: int) -> str | None:
        """Needs the right to list; a user without it gets exact names only. LinkMet: the directory, ``depth`` levels beneath the root, is a
        reparse point.
        """
        try:
            found = self.names.find(directory, name)
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.EACCES):  # EBADF: O_PATH was all the user got
                raise
            return None
        if found == NOTHING:
            self._check_passable(directory, depth)
            return None
        return found

    def _check_passable(self, directory: int, depth: int) -> None:
        """A directory that is a reparse point is empty: only one that is has to be asked."""
        kept = self.root.attributes
        try:
            data = kept.get(directory, links.XATTR) if links.XATTR in kept.names(directory) else None
        except OSError:
            return
        data = None if data is None else reparse.stored(data)
        if data is not None:
            raise LinkMet(depth, data)

    def link_in(self, path: Path) -> LinkMet | None:
        """The first component that is a symlink which leads nowhere that may be reached: what is in the way of a path that failed.

        Of what no client is to see nothing is told.
        """
        if self.root.conceals(path):
            return None
        real, exact = b"", path.type == EXACT
        for depth, name in enumerate(path.components, 1):
            try:
                fd = self.directory_fd(real)
            except OSError:
                return None
            try:
                raw = name.encode() if exact else self._stored(fd, name, depth)
                real = join(real, raw)
                target = files.read_link(fd, raw) if stat.S_ISLNK(files.stat_at(fd, raw).mode) else None
            except OSError:
                return None
            finally:
                files.close(fd)
            if target is not None and (exact or not self._leads_somewhere(real)):
                return LinkMet(depth, self._buffer_of(target))
        return None

    def _stored(self, directory: int, name: str, depth: int) -> bytes:
        raw = name.encode()
        try:
            files.stat_at(directory, raw)
        except FileNotFoundError:
            found = self.spelling(directory, name, depth - 1)
            if found is None or self.root.conceals(Path((display(found),))):  # a short name may have led there
                raise
            return os.fsencode(found)
        return raw

    def _leads_somewhere(self, real: bytes) -> bool:
        try:
            files.close(self.open_fd(real)[0])
        except OSError:
            return False
        return True

    def open_link(self, path: Path, real: bytes) -> LinkHandle | None:
        """The symlink at ``real``, itself; None where there is none."""
        parent, _, name = real.rpartition(b"/")
        directory = None
        try:
            directory = self.directory_fd(parent)
            buffer = self._buffer_of(files.read_link(directory, name))
            to_directory = reparse.tag_of(buffer) == reparse.TAG_DFS or self._leads_to_directory(real)
            hidden = self.root.hides(path.name)
            return LinkHandle((directory, name), (path, real), buffer, to_directory=to_directory, hidden=hidden)
        except OSError:  # EINVAL: it is no symlink
            if directory is not None:
                files.close(directory)
            return None

    def _buffer_of(self, target: bytes) -> bytes:
        return links.buffer_of(target, msdfs=self.root.settings.msdfs_root)

    def _leads_to_directory(self, real: bytes) -> bool:
        try:
            fd = self.open_fd(real)[0]
        except OSError:
            return False
        mode = files.fstat(fd).st_mode
        files.close(fd)
        return stat.S_ISDIR(mode)

    @contextmanager
    def directory(self, components: tuple[str, ...], exact: bool = False) -> Iterator[tuple[int, bytes]]:
        """A descriptor of a directory (O_PATH if it may not be listed) and its spelling on disk, symlinks followed unless ``exact``."""
        fd, real = self._open_directory(components, exact)
        try:
            yield fd, real
        finally:
            files.close(fd)

    def _open_directory(self, components: tuple[str, ...], exact: bool) -> tuple[int, bytes]:
        real = "/".join(components).encode()
        if self.root.conceals(Path(components)):
            raise PathNotFound(errno.ENOENT, RESERVED)
        try:
            return self.directory_fd(real, exact), real
        except FileNotFoundError as error:
            if exact:
                raise PathNotFound(errno.ENOENT, "/".join(components)) from error
        except NotADirectoryError as error:
            raise PathNotFound(errno.ENOTDIR, "/".join(components)) from error
        try:
            real = self.find(components)
            return self.directory_fd(real), real
        except (FileNotFoundError, NotADirectoryError) as error:
            raise PathNotFound(errno.ENOENT, "/".join(components)) from error

    def directory_fd(self, real: bytes, exact: bool = False) -> int:
        real = real or b"."
        try:
            return files.open_beneath(self.root.fd, real, _DIRECTORY)
        except PermissionError:
            return files.open_beneath(self.root.fd, real, files.PATH_ONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        return self.open_fd(real + b"/.", exact)[0]


def join(parent: bytes, name: bytes) -> bytes:
    """Relative paths on disk; the root is b""."""
    return parent + b"/" + name if parent else name
