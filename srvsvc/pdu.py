"""DCE/RPC protocol data units, connection-oriented: [C706] 12.6.4 and [MS-RPCE] 2.2.2.

Owns: the layouts and constants. Pure. Invariant: only little-endian data representations are spoken; every client in use sends them.
"""

from __future__ import annotations

import uuid
from typing import NamedTuple

from pools.layout import U8, U16, U32, Layout, Raw4, Raw16, Readable, WireError

# Packet types
REQUEST, RESPONSE, FAULT = 0, 2, 3
BIND, BIND_ACK, BIND_NAK = 11, 12, 13
ALTER_CONTEXT, ALTER_CONTEXT_RESP, AUTH3 = 14, 15, 16
SHUTDOWN, CO_CANCEL, ORPHANED = 17, 18, 19

FIRST_FRAG, LAST_FRAG, PENDING_CANCEL, DID_NOT_EXECUTE, OBJECT_UUID = 0x01, 0x02, 0x04, 0x20, 0x80
LITTLE_ENDIAN = b"\x10\x00\x00\x00"

# [C706] appendix E and [MS-RPCE] 2.2.2.4: results and reasons of a presentation context
ACCEPTANCE, USER_REJECTION, PROVIDER_REJECTION, NEGOTIATE_ACK = range(4)
NO_REASON, ABSTRACT_SYNTAX_NOT_SUPPORTED, TRANSFER_SYNTAXES_NOT_SUPPORTED, LOCAL_LIMIT_EXCEEDED = range(4)
NAK_PROTOCOL_VERSION, NAK_AUTHENTICATION_TYPE = 4, 8

# Fault status
ACCESS_DENIED = 0x00000005
BAD_STUB_DATA = 0x000006F7
OP_RANGE_ERROR = 0x1C010002
UNKNOWN_INTERFACE = 0x1C010003
PROTOCOL_ERROR = 0x1C01000B
CONTEXT_MISMATCH = 0x1C00001A

MAX_FRAGMENT = 5840
"""The largest fragment sent or asked for; what Windows and Samba use on pipes."""

MIN_FRAGMENT = 1432
"""[C706] 12.6.3.1 MustRecvFragSize: smaller offers are taken as this."""


class CommonHeader(NamedTuple):
    """[C706] 12.6.3.1, the first 16 bytes of every PDU."""

    rpc_vers: U8
    rpc_vers_minor: U8
    ptype: U8
    pfc_flags: U8
    packed_drep: Raw4
    frag_length: U16
    auth_length: U16
    call_id: U32


class Bind(NamedTuple):
    """[C706] 12.6.4.3 bind and alter_context: behind the common header, before the context elements."""

    max_xmit_frag: U16
    max_recv_frag: U16
    assoc_group_id: U32
    n_context_elem: U8
    reserved: U8
    reserved2: U16


class ContextElement(NamedTuple):
    """p_cont_elem_t; ``n_transfer_syn`` syntaxes follow."""

    p_cont_id: U16
    n_transfer_syn: U8
    reserved: U8
    abstract_uuid: Raw16
    abstract_version: U32


class Syntax(NamedTuple):
    """p_syntax_id_t."""

    uuid: Raw16
    version: U32


class BindAck(NamedTuple):
    """[C706] 12.6.4.4, up to the secondary address's length."""

    max_xmit_frag: U16
    max_recv_frag: U16
    assoc_group_id: U32
    sec_addr_length: U16


class ResultList(NamedTuple):
    """p_result_list_t, without its results."""

    n_results: U8
    reserved: U8
    reserved2: U16


class Result(NamedTuple):
    """p_result_t."""

    result: U16
    reason: U16
    transfer_uuid: Raw16
    transfer_version: U32


class BindNak(NamedTuple):
    """[C706] 12.6.4.5 with one protocol version."""

    provider_reject_reason: U16
    n_protocols: U8
    major: U8
    minor: U8


class Request(NamedTuple):
    """[C706] 12.6.4.9; an object UUID follows when its flag is set, then the stub."""

    alloc_hint: U32
    p_cont_id: U16
    opnum: U16


class Response(NamedTuple):
    """[C706] 12.6.4.10; the stub follows."""

    alloc_hint: U32
    p_cont_id: U16
    cancel_count: U8
    reserved: U8


class Fault(NamedTuple):
    """[C706] 12.6.4.7."""

    alloc_hint: U32
    p_cont_id: U16
    cancel_count: U8
    reserved: U8
    status: U32
    reserved2: Raw4


