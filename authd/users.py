"""The user database: a file in smbpasswd format.

Owns: the file's format, its lock and its replacement. Invariant: the file is mode 0600 at every instant and always whole: it is replaced
by a rename of a synced copy, one writer at a time (a lock beside it); a reader never waits.

    name:uid:LM hash (XX...):NT hash:[flags      ]:LCT-seconds:

Flags that count: U user, D disabled, N no password (never let in here), X password does not expire. LM hashes are not kept. Users
without a Unix account have ids from FIRST_FREE_ID on. Lines that are not users (comments) stay where they are.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from spnego._ntlm_raw.md4 import md4

from pools.port import files, processes

Result = TypeVar("Result")
FIRST_FREE_ID = 0x30000000
MAX_NAME = 64
_FORBIDDEN = set('"/\\[]:;|=,+*?<>')
"""[MS-SAMR] 3.1.1.8.4: characters that no account name has; the colon also ends a field here."""

_NO_HASH = "X" * 32
_HASH = re.compile(r"[0-9A-Fa-f]{32}")


class UserError(ValueError):
    """What was asked of the database cannot be done; the text says why and names the user or file."""


class User(NamedTuple):
    """One user. ``nt_hash`` is empty when no password is set; ``changed`` is the password's date in seconds since 1970."""

    name: str
    uid: int
    nt_hash: bytes
    flags: str
    changed: int

    @property
    def disabled(self) -> bool:
        """May not log on, whatever the password."""
        return "D" in self.flags

    def __repr__(self) -> str:
        return f"User({self.name!r}, uid={self.uid}, flags={self.flags!r})"  # a hash is as good as the password: never in a log


def nt_hash(password: str) -> bytes:
    """[MS-NLMP] 3.3.1 NTOWFv1: MD4 of the password in UTF-16."""
    return md4(password.encode("utf-16-le", errors="surrogatepass"))


def check_name(name: str) -> str:
    """``name`` if it can be an account's name, else ``UserError``."""
    if not name or len(name) > MAX_NAME or name[0] in " #." or name != name.strip():
        raise UserError(f"{name!r} cannot be a user name: 1 to {MAX_NAME} characters, not starting with '#' or '.', without outer spaces")
    wrong = sorted({letter for letter in name if letter in _FORBIDDEN or not letter.isprintable()})
    if wrong:
        raise UserError(f"{name!r} cannot be a user name: it contains {''.join(wrong)!r}")
    return name


def format_line(user: User) -> str:
    """The user's line, without the newline."""
    digest = user.nt_hash.hex().upper() if user.nt_hash else _NO_HASH
    return f"{user.name}:{user.uid}:{_NO_HASH}:{digest}:[{user.flags:<11}]:LCT-{user.changed:08X}:"


def parse_line(line: str) -> User | None:
    """The user on ``line``; None for comments, machine accounts' and unusable lines."""
    fields = line.rstrip("\r\n").split(":")
    if line.startswith("#") or len(fields) < 4 or not fields[0] or not fields[1].isdecimal() or int(fields[1]) >= 1 << 32:
        return None
    flags = fields[4].strip("[] ") if len(fields) > 4 and fields[4].startswith("[") else "U"
    if not set(flags) & set("UNDX") or set(flags) & set("WSI"):
        return None
    digest = bytes.fromhex(fields[3]) if _HASH.fullmatch(fields[3]) and "N" not in flags else b""
    stamp = fields[5].removeprefix("LCT-") if len(fields) > 5 and fields[5].startswith("LCT-") else "0"
    changed = int(stamp, 16) if re.fullmatch(r"[0-9A-Fa-f]{1,16}", stamp) else 0
    return User(fields[0], int(fields[1]), digest, "".join(flags.split()), changed)


