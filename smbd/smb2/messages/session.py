"""SESSION_SETUP and LOGOFF: [MS-SMB2] 2.2.5 to 2.2.8. Owns their layouts."""

from __future__ import annotations

from typing import NamedTuple

from pools.layout import U8, U16, U32, U64, Layout


class SessionSetupRequest(NamedTuple):
    """[MS-SMB2] 2.2.5 SMB2 SESSION_SETUP Request; the security buffer follows."""

    structure_size: U16
    flags: U8
    security_mode: U8
    capabilities: U32
    channel: U32
    security_buffer_offset: U16
    security_buffer_length: U16
    previous_session_id: U64


class SessionSetupResponse(NamedTuple):
    """[MS-SMB2] 2.2.6 SMB2 SESSION_SETUP Response; the security buffer follows."""

    structure_size: U16
    session_flags: U16
    security_buffer_offset: U16
    security_buffer_length: U16


class LogoffRequest(NamedTuple):
    """[MS-SMB2] 2.2.7 SMB2 LOGOFF Request."""

    structure_size: U16
    reserved: U16


class LogoffResponse(NamedTuple):
    """[MS-SMB2] 2.2.8 SMB2 LOGOFF Response."""

    structure_size: U16
    reserved: U16


SESSION_SETUP_REQUEST = Layout(SessionSetupRequest)
SESSION_SETUP_RESPONSE = Layout(SessionSetupResponse)
LOGOFF_REQUEST = Layout(LogoffRequest)
LOGOFF_RESPONSE = Layout(LogoffResponse)

SESSION_SETUP_REQUEST_STRUCTURE_SIZE = 25
SESSION_SETUP_RESPONSE_STRUCTURE_SIZE = 9
LOGOFF_STRUCTURE_SIZE = 4
