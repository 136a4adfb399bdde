"""CANCEL, ECHO, OPLOCK_BREAK and lease breaks: [MS-SMB2] 2.2.23 to 2.2.25, 2.2.28 to 2.2.30. Owns their layouts."""

from __future__ import annotations

from typing import NamedTuple

from pools.layout import U8, U16, U32, U64, Layout, Raw16


class CancelRequest(NamedTuple):
    """[MS-SMB2] 2.2.30 SMB2 CANCEL Request."""

    structure_size: U16
    reserved: U16


class EchoRequest(NamedTuple):
    """[MS-SMB2] 2.2.28 SMB2 ECHO Request."""

    structure_size: U16
    reserved: U16


class EchoResponse(NamedTuple):
    """[MS-SMB2] 2.2.29 SMB2 ECHO Response."""

    structure_size: U16
    reserved: U16


class OplockBreak(NamedTuple):
    """[MS-SMB2] 2.2.23.1 notification, 2.2.24.1 acknowledgment, 2.2.25.1 response: one form for all three."""

    structure_size: U16
    oplock_level: U8
    reserved: U8
    reserved2: U32
    file_id_persistent: U64
    file_id_volatile: U64


class LeaseBreakNotification(NamedTuple):
    """[MS-SMB2] 2.2.23.2 Lease Break Notification."""

    structure_size: U16
    new_epoch: U16
    flags: U32
    lease_key: Raw16
    current_lease_state: U32
    new_lease_state: U32
    break_reason: U32
    access_mask_hint: U32
    share_mask_hint: U32


class LeaseBreak(NamedTuple):
    """[MS-SMB2] 2.2.24.2 Lease Break Acknowledgment, 2.2.25.2 Lease Break Response."""

    structure_size: U16
    reserved: U16
    flags: U32
    lease_key: Raw16
    lease_state: U32
    lease_duration: U64


CANCEL_REQUEST = Layout(CancelRequest)
ECHO_REQUEST = Layout(EchoRequest)
ECHO_RESPONSE = Layout(EchoResponse)
OPLOCK_BREAK = Layout(OplockBreak)
LEASE_BREAK_NOTIFICATION = Layout(LeaseBreakNotification)
LEASE_BREAK = Layout(LeaseBreak)

CANCEL_STRUCTURE_SIZE = 4
ECHO_STRUCTURE_SIZE = 4
OPLOCK_BREAK_STRUCTURE_SIZE = 24
LEASE_BREAK_NOTIFICATION_STRUCTURE_SIZE = 44
LEASE_BREAK_STRUCTURE_SIZE = 36  # tells an acknowledgment of a lease from one of an oplock
