"""Descriptors of new objects: [MS-DTYP] 2.5.3.4, and those of files that have none: from their Unix mode.

Owns: inheritance and the default descriptor. Invariant: an inherited entry is marked INHERITED and has no CREATOR_* SID unless it only
waits to be inherited further.
"""

from __future__ import annotations

from functools import lru_cache

from smbd.smb2.constants import (
    DELETE,
    FILE_ALL_ACCESS,
    FILE_DELETE_CHILD,
    FILE_GENERIC_EXECUTE,
    FILE_GENERIC_READ,
    FILE_GENERIC_WRITE,
    READ_CONTROL,
    SYNCHRONIZE,
    WRITE_DAC,
    WRITE_OWNER,
)
from smbd.smb2.dtyp.access import map_generic
from smbd.smb2.dtyp.acl import (
    ACE,
    ACL,
    ACL_REVISION,
    CONTAINER_INHERIT,
    INHERIT_ONLY,
    INHERITED,
    NO_PROPAGATE_INHERIT,
    OBJECT_INHERIT,
    allow,
)
from smbd.smb2.dtyp.descriptor import (
    DACL_AUTO_INHERITED,
    DACL_PRESENT,
    DACL_PROTECTED,
    SACL_AUTO_INHERITED,
    SACL_PRESENT,
    SACL_PROTECTED,
    SELF_RELATIVE,
    SecurityDescriptor,
)
from smbd.smb2.dtyp.sid import CREATOR_GROUP, CREATOR_OWNER, EVERYONE, SID, SYSTEM
from smbd.smb2.dtyp.token import Token

_DACL_BITS = (DACL_PRESENT, DACL_PROTECTED, DACL_AUTO_INHERITED)
_SACL_BITS = (SACL_PRESENT, SACL_PROTECTED, SACL_AUTO_INHERITED)
_PROPAGATION = OBJECT_INHERIT | CONTAINER_INHERIT | NO_PROPAGATE_INHERIT | INHERIT_ONLY


def create_descriptor(
    parent: SecurityDescriptor | None, token: Token, directory: bool, explicit: SecurityDescriptor | None = None
) -> SecurityDescriptor:
    """The descriptor of a new file or directory: [MS-DTYP] 2.5.3.4.1 CreateSecurityDescriptor with both AUTO_INHERIT flags.

    ``explicit`` is what the client sent (SecD); its protected ACLs inherit nothing. Without anything to inherit the owner and SYSTEM get
    full control, as from a token's default DACL.
    """
    given = explicit or SecurityDescriptor()
    above = parent or SecurityDescriptor()
    owner = given.owner or token.user_sid
    group = given.group or (token.group_sids[0] if token.group_sids else token.user_sid)
    new = (owner, group, directory)
    dacl, dacl_marks = _combine(above.dacl, given.dacl, given.control, _marks(above, _DACL_BITS), new)
    if dacl is None and not given.control & DACL_PRESENT:
        dacl, dacl_marks = ACL((allow(owner, FILE_ALL_ACCESS), allow(SYSTEM, FILE_ALL_ACCESS))), DACL_PRESENT
    sacl, sacl_marks = _combine(above.sacl, given.sacl, given.control, _marks(above, _SACL_BITS), new)
    return SecurityDescriptor(SELF_RELATIVE | dacl_marks | sacl_marks, owner, group, dacl, sacl)


def _marks(parent: SecurityDescriptor, bits: tuple[int, int, int]) -> tuple[int, int, int]:
    """What is handed down is marked as inherited where the parent keeps such marks itself (AUTO_INHERITED), as Windows does it."""
    present, protected, inherited = bits
    return present, protected, inherited & parent.control


def _combine(
    parent: ACL | None, given: ACL | None, control: int, bits: tuple[int, int, int], new: tuple[SID, SID, bool]
) -> tuple[ACL | None, int]:
    """[MS-DTYP] 2.5.3.4.2 ComputeACL: explicit entries first, then what the parent hands down; and the control bits that say so."""
    present, protected, inherited = bits
    owner, group, directory = new
    if control & present and given is None:
        return None, present | control & protected
    own = tuple(_settle(ace, owner, group) for ace in given.aces if not ace.flags & INHERITED) if given is not None else ()
    if control & protected:
        return ACL(own, _revision(given, None)), present | protected
    handed = inherit_aces(parent, owner, group, directory) if parent is not None else ()
    if not inherited:
        handed = tuple(ace._replace(flags=ace.flags & ~INHERITED) for ace in handed)
    if given is None and not handed:
        return None, 0
    return ACL((*own, *handed), _revision(given, parent)), present | inherited


