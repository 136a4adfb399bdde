"""Packs responses: header behind the body, signature or encryption over both, the transport's length in front.

Owns: the way out of a connection ([MS-SMB2] 3.3.4.1). Invariant: only bytes written here (or handed in as payload) lie in the view that is
returned; the header is written after what it covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from smbd.smb2 import status as ntstatus
from smbd.smb2.constants import (
    FLAGS_ASYNC_COMMAND,
    FLAGS_PRIORITY_MASK,
    FLAGS_RELATED_OPERATIONS,
    FLAGS_SERVER_TO_REDIR,
    FLAGS_SIGNED,
    UNSOLICITED_MESSAGE_ID,
)
from smbd.smb2.crypto import Channel, PreauthHash
from smbd.smb2.header import (
    ERROR_BODY,
    HEADER,
    HEADER_SIZE,
    NO_SIGNATURE,
    PROTOCOL_ID,
    TRANSFORM_SIZE,
    TRANSPORT_SIZE,
    Header,
    error_body,
)
from smbd.smb2.status import SmbError

_ECHOED = FLAGS_RELATED_OPERATIONS | FLAGS_PRIORITY_MASK
_TRANSPORT_LENGTH = Struct(">I")  # [MS-SMB2] 2.1: a zero byte and 24 bits of length, in network order


class Reply:
    """One response. ``async_id`` replaces ``tree_id`` in the header; ``sign`` is the channel that signs it, or None.

    ``preauth``: the hash that takes in the response as it will travel (NEGOTIATE, SESSION_SETUP in progress).
    """

    __slots__ = (
        "async_id",
        "body",
        "command",
        "credit_charge",
        "credits",
        "flags",
        "message_id",
        "preauth",
        "session_id",
        "sign",
        "status",
        "tree_id",
    )

    def __init__(self, header: Header, status: int, body: bytes, credits: int, sign: Channel | None = None) -> None:
        """The response to ``header``: ids, charge and the flags to be echoed are taken from it."""
        self.command = header.command
        self.message_id = header.message_id
        self.session_id = header.session_id
        self.tree_id = header.tree_id
        self.credit_charge = header.credit_charge
        self.flags = header.flags & _ECHOED | FLAGS_SERVER_TO_REDIR
        self.status = status
        self.body = body
        self.credits = credits
        self.sign = sign
        self.async_id: int | None = None
        self.preauth: PreauthHash | None = None

    @classmethod
    def refuse(cls, header: Header, error: SmbError, credits: int, sign: Channel | None = None) -> Reply:
        """The error response of 3.3.4.4."""
        return cls(header, error.status, error_body(error.data) if error.data else ERROR_BODY, credits, sign)

    @classmethod
    def notification(cls, command: int, body: bytes, session_id: int = 0) -> Reply:
        """An oplock or lease break (3.3.4.6, 3.3.4.7): MessageId all ones, no tree, unsigned."""
        header = Header(PROTOCOL_ID, HEADER_SIZE, 0, 0, command, 0, 0, 0, UNSOLICITED_MESSAGE_ID, 0, 0, session_id, NO_SIGNATURE)
        return cls(header, ntstatus.SUCCESS, body, 0)


def reply_size(bodies: Sequence[bytes]) -> int:
    """Bytes of the SMB2 messages that ``pack_replies`` packs for ``bodies``, without transport and transform headers."""
    size = 0
    for body in bodies:
        size = (size + 7 & ~7) + HEADER_SIZE + len(body)
    return size + 7 & ~7


def pack_replies(view: memoryview, start: int, replies: Sequence[Reply], seal: Channel | None = None) -> memoryview:
    """Packs ``replies`` as one compound from ``start`` on, signs or seals them; the bytes to send, transport length in front.

    ``view`` needs ``reply_size`` bytes from ``start``, 56 before it (4 unless sealed) and, to seal, 16 behind.
    """
    position = start
    last = len(replies) - 1
    for index, reply in enumerate(replies):
        body = reply.body
        end = position + HEADER_SIZE + len(body)
        view[position + HEADER_SIZE : end] = body
        following = 0
        if last:
            # 3.3.4.1.3: the padding belongs to the element and is signed with it. Windows pads the last element too.
            padding = start - end & 7
            view[end : end + padding] = bytes(padding)
            end += padding
            following = end - position if index < last else 0
        _pack_header(view[position:end], reply, following, seal)
        position = end
    return _finish(view, start, position, seal)


def pack_in_place(
    view: memoryview, start: int, length: int, fixed: bytes, reply: Reply, *, seal: Channel | None = None
) -> memoryview:
    """Packs header and ``fixed`` in front of the payload ``view[start:start + length]``; the bytes to send, transport length first.

    ``reply.body`` is not used. ``view`` needs 68 bytes and ``fixed`` before ``start`` (120 sealed) and, to seal, 16 behind the payload.
    """
    body = start - len(fixed)
    first = body - HEADER_SIZE
    end = start + length
    view[body:start] = fixed
    _pack_header(view[first:end], reply, 0, seal)
    return _finish(view, first, end, seal)


Granted = tuple[int, Channel | None, Channel | None]
"""What a response takes with it: the credits, the channel that signs it and the one that seals it."""


def pack_success(view: memoryview, first: int, header: Header, body: bytes, granted: Granted) -> memoryview:
    """The response of SUCCESS to a single request, from ``first`` on; the bytes to send. ``pack_replies`` in one go, with its needs."""
    end = first + HEADER_SIZE + len(body)
    view[first + HEADER_SIZE : end] = body
    return _succeed(view, first, end, header, granted)


def pack_success_in_place(
    view: memoryview, payload: tuple[int, int], fixed: bytes, header: Header, granted: Granted
) -> memoryview:
    """The same with ``fixed`` in front of the ``payload`` (start, length) that lies in ``view``: ``pack_in_place`` in one go."""
    start, length = payload
    body = start - len(fixed)
    view[body:start] = fixed
    return _succeed(view, body - HEADER_SIZE, start + length, header, granted)


def _succeed(view: memoryview, first: int, end: int, header: Header, granted: Granted) -> memoryview:
    credits, channel, seal = granted
    flags = header.flags & _ECHOED | FLAGS_SERVER_TO_REDIR
    signer = None if channel is None or seal is not None else channel.signer
    if signer is not None:
        flags |= FLAGS_SIGNED
    HEADER.pack_into(
        view, first, PROTOCOL_ID, HEADER_SIZE, header.credit_charge, 0, header.command, credits, flags, 0, header.message_id, 0,
        header.tree_id, header.session_id, NO_SIGNATURE,
    )  # fmt: skip
    if signer is not None:
        element = view[first:end]
        element[48:64] = signer(element)
    return _finish(view, first, end, seal)


def pack_ahead(view: memoryview, start: int, fixed: bytes, reply: Reply, following: int) -> memoryview:
    """Packs header and ``fixed`` from ``start`` on, for ``following`` bytes of payload that are sent behind what is returned.

    The payload is not seen here, so the response can be neither signed nor sealed: ValueError.
    """
    if reply.sign is not None and reply.sign.signer is not None:
        raise ValueError("signing what is not here")
    end = start + HEADER_SIZE + len(fixed)
    view[start + HEADER_SIZE : end] = fixed
    _pack_header(view[start:end], reply, 0, None)
    first = start - TRANSPORT_SIZE
    _TRANSPORT_LENGTH.pack_into(view, first, end - start + following)
    return view[first:end]


def _pack_header(element: memoryview, reply: Reply, following: int, seal: Channel | None) -> None:
    """The header of ``reply`` at the front of ``element``; signs the element unless it will be sealed (3.3.4.1.1)."""
    flags = reply.flags
    low, high = 0, reply.tree_id
    if reply.async_id is not None:
        flags |= FLAGS_ASYNC_COMMAND
        low, high = reply.async_id & 0xFFFFFFFF, reply.async_id >> 32
    channel = reply.sign
    signer = None if channel is None or seal is not None else channel.signer
    if signer is not None:
        flags |= FLAGS_SIGNED
    HEADER.pack_into(
        element,
        0,
        PROTOCOL_ID,
        HEADER_SIZE,
        reply.credit_charge,
        reply.status,
        reply.command,
        reply.credits,
        flags,
        following,
        reply.message_id,
        low,
        high,
        reply.session_id,
        NO_SIGNATURE,
    )
    if signer is not None:
        element[48:64] = signer(element)
    if reply.preauth is not None:
        reply.preauth.update(element)


def _finish(view: memoryview, start: int, end: int, seal: Channel | None) -> memoryview:
    """Seals ``view[start:end]`` if asked to, and puts the transport's length in front."""
    if seal is not None:
        if seal.cipher is None:
            raise ValueError("sealing without a cipher")
        seal.cipher.seal(view, start, end)
        start -= TRANSFORM_SIZE
    first = start - TRANSPORT_SIZE
    _TRANSPORT_LENGTH.pack_into(view, first, end - start)
    return view[first:end]
