"""The module on top of a slow share's stack: whoever calls it from an errand lets the others go on meanwhile.

Owns: nothing; it hands each call down, away from the baton (``workers.baton``). Invariant: what costs no system call is asked directly.
A share has it while its disk is slow, and for good where the file system is one that asks somebody else; a healthy share has not.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from pools.port.interface import Quota
from smbd.smb2.names import Match, Path
from workers.baton import away
from workers.vfs.interface import FileInfo, FsInfo, Handle, NewFile, Sight, StreamInfo, Vfs

BATCH: Final = 64  # entries of a directory that are read in one go


def unwrapped(handle: Handle) -> Handle:
    """The handle below."""
    return handle.below if isinstance(handle, PatientHandle) else handle


class PatientHandle:
    """See ``interface.Handle``."""

    __slots__ = ("below",)

    def __init__(self, below: Handle) -> None:
        self.below = below

    @property
    def fd(self) -> int:
        return self.below.fd

    @property
    def path(self) -> Path:
        return self.below.path

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
        return self.below.key

    @property
    def opened(self) -> FileInfo:
        return self.below.opened

    @property
    def hidden_by_name(self) -> bool:
        return self.below.hidden_by_name

    @property
    def read_only(self) -> bool:
        return self.below.read_only

    @property
    def bare(self) -> bool:
        return self.below.bare

    def info(self) -> FileInfo:
        return away(self.below.info)

    def ea_size(self) -> int:
        return away(self.below.ea_size)

    def current_path(self) -> Path | None:
        return away(self.below.current_path)

    def activate(self, read: bool, write: bool) -> None:
        away(self.below.activate, read, write)

    def pread_into(self, view: memoryview, offset: int, nowait: bool = False) -> int:
        return self.below.pread_into(view, offset, nowait) if nowait else away(self.below.pread_into, view, offset)

    def extent(self, offset: int, length: int) -> None:
        """What is sent from the file itself is read by whoever sends, who does not wait."""

    def landing(self) -> None:
        """Likewise."""

    def pwrite(self, view: memoryview | bytes, offset: int) -> int:
        return away(self.below.pwrite, view, offset)

    def fsync(self) -> None:
        away(self.below.fsync)

    def truncate(self, size: int) -> None:
        away(self.below.truncate, size)

    def allocate(self, size: int) -> None:
        away(self.below.allocate, size)

    def set_times(self, creation: int = 0, access: int = 0, write: int = 0, change: int = 0) -> None:
        away(self.below.set_times, creation, access, write, change)

    def set_attributes(self, attributes: int) -> None:
        away(self.below.set_attributes, attributes)

    def security(self) -> bytes | None:
        return away(self.below.security)

    def set_security(self, descriptor: bytes) -> None:
        away(self.below.set_security, descriptor)

    def chown(self, uid: int, gid: int) -> None:
        away(self.below.chown, uid, gid)

    def chmod(self, mode: int) -> None:
        away(self.below.chmod, mode)

    def eas(self) -> list[tuple[str, bytes]]:
        return away(self.below.eas)

    def set_ea(self, name: str, value: bytes) -> None:
        away(self.below.set_ea, name, value)

    def streams(self) -> list[StreamInfo]:
        return away(self.below.streams)

    def clear(self) -> None:
        away(self.below.clear)

    def reparse(self) -> bytes | None:
        return away(self.below.reparse)

    def set_reparse(self, data: bytes | None) -> None:
        away(self.below.set_reparse, data)

    def set_sparse(self, on: bool) -> None:
        away(self.below.set_sparse, on)

    def set_compressed(self, on: bool) -> None:
        away(self.below.set_compressed, on)

    def zero_range(self, offset: int, length: int) -> None:
        away(self.below.zero_range, offset, length)

    def lock_range(self, offset: int, length: int, exclusive: bool) -> None:
        away(self.below.lock_range, offset, length, exclusive)

    def unlock_range(self, offset: int, length: int) -> None:
        away(self.below.unlock_range, offset, length)

    def allocated_ranges(self, offset: int, length: int) -> list[tuple[int, int]]:
        return away(self.below.allocated_ranges, offset, length)

    def copy_range(self, source: Handle, source_offset: int, offset: int, length: int) -> int:
        return away(self.below.copy_range, unwrapped(source), source_offset, offset, length)

    def clone_range(self, source: Handle, source_offset: int, offset: int, length: int) -> None:
        away(self.below.clone_range, unwrapped(source), source_offset, offset, length)

    def trim(self, offset: int, length: int) -> None:
        away(self.below.trim, offset, length)

    def close(self) -> None:
        away(self.below.close)


class PatientVfs:
    """See ``interface.Vfs``."""

    __slots__ = ("below",)

    def __init__(self, below: Vfs) -> None:
        self.below = below

    def open(self, path: Path, itself: bool = False) -> Handle:
        return PatientHandle(away(self.below.open, path, itself))

    def look(self, path: Path) -> Sight | None:
        return away(self.below.look, path)

    def create(self, path: Path, new: NewFile, parent: Handle | None = None) -> Handle:
        return PatientHandle(away(self.below.create, path, new, None if parent is None else unwrapped(parent)))

    def rename(self, handle: Handle, target: Path, replace: bool) -> None:
        away(self.below.rename, unwrapped(handle), target, replace)

    def absorb(self, handle: Handle) -> Handle:
        return PatientHandle(away(self.below.absorb, unwrapped(handle)))

    def link(self, handle: Handle, target: Path, replace: bool) -> None:
        away(self.below.link, unwrapped(handle), target, replace)

    def snapshots(self, handle: Handle) -> list[str]:
        return away(self.below.snapshots, unwrapped(handle))

    def replace(self, handle: Handle, target: bytes | None) -> Handle:
        return PatientHandle(away(self.below.replace, unwrapped(handle), target))

    def quota(self, uid: int) -> Quota | None:
        return away(self.below.quota, uid)

    def quotas(self, first: int) -> list[tuple[int, Quota]]:
        return away(self.below.quotas, first)

    def set_quota(self, uid: int, soft: int, hard: int) -> None:
        away(self.below.set_quota, uid, soft, hard)

    def unlink(self, handle: Handle) -> None:
        away(self.below.unlink, unwrapped(handle))

    def scan(self, handle: Handle, names_only: bool = False, match: Match | None = None) -> Iterator[tuple[str, FileInfo]]:
        entries = self.below.scan(unwrapped(handle), names_only, match)
        while batch := away(_some, entries):
            yield from batch

    def is_large(self, handle: Handle) -> bool:
        return away(self.below.is_large, unwrapped(handle))

    def is_empty(self, handle: Handle) -> bool:
        return away(self.below.is_empty, unwrapped(handle))

    def tidy(self) -> None:
        self.below.tidy()

    def fs_info(self) -> FsInfo:
        return away(self.below.fs_info)

    def close(self) -> None:
        away(self.below.close)


def _some(entries: Iterator[tuple[str, FileInfo]]) -> list[tuple[str, FileInfo]]:
    return list(islice(entries, BATCH))
