"""FSCTL structures of [MS-FSCC] 2.3 and the reparse data buffers of 2.1.2.

Owns: the parsers of sparse, zero-data, allocated-range and reparse buffers (their layouts are in ``messages.ioctl``). Invariant: lengths
and offsets a client sends are checked against the buffer and against each other before anything is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from pools.layout import U16, U32, Layout, Readable
from smbd.smb2 import status
from smbd.smb2.fscc.lists import Packed
from smbd.smb2.messages.ioctl import FILE_ALLOCATED_RANGE_BUFFER as ALLOCATED_RANGE
from smbd.smb2.messages.ioctl import FILE_SET_SPARSE_BUFFER as SET_SPARSE
from smbd.smb2.messages.ioctl import FILE_ZERO_DATA_INFORMATION as ZERO_DATA
from smbd.smb2.messages.ioctl import REPARSE_DATA_BUFFER as REPARSE
from smbd.smb2.status import SmbError

IO_REPARSE_TAG_SYMLINK: Final = 0xA000000C
IO_REPARSE_TAG_MOUNT_POINT: Final = 0xA0000003
IO_REPARSE_TAG_NFS: Final = 0x80000014
SYMLINK_FLAG_RELATIVE: Final = 0x00000001
_MAX_REPARSE: Final = 16384


class SymbolicLinkReparseDataBuffer(NamedTuple):
    """2.1.2.4, after the common part and before PathBuffer."""

    substitute_name_offset: U16
    substitute_name_length: U16
    print_name_offset: U16
    print_name_length: U16
    flags: U32


class Reparse(NamedTuple):
    """A parsed reparse data buffer."""

    tag: int
    data: bytes


class Symlink(NamedTuple):
    """A symbolic link's two names."""

    substitute: str
    printed: str
    relative: bool


SYMLINK = Layout(SymbolicLinkReparseDataBuffer)


def parse_set_sparse(data: Readable) -> bool:
    """No buffer means yes."""
    return not len(data) or SET_SPARSE.unpack(data).set_sparse != 0


def parse_zero_data(data: Readable) -> tuple[int, int]:
    """(offset, length)."""
    if len(data) < ZERO_DATA.size:
        raise SmbError(status.INVALID_PARAMETER)
    zero = ZERO_DATA.unpack(data)
    if zero.file_offset < 0 or zero.beyond_final_zero < zero.file_offset:
        raise SmbError(status.INVALID_PARAMETER)
    return zero.file_offset, zero.beyond_final_zero - zero.file_offset


def parse_allocated_range(data: Readable) -> tuple[int, int]:
    """(offset, length) of the window a client asks about."""
    if len(data) < ALLOCATED_RANGE.size:
        raise SmbError(status.INVALID_PARAMETER)
    window = ALLOCATED_RANGE.unpack(data)
    if window.file_offset < 0 or window.length < 0 or window.file_offset + window.length > 0x7FFF_FFFF_FFFF_FFFF:
        raise SmbError(status.INVALID_PARAMETER)
    return window.file_offset, window.length


def pack_ranges(ranges: Iterable[tuple[int, int]], limit: int) -> Packed:
    """As many as fit: BUFFER_OVERFLOW when that is not all, BUFFER_TOO_SMALL (the caller's) when not even one does."""
    packed = [ALLOCATED_RANGE.pack(offset, length) for offset, length in ranges]
    room = limit // ALLOCATED_RANGE.size
    return Packed(b"".join(packed[:room]), len(packed) <= room)


def parse_reparse(data: Readable) -> Reparse:
    """2.1.2.1; IO_REPARSE_DATA_INVALID when the lengths do not agree."""
    if len(data) < REPARSE.size or len(data) > _MAX_REPARSE:
        raise SmbError(status.IO_REPARSE_DATA_INVALID)
    head = REPARSE.unpack(data)
    if head.reparse_data_length != len(data) - REPARSE.size:
        raise SmbError(status.IO_REPARSE_DATA_INVALID)
    if head.reparse_tag in (0, 1):
        raise SmbError(status.IO_REPARSE_TAG_INVALID)
    return Reparse(head.reparse_tag, bytes(data[REPARSE.size :]))


def pack_reparse(reparse: Reparse) -> bytes:
    """The buffer FSCTL_GET_REPARSE_POINT answers with."""
    return REPARSE.pack(reparse.tag, len(reparse.data), 0) + reparse.data


def pack_symlink(link: Symlink) -> Reparse:
    """2.1.2.4"""
    substitute, printed = link.substitute.encode("utf-16-le"), link.printed.encode("utf-16-le")
    flags = SYMLINK_FLAG_RELATIVE if link.relative else 0
    head = SYMLINK.pack(0, len(substitute), len(substitute), len(printed), flags)
    return Reparse(IO_REPARSE_TAG_SYMLINK, head + substitute + printed)


def parse_symlink(data: Readable) -> Symlink:
    """From ``Reparse.data``."""
    if len(data) < SYMLINK.size:
        raise SmbError(status.IO_REPARSE_DATA_INVALID)
    head = SYMLINK.unpack(data)
    path = bytes(data[SYMLINK.size :])
    parts = []
    for offset, length in ((head.substitute_name_offset, head.substitute_name_length), (head.print_name_offset, head.print_name_length)):
        if offset + length > len(path) or length % 2:
            raise SmbError(status.IO_REPARSE_DATA_INVALID)
        try:
            parts.append(path[offset : offset + length].decode("utf-16-le"))
        except UnicodeDecodeError as error:
            raise SmbError(status.IO_REPARSE_DATA_INVALID) from error
    return Symlink(parts[0], parts[1], bool(head.flags & SYMLINK_FLAG_RELATIVE))
