"""DOS attributes and times: from statx and the xattr user.DOSATTRIB to ``FileInfo``.

Owns: the xattr's layout (Samba's, versions 3 to 5 read, 5 written) and the rules where there is none: a file made elsewhere has ARCHIVE,
a directory nothing, a file nobody may write READONLY, and the file system's birth time is the creation time. So a file with nothing
special needs no xattr at all. Invariant: DIRECTORY and NORMAL are computed, never stored.
"""

from __future__ import annotations

import os
import stat
from typing import Final, NamedTuple

from pools.layout import U16, U32, U64, Layout, WireError
from pools.port.interface import Stat
from smbd.smb2 import constants as c
from workers.vfs.interface import FileInfo

XATTR: Final = "user.DOSATTRIB"
XATTR_RAW: Final = XATTR.encode()
EPOCH: Final = 116_444_736_000_000_000  # 1970 as FILETIME
_HAS_ATTRIBUTES: Final = 0x01
_HAS_CREATION: Final = 0x10
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
_STORED: Final = SETTABLE | c.FILE_ATTRIBUTE_SPARSE_FILE
_DIRECTORY: Final = c.FILE_ATTRIBUTE_DIRECTORY
_SPARSE: Final = c.FILE_ATTRIBUTE_SPARSE_FILE
_new_info = tuple.__new__


class DosInfo(NamedTuple):
    """What the xattr says; ``creation`` 0: it does not say."""

    attributes: int
    creation: int


class _Info5(NamedTuple):
    attrib_hex: U16  # the empty string, and its alignment
    version: U16
    tag: U16
    reserved: U16
    valid_flags: U32
    attrib: U32
    create_time: U64


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
_INFO4 = Layout(_Info4)
_INFO3 = Layout(_Info3)
_VERSIONS = Layout(_Versions)


def pack(info: DosInfo) -> bytes:
    """The xattr's value."""
    flags = _HAS_ATTRIBUTES | (_HAS_CREATION if info.creation else 0)
    return _INFO5.pack(0, 5, 5, 0, flags, info.attributes & _STORED, info.creation)


def unpack(value: bytes) -> DosInfo | None:
    """None for what cannot be understood: it then counts as absent."""
    try:
        if len(value) == _INFO5.size and value[:6] == b"\0\0\5\0\5\0":
            info = _INFO5.unpack(value)
        else:
            return _unpack_older(value)
    except (WireError, ValueError):
        return None
    return _dos_info(info.valid_flags, info.attrib, info.create_time)


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


def default(mode: int) -> int:
    """The attributes of a file without the xattr (never DIRECTORY)."""
    if stat.S_ISDIR(mode):
        return 0
    return c.FILE_ATTRIBUTE_ARCHIVE if mode & 0o222 else c.FILE_ATTRIBUTE_ARCHIVE | c.FILE_ATTRIBUTE_READONLY


def to_ns(filetime: int) -> int:
    """Nanoseconds since 1970."""
    return (filetime - EPOCH) * 100


def from_ns(nanoseconds: int) -> int:
    """A FILETIME."""
    return nanoseconds // 100 + EPOCH


def file_info(st: Stat, value: bytes | None, hidden: bool) -> FileInfo:
    """``value`` is the xattr; ``hidden`` adds the attribute (a dot file's)."""
    dos = unpack(value) if value else None
    mode = st.mode
    if dos is None:
        attributes, creation = default(mode), 0
    else:
        attributes, creation = dos
    if hidden:
        attributes |= c.FILE_ATTRIBUTE_HIDDEN
    directory = mode & 0o170000 == 0o040000
    allocation = 0 if directory else st.blocks * 512
    if directory:
        attributes = (attributes | _DIRECTORY) & ~_SPARSE
    else:
        if not attributes & _SPARSE and allocation < st.size:
            allocation = (st.size + 4095) & ~4095  # compressed or inline: what a client would need to copy it
        attributes = attributes or c.FILE_ATTRIBUTE_NORMAL
    change = st.ctime * 10_000_000 + st.ctime_ns // 100 + EPOCH
    write = st.mtime * 10_000_000 + st.mtime_ns // 100 + EPOCH
    if not creation:
        creation = st.btime * 10_000_000 + st.btime_ns // 100 + EPOCH if st.btime else min(change, write)
    access = st.atime * 10_000_000 + st.atime_ns // 100 + EPOCH
    dev = os.makedev(st.dev_major, st.dev_minor)
    size = 0 if directory else st.size
    fields = (dev, st.ino, size, allocation, st.nlink, directory, attributes, creation, access, write, change, 0, 0, st.uid, st.gid, mode)
    return _new_info(FileInfo, fields)