COMMON_HEADER = Layout(CommonHeader)
BIND_BODY = Layout(Bind)
CONTEXT_ELEMENT = Layout(ContextElement)
SYNTAX = Layout(Syntax)
BIND_ACK_BODY = Layout(BindAck)
RESULT_LIST = Layout(ResultList)
RESULT = Layout(Result)
BIND_NAK_BODY = Layout(BindNak)
REQUEST_BODY = Layout(Request)
RESPONSE_BODY = Layout(Response)
FAULT_BODY = Layout(Fault)

NDR = SYNTAX.pack(uuid.UUID("8a885d04-1ceb-11c9-9fe8-08002b104860").bytes_le, 2)
NULL_SYNTAX = SYNTAX.pack(bytes(16), 0)
FEATURE_PREFIX = uuid.UUID("6cb71c2c-9812-4540-0000-000000000000").bytes_le[:8]
"""[MS-RPCE] 3.3.1.5.3: a transfer syntax that begins like this negotiates features; its second half is a bit mask."""

FEATURES = 0x02
"""KeepConnectionOnOrphan: calls here are over before an orphaned PDU can come. Security contexts are not multiplexed: there are none."""


class OfferedContext(NamedTuple):
    """One element of a bind: ``transfers`` are packed syntaxes."""

    context_id: int
    interface: bytes
    version: int
    transfers: tuple[bytes, ...]


def build(ptype: int, call_id: int, body: bytes, flags: int = FIRST_FRAG | LAST_FRAG) -> bytes:
    """A whole PDU without authentication trailer."""
    return COMMON_HEADER.pack(5, 0, ptype, flags, LITTLE_ENDIAN, COMMON_HEADER.size + len(body), 0, call_id) + body


def parse_bind(body: Readable) -> tuple[Bind, list[OfferedContext]]:
    """A bind's or alter_context's body."""
    head = BIND_BODY.unpack(body)
    offset, offered = BIND_BODY.size, []
    for _ in range(head.n_context_elem):
        element = CONTEXT_ELEMENT.unpack(body, offset)
        offset += CONTEXT_ELEMENT.size
        transfers = []
        for _ in range(element.n_transfer_syn):
            transfers.append(SYNTAX.pack(*SYNTAX.unpack(body, offset)))
            offset += SYNTAX.size
        offered.append(OfferedContext(element.p_cont_id, element.abstract_uuid, element.abstract_version, tuple(transfers)))
    return head, offered


def bind_ack(ptype: int, call_id: int, ack: tuple[int, int, int], address: bytes, results: list[bytes]) -> bytes:
    """BIND_ACK or ALTER_CONTEXT_RESP; ``ack`` is (max_xmit_frag, max_recv_frag, assoc_group_id)."""
    head = BIND_ACK_BODY.pack(*ack, len(address)) + address
    head += bytes(-len(head) % 4)
    return build(ptype, call_id, head + RESULT_LIST.pack(len(results), 0, 0) + b"".join(results))


def responses(call_id: int, context_id: int, stub: bytes, max_fragment: int) -> list[bytes]:
    """A response in as many fragments as it takes."""
    room = (max_fragment - COMMON_HEADER.size - RESPONSE_BODY.size) & ~7
    starts = range(0, len(stub), room) if stub else range(1)
    last = starts[-1]
    return [
        build(
            RESPONSE,
            call_id,
            RESPONSE_BODY.pack(len(stub) - start, context_id, 0, 0) + stub[start : start + room],
            (FIRST_FRAG if start == 0 else 0) | (LAST_FRAG if start == last else 0),
        )
        for start in starts
    ]


def fault(call_id: int, context_id: int, status: int, executed: bool = False) -> bytes:
    """A FAULT."""
    flags = FIRST_FRAG | LAST_FRAG | (0 if executed else DID_NOT_EXECUTE)
    return build(FAULT, call_id, FAULT_BODY.pack(32, context_id, 0, 0, status, bytes(4)), flags)


def check(head: CommonHeader) -> None:
    """``WireError`` for a PDU that cannot be a PDU of this protocol."""
    if (head.rpc_vers, head.rpc_vers_minor > 1) != (5, False) or head.packed_drep[0] != LITTLE_ENDIAN[0]:
        raise WireError(f"RPC version {head.rpc_vers}.{head.rpc_vers_minor}, data representation {head.packed_drep.hex()}")
    if head.frag_length < COMMON_HEADER.size + head.auth_length:
        raise WireError(f"an RPC fragment of {head.frag_length} bytes with {head.auth_length} of authentication")
