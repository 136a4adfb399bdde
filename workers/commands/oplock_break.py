"""OPLOCK_BREAK acknowledgments: [MS-SMB2] 2.2.24, 3.3.5.22."""

from __future__ import annotations

from typing import NamedTuple

from pools.layout import U16, Layout
from smbd.sharing.caching import STATE_OF_LEVEL
from smbd.smb2 import status
from smbd.smb2.constants import OPLOCK_LEVEL_II, OPLOCK_LEVEL_LEASE, OPLOCK_LEVEL_NONE
from smbd.smb2.header import HEADER_SIZE
from smbd.smb2.messages.control import (
    LEASE_BREAK,
    LEASE_BREAK_STRUCTURE_SIZE,
    OPLOCK_BREAK,
    OPLOCK_BREAK_STRUCTURE_SIZE,
)
from smbd.smb2.status import SmbError
from workers.request import Request

ALL_CACHING = 0x7


class Acknowledgment(NamedTuple):
    """What both forms begin with."""

    structure_size: U16


ACKNOWLEDGMENT = Layout(Acknowledgment)


def oplock_break(request: Request, body: Acknowledgment) -> bytes:
    """3.3.5.22: the two forms are told apart by StructureSize."""
    if body.structure_size == LEASE_BREAK_STRUCTURE_SIZE:
        return acknowledge_lease(request)
    if body.structure_size == OPLOCK_BREAK_STRUCTURE_SIZE:
        return acknowledge_oplock(request)
    raise SmbError(status.INVALID_PARAMETER)


def acknowledge_oplock(request: Request) -> bytes:
    """3.3.5.22.1. A level the break did not allow costs the oplock."""
    worker = request.worker
    asked = OPLOCK_BREAK.unpack(request.view, HEADER_SIZE)
    opened = worker.opens.get(asked.file_id_volatile)
    if opened is None or opened.persistent != asked.file_id_persistent or opened.tree is not request.tree or opened.key is None:
        raise SmbError(status.FILE_CLOSED)
    worker.creates.heard(opened)
    if asked.oplock_level == OPLOCK_LEVEL_LEASE:
        raise SmbError(status.INVALID_PARAMETER)
    state = STATE_OF_LEVEL.get(asked.oplock_level, ALL_CACHING)
    done = worker.sharing.acknowledge_oplock(opened.key, opened.persistent, state, worker.breaks.deadline())
    worker.breaks.acknowledged(done)
    if not done.accepted:
        raise SmbError(status.INVALID_OPLOCK_PROTOCOL)
    level = OPLOCK_LEVEL_II if done.state else OPLOCK_LEVEL_NONE
    return OPLOCK_BREAK.pack(OPLOCK_BREAK_STRUCTURE_SIZE, level, 0, 0, opened.persistent, opened.volatile)


def acknowledge_lease(request: Request) -> bytes:
    """3.3.5.22.2. A lease is its client's: any session of it may answer."""
    worker, connection = request.worker, request.line.connection
    asked = LEASE_BREAK.unpack(request.view, HEADER_SIZE)
    if connection.dialect is None or not connection.dialect.leasing:
        raise SmbError(status.INVALID_PARAMETER)
    client_guid = request.session.terms.client_guid
    done = worker.sharing.acknowledge_lease(client_guid, asked.lease_key, asked.lease_state, worker.breaks.deadline())
    worker.breaks.acknowledged(done)
    return LEASE_BREAK.pack(LEASE_BREAK_STRUCTURE_SIZE, 0, 0, asked.lease_key, done.state, 0)
