"""What is said to and by the authenticator.

Owns: the kinds 0x0200 to 0x020F and their layouts (the look-ups, 0x0210 to 0x0215, are smbd.accounts').
Invariant: a secret travels in one direction only: the session key, from authd to the worker whose client proved that it knows it.

    worker                                  authd
      AUTHENTICATE(conversation, token) -->   one step of SPNEGO
      <-- AUTHENTICATE_ANSWER(status, token, and at the end the session key and who it is)
      FORGET(conversation) -->                no answer; the conversation's state is dropped
      CONFIRM(worker, proof of a key) -->     whether somebody has just logged on through another worker, with that key
      <-- CONFIRM_ANSWER(who it is, or nothing)

A conversation is (slot, generation of the worker, number chosen by the worker); the first two are the hub's stamp, so a worker can
neither continue nor end another's.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from pools.layout import U8, U16, U32, U64, Layout, Raw16, Readable, WireError
from pools.queue import Kind
from smbd import accounts
from smbd.accounts import take_text
from smbd.smb2.dtyp.sid import SID
from smbd.smb2.dtyp.token import Token

MAX_TOKEN = 16 * 1024
"""A security token longer than this is refused unread (a Kerberos ticket with a large PAC stays below it)."""

WORKER = frozenset({"worker"})
AUTHD_ONLY = frozenset({"authd"})

AUTHENTICATE = Kind(0x0200, "AUTHENTICATE", 1, 0, MAX_TOKEN + 256, WORKER)
AUTHENTICATE_ANSWER = Kind(0x0201, "AUTHENTICATE_ANSWER", 1, 0, 60 * 1024, AUTHD_ONLY)
FORGET = Kind(0x0202, "FORGET", 1, 0, 8, WORKER)
CONFIRM = Kind(0x0204, "CONFIRM", 1, 0, 24, WORKER)
CONFIRM_ANSWER = Kind(0x0205, "CONFIRM_ANSWER", 1, 0, 60 * 1024, AUTHD_ONLY)
KINDS: tuple[Kind, ...] = (AUTHENTICATE, AUTHENTICATE_ANSWER, FORGET, CONFIRM, CONFIRM_ANSWER, *accounts.KINDS)

SUCCESS = 0x00000000
MORE_PROCESSING = 0xC0000016
"""STATUS_MORE_PROCESSING_REQUIRED: the client's next token continues the conversation."""


class Step(NamedTuple):
    """The outcome of one token. ``identity`` and ``session_key`` (16 bytes) are there only when ``status`` is SUCCESS.

    A guest's key is zeros: there is none in common. An anonymous client's is zeros, or was sent to it under zeros: it protects nothing, but
    some clients sign with it and expect their signatures to be checked.
    """

    status: int
    token: bytes
    session_key: bytes = b""
    identity: Token | None = None


class _Authenticate(NamedTuple):
    conversation: U64
    address_length: U8
    token_length: U16


class _Forget(NamedTuple):
    conversation: U64


class Confirm(NamedTuple):
    """CONFIRM: whose logon it was, and ``proof_of`` its key."""

    slot: U32
    generation: U32
    proof: Raw16


class _Answer(NamedTuple):
    status: U32
    token_length: U16
    identified: U8


class _Identity(NamedTuple):
    session_key: Raw16
    flags: U8
    uid: U32
    gid: U32
    group_count: U16
    sid_count: U16
    privilege_count: U8
    name_length: U16
    domain_length: U16


class _Id(NamedTuple):
    value: U32


AUTHENTICATE_REQUEST = Layout(_Authenticate)
FORGET_REQUEST = Layout(_Forget)
CONFIRM_REQUEST = Layout(Confirm)
ANSWER = Layout(_Answer)
IDENTITY = Layout(_Identity)
ID = Layout(_Id)
LENGTH = accounts.COUNT

GUEST, ANONYMOUS = 1, 2
NO_KEY = bytes(16)


def proof_of(session_key: bytes) -> bytes:
    """16 bytes that only who knows the key can tell, and that tell nobody the key."""
    return blake2b(session_key, digest_size=16, person=b"millpond logon").digest()


