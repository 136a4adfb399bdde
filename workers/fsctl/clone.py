"""Block cloning: FSCTL_DUPLICATE_EXTENTS_TO_FILE ([MS-FSCC] 2.3.7, [MS-SMB2] 3.3.5.15.17)."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import Any, NamedTuple

from smbd.smb2 import status
from smbd.smb2.constants import FILE_APPEND_DATA, FILE_ATTRIBUTE_SPARSE_FILE, FILE_READ_DATA, FILE_WRITE_DATA
from smbd.smb2.messages.ioctl import DUPLICATE_EXTENTS_DATA, DuplicateExtentsData
from smbd.smb2.status import SmbError
from workers.fsctl import pairs
from workers.open import Open
from workers.request import Request
from workers.vfs.interface import Handle

LAST_OFFSET = 0x7FFFFFFFFFFFFFFF


class _Range(NamedTuple):
    """``length`` bytes at ``source`` are to be those at ``target``."""

    source: int
    target: int
    length: int


def duplicate_extents(request: Request, data: memoryview, max_output: int) -> Coroutine[Any, None, bytes]:
    """The target's range becomes the source's blocks. Locks are no obstacle, as on ReFS."""
    wish = DUPLICATE_EXTENTS_DATA.unpack(data)
    vfs, target = request.tree.vfs, request.open
    assert vfs is not None
    if not vfs.fs_info().shared_blocks:
        raise SmbError(status.INVALID_DEVICE_REQUEST)
    source = pairs.named(request, wish.source_file_id_persistent, wish.source_file_id_volatile, status.INVALID_HANDLE)
    if source.is_directory or target.is_directory:
        raise SmbError(status.INVALID_PARAMETER)
    if not source.granted & FILE_READ_DATA or not target.granted & (FILE_WRITE_DATA | FILE_APPEND_DATA):
        raise SmbError(status.ACCESS_DENIED)
    return _run(request, source, target, _range(wish))


def _range(wish: DuplicateExtentsData) -> _Range:
    offsets = (wish.source_file_offset, wish.target_file_offset)
    if wish.byte_count < 0 or any(not 0 <= offset <= LAST_OFFSET - wish.byte_count for offset in offsets):
        raise SmbError(status.INVALID_PARAMETER)
    return _Range(*offsets, wish.byte_count)


async def _run(request: Request, source: Open, target: Open, wanted: _Range) -> bytes:
    handles = pairs.handle_of(request, source), pairs.handle_of(request, target)
    if await request.worker.blocking(partial(_clone, *handles, wanted), source, target):
        pairs.data_changed(request, target)
    return b""


def _clone(source: Handle, target: Handle, wanted: _Range) -> int:
    """On a VFS thread. The bytes cloned: as on Windows, what lies beyond the target's end is left out, the source's end is an error."""
    ours, theirs = source.info(), target.info()
    if wanted.source + wanted.length > ours.size:
        raise SmbError(status.NOT_SUPPORTED)
    length = min(wanted.length, theirs.size - wanted.target)
    if length <= 0:
        return 0
    if source.key == target.key and abs(wanted.source - wanted.target) < length:
        raise SmbError(status.NOT_SUPPORTED)
    if ours.attributes & ~theirs.attributes & FILE_ATTRIBUTE_SPARSE_FILE:
        raise SmbError(status.NOT_SUPPORTED)
    target.clone_range(source, wanted.source, wanted.target, length)
    return length
