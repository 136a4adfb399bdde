"""SET_INFO of a file: [MS-FSCC] 2.4, what a client asks to change.

Owns: the layouts that only occur in changes, and their parsers. Invariant: a buffer shorter than its class is INFO_LENGTH_MISMATCH; a
name that claims to be longer than the buffer is INVALID_PARAMETER. Nothing is read outside the buffer.
"""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple, TypeVar

from pools.layout import I64, U8, U32, U64, Layout, Readable
from smbd.smb2 import names, status
from smbd.smb2.fscc.query import MODE, POSITION, FileBasicInformation
from smbd.smb2.status import SmbError

FILE_RENAME_INFORMATION: Final = 10
FILE_LINK_INFORMATION: Final = 11
FILE_DISPOSITION_INFORMATION: Final = 13
FILE_ALLOCATION_INFORMATION: Final = 19
FILE_END_OF_FILE_INFORMATION: Final = 20
FILE_VALID_DATA_LENGTH_INFORMATION: Final = 39
FILE_SHORT_NAME_INFORMATION: Final = 40
FILE_DISPOSITION_INFORMATION_EX: Final = 64
FILE_RENAME_INFORMATION_EX: Final = 65
FILE_LINK_INFORMATION_EX: Final = 72

FILE_DISPOSITION_DELETE: Final = 0x01
FILE_DISPOSITION_POSIX_SEMANTICS: Final = 0x02
FILE_DISPOSITION_FORCE_IMAGE_SECTION_CHECK: Final = 0x04
FILE_DISPOSITION_ON_CLOSE: Final = 0x08
FILE_DISPOSITION_IGNORE_READONLY_ATTRIBUTE: Final = 0x10
FILE_RENAME_REPLACE_IF_EXISTS: Final = 0x01
FILE_RENAME_POSIX_SEMANTICS: Final = 0x02
# 2.4.31: what a mode may be set to (write through, sequential, no buffering, synchronous, delete on close)
_MODES: Final = 0x0000103E
Raw7 = Annotated[bytes, "7s"]
T = TypeVar("T", bound=NamedTuple)


class FileRenameInformationType2(NamedTuple):
    """2.4.43.2; the link class (2.4.28.2) is the same. The name follows."""

    replace_if_exists: U8
    reserved: Raw7
    root_directory: U64
    file_name_length: U32


class FileRenameInformationEx(NamedTuple):
    """2.4.42"""

    flags: U32
    reserved: U32
    root_directory: U64
    file_name_length: U32


class FileDispositionInformation(NamedTuple):
    """2.4.11"""

    delete_pending: U8


class FileDispositionInformationEx(NamedTuple):
    """2.4.12"""

    flags: U32


class FileSizeField(NamedTuple):
    """2.4.4, 2.4.14, 2.4.50: one signed length."""

    size: I64


class FileBasicPart(NamedTuple):
    """2.4.7 without its trailing reserved field, which old clients leave out."""

    creation_time: I64
    last_access_time: I64
    last_write_time: I64
    change_time: I64
    file_attributes: U32


class Rename(NamedTuple):
    """A parsed rename or link: the name as the client wrote it."""

    name: str
    replace: bool
    posix: bool = False


class Disposition(NamedTuple):
    """A parsed disposition; ``on_close`` concerns the delete-on-close state rather than the pending one."""

    delete: bool
    ignore_readonly: bool = False
    posix: bool = False
    on_close: bool = False


RENAME = Layout(FileRenameInformationType2)
RENAME_EX = Layout(FileRenameInformationEx)
DISPOSITION = Layout(FileDispositionInformation)
DISPOSITION_EX = Layout(FileDispositionInformationEx)
SIZE = Layout(FileSizeField)
_BASIC_PART = Layout(FileBasicPart)


def _read(layout: Layout[T], data: Readable) -> T:
    if len(data) < layout.size:
        raise SmbError(status.INFO_LENGTH_MISMATCH)
    return layout.unpack(data)


def parse_basic(data: Readable) -> FileBasicInformation:
    """INVALID_PARAMETER for times below -2 ([MS-FSA] 2.1.5.15.2)."""
    part = _read(_BASIC_PART, data)
    if min(part[:4]) < -2:
        raise SmbError(status.INVALID_PARAMETER)
    return FileBasicInformation(*part, 0)


def parse_rename(info_class: int, data: Readable) -> Rename:
    """Classes 10, 11, 65 and 72."""
    if info_class in (FILE_RENAME_INFORMATION_EX, FILE_LINK_INFORMATION_EX):
        extended = _read(RENAME_EX, data)
        flags, root, length = extended.flags, extended.root_directory, extended.file_name_length
    else:
        plain = _read(RENAME, data)
        flags, root, length = FILE_RENAME_REPLACE_IF_EXISTS if plain.replace_if_exists else 0, plain.root_directory, plain.file_name_length
    if root:
        raise SmbError(status.INVALID_PARAMETER)  # 2.4.43.2: MUST be zero for network operations
    start = RENAME.size
    if not length or length > len(data) - start or length % 2:
        raise SmbError(status.INVALID_PARAMETER)
    name = names.decode(bytes(data[start : start + length]))
    return Rename(name, bool(flags & FILE_RENAME_REPLACE_IF_EXISTS), bool(flags & FILE_RENAME_POSIX_SEMANTICS))


def parse_disposition(info_class: int, data: Readable) -> Disposition:
    """Classes 13 and 64."""
    if info_class == FILE_DISPOSITION_INFORMATION:
        return Disposition(bool(_read(DISPOSITION, data).delete_pending))
    flags = _read(DISPOSITION_EX, data).flags
    ignore = bool(flags & FILE_DISPOSITION_IGNORE_READONLY_ATTRIBUTE)
    posix = bool(flags & FILE_DISPOSITION_POSIX_SEMANTICS)
    return Disposition(bool(flags & FILE_DISPOSITION_DELETE), ignore, posix, bool(flags & FILE_DISPOSITION_ON_CLOSE))


def parse_size(data: Readable) -> int:
    """Allocation, end of file, valid data length: not negative."""
    size = _read(SIZE, data).size
    if size < 0:
        raise SmbError(status.INVALID_PARAMETER)
    return size


def parse_position(data: Readable) -> int:
    """2.4.40"""
    position = _read(POSITION, data).current_byte_offset
    if position < 0:
        raise SmbError(status.INVALID_PARAMETER)
    return position


def parse_mode(data: Readable) -> int:
    """2.4.31: INVALID_PARAMETER for bits that are no mode."""
    mode = _read(MODE, data).mode
    if mode & ~_MODES:
        raise SmbError(status.INVALID_PARAMETER)
    return mode


def pack_rename(target: str, replace: bool) -> bytes:
    """The client's side of class 10."""
    raw = target.encode("utf-16-le")
    return RENAME.pack(replace, b"", 0, len(raw)) + raw