def pack_authenticate(conversation: int, token: Readable, address: str) -> bytes:
    """AUTHENTICATE. ``address`` is the client's, for the rate limit and the log."""
    encoded = address.encode()[:64]
    return AUTHENTICATE_REQUEST.pack(conversation, len(encoded), len(token)) + encoded + bytes(token)


def unpack_authenticate(payload: Readable) -> tuple[int, bytes, str]:
    """(conversation, token, address)."""
    head = AUTHENTICATE_REQUEST.unpack(payload)
    if head.token_length > MAX_TOKEN:
        raise WireError(f"a token of {head.token_length} bytes")
    start = AUTHENTICATE_REQUEST.size + head.address_length
    if len(payload) != start + head.token_length:
        raise WireError(f"AUTHENTICATE of {len(payload)} bytes promises {start + head.token_length}")
    return head.conversation, bytes(payload[start:]), take_text(payload, AUTHENTICATE_REQUEST.size, head.address_length)


def pack_step(step: Step) -> bytes:
    """AUTHENTICATE_ANSWER."""
    identity = step.identity
    head = ANSWER.pack(step.status, len(step.token), identity is not None) + step.token
    return head if identity is None else head + pack_identity(identity, step.session_key)


def pack_confirmed(who: Token | None) -> bytes:
    """CONFIRM_ANSWER."""
    return b"" if who is None else pack_identity(who, NO_KEY)


def unpack_confirmed(payload: Readable) -> Token | None:
    """The inverse of ``pack_confirmed``."""
    return _unpack_identity(payload, 0)[1] if len(payload) else None


def pack_identity(who: Token, session_key: bytes) -> bytes:
    """Who somebody is, and the key (16 bytes) that he has proved to know."""
    name, domain = who.name.encode(), who.domain.encode()
    privileges = [privilege.encode() for privilege in sorted(who.privileges)]
    flags = (GUEST if who.guest else 0) | (ANONYMOUS if who.anonymous else 0)
    counts = len(who.groups), len(who.group_sids) + 1, len(privileges)
    parts = [IDENTITY.pack(session_key, flags, who.uid, who.gid, *counts, len(name), len(domain)), name, domain]
    parts += (ID.pack(gid) for gid in who.groups)
    parts += (sid.pack() for sid in (who.user_sid, *who.group_sids))
    parts += (LENGTH.pack(len(text)) + text for text in privileges)
    return b"".join(parts)


def unpack_step(payload: Readable) -> Step:
    """The inverse of ``pack_step``."""
    head = ANSWER.unpack(payload)
    end = ANSWER.size + head.token_length
    if end > len(payload):
        raise WireError("AUTHENTICATE_ANSWER ends inside its token")
    token = bytes(payload[ANSWER.size : end])
    if not head.identified:
        return Step(head.status, token)
    session_key, identity = _unpack_identity(payload, end)
    return Step(head.status, token, session_key, identity)


def _unpack_identity(payload: Readable, offset: int) -> tuple[bytes, Token]:
    head = IDENTITY.unpack(payload, offset)
    offset += IDENTITY.size
    name = take_text(payload, offset, head.name_length)
    domain = take_text(payload, offset + head.name_length, head.domain_length)
    offset += head.name_length + head.domain_length
    groups = tuple(ID.unpack(payload, offset + ID.size * index).value for index in range(head.group_count))
    offset += ID.size * head.group_count
    sids = []
    for _ in range(head.sid_count):
        sids.append(SID.unpack(payload, offset))
        offset += sids[-1].size
    if not sids:
        raise WireError("an identity without a SID")
    privileges = []
    for _ in range(head.privilege_count):
        (length,) = LENGTH.unpack(payload, offset)
        privileges.append(take_text(payload, offset + LENGTH.size, length))
        offset += LENGTH.size + length
    return head.session_key, Token(
        user_sid=sids[0],
        group_sids=tuple(sids[1:]),
        privileges=frozenset(privileges),
        uid=head.uid,
        gid=head.gid,
        groups=groups,
        name=name,
        domain=domain,
        guest=bool(head.flags & GUEST),
        anonymous=bool(head.flags & ANONYMOUS),
    )
