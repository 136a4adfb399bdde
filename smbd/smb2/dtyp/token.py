"""Who acts: the token that the authenticator hands out.

Owns: ``Token`` and the names of privileges. Invariant: immutable; a token of an anonymous user is never a guest's or a user's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from smbd.smb2.dtyp.sid import SID

SE_SECURITY = "SeSecurityPrivilege"
SE_TAKE_OWNERSHIP = "SeTakeOwnershipPrivilege"
SE_BACKUP = "SeBackupPrivilege"
SE_RESTORE = "SeRestorePrivilege"
SE_CHANGE_NOTIFY = "SeChangeNotifyPrivilege"


@dataclass(frozen=True, slots=True)
class Token:
    """[MS-DTYP] 2.5.2 Token, with the Unix identity beside it. ``groups`` are supplementary gids, without duplicates.

    ``group_sids[0]`` is the primary group's when there is one.
    """

    user_sid: SID
    group_sids: tuple[SID, ...] = ()
    privileges: frozenset[str] = frozenset()
    uid: int = 65534
    gid: int = 65534
    groups: tuple[int, ...] = ()
    name: str = ""
    domain: str = ""
    guest: bool = False
    anonymous: bool = False
    sids: frozenset[SID] = field(init=False, compare=False, repr=False)
    """All SIDs that an entry can name: made once, asked at each check."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sids", frozenset((self.user_sid, *self.group_sids)))
