"""The xattr user.DOSATTRIB: Samba's layout, versions 3 to 5 read, 5 written.

Owns: its bytes. Invariant: DIRECTORY and NORMAL are never stored; what cannot be understood counts as absent.

A change time that a client has set follows version 5, where Samba reads no further: see ``times``.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pools.layout import U16, U32, U64, Layout, WireError
from smbd.smb2 import constants as c

XATTR: Final = "user.DOSATTRIB"
XATTR_RAW: Final = XATTR.encode()
_HAS_ATTRIBUTES: Final = 0x01
_HAS_CREATION: Final = 0x10
_NEVER: Final = 1 << 63  # beyond what a FILETIME on the wire can say
# What SET_INFO may change: [MS-FSCC] 2.4.7 and 2.6
SETTABLE: Final = (
    c.FILE_ATTRIBUTE_READONLY
    | c.FILE_ATTRIBUTE_HIDDEN
    | c.FILE_ATTRIBUTE_SYSTEM
    | c.FILE_ATTRIBUTE_ARCHIVE
    | c.FILE_ATTRIBUTE_TEMPORARY
    | c.FILE_ATTRIBUTE_OFFLINE
    | c.FILE_ATTRIBUTE_NOT_CONTENT_INDEXED
)
_STORED: Final = SETTABLE | c.FILE_ATTRIBUTE_SPARSE_FILE | c.FILE_ATTRIBUTE_REPARSE_POINT


WINDOW: Final = 10_000_000
"""ns between our clock and a file's stamp that count as no difference: file systems stamp with the kernel's tick, at worst 10 ms."""


class DosInfo(NamedTuple):
    """What the xattr says; ``creation`` 0: it does not say. ``change``: a change time that was set, at ``stamp`` (ns since 1970), or 0."""

    attributes: int
    creation: int
    change: int = 0
    stamp: int = 0


class _Info5(NamedTuple):
    attrib_hex: U16  # the empty string, and its alignment
    version: U16
    tag: U16
    reserved: U16
    valid_flags: U32
    attrib: U32
    create_time: U64


class _Change(NamedTuple):
    change_time: U64
    stamp: U64


class _Info4(NamedTuple):
    valid_flags: U32
    attrib: U32
    itime: U64
    create_time: U64


class _Info3(NamedTuple):
    valid_flags: U32
    attrib: U32
    ea_size: U32
    size: U64
    alloc_size: U64
    create_time: U64
    change_time: U64


class _Versions(NamedTuple):
    version: U16
    tag: U16


_INFO5 = Layout(_Info5)
_CHANGE = Layout(_Change)
_INFO4 = Layout(_Info4)
_INFO3 = Layout(_Info3)
_VERSIONS = Layout(_Versions)


def pack(info: DosInfo) -> bytes:
    """The xattr's value."""
    flags = _HAS_ATTRIBUTES | (_HAS_CREATION if info.creation else 0)
    packed = _INFO5.pack(0, 5, 5, 0, flags, info.attributes & _STORED, info.creation)
    return packed + _CHANGE.pack(info.change, info.stamp) if info.change else packed


def unpack(value: bytes) -> DosInfo | None:
    """None for what cannot be understood: it then counts as absent."""
    try:
        if len(value) < _INFO5.size or value[:6] != b"\0\0\5\0\5\0":
            return _unpack_older(value)
        info = _INFO5.unpack(value)
        found = _dos_info(info.valid_flags, info.attrib, info.create_time)
        if len(value) != _INFO5.size + _CHANGE.size or found is None:
            return found
        change, stamp = _CHANGE.unpack(value, _INFO5.size)
    except (WireError, ValueError):
        return None
    return found._replace(change=change, stamp=stamp) if 0 < change < _NEVER else found


def _unpack_older(value: bytes) -> DosInfo | None:
    end = value.index(b"\0")
    offset = (end + 2) & ~1
    if len(value) < offset + _VERSIONS.size:
        return DosInfo(int(value[:end], 16) & _STORED, 0)
    version = _VERSIONS.unpack(value, offset).version
    offset = (offset + _VERSIONS.size + 3) & ~3
    if version == 4:
        info4 = _INFO4.unpack(value, offset)
        return _dos_info(info4.valid_flags, info4.attrib, info4.create_time)
    if version == 3:
        info3 = _INFO3.unpack(value, offset)
        return _dos_info(info3.valid_flags, info3.attrib, info3.create_time)
    return None


def _dos_info(flags: int, attributes: int, creation: int) -> DosInfo | None:
    if not flags & _HAS_ATTRIBUTES:
        return None
    return DosInfo(attributes & _STORED, creation if flags & _HAS_CREATION else 0)
