"""A connection goes to another worker of its client, and one comes in ([MS-SMB2] 3.3.5.5: sessions are looked up in GlobalSessionTable).

Owns: what travels, and when nothing hinders it. Invariants: a connection travels with all that it has, or not at all; who has sent one away
says nothing more on it; what comes in was welcome (``expect``), from that very process and with the very key that was proven, and is
closed when that is not so any more. Whatever else a process says of its connection concerns that connection alone, or is checked here.
"""

from __future__ import annotations

import secrets
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from authd.messages import proof_of
from pools.layout import WireError
from pools.pool import PoolExhausted
from pools.port import sockets
from pools.queue import MAX_PAYLOAD, AskBusy, Message
from smbd.channel_messages import CHANNEL_MOVE, Joining, Moved, pack_move, unpack_move
from smbd.smb2 import passage, status
from smbd.smb2.crypto import NONCES, SessionKeys
from smbd.smb2.status import SmbError
from workers.ending import end_session
from workers.session import Session, State, terms_of

if TYPE_CHECKING:
    import socket

    from smbd.smb2.connection import Connection
    from workers.line import Line
    from workers.request import Request
    from workers.worker import Worker

MAX_UNREAD = 48 << 10
WELCOME = 30.0  # seconds for which somebody is
Process = tuple[int, int]
"""Slot and generation."""


class Welcome(NamedTuple):
    """What may come from a process until ``until``: a connection whose first request says what it is for, or one that joins ``twin``."""

    twin: int = 0
    proof: bytes = b""
    until: float = 0.0

    def is_for(self, moved: Moved) -> bool:
        """Whether it is this connection that was asked for."""
        if moved.twin != self.twin or monotonic() > self.until:
            return False
        return moved.joining is None or proof_of(moved.key) == self.proof


def is_idle(line: Line, requests: int) -> bool:
    """Whether nothing is under way on it but so many requests, and all that was said on it has left."""
    if line.ended or line.closed or line.logons or line.incoming is not None or line.receiver.in_progress:
        return False
    return len(line.engine.waiting) == requests and not line.sender.backlog and passage.may_travel(line.connection)


def may_leave(line: Line, request: Request) -> bool:
    """Whether the line can be given away with ``request`` as all that is to be done on it: it has no sessions."""
    return not line.connection.channels and request.chain is None and len(request.view) <= MAX_UNREAD and is_idle(line, 1)


def send_away(line: Line, to: Process, request: Request) -> None:
    """Give a line that ``may_leave`` to another worker, which executes ``request``. Where the queue is full: INSUFFICIENT_RESOURCES."""
    header, credits = request.header, line.connection.credits
    charge = (header.credit_charge or 1) if line.connection.multi_credit else 1
    low, high = credits.low, credits.high
    credits.give_back(header.message_id, charge, request.granted)
    frame = len(request.view).to_bytes(4, "big") + bytes(request.view)
    try:
        _send(line, to, Moved(0, passage.pack(line.connection), line.client_address, frame, None, b"", b""))
    except AskBusy:
        credits.low, credits.high = low, high
        raise SmbError(status.INSUFFICIENT_RESOURCES) from None


def send_joining(line: Line, to: Process, session: Session, twin: int) -> None:
    """Give a line with the one session that has just been set up on it to the worker of ``twin``."""
    channel = session.first
    assert channel is not None
    keys = channel.keys
    assert keys is not None
    prefix, counter = channel.cipher.next_nonce if channel.cipher is not None else (bytes(4), 0)
    joining = Joining(
        session.session_id, session.started, counter, int.from_bytes(prefix, "big"), int(session.encrypt),
        int(channel.signing_required), int(channel.encryption_required), len(keys.preauth_hash), len(keys.session_key),
    )  # fmt: skip
    moved = Moved(twin, passage.pack(line.connection), line.client_address, b"", joining, keys.preauth_hash, keys.session_key)
    end_session(line.worker, session)  # its record goes before the other worker enters it under the same number
    try:
        _send(line, to, moved)
    except AskBusy:
        line.end("the message queue is full")


