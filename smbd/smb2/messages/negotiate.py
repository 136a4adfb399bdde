"""NEGOTIATE and its contexts: [MS-SMB2] 2.2.3, 2.2.4.

Owns: their layouts, the chain of negotiate contexts. Invariant: a chain read here lies wholly inside the message.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pools.layout import U16, U32, U64, Layout, Raw16, WireError


class NegotiateRequest(NamedTuple):
    """[MS-SMB2] 2.2.3 SMB2 NEGOTIATE Request; Dialects follow. Before 3.1.1 the three context fields are ClientStartTime."""

    structure_size: U16
    dialect_count: U16
    security_mode: U16
    reserved: U16
    capabilities: U32
    client_guid: Raw16
    negotiate_context_offset: U32
    negotiate_context_count: U16
    reserved2: U16


class NegotiateResponse(NamedTuple):
    """[MS-SMB2] 2.2.4 SMB2 NEGOTIATE Response; the security buffer and the contexts follow."""

    structure_size: U16
    security_mode: U16
    dialect_revision: U16
    negotiate_context_count: U16
    server_guid: Raw16
    capabilities: U32
    max_transact_size: U32
    max_read_size: U32
    max_write_size: U32
    system_time: U64
    server_start_time: U64
    security_buffer_offset: U16
    security_buffer_length: U16
    negotiate_context_offset: U32


class NegotiateContext(NamedTuple):
    """[MS-SMB2] 2.2.3.1 SMB2 NEGOTIATE_CONTEXT; Data follows, padded to 8 except in the last."""

    context_type: U16
    data_length: U16
    reserved: U32


class PreauthIntegrityCapabilities(NamedTuple):
    """[MS-SMB2] 2.2.3.1.1: HashAlgorithms and Salt follow."""

    hash_algorithm_count: U16
    salt_length: U16


class AlgorithmCount(NamedTuple):
    """[MS-SMB2] 2.2.3.1.2 CipherCount, 2.2.3.1.7 SigningAlgorithmCount: that many U16 follow."""

    algorithm_count: U16


class CompressionCapabilities(NamedTuple):
    """[MS-SMB2] 2.2.3.1.3: CompressionAlgorithms follow."""

    compression_algorithm_count: U16
    padding: U16
    flags: U32


class TransportCapabilities(NamedTuple):
    """[MS-SMB2] 2.2.3.1.5."""

    flags: U32


class RdmaTransformCapabilities(NamedTuple):
    """[MS-SMB2] 2.2.3.1.6: RDMATransformIds follow."""

    transform_count: U16
    reserved1: U16
    reserved2: U32


NEGOTIATE_REQUEST = Layout(NegotiateRequest)
NEGOTIATE_RESPONSE = Layout(NegotiateResponse)
NEGOTIATE_CONTEXT = Layout(NegotiateContext)
PREAUTH_INTEGRITY_CAPABILITIES = Layout(PreauthIntegrityCapabilities)
ALGORITHM_COUNT = Layout(AlgorithmCount)
COMPRESSION_CAPABILITIES = Layout(CompressionCapabilities)
TRANSPORT_CAPABILITIES = Layout(TransportCapabilities)
RDMA_TRANSFORM_CAPABILITIES = Layout(RdmaTransformCapabilities)

NEGOTIATE_REQUEST_STRUCTURE_SIZE = 36
NEGOTIATE_RESPONSE_STRUCTURE_SIZE = 65
MAX_CONTEXTS = 64  # no client sends more than a handful; the bound keeps a hostile count from costing time


def parse_contexts(pdu: memoryview, offset: int, count: int) -> list[tuple[int, bytes]]:
    """(ContextType, Data) of each context of the chain at ``offset`` from the SMB2 header, in the order sent.

    Raises ``WireError`` when the chain is not aligned, begins inside the fixed part or leaves the message.
    """
    if count > MAX_CONTEXTS:
        raise WireError(f"{count} negotiate contexts")
    contexts = []
    for _ in range(count):
        offset = (offset + 7) & ~7
        if offset < 64 + NEGOTIATE_REQUEST.size:
            raise WireError(f"negotiate context at offset {offset}")
        context = NEGOTIATE_CONTEXT.unpack(pdu, offset)
        start = offset + NEGOTIATE_CONTEXT.size
        offset = start + context.data_length
        if offset > len(pdu):
            raise WireError(f"negotiate context of {context.data_length} bytes leaves the message")
        contexts.append((context.context_type, bytes(pdu[start:offset])))
    return contexts


def build_contexts(contexts: Iterable[tuple[int, bytes]]) -> bytes:
    """The chain of ``contexts``: each begins at a multiple of 8 from the start of the result."""
    out = bytearray()
    for context_type, data in contexts:
        out += bytes(-len(out) % 8)
        out += NEGOTIATE_CONTEXT.pack(context_type, len(data), 0)
        out += data
    return bytes(out)
