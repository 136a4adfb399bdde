"""Security descriptors as text: the part of [MS-DTYP] 2.5.1 that files need (for tests, logs and the command line).

Owns: the spelling. Invariant: ``parse_sddl(format_sddl(d))`` equals ``d`` for descriptors without conditional or raw entries.
"""

from __future__ import annotations

import re

from smbd.smb2.constants import FILE_ALL_ACCESS, FILE_GENERIC_EXECUTE, FILE_GENERIC_READ, FILE_GENERIC_WRITE
from smbd.smb2.dtyp import acl, descriptor, sid
from smbd.smb2.dtyp.acl import ACE, ACL
from smbd.smb2.dtyp.descriptor import SecurityDescriptor
from smbd.smb2.dtyp.sid import SID

_SIDS = {
    "WD": sid.EVERYONE,
    "CO": sid.CREATOR_OWNER,
    "CG": sid.CREATOR_GROUP,
    "OW": sid.OWNER_RIGHTS,
    "NU": sid.NETWORK,
    "AN": sid.ANONYMOUS,
    "AU": sid.AUTHENTICATED_USERS,
    "SY": sid.SYSTEM,
    "BA": sid.ADMINISTRATORS,
    "BU": sid.USERS,
    "BG": sid.GUESTS,
    "BO": sid.BACKUP_OPERATORS,
}
_SID_NAMES = {value: name for name, value in _SIDS.items()}
_TYPES = {"A": acl.ACCESS_ALLOWED, "D": acl.ACCESS_DENIED, "AU": acl.SYSTEM_AUDIT, "ML": acl.SYSTEM_MANDATORY_LABEL}
_TYPE_NAMES = {value: name for name, value in _TYPES.items()}
_FLAGS = {
    "OI": acl.OBJECT_INHERIT,
    "CI": acl.CONTAINER_INHERIT,
    "NP": acl.NO_PROPAGATE_INHERIT,
    "IO": acl.INHERIT_ONLY,
    "ID": acl.INHERITED,
    "SA": acl.SUCCESSFUL_ACCESS,
    "FA": acl.FAILED_ACCESS,
}
_RIGHTS = {
    "FA": FILE_ALL_ACCESS,
    "FR": FILE_GENERIC_READ,
    "FW": FILE_GENERIC_WRITE,
    "FX": FILE_GENERIC_EXECUTE,
    "GA": 0x10000000,
    "GX": 0x20000000,
    "GW": 0x40000000,
    "GR": 0x80000000,
    "SD": 0x00010000,
    "RC": 0x00020000,
    "WD": 0x00040000,
    "WO": 0x00080000,
    "CC": 0x01,
    "DC": 0x02,
    "LC": 0x04,
    "SW": 0x08,
    "RP": 0x10,
    "WP": 0x20,
    "DT": 0x40,
    "LO": 0x80,
    "CR": 0x100,
}
_SECTION = re.compile(r"([OGDS]):")
_ACE = re.compile(r"\(([^()]*)\)")
_ACL = re.compile(r"(P|AR|AI|NO_ACCESS_CONTROL)*((?:\([^()]*\))*)", re.ASCII)
_PREFIX = re.compile(r"NO_ACCESS_CONTROL|AR|AI|P")


def parse_sddl(text: str) -> SecurityDescriptor:
    """A descriptor from its text; ``ValueError`` names what was not understood."""
    pieces = _SECTION.split(text)
    if pieces[0]:
        raise ValueError(f"SDDL: {pieces[0]!r} before the first section")
    control = descriptor.SELF_RELATIVE
    sids: dict[str, SID] = {}
    acls: dict[str, ACL | None] = {}
    for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
        if name in "OG":
            sids[name] = _parse_sid(body)
        else:
            acls[name], bits = _parse_acl(body)
            control |= bits | descriptor.DACL_PRESENT if name == "D" else bits << 1 | descriptor.SACL_PRESENT
    return SecurityDescriptor(control, sids.get("O"), sids.get("G"), acls.get("D"), acls.get("S"))


def _parse_sid(text: str) -> SID:
    return _SIDS[text] if text in _SIDS else SID.parse(text)


def _parse_acl(text: str) -> tuple[ACL | None, int]:
    match = _ACL.fullmatch(text)
    if match is None:
        raise ValueError(f"SDDL: {text!r} is not an ACL")
    words = _PREFIX.findall(text.partition("(")[0])
    bits = descriptor.DACL_PROTECTED if "P" in words else 0
    bits |= (descriptor.DACL_AUTO_INHERITED if "AI" in words else 0) | (descriptor.DACL_AUTO_INHERIT_REQ if "AR" in words else 0)
    if "NO_ACCESS_CONTROL" in words:
        return None, bits
    return ACL(tuple(_parse_ace(body) for body in _ACE.findall(text))), bits


def _parse_ace(text: str) -> ACE:
    fields = text.split(";")
    if len(fields) != 6 or fields[0] not in _TYPES or fields[3] or fields[4]:
        raise ValueError(f"SDDL: ({text}) is not an ACE")
    flags = sum(_FLAGS[word] for word in _pairs(fields[1], _FLAGS))
    mask = int(fields[2], 16) if fields[2].startswith("0x") else 0
    if not fields[2].startswith("0x"):
        for word in _pairs(fields[2], _RIGHTS):
            mask |= _RIGHTS[word]
    return ACE(_TYPES[fields[0]], flags, mask, _parse_sid(fields[5]))


def _pairs(text: str, known: dict[str, int]) -> list[str]:
    words = [text[at : at + 2] for at in range(0, len(text), 2)]
    for word in words:
        if word not in known:
            raise ValueError(f"SDDL: {word!r} in {text!r}")
    return words


def format_sddl(value: SecurityDescriptor) -> str:
    """The descriptor's text; entries that are not understood are shown as their bytes."""
    parts = [f"O:{_format_sid(value.owner)}"] if value.owner is not None else []
    parts += [f"G:{_format_sid(value.group)}"] if value.group is not None else []
    if value.control & descriptor.DACL_PRESENT or value.dacl is not None:
        parts.append("D:" + _format_acl(value.dacl, value.control))
    if value.control & descriptor.SACL_PRESENT or value.sacl is not None:
        parts.append("S:" + _format_acl(value.sacl, value.control >> 1))
    return "".join(parts)


def _format_acl(value: ACL | None, control: int) -> str:
    words = "P" if control & descriptor.DACL_PROTECTED else ""
    words += "AR" if control & descriptor.DACL_AUTO_INHERIT_REQ else ""
    words += "AI" if control & descriptor.DACL_AUTO_INHERITED else ""
    if value is None:
        return words + "NO_ACCESS_CONTROL"
    return words + "".join(_format_ace(ace) for ace in value.aces)


def _format_ace(ace: ACE) -> str:
    if ace.ace_type not in _TYPE_NAMES:
        return f"(#{ace.pack().hex()})"
    flags = "".join(name for name, bit in _FLAGS.items() if ace.flags & bit)
    whole = {FILE_ALL_ACCESS: "FA", FILE_GENERIC_READ: "FR", FILE_GENERIC_WRITE: "FW", FILE_GENERIC_EXECUTE: "FX"}
    rights = whole.get(ace.mask, f"0x{ace.mask:x}")
    return f"({_TYPE_NAMES[ace.ace_type]};{flags};{rights};;;{_format_sid(ace.sid)})"


def _format_sid(value: SID) -> str:
    return _SID_NAMES.get(value, str(value))
