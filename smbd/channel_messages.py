"""Worker to worker: a connection that is to become a channel of a session elsewhere, or to join its client's other connections.

Owns: kinds 0x0540 to 0x054F. Invariants: the descriptor travels only after CHANNEL_ASK was answered with SUCCESS; CHANNEL_MOVE is a
notice, and whoever has sent it has nothing more to do with the connection. Nothing here is believed: a worker that was taken over may say
anything.

    worker of the connection                        worker of the session
      CHANNEL_ASK(what kind of connection, proof) -->
      <-- CHANNEL_ANSWER(status; the signature of the refusal, if the request was genuine)
      CHANNEL_MOVE(connection, bytes not yet read, descriptor) -->   answers the client from now on
"""

from __future__ import annotations

from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple

from pools.layout import U8, U16, U32, U64, Layout, Raw16, Readable, WireError
from pools.queue import AUTHENTICATION, MAX_PAYLOAD, Kind

_WORKERS = frozenset({"worker"})
MAX_PROOF = 40 << 10

CHANNEL_ASK = Kind(0x0540, "channel_ask", AUTHENTICATION, 0, MAX_PROOF + 256, _WORKERS)
CHANNEL_ANSWER = Kind(0x0541, "channel_answer", AUTHENTICATION, 0, 64, _WORKERS)
CHANNEL_MOVE = Kind(0x0542, "channel_move", AUTHENTICATION, 1, MAX_PAYLOAD, _WORKERS)

KINDS: tuple[Kind, ...] = (CHANNEL_ASK, CHANNEL_ANSWER, CHANNEL_MOVE)


class Purpose(IntEnum):
    """Why a connection's worker asks. What follows the fixed part of CHANNEL_ASK shows that it may."""

    BIND = 1  # a signed SESSION_SETUP for a session that is not its own: the whole PDU
    JOIN = 2  # somebody has logged on who has a session there: the proof of his key (``authd.messages.proof_of``), which authd knows


class Ask(NamedTuple):
    """Fixed part of CHANNEL_ASK. ``refusal``: the status with which the asker will refuse the PDU in any case, or 0.

    ``credits``: what the refusal grants, for it is signed with the rest, and only the session's key signs it rightly.
    """

    session_id: U64
    purpose: U8
    refusal: U32
    credits: U16
    dialect: U16
    signing_id: U16
    cipher_id: U16
    client_guid: Raw16


class Answer(NamedTuple):
    """Payload of CHANNEL_ANSWER. ``signature`` is there when ``signed`` is 1."""

    status: U32
    signed: U8
    signature: Raw16


class Move(NamedTuple):
    """Fixed part of CHANNEL_MOVE. The connection (``smb2.passage``), the client's address, bytes that were read and not executed follow.

    ``twin``: of a connection that joins, the session there whose user its own session has; that session, a ``Joining``, comes last.
    """

    twin: U64
    connection: U16
    address: U8
    unread: U16


class Joining(NamedTuple):
    """The session that was set up on a connection which joins; its pre-authentication hash and its key follow."""

    session_id: U64
    started: U64
    nonce_counter: U64
    nonce_prefix: U32
    encrypt: U8
    signing_required: U8
    encryption_required: U8
    preauth: U8
    key: U8


ASK = Layout(Ask)
ANSWER = Layout(Answer)
MOVE = Layout(Move)
JOINING = Layout(Joining)


class Moved(NamedTuple):
    """CHANNEL_MOVE, taken apart."""

    twin: int
    connection: bytes
    address: str
    unread: bytes
    joining: Joining | None
    preauth: bytes
    key: bytes


def pack_move(moved: Moved) -> bytes:
    """The payload of CHANNEL_MOVE."""
    address = moved.address.encode("ascii", "replace")[:255]
    head = MOVE.pack(moved.twin, len(moved.connection), len(address), len(moved.unread))
    payload = head + moved.connection + address + moved.unread
    if moved.joining is not None:
        payload += JOINING.pack(*moved.joining) + moved.preauth + moved.key
    return payload


def unpack_move(payload: Readable) -> Moved:
    """The inverse of ``pack_move``; ``WireError`` for what it would not have packed."""
    head = MOVE.unpack(payload)
    ends = [MOVE.size]
    for length in (head.connection, head.address, head.unread):
        ends.append(ends[-1] + length)
    if len(payload) < ends[-1]:
        raise WireError(f"a connection of {ends[-1]} bytes in {len(payload)}")
    connection, address, unread = (bytes(payload[start:end]) for start, end in pairwise(ends))
    if not head.twin:
        return Moved(0, connection, address.decode("ascii", "replace"), unread, None, b"", b"")
    joining = JOINING.unpack(payload, ends[-1])
    start = ends[-1] + JOINING.size
    middle, end = start + joining.preauth, start + joining.preauth + joining.key
    if len(payload) != end:
        raise WireError(f"a session of {end} bytes in {len(payload)}")
    return Moved(
        head.twin, connection, address.decode("ascii", "replace"), unread, joining, bytes(payload[start:middle]), bytes(payload[middle:end])
    )
