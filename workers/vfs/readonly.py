"""A file as it was: the handle of something in a snapshot.

Owns: the handle below, and its hold on the snapshot. Invariant: nothing is changed through it, whatever the snapshot's file system would
allow; a client that opened it for writing hears so when it writes, as from Windows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from pools.iovec import Descriptor, FileEntry
from smbd.smb2 import status
from smbd.smb2.names import Path
from smbd.smb2.status import SmbError
from workers.vfs.interface import FileInfo, Handle, StreamInfo, Vfs


class Snapshot:
    """One that is open. ``token`` is the first component of its paths; ``uses`` counts its handles, ``left`` is when the last was closed.

    ``salt`` is mixed into inode numbers where opens are told apart: a snapshot may have those of the file as it is, which somebody else
    may hold open alone. ``shown``: into those that clients see, too (``shadow:fixinodes``).
    """

    __slots__ = ("left", "salt", "shown", "token", "uses", "vfs")

    def __init__(self, vfs: Vfs, token: str, salt: int, *, shown: bool) -> None:
        self.vfs = vfs
        self.token = token
        self.salt = salt
        self.shown = shown
        self.uses = 0
        self.left = 0.0

    def info(self, info: FileInfo) -> FileInfo:
        """What clients are told."""
        return info._replace(ino=info.ino ^ self.salt) if self.shown else info


def refuse(*_: object) -> NoReturn:
    """Whatever would change a snapshot."""
    raise SmbError(status.MEDIA_WRITE_PROTECTED)


class ReadOnlyHandle:
    """See ``interface.Handle``."""

    __slots__ = ("_closed", "_opened", "below", "path", "snapshot")

    read_only = True

    def __init__(self, below: Handle, path: Path, snapshot: Snapshot, closed: Callable[[Snapshot], None]) -> None:
        """Owns ``below``; ``path`` has the token in front. ``closed`` is called once, after its end."""
        self.below = below
        self.path = path
        self.snapshot = snapshot
        self._closed = closed
        self._opened = snapshot.info(below.opened)

    @property
    def fd(self) -> int:
        return self.below.fd

    @property
    def stream(self) -> str:
        return self.below.stream

    @property
    def directory(self) -> bool:
        return self.below.directory

    @property
    def is_link(self) -> bool:
        return self.below.is_link

    @property
    def key(self) -> tuple[int, int, str]:
        dev, ino, stream = self.below.key
        return dev, ino ^ self.snapshot.salt, stream

    @property
    def opened(self) -> FileInfo:
        return self._opened

    @property
    def hidden_by_name(self) -> bool:
        return self.below.hidden_by_name

    @property
    def bare(self) -> bool:
        return self.below.bare

    def info(self) -> FileInfo:
        return self.snapshot.info(self.below.info())

    def ea_size(self) -> int:
        return self.below.ea_size()

    def current_path(self) -> Path | None:
        return self.path

    def activate(self, read: bool, write: bool) -> None:
        """For reading, however it was opened."""
        if read or write:
            self.below.activate(True, False)

    def pread_into(self, view: memoryview, offset: int, nowait: bool = False) -> int:
        return self.below.pread_into(view, offset, nowait)

    def extent(self, offset: int, length: int) -> FileEntry | None:
        return self.below.extent(offset, length)

    def landing(self) -> Descriptor | None:
        return None

    def pwrite(self, view: memoryview | bytes, offset: int) -> int:
        refuse(view, offset)

    def fsync(self) -> None:
        """All of it is on the disk."""

    def truncate(self, size: int) -> None:
        refuse(size)

    def allocate(self, size: int) -> None:
        refuse(size)

    def set_times(self, creation: int = 0, access: int = 0, write: int = 0, change: int = 0) -> None:
        if creation > 0 or access > 0 or write > 0 or change > 0:
            refuse()

    def set_attributes(self, attributes: int) -> None:
        if attributes:
            refuse()

    def security(self) -> bytes | None:
        return self.below.security()

    def set_security(self, descriptor: bytes) -> None:
        refuse(descriptor)

    def chown(self, uid: int, gid: int) -> None:
        refuse(uid, gid)

    def chmod(self, mode: int) -> None:
        refuse(mode)

    def eas(self) -> list[tuple[str, bytes]]:
        return self.below.eas()

    def set_ea(self, name: str, value: bytes) -> None:
        refuse(name, value)

    def streams(self) -> list[StreamInfo]:
        return self.below.streams()

    def clear(self) -> None:
        refuse()

    def reparse(self) -> bytes | None:
        return self.below.reparse()

    def set_reparse(self, data: bytes | None) -> None:
        refuse(data)

    def set_sparse(self, on: bool) -> None:
        refuse(on)

    def set_compressed(self, on: bool) -> None:
        refuse(on)

    def zero_range(self, offset: int, length: int) -> None:
        refuse(offset, length)

    def lock_range(self, offset: int, length: int, exclusive: bool) -> None:
        self.below.lock_range(offset, length, exclusive)

    def unlock_range(self, offset: int, length: int) -> None:
        self.below.unlock_range(offset, length)

    def allocated_ranges(self, offset: int, length: int) -> list[tuple[int, int]]:
        return self.below.allocated_ranges(offset, length)

    def copy_range(self, source: Handle, source_offset: int, offset: int, length: int) -> int:
        refuse(source, source_offset, offset, length)

    def clone_range(self, source: Handle, source_offset: int, offset: int, length: int) -> None:
        refuse(source, source_offset, offset, length)

    def trim(self, offset: int, length: int) -> None:
        refuse(offset, length)

    def close(self) -> None:
        try:
            self.below.close()
        finally:
            self._closed(self.snapshot)