def _send(line: Line, to: Process, moved: Moved) -> None:
    worker, (slot, generation) = line.worker, to
    payload = pack_move(moved)
    assert len(payload) <= MAX_PAYLOAD
    worker.mailbox.send(slot, CHANNEL_MOVE.number, payload, descriptors=(line.sock.fileno(),), generation=generation)
    line.leave(f"goes on in process {slot}.{generation}")


# coming in


def expect(worker: Worker, message: Message, welcome: Welcome) -> None:
    """The sender of ``message`` may send one connection."""
    now = monotonic()
    worker.welcomes = {peer: one for peer, one in worker.welcomes.items() if one.until > now}
    worker.welcomes[message.sender, message.generation] = welcome._replace(until=now + WELCOME)


def arrived(worker: Worker, message: Message) -> None:
    """CHANNEL_MOVE."""
    welcome = worker.welcomes.pop((message.sender, message.generation), None)
    if len(message.descriptors) != 1:
        message.close_descriptors()
        raise WireError(f"a connection with {len(message.descriptors)} descriptors")
    try:
        sock = sockets.adopt(message.descriptors[0])
    except OSError:
        message.close_descriptors()
        raise WireError("a connection that is no socket") from None
    try:
        moved = unpack_move(message.payload)
        if welcome is None or not welcome.is_for(moved):
            raise WireError("a connection that was not asked for")
        if worker.ended or worker.closed or not worker.lines or any(line.draining for line in worker.lines):
            sock.close()  # it was welcome when it was asked for; the client comes again
            return
        connection, _ = passage.unpack(moved.connection, worker.lines[0].connection.settings, secrets.token_bytes)
        address = _address_of(sock, worker.lines[0].sock, moved.address)
    except WireError:
        sock.close()
        raise
    except OSError:
        sock.close()  # the client has gone meanwhile
        return
    sock.setblocking(False)
    line = worker.attach(sock, address, connection)
    try:
        if moved.joining is not None:
            _come_in(line, moved, moved.joining)
        line.begin(moved.unread)
    except (SmbError, PoolExhausted) as error:
        line.end(f"cannot be taken over: {error}")


def _address_of(sock: socket.socket, like: socket.socket, told: str) -> str:
    """The client's, as the kernel knows it; ``told`` where there are no addresses. OSError when nobody is at the other end."""
    if sock.type != like.type:
        raise WireError("a connection of another kind")
    peer = sock.getpeername()
    return str(peer[0]) if isinstance(peer, tuple) else told


def _come_in(line: Line, moved: Moved, told: Joining) -> None:
    """The session that comes with its connection. It is its twin's user who has it: nobody else's word is taken for that."""
    worker, connection = line.worker, line.connection
    twin = worker.sessions.get(moved.twin)
    if twin is None or twin.state is not State.VALID or twin.proven is None or told.session_id in worker.sessions:
        raise SmbError(status.USER_SESSION_DELETED)
    if not told.session_id or worker.sharing.session(told.session_id) is not None or told.nonce_counter > NONCES // 2:
        raise SmbError(status.INVALID_PARAMETER)  # somebody else's name, or a cipher that is used up
    session = Session(told.session_id, told.started)
    session.token, session.proven = twin.token, twin.proven
    session.encrypt = bool(told.encrypt)
    session.terms = terms_of(connection)
    nonce = told.nonce_prefix.to_bytes(4, "big"), told.nonce_counter
    channel = connection.resume_channel(session.session_id, _keys(connection, moved), nonce)
    channel.require(signing=bool(told.signing_required), encryption=bool(told.encryption_required))
    session.channels[line] = session.first = channel
    worker.sessions[session.session_id] = session
    worker.session_established(session, line)
    session.state = State.VALID


def _keys(connection: Connection, moved: Moved) -> SessionKeys:
    assert connection.dialect is not None
    assert connection.choice is not None
    return SessionKeys(connection.dialect, moved.key, moved.preauth, connection.choice.cipher_id)
