"""SESSION_SETUP: [MS-SMB2] 2.2.5, 3.3.5.5. The proof itself is the authenticator's; here its outcome becomes a session with keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authd import client as authd
from authd.messages import MAX_TOKEN
from pools.queue import AskError
from smbd.sharing.messages import CLOSE_SESSION, CLOSE_SESSION_LAYOUT, PREVIOUS_SESSION
from smbd.smb2 import status
from smbd.smb2.constants import (
    NEGOTIATE_SIGNING_REQUIRED,
    SESSION_FLAG_BINDING,
    SESSION_FLAG_ENCRYPT_DATA,
    SESSION_FLAG_IS_GUEST,
    SESSION_FLAG_IS_NULL,
)
from smbd.smb2.header import ERROR_BODY, HEADER_SIZE
from smbd.smb2.messages.session import (
    SESSION_SETUP_REQUEST,
    SESSION_SETUP_RESPONSE,
    SESSION_SETUP_RESPONSE_STRUCTURE_SIZE,
    SessionSetupRequest,
)
from smbd.smb2.status import SmbError
from workers.ending import end_session
from workers.request import Answer, Request
from workers.session import Session, State

if TYPE_CHECKING:
    from authd.client import Step
    from smbd.smb2.dtyp import Token

TOKEN_MINIMUM = HEADER_SIZE + SESSION_SETUP_REQUEST.size
TOKEN_AT = HEADER_SIZE + SESSION_SETUP_RESPONSE.size
PATIENCE = 5.0  # seconds for another worker to end a previous session


async def session_setup(request: Request, body: SessionSetupRequest) -> Answer:
    """One step of a logon or of a reauthentication."""
    worker = request.worker
    if body.flags & SESSION_FLAG_BINDING:
        raise SmbError(status.REQUEST_NOT_ACCEPTED)  # 3.3.5.5: multichannel was not negotiated
    token = bytes(request.variable(body.security_buffer_offset, body.security_buffer_length, TOKEN_MINIMUM))
    if len(token) > MAX_TOKEN:
        raise SmbError(status.INVALID_PARAMETER)
    session = _session(request)
    if session.busy:
        raise SmbError(status.INVALID_PARAMETER)  # two steps of one logon at a time
    _absorb(request, session)
    request.answer_session = session.session_id
    session.busy = True
    try:
        step = await authd.authenticate(worker.mailbox.ask, session.conversation, token, request.line.client_address)
    except AskError as error:
        worker.log.warning("the authenticator does not answer: %s", error)
        authd.forget(worker.mailbox.send, session.conversation)
        _fail(request, session)
        raise SmbError(status.INSUFFICIENT_RESOURCES) from None
    finally:
        session.busy = False
    if worker.sessions.get(session.session_id) is not session:
        raise SmbError(status.USER_SESSION_DELETED)  # logged off, or ended by another worker, while the authenticator was at work
    if step.status == status.MORE_PROCESSING_REQUIRED:
        answer = Answer(_response(0, step.token), step.status)
        answer.preauth = session.preauth
        return answer
    if step.status != status.SUCCESS or step.identity is None:
        worker.log.info("logon from %s refused: %s", request.line.client_address, status.name(step.status))
        _fail(request, session)
        return Answer(ERROR_BODY, step.status)
    return await _succeed(request, body, session, step)


def _session(request: Request) -> Session:
    """The session this step belongs to: a new one, one in progress, or one that authenticates again."""
    worker = request.worker
    session_id = request.header.session_id
    if not session_id:
        return worker.new_session()
    session = worker.sessions.get(session_id)
    if session is None:
        raise SmbError(status.USER_SESSION_DELETED)
    if session.state is not State.IN_PROGRESS and not session.reauthenticating:
        session.reauthenticating = True
        session.conversation = worker.next_conversation()
    return session


def _absorb(request: Request, session: Session) -> None:
    """3.3.5.5: the session's pre-authentication hash starts from the connection's and takes every message in."""
    connection = request.line.connection
    if connection.dialect is None or not connection.dialect.preauth or session.state is not State.IN_PROGRESS:
        return
    if session.preauth is None:
        session.preauth = connection.preauth.copy()
    session.preauth.update(request.view)


def _fail(request: Request, session: Session) -> None:
    """A failed logon leaves nothing behind; a failed reauthentication ends the session, as on Windows."""
    worker = request.worker
    session.reauthenticating = False
    if session.state is State.IN_PROGRESS:
        worker.sessions.pop(session.session_id, None)
    else:
        worker.cancel_session(session.session_id)
        end_session(worker, session)


async def _succeed(request: Request, body: SessionSetupRequest, session: Session, step: Step) -> Answer:
    """3.3.5.5.3: identity and keys; 3.3.5.5.2 leaves the keys of a reauthenticated session alone."""
    worker = request.worker
    identity = step.identity
    assert identity is not None
    again = session.state is not State.IN_PROGRESS
    session.reauthenticating = False
    if again and not _may_become(session, identity):
        was = session.require_token().name
        worker.log.warning("%s: a session of %s may not become %s's", request.line.client_address, was, identity.name)
        raise SmbError(status.ACCESS_DENIED)
    session.token = identity
    session.is_guest = identity.guest
    session.is_anonymous = identity.anonymous
    if again:
        session.state = State.VALID
        worker.identity_changed(session, request.line)
    else:
        _establish(request, body, session, step.session_key)
        if body.previous_session_id and body.previous_session_id != session.session_id:
            await _end_previous(request, body.previous_session_id, session)
    answer = Answer(_response(_flags(session), step.token))
    answer.channel = session.channels.get(request.line)
    return answer


def _may_become(session: Session, identity: Token) -> bool:
    """Whether a reauthentication may end with ``identity``: that of the session's keys, or one that proved nothing and has less.

    The keys stay those of the first logon. Under another's identity they would protect, and give away, what only that one's own keys may:
    whoever relays a victim's logon into a session of his own would need no key of the victim's, whatever signing is required.
    """
    if identity.guest or identity.anonymous:
        return True
    return session.proven == (identity.name, str(identity.user_sid))


def _establish(request: Request, body: SessionSetupRequest, session: Session, session_key: bytes) -> None:
    worker = request.worker
    line, config = request.line, worker.config
    connection = line.connection
    proven = not session.is_guest and not session.is_anonymous
    token = session.require_token()
    session.proven = (token.name, str(token.user_sid)) if proven else None
    # An anonymous client may sign with the key it chose; a guest has proved nothing and shares no key with us.
    channel = connection.new_channel(session.session_id, b"" if session.is_guest else session_key, session.preauth)
    channel.anonymous = session.is_anonymous
    wants_encryption = config.server_smb_encrypt in ("required", "desired")
    if config.server_smb_encrypt == "required" and channel.cipher is None:
        connection.channels.pop(session.session_id, None)
        _fail(request, session)
        raise SmbError(status.ACCESS_DENIED)  # 3.3.5.5: unencrypted access is rejected
    session.encrypt = wants_encryption and channel.cipher is not None
    required = body.security_mode & NEGOTIATE_SIGNING_REQUIRED or connection.settings.signing_required
    channel.require(signing=bool(required) and proven, encryption=session.encrypt and config.server_smb_encrypt == "required")
    session.channels[line] = channel
    session.preauth = None
    try:
        worker.session_established(session, line)
    except SmbError:
        connection.channels.pop(session.session_id, None)
        session.channels.clear()
        _fail(request, session)
        raise
    session.state = State.VALID


async def _end_previous(request: Request, previous: int, session: Session) -> None:
    """3.3.5.5.3: the same user's session from before a lost connection ends, wherever it lives."""
    worker = request.worker
    assert session.token is not None
    record = worker.sharing.session(previous)
    if record is None or record.sid != str(session.token.user_sid):
        return
    if record.slot == worker.slot:
        old = worker.sessions.get(previous)
        if old is not None:
            worker.cancel_session(previous)
            end_session(worker, old, lost=True)
        return
    try:
        payload = CLOSE_SESSION_LAYOUT.pack(previous, PREVIOUS_SESSION)
        await worker.mailbox.ask(record.slot, CLOSE_SESSION.number, payload, PATIENCE)
    except AskError:
        return  # it has ended by itself, or will: its records count as absent then


def _flags(session: Session) -> int:
    """2.2.6 SessionFlags."""
    flags = SESSION_FLAG_IS_GUEST if session.is_guest else 0
    if session.is_anonymous:
        flags |= SESSION_FLAG_IS_NULL
    if session.encrypt:
        flags |= SESSION_FLAG_ENCRYPT_DATA
    return flags


def _response(flags: int, token: bytes) -> bytes:
    return SESSION_SETUP_RESPONSE.pack(SESSION_SETUP_RESPONSE_STRUCTURE_SIZE, flags, TOKEN_AT, len(token)) + token
