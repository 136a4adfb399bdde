"""Chained entries of [MS-FSCC]: extended attributes, streams, links, notifications.

Owns: their layouts, packers and parsers. Invariant: a parser follows NextEntryOffset only forwards, on the alignment the class asks for
and inside the buffer; a packer never writes a partial entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from pools.layout import I64, U8, U16, U32, Layout, Readable
from smbd.smb2 import status
from smbd.smb2.status import SmbError

NEED_EA: Final = 0x80


class FileFullEaInformation(NamedTuple):
    """2.4.16; EaName with a NUL, then EaValue."""

    next_entry_offset: U32
    flags: U8
    ea_name_length: U8
    ea_value_length: U16


class FileGetEaInformation(NamedTuple):
    """2.4.16.1; EaName with a NUL."""

    next_entry_offset: U32
    ea_name_length: U8


class FileStreamInformation(NamedTuple):
    """2.4.49; StreamName ":name:$DATA"."""

    next_entry_offset: U32
    stream_name_length: U32
    stream_size: I64
    stream_allocation_size: I64


class FileHardLinkInformation(NamedTuple):
    """2.4.21, before the entries (2.4.21.1)."""

    bytes_needed: U32
    entries_returned: U32


class FileLinkEntryInformation(NamedTuple):
    """2.4.21.1; FileNameLength counts characters."""

    next_entry_offset: U32
    parent_file_id: I64
    file_name_length: U32


class FileNotifyInformation(NamedTuple):
    """2.7.1"""

    next_entry_offset: U32
    action: U32
    file_name_length: U32


class ExtendedAttribute(NamedTuple):
    """One EA. The name is ANSI on the wire, so only ASCII is safe; ours are UTF-8."""

    name: str
    value: bytes


class Stream(NamedTuple):
    """One data stream; '' is the unnamed one."""

    name: str
    size: int
    allocation: int


FULL_EA = Layout(FileFullEaInformation)
GET_EA = Layout(FileGetEaInformation)
STREAM = Layout(FileStreamInformation)
HARD_LINK = Layout(FileHardLinkInformation)
LINK_ENTRY = Layout(FileLinkEntryInformation)
NOTIFY = Layout(FileNotifyInformation)
_NEXT: Final = 4
_MOST: Final = 8192  # entries of a list: twice what 64 KiB hold, and of EAs no file has more


class Packed(NamedTuple):
    """``complete`` is False when entries were left out for want of room."""

    data: bytes
    complete: bool


def chained(entries: Iterable[bytes], alignment: int, limit: int) -> Packed:
    """Entries one behind the other. Each starts with a zero NextEntryOffset, which is filled in here."""
    out = bytearray()
    last = -1
    for entry in entries:
        start = -(-len(out) // alignment) * alignment
        if start + len(entry) > limit:
            return Packed(bytes(out), False)
        if last >= 0:
            out[last : last + _NEXT] = (start - last).to_bytes(_NEXT, "little")
        out.extend(bytes(start - len(out)))
        out += entry
        last = start
    return Packed(bytes(out), True)


def _walk(data: Readable, alignment: int, one: Callable[[int], int]) -> None:
    """Calls ``one`` with each entry's offset; it returns the NextEntryOffset it found."""
    offset = 0
    for _ in range(_MOST):
        step = one(offset)
        if not step:
            return
        if step % alignment or offset + step >= len(data):
            raise SmbError(status.EA_LIST_INCONSISTENT)
        offset += step
    raise SmbError(status.EA_LIST_INCONSISTENT)


# Extended attributes


def pack_full_eas(eas: Iterable[tuple[str, bytes]], limit: int) -> Packed:
    """FILE_FULL_EA_INFORMATION from (name, value) pairs."""
    return chained((_pack_ea(name, value) for name, value in eas), 4, limit)


def _pack_ea(name: str, value: bytes) -> bytes:
    raw = name.encode("utf-8", "surrogateescape")
    return FULL_EA.pack(0, 0, len(raw), len(value)) + raw + b"\0" + value


