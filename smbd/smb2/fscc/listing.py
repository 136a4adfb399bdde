"""A listing under way: entries of [MS-FSCC] 2.4, chained in a buffer of the client's size.

Owns: the chain. Invariant: every entry but the first starts at a multiple of 8 from the start, NextEntryOffset of the last is 0, and the
last is not padded ([MS-SMB2] 3.3.5.18).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pools.layout import Layout, Writable
from smbd.smb2 import status
from smbd.smb2.fscc.directory import (
    BOTH,
    DIRECTORY,
    FILE_BOTH_DIRECTORY_INFORMATION,
    FILE_DIRECTORY_INFORMATION,
    FILE_FULL_DIRECTORY_INFORMATION,
    FILE_ID_64_EXTD_BOTH_DIRECTORY_INFORMATION,
    FILE_ID_64_EXTD_DIRECTORY_INFORMATION,
    FILE_ID_ALL_EXTD_BOTH_DIRECTORY_INFORMATION,
    FILE_ID_ALL_EXTD_DIRECTORY_INFORMATION,
    FILE_ID_BOTH_DIRECTORY_INFORMATION,
    FILE_ID_EXTD_BOTH_DIRECTORY_INFORMATION,
    FILE_ID_EXTD_DIRECTORY_INFORMATION,
    FILE_ID_FULL_DIRECTORY_INFORMATION,
    FILE_NAMES_INFORMATION,
    FULL,
    ID_64_EXTD,
    ID_64_EXTD_BOTH,
    ID_ALL_EXTD,
    ID_ALL_EXTD_BOTH,
    ID_BOTH,
    ID_EXTD,
    ID_EXTD_BOTH,
    ID_FULL,
    MINIMUM,
    NAMES,
    NEXT,
    SHOWS_SHORT_NAME,
)
from smbd.smb2.fscc.facts import Facts
from smbd.smb2.fscc.query import file_id
from smbd.smb2.names import encode
from smbd.smb2.status import SmbError


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


_DOTS: Final = (".", "..")


class Listing:
    """One answer under way. ``add`` until it says False; then ``length`` bytes of the buffer are the answer."""

    __slots__ = ("_buffer", "_end", "_info_class", "_last", "_limit", "_short", "count", "length")

    def __init__(self, info_class: int, buffer: Writable, limit: int, short: Callable[[str], str] | None = None) -> None:
        """``limit``: at most so many bytes of ``buffer``. ``short``: who makes the short names, where they are shown.
        INVALID_INFO_CLASS for what is no class of listings.
        """
        if info_class not in MINIMUM:
            raise SmbError(status.INVALID_INFO_CLASS)
        self._info_class = info_class
        self._buffer = buffer
        self._limit = limit
        self._short = short if info_class in SHOWS_SHORT_NAME else None
        self._last = -1
        self.length = 0
        self.count = 0

    def add(self, name: str, facts: Facts) -> bool:
        """False, and nothing written, when the entry does not fit."""
        raw = encode(name)
        start = (self.length + 7) & ~7
        end = start + MINIMUM[self._info_class] + len(raw)
        if end > self._limit:
            return False
        buffer = self._buffer
        if start != self.length:
            buffer[self.length : start] = bytes(start - self.length)
        self._pack(start, len(raw), facts, "" if self._short is None or name in _DOTS else self._short(name))
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
            short = encode(short_name) if short_name else b""
            ID_BOTH.pack_into(buffer, start, *common, ea_size, len(short), 0, short, 0, f.ino)
        elif info_class == FILE_BOTH_DIRECTORY_INFORMATION:
            short = encode(short_name) if short_name else b""
            BOTH.pack_into(buffer, start, *common, ea_size, len(short), 0, short)
        elif info_class == FILE_DIRECTORY_INFORMATION:
            DIRECTORY.pack_into(buffer, start, *common)
        elif info_class == FILE_FULL_DIRECTORY_INFORMATION:
            FULL.pack_into(buffer, start, *common, ea_size)
        elif info_class == FILE_ID_FULL_DIRECTORY_INFORMATION:
            ID_FULL.pack_into(buffer, start, *common, ea_size, 0, f.ino)
        else:
            layout, ids, both = _EXTENDED[info_class]
            short = encode(short_name) if short_name else b""
            shorts = (len(short), 0, short) if both else ()
            layout.pack_into(buffer, start, *common, f.ea_size, f.reparse_tag, *ids(f.ino), *shorts)
