"""QUERY_DIRECTORY: [MS-FSCC] 2.4, the classes of listings. Owns: their entry layouts; ``listing`` fills them."""

from __future__ import annotations

from typing import Final, NamedTuple

from pools.layout import I64, U8, U16, U32, U64, Layout, Raw16, Raw24

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

SHOWS_SHORT_NAME: Final = frozenset(
    {
        FILE_BOTH_DIRECTORY_INFORMATION,
        FILE_ID_BOTH_DIRECTORY_INFORMATION,
        FILE_ID_EXTD_BOTH_DIRECTORY_INFORMATION,
        FILE_ID_64_EXTD_BOTH_DIRECTORY_INFORMATION,
        FILE_ID_ALL_EXTD_BOTH_DIRECTORY_INFORMATION,
    }
)
"""The classes whose entries have a short name."""

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
