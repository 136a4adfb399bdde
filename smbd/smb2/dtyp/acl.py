"""Access control entries and lists: [MS-DTYP] 2.4.4 and 2.4.5.

Owns: ``ACE`` and ``ACL`` and their bytes. Invariant: what is packed can be unpacked to the same value; entries whose type is not understood
(callback, resource attribute, ...) are kept as raw bytes and survive a round trip unchanged.
"""

from __future__ import annotations

from typing import NamedTuple

from pools.layout import U8, U16, U32, Layout, Raw16, Readable, WireError
from smbd.smb2.dtyp.sid import SID

ACL_REVISION = 2
ACL_REVISION_DS = 4

# [MS-DTYP] 2.4.4.1 ACE_HEADER: AceType
ACCESS_ALLOWED = 0
ACCESS_DENIED = 1
SYSTEM_AUDIT = 2
SYSTEM_ALARM = 3
ACCESS_ALLOWED_OBJECT = 5
ACCESS_DENIED_OBJECT = 6
SYSTEM_AUDIT_OBJECT = 7
SYSTEM_ALARM_OBJECT = 8
SYSTEM_MANDATORY_LABEL = 17

PLAIN_TYPES = frozenset({ACCESS_ALLOWED, ACCESS_DENIED, SYSTEM_AUDIT, SYSTEM_ALARM, SYSTEM_MANDATORY_LABEL})
OBJECT_TYPES = frozenset({ACCESS_ALLOWED_OBJECT, ACCESS_DENIED_OBJECT, SYSTEM_AUDIT_OBJECT, SYSTEM_ALARM_OBJECT})

# AceFlags
OBJECT_INHERIT = 0x01
CONTAINER_INHERIT = 0x02
NO_PROPAGATE_INHERIT = 0x04
INHERIT_ONLY = 0x08
INHERITED = 0x10
SUCCESSFUL_ACCESS = 0x40
FAILED_ACCESS = 0x80

OBJECT_TYPE_PRESENT = 0x1
INHERITED_OBJECT_TYPE_PRESENT = 0x2


class AceHeader(NamedTuple):
    """[MS-DTYP] 2.4.4.1 ACE_HEADER."""

    ace_type: U8
    ace_flags: U8
    ace_size: U16


class AccessMask(NamedTuple):
    """[MS-DTYP] 2.4.3 ACCESS_MASK; also the Flags of an object ACE."""

    mask: U32


class Guid(NamedTuple):
    """ObjectType or InheritedObjectType of [MS-DTYP] 2.4.4.3."""

    value: Raw16


class AclHeader(NamedTuple):
    """[MS-DTYP] 2.4.5 ACL."""

    acl_revision: U8
    sbz1: U8
    acl_size: U16
    ace_count: U16
    sbz2: U16


ACE_HEADER = Layout(AceHeader)
ACCESS_MASK = Layout(AccessMask)
GUID = Layout(Guid)
ACL_HEADER = Layout(AclHeader)

_NOBODY = SID(0, (0,))


class ACE(NamedTuple):
    """One entry. ``object_type`` and ``inherited_object_type`` are 16 bytes or b''; ``extra`` is what follows the SID.

    For a type that is not understood ``sid`` and ``mask`` mean nothing and ``extra`` is everything behind the header.
    """

    ace_type: int
    flags: int
    mask: int
    sid: SID
    object_type: bytes = b""
    inherited_object_type: bytes = b""
    extra: bytes = b""

    @property
    def understood(self) -> bool:
        """Whether mask and SID were read."""
        return self.ace_type in PLAIN_TYPES or self.ace_type in OBJECT_TYPES

    def pack(self) -> bytes:
        """The entry's bytes, padded to a multiple of four."""
        body = self._body() if self.understood else self.extra
        body += bytes(-len(body) % 4)
        return ACE_HEADER.pack(self.ace_type, self.flags, ACE_HEADER.size + len(body)) + body

    def _body(self) -> bytes:
        parts = [ACCESS_MASK.pack(self.mask)]
        if self.ace_type in OBJECT_TYPES:
            present = OBJECT_TYPE_PRESENT if self.object_type else 0
            present |= INHERITED_OBJECT_TYPE_PRESENT if self.inherited_object_type else 0
            parts += [ACCESS_MASK.pack(present), self.object_type, self.inherited_object_type]
        return b"".join((*parts, self.sid.pack(), self.extra))