def parse_full_eas(data: Readable) -> list[ExtendedAttribute]:
    """Of a SET_INFO or of CREATE's ExtA. Empty input is an empty list. EA_LIST_INCONSISTENT for what does not hang together."""
    found: list[ExtendedAttribute] = []

    def one(offset: int) -> int:
        if len(data) - offset < FULL_EA.size:
            raise SmbError(status.EA_LIST_INCONSISTENT)
        head = FULL_EA.unpack(data, offset)
        start = offset + FULL_EA.size
        value = start + head.ea_name_length + 1
        end = value + head.ea_value_length
        if end > len(data) or data[value - 1] != 0 or (head.next_entry_offset and offset + head.next_entry_offset < end):
            raise SmbError(status.EA_LIST_INCONSISTENT)
        name = _ea_name(bytes(data[start : value - 1]))
        if head.flags & ~NEED_EA:
            raise SmbError(status.INVALID_EA_FLAG)
        found.append(ExtendedAttribute(name, bytes(data[value:end])))
        return head.next_entry_offset

    if len(data):
        _walk(data, 4, one)
    return found


def _ea_name(raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError as error:
        raise SmbError(status.INVALID_EA_NAME) from error
    if not name or "\0" in name:
        raise SmbError(status.INVALID_EA_NAME)
    return name


def parse_ea_names(data: Readable) -> list[str]:
    """FILE_GET_EA_INFORMATION: the EAs a query asks for."""
    found: list[str] = []

    def one(offset: int) -> int:
        if len(data) - offset < GET_EA.size:
            raise SmbError(status.EA_LIST_INCONSISTENT)
        head = GET_EA.unpack(data, offset)
        start = offset + GET_EA.size
        end = start + head.ea_name_length
        if end >= len(data) or data[end] != 0:
            raise SmbError(status.EA_LIST_INCONSISTENT)
        found.append(_ea_name(bytes(data[start:end])))
        return head.next_entry_offset

    if len(data):
        _walk(data, 4, one)
    return found


def pack_ea_names(wanted: Sequence[str]) -> bytes:
    """The client's side."""
    names = (name.encode() for name in wanted)
    return chained((GET_EA.pack(0, len(name)) + name + b"\0" for name in names), 4, 1 << 16).data


# Streams, links


def pack_streams(streams: Iterable[tuple[str, int, int]], limit: int) -> Packed:
    """FILE_STREAM_INFORMATION from (name, size, allocation); nothing at all for a directory without named streams."""
    return chained((_pack_stream(*stream) for stream in streams), 8, limit)


def _pack_stream(name: str, size: int, allocation: int) -> bytes:
    raw = f":{name}:$DATA".encode("utf-16-le", "surrogatepass")
    return STREAM.pack(0, len(raw), size, allocation) + raw


def parse_streams(data: Readable) -> list[Stream]:
    """The client's side."""
    found: list[Stream] = []

    def one(offset: int) -> int:
        head = STREAM.unpack(data, offset)
        start = offset + STREAM.size
        name = bytes(data[start : start + head.stream_name_length]).decode("utf-16-le")
        found.append(Stream(name[1:].removesuffix(":$DATA"), head.stream_size, head.stream_allocation_size))
        return head.next_entry_offset

    if len(data):
        _walk(data, 8, one)
    return found


def pack_links(links: Sequence[tuple[int, str]], limit: int) -> Packed:
    """FILE_HARD_LINK_INFORMATION from (parent's file id, name) pairs. BytesNeeded is the size of all of it, whatever fits."""
    entries = []
    for parent, name in links:
        raw = name.encode("utf-16-le", "surrogatepass")
        entries.append(LINK_ENTRY.pack(0, parent, len(raw) // 2) + raw)
    whole = chained(entries, 8, 1 << 31)
    packed = chained(entries, 8, limit - HARD_LINK.size)
    needed = HARD_LINK.size + len(whole.data)
    count = len(entries)
    while not packed.complete and count and len(chained(entries[:count], 8, 1 << 31).data) > len(packed.data):
        count -= 1
    return Packed(HARD_LINK.pack(needed, count) + packed.data, packed.complete)


# Notifications


def pack_notify(changes: Iterable[tuple[int, str]]) -> bytes:
    """FILE_NOTIFY_INFORMATION from (action, path relative to the watched directory, with backslashes)."""
    return chained((_pack_notification(action, name) for action, name in changes), 4, 1 << 31).data


def _pack_notification(action: int, name: str) -> bytes:
    raw = name.encode("utf-16-le", "surrogatepass")
    return NOTIFY.pack(0, action, len(raw)) + raw


def parse_notify(data: Readable) -> list[tuple[int, str]]:
    """The client's side."""
    found: list[tuple[int, str]] = []

    def one(offset: int) -> int:
        head = NOTIFY.unpack(data, offset)
        start = offset + NOTIFY.size
        found.append((head.action, bytes(data[start : start + head.file_name_length]).decode("utf-16-le")))
        return head.next_entry_offset

    if len(data):
        _walk(data, 4, one)
    return found
