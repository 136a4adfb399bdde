"""Channels: how a session is bound to another connection ([MS-SMB2] 3.3.5.5, 3.3.5.5.2, 3.3.5.5.3).

Owns: the rules, for sessions of this worker and, through the hub, for those of others. Invariants: a refusal is signed only if the
request was, and rightly; a connection comes into a session's worker only after that worker has seen the signature, or has heard from
authd that the session's user has just logged on there, so that whoever is not that user never shares a process with him. Another worker's
word counts for nothing: its client may have taken it over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from authd import client as authd
from pools.queue import AskError, AskGone, Message
from smbd.channel_messages import ANSWER, ASK, CHANNEL_ASK, MAX_PROOF, Purpose
from smbd.channel_messages import Answer as Told
from smbd.smb2 import status
from smbd.smb2.constants import FLAGS_SIGNED, SIGNING_AES_GMAC
from smbd.smb2.credits import Disconnect
from smbd.smb2.crypto import Channel
from smbd.smb2.dialects import DIALECTS
from smbd.smb2.header import ERROR_BODY, HEADER, NO_SIGNATURE, SIGNATURE_END, SIGNATURE_OFFSET, TRANSPORT_SIZE
from smbd.smb2.reply import Reply, pack_replies, reply_size
from smbd.smb2.status import SmbError
from workers.handover import Welcome, expect, may_leave, send_away
from workers.request import Answer, Request
from workers.session import Logon, Session, State, Terms, terms_of

if TYPE_CHECKING:
    from authd.client import Step
    from smbd.sharing import SessionRecord
    from workers.line import Line
    from workers.worker import Worker

MAX_CHANNELS = 32  # of a session: what Windows allows
MAX_LINES = 64  # of a worker: its client's sessions share them
MAX_FORGERIES = 8  # bindings with a wrong signature that one connection may try: each costs another process a look
PATIENCE = 5.0  # seconds for another worker to answer
PROOF_SIZE = 16


def begin(line: Line, session: Session, *, binding: bool = False) -> Logon:
    """An exchange begins on ``line``."""
    worker = line.worker
    try:
        worker.check_logons()
    except SmbError:
        if session.state is State.IN_PROGRESS:
            worker.sessions.pop(session.session_id, None)
        raise
    logon = line.logons[session.session_id] = Logon(session, worker.next_conversation(), binding=binding)
    return logon


def refused(code: int, signer: Channel | None) -> Answer:
    """An error response, signed by ``signer`` if the request had its signature."""
    answer = Answer(ERROR_BODY, code)
    answer.channel = signer
    return answer


# the rules


def refusal(session: Terms, connection: Terms, *, enabled: bool, signed: bool) -> int:
    """Why a session set up under ``session`` is not bound to a connection with the terms ``connection``; SUCCESS if it may be.

    The client's GUID may differ: 3.3.5.5 leaves that to the server, and Windows allows it. GMAC on one side only has statuses of its own
    there.
    """
    if session.signing_id != connection.signing_id:
        if session.signing_id == SIGNING_AES_GMAC:
            return status.REQUEST_OUT_OF_SEQUENCE
        if connection.signing_id == SIGNING_AES_GMAC:
            return status.NOT_SUPPORTED
    if not enabled or not DIALECTS[connection.dialect].smb3:
        return status.REQUEST_NOT_ACCEPTED
    if not signed or session.dialect != connection.dialect or session.cipher_id != connection.cipher_id:
        return status.INVALID_PARAMETER
    return status.SUCCESS


def judge(worker: Worker, session: Session, terms: Terms, view: memoryview, *, binding: bool) -> tuple[int, Channel | None]:
    """What becomes of ``view``, a SESSION_SETUP on a connection with ``terms`` and without a channel: the status, and who signs it."""
    first = session.first
    if first is None:
        return (status.REQUEST_NOT_ACCEPTED if binding else status.USER_SESSION_DELETED), None
    signed = bool(HEADER.unpack(view).flags & FLAGS_SIGNED)
    if signed and first.verifier is not None and not first.verify(view):
        return status.ACCESS_DENIED, None
    signer = first if signed and first.verifier is not None else None
    if not binding:
        return status.USER_SESSION_DELETED, signer
    code = refusal(session.terms, terms, enabled=worker.config.server_multi_channel_support, signed=signed)
    if code == status.SUCCESS:
        code = _refusal_of(session)
    return code, signer


def _refusal_of(session: Session) -> int:
    if session.state is State.EXPIRED:
        return status.NETWORK_SESSION_EXPIRED
    if session.is_guest or session.is_anonymous:
        return status.NOT_SUPPORTED
    if len(session.channels) >= MAX_CHANNELS:
        return status.INSUFFICIENT_RESOURCES
    return status.SUCCESS


# on the connection's side


async def seek(request: Request, *, binding: bool) -> Logon | Answer:
    """A SESSION_SETUP for a session without a channel here. It begins a binding, or is refused; or the session's worker takes over."""
    worker, line = request.worker, request.line
    session = worker.sessions.get(request.header.session_id)
    if session is not None:
        code, signer = judge(worker, session, terms_of(line.connection), request.view, binding=binding)
        if code != status.SUCCESS:
            return _denied(line, code, signer)
        return begin(line, session, binding=True)
    record = worker.sharing.session(request.header.session_id)
    if record is None or record.slot == worker.slot:
        raise SmbError(status.USER_SESSION_DELETED)
    if request.header.flags & FLAGS_SIGNED:
        return await _ask(request, record, binding=binding)
    if not binding:
        raise SmbError(status.USER_SESSION_DELETED)
    theirs = Terms(record.dialect, record.signing, record.cipher, record.client_guid)
    enabled = worker.config.server_multi_channel_support
    raise SmbError(refusal(theirs, terms_of(line.connection), enabled=enabled, signed=False))


