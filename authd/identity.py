"""From a proven name to a token: uid, gid, groups, SIDs, privileges.

Owns: the one place that says as whom a user acts. Invariant: a token's ids are never better than what the system's user database gives
that name; without root there is one Unix identity, the server's own, and everybody gets it.
"""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import NamedTuple

from authd.users import User
from pools.port import credentials
from smbd.accounts import IdMap
from smbd.smb2.dtyp import sid as known
from smbd.smb2.dtyp import token as privilege
from smbd.smb2.dtyp.token import Token

ORDINARY = frozenset({privilege.SE_CHANGE_NOTIFY})
ADMINISTRATIVE = ORDINARY | {privilege.SE_BACKUP, privilege.SE_RESTORE, privilege.SE_SECURITY, privilege.SE_TAKE_OWNERSHIP}
OVERFLOW_ID = 65534
"""nobody and nogroup, where the guest account does not exist."""


class UnixIds(NamedTuple):
    """A Unix identity; ``groups`` are the supplementary groups without the primary one."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def own_ids() -> UnixIds:
    """The serving user's."""
    uid, gid = credentials.real()
    return UnixIds(uid, gid, tuple(sorted(set(credentials.effective()[2]) - {gid})))


def ids_of(name: str, otherwise: int) -> UnixIds:
    """The ids of the Unix account ``name``; of nobody but itself, ``otherwise``, when there is no such account."""
    if credentials.effective_uid() != 0:
        return own_ids()
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        # A line of the database makes nobody root, nor is -1, which the kernel takes for "as before", an id.
        own = otherwise if 0 < otherwise < 0xFFFFFFFF else OVERFLOW_ID
        return UnixIds(own, own, ())
    groups = credentials.groups_of(entry.pw_name, entry.pw_gid)
    return UnixIds(entry.pw_uid, entry.pw_gid, tuple(sorted(set(groups) - {entry.pw_gid})))


class Identities(NamedTuple):
    """Makes tokens for this server: ``ids`` maps ids to SIDs, ``guest_account`` is a Unix name."""

    ids: IdMap
    guest_account: str

    def user(self, user: User) -> Token:
        """A user who gave the right password."""
        unix = ids_of(user.name, user.uid)
        administrator = unix.uid == 0 and credentials.effective_uid() == 0
        extra = [known.EVERYONE, known.NETWORK, known.AUTHENTICATED_USERS, known.USERS]
        return Token(
            user_sid=self.ids.user_sid(unix.uid),
            group_sids=self._groups(unix, extra + ([known.ADMINISTRATORS] if administrator else [])),
            privileges=ADMINISTRATIVE if administrator else ORDINARY,
            uid=unix.uid,
            gid=unix.gid,
            groups=unix.groups,
            name=user.name,
            domain=self.ids.domain,
        )

    def guest(self) -> Token:
        """Somebody, let in as the guest account."""
        unix = ids_of(self.guest_account, OVERFLOW_ID)
        return Token(
            user_sid=self.ids.user_sid(unix.uid),
            group_sids=self._groups(unix, [known.EVERYONE, known.NETWORK, known.GUESTS]),
            privileges=ORDINARY,
            uid=unix.uid,
            gid=unix.gid,
            groups=unix.groups,
            name=self.guest_account,
            domain=self.ids.domain,
            guest=True,
        )

    def anonymous(self) -> Token:
        """Nobody: the guest account's ids, but no SID of it."""
        unix = ids_of(self.guest_account, OVERFLOW_ID)
        return Token(
            user_sid=known.ANONYMOUS,
            group_sids=(known.EVERYONE, known.NETWORK),
            privileges=ORDINARY,
            uid=unix.uid,
            gid=unix.gid,
            groups=unix.groups,
            name="ANONYMOUS LOGON",
            domain="NT AUTHORITY",
            anonymous=True,
        )

    def _groups(self, unix: UnixIds, extra: list[known.SID]) -> tuple[known.SID, ...]:
        return (*(self.ids.group_sid(gid) for gid in (unix.gid, *unix.groups)), *extra)


class UserMap:
    """``username map``: lines ``unix-name = client name ...`` ; a line starting with '!' ends the search when it matches."""

    def __init__(self, path: str) -> None:
        self._rules: list[tuple[str, bool, frozenset[str]]] = []
        lines = Path(path).read_text(encoding="utf-8").splitlines() if path else []
        for line in map(str.strip, lines):
            unix, equals, names = line.partition("=")
            if equals and not line.startswith(("#", ";")):
                final = unix.startswith("!")
                self._rules.append((unix.lstrip("!").strip(), final, frozenset(_words(names))))

    def unix_name(self, name: str) -> str:
        """The name to look up for the name a client gave."""
        for unix, final, names in self._rules:
            if name.casefold() in names or "*" in names:
                name = unix
                if final:
                    break
        return name


def _words(text: str) -> list[str]:
    """Words, and phrases in double quotes."""
    parts = text.casefold().split('"')
    return [word for index, part in enumerate(parts) for word in ([part] if index % 2 else part.split()) if word]
