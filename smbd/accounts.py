"""Security identifiers of this machine's accounts, and how processes ask for them by name.

Owns: the machine SID, the arithmetic between Unix ids and SIDs, the table of well-known names, and the messages LOOKUP_NAMES,
LOOKUP_SIDS and LIST_USERS that authd answers.
Invariant: a Unix id maps to one SID and back for as long as the machine SID file lives; nothing here sees a secret.

The mapping is algorithmic, so it needs no database and is the same in every process: user RID = 2 * uid + 1000, group RID =
2 * gid + 1001, both under the machine SID. ``S-1-22-1-uid`` and ``S-1-22-2-gid`` are understood too: other servers write them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pools.layout import U8, U16, U32, Layout, Readable, WireError
from pools.port import files, processes
from pools.queue import Ask, Kind
from smbd.smb2.dtyp.sid import SID, UNIX_GROUPS, UNIX_USERS

ANY_SENDER = frozenset({"worker", "srvsvc", "broker", "master"})
AUTHD_ONLY = frozenset({"authd"})
PAYLOAD = 60 * 1024
"""Largest payload of a look-up: below what a record carries inline."""

LOOKUP_NAMES = Kind(0x0210, "LOOKUP_NAMES", 1, 0, PAYLOAD, ANY_SENDER)
LOOKUP_NAMES_ANSWER = Kind(0x0211, "LOOKUP_NAMES_ANSWER", 1, 0, PAYLOAD, AUTHD_ONLY)
LOOKUP_SIDS = Kind(0x0212, "LOOKUP_SIDS", 1, 0, PAYLOAD, ANY_SENDER)
LOOKUP_SIDS_ANSWER = Kind(0x0213, "LOOKUP_SIDS_ANSWER", 1, 0, PAYLOAD, AUTHD_ONLY)
LIST_USERS = Kind(0x0214, "LIST_USERS", 2, 0, 16, ANY_SENDER)
LIST_USERS_ANSWER = Kind(0x0215, "LIST_USERS_ANSWER", 2, 0, PAYLOAD, AUTHD_ONLY)
KINDS: tuple[Kind, ...] = (LOOKUP_NAMES, LOOKUP_NAMES_ANSWER, LOOKUP_SIDS, LOOKUP_SIDS_ANSWER, LIST_USERS, LIST_USERS_ANSWER)

AUTHD = 1
MAX_MAPPED_ID = (0xFFFFFFFF - 1001) // 2
"""Ids above this would need a RID of more than 32 bits; they keep their S-1-22 SIDs."""

MAX_LOOKUP = 256
"""Names or SIDs that a client may ask for at once."""

MAX_ASKED = 64
MAX_TEXT = 512
"""Names or SIDs in one question, and bytes of each: the answer, which repeats them, must fit a record whatever clients ask for."""


class SidType:
    """[MS-SAMR] 2.2.2.3 SID_NAME_USE."""

    USER, GROUP, DOMAIN, ALIAS, WELL_KNOWN_GROUP, DELETED, INVALID, UNKNOWN, COMPUTER, LABEL = range(1, 11)


class Account(NamedTuple):
    """What a name or a SID stands for. ``kind`` is a SidType; UNKNOWN when it stands for nothing here."""

    sid: str
    kind: int
    domain: str
    name: str


class UserRecord(NamedTuple):
    """One user of the database, without secrets. ``disabled`` accounts are listed too."""

    name: str
    uid: int
    disabled: bool
    full_name: str


class IdMap(NamedTuple):
    """The two-way mapping between Unix ids and SIDs: the machine SID, and the name that goes with it."""

    machine: SID
    domain: str

    def user_sid(self, uid: int) -> SID:
        """The SID of Unix user ``uid``."""
        return self.machine.child(2 * uid + 1000) if uid <= MAX_MAPPED_ID else UNIX_USERS.child(uid)

    def group_sid(self, gid: int) -> SID:
        """The SID of Unix group ``gid``."""
        return self.machine.child(2 * gid + 1001) if gid <= MAX_MAPPED_ID else UNIX_GROUPS.child(gid)

    def uid_of(self, sid: SID) -> int | None:
        """The Unix user that ``sid`` names, or None."""
        if sid.authority == UNIX_USERS.authority and sid.sub_authorities[:-1] == UNIX_USERS.sub_authorities:
            return sid.rid
        return (sid.rid - 1000) // 2 if self.owns(sid) and sid.rid >= 1000 and sid.rid % 2 == 0 else None

    def gid_of(self, sid: SID) -> int | None:
        """The Unix group that ``sid`` names, or None."""
        if sid.authority == UNIX_GROUPS.authority and sid.sub_authorities[:-1] == UNIX_GROUPS.sub_authorities:
            return sid.rid
        return (sid.rid - 1001) // 2 if self.owns(sid) and sid.rid >= 1001 and sid.rid % 2 == 1 else None

    def owns(self, sid: SID) -> bool:
        """Whether ``sid`` is an account's directly under the machine SID."""
        return sid.authority == self.machine.authority and sid.sub_authorities[:-1] == self.machine.sub_authorities


