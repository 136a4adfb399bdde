"""Connections of one client and one user come together in one worker.

A client may bind a connection to any of its sessions, also to two that were set up on different connections ([MS-SMB2] 3.3.5.5); what a
session has open cannot travel. So a connection that could ever take part in that goes to its client's worker while it has nothing but a
session: right after the logon, which has shown whose it is.

Owns: that choice. Invariant: connections go to a worker with an older session only, so that no two go to each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from authd.messages import proof_of
from pools.queue import AskError
from smbd.channel_messages import ANSWER, ASK, CHANNEL_ASK, Purpose
from smbd.smb2 import status
from smbd.smb2.constants import CAP_MULTI_CHANNEL
from workers.handover import is_idle, send_joining
from workers.session import Session, terms_of

if TYPE_CHECKING:
    from smbd.sharing import SessionRecord
    from workers.line import Line

PATIENCE = 2.0  # seconds for the other worker to answer: the client waits


def join(line: Line, session: Session) -> None:
    """A session was set up on ``line``, and its client knows: if there is a worker to go to, go."""
    home = _home(line, session)
    if home is not None:
        line.halt()
        line.loop.spawn(_go(line, session, home), _gone)


def _home(line: Line, session: Session) -> SessionRecord | None:
    """The oldest session of the same client and user that another worker has."""
    worker, choice = line.worker, line.connection.choice
    if choice is None or session.proven is None or len(worker.lines) > 1 or len(worker.sessions) > 1 or session.first is None:
        return None
    if not choice.capabilities & choice.client_capabilities & CAP_MULTI_CHANNEL or session.first.keys is None:
        return None
    for record in worker.sharing.sessions_of(choice.client_guid):
        if (record.started, record.session_id) >= (session.started, session.session_id):
            return None  # this one is the oldest
        if record.slot != worker.slot and record.sid == session.proven[1] and record.dialect == session.terms.dialect:
            return record
    return None


async def _go(line: Line, session: Session, home: SessionRecord) -> None:
    worker = line.worker
    try:
        await worker.loop.sleep(0.0)  # the answer to the logon leaves
        keys = session.first.keys if session.first is not None else None
        if keys is None or not _ready(line, session):
            return
        fixed = ASK.pack(home.session_id, Purpose.JOIN, 0, 0, *terms_of(line.connection))
        answer = await worker.mailbox.ask(home.slot, CHANNEL_ASK.number, fixed + proof_of(keys.session_key), PATIENCE)
        if ANSWER.unpack(answer.payload).status == status.SUCCESS and _ready(line, session):
            send_joining(line, (home.slot, home.generation), session, home.session_id)
    except AskError:
        return  # it has ended, or has too much to do: the client is served here
    finally:
        line.go_on()


def _ready(line: Line, session: Session) -> bool:
    """Whether it still has nothing but its session."""
    worker = line.worker
    return worker.sessions.get(session.session_id) is session and not session.trees and len(worker.sessions) == 1 and is_idle(line, 0)


def _gone(_: Any, error: BaseException | None) -> None:
    if error is not None:
        raise error