class UserDatabase:
    """The users in the file ``path``, which need not exist yet. Reads follow the file when it is replaced."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._identity: tuple[int, ...] | None = None
        self._users: dict[str, User] = {}

    def users(self) -> list[User]:
        """All users, in the file's order."""
        self._refresh()
        return list(self._users.values())

    def find(self, name: str) -> User | None:
        """The user called ``name``, however it is capitalised."""
        self._refresh()
        return self._users.get(name.casefold())

    def add(self, name: str, password: str, uid: int | None = None) -> User:
        """A new user. Without ``uid``: the Unix account's of that name, else the next free one."""
        check_name(name)

        def change(users: dict[str, User]) -> User:
            if name.casefold() in users:
                raise UserError(f"{self.path}: user {users[name.casefold()].name!r} exists already; 'user password' changes the password")
            made = User(name, _free_uid(name, users) if uid is None else uid, nt_hash(password), "U", int(time.time()))
            users[name.casefold()] = made
            return made

        return self._change(change)

    def set_password(self, name: str, password: str) -> User:
        """A new password for a user that exists."""
        return self._replace(
            name, lambda user: user._replace(nt_hash=nt_hash(password), flags=user.flags.replace("N", ""), changed=int(time.time()))
        )

    def enable(self, name: str, enabled: bool) -> User:
        """Let a user in again, or keep it out without removing it."""
        return self._replace(name, lambda user: user._replace(flags=user.flags.replace("D", "") + ("" if enabled else "D")))

    def remove(self, name: str) -> User:
        """Take the user out; returns what it was."""

        def change(users: dict[str, User]) -> User:
            self._require(users, name)
            return users.pop(name.casefold())

        return self._change(change)

    def import_file(self, source: str | Path) -> list[User]:
        """Take over the users of another smbpasswd file, with ids of this machine; one that exists gets its password. Returns them."""
        try:
            lines = Path(source).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"{source}: not a text file in UTF-8") from error
        found = [user for user in map(parse_line, lines) if user is not None]
        if not found:
            raise UserError(f"{source}: no user in smbpasswd format (name:uid:LM:NT:[U]:LCT-...:)")
        for user in found:
            check_name(user.name)

        def change(users: dict[str, User]) -> list[User]:
            taken = []
            for user in found:
                known = users.get(user.name.casefold())
                # The file's ids are another machine's; here they may be other people's.
                made = user._replace(uid=known.uid if known is not None else _free_uid(user.name, users))
                users[user.name.casefold()] = made
                taken.append(made)
            return taken

        return self._change(change)

    def _replace(self, name: str, alter: Callable[[User], User]) -> User:
        def change(users: dict[str, User]) -> User:
            changed = users[name.casefold()] = alter(self._require(users, name))
            return changed

        return self._change(change)

    def _require(self, users: dict[str, User], name: str) -> User:
        found = users.get(name.casefold())
        if found is None:
            raise UserError(f"{self.path}: no user {name!r}")
        return found

    def _refresh(self) -> None:
        try:
            found = files.stat(self.path)
        except FileNotFoundError:
            self._identity, self._users = None, {}
            return
        identity = found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
        if identity != self._identity:
            self._users = _index(self._lines())
            self._identity = identity

    def _lines(self) -> list[str]:
        try:
            return self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: not a text file in UTF-8; restore it from a backup") from error

    def _change(self, change: Callable[[dict[str, User]], Result]) -> Result:
        with self._locked():
            lines = self._lines()
            users = _index(lines)
            result = change(users)
            self._write(_merge(lines, users))
        self._refresh()
        return result

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = files.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        try:
            files.lock(lock, wait=True)
            yield
        finally:
            files.close(lock)

    def _write(self, lines: list[str]) -> None:
        temporary = self.path.with_name(f".{self.path.name}.{processes.own_pid()}.{secrets.token_hex(4)}")
        descriptor = files.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.writelines(line + "\n" for line in lines)
                file.flush()
                files.fsync(file.fileno())
            files.move_path(temporary, self.path)
        except BaseException:
            files.remove_path(temporary)
            raise
        files.sync_directory(self.path.parent)


def _index(lines: list[str]) -> dict[str, User]:
    return {user.name.casefold(): user for user in map(parse_line, lines) if user is not None}


def _merge(lines: list[str], users: dict[str, User]) -> list[str]:
    """The old lines with each user's put in its place; new users at the end."""
    left = dict(users)
    merged = []
    for line in lines:
        user = parse_line(line)
        if user is None:
            merged.append(line)
        elif user.name.casefold() in left:
            new = left.pop(user.name.casefold())
            merged.append(line if new == user else format_line(new))
    return merged + [format_line(user) for user in left.values()]


def _free_uid(name: str, users: dict[str, User]) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return max([FIRST_FREE_ID - 1, *(user.uid for user in users.values() if user.uid >= FIRST_FREE_ID)]) + 1
