"""The access check: [MS-DTYP] 2.5.3.2, with what a file system adds to it.

Owns: generic mapping for files, the walk over a DACL, privileges. Invariant: fails closed: a descriptor without an owner gives nobody an
owner's rights, and an entry that is not understood grants nothing.

Beyond the walk: the owner's implicit READ_CONTROL and WRITE_DAC, which an OWNER RIGHTS entry replaces ([MS-DTYP] 2.4.2.4);
SeTakeOwnership gives WRITE_OWNER, SeSecurity ACCESS_SYSTEM_SECURITY, and a backup intent with SeBackup or SeRestore what those need;
DELETE may come from the parent directory ([MS-FSA] 2.1.5.1.2.1).
"""

from __future__ import annotations

from smbd.smb2 import status
from smbd.smb2.constants import (
    ACCESS_SYSTEM_SECURITY,
    DELETE,
    FILE_ADD_FILE,
    FILE_ADD_SUBDIRECTORY,
    FILE_ALL_ACCESS,
    FILE_GENERIC_EXECUTE,
    FILE_GENERIC_READ,
    FILE_GENERIC_WRITE,
    FILE_TRAVERSE,
    GENERIC_ALL,
    GENERIC_EXECUTE,
    GENERIC_READ,
    GENERIC_WRITE,
    MAXIMUM_ALLOWED,
    READ_CONTROL,
    WRITE_DAC,
    WRITE_OWNER,
)
from smbd.smb2.dtyp.acl import ACCESS_ALLOWED, ACCESS_ALLOWED_OBJECT, ACCESS_DENIED, ACCESS_DENIED_OBJECT, INHERIT_ONLY
from smbd.smb2.dtyp.descriptor import SecurityDescriptor
from smbd.smb2.dtyp.sid import OWNER_RIGHTS, SID
from smbd.smb2.dtyp.token import SE_BACKUP, SE_RESTORE, SE_SECURITY, SE_TAKE_OWNERSHIP, Token
from smbd.smb2.status import SmbError

_GENERIC = (
    (GENERIC_READ, FILE_GENERIC_READ),
    (GENERIC_WRITE, FILE_GENERIC_WRITE),
    (GENERIC_EXECUTE, FILE_GENERIC_EXECUTE),
    (GENERIC_ALL, FILE_ALL_ACCESS),
)
_ALL_GENERIC = GENERIC_READ | GENERIC_WRITE | GENERIC_EXECUTE | GENERIC_ALL
_BACKUP_ACCESS = READ_CONTROL | ACCESS_SYSTEM_SECURITY | FILE_GENERIC_READ | FILE_TRAVERSE
_RESTORE_ACCESS = WRITE_DAC | WRITE_OWNER | ACCESS_SYSTEM_SECURITY | FILE_GENERIC_WRITE | FILE_ADD_FILE | FILE_ADD_SUBDIRECTORY | DELETE


def map_generic(mask: int) -> int:
    """Generic rights replaced by the file's: [MS-SMB2] 2.2.13.1, [MS-DTYP] 2.4.3. MAXIMUM_ALLOWED stays."""
    if not mask & _ALL_GENERIC:
        return mask
    for generic, specific in _GENERIC:
        if mask & generic:
            mask |= specific
    return mask & ~_ALL_GENERIC


def mapped(descriptor: SecurityDescriptor) -> SecurityDescriptor:
    """``descriptor`` as a file stores it: generic rights replaced, but for entries that only wait to be inherited ([MS-DTYP] 2.5.3.4.2)."""
    if descriptor.dacl is None or not any(ace.mask & _ALL_GENERIC for ace in descriptor.dacl.aces):
        return descriptor
    aces = tuple(
        ace._replace(mask=map_generic(ace.mask)) if ace.understood and not ace.flags & INHERIT_ONLY else ace for ace in descriptor.dacl.aces
    )
    return descriptor._replace(dacl=descriptor.dacl._replace(aces=aces))


def access_check(descriptor: SecurityDescriptor, token: Token, desired: int, *, parent_delete: bool = False, backup: bool = False) -> int:
    """The access granted for ``desired``; ACCESS_DENIED, or PRIVILEGE_NOT_HELD when only ACCESS_SYSTEM_SECURITY was refused.

    ``desired`` may hold generic rights and MAXIMUM_ALLOWED. ``parent_delete``: the parent grants FILE_DELETE_CHILD. ``backup``: the client
    asked with FILE_OPEN_FOR_BACKUP_INTENT.
    """
    wanted = map_generic(desired)
    maximum = bool(wanted & MAXIMUM_ALLOWED)
    wanted &= ~MAXIMUM_ALLOWED
    given = _privileged(token, backup) | (DELETE if parent_delete else 0)
    if wanted & ACCESS_SYSTEM_SECURITY & ~given:
        raise SmbError(status.PRIVILEGE_NOT_HELD)
    allowed = _walk(descriptor, token, FILE_ALL_ACCESS if maximum else wanted & ~given) | given
    if wanted & ~allowed:
        raise SmbError(status.ACCESS_DENIED)
    if maximum:
        # The right to the SACL is never part of the maximum; it must be asked for.
        return (allowed & FILE_ALL_ACCESS) | wanted
    return wanted


def maximum_access(descriptor: SecurityDescriptor, token: Token, *, parent_delete: bool = False, backup: bool = False) -> int:
    """All the access that would be granted: the MxAc create context and FileAccessInformation. 0 when it is none."""
    given = _privileged(token, backup) | (DELETE if parent_delete else 0)
    return (_walk(descriptor, token, FILE_ALL_ACCESS) | given) & FILE_ALL_ACCESS


def _privileged(token: Token, backup: bool) -> int:
    held = token.privileges
    if not held:
        return 0
    given = WRITE_OWNER if SE_TAKE_OWNERSHIP in held else 0
    given |= ACCESS_SYSTEM_SECURITY if SE_SECURITY in held else 0
    if backup:
        given |= _BACKUP_ACCESS if SE_BACKUP in held else 0
        given |= _RESTORE_ACCESS if SE_RESTORE in held else 0
    return given


def _walk(descriptor: SecurityDescriptor, token: Token, wanted: int) -> int:
    """The part of ``wanted`` that the DACL and ownership grant: each right is decided by the first entry that names it."""
    if descriptor.dacl is None:
        return wanted
    sids = token.sids
    owns = descriptor.owner is not None and descriptor.owner in sids
    granted = denied = 0
    owner_rights = False
    for ace in descriptor.dacl.aces:
        if ace.flags & INHERIT_ONLY or not ace.understood:
            continue
        owner_rights |= ace.sid == OWNER_RIGHTS
        if not _applies(ace.sid, sids, owns):
            continue
        mask = map_generic(ace.mask)
        if ace.ace_type in (ACCESS_ALLOWED, ACCESS_ALLOWED_OBJECT) and not ace.object_type:
            granted |= mask & ~denied
        elif ace.ace_type in (ACCESS_DENIED, ACCESS_DENIED_OBJECT):
            denied |= mask & ~granted
    if owns and not owner_rights:
        granted |= READ_CONTROL | WRITE_DAC
    return granted & wanted


def _applies(sid: SID, sids: frozenset[SID], owns: bool) -> bool:
    return sid in sids or (owns and sid == OWNER_RIGHTS)
