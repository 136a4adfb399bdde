"""The information classes of the POSIX extensions of SMB 3.1.1 (POSIX-FSCC 2.1 to 2.3): files, listings, file systems.

Owns: their layouts and packers, and a file's mode on the wire. Invariant: a class of these is only for opens whose CREATE carried the POSIX
context; who packs asks that first.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from pools.layout import I64, U32, U64, Layout, Writable
from smbd.smb2.fscc.directory import NEXT
from smbd.smb2.fscc.facts import Facts
from smbd.smb2.names import encode

FILE_POSIX_INFORMATION: Final = 100  # of a file, and of an entry of a listing
FILE_FS_POSIX_INFORMATION: Final = 100

_TYPES: Final = {stat.S_IFREG: 0, stat.S_IFDIR: 1, stat.S_IFLNK: 2, stat.S_IFCHR: 3, stat.S_IFBLK: 4, stat.S_IFIFO: 5, stat.S_IFSOCK: 6}
_TYPE_SHIFT: Final = 12
PERMISSIONS: Final = 0o7777

Sids = Callable[[int, int], bytes]
"""Of a uid and a gid: the owner's SID and the group's, packed one behind the other."""


class PosixFacts(Facts, Protocol):
    """What is known of a file here."""

    @property
    def dev(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def mode(self) -> int: ...


class PosixCreateRequest(NamedTuple):
    """POSIX-SMB2 2.1.3.1.1: the permissions of a file that the CREATE makes."""

    mode: U32


class PosixCreateResponse(NamedTuple):
    """POSIX-SMB2 2.1.3.2.1; the owner's and the group's SID follow."""

    number_of_links: U32
    reparse_tag: U32
    mode: U32


class FilePosixInformation(NamedTuple):
    """POSIX-FSCC 2.2.1; what the CREATE's response has, follows."""

    creation_time: I64
    last_access_time: I64
    last_write_time: I64
    change_time: I64
    end_of_file: I64
    allocation_size: I64
    file_attributes: U32
    inode: U64
    device: U32
    reserved: U32


class DirectoryEntry(NamedTuple):
    """The beginning of an entry; FilePosixInformation, the length of the name and the name follow."""

    next_entry_offset: U32
    file_index: U32


class NameLength(NamedTuple):
    """Before an entry's name."""

    file_name_length: U32


class FileFsPosixInformation(NamedTuple):
    """POSIX-FSCC 2.3.1."""

    optimal_transfer_size: U32
    block_size: U32
    total_blocks: U64
    blocks_available: U64
    user_blocks_available: U64
    total_file_nodes: U64
    free_file_nodes: U64
    file_system_identifier: U64


CREATE_REQUEST = Layout(PosixCreateRequest)
CREATE_RESPONSE = Layout(PosixCreateResponse)
INFORMATION = Layout(FilePosixInformation)
ENTRY = Layout(DirectoryEntry)
NAME_LENGTH = Layout(NameLength)
FS_INFORMATION = Layout(FileFsPosixInformation)
MINIMUM: Final = INFORMATION.size + CREATE_RESPONSE.size


def wire_mode(mode: int) -> int:
    """Type and permissions; what has no type there is a file."""
    return mode & PERMISSIONS | _TYPES.get(stat.S_IFMT(mode), 0) << _TYPE_SHIFT


def created(facts: PosixFacts, sids: Sids) -> bytes:
    """The context of a CREATE's response."""
    return CREATE_RESPONSE.pack(facts.links, facts.reparse_tag, wire_mode(facts.mode)) + sids(facts.uid, facts.gid)


def information(facts: PosixFacts, sids: Sids) -> bytes:
    """One file."""
    f = facts
    times = f.creation_time, f.last_access_time, f.last_write_time, f.change_time
    return INFORMATION.pack(*times, f.size, f.allocation, f.attributes, f.ino, f.dev & 0xFFFFFFFF, 0) + created(facts, sids)


class PosixListing:
    """One answer of QUERY_DIRECTORY under way: as ``listing.Listing``, with entries that differ in length by their SIDs too."""

    __slots__ = ("_buffer", "_last", "_limit", "_sids", "count", "length")

    def __init__(self, buffer: Writable, limit: int, sids: Sids) -> None:
        self._buffer = buffer
        self._limit = limit
        self._sids = sids
        self._last = -1
        self.length = 0
        self.count = 0

    def add(self, name: str, facts: PosixFacts) -> bool:
        """False, and nothing written, when the entry does not fit."""
        raw = encode(name)
        entry = ENTRY.pack(0, 0) + information(facts, self._sids) + NAME_LENGTH.pack(len(raw)) + raw
        start = (self.length + 7) & ~7
        end = start + len(entry)
        if end > self._limit:
            return False
        self._buffer[self.length : end] = bytes(start - self.length) + entry
        if self._last >= 0:
            NEXT.pack_into(self._buffer, self._last, start - self._last)
        self._last, self.length = start, end
        self.count += 1
        return True
