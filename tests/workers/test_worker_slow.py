"""A slow disk: what waits for it waits alone. Cold reads and large listings run elsewhere, in order, and end cleanly whatever happens."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from pools import port
from pools.port import files
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from tests.wire_client import Request, WireClient, query_directory_body, read_body
from tests.workers.house import House
from workers.disk import WHILE
from workers.vfs import listing as entries
from workers.vfs import posix
from workers.vfs.handle import PosixHandle
from workers.vfs.resolver import Resolver

KIB = 1 << 10
CONTENT = bytes(range(256)) * 256


class Disk:
    """Every read that may wait does, until the disk is let go; one that may not says that the data is cold."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spins = threading.Event()
        self.asked = threading.Event()
        self.real = files.preadv
        monkeypatch.setattr(files, "preadv", self.preadv)

    def preadv(self, fd: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags & files.WARM and not self.spins.is_set():
            raise BlockingIOError
        if not self.spins.is_set():
            self.asked.set()
            assert self.spins.wait(30)
        return self.real(fd, buffers, offset, flags)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk(monkeypatch)
    yield made
    made.spins.set()


@pytest.fixture(params=["user", "kernel"])
def slow_house(request: pytest.FixtureRequest, make_house: Callable[..., House], folder: Path) -> House:
    (folder / "file").write_bytes(CONTENT)
    (folder / "file").chmod(0o666)
    return make_house(text=f"data path = {request.param}")


def test_others_do_not_wait_for_a_cold_read(slow_house: House, disk: Disk) -> None:
    client = slow_house.client()
    opened = client.open("file")
    (reading,) = client.send(Request(Command.READ, read_body(opened, 5, 1000)))
    slow_house.turn_until(disk.asked.is_set)
    assert client.echo().status == status.SUCCESS
    other = client.open("other")
    assert client.write(other, 0, b"meanwhile").status == status.SUCCESS
    assert client.close(other).status == status.SUCCESS
    disk.spins.set()
    answer = client.receive(reading)
    assert bytes(answer.view[80:]) == CONTENT[5:1005]


def test_a_cold_read_at_the_end_of_the_file(slow_house: House, disk: Disk) -> None:
    client = slow_house.client()
    opened = client.open("file")
    sent = [client.send(Request(Command.READ, read_body(opened, at, 1000, 20)))[0] for at in (len(CONTENT), len(CONTENT) - 10, 70_000)]
    slow_house.turn()
    disk.spins.set()
    assert [client.receive(one).status for one in sent] == [status.END_OF_FILE] * 3


def test_a_file_closed_under_a_cold_read(slow_house: House, folder: Path, disk: Disk) -> None:
    client = slow_house.client()
    opened = client.open("file")
    worker = slow_house.worker_of(client)
    handle = next(iter(worker.opens.values())).handle
    assert handle is not None
    fd = handle.fd
    (reading,) = client.send(Request(Command.READ, read_body(opened, 0, 1000)))
    slow_house.turn_until(disk.asked.is_set)
    assert client.close(opened).status == status.SUCCESS
    assert os.fstat(fd).st_ino == (folder / "file").stat().st_ino  # the thread still needs the number
    disk.spins.set()
    assert bytes(client.receive(reading).view[80:]) == CONTENT[:1000]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_client_that_leaves_during_a_cold_read(slow_house: House, disk: Disk) -> None:
    client = slow_house.client()
    opened = client.open("file")
    worker = slow_house.worker_of(client)
    client.send(Request(Command.READ, read_body(opened, 0, 1000)))
    slow_house.turn_until(disk.asked.is_set)
    client.close_connection()
    slow_house.turn_until(lambda: worker.ended)
    disk.spins.set()


def test_what_is_evicted_is_read_from_the_disk(make_house: Callable[..., House], folder: Path) -> None:
    house = make_house()
    client = house.client()
    (folder / "file").write_bytes(CONTENT * 16)
    (folder / "file").chmod(0o666)
    opened = client.open("file")
    with (folder / "file").open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    for at in range(0, len(CONTENT) * 16, 64 * KIB):
        assert client.read_data(opened, at, 64 * KIB) == (CONTENT * 16)[at : at + 64 * KIB]


@pytest.mark.parametrize("told", [True, False], ids=["the kernel says it", "bytes of it say it"])
def test_a_range_whose_middle_is_cold_is_not_sent_from_the_file(
    make_house: Callable[..., House], folder: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """sendfile would wait for the disk, and everybody with it."""
    if not told:
        monkeypatch.setattr(files, "is_cached", lambda *_: None)
    sent: list[int] = []
    real = port.sockets.sendfile

    def sendfile(*args: Any) -> int:
        sent.append(real(*args))
        return sent[-1]

    monkeypatch.setattr(port.sockets, "sendfile", sendfile)
    client = make_house(text="data path = kernel").client()
    client.echo(credits=200)
    content = CONTENT * 64
    (folder / "file").write_bytes(content)
    (folder / "file").chmod(0o666)
    with (folder / "file").open("rb") as file:
        os.fsync(file.fileno())
        opened = client.open("file")
        assert client.read_data(opened, 0, len(content)) == content
        assert sum(sent) == len(content)
        sent.clear()
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no readahead: the first and the last page alone
        for at in (0, len(content) - 1):
            os.pread(file.fileno(), 1, at)
        assert is_warm(file.fileno(), 0)
        if is_warm(file.fileno(), 2 << 20):
            pytest.skip("this file system does not let go of what it has in memory")
        assert client.read_data(opened, 0, len(content)) == content
    assert not sent


def is_warm(fd: int, offset: int) -> bool:
    try:
        return os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False


# -- listings ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch, folder: Path) -> set[str]:
    """A directory that counts as large."""
    monkeypatch.setattr(posix, "LARGE_DIRECTORY", 1)
    (folder / "many").mkdir()
    (folder / "many").chmod(0o777)
    names = {f"entry number {number:04}" for number in range(1500)}
    for name in names:
        (folder / "many" / name).touch()
    return names


def test_pages_asked_for_at_once_come_in_order(client: WireClient, large: set[str]) -> None:
    opened = client.open("many")
    client.echo(credits=64)
    sent = [client.send(Request(Command.QUERY_DIRECTORY, query_directory_body(opened, "*", 12, 0, 8192)))[0] for _ in range(12)]
    found: list[str] = []
    ends = 0
    for one in sent:
        answer = client.receive(one)
        if answer.status == status.NO_MORE_FILES:
            ends += 1
            continue
        assert not ends
        found += names_in(client.output(answer))
    while (answer := client.query_directory(opened, "*", 12)).status == status.SUCCESS:
        found += names_in(client.output(answer))
    assert answer.status == status.NO_MORE_FILES
    assert len(found) == len(set(found))
    assert set(found) == large | {".", ".."}


def names_in(data: bytes) -> list[str]:
    """FileNamesInformation."""
    names, at = [], 0
    while True:
        length = int.from_bytes(data[at + 8 : at + 12], "little")
        names.append(data[at + 12 : at + 12 + length].decode("utf-16-le"))
        following = int.from_bytes(data[at : at + 4], "little")
        if not following:
            return names
        at += following


def test_others_do_not_wait_for_a_large_listing(house: House, client: WireClient, large: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, asked = threading.Event(), threading.Event()
    real = entries._entry

    def entry(resolver: Resolver, fd: int, name: str, directory: PosixHandle) -> object:
        asked.set()
        assert go_on.wait(30)
        return real(resolver, fd, name, directory)

    monkeypatch.setattr(entries, "_entry", entry)
    opened = client.open("many")
    (listing,) = client.send(Request(Command.QUERY_DIRECTORY, query_directory_body(opened)))
    house.turn_until(asked.is_set)
    assert client.echo().status == status.SUCCESS
    assert client.close(client.open("other")).status == status.SUCCESS
    (again,) = client.send(Request(Command.QUERY_DIRECTORY, query_directory_body(opened)))
    assert client.echo().status == status.SUCCESS
    go_on.set()
    assert client.receive(listing).status == status.SUCCESS
    assert client.receive(again).status == status.SUCCESS


def test_a_listing_restarted_while_a_page_of_it_is_read(
    house: House, client: WireClient, large: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, asked = threading.Event(), threading.Event()
    real = entries._entry

    def entry(resolver: Resolver, fd: int, name: str, directory: PosixHandle) -> object:
        asked.set()
        assert go_on.wait(30)
        return real(resolver, fd, name, directory)

    monkeypatch.setattr(entries, "_entry", entry)
    opened = client.open("many")
    client.echo(credits=64)
    (first,) = client.send(Request(Command.QUERY_DIRECTORY, query_directory_body(opened, "*", 37, 0, 4096)))
    house.turn_until(asked.is_set)
    (again,) = client.send(Request(Command.QUERY_DIRECTORY, query_directory_body(opened, "*", 12, c.RESTART_SCANS, 4096)))
    assert client.echo().status == status.SUCCESS
    go_on.set()
    assert client.receive(first).status == status.SUCCESS
    answer = client.receive(again)
    found: list[str] = []
    while answer.status == status.SUCCESS:
        found += names_in(client.output(answer))
        answer = client.query_directory(opened, "*", 12)
    assert answer.status == status.NO_MORE_FILES
    assert len(found) == len(set(found))
    assert set(found) == large | {".", ".."}


def test_a_listing_goes_on_as_it_was_begun_when_the_share_becomes_fast(
    house: House, client: WireClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pages of one listing are never read at once."""
    wanted = {f"{number:04}" for number in range(50)}
    for name in wanted:
        (folder / name).touch()
    go_on, asked = threading.Event(), threading.Event()
    real = entries._entry

    def entry(resolver: Resolver, fd: int, name: str, directory: PosixHandle) -> object:
        asked.set()
        assert go_on.wait(30)
        return real(resolver, fd, name, directory)

    monkeypatch.setattr(entries, "_entry", entry)
    (disk,) = house.worker_of(client).disks.values()
    opened = client.open("")
    client.echo(credits=64)
    disk.doubt()
    sent = client.send(Request(Command.QUERY_DIRECTORY, query_directory_body(opened, "*", 37, 0, 1024)))
    house.turn_until(asked.is_set)
    disk._clock = lambda: monotonic() + WHILE
    sent += client.send(Request(Command.QUERY_DIRECTORY, query_directory_body(opened, "*", 37, 0, 1024)))
    assert client.echo().status == status.SUCCESS
    assert not disk.slow
    go_on.set()
    assert [client.receive(one).status for one in sent] == [status.SUCCESS] * 2
    assert client.query_directory(opened, "*", 37).status == status.SUCCESS


def test_a_directory_closed_under_its_listing(house: House, client: WireClient, large: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, asked = threading.Event(), threading.Event()
    real = entries._entry

    def entry(resolver: Resolver, fd: int, name: str, directory: PosixHandle) -> object:
        asked.set()
        assert go_on.wait(30)
        return real(resolver, fd, name, directory)

    monkeypatch.setattr(entries, "_entry", entry)
    opened = client.open("many")
    sent = [client.send(Request(Command.QUERY_DIRECTORY, query_directory_body(opened)))[0] for _ in range(2)]
    house.turn_until(asked.is_set)
    assert client.close(opened).status == status.SUCCESS
    go_on.set()
    assert [client.receive(one).status for one in sent] == [status.SUCCESS, status.FILE_CLOSED]


def test_a_pattern_that_fits_nothing_in_a_large_directory(client: WireClient, large: set[str]) -> None:
    opened = client.open("many")
    assert client.query_directory(opened, "nothing*").status == status.NO_SUCH_FILE
    assert client.query_directory(opened, "entry number 0007").status == status.NO_SUCH_FILE
    assert client.query_directory(opened, "entry number 0007", flags=c.REOPEN).status == status.SUCCESS
