"""QUERY_INFO of a file: [MS-FSCC] 2.4, the classes that describe one file in one structure.

Owns: their layouts and ``query``. Invariant: ``MINIMUM`` names every class ``query`` answers; a client's buffer smaller than that is
INFO_LENGTH_MISMATCH, a smaller one than the answer is BUFFER_OVERFLOW with as much as fits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from pools.layout import I64, U8, U16, U32, U64, Layout, Raw3, Raw16
from smbd.smb2 import status
from smbd.smb2.constants import COMPRESSION_FORMAT_LZNT1, COMPRESSION_FORMAT_NONE, FILE_ATTRIBUTE_COMPRESSED
from smbd.smb2.fscc.facts import OpenState
from smbd.smb2.names import encode
from smbd.smb2.status import SmbError

FILE_BASIC_INFORMATION: Final = 4
FILE_STANDARD_INFORMATION: Final = 5
FILE_INTERNAL_INFORMATION: Final = 6
FILE_EA_INFORMATION: Final = 7
FILE_ACCESS_INFORMATION: Final = 8
FILE_NAME_INFORMATION: Final = 9
FILE_POSITION_INFORMATION: Final = 14
FILE_FULL_EA_INFORMATION: Final = 15
FILE_MODE_INFORMATION: Final = 16
FILE_ALIGNMENT_INFORMATION: Final = 17
FILE_ALL_INFORMATION: Final = 18
FILE_ALTERNATE_NAME_INFORMATION: Final = 21
FILE_STREAM_INFORMATION: Final = 22
FILE_PIPE_INFORMATION: Final = 23
FILE_PIPE_LOCAL_INFORMATION: Final = 24
FILE_COMPRESSION_INFORMATION: Final = 28
FILE_NETWORK_OPEN_INFORMATION: Final = 34
FILE_ATTRIBUTE_TAG_INFORMATION: Final = 35
FILE_HARD_LINK_INFORMATION: Final = 46
FILE_NORMALIZED_NAME_INFORMATION: Final = 48
FILE_STANDARD_LINK_INFORMATION: Final = 54
FILE_ID_INFORMATION: Final = 59

# NTFS compresses units of 16 clusters of 4 KiB, in chunks of as many.
_COMPRESSION_UNIT_SHIFT: Final = 16
_CHUNK_SHIFT: Final = 12
_CLUSTER_SHIFT: Final = 12


class FileBasicInformation(NamedTuple):
    """2.4.7. In a change, 0 leaves a time or the attributes alone, -1 freezes and -2 thaws a time."""

    creation_time: I64
    last_access_time: I64
    last_write_time: I64
    change_time: I64
    file_attributes: U32
    reserved: U32


class FileStandardInformation(NamedTuple):
    """2.4.47"""

    allocation_size: I64
    end_of_file: I64
    number_of_links: U32
    delete_pending: U8
    directory: U8
    reserved: U16


class FileInternalInformation(NamedTuple):
    """2.4.27"""

    index_number: U64


class FileEaInformation(NamedTuple):
    """2.4.13"""

    ea_size: U32


class FileAccessInformation(NamedTuple):
    """2.4.1"""

    access_flags: U32


class FilePositionInformation(NamedTuple):
    """2.4.40"""

    current_byte_offset: I64


class FileModeInformation(NamedTuple):
    """2.4.31"""

    mode: U32


class FileAlignmentInformation(NamedTuple):
    """2.4.3"""

    alignment_requirement: U32


class FileNameInformation(NamedTuple):
    """2.4.32, before the name."""

    file_name_length: U32


class FileAllInformation(NamedTuple):
    """2.4.2, before the name: the nine structures above in one, because clients ask it of every file they show."""

    creation_time: I64
    last_access_time: I64
    last_write_time: I64
    change_time: I64
    file_attributes: U32
    reserved1: U32
    allocation_size: I64
    end_of_file: I64
    number_of_links: U32
    delete_pending: U8
    directory: U8
    reserved2: U16
    index_number: U64
    ea_size: U32
    access_flags: U32
    current_byte_offset: I64
    mode: U32
    alignment_requirement: U32
    file_name_length: U32


class FileCompressionInformation(NamedTuple):
    """2.4.9"""

    compressed_file_size: I64
    compression_format: U16
    compression_unit_shift: U8
    chunk_shift: U8
    cluster_shift: U8
    reserved: Raw3


class FileNetworkOpenInformation(NamedTuple):
    """2.4.34"""

    creation_time: I64
    last_access_time: I64
    last_write_time: I64
    change_time: I64
    allocation_size: I64
    end_of_file: I64
    file_attributes: U32
    reserved: U32


class FileAttributeTagInformation(NamedTuple):
    """2.4.6"""

    file_attributes: U32
    reparse_tag: U32


class FileStandardLinkInformation(NamedTuple):
    """2.4.48"""

    number_of_accessible_links: U32
    total_number_of_links: U32
    delete_pending: U8
    directory: U8
    reserved: U16


class FileIdInformation(NamedTuple):
    """2.4.26"""

    volume_serial_number: U64
    file_id: Raw16


class FilePipeInformation(NamedTuple):
    """2.4.37"""

    read_mode: U32
    completion_mode: U32


class FilePipeLocalInformation(NamedTuple):
    """2.4.38"""

    named_pipe_type: U32
    named_pipe_configuration: U32
    maximum_instances: U32
    current_instances: U32
    inbound_quota: U32
    read_data_available: U32
    outbound_quota: U32
    write_quota_available: U32
    named_pipe_state: U32
    named_pipe_end: U32


BASIC = Layout(FileBasicInformation)
STANDARD = Layout(FileStandardInformation)
INTERNAL = Layout(FileInternalInformation)
EA = Layout(FileEaInformation)
ACCESS = Layout(FileAccessInformation)
POSITION = Layout(FilePositionInformation)
MODE = Layout(FileModeInformation)
ALIGNMENT = Layout(FileAlignmentInformation)
NAME = Layout(FileNameInformation)
ALL = Layout(FileAllInformation)
COMPRESSION = Layout(FileCompressionInformation)
NETWORK_OPEN = Layout(FileNetworkOpenInformation)
ATTRIBUTE_TAG = Layout(FileAttributeTagInformation)
STANDARD_LINK = Layout(FileStandardLinkInformation)
ID = Layout(FileIdInformation)
PIPE = Layout(FilePipeInformation)
PIPE_LOCAL = Layout(FilePipeLocalInformation)


def query(info_class: int, state: OpenState) -> bytes:
    """The whole answer; INVALID_INFO_CLASS for a class that is not here. Lists (EAs, streams, links) have packers of their own."""
    packer = _PACKERS.get(info_class)
    if packer is None:
        raise SmbError(status.INVALID_INFO_CLASS)
    return packer(state)


def file_id(ino: int) -> bytes:
    """The 128-bit form of a 64-bit file id ([MS-FSCC] 2.1.10)."""
    return ino.to_bytes(16, "little")


def pack_name(name: str) -> bytes:
    """Length and UTF-16LE."""
    raw = encode(name)
    return NAME.pack(len(raw)) + raw


def _basic(state: OpenState) -> bytes:
    f = state.facts
    return BASIC.pack(f.creation_time, f.last_access_time, f.last_write_time, f.change_time, f.attributes, 0)


def _links(state: OpenState) -> int:
    """[MS-FSA] 2.1.5.12.27: a file marked for deletion has one link less."""
    return max(state.facts.links - state.delete_pending, 0) if not state.facts.directory else 1 - state.delete_pending


def _standard(state: OpenState) -> bytes:
    f = state.facts
    return STANDARD.pack(f.allocation, f.size, _links(state), state.delete_pending, f.directory, 0)


def _internal(state: OpenState) -> bytes:
    return INTERNAL.pack(state.facts.ino)


def _ea(state: OpenState) -> bytes:
    return EA.pack(state.ea_size)


def _access(state: OpenState) -> bytes:
    return ACCESS.pack(state.access)


def _position(state: OpenState) -> bytes:
    return POSITION.pack(state.position)


def _mode(state: OpenState) -> bytes:
    return MODE.pack(state.mode)


def _alignment(_state: OpenState) -> bytes:
    return ALIGNMENT.pack(0)


def _name(state: OpenState) -> bytes:
    return pack_name("\\" + state.name)


def _normalized_name(state: OpenState) -> bytes:
    return pack_name(state.name)  # [MS-SMB2] 3.3.5.20.1: relative to the share, no separator in front


def _alternate_name(state: OpenState) -> bytes:
    if not state.short_name:
        raise SmbError(status.OBJECT_NAME_NOT_FOUND)
    return pack_name(state.short_name)


def _all(state: OpenState) -> bytes:
    f = state.facts
    times = f.creation_time, f.last_access_time, f.last_write_time, f.change_time
    standard = f.allocation, f.size, _links(state), state.delete_pending, f.directory, 0
    name = encode("\\" + state.name)
    rest = f.ino, state.ea_size, state.access, state.position, state.mode, 0, len(name)
    return ALL.pack(*times, f.attributes, 0, *standard, *rest) + name


def _compression(state: OpenState) -> bytes:
    """[MS-FSA] 2.1.5.12.8. How little room a compressed file takes its file system does not tell: the size is that of what it covers."""
    if not state.facts.attributes & FILE_ATTRIBUTE_COMPRESSED:
        return COMPRESSION.pack(state.facts.allocation, COMPRESSION_FORMAT_NONE, 0, 0, 0, b"")
    shifts = _COMPRESSION_UNIT_SHIFT, _CHUNK_SHIFT, _CLUSTER_SHIFT
    return COMPRESSION.pack(state.facts.allocation, COMPRESSION_FORMAT_LZNT1, *shifts, b"")


def _network_open(state: OpenState) -> bytes:
    f = state.facts
    return NETWORK_OPEN.pack(f.creation_time, f.last_access_time, f.last_write_time, f.change_time, f.allocation, f.size, f.attributes, 0)


def _attribute_tag(state: OpenState) -> bytes:
    return ATTRIBUTE_TAG.pack(state.facts.attributes, state.facts.reparse_tag)


def _standard_link(state: OpenState) -> bytes:
    links = _links(state)
    return STANDARD_LINK.pack(links, state.facts.links, state.delete_pending, state.facts.directory, 0)


def _id(state: OpenState) -> bytes:
    return ID.pack(state.volume, file_id(state.facts.ino))


_PACKERS: Final[dict[int, Callable[[OpenState], bytes]]] = {
    FILE_BASIC_INFORMATION: _basic,
    FILE_STANDARD_INFORMATION: _standard,
    FILE_INTERNAL_INFORMATION: _internal,
    FILE_EA_INFORMATION: _ea,
    FILE_ACCESS_INFORMATION: _access,
    FILE_NAME_INFORMATION: _name,
    FILE_POSITION_INFORMATION: _position,
    FILE_MODE_INFORMATION: _mode,
    FILE_ALIGNMENT_INFORMATION: _alignment,
    FILE_ALL_INFORMATION: _all,
    FILE_ALTERNATE_NAME_INFORMATION: _alternate_name,
    FILE_COMPRESSION_INFORMATION: _compression,
    FILE_NETWORK_OPEN_INFORMATION: _network_open,
    FILE_ATTRIBUTE_TAG_INFORMATION: _attribute_tag,
    FILE_NORMALIZED_NAME_INFORMATION: _normalized_name,
    FILE_STANDARD_LINK_INFORMATION: _standard_link,
    FILE_ID_INFORMATION: _id,
}

SHOWS_DELETE_PENDING: Final = frozenset({FILE_STANDARD_INFORMATION, FILE_ALL_INFORMATION, FILE_STANDARD_LINK_INFORMATION})
SHOWS_EA_SIZE: Final = frozenset({FILE_EA_INFORMATION, FILE_ALL_INFORMATION})

# The fixed part of each answer: what OutputBufferLength must at least be
MINIMUM: Final[dict[int, int]] = {
    FILE_BASIC_INFORMATION: BASIC.size,
    FILE_STANDARD_INFORMATION: STANDARD.size,
    FILE_INTERNAL_INFORMATION: INTERNAL.size,
    FILE_EA_INFORMATION: EA.size,
    FILE_ACCESS_INFORMATION: ACCESS.size,
    FILE_NAME_INFORMATION: NAME.size,
    FILE_POSITION_INFORMATION: POSITION.size,
    FILE_MODE_INFORMATION: MODE.size,
    FILE_ALIGNMENT_INFORMATION: ALIGNMENT.size,
    # Windows counts the padded structure with its first character where a name follows.
    FILE_ALL_INFORMATION: ALL.size + 4,
    FILE_ALTERNATE_NAME_INFORMATION: NAME.size + 4,
    FILE_COMPRESSION_INFORMATION: COMPRESSION.size,
    FILE_NETWORK_OPEN_INFORMATION: NETWORK_OPEN.size,
    FILE_ATTRIBUTE_TAG_INFORMATION: ATTRIBUTE_TAG.size,
    FILE_NORMALIZED_NAME_INFORMATION: NAME.size,
    FILE_STANDARD_LINK_INFORMATION: STANDARD_LINK.size,
    FILE_ID_INFORMATION: ID.size,
}
