"""DFS referrals: [MS-DFSC] 2.2, as the FSCTLs of [MS-SMB2] 3.3.5.15.2 carry them.

Owns: the layouts, the reading of both requests, and the packing of a response in any of its versions. Invariant: a name of a request ends
before its buffer does; what ``pack`` makes is no longer than it was allowed.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pools.layout import U16, U32, Layout, Raw16
from smbd.smb2 import status
from smbd.smb2.names import decode, encode
from smbd.smb2.status import SmbError

SERVER_TYPE_LINK: Final = 0x0000
SERVER_TYPE_ROOT: Final = 0x0001
REFERRAL_SERVERS: Final = 0x00000001
STORAGE_SERVERS: Final = 0x00000002
_TARGET_SET_BOUNDARY: Final = 0x0004
_NEWEST: Final = 4
_NUL: Final = b"\0\0"


class ReqGetDfsReferral(NamedTuple):
    """2.2.2 REQ_GET_DFS_REFERRAL; RequestFileName follows."""

    max_referral_level: U16


class ReqGetDfsReferralEx(NamedTuple):
    """2.2.3 REQ_GET_DFS_REFERRAL_EX; RequestData follow: the name's length, the name, and perhaps a site."""

    max_referral_level: U16
    request_flags: U16
    request_data_length: U32


class NameLength(NamedTuple):
    """2.2.3.1 RequestFileNameLength."""

    request_file_name_length: U16


class RespGetDfsReferral(NamedTuple):
    """2.2.4 RESP_GET_DFS_REFERRAL; the entries follow, then their strings."""

    path_consumed: U16
    number_of_referrals: U16
    referral_header_flags: U32


class DfsReferralV1(NamedTuple):
    """2.2.5.1 DFS_REFERRAL_V1; ShareName follows."""

    version_number: U16
    size: U16
    server_type: U16
    referral_entry_flags: U16


class DfsReferralV2(NamedTuple):
    """2.2.5.2 DFS_REFERRAL_V2. Offsets count from the entry's start."""

    version_number: U16
    size: U16
    server_type: U16
    referral_entry_flags: U16
    proximity: U32
    time_to_live: U32
    dfs_path_offset: U16
    dfs_alternate_path_offset: U16
    network_address_offset: U16


class DfsReferralV3(NamedTuple):
    """2.2.5.3 and 2.2.5.4 DFS_REFERRAL_V3, V4, where no list of names was asked for."""

    version_number: U16
    size: U16
    server_type: U16
    referral_entry_flags: U16
    time_to_live: U32
    dfs_path_offset: U16
    dfs_alternate_path_offset: U16
    network_address_offset: U16
    service_site_guid: Raw16


REQUEST = Layout(ReqGetDfsReferral)
REQUEST_EX = Layout(ReqGetDfsReferralEx)
NAME_LENGTH = Layout(NameLength)
RESPONSE = Layout(RespGetDfsReferral)
V1 = Layout(DfsReferralV1)
V2 = Layout(DfsReferralV2)
V3 = Layout(DfsReferralV3)


class Asked(NamedTuple):
    """A request of either form."""

    level: int
    name: str


class Referral(NamedTuple):
    r"""``path``, a beginning of the name that was asked for, is to be looked for at ``targets`` (``\server\share``...), the best first."""

    path: str
    targets: tuple[str, ...]
    root: bool
    time_to_live: int


def read_request(data: memoryview) -> Asked:
    """REQ_GET_DFS_REFERRAL."""
    head = REQUEST.unpack(data)
    return Asked(head.max_referral_level, _text(data[REQUEST.size :]))


def read_request_ex(data: memoryview) -> Asked:
    """REQ_GET_DFS_REFERRAL_EX. The site, if any, makes no difference."""
    head = REQUEST_EX.unpack(data)
    rest = data[REQUEST_EX.size :]
    length = NAME_LENGTH.unpack(rest).request_file_name_length
    if head.request_data_length > len(rest) or NAME_LENGTH.size + length > head.request_data_length:
        raise SmbError(status.INVALID_PARAMETER)
    return Asked(head.max_referral_level, _text(rest[NAME_LENGTH.size : NAME_LENGTH.size + length]))


def _text(raw: memoryview) -> str:
    if len(raw) & 1:
        raise SmbError(status.INVALID_PARAMETER)
    return decode(raw).partition("\0")[0]


def pack(referral: Referral, level: int, room: int) -> bytes | None:
    """The response in the newest version that the client knows; None where there is no room for it."""
    version = min(level, _NEWEST)
    path = encode(referral.path)
    packed = _pack_v1(referral) if version == 1 else _pack_others(referral, version, path)
    flags = STORAGE_SERVERS | (REFERRAL_SERVERS if referral.root else 0)
    whole = RESPONSE.pack(len(path), len(referral.targets), flags) + packed
    return whole if len(whole) <= room else None


def _pack_v1(referral: Referral) -> bytes:
    names = [encode(target) + _NUL for target in referral.targets]
    return b"".join(V1.pack(1, V1.size + len(name), _server_type(referral), 0) + name for name in names)


def _server_type(referral: Referral) -> int:
    return SERVER_TYPE_ROOT if referral.root else SERVER_TYPE_LINK


def _pack_others(referral: Referral, version: int, path: bytes) -> bytes:
    """The entries, then the strings: the path once, each target once."""
    size = V2.size if version == 2 else V3.size
    strings = path + _NUL
    entries = []
    count = len(referral.targets)
    for index, target in enumerate(referral.targets):
        to_strings = (count - index) * size
        offsets = (to_strings, to_strings, to_strings + len(strings))
        strings += encode(target) + _NUL
        if version == 2:
            entries.append(V2.pack(2, size, _server_type(referral), 0, 0, referral.time_to_live, *offsets))
            continue
        flags = _TARGET_SET_BOUNDARY if version == 4 and not index else 0
        entries.append(V3.pack(version, size, _server_type(referral), flags, referral.time_to_live, *offsets, b""))
    return b"".join(entries) + strings
