"""Reparse points: [MS-FSCC] 2.1.2, and the answer to an open that meets one ([MS-SMB2] 2.2.2.2.1).

Owns: the layouts, ``check``, and symbolic links in both directions. Invariant: what ``check`` has let pass is as long as it says, and no
longer than ``MAXIMUM``; whoever reads names out of it asks ``parse_symlink``, which finds nothing outside of the buffer.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pools.layout import U16, U32, Layout, Raw16, WireError
from smbd.smb2 import status
from smbd.smb2.header import SYMBOLIC_LINK_ERROR_RESPONSE
from smbd.smb2.names import decode, encode
from smbd.smb2.status import SmbError

TAG_MOUNT_POINT: Final = 0xA0000003
TAG_SYMLINK: Final = 0xA000000C
TAG_NFS: Final = 0x80000014
TAG_DFS: Final = 0x8000000A
TAG_LX_SYMLINK: Final = 0xA000001D
_RESERVED: Final = (0, 1)
_MICROSOFT: Final = 0x80000000
MAXIMUM: Final = 16384  # MAXIMUM_REPARSE_DATA_BUFFER_SIZE
SYMLINK_FLAG_RELATIVE: Final = 0x00000001
_SYMLINK_ERROR_TAG: Final = 0x4C4D5953  # "SYML"


class ReparseDataBuffer(NamedTuple):
    """2.1.2.2 REPARSE_DATA_BUFFER; the data follow."""

    reparse_tag: U32
    reparse_data_length: U16
    reserved: U16


class ReparseGuidDataBuffer(NamedTuple):
    """2.1.2.3 REPARSE_GUID_DATA_BUFFER, for tags that are not Microsoft's; the data follow."""

    reparse_tag: U32
    reparse_data_length: U16
    reserved: U16
    reparse_guid: Raw16


class SymbolicLinkReparseDataBuffer(NamedTuple):
    """2.1.2.4 Symbolic Link Reparse Data Buffer; PathBuffer follows."""

    reparse_tag: U32
    reparse_data_length: U16
    reserved: U16
    substitute_name_offset: U16
    substitute_name_length: U16
    print_name_offset: U16
    print_name_length: U16
    flags: U32


BUFFER = Layout(ReparseDataBuffer)
GUID_BUFFER = Layout(ReparseGuidDataBuffer)
SYMLINK_BUFFER = Layout(SymbolicLinkReparseDataBuffer)


class Symlink(NamedTuple):
    """A symbolic link's target as the wire has it: separated by backslashes, from the link's directory on when ``relative``."""

    target: str
    relative: bool
    shown: str = ""


def tag_of(data: bytes) -> int:
    """The tag of a buffer that was checked."""
    return BUFFER.unpack(memoryview(data)).reparse_tag


def check(data: memoryview, existing: bytes | None, *, empty: bool = False) -> int:
    """The tag of a buffer to be set, or of the request to delete one (``empty``: nothing but the header).

    No buffer makes a link of a DFS namespace: who may write a file is not to send others to any server he likes.
    ``SmbError`` as [MS-FSA] 2.1.5.10.37 and 2.1.5.10.5 have it: IO_REPARSE_DATA_INVALID, IO_REPARSE_TAG_INVALID; IO_REPARSE_TAG_MISMATCH or
    REPARSE_ATTRIBUTE_CONFLICT where another kind of reparse point is there already.
    """
    if not BUFFER.size <= len(data) <= MAXIMUM:
        raise SmbError(status.IO_REPARSE_DATA_INVALID)
    head = BUFFER.unpack(data)
    fixed = BUFFER if head.reparse_tag & _MICROSOFT else GUID_BUFFER
    if len(data) != fixed.size + head.reparse_data_length or (empty and head.reparse_data_length):
        raise SmbError(status.IO_REPARSE_DATA_INVALID)
    if head.reparse_tag in _RESERVED or (head.reparse_tag == TAG_DFS and not empty):
        raise SmbError(status.IO_REPARSE_TAG_INVALID)
    if existing is not None:
        if tag_of(existing) != head.reparse_tag:
            raise SmbError(status.IO_REPARSE_TAG_MISMATCH)
        if fixed is GUID_BUFFER and existing[BUFFER.size : GUID_BUFFER.size] != data[BUFFER.size : GUID_BUFFER.size]:
            raise SmbError(status.REPARSE_ATTRIBUTE_CONFLICT)
    return head.reparse_tag


def stored(data: bytes) -> bytes | None:
    """What was kept beside a file, if it makes sense: others may have put it there."""
    try:
        check(memoryview(data), None)
    except SmbError:
        return None
    return data


def parse_symlink(data: bytes) -> Symlink:
    """A symbolic link's buffer; IO_REPARSE_DATA_INVALID where its names lie outside of it or are none."""
    try:
        head = SYMLINK_BUFFER.unpack(memoryview(data))
        names = data[SYMLINK_BUFFER.size :]
        target = _cut(names, head.substitute_name_offset, head.substitute_name_length)
        shown = _cut(names, head.print_name_offset, head.print_name_length)
    except (WireError, SmbError) as error:
        raise SmbError(status.IO_REPARSE_DATA_INVALID) from error
    if not target or "\0" in target:
        raise SmbError(status.IO_REPARSE_DATA_INVALID)
    return Symlink(target, bool(head.flags & SYMLINK_FLAG_RELATIVE), shown)


def _cut(names: bytes, offset: int, length: int) -> str:
    if offset + length > len(names):
        raise WireError("a name outside of the buffer")
    return decode(names[offset : offset + length])


def pack_symlink(link: Symlink) -> bytes:
    """Its buffer."""
    fields, names = _names(link)
    return SYMLINK_BUFFER.pack(TAG_SYMLINK, SYMLINK_BUFFER.size - BUFFER.size + len(names), 0, *fields) + names


def _names(link: Symlink) -> tuple[tuple[int, int, int, int, int], bytes]:
    target, shown = encode(link.target), encode(link.shown or link.target)
    return (0, len(target), len(target), len(shown), SYMLINK_FLAG_RELATIVE if link.relative else 0), target + shown


def pack_dfs(targets: str) -> bytes:
    """A link of a DFS namespace: what its symlink says behind "msdfs:", UTF-8. Nobody but us reads that, as none but servers would."""
    text = targets.encode("utf-8", "surrogateescape")
    return BUFFER.pack(TAG_DFS, len(text), 0) + text


def parse_dfs(data: bytes) -> str:
    """The other way."""
    return data[BUFFER.size :].decode("utf-8", "surrogateescape")


def stopped(data: bytes, unparsed: str) -> SmbError:
    """What an open hears that meets a reparse point it may not pass ([MS-SMB2] 3.3.5.9). ``unparsed``: the path behind it, from its
    separator on.

    Only a symbolic link has something to tell; what else is met has nobody here who would know what it means. Behind a link of a DFS
    namespace the client asks for a referral.
    """
    if tag_of(data) == TAG_DFS:
        return SmbError(status.PATH_NOT_COVERED)
    if tag_of(data) != TAG_SYMLINK:
        return SmbError(status.IO_REPARSE_TAG_NOT_HANDLED)
    fields, names = _names(parse_symlink(data))
    length = SYMBOLIC_LINK_ERROR_RESPONSE.size - 4 + len(names)
    data_length = SYMLINK_BUFFER.size - BUFFER.size + len(names)
    error = SYMBOLIC_LINK_ERROR_RESPONSE.pack(length, _SYMLINK_ERROR_TAG, TAG_SYMLINK, data_length, len(encode(unparsed)), *fields)
    return SmbError(status.STOPPED_ON_SYMLINK, error + names)
