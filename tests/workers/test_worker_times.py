"""Times and attributes that clients set, as they and clients of other workers then see them ([MS-FSA] 2.1.5.15.2)."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.fscc import directory, query
from smbd.smb2.fscc.change import FILE_ALLOCATION_INFORMATION, FILE_END_OF_FILE_INFORMATION
from smbd.smb2.messages import file
from tests.wire_client import WireClient
from tests.workers.house import House
from workers.vfs.attributes import EPOCH
from workers.vfs.dosattrib import WINDOW
from workers.vfs.handle import PosixHandle

ON_ERRANDS_TOO = True

SECOND = 10_000_000
SET = EPOCH + 1_000_000_000 * SECOND
FREEZE, THAW = (1 << 64) - 1, (1 << 64) - 2


def basic_body(creation: int = 0, access: int = 0, write: int = 0, change: int = 0, attributes: int = 0) -> bytes:
    times = (creation, access, write, change)
    return b"".join(value.to_bytes(8, "little") for value in times) + attributes.to_bytes(4, "little") + bytes(4)


def set_basic(client: WireClient, opened: tuple[int, int], **values: int) -> None:
    answer = client.set_info(opened, c.INFO_FILE, query.FILE_BASIC_INFORMATION, basic_body(**values))
    assert answer.status == status.SUCCESS


def basic(client: WireClient, opened: tuple[int, int]) -> query.FileBasicInformation:
    found: query.FileBasicInformation = query.BASIC.unpack(information(client, opened, query.FILE_BASIC_INFORMATION))
    return found


def past_the_window() -> None:
    """What happens from here on is later than what was set, for the coarsest clock too."""
    time.sleep(3 * WINDOW / 1e9)


def information(client: WireClient, opened: tuple[int, int], info_class: int) -> bytes:
    return client.output(client.query_info(opened, c.INFO_FILE, info_class))


@pytest.mark.parametrize("moment", [EPOCH, EPOCH - 2 * SECOND, EPOCH - 63_158_400 * SECOND, EPOCH + 15_032_385_535 * SECOND])
def test_a_change_time_survives_its_open_and_is_seen_by_others(house: House, client: WireClient, moment: int) -> None:
    opened = client.open("f")
    set_basic(client, opened, creation=moment, write=moment, change=moment)
    assert basic(client, opened).change_time == moment
    client.close(opened)
    other = house.client()
    again = other.open("f", disposition=c.FILE_OPEN)
    seen = basic(other, again)
    assert (seen.creation_time, seen.last_write_time, seen.change_time) == (moment, moment, moment)
    set_basic(other, again, attributes=c.FILE_ATTRIBUTE_HIDDEN)
    assert basic(other, again).change_time > SET, "the other open has not set it"


def test_whoever_changes_the_file_later_has_changed_it(client: WireClient, folder: Path) -> None:
    opened = client.open("f")
    set_basic(client, opened, change=SET)
    client.close(opened)
    past_the_window()
    os.chmod(folder / "f", 0o600)
    again = client.open("f", disposition=c.FILE_OPEN)
    assert basic(client, again).change_time > SET


def test_what_an_open_has_set_stays_whatever_it_does(client: WireClient) -> None:
    opened = client.open("f")
    set_basic(client, opened, write=SET, change=SET)
    client.write(opened, 0, b"later")
    set_basic(client, opened, attributes=c.FILE_ATTRIBUTE_SYSTEM)
    seen = basic(client, opened)
    assert (seen.last_write_time, seen.change_time) == (SET, SET)
    set_basic(client, opened, write=THAW, change=THAW)
    past_the_window()
    client.write(opened, 0, b"thawed")
    seen = basic(client, opened)
    assert seen.last_write_time > SET
    assert seen.change_time > SET


def test_a_frozen_time_stays_as_it_is(client: WireClient) -> None:
    opened = client.open("f")
    before = basic(client, opened)
    set_basic(client, opened, write=FREEZE, change=FREEZE)
    client.write(opened, 0, b"later")
    set_basic(client, opened, attributes=c.FILE_ATTRIBUTE_SYSTEM)
    after = basic(client, opened)
    assert (after.last_write_time, after.change_time) == (before.last_write_time, before.change_time)


def test_the_room_that_was_asked_for_is_told(client: WireClient) -> None:
    """Whatever else the file system counts as the file's."""
    opened = client.open("f")
    set_basic(client, opened, attributes=c.FILE_ATTRIBUTE_SYSTEM)
    for asked, told in ((4096, 4096), (0, 0), (5000, 8192)):
        client.set_info(opened, c.INFO_FILE, FILE_ALLOCATION_INFORMATION, asked.to_bytes(8, "little"))
        assert query.STANDARD.unpack(information(client, opened, query.FILE_STANDARD_INFORMATION)).allocation_size == told
    client.write(opened, 0, bytes(10000))
    assert query.STANDARD.unpack(information(client, opened, query.FILE_STANDARD_INFORMATION)).allocation_size == 12288


