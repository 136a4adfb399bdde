"""FLUSH: [MS-SMB2] 2.2.17, 3.3.5.11."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from smbd.smb2 import status
from smbd.smb2.constants import FILE_ADD_FILE, FILE_ADD_SUBDIRECTORY, FILE_APPEND_DATA, FILE_WRITE_DATA
from smbd.smb2.messages.file import FLUSH_RESPONSE, FLUSH_RESPONSE_STRUCTURE_SIZE, FlushRequest
from smbd.smb2.status import SmbError
from workers import writetimes
from workers.request import Answer, Request

RESPONSE = FLUSH_RESPONSE.pack(FLUSH_RESPONSE_STRUCTURE_SIZE, 0)


def flush(request: Request, body: FlushRequest) -> bytes | Coroutine[Any, None, bytes | Answer]:
    """Answer when the disk has what was written, unless the share trades that for speed (``strict sync = no``)."""
    opened = request.open
    if opened.pipe is not None or opened.handle is None:
        return RESPONSE
    needed = FILE_ADD_FILE | FILE_ADD_SUBDIRECTORY if opened.is_directory else FILE_WRITE_DATA | FILE_APPEND_DATA
    if not opened.granted & needed:
        raise SmbError(status.ACCESS_DENIED)
    if opened.tree.delays:
        writetimes.tell(request.worker, opened)
    if opened.is_directory or not request.tree.share.strict_sync:
        return RESPONSE
    return _synced(request)


async def _synced(request: Request) -> bytes:
    handle = request.open.handle
    assert handle is not None
    await request.worker.blocking(handle.fsync, request.open)
    return RESPONSE
