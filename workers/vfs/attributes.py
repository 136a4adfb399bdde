"""DOS attributes and times: from statx and the xattr user.DOSATTRIB to ``FileInfo``.

Owns: the rules where there is no xattr: a file made elsewhere has ARCHIVE, a directory nothing, a file nobody may write READONLY, and the
file system's birth time is the creation time. So a file with nothing special needs no xattr at all. Invariant: DIRECTORY, NORMAL and
COMPRESSED are computed, never stored.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from pools.port.interface import COMPRESSED, Stat
from smbd.smb2 import constants as c
from workers.vfs.dosattrib import WINDOW, unpack
from workers.vfs.interface import FileInfo

EPOCH: Final = 116_444_736_000_000_000  # 1970 as FILETIME
_DIRECTORY: Final = c.FILE_ATTRIBUTE_DIRECTORY
_SPARSE: Final = c.FILE_ATTRIBUTE_SPARSE_FILE
_new_info = tuple.__new__


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
    change = st.ctime * 10_000_000 + st.ctime_ns // 100 + EPOCH
    if dos is None:
        attributes, creation = default(mode), 0
    else:
        attributes, creation, changed, stamp = dos
        if changed and st.ctime * 1_000_000_000 + st.ctime_ns - stamp <= WINDOW:
            change = changed
    if hidden:
        attributes |= c.FILE_ATTRIBUTE_HIDDEN
    if st.stx_attributes & COMPRESSED:
        attributes |= c.FILE_ATTRIBUTE_COMPRESSED
    directory = mode & 0o170000 == 0o040000
    allocation = 0 if directory else st.blocks * 512
    if directory:
        attributes = (attributes | _DIRECTORY) & ~_SPARSE
    else:
        if not attributes & _SPARSE and allocation < st.size:
            allocation = (st.size + 4095) & ~4095  # compressed or inline: what a client would need to copy it
        attributes = attributes or c.FILE_ATTRIBUTE_NORMAL
    write = st.mtime * 10_000_000 + st.mtime_ns // 100 + EPOCH
    if not creation:
        creation = st.btime * 10_000_000 + st.btime_ns // 100 + EPOCH if st.btime else min(change, write)
    access = st.atime * 10_000_000 + st.atime_ns // 100 + EPOCH
    dev = os.makedev(st.dev_major, st.dev_minor)
    size = 0 if directory else st.size
    fields = (dev, st.ino, size, allocation, st.nlink, directory, attributes, creation, access, write, change, 0, 0, st.uid, st.gid, mode)
    return _new_info(FileInfo, fields)
