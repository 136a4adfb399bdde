"""IOCTL: [MS-SMB2] 2.2.31, 3.3.5.15. Each FSCTL is one row and one function of ``workers.fsctl``."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import IOCTL_IS_FSCTL, RELATED_ID
from smbd.smb2.header import HEADER_SIZE
from smbd.smb2.messages.ioctl import IOCTL_REQUEST, IOCTL_RESPONSE, IOCTL_RESPONSE_STRUCTURE_SIZE, IoctlRequest
from smbd.smb2.status import SmbError
from workers.fsctl import clone, compression, connection, copychunk, dfs, ranges, reparse, resiliency, snapshots
from workers.fsctl import file as files
from workers.request import Answer, Request

INPUT_MINIMUM = HEADER_SIZE + IOCTL_REQUEST.size
OUTPUT_AT = HEADER_SIZE + IOCTL_RESPONSE.size

Output = bytes | tuple[bytes, int]
"""The output buffer, and a status when it is not SUCCESS."""
Call = Callable[[Request, memoryview, int], Output | Coroutine[Any, None, Output]]


class Fsctl(NamedTuple):
    """``call(request, input, max_output)``. ``open``: needs a FileId that is open, or else none at all; ``pipe`` or ``disk``: on what."""

    call: Call
    open: bool = True
    pipe: bool = False
    disk: bool = True


FSCTLS: dict[int, Fsctl] = {
    c.FSCTL_VALIDATE_NEGOTIATE_INFO: Fsctl(connection.validate_negotiate, open=False, pipe=True),
    c.FSCTL_QUERY_NETWORK_INTERFACE_INFO: Fsctl(connection.network_interfaces, open=False, pipe=True),
    c.FSCTL_DFS_GET_REFERRALS: Fsctl(dfs.get_referrals, open=False, pipe=True),
    c.FSCTL_DFS_GET_REFERRALS_EX: Fsctl(dfs.get_referrals_ex, open=False, pipe=True),
    c.FSCTL_PIPE_TRANSCEIVE: Fsctl(connection.pipe_transceive, pipe=True, disk=False),
    c.FSCTL_PIPE_PEEK: Fsctl(connection.pipe_peek, pipe=True, disk=False),
    c.FSCTL_PIPE_WAIT: Fsctl(connection.pipe_wait, open=False, pipe=True, disk=False),
    c.FSCTL_SRV_REQUEST_RESUME_KEY: Fsctl(copychunk.resume_key),
    c.FSCTL_SRV_COPYCHUNK: Fsctl(copychunk.copychunk),
    c.FSCTL_SRV_COPYCHUNK_WRITE: Fsctl(copychunk.copychunk_write),
    c.FSCTL_DUPLICATE_EXTENTS_TO_FILE: Fsctl(clone.duplicate_extents),
    c.FSCTL_LMR_REQUEST_RESILIENCY: Fsctl(resiliency.request_resiliency),
    c.FSCTL_SET_SPARSE: Fsctl(ranges.set_sparse),
    c.FSCTL_SET_ZERO_DATA: Fsctl(ranges.set_zero_data),
    c.FSCTL_QUERY_ALLOCATED_RANGES: Fsctl(ranges.query_allocated_ranges),
    c.FSCTL_FILE_LEVEL_TRIM: Fsctl(ranges.trim),
    c.FSCTL_CREATE_OR_GET_OBJECT_ID: Fsctl(files.object_id),
    c.FSCTL_GET_OBJECT_ID: Fsctl(files.object_id),
    c.FSCTL_GET_COMPRESSION: Fsctl(compression.get_compression),
    c.FSCTL_SET_COMPRESSION: Fsctl(compression.set_compression),
    c.FSCTL_GET_REPARSE_POINT: Fsctl(reparse.get_reparse_point),
    c.FSCTL_SET_REPARSE_POINT: Fsctl(reparse.set_reparse_point),
    c.FSCTL_DELETE_REPARSE_POINT: Fsctl(reparse.delete_reparse_point),
    c.FSCTL_SRV_ENUMERATE_SNAPSHOTS: Fsctl(snapshots.enumerate_snapshots),
    c.FSCTL_IS_PATHNAME_VALID: Fsctl(files.path_is_valid),
}
REFUSED = frozenset(
    {
        c.FSCTL_SRV_READ_HASH,
    }
)
"""Known, and not done here: NOT_SUPPORTED. What a file system may leave out (offloaded copies, integrity streams, [MS-FSA] 2.1.5.10) and an
FSCTL nobody knows are INVALID_DEVICE_REQUEST (3.3.5.15).
"""


def ioctl(request: Request, body: IoctlRequest) -> bytes | Answer | Coroutine[Any, None, bytes | Answer]:
    """Find the FSCTL's row, check its needs, run it."""
    row = FSCTLS.get(body.ctl_code)
    _check_open(request, body, row)
    if body.flags != IOCTL_IS_FSCTL:
        raise SmbError(status.NOT_SUPPORTED)
    most = request.worker.max_transact
    if body.max_input_response > most or body.max_output_response > most or body.input_count > most:
        raise SmbError(status.INVALID_PARAMETER)
    request.check_charge(max(body.input_count + body.output_count, body.max_input_response + body.max_output_response))
    data = request.variable(body.input_offset, body.input_count, INPUT_MINIMUM)
    if row is None:
        raise SmbError(status.NOT_SUPPORTED if body.ctl_code in REFUSED else status.INVALID_DEVICE_REQUEST)
    on_pipe = request.open.pipe is not None if request.has_open() else request.tree.is_pipe
    if (on_pipe and not row.pipe) or (not on_pipe and not row.disk):
        raise SmbError(status.INVALID_DEVICE_REQUEST)
    result = row.call(request, data, body.max_output_response)
    if isinstance(result, (bytes, tuple)):
        return respond(body, result)
    return _later(body, result)


def _check_open(request: Request, body: IoctlRequest, row: Fsctl | None) -> None:
    """3.3.5.15: some FSCTLs are about no file, and their FileId has to say so; all others need one that is open."""
    nothing = body.file_id_persistent == body.file_id_volatile == RELATED_ID
    if row is not None and not row.open:
        if not nothing:
            raise SmbError(status.INVALID_PARAMETER)
    elif not request.has_open() and (row is not None or not nothing):
        raise SmbError(status.FILE_CLOSED)


async def _later(body: IoctlRequest, waiting: Coroutine[Any, None, Output]) -> bytes | Answer:
    return respond(body, await waiting)


def respond(body: IoctlRequest, result: Output) -> bytes | Answer:
    """2.2.32: no input comes back; more output than the client has room for is BUFFER_TOO_SMALL."""
    output, code = (result, status.SUCCESS) if isinstance(result, bytes) else result
    if len(output) > body.max_output_response:
        raise SmbError(status.BUFFER_TOO_SMALL)
    ids = (body.file_id_persistent, body.file_id_volatile)
    fixed = IOCTL_RESPONSE.pack(IOCTL_RESPONSE_STRUCTURE_SIZE, 0, body.ctl_code, *ids, OUTPUT_AT, 0, OUTPUT_AT, len(output), 0, 0)
    return Answer(fixed + output, code)
