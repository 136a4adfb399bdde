"""One client's association on one pipe: bytes in, fragments out.

Owns: the state between bind and close: presentation contexts, the request being gathered, context handles. Sans-IO.
Invariants: a request runs only in a context that was accepted; at most MAX_STUB bytes are gathered for it; what is not this protocol
raises WireError, after which the pipe is broken.

    bind -> BIND_ACK | BIND_NAK      alter_context -> ALTER_CONTEXT_RESP      request ... -> response ... | fault
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pools.layout import WireError
from srvsvc import ndr, pdu

log = logging.getLogger("srvsvc")

MAX_STUB = 1 << 20
MAX_CONTEXTS = 64
MAX_UNREAD = 1 << 22
"""Bytes of answers a client may leave unread before the pipe is broken."""


class RpcFault(Exception):
    """The call ends in a fault PDU with ``status``."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Operation(NamedTuple):
    """One operation: its parameters in, its results out, and the function in between."""

    name: str
    request: ndr.Record
    response: ndr.Record
    call: Callable[[Any, Any], tuple[Any, ...]]


class Interface(NamedTuple):
    """``uuid`` in wire form; ``version`` is major | minor << 16. ``operations`` by opnum."""

    name: str
    uuid: bytes
    version: int
    operations: Mapping[int, Operation]


