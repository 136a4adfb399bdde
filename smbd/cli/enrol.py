"""Who the users of a ``millpond serve`` are: their passwords for this run, their identities for longer.

Owns: the user database and the machine SID of such a server. Invariant: the same machine and the same name give the same SID at every
start, although nothing of a ``serve`` outlives it: access control lists that clients set name SIDs and lie in the files.
"""

from __future__ import annotations

import pwd
import secrets
import zlib
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from authd.users import FIRST_FREE_ID, UserDatabase, check_name
from pools.port import credentials
from smbd.accounts import machine_sid
from smbd.config import Config
from smbd.config.serve import owner_name
from smbd.instance import StartError

_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
_MACHINE_ID = "/etc/machine-id"
_IDS = 0x0FFFFFFF  # a RID is 2 * uid + 1000 and has 32 bits


class Account(NamedTuple):
    """A user of a ``serve``. ``made_up``: nobody knows the password yet, so it is shown."""

    name: str
    password: str
    made_up: bool


def accounts(given: Iterable[str], guest: bool) -> list[Account]:
    """The users named with --user; without any, the one who serves, unless guests are let in."""
    found = []
    for one in list(given) or ([] if guest else [owner_name(credentials.effective_uid())]):
        name, colon, password = one.partition(":")
        if colon and not password:
            raise StartError(f"--user {one}: no password after the colon; leave the colon out to have one made up")
        found.append(Account(check_name(name), password or made_up_password(), not password))
    return found


def made_up_password() -> str:
    """Twelve letters and digits in groups, none that look alike: 59 bits, easy to type on a television."""
    return "-".join("".join(secrets.choice(_LETTERS) for _ in range(4)) for _ in range(3))


def enrol(config: Config, people: Iterable[Account]) -> None:
    """Make the user database, with these users and no others, and the machine SID."""
    database = UserDatabase(config.smb_passwd_file)
    for user in database.users():
        database.remove(user.name)
    for one in people:
        database.add(one.name, one.password, uid=lasting_id(one.name))
    _write_sid(Path(config.state_directory) / "machine.sid")
    machine_sid(config.state_directory)


def lasting_id(name: str) -> int | None:
    """A number made of the name, for a user without a Unix account; None for one that has an account."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return FIRST_FREE_ID + (zlib.crc32(name.casefold().encode("utf-8", "surrogatepass")) & _IDS)
    return None


def _write_sid(path: Path) -> None:
    """machine-id(5) asks that the identifier be hashed before it is shown to others. Without one the SID is made up at random."""
    try:
        machine = Path(_MACHINE_ID).read_bytes().strip()
    except OSError:
        machine = b""
    if machine:
        digest = sha256(b"millpond serve\0%d\0" % credentials.effective_uid() + machine).digest()
        parts = (int.from_bytes(digest[at : at + 4], "little") for at in (0, 4, 8))
        path.write_text(f"S-1-5-21-{'-'.join(map(str, parts))}\n", encoding="ascii")
