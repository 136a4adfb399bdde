"""CREATE: [MS-SMB2] 2.2.13, 2.2.14. Owns its layouts; its contexts are in create_contexts."""

from __future__ import annotations

from typing import NamedTuple

from pools.layout import U8, U16, U32, U64, Layout


class CreateRequest(NamedTuple):
    """[MS-SMB2] 2.2.13 SMB2 CREATE Request; the name and the create contexts follow."""

    structure_size: U16
    security_flags: U8
    requested_oplock_level: U8
    impersonation_level: U32
    smb_create_flags: U64
    reserved: U64
    desired_access: U32
    file_attributes: U32
    share_access: U32
    create_disposition: U32
    create_options: U32
    name_offset: U16
    name_length: U16
    create_contexts_offset: U32
    create_contexts_length: U32


class CreateResponse(NamedTuple):
    """[MS-SMB2] 2.2.14 SMB2 CREATE Response; the create contexts follow. Times are FILETIME."""

    structure_size: U16
    oplock_level: U8
    flags: U8
    create_action: U32
    creation_time: U64
    last_access_time: U64
    last_write_time: U64
    change_time: U64
    allocation_size: U64
    end_of_file: U64
    file_attributes: U32
    reserved2: U32
    file_id_persistent: U64
    file_id_volatile: U64
    create_contexts_offset: U32
    create_contexts_length: U32


CREATE_REQUEST = Layout(CreateRequest)
CREATE_RESPONSE = Layout(CreateResponse)

CREATE_REQUEST_STRUCTURE_SIZE = 57
CREATE_RESPONSE_STRUCTURE_SIZE = 89
