"""Create contexts: [MS-SMB2] 2.2.13.2, 2.2.14.2.

Owns: the chain and the layouts of what it carries. Invariant: every name and value read from a chain lies wholly inside its element.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pools.layout import U16, U32, U64, Layout, Raw16, WireError

EA_BUFFER = b"ExtA"
SD_BUFFER = b"SecD"
DURABLE_HANDLE_REQUEST = b"DHnQ"
DURABLE_HANDLE_RECONNECT = b"DHnC"
ALLOCATION_SIZE = b"AlSi"
QUERY_MAXIMAL_ACCESS_REQUEST = b"MxAc"
TIMEWARP_TOKEN = b"TWrp"
QUERY_ON_DISK_ID = b"QFid"
REQUEST_LEASE = b"RqLs"
DURABLE_HANDLE_REQUEST_V2 = b"DH2Q"
DURABLE_HANDLE_RECONNECT_V2 = b"DH2C"
APP_INSTANCE_ID = bytes.fromhex("45BCA66AEFA7F74A9008FA462E144D74")
APP_INSTANCE_VERSION = bytes.fromhex("B982D0B73B56074FA07B524A8116A010")
SVHDX_OPEN_DEVICE_CONTEXT = bytes.fromhex("9CCBCF9E04C1E643980E158DA1F6EC83")
AAPL = b"AAPL"
POSIX = bytes.fromhex("93AD25509CB411E7B42383DE968BCD7C")


class CreateContext(NamedTuple):
    """[MS-SMB2] 2.2.13.2 SMB2_CREATE_CONTEXT; name and data follow. Offsets count from this element."""

    next: U32
    name_offset: U16
    name_length: U16
    reserved: U16
    data_offset: U16
    data_length: U32


class DurableHandleReconnect(NamedTuple):
    """[MS-SMB2] 2.2.13.2.4: the FileId to reconnect."""

    file_id_persistent: U64
    file_id_volatile: U64


class AllocationSize(NamedTuple):
    """[MS-SMB2] 2.2.13.2.6."""

    allocation_size: U64


class QueryMaximalAccessRequest(NamedTuple):
    """[MS-SMB2] 2.2.13.2.5: the timestamp is optional (0 or 8 bytes)."""

    timestamp: U64


class QueryMaximalAccessResponse(NamedTuple):
    """[MS-SMB2] 2.2.14.2.5."""

    query_status: U32
    maximal_access: U32


class TimewarpToken(NamedTuple):
    """[MS-SMB2] 2.2.13.2.7."""

    timestamp: U64


class QueryOnDiskId(NamedTuple):
    """[MS-SMB2] 2.2.14.2.9."""

    disk_file_id: U64
    volume_id: U64
    reserved: Raw16


class Lease(NamedTuple):
    """[MS-SMB2] 2.2.13.2.8, 2.2.14.2.10: version 1, request and response alike."""

    lease_key: Raw16
    lease_state: U32
    lease_flags: U32
    lease_duration: U64


class LeaseV2(NamedTuple):
    """[MS-SMB2] 2.2.13.2.10, 2.2.14.2.11: version 2, request and response alike."""

    lease_key: Raw16
    lease_state: U32
    lease_flags: U32
    lease_duration: U64
    parent_lease_key: Raw16
    epoch: U16
    reserved: U16


class DurableHandleRequestV2(NamedTuple):
    """[MS-SMB2] 2.2.13.2.11."""

    timeout: U32
    flags: U32
    reserved: U64
    create_guid: Raw16


class DurableHandleReconnectV2(NamedTuple):
    """[MS-SMB2] 2.2.13.2.12."""

    file_id_persistent: U64
    file_id_volatile: U64
    create_guid: Raw16
    flags: U32


class DurableHandleResponseV2(NamedTuple):
    """[MS-SMB2] 2.2.14.2.12."""

    timeout: U32
    flags: U32


class AppInstanceId(NamedTuple):
    """[MS-SMB2] 2.2.13.2.13."""

    structure_size: U16
    reserved: U16
    app_instance_id: Raw16


class AppInstanceVersion(NamedTuple):
    """[MS-SMB2] 2.2.13.2.15."""

    structure_size: U16
    reserved: U16
    padding: U32
    app_instance_version_high: U64
    app_instance_version_low: U64


CREATE_CONTEXT = Layout(CreateContext)
DURABLE_RECONNECT = Layout(DurableHandleReconnect)
ALLOCATION = Layout(AllocationSize)
MAXIMAL_ACCESS_REQUEST = Layout(QueryMaximalAccessRequest)
MAXIMAL_ACCESS_RESPONSE = Layout(QueryMaximalAccessResponse)
TIMEWARP = Layout(TimewarpToken)
ON_DISK_ID = Layout(QueryOnDiskId)
LEASE = Layout(Lease)
LEASE_V2 = Layout(LeaseV2)
DURABLE_REQUEST_V2 = Layout(DurableHandleRequestV2)
DURABLE_RECONNECT_V2 = Layout(DurableHandleReconnectV2)
DURABLE_RESPONSE_V2 = Layout(DurableHandleResponseV2)
APP_INSTANCE = Layout(AppInstanceId)
APP_VERSION = Layout(AppInstanceVersion)

MAX_CONTEXTS = 64


def parse_chain(chain: memoryview) -> dict[bytes, memoryview]:
    """Name -> data of each create context in ``chain`` (exactly CreateContextsLength bytes). Of equal names the last one counts.

    Raises ``WireError`` ([MS-SMB2] 3.3.5.9: INVALID_PARAMETER) when an element is not aligned or anything leaves it.
    """
    contexts: dict[bytes, memoryview] = {}
    offset, end = 0, len(chain)
    for _ in range(MAX_CONTEXTS):
        following = _parse_one(chain[offset:end], contexts)
        if following == 0:
            return contexts
        offset += following
    raise WireError(f"more than {MAX_CONTEXTS} create contexts")


def _parse_one(rest: memoryview, contexts: dict[bytes, memoryview]) -> int:
    """Read the element at the start of ``rest`` into ``contexts``; its Next."""
    context = CREATE_CONTEXT.unpack(rest)
    end = context.next or len(rest)
    if context.next & 7 or end > len(rest) or (context.next and context.next < CREATE_CONTEXT.size):
        raise WireError(f"create context's Next {context.next} of {len(rest)}")
    name_end = context.name_offset + context.name_length
    if context.name_offset < CREATE_CONTEXT.size or context.name_length < 4 or name_end > end:
        raise WireError(f"create context's name at {context.name_offset}, {context.name_length} bytes")
    data = rest[:0]
    if context.data_length:
        data_end = context.data_offset + context.data_length
        if context.data_offset < CREATE_CONTEXT.size or data_end > end:
            raise WireError(f"create context's data at {context.data_offset}, {context.data_length} bytes")
        data = rest[context.data_offset : data_end]
    contexts[bytes(rest[context.name_offset : name_end])] = data
    return context.next


def build_chain(contexts: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The chain of (name, data): elements, and data within them, are aligned to 8."""
    elements = []
    for name, data in contexts:
        data_offset = CREATE_CONTEXT.size + len(name) + (-len(name) % 8)
        elements.append((name, data, data_offset, data_offset + len(data)))
    out = bytearray()
    for index, (name, data, data_offset, size) in enumerate(elements):
        following = size + (-size % 8) if index + 1 < len(elements) else 0
        start = len(out)
        out += CREATE_CONTEXT.pack(following, CREATE_CONTEXT.size, len(name), 0, data_offset if data else 0, len(data))
        out += name
        if data or following:
            out += bytes(start + data_offset - len(out))
        out += data
        if following:
            out += bytes(start + following - len(out))
    return bytes(out)
