"""Windows data types of security: SIDs, access control lists, descriptors, tokens and the check itself ([MS-DTYP] 2.4 and 2.5).

Owns: the package's public names. Pure: bytes and values only; the mapping of SIDs to Unix ids is not known here.
"""

from __future__ import annotations

from smbd.smb2.dtyp.access import access_check, map_generic, mapped, maximum_access
from smbd.smb2.dtyp.acl import ACE, ACL, allow, deny
from smbd.smb2.dtyp.descriptor import SecurityDescriptor, cached_descriptor
from smbd.smb2.dtyp.inherit import create_descriptor, descriptor_from_mode
from smbd.smb2.dtyp.sddl import format_sddl, parse_sddl
from smbd.smb2.dtyp.sid import SID
from smbd.smb2.dtyp.token import Token

__all__ = [
    "ACE",
    "ACL",
    "SID",
    "SecurityDescriptor",
    "Token",
    "access_check",
    "allow",
    "cached_descriptor",
    "create_descriptor",
    "deny",
    "descriptor_from_mode",
    "format_sddl",
    "map_generic",
    "mapped",
    "maximum_access",
    "parse_sddl",
]
