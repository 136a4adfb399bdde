"""FSCTLs about one file that change nothing: [MS-FSCC] 2.3."""

from __future__ import annotations

from smbd.smb2.messages.ioctl import FILE_OBJECT_ID_BUFFER
from workers.request import Request


def object_id(request: Request, data: memoryview, max_output: int) -> bytes:
    """2.3.1: an id made of what names the file on this server: device and inode."""
    key = request.open.key
    assert key is not None
    name = key.dev.to_bytes(8, "little") + key.ino.to_bytes(8, "little")
    return FILE_OBJECT_ID_BUFFER.pack(name, bytes(16), name, bytes(16))


def path_is_valid(request: Request, data: memoryview, max_output: int) -> bytes:
    """2.3.33: the server may always say yes."""
    return b""
