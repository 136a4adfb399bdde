"""[MS-FSCC]: what files, directories and file systems look like on the wire.

Owns: the layouts and packers of every information class, by concern: ``query`` (one file), ``directory`` (listings), ``filesystem``
(volumes), ``change`` (what SET_INFO carries), ``lists`` (chained entries: EAs, streams, links, notifications) and ``control`` (FSCTL
structures). Invariant: pure; file facts come in as a ``Facts`` and leave as bytes, or the other way round. What a peer sent wrongly is a
``WireError`` or the ``SmbError`` the specification names.
"""

from __future__ import annotations

from smbd.smb2 import constants
from smbd.smb2.fscc.directory import Listing
from smbd.smb2.fscc.facts import Facts, OpenState
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

ADDED = constants.FILE_ACTION_ADDED
REMOVED = constants.FILE_ACTION_REMOVED
MODIFIED = constants.FILE_ACTION_MODIFIED
RENAMED_OLD_NAME = constants.FILE_ACTION_RENAMED_OLD_NAME
RENAMED_NEW_NAME = constants.FILE_ACTION_RENAMED_NEW_NAME
ADDED_STREAM = constants.FILE_ACTION_ADDED_STREAM
REMOVED_STREAM = constants.FILE_ACTION_REMOVED_STREAM
MODIFIED_STREAM = constants.FILE_ACTION_MODIFIED_STREAM

__all__ = [
    "ADDED",
    "ADDED_STREAM",
    "MODIFIED",
    "MODIFIED_STREAM",
    "REMOVED",
    "REMOVED_STREAM",
    "RENAMED_NEW_NAME",
    "RENAMED_OLD_NAME",
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
    "wire_attributes",
]


def wire_attributes(attributes: int) -> int:
    """[MS-FSCC] 2.6: a file without any attribute has NORMAL, and nothing has NORMAL beside another."""
    others = attributes & ~constants.FILE_ATTRIBUTE_NORMAL
    return others or constants.FILE_ATTRIBUTE_NORMAL
