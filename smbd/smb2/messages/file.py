"""CLOSE, FLUSH, READ, WRITE, LOCK: [MS-SMB2] 2.2.15 to 2.2.22, 2.2.26, 2.2.27. Owns their layouts."""

from __future__ import annotations

from typing import NamedTuple

from pools.layout import U8, U16, U32, U64, Layout


class CloseRequest(NamedTuple):
    """[MS-SMB2] 2.2.15 SMB2 CLOSE Request."""

    structure_size: U16
    flags: U16
    reserved: U32
    file_id_persistent: U64
    file_id_volatile: U64


class CloseResponse(NamedTuple):
    """[MS-SMB2] 2.2.16 SMB2 CLOSE Response."""

    structure_size: U16
    flags: U16
    reserved: U32
    creation_time: U64
    last_access_time: U64
    last_write_time: U64
    change_time: U64
    allocation_size: U64
    end_of_file: U64
    file_attributes: U32


class FlushRequest(NamedTuple):
    """[MS-SMB2] 2.2.17 SMB2 FLUSH Request."""

    structure_size: U16
    reserved1: U16
    reserved2: U32
    file_id_persistent: U64
    file_id_volatile: U64


class FlushResponse(NamedTuple):
    """[MS-SMB2] 2.2.18 SMB2 FLUSH Response."""

    structure_size: U16
    reserved: U16


class ReadRequest(NamedTuple):
    """[MS-SMB2] 2.2.19 SMB2 READ Request; at least one byte of buffer follows."""

    structure_size: U16
    padding: U8
    flags: U8
    length: U32
    offset: U64
    file_id_persistent: U64
    file_id_volatile: U64
    minimum_count: U32
    channel: U32
    remaining_bytes: U32
    read_channel_info_offset: U16
    read_channel_info_length: U16


class ReadResponse(NamedTuple):
    """[MS-SMB2] 2.2.20 SMB2 READ Response; the data follow. ``reserved2`` is Flags in 3.1.1."""

    structure_size: U16
    data_offset: U8
    reserved: U8
    data_length: U32
    data_remaining: U32
    reserved2: U32


class WriteRequest(NamedTuple):
    """[MS-SMB2] 2.2.21 SMB2 WRITE Request; the data follow."""

    structure_size: U16
    data_offset: U16
    length: U32
    offset: U64
    file_id_persistent: U64
    file_id_volatile: U64
    channel: U32
    remaining_bytes: U32
    write_channel_info_offset: U16
    write_channel_info_length: U16
    flags: U32


class WriteResponse(NamedTuple):
    """[MS-SMB2] 2.2.22 SMB2 WRITE Response. ``write_count`` is Count: a tuple has a method of that name."""

    structure_size: U16
    reserved: U16
    write_count: U32
    remaining: U32
    write_channel_info_offset: U16
    write_channel_info_length: U16


class LockRequest(NamedTuple):
    """[MS-SMB2] 2.2.26 SMB2 LOCK Request; LockCount elements follow. In 2.0.2 ``lock_sequence`` is Reserved."""

    structure_size: U16
    lock_count: U16
    lock_sequence: U32
    file_id_persistent: U64
    file_id_volatile: U64


class LockElement(NamedTuple):
    """[MS-SMB2] 2.2.26.1 SMB2_LOCK_ELEMENT."""

    offset: U64
    length: U64
    flags: U32
    reserved: U32


class LockResponse(NamedTuple):
    """[MS-SMB2] 2.2.27 SMB2 LOCK Response."""

    structure_size: U16
    reserved: U16


CLOSE_REQUEST = Layout(CloseRequest)
CLOSE_RESPONSE = Layout(CloseResponse)
FLUSH_REQUEST = Layout(FlushRequest)
FLUSH_RESPONSE = Layout(FlushResponse)
READ_REQUEST = Layout(ReadRequest)
READ_RESPONSE = Layout(ReadResponse)
WRITE_REQUEST = Layout(WriteRequest)
WRITE_RESPONSE = Layout(WriteResponse)
LOCK_REQUEST = Layout(LockRequest)
LOCK_ELEMENT = Layout(LockElement)
LOCK_RESPONSE = Layout(LockResponse)

CLOSE_REQUEST_STRUCTURE_SIZE = 24
CLOSE_RESPONSE_STRUCTURE_SIZE = 60
FLUSH_REQUEST_STRUCTURE_SIZE = 24
FLUSH_RESPONSE_STRUCTURE_SIZE = 4
READ_REQUEST_STRUCTURE_SIZE = 49
READ_RESPONSE_STRUCTURE_SIZE = 17
WRITE_REQUEST_STRUCTURE_SIZE = 49
WRITE_RESPONSE_STRUCTURE_SIZE = 17
LOCK_REQUEST_STRUCTURE_SIZE = 48  # counts one lock element
LOCK_RESPONSE_STRUCTURE_SIZE = 4
