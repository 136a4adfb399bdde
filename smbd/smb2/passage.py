"""A connection on its way from one process to another: its state as bytes, and made whole again.

Owns: the layout. Invariants: what is packed is all that a connection has beside its sessions; one with requests that came out of order does
not travel (``may_travel``); what is made whole again could have been negotiated here, whoever has packed it. The socket, what it has yet to
bring, and sessions are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from pools.layout import U8, U16, U32, U64, Layout, Raw16, Readable, WireError
from smbd.smb2.connection import Connection
from smbd.smb2.constants import (
    CIPHER_AES128_CCM,
    CIPHER_AES128_GCM,
    CIPHER_AES256_CCM,
    CIPHER_AES256_GCM,
    POSIX_EXTENSIONS_AVAILABLE,
    SIGNING_AES_CMAC,
    SIGNING_AES_GMAC,
    SIGNING_HMAC_SHA256,
)
from smbd.smb2.crypto import PreauthHash
from smbd.smb2.dialects import DIALECTS
from smbd.smb2.messages.create_contexts import POSIX
from smbd.smb2.negotiate import Choice, NegotiateSettings

PREAUTH_SIZE = 64
CIPHERS = (0, CIPHER_AES128_CCM, CIPHER_AES128_GCM, CIPHER_AES256_CCM, CIPHER_AES256_GCM)
SIGNINGS = (SIGNING_HMAC_SHA256, SIGNING_AES_CMAC, SIGNING_AES_GMAC)
MOST_CREDITS = 65535
MOST_BYTES = 8 << 20  # in one request or response: no configuration allows more


class Passage(NamedTuple):
    """Connection of [MS-SMB2] 3.3.1.7, as far as it differs from a new one; the pre-authentication hash and the dialects offered follow."""

    dialect: U16
    capabilities: U32
    cipher_id: U16
    signing_id: U16
    client_guid: Raw16
    client_capabilities: U32
    client_security_mode: U16
    low: U64
    high: U64
    max_transact_size: U32
    max_read_size: U32
    max_write_size: U32
    max_credits: U32
    signing_required: U8
    posix: U8
    dialects: U8


class OneDialect(NamedTuple):
    """One dialect that the client has offered."""

    number: U16


PASSAGE = Layout(Passage)
ONE_DIALECT = Layout(OneDialect)
MOST_DIALECTS = 255
_WITH_POSIX = ((POSIX_EXTENSIONS_AVAILABLE, POSIX),)  # of the contexts that were answered, the only one that is asked for later


def may_travel(connection: Connection) -> bool:
    """Whether ``pack`` says all there is to say."""
    choice = connection.choice
    if choice is None or choice.dialect is None:
        return False
    return not connection.credits.used and len(choice.client_dialects) <= MOST_DIALECTS


def pack(connection: Connection) -> bytes:
    """The state of a connection that ``may_travel``."""
    choice, settings, window = connection.choice, connection.settings, connection.credits
    assert choice is not None
    assert choice.dialect is not None
    fixed = PASSAGE.pack(
        choice.dialect.number, choice.capabilities, choice.cipher_id, choice.signing_id, choice.client_guid, choice.client_capabilities,
        choice.client_security_mode, window.low, window.high, settings.max_transact_size, settings.max_read_size, settings.max_write_size,
        settings.max_credits, int(settings.signing_required), int(choice.posix), len(choice.client_dialects),
    )  # fmt: skip
    return fixed + connection.preauth.value + b"".join(ONE_DIALECT.pack(number) for number in choice.client_dialects)


def unpack(payload: Readable, settings: NegotiateSettings, random: Callable[[int], bytes]) -> tuple[Connection, int]:
    """The connection, and how many bytes of ``payload`` were its own. ``settings``: of this process; what was negotiated prevails."""
    told = PASSAGE.unpack(payload)
    start = PASSAGE.size + PREAUTH_SIZE
    end = start + told.dialects * ONE_DIALECT.size
    if told.dialect not in DIALECTS or len(payload) < end:
        raise WireError(f"a connection of dialect 0x{told.dialect:04x} in {len(payload)} bytes")
    _check(told)
    settings = replace(
        settings,
        max_transact_size=told.max_transact_size,
        max_read_size=told.max_read_size,
        max_write_size=told.max_write_size,
        max_credits=told.max_credits,
        signing_required=bool(told.signing_required),
    )
    choice = Choice(
        DIALECTS[told.dialect],
        told.capabilities,
        told.cipher_id,
        told.signing_id,
        told.client_guid,
        told.client_capabilities,
        told.client_security_mode,
        tuple(ONE_DIALECT.unpack(payload, at).number for at in range(start, end, ONE_DIALECT.size)),
        _WITH_POSIX if told.posix else (),
    )
    connection = Connection(settings, random)
    connection.resume(choice, PreauthHash(bytes(payload[PASSAGE.size : start])), (told.low, told.high))
    return connection, end


def _check(told: Passage) -> None:
    """``WireError`` for what no negotiation ends with."""
    sizes = told.max_transact_size, told.max_read_size, told.max_write_size
    if told.cipher_id not in CIPHERS or told.signing_id not in SIGNINGS or max(sizes) > MOST_BYTES:
        raise WireError(f"a connection with cipher {told.cipher_id}, signatures {told.signing_id} and requests of {max(sizes)} bytes")
    if not (0 < told.max_credits <= MOST_CREDITS and 0 <= told.high - told.low <= 2 * MOST_CREDITS):
        raise WireError(f"a connection with {told.max_credits} credits, of which {told.low} to {told.high} may be used")
