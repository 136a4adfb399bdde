"""Users' quotas by QUERY_INFO and SET_INFO: [MS-SMB2] 2.2.37.1, 3.3.5.20.4, 3.3.5.21.4.

Owns: who may ask for whose. Everybody may know his own; others', and who has any, only those who act as administrators of the share, and
only they may set them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pools.layout import WireError
from pools.port.interface import Quota
from smbd.smb2 import status
from smbd.smb2.dtyp import SID
from smbd.smb2.fscc.quota import NO_LIMIT, UserQuota, pack_quotas, parse_quotas, parse_sids
from smbd.smb2.messages.info import QUERY_QUOTA_INFO
from smbd.smb2.status import SmbError
from workers import identity

if TYPE_CHECKING:
    from workers.request import Request
    from workers.tree import TreeConnect
    from workers.vfs.interface import Vfs

_REMOVE = NO_LIMIT - 1  # [MS-FSCC] 2.4.41: takes a user's entry away
_LARGEST = (1 << 63) - 1
_NOTHING = Quota(0, 0, 0)


def query(request: Request, data: memoryview, room: int) -> bytes:
    """The quotas that are asked for, as many as there is room for; those of all go on where the request before ended."""
    vfs, sids = _vfs(request.tree), data[QUERY_QUOTA_INFO.size :]
    try:
        asked = QUERY_QUOTA_INFO.unpack(data)
    except WireError as error:
        raise SmbError(status.INVALID_PARAMETER) from error
    most = 1 if asked.return_single else None
    if asked.sid_list_length:
        found = [_one(request, vfs, sid) for sid in parse_sids(_part(sids, 0, asked.sid_list_length))[:most]]
        return _pack(found, room)[0]
    opened = request.open
    if asked.start_sid_length:
        opened.quotas_from = _uid_of(request, SID.unpack(_part(sids, asked.start_sid_offset, asked.start_sid_length)))
    elif asked.restart_scan:
        opened.quotas_from = 0
    users = _users(request, vfs, opened.quotas_from)[:most]
    if not users:
        raise SmbError(status.NO_MORE_ENTRIES)
    packed, count = _pack([_told(request.worker.ids.user_sid(uid), quota) for uid, quota in users], room)
    opened.quotas_from = users[count - 1][0] + 1
    return packed


def change(request: Request, data: memoryview) -> None:
    """Set limits. All of the list is read before the first is set; one that the file system refuses ends it."""
    tree = request.tree
    vfs = _vfs(tree)
    if not _manages(tree):
        raise SmbError(status.ACCESS_DENIED)
    wishes = [(_uid_of(request, wish.sid), _limit(wish.threshold), _limit(wish.limit)) for wish in parse_quotas(data)]
    for uid, soft, hard in wishes:
        vfs.set_quota(uid, soft, hard)


def within(tree: TreeConnect, unit: int) -> tuple[int, int] | None:
    """(total, available) of the user's quota, in units of ``unit`` bytes; None where nothing limits him ([MS-FSCC] 2.5.4)."""
    vfs = tree.vfs
    assert vfs is not None
    own = vfs.quota(tree.token.uid)
    limit = 0 if own is None else own.hard or own.soft
    if own is None or not limit:
        return None
    return limit // unit, max(0, limit - own.used) // unit


def _vfs(tree: TreeConnect) -> Vfs:
    """NOT_SUPPORTED where the file system has no quotas."""
    vfs = tree.vfs
    if vfs is None or vfs.quota(tree.token.uid) is None:
        raise SmbError(status.NOT_SUPPORTED)
    return vfs


def _manages(tree: TreeConnect) -> bool:
    return tree.identity == identity.ROOT or "SeManageVolumePrivilege" in tree.token.privileges


def _users(request: Request, vfs: Vfs, first: int) -> list[tuple[int, Quota]]:
    """Those from ``first`` on: of an administrator all, of others themselves."""
    if _manages(request.tree):
        return vfs.quotas(first)
    uid = request.tree.token.uid
    own = vfs.quota(uid) if uid >= first else None
    return [] if own is None else [(uid, own)]


def _one(request: Request, vfs: Vfs, sid: SID) -> UserQuota:
    """A SID that is no user's, or nobody's here, has used nothing."""
    uid = request.worker.ids.uid_of(sid)
    if uid != request.tree.token.uid and not _manages(request.tree):
        raise SmbError(status.ACCESS_DENIED)
    return _told(sid, (vfs.quota(uid) if uid is not None else None) or _NOTHING)


def _uid_of(request: Request, sid: SID) -> int:
    uid = request.worker.ids.uid_of(sid)
    if uid is None:
        raise SmbError(status.NO_SUCH_USER)
    return uid


def _told(sid: SID, quota: Quota) -> UserQuota:
    return UserQuota(sid, quota.used, quota.soft or NO_LIMIT, quota.hard or NO_LIMIT)


def _limit(wire: int) -> int:
    """0 for none. Beyond what a disk can hold there is no limit either."""
    return 0 if wire in (NO_LIMIT, _REMOVE) or wire > _LARGEST else wire


def _part(data: memoryview, offset: int, length: int) -> memoryview:
    if offset + length > len(data):
        raise SmbError(status.INVALID_PARAMETER)
    return data[offset : offset + length]


def _pack(found: list[UserQuota], room: int) -> tuple[bytes, int]:
    """What there is room for, and how many that is. BUFFER_TOO_SMALL: not even one."""
    packed, count = pack_quotas(found, room)
    if not count:
        raise SmbError(status.BUFFER_TOO_SMALL)
    return packed, count
