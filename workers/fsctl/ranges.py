"""Sparse files: FSCTL_SET_SPARSE, FSCTL_SET_ZERO_DATA, FSCTL_QUERY_ALLOCATED_RANGES ([MS-FSCC] 2.3.53, .67, .71)."""

from __future__ import annotations

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
    FILE_SET_SPARSE_BUFFER,
    FILE_ZERO_DATA_INFORMATION,
)
from smbd.smb2.status import SmbError
from workers import changes
from workers.request import Request
from workers.vfs.interface import Handle


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
    if offset < 0 or length < 0 or offset + length > 0x7FFFFFFFFFFFFFFF:
        raise SmbError(status.INVALID_PARAMETER)
    found = handle.allocated_ranges(offset, length) if length else []
    room = max_output // FILE_ALLOCATED_RANGE_BUFFER.size
    output = b"".join(FILE_ALLOCATED_RANGE_BUFFER.pack(*pair) for pair in found[:room])
    if found and not room:
        raise SmbError(status.BUFFER_TOO_SMALL)
    return output, status.BUFFER_OVERFLOW if len(found) > room else status.SUCCESS