def machine_sid(directory: str | Path) -> SID:
    """The machine SID kept in ``directory``; made up and written at the first call. Safe when several processes call at once."""
    path = Path(directory) / "machine.sid"
    try:
        return _read_sid(path)
    except FileNotFoundError:
        pass
    parts = "-".join(str(secrets.randbits(32)) for _ in range(3))
    temporary = path.with_name(f".machine.sid.{processes.own_pid()}.{secrets.token_hex(4)}")
    descriptor = files.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(f"S-1-5-21-{parts}\n")
            file.flush()
            files.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was first: its SID counts
            files.link_path(temporary, path)
    finally:
        files.remove_path(temporary)
    return _read_sid(path)


def _read_sid(path: Path) -> SID:
    text = path.read_text(encoding="ascii", errors="replace").strip()
    parts = text.split("-")
    if len(parts) != 7 or parts[:4] != ["S", "1", "5", "21"] or not all(part.isdigit() and int(part) < 1 << 32 for part in parts[4:]):
        raise ValueError(
            f"{path}: not a machine SID (S-1-5-21-x-y-z): {text[:80]!r}; restore it from a backup, or remove it to make a new one"
        )
    return SID.parse(text)


BUILTIN_SID = "S-1-5-32"
NT_AUTHORITY = "NT AUTHORITY"

WELL_KNOWN: dict[str, Account] = {
    sid: Account(sid, kind, domain, name)
    for sid, kind, domain, name in (
        ("S-1-0-0", SidType.WELL_KNOWN_GROUP, "", "NULL SID"),
        ("S-1-1-0", SidType.WELL_KNOWN_GROUP, "", "Everyone"),
        ("S-1-2-0", SidType.WELL_KNOWN_GROUP, "", "LOCAL"),
        ("S-1-3-0", SidType.WELL_KNOWN_GROUP, "", "CREATOR OWNER"),
        ("S-1-3-1", SidType.WELL_KNOWN_GROUP, "", "CREATOR GROUP"),
        ("S-1-3-4", SidType.WELL_KNOWN_GROUP, "", "OWNER RIGHTS"),
        ("S-1-5-2", SidType.WELL_KNOWN_GROUP, NT_AUTHORITY, "NETWORK"),
        ("S-1-5-4", SidType.WELL_KNOWN_GROUP, NT_AUTHORITY, "INTERACTIVE"),
        ("S-1-5-6", SidType.WELL_KNOWN_GROUP, NT_AUTHORITY, "SERVICE"),
        ("S-1-5-7", SidType.WELL_KNOWN_GROUP, NT_AUTHORITY, "ANONYMOUS LOGON"),
        ("S-1-5-10", SidType.WELL_KNOWN_GROUP, NT_AUTHORITY, "SELF"),
        ("S-1-5-11", SidType.WELL_KNOWN_GROUP, NT_AUTHORITY, "Authenticated Users"),
        ("S-1-5-18", SidType.WELL_KNOWN_GROUP, NT_AUTHORITY, "SYSTEM"),
        ("S-1-5-19", SidType.WELL_KNOWN_GROUP, NT_AUTHORITY, "LOCAL SERVICE"),
        ("S-1-5-20", SidType.WELL_KNOWN_GROUP, NT_AUTHORITY, "NETWORK SERVICE"),
        (BUILTIN_SID, SidType.DOMAIN, "BUILTIN", ""),
        ("S-1-5-32-544", SidType.ALIAS, "BUILTIN", "Administrators"),
        ("S-1-5-32-545", SidType.ALIAS, "BUILTIN", "Users"),
        ("S-1-5-32-546", SidType.ALIAS, "BUILTIN", "Guests"),
        ("S-1-5-32-547", SidType.ALIAS, "BUILTIN", "Power Users"),
        ("S-1-5-32-551", SidType.ALIAS, "BUILTIN", "Backup Operators"),
    )
}
"""[MS-DTYP] 2.4.2.4 well-known SIDs, by SID text."""

WELL_KNOWN_NAMES: dict[str, Account] = {
    key.casefold(): account
    for account in WELL_KNOWN.values()
    for key in ((account.name or account.domain), f"{account.domain}\\{account.name}")
}


# The messages. A string is a U16 length and UTF-8; a question is a count and its strings.


class _Count(NamedTuple):
    number: U16


class _AccountHead(NamedTuple):
    kind: U8
    sid_length: U16
    domain_length: U16
    name_length: U16


