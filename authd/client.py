"""What other processes may ask the authenticator: one stub for each question, and the token that starts every negotiation.

Owns: nothing but the phrasing. Invariant: a worker learns an outcome, never a hash; an answer that cannot be parsed is a bug of ours
and raises ``WireError``.
"""

from __future__ import annotations

from typing import Protocol

from authd.messages import (
    AUTHENTICATE,
    CONFIRM,
    CONFIRM_REQUEST,
    FORGET,
    FORGET_REQUEST,
    Step,
    pack_authenticate,
    unpack_confirmed,
    unpack_step,
)
from pools.layout import Readable
from pools.queue import Ask
from smbd.accounts import lookup_names, lookup_sids
from smbd.child import AUTHD
from smbd.smb2.dtyp.token import Token

__all__ = ["Step", "authenticate", "confirm", "forget", "initial_token", "lookup_names", "lookup_sids"]

TIMEOUT = 60.0
"""Longer than the delay after a failed attempt and a restart of authd together."""

HINT = b"not_defined_in_RFC4178@please_ignore"
NTLMSSP_OID = bytes.fromhex("060a2b06010401823702020a")
SPNEGO_OID = bytes.fromhex("06062b0601050502")


class Send(Protocol):
    """``Endpoint.send``: hands a message over without waiting for an answer."""

    def __call__(self, destination: int, kind: int, payload: bytes = b"") -> None: ...


async def authenticate(ask: Ask, conversation: int, token: Readable, address: str) -> Step:
    """Hand the client's token to authd; the step says what to answer and, at the end, who the client is.

    ``conversation`` is the caller's number (64 bits) for this exchange: a new one for each logon and reauthentication. It ends with any
    status but MORE_PROCESSING, or with ``forget``. Raises AskError when authd cannot be reached.
    """
    answer = await ask(AUTHD, AUTHENTICATE.number, pack_authenticate(conversation, token, address), TIMEOUT)
    return unpack_step(answer.payload)


def forget(send: Send, conversation: int) -> None:
    """The client went away in the middle: authd drops what it holds for this conversation."""
    send(AUTHD, FORGET.number, FORGET_REQUEST.pack(conversation))


async def confirm(ask: Ask, peer: tuple[int, int], proof: bytes, timeout: float) -> Token | None:
    """Who has just logged on through the worker ``peer``, with a key of which ``proof`` is shown; None: nobody. Answered once.

    Raises AskError when authd cannot be reached.
    """
    answer = await ask(AUTHD, CONFIRM.number, CONFIRM_REQUEST.pack(*peer, proof), timeout)
    return unpack_confirmed(answer.payload)


def initial_token() -> bytes:
    """[MS-SPNG] 2.2.1 NegTokenInit2: the mechanisms on offer, for the SecurityBuffer of the NEGOTIATE response."""
    return INITIAL_TOKEN


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return bytes((tag, len(content))) + content  # every length here is below 128


INITIAL_TOKEN = _der(
    0x60,  # [APPLICATION 0] InitialContextToken
    SPNEGO_OID,
    _der(
        0xA0,  # NegotiationToken: [0] negTokenInit
        _der(
            0x30,
            _der(0xA0, _der(0x30, NTLMSSP_OID)),  # [0] mechTypes
            _der(0xA3, _der(0x30, _der(0xA0, _der(0x1B, HINT)))),  # [3] negHints: hintName
        ),
    ),
)
