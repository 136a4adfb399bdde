"""Ranges of a file: FSCTL_SET_SPARSE, FSCTL_SET_ZERO_DATA, FSCTL_QUERY_ALLOCATED_RANGES and FSCTL_FILE_LEVEL_TRIM
([MS-FSCC] 2.3.67, .71, .53, .13).
"""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import Any

from smbd.smb2 import status
from smbd.smb2.constants import (
    FILE_APPEND_DATA,
    FILE_NOTIFY_CHANGE_ATTRIBUTES,
    FILE_NOTIFY_CHANGE_LAST_WRITE,
    FILE_READ_DATA,
    FILE_WRITE_ATTRIBUTES,
    FILE_WRITE_DATA,
)
from smbd.smb2.messages.ioctl import (
    FILE_ALLOCATED_RANGE_BUFFER,
    FILE_LEVEL_TRIM,
    FILE_LEVEL_TRIM_OUTPUT,
    FILE_LEVEL_TRIM_RANGE,
    FILE_SET_SPARSE_BUFFER,
    FILE_ZERO_DATA_INFORMATION,
)
from smbd.smb2.status import SmbError
from workers import changes
from workers.request import Request
from workers.vfs.interface import Handle

PAGE = 4096  # what a trim is rounded to, inwards
LAST_OFFSET = 0x7FFFFFFFFFFFFFFF
MAX_TRIMS = 4096  # ranges of one request: the client hears how many were looked at


def data_handle(request: Request, access: int) -> Handle:
    """The open's handle when it is a file with one of the rights in ``access``."""
    opened = request.open
    if not opened.granted & access:
        raise SmbError(status.ACCESS_DENIED)
    if opened.is_directory or opened.handle is None:
        raise SmbError(status.INVALID_PARAMETER)
    return opened.handle


def set_sparse(request: Request, data: memoryview, max_output: int) -> bytes:
    """2.3.67: no input means yes."""
    handle = data_handle(request, FILE_WRITE_DATA | FILE_APPEND_DATA | FILE_WRITE_ATTRIBUTES)
    handle.set_sparse(bool(FILE_SET_SPARSE_BUFFER.unpack(data).set_sparse) if len(data) else True)
    changes.altered(request.worker, request.open, FILE_NOTIFY_CHANGE_ATTRIBUTES)
    return b""


def set_zero_data(request: Request, data: memoryview, max_output: int) -> bytes:
    """2.3.71: zeros, or holes where the file is sparse; never beyond the end of file."""
    handle = data_handle(request, FILE_WRITE_DATA)
    start, end = FILE_ZERO_DATA_INFORMATION.unpack(data)
    if start < 0 or end < start:
        raise SmbError(status.INVALID_PARAMETER)
    opened, length = request.open, end - start
    assert opened.key is not None
    if length:
        if request.worker.sharing.locks_conflict(opened.key, opened.persistent, start, length, True):
            raise SmbError(status.FILE_LOCK_CONFLICT)
        handle.zero_range(start, length)
        request.worker.breaks.data_changed(opened)
        changes.modified(request.worker, opened, FILE_NOTIFY_CHANGE_LAST_WRITE)
    return b""


def query_allocated_ranges(request: Request, data: memoryview, max_output: int) -> bytes | tuple[bytes, int]:
    """2.3.53: as many ranges as there is room for."""
    handle = data_handle(request, FILE_READ_DATA)
    offset, length = FILE_ALLOCATED_RANGE_BUFFER.unpack(data)
    if offset < 0 or length < 0 or offset + length > LAST_OFFSET:
        raise SmbError(status.INVALID_PARAMETER)
    found = handle.allocated_ranges(offset, length) if length else []
    room = max_output // FILE_ALLOCATED_RANGE_BUFFER.size
    output = b"".join(FILE_ALLOCATED_RANGE_BUFFER.pack(*pair) for pair in found[:room])
    if found and not room:
        raise SmbError(status.BUFFER_TOO_SMALL)
    return output, status.BUFFER_OVERFLOW if len(found) > room else status.SUCCESS


def trim(request: Request, data: memoryview, max_output: int) -> Coroutine[Any, None, bytes]:
    """[MS-FSA] 2.1.5.10.6: what the client has no use for any more is given back to the disk, in whole pages."""
    handle = data_handle(request, FILE_WRITE_DATA)
    head = FILE_LEVEL_TRIM.unpack(data)
    if not head.num_ranges or max_output < FILE_LEVEL_TRIM_OUTPUT.size:
        raise SmbError(status.INVALID_PARAMETER)
    looked_at = min(head.num_ranges, MAX_TRIMS)
    size = FILE_LEVEL_TRIM_RANGE.size
    if FILE_LEVEL_TRIM.size + head.num_ranges * size > len(data):
        raise SmbError(status.INVALID_PARAMETER)
    given = (FILE_LEVEL_TRIM_RANGE.unpack(data, FILE_LEVEL_TRIM.size + index * size) for index in range(looked_at))
    ranges = [_pages(offset, length) for offset, length in given]
    useful = [(start, end) for start, end in ranges if start < end]
    if not useful:
        raise SmbError(status.NO_RANGES_PROCESSED)
    opened = request.open
    assert opened.key is not None
    for start, end in useful:
        if request.worker.sharing.locks_conflict(opened.key, opened.persistent, start, end - start, True):
            raise SmbError(status.FILE_LOCK_CONFLICT)
    return _trim(request, handle, useful, looked_at)


def _pages(offset: int, length: int) -> tuple[int, int]:
    if offset + length > LAST_OFFSET:
        raise SmbError(status.INTEGER_OVERFLOW)
    return (offset + PAGE - 1) // PAGE * PAGE, (offset + length) // PAGE * PAGE


async def _trim(request: Request, handle: Handle, ranges: list[tuple[int, int]], looked_at: int) -> bytes:
    opened = request.open
    await request.worker.blocking(partial(_trim_all, handle, ranges), opened)
    request.worker.breaks.data_changed(opened)
    changes.modified(request.worker, opened, FILE_NOTIFY_CHANGE_LAST_WRITE)
    return FILE_LEVEL_TRIM_OUTPUT.pack(looked_at)


def _trim_all(handle: Handle, ranges: list[tuple[int, int]]) -> None:
    """On a VFS thread."""
    for start, end in ranges:
        handle.trim(start, end - start)
