"""The headers in front of every PDU: SMB2 header, transform header, error response, and the transport's length.

Owns: [MS-SMB2] 2.2.1, 2.2.2, 2.2.41. Invariant: a header is 64 bytes and its Signature field is bytes 48 to 63, so signing code may use
these offsets without unpacking.
"""

from __future__ import annotations

from typing import NamedTuple

from pools.layout import U8, U16, U32, U64, Layout, Raw2, Raw4, Raw16
from smbd.smb2.constants import FLAGS_ASYNC_COMMAND

PROTOCOL_ID = b"\xfeSMB"
TRANSFORM_PROTOCOL_ID = b"\xfdSMB"
COMPRESSION_PROTOCOL_ID = b"\xfcSMB"
SMB1_PROTOCOL_ID = b"\xffSMB"

SIGNATURE_OFFSET = 48
SIGNATURE_END = 64
NO_SIGNATURE = bytes(16)


class Header(NamedTuple):
    """[MS-SMB2] 2.2.1.2 SMB2 Packet Header - SYNC.

    In the ASYNC form (2.2.1.1) ``reserved`` and ``tree_id`` are the halves of AsyncId: see ``async_id``. In a request ``status``
    is ChannelSequence (low 16 bits) from dialect 3.0 on, and ``credit`` is CreditRequest; in a response CreditResponse.
    """

    protocol_id: Raw4
    structure_size: U16
    credit_charge: U16
    status: U32
    command: U16
    credit: U16
    flags: U32
    next_command: U32
    message_id: U64
    reserved: U32
    tree_id: U32
    session_id: U64
    signature: Raw16


class AsyncHeader(NamedTuple):
    """[MS-SMB2] 2.2.1.1 SMB2 Packet Header - ASYNC."""

    protocol_id: Raw4
    structure_size: U16
    credit_charge: U16
    status: U32
    command: U16
    credit: U16
    flags: U32
    next_command: U32
    message_id: U64
    async_id: U64
    session_id: U64
    signature: Raw16


class TransformHeader(NamedTuple):
    """[MS-SMB2] 2.2.41 SMB2 TRANSFORM_HEADER. ``flags`` is EncryptionAlgorithm before 3.1.1: both are 1."""

    protocol_id: Raw4
    signature: Raw16
    nonce: Raw16
    original_message_size: U32
    reserved: U16
    flags: U16
    session_id: U64


class ErrorResponse(NamedTuple):
    """[MS-SMB2] 2.2.2 SMB2 ERROR Response; ErrorData follows."""

    structure_size: U16
    error_context_count: U8
    reserved: U8
    byte_count: U32


class ErrorContext(NamedTuple):
    """[MS-SMB2] 2.2.2.1 SMB2 ERROR Context Response; ErrorContextData follows."""

    error_data_length: U32
    error_id: U32


class SymbolicLinkErrorResponse(NamedTuple):
    """[MS-SMB2] 2.2.2.2.1 Symbolic Link Error Response; PathBuffer follows."""

    sym_link_length: U32
    sym_link_error_tag: U32
    reparse_tag: U32
    reparse_data_length: U16
    unparsed_path_length: U16
    substitute_name_offset: U16
    substitute_name_length: U16
    print_name_offset: U16
    print_name_length: U16
    flags: U32


class Smb1Header(NamedTuple):
    """[MS-CIFS] 2.2.3.1, read only to answer the multi-protocol negotiate."""

    protocol: Raw4
    command: U8
    status: U32
    flags: U8
    flags2: U16
    pid_high: U16
    security_features_low: U32
    security_features_high: U32
    reserved: Raw2
    tid: U16
    pid_low: U16
    uid: U16
    mid: U16


HEADER = Layout(Header)
ASYNC_HEADER = Layout(AsyncHeader)
TRANSFORM_HEADER = Layout(TransformHeader)
ERROR_RESPONSE = Layout(ErrorResponse)
ERROR_CONTEXT = Layout(ErrorContext)
SYMBOLIC_LINK_ERROR_RESPONSE = Layout(SymbolicLinkErrorResponse)
SMB1_HEADER = Layout(Smb1Header)

HEADER_SIZE = 64
TRANSFORM_SIZE = 52
TRANSPORT_SIZE = 4
TRANSFORM_ENCRYPTED = 0x0001

assert HEADER.size == HEADER_SIZE
assert ASYNC_HEADER.size == HEADER_SIZE
assert TRANSFORM_HEADER.size == TRANSFORM_SIZE


def async_id(header: Header) -> int | None:
    """AsyncId of an ASYNC header, None of a SYNC one."""
    if header.flags & FLAGS_ASYNC_COMMAND:
        return header.reserved | header.tree_id << 32
    return None


def error_body(data: bytes = b"", contexts: int = 0) -> bytes:
    """The body of an error response: one byte of padding stands for empty ErrorData (2.2.2)."""
    return ERROR_RESPONSE.pack(9, contexts, 0, len(data)) + (data or b"\0")


ERROR_BODY = error_body()
