"""QUERY_INFO of a file system: [MS-FSCC] 2.5.

Owns: the layouts and ``query``. Invariant: ``MINIMUM`` names every class ``query`` answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from pools.layout import I64, U8, U32, U64, Layout, Raw16
from smbd.smb2 import status
from smbd.smb2.status import SmbError

FILE_FS_VOLUME_INFORMATION: Final = 1
FILE_FS_LABEL_INFORMATION: Final = 2
FILE_FS_SIZE_INFORMATION: Final = 3
FILE_FS_DEVICE_INFORMATION: Final = 4
FILE_FS_ATTRIBUTE_INFORMATION: Final = 5
FILE_FS_CONTROL_INFORMATION: Final = 6
FILE_FS_FULL_SIZE_INFORMATION: Final = 7
FILE_FS_OBJECT_ID_INFORMATION: Final = 8
FILE_FS_SECTOR_SIZE_INFORMATION: Final = 11

FILE_CASE_SENSITIVE_SEARCH: Final = 0x00000001
FILE_CASE_PRESERVED_NAMES: Final = 0x00000002
FILE_UNICODE_ON_DISK: Final = 0x00000004
FILE_PERSISTENT_ACLS: Final = 0x00000008
FILE_FILE_COMPRESSION: Final = 0x00000010
FILE_VOLUME_QUOTAS: Final = 0x00000020
FILE_SUPPORTS_SPARSE_FILES: Final = 0x00000040
FILE_SUPPORTS_REPARSE_POINTS: Final = 0x00000080
FILE_SUPPORTS_POSIX_UNLINK_RENAME: Final = 0x00000400
FILE_SUPPORTS_OBJECT_IDS: Final = 0x00010000
FILE_NAMED_STREAMS: Final = 0x00040000
FILE_READ_ONLY_VOLUME: Final = 0x00080000
FILE_SUPPORTS_HARD_LINKS: Final = 0x00400000
FILE_SUPPORTS_EXTENDED_ATTRIBUTES: Final = 0x00800000
FILE_SUPPORTS_BLOCK_REFCOUNTING: Final = 0x08000000

FILE_DEVICE_DISK: Final = 0x00000007
_DEVICE_IS_MOUNTED: Final = 0x00000020
_DEVICE_READ_ONLY: Final = 0x00000002
_SECTOR: Final = 512
_NO_QUOTA: Final = 0xFFFFFFFFFFFFFFFF
_QUOTAS_KEPT: Final = 0x00000003  # FILE_VC_QUOTA_TRACK and FILE_VC_QUOTA_ENFORCE
_ALIGNED_DEVICE_AND_PARTITION: Final = 0x00000003
_TRIM_ENABLED: Final = 0x00000008


class Volume(NamedTuple):
    """What the packers need to know; counts are in units of ``unit`` bytes, a multiple of 512."""

    unit: int
    total: int
    free: int
    available: int
    serial: int
    creation_time: int = 0
    label: str = ""
    file_system: str = "NTFS"  # clients decide by this name whether to ask for ACLs and streams
    attributes: int = FILE_CASE_PRESERVED_NAMES | FILE_UNICODE_ON_DISK
    name_max: int = 255
    read_only: bool = False
    object_id: bytes = bytes(16)
    quotas: bool = False


class FileFsVolumeInformation(NamedTuple):
    """2.5.9"""

    volume_creation_time: I64
    volume_serial_number: U32
    volume_label_length: U32
    supports_objects: U8
    reserved: U8


class FileFsSizeInformation(NamedTuple):
    """2.5.8"""

    total_allocation_units: U64
    available_allocation_units: U64
    sectors_per_allocation_unit: U32
    bytes_per_sector: U32


class FileFsDeviceInformation(NamedTuple):
    """2.5.10"""

    device_type: U32
    characteristics: U32


class FileFsAttributeInformation(NamedTuple):
    """2.5.1"""

    file_system_attributes: U32
    maximum_component_name_length: U32
    file_system_name_length: U32


class FileFsControlInformation(NamedTuple):
    """2.5.2"""

    free_space_start_filtering: U64
    free_space_threshold: U64
    free_space_stop_filtering: U64
    default_quota_threshold: U64
    default_quota_limit: U64
    file_system_control_flags: U32
    padding: U32


class FileFsFullSizeInformation(NamedTuple):
    """2.5.4"""

    total_allocation_units: U64
    caller_available_allocation_units: U64
    actual_available_allocation_units: U64
    sectors_per_allocation_unit: U32
    bytes_per_sector: U32


class FileFsObjectIdInformation(NamedTuple):
    """2.5.6"""

    object_id: Raw16
    extended_info1: Raw16
    extended_info2: Raw16
    extended_info3: Raw16


class FileFsSectorSizeInformation(NamedTuple):
    """2.5.7"""

    logical_bytes_per_sector: U32
    physical_bytes_per_sector_for_atomicity: U32
    physical_bytes_per_sector_for_performance: U32
    file_system_effective_physical_bytes_per_sector_for_atomicity: U32
    flags: U32
    byte_offset_for_sector_alignment: U32
    byte_offset_for_partition_alignment: U32


VOLUME = Layout(FileFsVolumeInformation)
SIZE = Layout(FileFsSizeInformation)
DEVICE = Layout(FileFsDeviceInformation)
ATTRIBUTE = Layout(FileFsAttributeInformation)
CONTROL = Layout(FileFsControlInformation)
FULL_SIZE = Layout(FileFsFullSizeInformation)
OBJECT_ID = Layout(FileFsObjectIdInformation)
SECTOR_SIZE = Layout(FileFsSectorSizeInformation)


def query(info_class: int, volume: Volume) -> bytes:
    """The whole answer; INVALID_INFO_CLASS for a class that cannot be asked."""
    packer = _PACKERS.get(info_class)
    if packer is None:
        raise SmbError(status.INVALID_INFO_CLASS)
    return packer(volume)


def _volume(volume: Volume) -> bytes:
    label = volume.label.encode("utf-16-le", "replace")
    return VOLUME.pack(volume.creation_time, volume.serial & 0xFFFFFFFF, len(label), 0, 0) + label


def _size(volume: Volume) -> bytes:
    return SIZE.pack(volume.total, volume.available, volume.unit // _SECTOR, _SECTOR)


def _device(volume: Volume) -> bytes:
    return DEVICE.pack(FILE_DEVICE_DISK, _DEVICE_IS_MOUNTED | (_DEVICE_READ_ONLY if volume.read_only else 0))


def _attribute(volume: Volume) -> bytes:
    name = volume.file_system.encode("utf-16-le")
    attributes = volume.attributes | (FILE_READ_ONLY_VOLUME if volume.read_only else 0)
    return ATTRIBUTE.pack(attributes, volume.name_max, len(name)) + name


def _control(volume: Volume) -> bytes:
    return CONTROL.pack(0, 0, 0, _NO_QUOTA, _NO_QUOTA, _QUOTAS_KEPT if volume.quotas else 0, 0)


def _full_size(volume: Volume) -> bytes:
    return FULL_SIZE.pack(volume.total, volume.available, volume.free, volume.unit // _SECTOR, _SECTOR)


def _object_id(volume: Volume) -> bytes:
    return OBJECT_ID.pack(volume.object_id, b"", b"", b"")


def _sector_size(volume: Volume) -> bytes:
    flags = _ALIGNED_DEVICE_AND_PARTITION
    if volume.attributes & FILE_SUPPORTS_SPARSE_FILES:
        flags |= _TRIM_ENABLED
    return SECTOR_SIZE.pack(_SECTOR, volume.unit, volume.unit, volume.unit, flags, 0, 0)


_PACKERS: Final[dict[int, Callable[[Volume], bytes]]] = {
    FILE_FS_VOLUME_INFORMATION: _volume,
    FILE_FS_SIZE_INFORMATION: _size,
    FILE_FS_DEVICE_INFORMATION: _device,
    FILE_FS_ATTRIBUTE_INFORMATION: _attribute,
    FILE_FS_CONTROL_INFORMATION: _control,
    FILE_FS_FULL_SIZE_INFORMATION: _full_size,
    FILE_FS_OBJECT_ID_INFORMATION: _object_id,
    FILE_FS_SECTOR_SIZE_INFORMATION: _sector_size,
}

SHOWS_QUOTAS: Final = frozenset(
    {FILE_FS_SIZE_INFORMATION, FILE_FS_FULL_SIZE_INFORMATION, FILE_FS_ATTRIBUTE_INFORMATION, FILE_FS_CONTROL_INFORMATION}
)
"""The classes that tell of the user's quota, or that there are quotas."""

MINIMUM: Final[dict[int, int]] = {
    FILE_FS_VOLUME_INFORMATION: VOLUME.size + 6,  # these two as Windows counts them: padded, with the first character
    FILE_FS_SIZE_INFORMATION: SIZE.size,
    FILE_FS_DEVICE_INFORMATION: DEVICE.size,
    FILE_FS_ATTRIBUTE_INFORMATION: ATTRIBUTE.size + 4,
    FILE_FS_CONTROL_INFORMATION: CONTROL.size,
    FILE_FS_FULL_SIZE_INFORMATION: FULL_SIZE.size,
    FILE_FS_OBJECT_ID_INFORMATION: OBJECT_ID.size,
    FILE_FS_SECTOR_SIZE_INFORMATION: SECTOR_SIZE.size,
}
