"""Symlinks of the disk as handles, and the way between them and what clients know as symbolic links.

Owns: the translation of targets in both directions, and ``LinkHandle``. Invariants: a target that a client sets becomes a symlink only if
it leads no higher than the share's root, counted from where the link lies; where it leads in the end is the resolver's to see, each time
anew. A ``LinkHandle`` holds its directory and a name in it, and acts on the name only while it is the very link that was opened.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from pools.iovec import Descriptor, FileEntry
from pools.port import files
from pools.port.interface import Stat
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.fscc import reparse
from smbd.smb2.fscc.reparse import Symlink
from smbd.smb2.names import Path, display
from smbd.smb2.status import SmbError
from workers.vfs import attributes
from workers.vfs.interface import FileInfo, Handle, StreamInfo
from workers.vfs.root import is_reserved

XATTR: Final = "user.SmbReparse"  # Samba's name for it, so that a switch keeps them
MSDFS: Final = b"msdfs:"
_TARGET_MAX: Final = 4095  # bytes of a symlink's target, Linux' PATH_MAX


def buffer_of(target: bytes, *, msdfs: bool) -> bytes:
    """A symlink's target as a REPARSE_DATA_BUFFER; ``msdfs``: it may be a link of a DFS namespace."""
    if msdfs and target.startswith(MSDFS):
        return reparse.pack_dfs(os.fsdecode(target[len(MSDFS) :]))
    parts = [display(part) if part not in (".", "..") else part for part in os.fsdecode(target).split("/")]
    return reparse.pack_symlink(Symlink("\\".join(parts), not target.startswith(b"/")))


def target_of(link: Symlink, depth: int) -> bytes | None:
    """What a client's symbolic link is as a symlink that lies in a directory ``depth`` levels beneath the share's root.

    None where it is none that may lie on the disk: absolute, leading above the root, through what is ours, into another share, or no path.
    """
    parts = link.target.replace("/", "\\").split("\\")
    if not link.relative or "" in parts or is_reserved(Path(tuple(parts))) or parts[0].encode("utf-8", "replace").startswith(MSDFS):
        return None  # the last: who may write a file is not to send others to any server he likes
    for part in parts:
        depth += 0 if part == "." else -1 if part == ".." else 1
        if depth < 0:
            return None
    target = "/".join(parts).encode("utf-8", "surrogatepass")
    return target if len(target) <= _TARGET_MAX else None


def shown(info: FileInfo, data: bytes | None) -> FileInfo:
    """A file with the attribute, and the data that give it a meaning: either may have been lost where others copied the file."""
    if data is None:
        return info._replace(attributes=info.attributes & ~c.FILE_ATTRIBUTE_REPARSE_POINT or c.FILE_ATTRIBUTE_NORMAL)
    return info._replace(reparse_tag=reparse.tag_of(data))