def test_a_name_may_be_what_hides_a_file(make_house: Callable[..., House], folder: Path) -> None:
    """``hide files``: its overwriter need not know ([MS-FSA] 2.1.5.1.2.1 speaks of attributes that are set)."""
    client = make_house(share_text="hide files = /Desk*.ini/hidden/").client()
    for name, hidden in (("desktop.INI", True), ("HIDDEN", True), (".dot", True), ("seen", False)):
        opened = client.open(name)
        assert bool(basic(client, opened).file_attributes & c.FILE_ATTRIBUTE_HIDDEN) is hidden
        client.close(opened)
        client.close(client.open(name, disposition=c.FILE_OVERWRITE))
    opened = client.open("seen", disposition=c.FILE_OPEN)
    set_basic(client, opened, attributes=c.FILE_ATTRIBUTE_HIDDEN)
    client.close(opened)
    assert client.create("seen", disposition=c.FILE_OVERWRITE).status == status.ACCESS_DENIED


@pytest.mark.parametrize("name", ["A long name.text", "ends with a dot.", ".begins with one", "two.dots.here", "Ünïcödé"])
def test_a_file_is_saved_anew_by_its_short_name(client: WireClient, folder: Path, name: str) -> None:
    """The old program opens, deletes and creates by the name it was told; the long one is kept."""
    client.close(client.open(name))
    opened = client.open(name, disposition=c.FILE_OPEN)
    raw = information(client, opened, query.FILE_ALTERNATE_NAME_INFORMATION)
    client.close(opened)
    short = raw[4:].decode("utf-16-le")
    client.close(client.open(short, disposition=c.FILE_OPEN, options=c.FILE_DELETE_ON_CLOSE, access=c.DELETE))
    assert list(folder.iterdir()) == []
    client.close(client.open(short, disposition=c.FILE_CREATE))
    assert [found.name for found in folder.iterdir()] == [name]


def test_short_names_are_shown_where_the_share_says_so(make_house: Callable[..., House]) -> None:
    for setting, listed, told in (("yes", True, True), ("illegal", False, True), ("no", False, False)):
        client = make_house(share_text=f"mangled names = {setting}").client()
        opened = client.open("A long name.text", disposition=c.FILE_OPEN_IF)
        answer = client.query_info(opened, c.INFO_FILE, query.FILE_ALTERNATE_NAME_INFORMATION)
        assert answer.status == (status.SUCCESS if told else status.OBJECT_NAME_NOT_FOUND)
        folder = client.open("", options=c.FILE_DIRECTORY_FILE)
        found = client.output(client.query_directory(folder, "A*", info_class=directory.FILE_BOTH_DIRECTORY_INFORMATION))
        entry = directory.BOTH.unpack(found)
        assert bool(entry.short_name_length) is listed
        if listed:
            short = entry.short_name[: entry.short_name_length]
            assert short == client.output(answer)[4:]
            assert client.create(short.decode("utf-16-le"), disposition=c.FILE_OPEN).status == status.SUCCESS


# smbd:writetimeupdatedelay

DELAY = 0.2
DELAYED = f"smbd:writetimeupdatedelay = {int(DELAY * 1e6)}"
FULL = c.CLOSE_FLAG_POSTQUERY_ATTRIB


@pytest.fixture
def slow_times(make_house: Callable[..., House]) -> House:
    return make_house(share_text=DELAYED)


def listed(client: WireClient, name: str) -> int:
    folder = client.open("", options=c.FILE_DIRECTORY_FILE)
    found = directory.DIRECTORY.unpack(client.output(client.query_directory(folder, name, directory.FILE_DIRECTORY_INFORMATION)))
    client.close(folder)
    return int(found.last_write_time)