class _UserHead(NamedTuple):
    uid: U32
    disabled: U8
    name_length: U16
    full_name_length: U16


class _Page(NamedTuple):
    start: U32
    total: U32


COUNT = Layout(_Count)
ACCOUNT_HEAD = Layout(_AccountHead)
USER_HEAD = Layout(_UserHead)
PAGE = Layout(_Page)


def take_text(payload: Readable, offset: int, length: int) -> str:
    """The UTF-8 text at ``offset``; ``WireError`` when it is not there or not UTF-8."""
    if offset + length > len(payload):
        raise WireError(f"text of {length} bytes at {offset} in {len(payload)}")
    try:
        return bytes(payload[offset : offset + length]).decode()
    except UnicodeDecodeError as error:
        raise WireError("text is not UTF-8") from error


def pack_texts(texts: Sequence[str]) -> bytes:
    """A question: LOOKUP_NAMES or LOOKUP_SIDS, of at most MAX_ASKED texts. One longer than MAX_TEXT stands for nothing and is cut."""
    encoded = [text.encode(errors="replace")[:MAX_TEXT].decode(errors="ignore").encode() for text in texts]
    return COUNT.pack(len(encoded)) + b"".join(COUNT.pack(len(text)) + text for text in encoded)


def unpack_texts(payload: Readable) -> list[str]:
    """The inverse of ``pack_texts``."""
    (count,) = COUNT.unpack(payload)
    if count > MAX_ASKED:
        raise WireError(f"{count} names in one question")
    offset, texts = COUNT.size, []
    for _ in range(count):
        (length,) = COUNT.unpack(payload, offset)
        if length > MAX_TEXT:
            raise WireError(f"a name of {length} bytes")
        texts.append(take_text(payload, offset + COUNT.size, length))
        offset += COUNT.size + length
    return texts


def pack_accounts(accounts: Sequence[Account]) -> bytes:
    """The answer to a look-up: one account for each name or SID asked for, in order."""
    parts = [COUNT.pack(len(accounts))]
    for account in accounts:
        sid, domain, name = account.sid.encode(), account.domain.encode(), account.name.encode()
        parts += ACCOUNT_HEAD.pack(account.kind, len(sid), len(domain), len(name)), sid, domain, name
    return b"".join(parts)


def unpack_accounts(payload: Readable) -> list[Account]:
    """The inverse of ``pack_accounts``."""
    (count,) = COUNT.unpack(payload)
    offset, accounts = COUNT.size, []
    for _ in range(count):
        head = ACCOUNT_HEAD.unpack(payload, offset)
        offset += ACCOUNT_HEAD.size
        texts = []
        for length in head[1:]:
            texts.append(take_text(payload, offset, length))
            offset += length
        accounts.append(Account(texts[0], head.kind, texts[1], texts[2]))
    return accounts


def pack_users(start: int, users: Sequence[UserRecord]) -> bytes:
    """The answer to LIST_USERS: as many users from ``start`` on as fit, and how many there are in all."""
    parts, room = [PAGE.pack(start, len(users))], PAYLOAD - PAGE.size
    for user in users[start:]:
        name, full_name = user.name.encode(), user.full_name.encode()
        part = USER_HEAD.pack(user.uid, user.disabled, len(name), len(full_name)) + name + full_name
        if len(part) > room:
            break
        parts.append(part)
        room -= len(part)
    return b"".join(parts)


def unpack_users(payload: Readable) -> tuple[int, list[UserRecord]]:
    """(users in all, the users of this page)."""
    _, total = PAGE.unpack(payload)
    offset, users = PAGE.size, []
    while offset < len(payload):
        head = USER_HEAD.unpack(payload, offset)
        offset += USER_HEAD.size
        name = take_text(payload, offset, head.name_length)
        full_name = take_text(payload, offset + head.name_length, head.full_name_length)
        offset += head.name_length + head.full_name_length
        users.append(UserRecord(name, head.uid, bool(head.disabled), full_name))
    return total, users


def questions(texts: Sequence[str]) -> Iterator[bytes]:
    """As many questions as it takes; their answers follow one another."""
    for start in range(0, len(texts), MAX_ASKED):
        yield pack_texts(texts[start : start + MAX_ASKED])


async def lookup_names(ask: Ask, names: Sequence[str]) -> list[Account]:
    """One account for each of at most MAX_ASKED names (``user``, ``DOMAIN\\user``, ``BUILTIN\\Users``...)."""
    return unpack_accounts((await ask(AUTHD, LOOKUP_NAMES.number, pack_texts(names))).payload)


async def lookup_sids(ask: Ask, sids: Sequence[str]) -> list[Account]:
    """One account for each of at most MAX_ASKED SID texts."""
    return unpack_accounts((await ask(AUTHD, LOOKUP_SIDS.number, pack_texts(sids))).payload)
