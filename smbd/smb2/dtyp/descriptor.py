"""Security descriptors in self-relative form: [MS-DTYP] 2.4.6.

Owns: ``SecurityDescriptor``, its bytes, and the merge of what SET_INFO changes. Invariant: offsets from a peer are checked before use; a
present DACL without entries (nobody) and a NULL DACL (everybody) are never confused.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from pools.layout import U8, U16, U32, Layout, Readable, WireError
from smbd.smb2.dtyp.acl import ACL
from smbd.smb2.dtyp.sid import SID

OWNER_DEFAULTED = 0x0001
GROUP_DEFAULTED = 0x0002
DACL_PRESENT = 0x0004
DACL_DEFAULTED = 0x0008
SACL_PRESENT = 0x0010
SACL_DEFAULTED = 0x0020
DACL_AUTO_INHERIT_REQ = 0x0100
SACL_AUTO_INHERIT_REQ = 0x0200
DACL_AUTO_INHERITED = 0x0400
SACL_AUTO_INHERITED = 0x0800
DACL_PROTECTED = 0x1000
SACL_PROTECTED = 0x2000
RM_CONTROL_VALID = 0x4000
SELF_RELATIVE = 0x8000

# [MS-DTYP] 2.4.7 SECURITY_INFORMATION
OWNER_INFORMATION = 0x00000001
GROUP_INFORMATION = 0x00000002
DACL_INFORMATION = 0x00000004
SACL_INFORMATION = 0x00000008
LABEL_INFORMATION = 0x00000010

_DACL_CONTROL = DACL_PRESENT | DACL_DEFAULTED | DACL_AUTO_INHERITED | DACL_PROTECTED
_SACL_CONTROL = SACL_PRESENT | SACL_DEFAULTED | SACL_AUTO_INHERITED | SACL_PROTECTED


class DescriptorHeader(NamedTuple):
    """[MS-DTYP] 2.4.6 SECURITY_DESCRIPTOR, self-relative."""

    revision: U8
    sbz1: U8
    control: U16
    offset_owner: U32
    offset_group: U32
    offset_sacl: U32
    offset_dacl: U32


DESCRIPTOR_HEADER = Layout(DescriptorHeader)


class SecurityDescriptor(NamedTuple):
    """``dacl`` None with DACL_PRESENT in ``control`` is the NULL DACL: everybody may everything; None without it: there is no DACL.

    For an access check both mean the same.
    """

    control: int = SELF_RELATIVE
    owner: SID | None = None
    group: SID | None = None
    dacl: ACL | None = None
    sacl: ACL | None = None

    def pack(self) -> bytes:
        """Self-relative bytes: header, owner, group, SACL, DACL."""
        at = DESCRIPTOR_HEADER.size
        offsets: list[int] = []
        parts: list[bytes] = []
        for element in (self.owner, self.group, self.sacl, self.dacl):
            raw = element.pack() if element is not None else b""
            offsets.append(at if raw else 0)
            parts.append(raw)
            at += len(raw)
        control = self.control | SELF_RELATIVE
        control |= (DACL_PRESENT if self.dacl is not None else 0) | (SACL_PRESENT if self.sacl is not None else 0)
        return DESCRIPTOR_HEADER.pack(1, 0, control, *offsets) + b"".join(parts)

    @classmethod
    def unpack(cls, buf: Readable) -> SecurityDescriptor:
        """From self-relative bytes; ``WireError`` for another revision, the absolute form, or an offset that leaves the buffer."""
        header = DESCRIPTOR_HEADER.unpack(buf)
        if header.revision != 1 or not header.control & SELF_RELATIVE:
            raise WireError(f"security descriptor: revision {header.revision}, control {header.control:#x}")
        view = memoryview(buf)
        owner = SID.unpack(view, _checked(header.offset_owner, view)) if header.offset_owner else None
        group = SID.unpack(view, _checked(header.offset_group, view)) if header.offset_group else None
        has_dacl = header.control & DACL_PRESENT and header.offset_dacl
        has_sacl = header.control & SACL_PRESENT and header.offset_sacl
        dacl = ACL.unpack(view, _checked(header.offset_dacl, view)) if has_dacl else None
        sacl = ACL.unpack(view, _checked(header.offset_sacl, view)) if has_sacl else None
        return cls(header.control, owner, group, dacl, sacl)

    def select(self, information: int) -> SecurityDescriptor:
        """What QUERY_INFO with this SECURITY_INFORMATION may show: the parts asked for, and nothing of the others."""
        control = self.control & (SELF_RELATIVE | RM_CONTROL_VALID)
        if information & DACL_INFORMATION:
            control |= self.control & _DACL_CONTROL | DACL_PRESENT
        if information & SACL_INFORMATION:
            control |= self.control & _SACL_CONTROL
        return SecurityDescriptor(
            control,
            self.owner if information & OWNER_INFORMATION else None,
            self.group if information & GROUP_INFORMATION else None,
            self.dacl if information & DACL_INFORMATION else None,
            self.sacl if information & SACL_INFORMATION else None,
        )

    def merge(self, change: SecurityDescriptor, information: int) -> SecurityDescriptor:
        """This descriptor after SET_INFO with ``change``: [MS-FSA] 2.1.5.17. Parts not named in ``information`` stay.

        AUTO_INHERITED is taken over only together with AUTO_INHERIT_REQ, as [MS-DTYP] 2.4.6 has it.
        """
        control, owner, group, dacl, sacl = self.control, self.owner, self.group, self.dacl, self.sacl
        if information & OWNER_INFORMATION and change.owner is not None:
            owner, control = change.owner, control & ~OWNER_DEFAULTED
        if information & GROUP_INFORMATION and change.group is not None:
            group, control = change.group, control & ~GROUP_DEFAULTED
        if information & DACL_INFORMATION:
            dacl = change.dacl
            control = control & ~_DACL_CONTROL | change.control & (DACL_DEFAULTED | DACL_PROTECTED) | DACL_PRESENT
            if change.control & DACL_AUTO_INHERIT_REQ and change.control & DACL_AUTO_INHERITED:
                control |= DACL_AUTO_INHERITED
        if information & SACL_INFORMATION:
            sacl = change.sacl
            control = control & ~_SACL_CONTROL | change.control & (SACL_PRESENT | SACL_DEFAULTED | SACL_PROTECTED)
            if change.control & SACL_AUTO_INHERIT_REQ and change.control & SACL_AUTO_INHERITED:
                control |= SACL_AUTO_INHERITED
        return SecurityDescriptor(control | SELF_RELATIVE, owner, group, dacl, sacl)


@lru_cache(maxsize=512)
def cached_descriptor(raw: bytes) -> SecurityDescriptor:
    """``SecurityDescriptor.unpack``, remembered: files of a share carry few different descriptors, and each open reads one."""
    return SecurityDescriptor.unpack(raw)


def _checked(offset: int, view: memoryview) -> int:
    if offset < DESCRIPTOR_HEADER.size or offset >= len(view):
        raise WireError(f"security descriptor: offset {offset} in {len(view)} bytes")
    return offset