def checked(request: Request, logon: Logon, *, binding: bool) -> Answer | None:
    """A further step of a binding has to be signed as the first was; None if it is."""
    code, signer = judge(request.worker, logon.session, terms_of(request.line.connection), request.view, binding=binding)
    return None if code == status.SUCCESS else _denied(request.line, code, signer)


def _denied(line: Line, code: int, signer: Channel | None) -> Answer:
    if code == status.ACCESS_DENIED and signer is None:
        line.forgeries += 1
        if line.forgeries > MAX_FORGERIES:
            raise Disconnect("bindings with wrong signatures")
    return refused(code, signer)


async def _ask(request: Request, record: SessionRecord, *, binding: bool) -> Answer:
    """What the session's worker says. If it is welcome there, the connection goes to it, with this request still to be executed."""
    worker, line, header = request.worker, request.line, request.header
    if len(request.view) > MAX_PROOF:
        raise SmbError(status.INVALID_PARAMETER)
    own = 0 if binding else status.USER_SESSION_DELETED
    if binding and not may_leave(line, request):
        own = status.REQUEST_NOT_ACCEPTED  # what it has cannot be taken along
    request.granted = line.grant(header.credit, header.credit_charge)
    fixed = ASK.pack(header.session_id, Purpose.BIND, own, request.granted, *terms_of(line.connection))
    line.halt()
    try:
        answer = await worker.mailbox.ask(record.slot, CHANNEL_ASK.number, fixed + bytes(request.view), PATIENCE)
        told = ANSWER.unpack(answer.payload)
        if told.status == status.SUCCESS:
            await worker.loop.sleep(0.0)  # no reading is in the middle of using it then
            if may_leave(line, request):
                send_away(line, (record.slot, record.generation), request)
                return Answer(ERROR_BODY, status.CANCELLED)  # which is not sent: the other worker has the word
            raise SmbError(status.REQUEST_NOT_ACCEPTED)
    except AskGone:
        raise SmbError(status.USER_SESSION_DELETED) from None  # it ended with its process
    except AskError:
        raise SmbError(status.INSUFFICIENT_RESOURCES) from None
    finally:
        line.go_on()
    if not told.signed:
        return _denied(line, told.status, None)
    return _denied(line, told.status, Channel(header.session_id, lambda _: told.signature))


def bind(line: Line, logon: Logon, step: Step) -> int:
    """3.3.5.5.3: the exchange has come to its end: the session has a channel on ``line``, or the status says why not."""
    session, identity = logon.session, step.identity
    assert identity is not None
    assert session.first is not None
    if identity.guest or identity.anonymous or session.proven is None or str(identity.user_sid) != session.proven[1]:
        line.log.warning("%s: a session of %s is not bound for %s", line.client_address, session.require_token().name, identity.name)
        return status.ACCESS_DENIED
    code = _refusal_of(session)
    if code == status.SUCCESS:
        session.channels[line] = line.connection.bind_channel(session.first, step.session_key, logon.preauth)
        line.worker.welcome(session, line)
    return code


