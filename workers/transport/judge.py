"""Which large frames need not enter the process: a plain WRITE of one piece to a file of the disk.

Owns: that judgement, made from a frame's beginning alone. Invariant: it changes nothing and answers nothing. Whatever is unusual (signed,
encrypted, a compound, a pipe, a stream in an attribute, an open that is not there) is received and judged where all else is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pools.iovec import IoVector, MemoryEntry
from smbd.smb2.constants import FLAGS_ASYNC_COMMAND, FLAGS_RELATED_OPERATIONS, FLAGS_SERVER_TO_REDIR, FLAGS_SIGNED, Command
from smbd.smb2.header import HEADER, HEADER_SIZE, PROTOCOL_ID
from smbd.smb2.messages.file import WRITE_REQUEST
from workers.transport.incoming import Incoming

if TYPE_CHECKING:
    from pools.buffer import Buffer
    from workers.line import Line

WRITE = int(Command.WRITE)
STRUCTURE_SIZE = 49
DATA_MINIMUM = HEADER_SIZE + WRITE_REQUEST.size
_UNUSUAL = FLAGS_SIGNED | FLAGS_ASYNC_COMMAND | FLAGS_RELATED_OPERATIONS | FLAGS_SERVER_TO_REDIR


def judge(line: Line, buffer: Buffer, start: int, end: int, size: int) -> Incoming | None:
    """The payload of the frame of ``size`` bytes that begins at ``start`` in ``buffer``, and of which all up to ``end`` has come."""
    header = HEADER.unpack(buffer.view, start)
    if header.command != WRITE or header.protocol_id != PROTOCOL_ID or header.next_command or header.flags & _UNUSUAL:
        return None
    channel = line.connection.channels.get(header.session_id)
    if channel is None or channel.guarded:
        return None
    body = WRITE_REQUEST.unpack(buffer.view, start + HEADER_SIZE)
    worker = line.worker
    opened = worker.opens.get(body.file_id_volatile)
    if body.structure_size != STRUCTURE_SIZE or opened is None or opened.handle is None or opened.handle.landing() is None:
        return None
    here, stop = end - start, body.data_offset + body.length
    # The gate: the payload lies in this frame, behind the fixed part, and begins in what has come.
    if not DATA_MINIMUM <= body.data_offset <= here or stop > size or stop <= here or body.length < worker.lands_from:
        return None
    try:
        pipe = line.pipe()
    except OSError:
        return None  # no descriptor is left
    front = IoVector()
    if body.data_offset < here:
        buffer.hold()
        front.push_back(MemoryEntry(buffer.view[start + body.data_offset : end], buffer))
    return Incoming((line.sock, pipe), front, body.length, size - stop)
