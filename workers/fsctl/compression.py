"""Compressed files: FSCTL_GET_COMPRESSION and FSCTL_SET_COMPRESSION ([MS-FSA] 2.1.5.10.9, .30).

How it is done is the file system's affair: no compressed byte is ever on the wire, and LZNT1 is the name that clients know.
"""

from __future__ import annotations

from typing import Final

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.messages.ioctl import COMPRESSION_STATE
from smbd.smb2.status import SmbError
from workers import changes
from workers.request import Request
from workers.vfs.interface import Handle

_STATES: Final = (c.COMPRESSION_FORMAT_NONE, c.COMPRESSION_FORMAT_DEFAULT, c.COMPRESSION_FORMAT_LZNT1)


def get_compression(request: Request, data: memoryview, max_output: int) -> bytes:
    """[MS-FSCC] 2.3.18. No right is asked for, as on Windows."""
    if max_output < COMPRESSION_STATE.size:
        raise SmbError(status.INVALID_PARAMETER)
    return COMPRESSION_STATE.pack(c.COMPRESSION_FORMAT_LZNT1 if _is_compressed(_handle(request)) else c.COMPRESSION_FORMAT_NONE)


def set_compression(request: Request, data: memoryview, max_output: int) -> bytes:
    """[MS-FSCC] 2.3.67: what is written from now on; what lies on the disk stays as it is. "None" can be set everywhere, as on ReFS."""
    handle = _handle(request)
    if not request.open.granted & c.FILE_WRITE_DATA:
        raise SmbError(status.ACCESS_DENIED)
    state = COMPRESSION_STATE.unpack(data).compression_state
    if state not in _STATES:
        raise SmbError(status.INVALID_PARAMETER)
    wanted = state != c.COMPRESSION_FORMAT_NONE
    if wanted != _is_compressed(handle):
        handle.set_compressed(wanted)
        changes.altered(request.worker, request.open, c.FILE_NOTIFY_CHANGE_ATTRIBUTES)
    return b""


def _handle(request: Request) -> Handle:
    handle = request.open.handle
    assert handle is not None
    return handle


def _is_compressed(handle: Handle) -> bool:
    return bool(handle.info().attributes & c.FILE_ATTRIBUTE_COMPRESSED)
