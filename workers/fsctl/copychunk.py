"""Server-side copy: FSCTL_SRV_REQUEST_RESUME_KEY, FSCTL_SRV_COPYCHUNK and _WRITE ([MS-SMB2] 3.3.5.15.5, 3.3.5.15.6)."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from struct import Struct
from typing import Any

from smbd.smb2 import status
from smbd.smb2.constants import (
    FILE_APPEND_DATA,
    FILE_EXECUTE,
    FILE_READ_DATA,
    FILE_WRITE_DATA,
)
from smbd.smb2.messages.ioctl import (
    SRV_COPYCHUNK,
    SRV_COPYCHUNK_COPY,
    SRV_COPYCHUNK_RESPONSE,
    SRV_REQUEST_RESUME_KEY_RESPONSE,
    SrvCopychunk,
)
from smbd.smb2.status import SmbError
from workers.fsctl import pairs
from workers.loop import Cancelled
from workers.open import Open
from workers.request import Request
from workers.vfs.errors import smb_error
from workers.vfs.interface import Handle

MAX_CHUNKS = 256  # 3.3.3 ServerSideCopyMaxNumberofChunks
MAX_CHUNK = 1 << 20  # ServerSideCopyMaxChunkSize
MAX_DATA = 16 << 20  # ServerSideCopyMaxDataSize
LAST_OFFSET = 0x7FFFFFFFFFFFFFFF
KEY = Struct("<QQQ")

Copying = Coroutine[Any, None, tuple[bytes, int]]


def resume_key(request: Request, data: memoryview, max_output: int) -> bytes:
    """3.3.5.15.5: names the open for a copy from it."""
    if max_output < SRV_REQUEST_RESUME_KEY_RESPONSE.size:
        raise SmbError(status.INVALID_PARAMETER)
    opened = request.open
    return SRV_REQUEST_RESUME_KEY_RESPONSE.pack(KEY.pack(opened.persistent, opened.volatile, 0), 0, 0)


def copychunk(request: Request, data: memoryview, max_output: int) -> Copying | tuple[bytes, int]:
    """FSCTL_SRV_COPYCHUNK: the target must be readable too."""
    return _copy(request, data, max_output, FILE_READ_DATA)


def copychunk_write(request: Request, data: memoryview, max_output: int) -> Copying | tuple[bytes, int]:
    """FSCTL_SRV_COPYCHUNK_WRITE."""
    return _copy(request, data, max_output, 0)


def _copy(request: Request, data: memoryview, max_output: int, also: int) -> Copying | tuple[bytes, int]:
    if max_output < SRV_COPYCHUNK_RESPONSE.size:
        raise SmbError(status.INVALID_PARAMETER)
    head = SRV_COPYCHUNK_COPY.unpack(data)
    size = SRV_COPYCHUNK.size
    if head.chunk_count > MAX_CHUNKS:
        return _limits()
    chunks = [SRV_COPYCHUNK.unpack(data, SRV_COPYCHUNK_COPY.size + index * size) for index in range(head.chunk_count)]
    if any(not 0 < chunk.length <= MAX_CHUNK for chunk in chunks) or sum(chunk.length for chunk in chunks) > MAX_DATA:
        return _limits()
    source = _source(request, head.source_key)
    target = request.open
    if not source.granted & (FILE_READ_DATA | FILE_EXECUTE) or not target.granted & (FILE_WRITE_DATA | FILE_APPEND_DATA):
        raise SmbError(status.ACCESS_DENIED)
    if also & ~target.granted:
        raise SmbError(status.ACCESS_DENIED)
    return _run(request, source, target, chunks)


def _limits() -> tuple[bytes, int]:
    """3.3.5.15.6.2: what would have been allowed, with INVALID_PARAMETER."""
    return SRV_COPYCHUNK_RESPONSE.pack(MAX_CHUNKS, MAX_CHUNK, MAX_DATA), status.INVALID_PARAMETER


def _source(request: Request, key: bytes) -> Open:
    persistent, volatile, _ = KEY.unpack(key)
    found = pairs.named(request, persistent, volatile, status.OBJECT_NAME_NOT_FOUND)
    if found.is_directory or request.open.is_directory or request.open.handle is None:
        raise SmbError(status.ACCESS_DENIED)
    return found


async def _run(request: Request, source: Open, target: Open, chunks: list[SrvCopychunk]) -> tuple[bytes, int]:
    """Chunk after chunk, each on a VFS thread; a failure tells how far it came."""
    done = total = 0
    code = status.SUCCESS
    try:
        for chunk in chunks:
            total += await _one(request, source, target, chunk)
            done += 1
    except SmbError as error:
        code = error.status
    except OSError as error:
        code = smb_error(error).status
        pairs.data_changed(request, target)  # a part of the chunk may be there, too
        return SRV_COPYCHUNK_RESPONSE.pack(done, 0, total), code
    except Cancelled:
        pairs.data_changed(request, target)  # likewise: what is under way comes to its end
        raise
    if total:  # what was copied stands, whatever ended it
        pairs.data_changed(request, target)
    return SRV_COPYCHUNK_RESPONSE.pack(done, 0, total), code


async def _one(request: Request, source: Open, target: Open, chunk: SrvCopychunk) -> int:
    worker = request.worker
    handles = pairs.handle_of(request, source), pairs.handle_of(request, target)  # closed, perhaps, while the chunk before was copied
    assert source.key is not None
    assert target.key is not None
    if chunk.target_offset + chunk.length > LAST_OFFSET:
        raise SmbError(status.INVALID_PARAMETER)
    conflict = worker.sharing.locks_conflict
    if conflict(source.key, source.persistent, chunk.source_offset, chunk.length, False) or conflict(
        target.key, target.persistent, chunk.target_offset, chunk.length, True
    ):
        raise SmbError(status.FILE_LOCK_CONFLICT)
    return await worker.blocking(partial(_copy_chunk, *handles, chunk), source, target)


def _copy_chunk(source: Handle, target: Handle, chunk: SrvCopychunk) -> int:
    """On a VFS thread."""
    if chunk.source_offset + chunk.length > source.info().size:
        raise SmbError(status.INVALID_VIEW_SIZE)
    return target.copy_range(source, chunk.source_offset, chunk.target_offset, chunk.length)
