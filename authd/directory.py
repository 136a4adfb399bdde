"""Names to SIDs and back, for whoever shows or sets owners and access lists.

Owns: the order in which names are looked for: well-known, users of the database, Unix users, Unix groups. Invariant: what it answers is
public knowledge on this machine; hashes are not within its reach.
"""

from __future__ import annotations

import grp
import pwd

from authd.users import UserDatabase
from smbd.accounts import BUILTIN_SID, WELL_KNOWN, WELL_KNOWN_NAMES, Account, IdMap, SidType, UserRecord
from smbd.smb2.dtyp.sid import SID

DOMAIN_USERS_RID = 513
"""Every account's primary group in [MS-SAMR]; on a machine that is no domain controller it is called None."""


class Directory:
    """Answers for the machine's own domain ``ids.domain``, BUILTIN and NT AUTHORITY."""

    def __init__(self, ids: IdMap, database: UserDatabase) -> None:
        self._ids = ids
        self._database = database

    def by_name(self, name: str) -> Account:
        """The account called ``name``, with or without its domain; kind UNKNOWN when there is none."""
        # Windows takes the empty name for BUILTIN.
        known = WELL_KNOWN_NAMES.get(name.casefold()) if name else WELL_KNOWN[BUILTIN_SID]
        if known is not None:
            return known
        domain, backslash, account = name.rpartition("\\")
        if backslash and domain.casefold() not in (self._ids.domain.casefold(), "unix user", "unix group", "."):
            return Account("", SidType.UNKNOWN, "", name)
        if account.casefold() == self._ids.domain.casefold():
            return Account(str(self._ids.machine), SidType.DOMAIN, self._ids.domain, "")
        return self._user(account) or self._group(account) or Account("", SidType.UNKNOWN, "", name)

    def by_sid(self, text: str) -> Account:
        """The account with the SID ``text``; kind UNKNOWN when there is none, INVALID when it is no SID."""
        try:
            sid = SID.parse(text)
        except ValueError:
            return Account(text, SidType.INVALID, "", "")
        known = WELL_KNOWN.get(str(sid))
        if known is not None:
            return known
        if sid == self._ids.machine:
            return Account(str(sid), SidType.DOMAIN, self._ids.domain, "")
        if sid == self._ids.machine.child(DOMAIN_USERS_RID):
            return Account(str(sid), SidType.GROUP, self._ids.domain, "None")
        uid, gid = self._ids.uid_of(sid), self._ids.gid_of(sid)
        name = (uid is not None and self._user_name(uid)) or (gid is not None and _group_name(gid)) or ""
        if not name:
            return Account(str(sid), SidType.UNKNOWN, self._ids.domain if self._ids.owns(sid) else "", "")
        domain = self._ids.domain if self._ids.owns(sid) else ("Unix User" if uid is not None else "Unix Group")
        return Account(str(sid), SidType.USER if uid is not None else SidType.GROUP, domain, name)

    def users(self) -> list[UserRecord]:
        """The users who may log on, by name."""
        found = [
            UserRecord(user.name, _unix_uid(user.name, user.uid), user.disabled, _full_name(user.name)) for user in self._database.users()
        ]
        return sorted(found, key=lambda user: user.name.casefold())

    def _user(self, name: str) -> Account | None:
        user = self._database.find(name)
        try:
            uid = _unix_uid(user.name, user.uid) if user is not None else pwd.getpwnam(name).pw_uid
        except (KeyError, ValueError):
            return None
        shown = user.name if user is not None else name
        return Account(str(self._ids.user_sid(uid)), SidType.USER, self._ids.domain, shown)

    def _group(self, name: str) -> Account | None:
        try:
            entry = grp.getgrnam(name)
        except (KeyError, ValueError):
            return None
        return Account(str(self._ids.group_sid(entry.gr_gid)), SidType.GROUP, self._ids.domain, entry.gr_name)

    def _user_name(self, uid: int) -> str:
        try:
            return pwd.getpwuid(uid).pw_name
        except (KeyError, OverflowError):
            return next((user.name for user in self._database.users() if user.uid == uid), "")


def _unix_uid(name: str, otherwise: int) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return otherwise


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError):
        return ""


def _full_name(name: str) -> str:
    try:
        return pwd.getpwnam(name).pw_gecos.split(",")[0]
    except (KeyError, ValueError):
        return ""
