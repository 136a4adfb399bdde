"""QUERY_INFO and SET_INFO: [MS-SMB2] 2.2.37 to 2.2.40. Owns their layouts; the information classes are [MS-FSCC]'s."""

from __future__ import annotations

from typing import NamedTuple

from pools.layout import U8, U16, U32, U64, Layout


class QueryInfoRequest(NamedTuple):
    """[MS-SMB2] 2.2.37 SMB2 QUERY_INFO Request; the input buffer follows."""

    structure_size: U16
    info_type: U8
    file_info_class: U8
    output_buffer_length: U32
    input_buffer_offset: U16
    reserved: U16
    input_buffer_length: U32
    additional_information: U32
    flags: U32
    file_id_persistent: U64
    file_id_volatile: U64


class QueryInfoResponse(NamedTuple):
    """[MS-SMB2] 2.2.38 SMB2 QUERY_INFO Response; the output buffer follows."""

    structure_size: U16
    output_buffer_offset: U16
    output_buffer_length: U32


class QueryQuotaInfo(NamedTuple):
    """[MS-SMB2] 2.2.37.1 SMB2_QUERY_QUOTA_INFO; the SID list follows."""

    return_single: U8
    restart_scan: U8
    reserved: U16
    sid_list_length: U32
    start_sid_length: U32
    start_sid_offset: U32


class SetInfoRequest(NamedTuple):
    """[MS-SMB2] 2.2.39 SMB2 SET_INFO Request; the buffer follows."""

    structure_size: U16
    info_type: U8
    file_info_class: U8
    buffer_length: U32
    buffer_offset: U16
    reserved: U16
    additional_information: U32
    file_id_persistent: U64
    file_id_volatile: U64


class SetInfoResponse(NamedTuple):
    """[MS-SMB2] 2.2.40 SMB2 SET_INFO Response."""

    structure_size: U16


QUERY_INFO_REQUEST = Layout(QueryInfoRequest)
QUERY_INFO_RESPONSE = Layout(QueryInfoResponse)
QUERY_QUOTA_INFO = Layout(QueryQuotaInfo)
SET_INFO_REQUEST = Layout(SetInfoRequest)
SET_INFO_RESPONSE = Layout(SetInfoResponse)

QUERY_INFO_REQUEST_STRUCTURE_SIZE = 41
QUERY_INFO_RESPONSE_STRUCTURE_SIZE = 9
SET_INFO_REQUEST_STRUCTURE_SIZE = 33
SET_INFO_RESPONSE_STRUCTURE_SIZE = 2
