"""QUERY_DIRECTORY and CHANGE_NOTIFY: [MS-SMB2] 2.2.33 to 2.2.36. Owns their layouts; entries are [MS-FSCC]'s."""

from __future__ import annotations

from typing import NamedTuple

from pools.layout import U8, U16, U32, U64, Layout


class QueryDirectoryRequest(NamedTuple):
    """[MS-SMB2] 2.2.33 SMB2 QUERY_DIRECTORY Request; the search pattern follows."""

    structure_size: U16
    file_information_class: U8
    flags: U8
    file_index: U32
    file_id_persistent: U64
    file_id_volatile: U64
    file_name_offset: U16
    file_name_length: U16
    output_buffer_length: U32


class QueryDirectoryResponse(NamedTuple):
    """[MS-SMB2] 2.2.34 SMB2 QUERY_DIRECTORY Response; the entries follow."""

    structure_size: U16
    output_buffer_offset: U16
    output_buffer_length: U32


class ChangeNotifyRequest(NamedTuple):
    """[MS-SMB2] 2.2.35 SMB2 CHANGE_NOTIFY Request."""

    structure_size: U16
    flags: U16
    output_buffer_length: U32
    file_id_persistent: U64
    file_id_volatile: U64
    completion_filter: U32
    reserved: U32


class ChangeNotifyResponse(NamedTuple):
    """[MS-SMB2] 2.2.36 SMB2 CHANGE_NOTIFY Response; FILE_NOTIFY_INFORMATION structures follow."""

    structure_size: U16
    output_buffer_offset: U16
    output_buffer_length: U32


QUERY_DIRECTORY_REQUEST = Layout(QueryDirectoryRequest)
QUERY_DIRECTORY_RESPONSE = Layout(QueryDirectoryResponse)
CHANGE_NOTIFY_REQUEST = Layout(ChangeNotifyRequest)
CHANGE_NOTIFY_RESPONSE = Layout(ChangeNotifyResponse)

QUERY_DIRECTORY_REQUEST_STRUCTURE_SIZE = 33
QUERY_DIRECTORY_RESPONSE_STRUCTURE_SIZE = 9
CHANGE_NOTIFY_REQUEST_STRUCTURE_SIZE = 32
CHANGE_NOTIFY_RESPONSE_STRUCTURE_SIZE = 9
