"""What workers say to the RPC server, and what it answers.

Owns: the kinds 0x0300 to 0x03FF and their layouts. Invariant: a pipe belongs to the process that opened it: the hub's stamp is part of its
name, and a handle of an earlier life of the RPC server is known for one (PIPE_DISCONNECTED: the client opens anew).

    worker                                      srvsvc
      OPEN_PIPE(name, who) -->                    status, handle
      WRITE_PIPE(handle, bytes) -->               status, count
      READ_PIPE(handle, at most) -->              status, bytes (BUFFER_OVERFLOW: the message goes on)
      TRANSCEIVE_PIPE(handle, at most, bytes) --> status, bytes
      CLOSE_PIPE(handle) -->                      no answer
"""

from __future__ import annotations

from typing import NamedTuple

from pools.layout import U8, U16, U32, U64, Layout, Readable, WireError
from pools.queue import RPC, Kind

MAX_DATA = 60 * 1024
"""Pipe data in one record."""

_PAYLOAD = MAX_DATA + 512
_WORKER = frozenset({"worker"})
_SRVSVC = frozenset({"srvsvc"})

OPEN_PIPE = Kind(0x0300, "OPEN_PIPE", RPC, 0, 4096, _WORKER)
OPEN_PIPE_ANSWER = Kind(0x0301, "OPEN_PIPE_ANSWER", RPC, 0, 64, _SRVSVC)
WRITE_PIPE = Kind(0x0302, "WRITE_PIPE", RPC, 0, _PAYLOAD, _WORKER)
WRITE_PIPE_ANSWER = Kind(0x0303, "WRITE_PIPE_ANSWER", RPC, 0, 64, _SRVSVC)
READ_PIPE = Kind(0x0304, "READ_PIPE", RPC, 0, 64, _WORKER)
READ_PIPE_ANSWER = Kind(0x0305, "READ_PIPE_ANSWER", RPC, 0, _PAYLOAD, _SRVSVC)
TRANSCEIVE_PIPE = Kind(0x0306, "TRANSCEIVE_PIPE", RPC, 0, _PAYLOAD, _WORKER)
TRANSCEIVE_PIPE_ANSWER = Kind(0x0307, "TRANSCEIVE_PIPE_ANSWER", RPC, 0, _PAYLOAD, _SRVSVC)
CLOSE_PIPE = Kind(0x0308, "CLOSE_PIPE", RPC, 0, 64, _WORKER)
KINDS: tuple[Kind, ...] = (
    OPEN_PIPE,
    OPEN_PIPE_ANSWER,
    WRITE_PIPE,
    WRITE_PIPE_ANSWER,
    READ_PIPE,
    READ_PIPE_ANSWER,
    TRANSCEIVE_PIPE,
    TRANSCEIVE_PIPE_ANSWER,
    CLOSE_PIPE,
)

GUEST, ANONYMOUS, ADMINISTRATOR = 1, 2, 4


class Caller(NamedTuple):
    """Who opened the pipe, as the worker's session knows it. ``address`` is the client's; ``sid`` its user's, as text."""

    user: str
    domain: str
    sid: str
    address: str
    uid: int
    guest: bool = False
    anonymous: bool = False
    administrator: bool = False


class _Open(NamedTuple):
    flags: U8
    uid: U32
    name_length: U16
    user_length: U16
    domain_length: U16
    sid_length: U16
    address_length: U16


class _Data(NamedTuple):
    """WRITE, READ and TRANSCEIVE; ``max_output`` is 0 in a WRITE. The bytes to write follow."""

    handle: U64
    max_output: U32


class _Close(NamedTuple):
    handle: U64


class _Opened(NamedTuple):
    status: U32
    handle: U64


class _Result(NamedTuple):
    """The bytes read follow; ``written`` says how many bytes were taken."""

    status: U32
    written: U32


OPEN = Layout(_Open)
DATA = Layout(_Data)
CLOSE = Layout(_Close)
OPENED = Layout(_Opened)
RESULT = Layout(_Result)


def pack_open(name: str, caller: Caller) -> bytes:
    """OPEN_PIPE."""
    texts = [text.encode()[:512] for text in (name, caller.user, caller.domain, caller.sid, caller.address)]
    flags = GUEST * caller.guest | ANONYMOUS * caller.anonymous | ADMINISTRATOR * caller.administrator
    return OPEN.pack(flags, caller.uid, *map(len, texts)) + b"".join(texts)


def unpack_open(payload: Readable) -> tuple[str, Caller]:
    """The inverse of ``pack_open``."""
    head = OPEN.unpack(payload)
    texts, offset = [], OPEN.size
    for length in head[2:]:
        if offset + length > len(payload):
            raise WireError("OPEN_PIPE ends inside a name")
        texts.append(bytes(payload[offset : offset + length]).decode(errors="replace"))
        offset += length
    name, user, domain, sid, address = texts
    flags = (bool(head.flags & bit) for bit in (GUEST, ANONYMOUS, ADMINISTRATOR))
    return name, Caller(user, domain, sid, address, head.uid, *flags)
