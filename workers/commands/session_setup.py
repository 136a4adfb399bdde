"""SESSION_SETUP: [MS-SMB2] 2.2.5, 3.3.5.5. The proof itself is the authenticator's; here its outcome becomes a session with keys."""

from __future__ import annotations

from functools import partial
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
from smbd.smb2.header import HEADER_SIZE
from smbd.smb2.messages.session import (
    SESSION_SETUP_REQUEST,
    SESSION_SETUP_RESPONSE,
    SESSION_SETUP_RESPONSE_STRUCTURE_SIZE,
    SessionSetupRequest,
)
from smbd.smb2.status import SmbError
from workers.binding import begin, bind, checked, refused, seek
from workers.ending import end_session
from workers.joining import join
from workers.request import Answer, Request
from workers.session import Logon, Session, State, terms_of

if TYPE_CHECKING:
    from authd.client import Step
    from smbd.smb2.dtyp import Token

TOKEN_MINIMUM = HEADER_SIZE + SESSION_SETUP_REQUEST.size
TOKEN_AT = HEADER_SIZE + SESSION_SETUP_RESPONSE.size
PATIENCE = 5.0  # seconds for another worker to end a previous session


async def session_setup(request: Request, body: SessionSetupRequest) -> Answer:
    """One step of a logon, of a reauthentication or of a binding."""
    worker, line = request.worker, request.line
    token = bytes(request.variable(body.security_buffer_offset, body.security_buffer_length, TOKEN_MINIMUM))
    if len(token) > MAX_TOKEN:
        raise SmbError(status.INVALID_PARAMETER)
    logon = await _logon(request, body)
    if isinstance(logon, Answer):
        return logon
    session = logon.session
    if logon.busy:
        raise SmbError(status.INVALID_PARAMETER)  # two steps of one logon at a time
    _absorb(request, logon)
    request.answer_session = session.session_id
    logon.busy = True
    try:
        step = await authd.authenticate(worker.mailbox.ask, logon.conversation, token, line.client_address)
    except AskError as error:
        worker.log.warning("the authenticator does not answer: %s", error)
        authd.forget(worker.mailbox.send, logon.conversation)
        _fail(request, logon)
        raise SmbError(status.INSUFFICIENT_RESOURCES) from None
    finally:
        logon.busy = False
    if worker.sessions.get(session.session_id) is not session or line.logons.get(session.session_id) is not logon:
        line.logons.pop(session.session_id, None)
        raise SmbError(status.USER_SESSION_DELETED)  # logged off, or ended by another worker, while the authenticator was at work
    if step.status == status.MORE_PROCESSING_REQUIRED:
        answer = Answer(_response(0, step.token), step.status)
        answer.preauth = logon.preauth
        answer.channel = session.first if logon.binding else None  # 3.2.5.1.3: checked with Session.SigningKey
        return answer
    if step.status != status.SUCCESS or step.identity is None:
        worker.log.info("logon from %s refused: %s", line.client_address, status.name(step.status))
        _fail(request, logon)
        return refused(step.status, session.first if logon.binding else None)
    return await _succeed(request, body, logon, step)


async def _logon(request: Request, body: SessionSetupRequest) -> Logon | Answer:
    """The exchange this step belongs to: one under way, a new one, or what there is to say about the session it asks for."""
    line, session_id = request.line, request.header.session_id
    binding = bool(body.flags & SESSION_FLAG_BINDING)
    logon = line.logons.get(session_id)
    if logon is not None:
        return logon if not logon.binding else (checked(request, logon, binding=binding) or logon)
    if not session_id:
        if binding:
            raise SmbError(status.INVALID_PARAMETER)
        session = request.worker.new_session()
    else:
        found = request.worker.sessions.get(session_id)
        if found is None or line not in found.channels:
            return await seek(request, binding=binding)
        if binding:
            raise SmbError(status.REQUEST_NOT_ACCEPTED)  # 3.3.5.5: it is bound here
        session = found
    return begin(line, session)


