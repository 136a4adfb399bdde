"""[MS-FSCC]: what files, directories and file systems look like on the wire.

Owns: the layouts and packers of every information class, by concern: ``query`` (one file), ``directory`` and ``listing``, ``filesystem``
(volumes), ``change`` (what SET_INFO carries) and ``lists`` (chained entries: EAs, streams, links, notifications). Invariant: pure; file
facts come in as a ``Facts`` and leave as bytes, or the other way round. What a peer sent wrongly is a ``WireError`` or the ``SmbError`` the
specification names.
"""

from __future__ import annotations

from smbd.smb2.fscc.facts import Facts, OpenState
from smbd.smb2.fscc.listing import Listing
from smbd.smb2.fscc.lists import (
    ExtendedAttribute,
    Packed,
    Stream,
    pack_full_eas,
    pack_links,
    pack_notify,
    pack_streams,
    parse_ea_names,
    parse_full_eas,
)

__all__ = [
    "ExtendedAttribute",
    "Facts",
    "Listing",
    "OpenState",
    "Packed",
    "Stream",
    "pack_full_eas",
    "pack_links",
    "pack_notify",
    "pack_streams",
    "parse_ea_names",
    "parse_full_eas",
]
