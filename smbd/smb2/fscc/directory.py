"""QUERY_DIRECTORY: [MS-FSCC] 2.4, the classes of listings.

Owns: their entry layouts and ``Listing``, which chains entries in a buffer of the client's size. Invariant: every entry but the first
starts at a multiple of 8 from the start, NextEntryOffset of the last is 0, and the last is not padded ([MS-SMB2] 3.3.5.18).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from pools.layout import I64, U8, U16, U32, U64, Layout, Raw16, Raw24, Writable
from smbd.smb2 import status
from smbd.smb2.fscc.facts import Facts
from smbd.smb2.fscc.query import file_id
from smbd.smb2.status import SmbError

FILE_DIRECTORY_INFORMATION: Final = 1
FILE_FULL_DIRECTORY_INFORMATION: Final = 2
FILE_BOTH_DIRECTORY_INFORMATION: Final = 3
FILE_NAMES_INFORMATION: Final = 12
FILE_ID_BOTH_DIRECTORY_INFORMATION: Final = 37
FILE_ID_FULL_DIRECTORY_INFORMATION: Final = 38
FILE_ID_EXTD_DIRECTORY_INFORMATION: Final = 60
FILE_ID_EXTD_BOTH_DIRECTORY_INFORMATION: Final = 63
FILE_ID_64_EXTD_DIRECTORY_INFORMATION: Final = 78
FILE_ID_64_EXTD_BOTH_DIRECTORY_INFORMATION: Final = 79
FILE_ID_ALL_EXTD_DIRECTORY_INFORMATION: Final = 80
FILE_ID_ALL_EXTD_BOTH_DIRECTORY_INFORMATION: Final = 81


class FileDirectoryInformation(NamedTuple):
    """2.4.10; the name follows, as in all of these."""

    next_entry_offset: U32
    file_index: U32
    creation_time: I64
    last_access_time: I64
    last_write_time: I64
    change_time: I64
    end_of_file: I64
    allocation_size: I64
    file_attributes: U32
    file_name_length: U32


class FileFullDirectoryInformation(NamedTuple):
    """2.4.16"""

    next_entry_offset: U32
    file_index: U32
    creation_time: I64
    last_access_time: I64
    last_write_time: I64
    change_time: I64
    end_of_file: I64
    allocation_size: I64
    file_attributes: U32
    file_name_length: U32
    ea_size: U32


class FileBothDirectoryInformation(NamedTuple):
    """2.4.8"""

    next_entry_offset: U32
    file_index: U32
    creation_time: I64
    last_access_time: I64
    last_write_time: I64
    change_time: I64
    end_of_file: I64
    allocation_size: I64
    file_attributes: U32
    file_name_length: U32
    ea_size: U32
    short_name_length: U8
    reserved: U8
    short_name: Raw24


class FileNamesInformation(NamedTuple):
    """2.4.33"""

    next_entry_offset: U32
    file_index: U32
    file_name_length: U32


class FileIdBothDirectoryInformation(NamedTuple):
    """2.4.22"""

    next_entry_offset: U32
    file_index: U32
    creation_time: I64
    last_access_time: I64
    last_write_time: I64
    change_time: I64
    end_of_file: I64
    allocation_size: I64
    file_attributes: U32
    file_name_length: U32
    ea_size: U32
    short_name_length: U8
    reserved1: U8
    short_name: Raw24
    reserved2: U16
    file_id: U64


class FileIdFullDirectoryInformation(NamedTuple):
    """2.4.23"""

    next_entry_offset: U32
    file_index: U32
    creation_time: I64
    last_access_time: I64
    last_write_time: I64
    change_time: I64
    end_of_file: I64
    allocation_size: I64
    file_attributes: U32
    file_name_length: U32
    ea_size: U32
    reserved: U32
    file_id: U64


class FileIdExtdDirectoryInformation(NamedTuple):
    """2.4.24"""

    next_entry_offset: U32
    file_index: U32
    creation_time: I64
    last_access_time: I64
    last_write_time: I64
    change_time: I64
    end_of_file: I64
    allocation_size: I64
    file_attributes: U32
    file_name_length: U32
    ea_size: U32
    reparse_point_tag: U32
    file_id: Raw16


class FileIdExtdBothDirectoryInformation(NamedTuple):
    """2.4.25"""

    next_entry_offset: U32
    file_index: U32
    creation_time: I64
    last_access_time: I64
    last_write_time: I64
    change_time: I64
    end_of_file: I64
    allocation_size: I64
    file_attributes: U32
    file_name_length: U32
    ea_size: U32
    reparse_point_tag: U32
    file_id: Raw16
    short_name_length: U8
    reserved: U8
    short_name: Raw24


class FileId64ExtdDirectoryInformation(NamedTuple):
    """2.4.18"""

    next_entry_offset: U32
    file_index: U32
    creation_time: I64
    last_access_time: I64
    last_write_time: I64
    change_time: I64
    end_of_file: I64
    allocation_size: I64
    file_attributes: U32
    file_name_length: U32
    ea_size: U32
    reparse_point_tag: U32
    file_id: U64


class FileId64ExtdBothDirectoryInformation(NamedTuple):
    """2.4.17"""

    next_entry_offset: U32
    file_index: U32
    creation_time: I64
    last_access_time: I64
    last_write_time: I64
    change_time: I64
    end_of_file: I64
    allocation_size: I64
    file_attributes: U32
    file_name_length: U32
    ea_size: U32
    reparse_point_tag: U32
    file_id: U64
    short_name_length: U8
    reserved: U8
    short_name: Raw24


class FileIdAllExtdDirectoryInformation(NamedTuple):
    """2.4.20"""

    next_entry_offset: U32
    file_index: U32
    creation_time: I64
    last_access_time: I64
    last_write_time: I64
    change_time: I64
    end_of_file: I64
    allocation_size: I64
    file_attributes: U32
    file_name_length: U32
    ea_size: U32
    reparse_point_tag: U32
    file_id: U64
    file_id128: Raw16


class FileIdAllExtdBothDirectoryInformation(NamedTuple):
    """2.4.19"""

    next_entry_offset: U32
    file_index: U32
    creation_time: I64
    last_access_time: I64
    last_write_time: I64
    change_time: I64
    end_of_file: I64
    allocation_size: I64
    file_attributes: U32
    file_name_length: U32
    ea_size: U32
    reparse_point_tag: U32
    file_id: U64
    file_id128: Raw16
    short_name_length: U8
    reserved: U8
    short_name: Raw24


class NextEntry(NamedTuple):
    """What every chained entry begins with."""

    next_entry_offset: U32


DIRECTORY = Layout(FileDirectoryInformation)
FULL = Layout(FileFullDirectoryInformation)
BOTH = Layout(FileBothDirectoryInformation)
NAMES = Layout(FileNamesInformation)
ID_BOTH = Layout(FileIdBothDirectoryInformation)
ID_FULL = Layout(FileIdFullDirectoryInformation)
ID_EXTD = Layout(FileIdExtdDirectoryInformation)
ID_EXTD_BOTH = Layout(FileIdExtdBothDirectoryInformation)
ID_64_EXTD = Layout(FileId64ExtdDirectoryInformation)
ID_64_EXTD_BOTH = Layout(FileId64ExtdBothDirectoryInformation)
ID_ALL_EXTD = Layout(FileIdAllExtdDirectoryInformation)
ID_ALL_EXTD_BOTH = Layout(FileIdAllExtdBothDirectoryInformation)
NEXT = Layout(NextEntry)

# Fixed parts: what OutputBufferLength must at least be ([MS-FSA] 2.1.5.6.3)
MINIMUM: Final[dict[int, int]] = {
    FILE_DIRECTORY_INFORMATION: DIRECTORY.size,
    FILE_FULL_DIRECTORY_INFORMATION: FULL.size,
    FILE_BOTH_DIRECTORY_INFORMATION: BOTH.size,
    FILE_NAMES_INFORMATION: NAMES.size,
    FILE_ID_BOTH_DIRECTORY_INFORMATION: ID_BOTH.size,
    FILE_ID_FULL_DIRECTORY_INFORMATION: ID_FULL.size,
    FILE_ID_EXTD_DIRECTORY_INFORMATION: ID_EXTD.size,
    FILE_ID_EXTD_BOTH_DIRECTORY_INFORMATION: ID_EXTD_BOTH.size,
    FILE_ID_64_EXTD_DIRECTORY_INFORMATION: ID_64_EXTD.size,
    FILE_ID_64_EXTD_BOTH_DIRECTORY_INFORMATION: ID_64_EXTD_BOTH.size,
    FILE_ID_ALL_EXTD_DIRECTORY_INFORMATION: ID_ALL_EXTD.size,
    FILE_ID_ALL_EXTD_BOTH_DIRECTORY_INFORMATION: ID_ALL_EXTD_BOTH.size,
}


def _id128(ino: int) -> tuple[int | bytes, ...]:
    return (file_id(ino),)


def _id64(ino: int) -> tuple[int | bytes, ...]:
    return (ino,)


def _both_ids(ino: int) -> tuple[int | bytes, ...]:
    return ino, file_id(ino)


# The extended classes: layout, which ids they carry, and whether a short name follows
_EXTENDED: Final[dict[int, tuple[Layout[Any], Callable[[int], tuple[int | bytes, ...]], bool]]] = {
    FILE_ID_EXTD_DIRECTORY_INFORMATION: (ID_EXTD, _id128, False),
    FILE_ID_EXTD_BOTH_DIRECTORY_INFORMATION: (ID_EXTD_BOTH, _id128, True),
    FILE_ID_64_EXTD_DIRECTORY_INFORMATION: (ID_64_EXTD, _id64, False),
    FILE_ID_64_EXTD_BOTH_DIRECTORY_INFORMATION: (ID_64_EXTD_BOTH, _id64, True),
    FILE_ID_ALL_EXTD_DIRECTORY_INFORMATION: (ID_ALL_EXTD, _both_ids, False),
    FILE_ID_ALL_EXTD_BOTH_DIRECTORY_INFORMATION: (ID_ALL_EXTD_BOTH, _both_ids, True),
}


class Listing:
    """One answer under way. ``add`` until it says False; then ``length`` bytes of the buffer are the answer."""

    __slots__ = ("_buffer", "_end", "_info_class", "_last", "_limit", "count", "length")

    def __init__(self, info_class: int, buffer: Writable, limit: int) -> None:
        """``limit``: at most so many bytes of ``buffer``. INVALID_INFO_CLASS for what is no class of listings."""
        if info_class not in MINIMUM:
            raise SmbError(status.INVALID_INFO_CLASS)
        self._info_class = info_class
        self._buffer = buffer
        self._limit = limit
        self._last = -1
        self.length = 0
        self.count = 0

    def add(self, name: str, facts: Facts, short_name: str = "") -> bool:
        """False, and nothing written, when the entry does not fit."""
        raw = name.encode("utf-16-le", "surrogatepass")
        start = (self.length + 7) & ~7
        end = start + MINIMUM[self._info_class] + len(raw)
        if end > self._limit:
            return False
        buffer = self._buffer
        if start != self.length:
            buffer[self.length : start] = bytes(start - self.length)
        self._pack(start, len(raw), facts, short_name)
        buffer[end - len(raw) : end] = raw
        if self._last >= 0:
            NEXT.pack_into(buffer, self._last, start - self._last)
        self._last = start
        self.length = end
        self.count += 1
        return True

    def _pack(self, start: int, name_length: int, facts: Facts, short_name: str) -> None:
        info_class, buffer = self._info_class, self._buffer
        if info_class == FILE_NAMES_INFORMATION:
            NAMES.pack_into(buffer, start, 0, 0, name_length)
            return
        f = facts
        times = (f.creation_time, f.last_access_time, f.last_write_time, f.change_time)
        common = (0, 0, *times, f.size, f.allocation, f.attributes, name_length)
        ea_size = f.reparse_tag or f.ea_size  # 2.4.8: a reparse point's tag takes the place of its EaSize
        if info_class == FILE_ID_BOTH_DIRECTORY_INFORMATION:
            short = short_name.encode("utf-16-le")
            ID_BOTH.pack_into(buffer, start, *common, ea_size, len(short), 0, short, 0, f.ino)
        elif info_class == FILE_BOTH_DIRECTORY_INFORMATION:
            short = short_name.encode("utf-16-le")
            BOTH.pack_into(buffer, start, *common, ea_size, len(short), 0, short)
        elif info_class == FILE_DIRECTORY_INFORMATION:
            DIRECTORY.pack_into(buffer, start, *common)
        elif info_class == FILE_FULL_DIRECTORY_INFORMATION:
            FULL.pack_into(buffer, start, *common, ea_size)
        elif info_class == FILE_ID_FULL_DIRECTORY_INFORMATION:
            ID_FULL.pack_into(buffer, start, *common, ea_size, 0, f.ino)
        else:
            layout, ids, both = _EXTENDED[info_class]
            short = short_name.encode("utf-16-le")
            shorts = (len(short), 0, short) if both else ()
            layout.pack_into(buffer, start, *common, f.ea_size, f.reparse_tag, *ids(f.ino), *shorts)
