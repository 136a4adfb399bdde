"""OPLOCK_BREAK acknowledgments: [MS-SMB2] 2.2.24, 3.3.5.22.

No oplock or lease is granted yet, so no break is ever under way: every acknowledgment is one that nobody asked for.
"""

from __future__ import annotations

from typing import NamedTuple

from pools.layout import U16, Layout
from smbd.smb2 import status
from smbd.smb2.constants import OPLOCK_LEVEL_LEASE
from smbd.smb2.header import HEADER_SIZE
from smbd.smb2.messages.control import (
    LEASE_BREAK,
    LEASE_BREAK_STRUCTURE_SIZE,
    OPLOCK_BREAK,
    OPLOCK_BREAK_STRUCTURE_SIZE,
)
from smbd.smb2.status import SmbError
from workers.request import Request


class Acknowledgment(NamedTuple):
    """What both forms begin with."""

    structure_size: U16


ACKNOWLEDGMENT = Layout(Acknowledgment)


def oplock_break(request: Request, body: Acknowledgment) -> bytes:
    """3.3.5.22.1 and .2: tell the two forms apart by StructureSize and refuse."""
    if body.structure_size == LEASE_BREAK_STRUCTURE_SIZE:
        LEASE_BREAK.unpack(request.view, HEADER_SIZE)
        dialect = request.worker.connection.dialect
        if dialect is None or not dialect.leasing:
            raise SmbError(status.INVALID_PARAMETER)
        raise SmbError(status.OBJECT_NAME_NOT_FOUND)  # no lease has this key
    if body.structure_size != OPLOCK_BREAK_STRUCTURE_SIZE:
        raise SmbError(status.INVALID_PARAMETER)
    acknowledged = OPLOCK_BREAK.unpack(request.view, HEADER_SIZE)
    opened = request.worker.opens.get(acknowledged.file_id_volatile)
    if opened is None or opened.persistent != acknowledged.file_id_persistent or opened.tree is not request.tree:
        raise SmbError(status.FILE_CLOSED)
    if acknowledged.oplock_level == OPLOCK_LEVEL_LEASE:
        raise SmbError(status.INVALID_PARAMETER)
    raise SmbError(status.INVALID_DEVICE_STATE)
