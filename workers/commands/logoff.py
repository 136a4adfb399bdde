"""LOGOFF: [MS-SMB2] 2.2.7, 3.3.5.6."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from smbd.smb2.messages.session import LOGOFF_RESPONSE, LOGOFF_STRUCTURE_SIZE, LogoffRequest
from workers.ending import end_session
from workers.loop import Completion
from workers.patience import patiently
from workers.request import Request

RESPONSE = LOGOFF_RESPONSE.pack(LOGOFF_STRUCTURE_SIZE, 0)


def logoff(request: Request, body: LogoffRequest) -> bytes | Coroutine[Any, None, bytes]:
    """End the session, its tree connects and opens; requests of it that wait are answered first. Durable opens are preserved."""
    session, worker = request.session, request.worker
    worker.cancel_session(session.session_id)
    waits = end_session(worker, session, lost=True)
    return patiently(request, _when_closed(waits)) if waits else RESPONSE


async def _when_closed(waits: list[Completion[None]]) -> bytes:
    for done in waits:
        await done
    return RESPONSE