class Association:
    """The server's side. ``server`` is what operations get as their first argument."""

    __slots__ = ("_address", "_buffer", "_contexts", "_gathered", "_group", "_interfaces", "_request", "_server", "max_fragment")

    def __init__(self, interfaces: tuple[Interface, ...], pipe: str, group: int, server: Any) -> None:
        self._interfaces = {interface.uuid: interface for interface in interfaces}
        self._address = f"\\PIPE\\{pipe}\0".encode()
        self._group = group
        self._server = server
        self._buffer = bytearray()
        self._contexts: dict[int, Interface] = {}
        self._request: tuple[int, pdu.Request] | None = None
        self._gathered = bytearray()
        self.max_fragment = pdu.MAX_FRAGMENT

    def feed(self, data: bytes) -> list[bytes]:
        """Take what was written to the pipe; the PDUs to send. A PDU may come in pieces, and several at once."""
        self._buffer += data
        answers: list[bytes] = []
        size = 0
        while len(self._buffer) >= pdu.COMMON_HEADER.size:
            head = pdu.COMMON_HEADER.unpack(self._buffer)
            pdu.check(head)
            if len(self._buffer) < head.frag_length:
                break
            whole = bytes(self._buffer[: head.frag_length])
            del self._buffer[: head.frag_length]
            taken = self._take(head, whole)
            size += sum(map(len, taken))
            if size > MAX_UNREAD:  # many requests in one write: their answers are bounded as they are made
                raise WireError(f"{size} bytes of answers to one write")
            answers += taken
        return answers

    @property
    def held(self) -> int:
        """Bytes kept of what the client has begun to say."""
        return len(self._buffer) + len(self._gathered)

    def drop(self) -> None:
        """The pipe is broken: nothing is kept."""
        self._buffer.clear()
        self._gathered.clear()

    def _take(self, head: pdu.CommonHeader, whole: bytes) -> list[bytes]:
        body = whole[pdu.COMMON_HEADER.size : head.frag_length - (head.auth_length + 8 if head.auth_length else 0)]
        if head.ptype == pdu.BIND:
            return [self._bind(head, body)]
        if head.ptype == pdu.ALTER_CONTEXT:
            return [self._agree(head, body, pdu.ALTER_CONTEXT_RESP)]
        if head.ptype == pdu.REQUEST:
            return self._gather(head, body)
        if head.ptype in (pdu.CO_CANCEL, pdu.ORPHANED, pdu.AUTH3):
            self._request = None
            return []
        raise WireError(f"RPC packet type {head.ptype} from a client")

    def _bind(self, head: pdu.CommonHeader, body: bytes) -> bytes:
        if head.auth_length:
            # The session authenticated the client already; a second authentication inside the pipe is not offered.
            return pdu.build(pdu.BIND_NAK, head.call_id, pdu.BIND_NAK_BODY.pack(pdu.NAK_AUTHENTICATION_TYPE, 1, 5, 0))
        if self._contexts:
            raise WireError("a second bind")
        return self._agree(head, body, pdu.BIND_ACK)

    def _agree(self, head: pdu.CommonHeader, body: bytes, ptype: int) -> bytes:
        bind, offered = pdu.parse_bind(body)
        if ptype == pdu.BIND_ACK:
            self.max_fragment = min(max(bind.max_recv_frag, pdu.MIN_FRAGMENT), pdu.MAX_FRAGMENT)
        address = self._address if ptype == pdu.BIND_ACK else b""
        ack = (self.max_fragment, self.max_fragment, bind.assoc_group_id or self._group)
        return pdu.bind_ack(ptype, head.call_id, ack, address, [self._context(one) for one in offered])

    def _context(self, offered: pdu.OfferedContext) -> bytes:
        for transfer in offered.transfers:
            if transfer.startswith(pdu.FEATURE_PREFIX):
                mask = transfer[8] & pdu.FEATURES
                return pdu.RESULT.pack(pdu.NEGOTIATE_ACK, mask, bytes(16), 0)
        interface = self._interfaces.get(offered.interface)
        if interface is None or interface.version & 0xFFFF != offered.version & 0xFFFF:
            return _rejected(pdu.ABSTRACT_SYNTAX_NOT_SUPPORTED)
        if pdu.NDR not in offered.transfers:
            return _rejected(pdu.TRANSFER_SYNTAXES_NOT_SUPPORTED)
        if len(self._contexts) >= MAX_CONTEXTS:
            return _rejected(pdu.LOCAL_LIMIT_EXCEEDED)
        self._contexts[offered.context_id] = interface
        return pdu.RESULT.pack(pdu.ACCEPTANCE, pdu.NO_REASON, *pdu.SYNTAX.unpack(pdu.NDR))

    def _gather(self, head: pdu.CommonHeader, body: bytes) -> list[bytes]:
        request = pdu.REQUEST_BODY.unpack(body)
        if head.auth_length:
            return [pdu.fault(head.call_id, request.p_cont_id, pdu.ACCESS_DENIED)]
        stub = body[pdu.REQUEST_BODY.size + (16 if head.pfc_flags & pdu.OBJECT_UUID else 0) :]
        if head.pfc_flags & pdu.FIRST_FRAG:
            self._request = head.call_id, request
            self._gathered.clear()
        if self._request is None or self._request[0] != head.call_id:
            return [pdu.fault(head.call_id, request.p_cont_id, pdu.PROTOCOL_ERROR)]
        self._gathered += stub
        if len(self._gathered) > MAX_STUB:
            raise WireError(f"a request of more than {MAX_STUB} bytes")
        if not head.pfc_flags & pdu.LAST_FRAG:
            return []
        first, self._request = self._request[1], None
        gathered = bytes(self._gathered)
        self._gathered.clear()
        return self._call(head.call_id, first, gathered)

    def _call(self, call_id: int, request: pdu.Request, stub: bytes) -> list[bytes]:
        interface = self._contexts.get(request.p_cont_id)
        if interface is None:
            return [pdu.fault(call_id, request.p_cont_id, pdu.UNKNOWN_INTERFACE)]
        operation = interface.operations.get(request.opnum)
        if operation is None:
            log.debug("%s: operation %d is not known here", interface.name, request.opnum)
            return [pdu.fault(call_id, request.p_cont_id, pdu.OP_RANGE_ERROR)]
        try:
            arguments = ndr.unpack(operation.request, stub)
        except WireError as error:
            log.info("%s: %s: %s", interface.name, operation.name, error)
            return [pdu.fault(call_id, request.p_cont_id, pdu.BAD_STUB_DATA)]
        try:
            results = operation.call(self._server, arguments)
        except RpcFault as refused:
            return [pdu.fault(call_id, request.p_cont_id, refused.status, executed=True)]
        return pdu.responses(call_id, request.p_cont_id, ndr.pack(operation.response, results), self.max_fragment)


def _rejected(reason: int) -> bytes:
    return pdu.RESULT.pack(pdu.PROVIDER_REJECTION, reason, bytes(16), 0)