def stray_signer(request: Request, code: int) -> Channel | None:
    """Who signs USER_SESSION_DELETED to a request of a session that had a channel on its line, or has one on another line of the client's.

    A client that signs can believe it then.
    """
    header = request.header
    if code != status.USER_SESSION_DELETED or not header.flags & FLAGS_SIGNED:
        return None
    session = request.worker.sessions.get(header.session_id)
    signer = request.line.departed.get(header.session_id) if session is None else session.first
    return signer if signer is not None and signer.verify(request.view) else None


# on the session's side


def asked(worker: Worker, message: Message) -> None:
    """CHANNEL_ASK."""
    ask = ASK.unpack(message.payload)
    proof = memoryview(bytearray(message.payload[ASK.size :]))
    terms = Terms(ask.dialect, ask.signing_id, ask.cipher_id, ask.client_guid)
    if ask.dialect not in DIALECTS:
        told = Told(status.INVALID_PARAMETER, 0, NO_SIGNATURE)
    elif ask.purpose == Purpose.JOIN:
        worker.loop.spawn(_confirm(worker, message, (ask.session_id, terms), bytes(proof)), _confirmed)
        return
    else:
        told = _verdict(worker, worker.sessions.get(ask.session_id), terms, proof, (ask.refusal, ask.credits))
        if told.status == status.SUCCESS:
            expect(worker, message, Welcome())
    worker.mailbox.answer(message, ANSWER.pack(*told))


async def _confirm(worker: Worker, message: Message, wanted: tuple[int, Terms], proof: bytes) -> None:
    """Somebody may join if it is this session's user: authd says who it is, through whose process it has logged him on itself."""
    code = status.REQUEST_NOT_ACCEPTED
    peer = message.sender, message.generation
    if _may_join(worker, *wanted) and len(proof) == PROOF_SIZE and peer not in worker.confirming:
        worker.confirming.add(peer)
        try:
            who = await authd.confirm(worker.mailbox.ask, peer, proof, PATIENCE)
        except AskError:
            who = None
        finally:
            worker.confirming.discard(peer)
        session = worker.sessions.get(wanted[0])
        if who is not None and session is not None and session.token == who and _may_join(worker, *wanted):
            expect(worker, message, Welcome(session.session_id, proof))
            code = status.SUCCESS
    worker.mailbox.answer(message, ANSWER.pack(code, 0, NO_SIGNATURE))


def _confirmed(_: Any, error: BaseException | None) -> None:
    if error is not None:
        raise error


def has_room(worker: Worker) -> bool:
    """Whether one more connection may come."""
    return bool(worker.lines) and len(worker.lines) < MAX_LINES and not any(line.halted or line.draining for line in worker.lines)


def _may_join(worker: Worker, session_id: int, terms: Terms) -> bool:
    session = worker.sessions.get(session_id)
    if session is None or session.state is not State.VALID or session.proven is None or not has_room(worker):
        return False
    return (session.terms.dialect, session.terms.client_guid) == (terms.dialect, terms.client_guid)


def _verdict(worker: Worker, session: Session | None, terms: Terms, view: memoryview, own: tuple[int, int]) -> Told:
    """``own``: the refusal that the asker has decided on, and the credits that go with a refusal."""
    if session is None:
        return Told(status.USER_SESSION_DELETED, 0, NO_SIGNATURE)
    decided, credits = own
    code, signer = judge(worker, session, terms, view, binding=True)
    if decided and signer is not None:
        code = decided
    if code == status.SUCCESS and not has_room(worker):
        code = status.INSUFFICIENT_RESOURCES
    if code == status.SUCCESS or signer is None:
        return Told(code, 0, NO_SIGNATURE)
    return Told(code, 1, _signature(view, code, credits, signer))


def _signature(view: memoryview, code: int, credits: int, signer: Channel) -> bytes:
    """That of the response with which the connection's worker refuses ``view``: the same bytes are packed there."""
    reply = Reply.refuse(HEADER.unpack(view), SmbError(code), credits, signer)
    out = memoryview(bytearray(TRANSPORT_SIZE + reply_size([reply.body])))
    pack_replies(out, TRANSPORT_SIZE, [reply])
    return bytes(out[TRANSPORT_SIZE + SIGNATURE_OFFSET : TRANSPORT_SIZE + SIGNATURE_END])