def _revision(first: ACL | None, second: ACL | None) -> int:
    return max((acl.revision for acl in (first, second) if acl is not None), default=ACL_REVISION)


def _settle(ace: ACE, owner: SID, group: SID) -> ACE:
    """An explicit entry's generic rights and CREATOR_* SIDs become those of the object, unless it only waits to be inherited."""
    if ace.flags & INHERIT_ONLY or not ace.understood:
        return ace
    return ace._replace(mask=map_generic(ace.mask), sid=_creator(ace.sid, owner, group))


def _creator(sid: SID, owner: SID, group: SID) -> SID:
    return owner if sid == CREATOR_OWNER else group if sid == CREATOR_GROUP else sid


def inherit_aces(parent: ACL, owner: SID, group: SID, directory: bool) -> tuple[ACE, ...]:
    """[MS-DTYP] 2.5.3.4.3 ContainerInherit and 2.5.3.4.4 ObjectInherit: the parent's entries as a new object gets them."""
    found: list[ACE] = []
    for ace in parent.aces:
        found += _for_directory(ace, owner, group) if directory else _for_file(ace, owner, group)
    return tuple(found)


def _for_file(ace: ACE, owner: SID, group: SID) -> list[ACE]:
    if not ace.flags & OBJECT_INHERIT:
        return []
    return [_effective(ace, owner, group, ace.flags & ~_PROPAGATION | INHERITED)]


def _effective(ace: ACE, owner: SID, group: SID, flags: int) -> ACE:
    return ace._replace(flags=flags, mask=map_generic(ace.mask), sid=_creator(ace.sid, owner, group))


def _for_directory(ace: ACE, owner: SID, group: SID) -> list[ACE]:
    if not ace.flags & (CONTAINER_INHERIT | OBJECT_INHERIT):
        return []
    plain = ace.flags & ~_PROPAGATION | INHERITED
    if ace.flags & NO_PROPAGATE_INHERIT:
        return [_effective(ace, owner, group, plain)] if ace.flags & CONTAINER_INHERIT else []
    passing = plain | ace.flags & (CONTAINER_INHERIT | OBJECT_INHERIT)
    if not ace.flags & CONTAINER_INHERIT:
        # Meant for files only: it waits in the directory for them.
        return [ace._replace(flags=passing | INHERIT_ONLY)]
    effective = _effective(ace, owner, group, passing)
    if (effective.sid, effective.mask) == (ace.sid, ace.mask):
        return [effective]
    # What was substituted holds for this directory only; the original goes on to those beneath it.
    return [effective._replace(flags=plain), ace._replace(flags=passing | INHERIT_ONLY)]


_READ, _WRITE, _EXECUTE = 4, 2, 1
_OWNER_ALWAYS = READ_CONTROL | WRITE_DAC | WRITE_OWNER | DELETE | SYNCHRONIZE | FILE_GENERIC_WRITE & 0x110


@lru_cache(maxsize=512)
def descriptor_from_mode(owner: SID, group: SID, mode: int, directory: bool) -> SecurityDescriptor:
    """What a file without a stored descriptor shows: owner, group and everyone by their rwx, SYSTEM in full.

    The owner may always change the descriptor, attributes and the file's existence, as its Unix owner may. rwx in full is shown as full
    control, so that clients display the word; write on a directory includes deleting what is in it.
    """
    entries = (
        allow(owner, _owner_bits(mode >> 6 & 7, directory) | _OWNER_ALWAYS),
        allow(group, _from_bits(mode >> 3 & 7, directory)),
        allow(EVERYONE, _from_bits(mode & 7, directory)),
        allow(SYSTEM, FILE_ALL_ACCESS),
    )
    return SecurityDescriptor(SELF_RELATIVE | DACL_PRESENT, owner, group, ACL(tuple(ace for ace in entries if ace.mask)))


def _owner_bits(bits: int, directory: bool) -> int:
    """Whoever may read and write his own file has full control of it: what is missing he could give himself."""
    return FILE_ALL_ACCESS if bits & (_READ | _WRITE) == _READ | _WRITE else _from_bits(bits, directory)


def _from_bits(bits: int, directory: bool) -> int:
    if bits == _READ | _WRITE | _EXECUTE:
        return FILE_ALL_ACCESS
    mask = FILE_GENERIC_READ if bits & _READ else 0
    if bits & _WRITE:
        mask |= FILE_GENERIC_WRITE | (FILE_DELETE_CHILD if directory else 0)
    return mask | (FILE_GENERIC_EXECUTE if bits & _EXECUTE else 0)
