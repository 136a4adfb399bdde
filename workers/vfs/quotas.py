"""Users' quotas of a share's file system, and the file by which clients reach them: ``$Extend\\$Quota:$Q:$INDEX_ALLOCATION``.

Owns: the fake file; the quotas are the file system's. Who may ask for whose is the caller's to check first: the calls here are root's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pools.iovec import FileEntry
from pools.port import files
from pools.port.interface import Quota
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.names import INDEX_ALLOCATION, QUOTA_COMPONENTS, QUOTA_STREAM, Path, fold
from smbd.smb2.status import SmbError
from workers import identity
from workers.vfs.interface import FileInfo, Handle, StreamInfo
from workers.vfs.readonly import ReadOnlyHandle, Snapshot

if TYPE_CHECKING:
    from workers.vfs.interface import Vfs
    from workers.vfs.root import Root

SOME: Final = 256  # users that are asked for in one go
_ATTRIBUTES: Final = c.FILE_ATTRIBUTE_HIDDEN | c.FILE_ATTRIBUTE_SYSTEM | c.FILE_ATTRIBUTE_DIRECTORY | c.FILE_ATTRIBUTE_ARCHIVE


def is_quota_file(path: Path) -> bool:
    """Whether a path with a stream is that of the fake file."""
    return path.stream == QUOTA_STREAM and tuple(map(fold, path.components)) == QUOTA_COMPONENTS


def quota(root: Root, uid: int) -> Quota | None:
    """See ``interface.Vfs``."""
    with identity.as_root():
        return files.quota(root.fd, uid)


def quotas(root: Root, first: int) -> list[tuple[int, Quota]]:
    """See ``interface.Vfs``."""
    found: list[tuple[int, Quota]] = []
    with identity.as_root():
        while len(found) < SOME:
            one = files.next_quota(root.fd, first)
            if one is None:
                break
            found.append(one)
            first = one[0] + 1
    return found


def set_quota(root: Root, uid: int, soft: int, hard: int) -> None:
    """See ``interface.Vfs``."""
    with identity.as_root():
        files.set_quota(root.fd, uid, soft, hard)


class QuotaHandle(ReadOnlyHandle):
    """The fake file: the share's root underneath, whose descriptor says who may open it. There is nothing in it to read."""

    __slots__ = ("_told",)

    def __init__(self, below: Handle, path: Path, vfs: Vfs) -> None:
        super().__init__(below, path, Snapshot(vfs, "", 0, shown=False), _nothing)
        is_ = below.opened
        # Attributes and times as NTFS shows them
        self._told = FileInfo(is_.dev, is_.ino, 0, 0, 1, False, _ATTRIBUTES, 0, 0, 0, 0, 0, 0, is_.uid, is_.gid, is_.mode)

    @property
    def stream(self) -> str:
        return QUOTA_STREAM

    @property
    def directory(self) -> bool:
        return False

    @property
    def key(self) -> tuple[int, int, str]:
        return self._told.dev, self._told.ino, f"{QUOTA_STREAM}:{INDEX_ALLOCATION}"

    @property
    def opened(self) -> FileInfo:
        return self._told

    @property
    def hidden_by_name(self) -> bool:
        return False

    def info(self) -> FileInfo:
        return self._told

    def activate(self, read: bool, write: bool) -> None:
        """What it is opened for counts when quotas are asked for or set."""

    def pread_into(self, view: memoryview, offset: int, nowait: bool = False) -> int:
        del view, offset, nowait
        raise SmbError(status.INVALID_DEVICE_REQUEST)

    def extent(self, offset: int, length: int) -> FileEntry | None:
        del offset, length
        return None

    def streams(self) -> list[StreamInfo]:
        return []


def _nothing(_: Snapshot) -> None:
    pass
