"""WRITE: [MS-SMB2] 2.2.21, 3.3.5.13."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from smbd.smb2 import status
from smbd.smb2.constants import (
    CHANNEL_NONE,
    FILE_APPEND_DATA,
    FILE_NOTIFY_CHANGE_LAST_WRITE,
    FILE_NOTIFY_CHANGE_SIZE,
    FILE_WRITE_DATA,
    WRITEFLAG_WRITE_THROUGH,
)
from smbd.smb2.header import HEADER_SIZE
from smbd.smb2.messages.file import WRITE_REQUEST, WRITE_RESPONSE, WRITE_RESPONSE_STRUCTURE_SIZE, WriteRequest
from smbd.smb2.status import SmbError
from workers import writetimes
from workers.changes import modified
from workers.commands import pipe
from workers.loop import Completion
from workers.request import Answer, Request
from workers.transport.incoming import Incoming, Unwanted

DATA_MINIMUM = HEADER_SIZE + WRITE_REQUEST.size
DATA_MAXIMUM = 0x100  # 3.3.5.13: a DataOffset beyond this is invalid
LAST_OFFSET = 0x7FFFFFFFFFFFFFFF


def write(request: Request, body: WriteRequest) -> bytes | Coroutine[Any, None, bytes | Answer]:
    """Bytes into a file or a pipe, from the place in the receive buffer where they arrived."""
    if body.length > request.worker.max_write:
        raise SmbError(status.INVALID_PARAMETER)
    request.check_charge(body.length)
    if body.channel != CHANNEL_NONE or body.data_offset > DATA_MAXIMUM:
        raise SmbError(status.INVALID_PARAMETER)
    if request.incoming is not None:
        return write_incoming(request, body.offset, request.incoming, through=_through(request, body))
    data = request.variable(body.data_offset, body.length, DATA_MINIMUM)
    if request.open.pipe is not None:
        return pipe.write(request, data)
    if request.open.is_directory:
        raise SmbError(status.INVALID_DEVICE_REQUEST)
    write_file(request, body.offset, data)
    return synced(request, len(data)) if _through(request, body) else response(len(data))


def response(count: int) -> bytes:
    """2.2.22."""
    return WRITE_RESPONSE.pack(WRITE_RESPONSE_STRUCTURE_SIZE, 0, count, 0, 0, 0)


def _through(request: Request, body: WriteRequest) -> bool:
    """Whether the answer has to wait for the disk."""
    return request.open.write_through or bool(body.flags & WRITEFLAG_WRITE_THROUGH and request.tree.share.strict_sync)


def check(request: Request, offset: int, length: int) -> None:
    """What has to be so before a byte is written."""
    opened = request.open
    assert opened.handle is not None
    assert opened.key is not None
    if offset > LAST_OFFSET or offset + length > LAST_OFFSET:
        raise SmbError(status.INVALID_PARAMETER)
    if not opened.granted & FILE_WRITE_DATA and opened.granted & FILE_APPEND_DATA and offset < opened.handle.info().size:
        raise SmbError(status.ACCESS_DENIED)
    if length and request.worker.sharing.locks_conflict(opened.key, opened.persistent, offset, length, True):
        raise SmbError(status.FILE_LOCK_CONFLICT)
    if length and opened.tree.delays:
        writetimes.begin(request.worker, opened)


def write_file(request: Request, offset: int, data: memoryview) -> None:
    """Write at once. What the file system refuses is the answer; what it took before stands."""
    check(request, offset, len(data))
    if not data:
        return
    handle = request.open.handle
    assert handle is not None
    try:
        handle.pwrite(data, offset)
    except OSError:
        request.worker.breaks.data_changed(request.open)  # a part may be there
        request.open.written = True
        raise
    wrote(request, offset, len(data))


def wrote(request: Request, offset: int, length: int) -> None:
    """The file has other content now: whoever has to know is told."""
    opened, worker = request.open, request.worker
    opened.position = offset + length
    worker.count_written(length)
    worker.breaks.data_changed(opened)
    if opened.held is not None:
        writetimes.wrote(opened)
    modified(worker, opened, FILE_NOTIFY_CHANGE_SIZE | FILE_NOTIFY_CHANGE_LAST_WRITE)


def write_incoming(request: Request, offset: int, incoming: Incoming, *, through: bool) -> Coroutine[Any, None, bytes]:
    """Write a payload that has yet to come: it goes from the socket to the file. Everything is checked before its first byte is taken."""
    opened = request.open
    check(request, offset, incoming.length)
    assert opened.handle is not None
    landing = opened.handle.landing()
    if opened.is_directory or landing is None:
        raise SmbError(status.INVALID_DEVICE_REQUEST)
    worker, disk = request.worker, request.tree.disk
    breaks = worker.breaks

    def changed(seconds: float) -> None:
        disk.held_up(seconds)
        opened.written = True
        breaks.data_changed(opened)

    written = incoming.begin(landing, offset, lambda: worker.serves(opened), changed)
    return _write_incoming(request, offset, (incoming.length, written), through=through)


async def _write_incoming(request: Request, offset: int, payload: tuple[int, Completion[None]], *, through: bool) -> bytes:
    length, written = payload
    try:
        await written
    except Unwanted:
        raise SmbError(status.FILE_CLOSED) from None
    request.resume()
    wrote(request, offset, length)
    return await synced(request, length) if through else response(length)


async def synced(request: Request, length: int) -> bytes:
    """Answer when the disk has what was written. The sync waits on a VFS thread."""
    handle = request.open.handle
    assert handle is not None
    await request.worker.blocking(handle.fsync, request.open)
    return response(length)
