"""Users' quotas: [MS-FSCC] 2.4.41, and the lists of SIDs that ask for them.

Owns: the two layouts, their packer and parsers. Invariant: as in ``lists``: forwards only, inside the buffer, no partial entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from pools.layout import I64, U32, U64, Layout, Readable, WireError
from smbd.smb2 import status
from smbd.smb2.dtyp import SID
from smbd.smb2.fscc.lists import chained
from smbd.smb2.status import SmbError

NO_LIMIT: Final = 0xFFFFFFFFFFFFFFFF
_MOST: Final = 4096  # entries of one request


class FileQuotaInformation(NamedTuple):
    """2.4.41; the SID follows."""

    next_entry_offset: U32
    sid_length: U32
    change_time: I64
    quota_used: U64
    quota_threshold: U64
    quota_limit: U64


class FileGetQuotaInformation(NamedTuple):
    """2.4.41.1; the SID follows."""

    next_entry_offset: U32
    sid_length: U32


class UserQuota(NamedTuple):
    """One user's, in bytes; ``NO_LIMIT``: none."""

    sid: SID
    used: int
    threshold: int
    limit: int


QUOTA: Final = Layout(FileQuotaInformation)
GET_QUOTA: Final = Layout(FileGetQuotaInformation)


def pack_quotas(quotas: Sequence[UserQuota], limit: int) -> tuple[bytes, int]:
    """As many as there is room for, and how many those are."""
    fitting = end = 0
    for quota in quotas:
        end = (end + 7 & ~7) + QUOTA.size + quota.sid.size
        if end > limit:
            break
        fitting += 1
    return chained((_packed(quota) for quota in quotas[:fitting]), 8, limit).data, fitting


def _packed(quota: UserQuota) -> bytes:
    sid = quota.sid.pack()
    return QUOTA.pack(0, len(sid), 0, quota.used, quota.threshold, quota.limit) + sid


def parse_quotas(data: Readable) -> list[UserQuota]:
    """Of a SET_INFO. INVALID_PARAMETER for what does not hang together."""
    found: list[UserQuota] = []
    offset = 0
    while True:
        entry = _at(QUOTA, data, offset)
        sid = _sid(data, offset + QUOTA.size, entry.sid_length)
        found.append(UserQuota(sid, entry.quota_used, entry.quota_threshold, entry.quota_limit))
        if not entry.next_entry_offset or len(found) >= _MOST:
            return found
        offset = _next(offset, entry.next_entry_offset, len(data))


def parse_sids(data: Readable) -> list[SID]:
    """Of a QUERY_INFO: whose quotas are asked for."""
    found: list[SID] = []
    offset = 0
    while True:
        entry = _at(GET_QUOTA, data, offset)
        found.append(_sid(data, offset + GET_QUOTA.size, entry.sid_length))
        if not entry.next_entry_offset or len(found) >= _MOST:
            return found
        offset = _next(offset, entry.next_entry_offset, len(data))


def _next(offset: int, step: int, size: int) -> int:
    if step % 4 or offset + step >= size:
        raise SmbError(status.INVALID_PARAMETER)
    return offset + step


def _at(layout: Layout[Any], data: Readable, offset: int) -> Any:
    try:
        return layout.unpack(data, offset)
    except WireError as error:
        raise SmbError(status.INVALID_PARAMETER) from error


def _sid(data: Readable, offset: int, length: int) -> SID:
    if offset + length > len(data):
        raise SmbError(status.INVALID_PARAMETER)
    try:
        return SID.unpack(data[offset : offset + length])
    except WireError as error:
        raise SmbError(status.INVALID_SID) from error