def unpack_ace(buf: memoryview) -> ACE:
    """The entry at the start of ``buf``; its end is its own AceSize. ``WireError`` for an entry that does not fit."""
    header = ACE_HEADER.unpack(buf)
    if header.ace_size < ACE_HEADER.size or header.ace_size % 4 or header.ace_size > len(buf):
        raise WireError(f"ACE of {header.ace_size} bytes in {len(buf)}")
    body = buf[ACE_HEADER.size : header.ace_size]
    if header.ace_type in PLAIN_TYPES:
        mask = ACCESS_MASK.unpack(body).mask
        sid = SID.unpack(body, 4)
        return ACE(header.ace_type, header.ace_flags, mask, sid, extra=bytes(body[4 + sid.size :]))
    if header.ace_type in OBJECT_TYPES:
        return _unpack_object(header, body)
    return ACE(header.ace_type, header.ace_flags, 0, _NOBODY, extra=bytes(body))


def _unpack_object(header: AceHeader, body: memoryview) -> ACE:
    """[MS-DTYP] 2.4.4.3 ACCESS_ALLOWED_OBJECT_ACE and its kin."""
    mask = ACCESS_MASK.unpack(body).mask
    present = ACCESS_MASK.unpack(body, 4).mask
    if present & ~(OBJECT_TYPE_PRESENT | INHERITED_OBJECT_TYPE_PRESENT):
        raise WireError(f"object ACE: flags {present:#x}")
    at = 8
    guids = [b"", b""]
    for index, bit in enumerate((OBJECT_TYPE_PRESENT, INHERITED_OBJECT_TYPE_PRESENT)):
        if present & bit:
            guids[index] = GUID.unpack(body, at).value
            at += GUID.size
    sid = SID.unpack(body, at)
    return ACE(header.ace_type, header.ace_flags, mask, sid, guids[0], guids[1], bytes(body[at + sid.size :]))


class ACL(NamedTuple):
    """[MS-DTYP] 2.4.5 ACL."""

    aces: tuple[ACE, ...] = ()
    revision: int = ACL_REVISION

    def pack(self) -> bytes:
        """The list's bytes; ``ValueError`` past 65535, the most AclSize can say."""
        body = b"".join(ace.pack() for ace in self.aces)
        size = ACL_HEADER.size + len(body)
        if size > 0xFFFF:
            raise ValueError(f"ACL of {size} bytes")
        return ACL_HEADER.pack(self.revision, 0, size, len(self.aces), 0) + body

    @classmethod
    def unpack(cls, buf: Readable, offset: int = 0) -> ACL:
        """The list at ``offset``; ``WireError`` when it or an entry leaves its bounds."""
        header = ACL_HEADER.unpack(buf, offset)
        if header.acl_revision not in (ACL_REVISION, 3, ACL_REVISION_DS):
            raise WireError(f"ACL: revision {header.acl_revision}")
        if header.acl_size < ACL_HEADER.size or offset + header.acl_size > len(buf):
            raise WireError(f"ACL of {header.acl_size} bytes in {len(buf) - offset}")
        rest = memoryview(buf)[offset + ACL_HEADER.size : offset + header.acl_size]
        aces: list[ACE] = []
        for _ in range(header.ace_count):
            aces.append(unpack_ace(rest))
            rest = rest[ACE_HEADER.unpack(rest).ace_size :]
        return cls(tuple(aces), header.acl_revision)


def allow(sid: SID, mask: int, flags: int = 0) -> ACE:
    """An ACCESS_ALLOWED entry."""
    return ACE(ACCESS_ALLOWED, flags, mask, sid)


def deny(sid: SID, mask: int, flags: int = 0) -> ACE:
    """An ACCESS_DENIED entry."""
    return ACE(ACCESS_DENIED, flags, mask, sid)