class LinkHandle:
    """See ``interface.Handle``."""

    __slots__ = ("_attributes", "_buffer", "_directory", "_name", "_pin", "dev", "hidden_by_name", "ino", "opened", "path", "real")

    fd = -1  # there is none: what asks it for data is told so
    stream = ""
    directory = False
    bare = True
    is_link = True
    read_only = False

    def __init__(self, place: tuple[int, bytes], known_as: tuple[Path, bytes], buffer: bytes, *, to_directory: bool, hidden: bool) -> None:
        """``place``: the directory's descriptor, owned from here on, and the name. ``buffer``: what it is to clients."""
        self._directory, self._name = place
        self.path, self.real = known_as
        self.hidden_by_name = hidden
        self._attributes = c.FILE_ATTRIBUTE_REPARSE_POINT | (c.FILE_ATTRIBUTE_DIRECTORY if to_directory else 0)
        st = files.stat_at(*place)
        self._buffer = buffer
        self.dev = os.makedev(st.dev_major, st.dev_minor)
        self.ino = st.ino
        self.opened = self._info(st)
        self._pin = files.pin_link(*place)

    @property
    def key(self) -> tuple[int, int, str]:
        return self.dev, self.ino, ""

    @property
    def place(self) -> tuple[int, bytes]:
        """Directory and name, if that still is the link; FileNotFoundError otherwise."""
        self._stat()
        return self._directory, self._name

    def _stat(self) -> Stat:
        st = files.stat_at(self._directory, self._name)
        if (os.makedev(st.dev_major, st.dev_minor), st.ino) != (self.dev, self.ino):
            raise FileNotFoundError(errno.ENOENT, self.path.wire())
        return st

    def moved(self, directory: int, name: bytes, place: tuple[Path, bytes]) -> None:
        """It was renamed: ``directory`` is taken over."""
        files.close(self._directory)
        self._directory, self._name = directory, name
        self.path, self.real = place

    def close(self) -> None:
        for fd in (self._directory, self._pin):
            if fd >= 0:
                files.close(fd)
        self._directory = self._pin = -1

    def reparse(self) -> bytes | None:
        return self._buffer

    def info(self) -> FileInfo:
        return self._info(self._stat())

    def _info(self, st: Stat) -> FileInfo:
        plain = attributes.file_info(st._replace(mode=stat.S_IFLNK | 0o777), None, False)
        mask = self._attributes | (c.FILE_ATTRIBUTE_HIDDEN if self.hidden_by_name else 0)
        return plain._replace(size=0, allocation=0, attributes=mask, reparse_tag=reparse.tag_of(self._buffer))

    def set_times(self, creation: int = 0, access: int = 0, write: int = 0, change: int = 0) -> None:
        access_ns = attributes.to_ns(access) if access > 0 else None
        write_ns = attributes.to_ns(write) if write > 0 else None
        if access_ns is not None or write_ns is not None:
            files.set_link_times(*self.place, access_ns, write_ns)

    # What a symlink has not: there is nothing to be read, and nothing can be kept.

    def set_reparse(self, data: bytes | None) -> None:
        raise SmbError(status.NOT_SUPPORTED)

    def ea_size(self) -> int:
        return 0

    def current_path(self) -> Path | None:
        return self.path

    def activate(self, read: bool, write: bool) -> None:
        """Opened for data all the same, it has none."""

    def pread_into(self, view: memoryview, offset: int, nowait: bool = False) -> int:
        return 0

    def extent(self, offset: int, length: int) -> FileEntry | None:
        return None

    def landing(self) -> Descriptor | None:
        return None

    def pwrite(self, view: memoryview | bytes, offset: int) -> int:
        raise _no_data()

    def fsync(self) -> None:
        """Nothing is unwritten."""

    def truncate(self, size: int) -> None:
        if size:
            raise _no_data()

    def allocate(self, size: int) -> None:
        """As little as before."""

    def set_attributes(self, attributes: int) -> None:
        """Clients set them after copying: those a symlink has are all it can have."""

    def security(self) -> bytes | None:
        return None

    def set_security(self, descriptor: bytes) -> None:
        raise SmbError(status.NOT_SUPPORTED)

    def chown(self, uid: int, gid: int) -> None:
        raise SmbError(status.NOT_SUPPORTED)

    def chmod(self, mode: int) -> None:
        raise SmbError(status.NOT_SUPPORTED)

    def eas(self) -> list[tuple[str, bytes]]:
        return []

    def set_ea(self, name: str, value: bytes) -> None:
        raise SmbError(status.EAS_NOT_SUPPORTED)

    def streams(self) -> list[StreamInfo]:
        return [StreamInfo("", 0, 0)]

    def clear(self) -> None:
        raise _no_data()

    def set_sparse(self, on: bool) -> None:
        raise SmbError(status.NOT_SUPPORTED)

    def set_compressed(self, on: bool) -> None:
        raise SmbError(status.NOT_SUPPORTED)

    def zero_range(self, offset: int, length: int) -> None:
        """It has no range."""

    def allocated_ranges(self, offset: int, length: int) -> list[tuple[int, int]]:
        return []

    def copy_range(self, source: Handle, source_offset: int, offset: int, length: int) -> int:
        raise _no_data()

    def clone_range(self, source: Handle, source_offset: int, offset: int, length: int) -> None:
        raise _no_data()

    def trim(self, offset: int, length: int) -> None:
        """Nothing to give back."""

    def lock_range(self, offset: int, length: int, exclusive: bool) -> None:
        """Nobody else could."""

    def unlock_range(self, offset: int, length: int) -> None:
        """Likewise."""


def _no_data() -> OSError:
    return PermissionError(errno.EACCES, "a symlink holds no data")
