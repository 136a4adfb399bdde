"""FSCTL_SRV_ENUMERATE_SNAPSHOTS: [MS-SMB2] 2.2.32.2, 3.3.5.15.1."""

from __future__ import annotations

from smbd.smb2 import status
from smbd.smb2.messages.ioctl import SRV_SNAPSHOT_ARRAY
from smbd.smb2.names import encode
from smbd.smb2.status import SmbError
from workers.request import Request

LEAST = 16  # bytes of room, below which the request makes no sense
_NONE = bytes(4)  # what stands in the place of a list, in an answer without one


def enumerate_snapshots(request: Request, data: memoryview, max_output: int) -> bytes:
    """The times of which there are previous versions. Where not all of them fit, how many and how many bytes they take."""
    if max_output < LEAST:
        raise SmbError(status.INVALID_PARAMETER)
    vfs, handle = request.tree.vfs, request.open.handle
    assert vfs is not None
    assert handle is not None
    tokens = vfs.snapshots(handle)
    names = encode("".join(f"{token}\0" for token in tokens) + "\0")
    if tokens and SRV_SNAPSHOT_ARRAY.size + len(names) <= max_output:
        return SRV_SNAPSHOT_ARRAY.pack(len(tokens), len(tokens), len(names)) + names
    return SRV_SNAPSHOT_ARRAY.pack(len(tokens), 0, len(names) if tokens else 0) + _NONE
