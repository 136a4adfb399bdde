"""The names in the user.* space of xattrs and who owns which.

Owns: the division between extended attributes of clients and what the server keeps there itself. Invariant: no EA name a client sends can
reach an attribute of the server's (DOS attributes, streams, descriptors).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from pools.port import files
from pools.port.interface import NO_ATTRIBUTE, Place
from smbd.smb2 import status
from smbd.smb2.names import fold
from smbd.smb2.status import SmbError
from workers import identity
from workers.vfs.root import Root

USER: Final = "user."
STREAM: Final = "user.DosStream."  # Samba's vfs_streams_xattr
STREAM_END: Final = ":$DATA"
STORED_STREAM: Final = "user.millpond.stream."  # the name of the file a large stream lies in
_OURS: Final = ("dosstream.", "dosattrib", "millpond.", "samba_pai", "smbreparse", "dosstreams", "doseas", "org.netatalk.")
_EA_NAME_MAX: Final = 254
_EA_VALUE_MAX: Final = 0xFFFF  # [MS-FSCC] 2.4.16: EaValueLength has 16 bits; some file systems hold one byte more
_EA_FORBIDDEN: Final = frozenset('\\/:*?"<>|,+=[];') | {chr(code) for code in range(32)}
_EA_ENTRY: Final = 5  # [MS-FSCC] 2.4.13: EaSize counts flags, name length and value length (4), and the name's NUL
T = TypeVar("T")


class Base(Protocol):
    """What the functions here need of a handle."""

    fd: int
    dev: int
    ino: int
    root: Root

    @property
    def readable(self) -> bool: ...

    @property
    def place(self) -> Place: ...

    def get_xattr(self, name: str) -> bytes | None: ...

    def as_owner(self, call: Callable[[], T]) -> T: ...


def names(base: Base) -> list[str]:
    """All xattr names the user can see; none where the file system has no xattrs."""
    return known_names(base) or []


def known_names(base: Base) -> list[str] | None:
    """The same; None when they are not to be known: then there may be any."""
    try:
        return base.root.attributes.names(base.fd)
    except PermissionError:
        return None
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []
        raise


def set_xattr(base: Base, name: str, value: bytes) -> None:
    base.as_owner(lambda: base.root.attributes.set(base.fd, name, value))


def remove_xattr(base: Base, name: str) -> None:
    try:
        base.as_owner(lambda: base.root.attributes.remove(base.fd, name))
    except OSError as error:
        if error.errno not in (NO_ATTRIBUTE, errno.EOPNOTSUPP):
            raise


def _is_ea(base: Base, name: str) -> bool:
    if not name.startswith(USER) or name[len(USER) :].casefold().startswith(_OURS):
        return False
    return fold(name) != fold(base.root.settings.acl_name)


def list_eas(base: Base) -> list[tuple[str, bytes]]:
    """(name, value), names without "user.". Values with the user's own rights; one that no EA can be, put there by others, is left out."""
    found = ((name[len(USER) :], base.root.attributes.get(base.fd, name) or b"") for name in names(base) if _is_ea(base, name))
    return [(name, value) for name, value in found if len(value) <= _EA_VALUE_MAX]


def ea_size(base: Base) -> int:
    """[MS-FSCC] 2.4.13; 0 when there are none."""
    total = sum(_EA_ENTRY + len(name.encode("utf-8", "surrogateescape")) + len(value) for name, value in list_eas(base))
    return total + 4 if total else 0


def set_ea(base: Base, name: str, value: bytes) -> None:
    """An empty value removes. The stored spelling of a name wins over the one given."""
    if not name or len(name) > _EA_NAME_MAX or _EA_FORBIDDEN.intersection(name):
        raise SmbError(status.INVALID_EA_NAME)
    if not _is_ea(base, USER + name):
        raise SmbError(status.ACCESS_DENIED)
    folded = fold(USER + name)
    stored = next((known for known in names(base) if fold(known) == folded), None)
    if value:
        set_xattr(base, stored or USER + name, value)
    elif stored:
        remove_xattr(base, stored)


def clear_eas(base: Base) -> None:
    for name in names(base):
        if _is_ea(base, name):
            remove_xattr(base, name)


def owner_call(base: Base, call: Callable[[], T]) -> T:
    """``call`` with the user's rights; if refused, with root's when the file is the user's or he may write it: POSIX leaves to owners what
    FILE_WRITE_ATTRIBUTES and FILE_WRITE_EA allow."""
    try:
        return call()
    except PermissionError:
        if files.stat_fd(base.fd).uid != identity.current().uid and not files.may_access(base.fd, os.W_OK, base.place):
            raise
        with identity.as_root():
            return call()