def pass_time(house: House, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        house.turn()


def write_time(client: WireClient, opened: tuple[int, int]) -> int:
    return int(basic(client, opened).last_write_time)


def test_a_write_shows_late_and_once(slow_times: House) -> None:
    """And not again until the file is closed, whoever asks, and however."""
    mine, other = slow_times.client(), slow_times.client()
    opened = mine.open("f")
    before = write_time(mine, opened)
    past_the_window()
    mine.write(opened, 0, b"first")
    theirs = other.open("f", disposition=c.FILE_OPEN)
    for seen in (write_time(mine, opened), write_time(other, theirs), listed(other, "f"), listed(mine, "F")):
        assert seen == before
    pass_time(slow_times, 2 * DELAY)
    once = write_time(mine, opened)
    assert once > before
    past_the_window()
    mine.write(opened, 0, b"second")
    pass_time(slow_times, 2 * DELAY)
    assert write_time(mine, opened) == write_time(other, theirs) == listed(other, "f") == once
    closed = mine.close(opened, FULL).parse(file.CLOSE_RESPONSE)
    assert closed.last_write_time > once
    assert write_time(other, theirs) == listed(other, "f") == closed.last_write_time
    other.close(theirs)


def test_a_close_tells_of_the_last_write(slow_times: House) -> None:
    client = slow_times.client()
    opened = client.open("f")
    before = write_time(client, opened)
    past_the_window()
    client.write(opened, 0, b"x")
    assert client.close(opened, FULL).parse(file.CLOSE_RESPONSE).last_write_time > before


@pytest.mark.parametrize("flags", [0, FULL])
def test_a_close_that_cannot_set_the_last_write_time_closes_all_the_same(
    slow_times: House, monkeypatch: pytest.MonkeyPatch, flags: int
) -> None:
    client = slow_times.client()
    worker = slow_times.worker_of(client)
    opened = client.open("f")
    client.write(opened, 0, b"x")
    pass_time(slow_times, 2 * DELAY)
    client.write(opened, 0, b"y")

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "it was mounted anew")

    monkeypatch.setattr(PosixHandle, "set_times", refused)
    assert client.close(opened, flags).status == status.SUCCESS
    assert not worker.opens
    assert worker.sharing.opens() == []
    assert not worker.sharing.holds_write_times()


@pytest.mark.parametrize("how", ["flush", "end of file", "attributes"])
def test_what_was_written_is_told_when_the_client_asks_for_that(slow_times: House, how: str) -> None:
    mine, other = slow_times.client(), slow_times.client()
    opened = mine.open("f")
    before = write_time(mine, opened)
    past_the_window()
    mine.write(opened, 0, b"x")
    assert listed(other, "f") == before
    if how == "flush":
        mine.flush(opened)
    elif how == "end of file":
        mine.set_info(opened, c.INFO_FILE, FILE_END_OF_FILE_INFORMATION, (1).to_bytes(8, "little"))
    else:
        set_basic(mine, opened)
    told = write_time(mine, opened)
    assert listed(other, "f") == told > before
    assert mine.close(opened, FULL).parse(file.CLOSE_RESPONSE).last_write_time == told


def test_a_time_that_anybody_sets_is_told(slow_times: House) -> None:
    mine, other = slow_times.client(), slow_times.client()
    opened, theirs = mine.open("f"), other.open("f")
    mine.write(opened, 0, b"x")
    set_basic(other, theirs, write=SET)
    assert write_time(mine, opened) == listed(other, "f") == SET
    assert mine.close(opened, FULL).parse(file.CLOSE_RESPONSE).last_write_time == SET
    other.write(theirs, 0, b"y")
    assert write_time(other, theirs) == SET
    assert other.close(theirs, FULL).parse(file.CLOSE_RESPONSE).last_write_time == SET


def test_who_is_gone_holds_nothing_back(slow_times: House) -> None:
    mine, other = slow_times.client(), slow_times.client()
    opened = mine.open("f")
    before = write_time(mine, opened)
    past_the_window()
    mine.write(opened, 0, b"x")
    assert listed(other, "f") == before
    slow_times.worker_of(mine).close()
    assert listed(other, "f") > before
    assert not slow_times.worker_of(other).sharing.holds_write_times()


def test_who_asks_for_one_entry_is_told_the_size_of_its_extended_attributes(client: WireClient) -> None:
    opened = client.open("f")
    client.set_info(opened, c.INFO_FILE, query.FILE_FULL_EA_INFORMATION, bytes(4) + b"\0\4\5\0NAME\0value")
    size = int.from_bytes(information(client, opened, query.FILE_EA_INFORMATION), "little")
    assert size > 0
    folder = client.open("", options=c.FILE_DIRECTORY_FILE)
    found = client.output(client.query_directory(folder, "f", directory.FILE_FULL_DIRECTORY_INFORMATION))
    assert directory.FULL.unpack(found).ea_size == size