def _absorb(request: Request, logon: Logon) -> None:
    """3.3.5.5: the exchange's pre-authentication hash starts from the connection's and takes every message in."""
    connection = request.line.connection
    if connection.dialect is None or not connection.dialect.preauth or logon.again:
        return
    if logon.preauth is None:
        logon.preauth = connection.preauth.copy()
    logon.preauth.update(request.view)


def _fail(request: Request, logon: Logon) -> None:
    """A failed logon leaves nothing behind, a failed binding its session alone; a failed reauthentication ends it, as on Windows."""
    worker, session = request.worker, logon.session
    request.line.logons.pop(session.session_id, None)
    if session.state is State.IN_PROGRESS:
        worker.sessions.pop(session.session_id, None)
    elif not logon.binding:
        for line in session.channels:
            line.shunned.add(session.session_id)
        worker.cancel_session(session.session_id)
        end_session(worker, session)


async def _succeed(request: Request, body: SessionSetupRequest, logon: Logon, step: Step) -> Answer:
    """3.3.5.5.3: identity and keys. A reauthentication leaves the keys alone, a binding the identity."""
    line, session = request.line, logon.session
    identity = step.identity
    assert identity is not None
    line.logons.pop(session.session_id, None)
    if logon.binding:
        code = bind(line, logon, step)
        if code != status.SUCCESS:
            return refused(code, session.first)
    elif logon.again:
        _change(request, session, identity)
    else:
        session.token = identity
        session.is_guest = identity.guest
        session.is_anonymous = identity.anonymous
        _establish(request, body, logon, step.session_key)
        if body.previous_session_id and body.previous_session_id != session.session_id:
            await _end_previous(request, body.previous_session_id, session)
        request.after_reply = partial(join, line, session)
    answer = Answer(_response(_flags(session), step.token))
    answer.channel = session.channels.get(line)
    return answer


def _change(request: Request, session: Session, identity: Token) -> None:
    """A session has authenticated again."""
    worker = request.worker
    if not _may_become(session, identity):
        was = session.require_token().name
        worker.log.warning("%s: a session of %s may not become %s's", request.line.client_address, was, identity.name)
        raise SmbError(status.ACCESS_DENIED)
    session.token = identity
    session.is_guest = identity.guest
    session.is_anonymous = identity.anonymous
    session.state = State.VALID
    worker.identity_changed(session, request.line)


def _may_become(session: Session, identity: Token) -> bool:
    """Whether a reauthentication may end with ``identity``: that of the session's keys, or one that proved nothing and has less.

    The keys stay those of the first logon. Under another's identity they would protect, and give away, what only that one's own keys may:
    whoever relays a victim's logon into a session of his own would need no key of the victim's, whatever signing is required.
    """
    if identity.guest or identity.anonymous:
        return True
    return session.proven == (identity.name, str(identity.user_sid))


def _establish(request: Request, body: SessionSetupRequest, logon: Logon, session_key: bytes) -> None:
    worker, session = request.worker, logon.session
    line, config = request.line, worker.config
    connection = line.connection
    proven = not session.is_guest and not session.is_anonymous
    token = session.require_token()
    session.proven = (token.name, str(token.user_sid)) if proven else None
    # An anonymous client may sign with the key it chose; a guest has proved nothing and shares no key with us.
    channel = connection.new_channel(session.session_id, b"" if session.is_guest else session_key, logon.preauth)
    channel.anonymous = session.is_anonymous
    wants_encryption = config.server_smb_encrypt in ("required", "desired")
    if config.server_smb_encrypt == "required" and channel.cipher is None:
        connection.channels.pop(session.session_id, None)
        _fail(request, logon)
        raise SmbError(status.ACCESS_DENIED)  # 3.3.5.5: unencrypted access is rejected
    session.encrypt = wants_encryption and channel.cipher is not None
    required = body.security_mode & NEGOTIATE_SIGNING_REQUIRED or connection.settings.signing_required
    channel.require(signing=bool(required) and proven, encryption=session.encrypt and config.server_smb_encrypt == "required")
    session.channels[line] = session.first = channel
    session.terms = terms_of(connection)
    try:
        worker.session_established(session, line)
    except SmbError:
        connection.channels.pop(session.session_id, None)
        session.channels.clear()
        _fail(request, logon)
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
