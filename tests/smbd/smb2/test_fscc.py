"""Information classes: golden bytes, round trips, hostile input."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smbd.smb2 import constants as c
from smbd.smb2 import fscc, status
from smbd.smb2.fscc import change, directory, filesystem, lists, query
from smbd.smb2.fscc.facts import OpenState
from smbd.smb2.fscc.listing import Listing
from smbd.smb2.status import SmbError


class Fake(NamedTuple):
    """A file as ``Facts`` wants it."""

    ino: int = 0x1122334455667788
    size: int = 0x1234
    allocation: int = 0x2000
    links: int = 2
    directory: bool = False
    attributes: int = 0x20
    creation_time: int = 0x01D0000000000001
    last_access_time: int = 0x01D0000000000002
    last_write_time: int = 0x01D0000000000003
    change_time: int = 0x01D0000000000004
    ea_size: int = 0
    reparse_tag: int = 0


FILE = Fake()
STATE = OpenState(FILE, "dir\\a", access=0x120089, mode=2, position=5, ea_size=9, volume=0xABCD, short_name="A~1")
TIMES = "010000000000d001" + "020000000000d001" + "030000000000d001" + "040000000000d001"
BASIC = TIMES + "20000000" + "00000000"
STANDARD = "0020000000000000" + "3412000000000000" + "02000000" + "00" + "00" + "0000"
INTERNAL = "8877665544332211"
NAME = "0c000000" + "\\dir\\a".encode("utf-16-le").hex()


@pytest.mark.parametrize(
    ("info_class", "expected"),
    [
        (query.FILE_BASIC_INFORMATION, BASIC),
        (query.FILE_STANDARD_INFORMATION, STANDARD),
        (query.FILE_INTERNAL_INFORMATION, INTERNAL),
        (query.FILE_EA_INFORMATION, "09000000"),
        (query.FILE_ACCESS_INFORMATION, "89001200"),
        (query.FILE_NAME_INFORMATION, NAME),
        (query.FILE_POSITION_INFORMATION, "0500000000000000"),
        (query.FILE_MODE_INFORMATION, "02000000"),
        (query.FILE_ALIGNMENT_INFORMATION, "00000000"),
        (
            query.FILE_ALL_INFORMATION,
            BASIC + STANDARD + INTERNAL + "09000000" + "89001200" + "0500000000000000" + "02000000" + "00000000" + NAME,
        ),
        (query.FILE_ALTERNATE_NAME_INFORMATION, "06000000" + "A~1".encode("utf-16-le").hex()),
        (query.FILE_COMPRESSION_INFORMATION, "0020000000000000" + "0000" + "000000" + "000000"),
        (query.FILE_NETWORK_OPEN_INFORMATION, TIMES + "0020000000000000" + "3412000000000000" + "20000000" + "00000000"),
        (query.FILE_ATTRIBUTE_TAG_INFORMATION, "20000000" + "00000000"),
        (query.FILE_NORMALIZED_NAME_INFORMATION, "0a000000" + "dir\\a".encode("utf-16-le").hex()),
        (query.FILE_STANDARD_LINK_INFORMATION, "02000000" + "02000000" + "00" + "00" + "0000"),
        (query.FILE_ID_INFORMATION, "cdab000000000000" + INTERNAL + "0000000000000000"),
    ],
)
def test_query(info_class, expected):
    answer = query.query(info_class, STATE)
    assert answer.hex() == expected
    assert len(answer) >= query.MINIMUM[info_class]


def test_a_compressed_file_says_in_what_units():
    compressed = STATE._replace(facts=FILE._replace(attributes=c.FILE_ATTRIBUTE_ARCHIVE | c.FILE_ATTRIBUTE_COMPRESSED))
    assert query.query(query.FILE_COMPRESSION_INFORMATION, compressed).hex() == "0020000000000000" + "0200" + "100c0c" + "000000"


def test_query_refusals():
    with pytest.raises(SmbError) as caught:
        query.query(1, STATE)
    assert caught.value.status == status.INVALID_INFO_CLASS
    with pytest.raises(SmbError) as caught:
        query.query(query.FILE_ALTERNATE_NAME_INFORMATION, STATE._replace(short_name=""))
    assert caught.value.status == status.OBJECT_NAME_NOT_FOUND


def test_a_file_marked_for_deletion_has_a_link_less():
    answer = query.STANDARD.unpack(query.query(query.FILE_STANDARD_INFORMATION, STATE._replace(delete_pending=True)))
    assert (answer.number_of_links, answer.delete_pending) == (1, 1)


@pytest.mark.parametrize(("info_class", "size"), [(1, 64), (2, 68), (3, 94), (12, 12), (37, 104), (38, 80), (60, 88), (63, 114)])
def test_sizes_of_entries(info_class, size):
    assert directory.MINIMUM[info_class] == size


def test_golden_entry():
    buffer = bytearray(200)
    listing = Listing(directory.FILE_ID_BOTH_DIRECTORY_INFORMATION, buffer, 200, lambda name: "AB~1")
    assert listing.add("ab", FILE)
    assert bytes(buffer[: listing.length]).hex() == (
        "00000000"  # NextEntryOffset
        "00000000"  # FileIndex
        + TIMES
        + "3412000000000000"  # EndOfFile
        + "0020000000000000"  # AllocationSize
        + "20000000"  # FileAttributes
        + "04000000"  # FileNameLength
        + "00000000"  # EaSize
        + "08"  # ShortNameLength
        + "00"  # Reserved1
        + "AB~1".encode("utf-16-le").hex()
        + "00" * 16  # ShortName
        + "0000"  # Reserved2
        + INTERNAL  # FileId
        + "ab".encode("utf-16-le").hex()
    )


def test_extended_classes_carry_their_ids():
    """[MS-FSCC] 2.4.17 to 2.4.20: sizes up to the name, and which ids stand where."""
    assert {number: directory.MINIMUM[number] for number in (60, 63, 78, 79, 80, 81)} == {60: 88, 63: 114, 78: 80, 79: 106, 80: 96, 81: 122}
    ino, wide = FILE.ino.to_bytes(8, "little"), FILE.ino.to_bytes(16, "little")
    expected = {60: wide, 63: wide, 78: ino, 79: ino, 80: ino + wide, 81: ino + wide}
    for number, ids in expected.items():
        buffer = bytearray(256)
        assert Listing(number, buffer, 256, lambda name: "AB~1").add("ab", FILE)
        assert buffer[72 : 72 + len(ids)] == ids
        if number in (63, 79, 81):
            short = buffer[72 + len(ids) :]
            assert (short[0], short[2:10].decode("utf-16-le")) == (8, "AB~1")


def entries(info_class, data):
    found, offset = [], 0
    layout = {1: directory.DIRECTORY, 2: directory.FULL, 3: directory.BOTH, 12: directory.NAMES, 37: directory.ID_BOTH}
    layout |= {38: directory.ID_FULL, 60: directory.ID_EXTD, 63: directory.ID_EXTD_BOTH}
    layout |= {78: directory.ID_64_EXTD, 79: directory.ID_64_EXTD_BOTH, 80: directory.ID_ALL_EXTD, 81: directory.ID_ALL_EXTD_BOTH}
    while True:
        head = layout[info_class].unpack(data, offset)
        start = offset + layout[info_class].size
        found.append(data[start : start + head.file_name_length].decode("utf-16-le"))
        if not head.next_entry_offset:
            return found, start + head.file_name_length
        assert head.next_entry_offset % 8 == 0
        offset += head.next_entry_offset


@given(
    st.sampled_from(sorted(directory.MINIMUM)),
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), max_size=12),
    st.integers(0, 1000),
)
def test_listings_hold_what_fits(info_class, found_names, limit):
    buffer = bytearray(b"\xee" * 1200)
    listing = Listing(info_class, buffer, limit)
    taken = []
    for name in found_names:
        if not listing.add(name, FILE):
            break
        taken.append(name)
    assert listing.length <= limit
    assert bytes(buffer[listing.length :]) == b"\xee" * (1200 - listing.length)
    if taken:
        assert entries(info_class, bytes(buffer[: listing.length])) == (taken, listing.length)
    assert listing.count == len(taken)


def test_listing_refuses_other_classes():
    with pytest.raises(SmbError):
        Listing(4, bytearray(100), 100)


VOLUME = filesystem.Volume(4096, 1000, 500, 400, 0x1234567890, 0x01D0000000000001, "lbl", name_max=255)


@pytest.mark.parametrize(
    ("info_class", "expected"),
    [
        (1, "010000000000d001" + "90785634" + "06000000" + "00" + "00" + "lbl".encode("utf-16-le").hex()),
        (3, "e803000000000000" + "9001000000000000" + "08000000" + "00020000"),
        (4, "07000000" + "20000000"),
        (5, "06000000" + "ff000000" + "08000000" + "NTFS".encode("utf-16-le").hex()),
        (6, "00" * 24 + "ff" * 16 + "00" * 8),
        (7, "e803000000000000" + "9001000000000000" + "f401000000000000" + "08000000" + "00020000"),
        (8, "00" * 64),
        (11, "00020000" + "00100000" * 3 + "03000000" + "00" * 8),
    ],
)
def test_file_systems(info_class, expected):
    assert filesystem.query(info_class, VOLUME).hex() == expected
    assert len(expected) // 2 >= filesystem.MINIMUM[info_class]


def test_file_system_refusals():
    with pytest.raises(SmbError):
        filesystem.query(2, VOLUME)


# Changes


def test_basic_change():
    data = query.BASIC.pack(-1, 0, -2, 5, 0x20, 0)
    assert change.parse_basic(data) == query.FileBasicInformation(-1, 0, -2, 5, 0x20, 0)
    assert change.parse_basic(data[:36]).file_attributes == 0x20
    with pytest.raises(SmbError) as caught:
        change.parse_basic(data[:35])
    assert caught.value.status == status.INFO_LENGTH_MISMATCH
    with pytest.raises(SmbError):
        change.parse_basic(query.BASIC.pack(-3, 0, 0, 0, 0, 0))


def test_rename():
    data = change.pack_rename("dir\\new", True)
    assert change.parse_rename(10, data) == change.Rename("dir\\new", True)
    assert change.parse_rename(65, change.RENAME_EX.pack(3, 0, 0, 2) + b"x\0") == change.Rename("x", True, True)
    for bad in (
        data[:-1],
        change.RENAME.pack(0, b"", 7, 2) + b"x\0",
        change.RENAME.pack(0, b"", 0, 0),
        change.RENAME.pack(0, b"", 0, 1) + b"x",
    ):
        with pytest.raises(SmbError) as caught:
            change.parse_rename(10, bad)
        assert caught.value.status == status.INVALID_PARAMETER
    with pytest.raises(SmbError) as caught:
        change.parse_rename(10, data[:19])
    assert caught.value.status == status.INFO_LENGTH_MISMATCH


def test_dispositions_sizes_and_modes():
    assert change.parse_disposition(13, b"\1").delete
    assert change.parse_disposition(64, b"\x1b\0\0\0") == change.Disposition(True, True, True, True)
    assert change.parse_size(b"\5" + bytes(7)) == 5
    assert change.parse_position(bytes(8)) == 0
    assert change.parse_mode(b"\2\0\0\0") == 2
    for call, data in (
        (change.parse_size, b"\xff" * 8),
        (change.parse_position, b"\xff" * 8),
        (change.parse_mode, b"\1\0\0\0"),
        (change.parse_size, bytes(7)),
    ):
        with pytest.raises(SmbError):
            call(data)


# Lists


def test_golden_full_ea():
    packed = lists.pack_full_eas([("A", b"xyz"), ("BC", b"")], 1000)
    assert packed.complete
    assert (
        packed.data.hex()
        == (
            "10000000" + "00" + "01" + "0300" + "4100" + "78797a" + "000000"  # A = xyz, padded to 4
            "00000000" + "00" + "02" + "0000" + "424300"  # BC, empty
        )
    )


EA_NAMES = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=12)


@given(st.lists(st.tuples(EA_NAMES, st.binary(max_size=30)), max_size=6))
def test_eas_round_trip(eas):
    packed = lists.pack_full_eas(eas, 1 << 16)
    assert packed.complete
    assert [tuple(ea) for ea in lists.parse_full_eas(packed.data)] == eas
    assert lists.parse_ea_names(lists.pack_ea_names([name for name, _ in eas])) == [name for name, _ in eas]


@given(st.lists(st.tuples(EA_NAMES, st.binary(max_size=30)), min_size=1, max_size=4), st.integers(0, 200), st.binary(max_size=20))
def test_truncated_eas_are_refused_or_shorter(eas, cut, tail):
    data = lists.pack_full_eas(eas, 1 << 16).data[:cut] + tail
    for parse in (lists.parse_full_eas, lists.parse_ea_names):
        with contextlib.suppress(SmbError):
            parse(data)


@given(st.binary(max_size=120))
def test_any_bytes_as_lists(data):
    for parse in (lists.parse_full_eas, lists.parse_ea_names, change.parse_basic):
        with contextlib.suppress(SmbError):
            parse(data)
    for info_class in (10, 11, 13, 64, 65):
        with contextlib.suppress(SmbError):
            (change.parse_disposition if info_class in (13, 64) else change.parse_rename)(info_class, data)


def test_a_chain_must_not_turn_back():
    data = lists.FULL_EA.pack(4, 0, 1, 0) + b"A\0" + bytes(10)
    with pytest.raises(SmbError) as caught:
        lists.parse_full_eas(data)
    assert caught.value.status == status.EA_LIST_INCONSISTENT


def test_streams():
    streams = [("", 5, 8), ("Zone.Identifier", 26, 32)]
    packed = fscc.pack_streams(streams, 1000)
    assert lists.parse_streams(packed.data) == [lists.Stream(*stream) for stream in streams]
    assert packed.data[:24].hex() == "28000000" + "0e000000" + "0500000000000000" + "0800000000000000"
    short = fscc.pack_streams(streams, 50)
    assert not short.complete
    assert lists.parse_streams(short.data) == [lists.Stream("", 5, 8)]
    assert fscc.pack_streams([], 100) == (b"", True)


def test_links():
    links = [(7, "first"), (8, "second")]
    packed = fscc.pack_links(links, 1000)
    head = lists.HARD_LINK.unpack(packed.data)
    assert head == (len(packed.data), 2)
    short = fscc.pack_links(links, 40)
    assert lists.HARD_LINK.unpack(short.data) == (head.bytes_needed, 1)
    assert not short.complete


def test_notifications():
    changes = [(c.FILE_ACTION_ADDED, "a"), (c.FILE_ACTION_RENAMED_NEW_NAME, "dir\\ü")]
    data = fscc.pack_notify(changes)
    assert data[:16].hex() == "10000000" + "01000000" + "02000000" + "61000000"
    assert lists.parse_notify(data) == changes
    assert fscc.pack_notify([]) == b""


def test_a_list_has_so_many_entries():
    """A request of 8 MiB has room for a million."""
    with pytest.raises(SmbError) as caught:
        lists.parse_ea_names((lists.GET_EA.pack(8, 2) + b"AB\0") * 100_000 + lists.GET_EA.pack(0, 2) + b"AB\0")
    assert caught.value.status == status.EA_LIST_INCONSISTENT
