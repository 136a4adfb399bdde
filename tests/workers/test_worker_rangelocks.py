"""posix locking = yes: clients' locks and those of programs beside the server respect each other."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pools.port import choice, files
from smbd.sharing import Range
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from tests.wire_client import Request, WireClient, lock_body
from tests.workers.house import House
from tests.workers.test_worker_reconnect import again, dhnc, drop, durable
from workers import breaks
from workers.rangelocks import without

FILES = choice.load("linux").files
SHARED = c.LOCKFLAG_SHARED_LOCK | c.LOCKFLAG_FAIL_IMMEDIATELY
AT_ONCE = c.LOCKFLAG_EXCLUSIVE_LOCK | c.LOCKFLAG_FAIL_IMMEDIATELY
EXCLUSIVE, UNLOCK = c.LOCKFLAG_EXCLUSIVE_LOCK, c.LOCKFLAG_UNLOCK


class Program:
    """Somebody else who has the file open."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR)

    def may(self, offset: int, exclusive: bool = True) -> bool:
        """Whether a byte can be locked; it is free again afterwards."""
        try:
            FILES.lock_range(self.fd, offset, 1, exclusive=exclusive)
        except BlockingIOError:
            return False
        FILES.unlock_range(self.fd, offset, 1)
        return True

    def picture(self, count: int) -> str:
        """Of each byte: '.' free, 's' shared or 'x' exclusive by others."""
        return "".join("." if self.may(at) else "s" if self.may(at, False) else "x" for at in range(count))


@pytest.fixture
def house(make_house: Callable[..., House], folder: Path) -> House:
    (folder / "f").write_bytes(bytes(100))
    return make_house(share_text="posix locking = yes")


@pytest.fixture
def program(house: House, folder: Path) -> Iterator[Program]:
    made = Program(folder / "f")
    yield made
    os.close(made.fd)


def test_what_a_client_has_locked_a_program_cannot_lock(client: WireClient, program: Program) -> None:
    opened = client.open("f")
    assert client.lock(opened, (1, 2, AT_ONCE), (4, 1, SHARED)).status == status.SUCCESS
    assert program.picture(6) == ".xx.s."
    assert client.lock(opened, (1, 2, UNLOCK)).status == status.SUCCESS
    assert program.picture(6) == "....s."
    client.close(opened)
    assert program.picture(6) == "......"


def test_stacked_locks_are_given_back_one_by_one(client: WireClient, program: Program) -> None:
    opened = client.open("f")
    assert client.lock(opened, (0, 6, AT_ONCE)).status == status.SUCCESS
    assert client.lock(opened, (2, 6, SHARED)).status == status.SUCCESS
    assert client.lock(opened, (3, 1, SHARED)).status == status.SUCCESS
    assert program.picture(9) == "xxxxxxss."
    assert client.lock(opened, (0, 6, UNLOCK)).status == status.SUCCESS
    assert program.picture(9) == "..ssssss."
    assert client.lock(opened, (2, 6, UNLOCK), (7, 7, UNLOCK)).status == status.RANGE_NOT_LOCKED
    assert program.picture(9) == "...s....."


def test_what_a_program_has_locked_a_client_cannot_lock_and_keeps_nothing_of_it(client: WireClient, program: Program) -> None:
    opened = client.open("f")
    FILES.lock_range(program.fd, 4, 1, exclusive=True)
    assert client.lock(opened, (0, 2, AT_ONCE), (3, 3, SHARED)).status == status.LOCK_NOT_GRANTED
    assert program.picture(4) == "...."
    other = client.open("f")
    assert client.lock(other, (0, 4, AT_ONCE)).status == status.SUCCESS
    assert client.lock(opened, (4, 1, AT_ONCE)).status == status.LOCK_NOT_GRANTED
    assert program.picture(4) == "xxxx"


def test_a_client_waits_for_a_program(house: House, client: WireClient, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaks, "RETRY", 0.01)
    opened = client.open("f")
    FILES.lock_range(program.fd, 0, 1, exclusive=False)
    (message_id,) = client.send(Request(Command.LOCK, lock_body(opened, (0, 5, EXCLUSIVE))))
    assert client.receive(message_id, interim=True).interim
    FILES.unlock_range(program.fd, 0, 1)
    assert client.receive(message_id).status == status.SUCCESS
    assert program.picture(6) == "xxxxx."


class Kernel:
    """What of its locks fails: all that begin at ``refused``, and with ``stays`` what is unlocked, too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused = -1
        self.stays = False
        self._lock, self._unlock = files.lock_range, files.unlock_range
        monkeypatch.setattr(files, "lock_range", self.lock_range)
        monkeypatch.setattr(files, "unlock_range", self.unlock_range)

    def lock_range(self, fd: int, offset: int, length: int, *, exclusive: bool) -> None:
        if offset == self.refused:
            raise OSError(errno.ENOLCK, "no locks available")
        self._lock(fd, offset, length, exclusive=exclusive)

    def unlock_range(self, fd: int, offset: int, length: int) -> None:
        if self.stays:
            raise OSError(errno.ENOLCK, "no locks available")
        self._unlock(fd, offset, length)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


@pytest.mark.parametrize("stays", [False, True])
def test_what_the_kernel_refuses_is_not_locked(house: House, client: WireClient, program: Program, kernel: Kernel, *, stays: bool) -> None:
    other = house.client()
    mine, theirs = client.open("f"), other.open("f")
    kernel.refused, kernel.stays = 3, stays
    assert client.lock(mine, (0, 2, AT_ONCE), (3, 3, AT_ONCE)).status == status.UNSUCCESSFUL
    kernel.refused, kernel.stays = -1, False
    assert house.sharing is not None
    assert house.sharing.locks() == []
    assert house.worker_of(client).locks == 0
    assert other.write(theirs, 3, b"1").status == status.SUCCESS
    if not stays:
        assert program.picture(6) == "......"
        assert other.lock(theirs, (0, 6, AT_ONCE)).status == status.SUCCESS


def test_what_the_kernel_refuses_after_a_wait_is_not_locked(house: House, client: WireClient, kernel: Kernel) -> None:
    other = house.client()
    mine, theirs = client.open("f"), other.open("f")
    assert other.lock(theirs, (3, 1, AT_ONCE)).status == status.SUCCESS
    (waiting,) = client.send(Request(Command.LOCK, lock_body(mine, (3, 3, EXCLUSIVE))))
    assert client.receive(waiting, interim=True).interim
    kernel.refused = 3
    assert other.lock(theirs, (3, 1, UNLOCK)).status == status.SUCCESS
    assert client.receive(waiting).status == status.UNSUCCESSFUL
    assert house.sharing is not None
    assert house.sharing.locks() == []
    assert other.write(theirs, 3, b"1").status == status.SUCCESS


def test_a_file_whose_locks_the_kernel_does_not_forget_is_closed(
    house: House, client: WireClient, program: Program, kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    opened = client.open("f")
    worker = house.worker_of(client)
    assert client.lock(opened, (0, 2, AT_ONCE)).status == status.SUCCESS
    kernel.stays = True
    assert client.close(opened).status == status.SUCCESS
    kernel.stays = False
    assert "stay until their file is closed" in caplog.text
    assert not worker.opens
    assert worker.sharing.opens() == []
    assert worker.sharing.locks() == []
    assert program.picture(3) == "..."  # the descriptor is closed, too


def test_between_clients_nothing_changes(house: House, client: WireClient, program: Program) -> None:
    other = house.client()
    mine, theirs = client.open("f"), other.open("f")
    for _ in range(3):
        assert client.lock(mine, (0, 5, AT_ONCE)).status == status.SUCCESS
        assert other.lock(theirs, (4, 5, AT_ONCE)).status == status.LOCK_NOT_GRANTED
        assert client.lock(mine, (0, 5, UNLOCK)).status == status.SUCCESS
        assert other.lock(theirs, (4, 5, AT_ONCE)).status == status.SUCCESS
        other.close(theirs)
        theirs = other.open("f")


def test_what_the_kernel_has_no_word_for_is_the_clients_business_alone(client: WireClient, program: Program) -> None:
    opened = client.open("f")
    assert client.lock(opened, (1 << 63, 1, AT_ONCE), ((1 << 64) - 1, 1, AT_ONCE), (5, 0, AT_ONCE)).status == status.SUCCESS
    assert program.picture(8) == "........"
    assert client.lock(opened, (6, (1 << 64) - 6, SHARED)).status == status.SUCCESS
    assert program.picture(8) == "......ss"
    stream = client.open("f:s")
    assert client.lock(stream, (0, 3, AT_ONCE)).status == status.SUCCESS
    assert program.picture(3) == "..."


def test_who_only_reads_keeps_others_from_writing(client: WireClient, program: Program) -> None:
    opened = client.open("f", access=c.FILE_READ_DATA)
    assert client.lock(opened, (0, 2, AT_ONCE)).status == status.SUCCESS
    assert program.picture(3) == "ss."


@pytest.mark.parametrize(
    ("ranges", "left"),
    [
        ([(0, 5)], [Range(0, 5, False), Range(7, 1, True)]),  # of equal ones the exclusive first
        ([(0, 5), (0, 5)], [Range(7, 1, True)]),
        ([(1, 1), (0, 5)], [Range(0, 5, True), Range(0, 5, False), Range(7, 1, True)]),  # up to the first that is not locked
    ],
)
def test_what_is_left(ranges: list[tuple[int, int]], left: list[Range]) -> None:
    locks = [Range(0, 5, True), Range(0, 5, False), Range(7, 1, True)]
    assert without(locks, [Range(*one) for one in ranges]) == left


def test_what_outlives_its_connection_is_locked_again(house: House, program: Program, caplog: pytest.LogCaptureFixture) -> None:
    client = house.client()
    opened = durable(client, "f")
    assert client.lock(opened, (1, 2, AT_ONCE), (4, 1, AT_ONCE)).status == status.SUCCESS
    drop(house, client)
    assert program.picture(6) == "......"  # with the process' descriptor: only the server's own clients still respect them
    FILES.lock_range(program.fd, 4, 1, exclusive=True)
    back = house.client()
    assert again(back, dhnc(opened)) == status.SUCCESS
    other = Program(house.share / "f")
    assert other.picture(6) == ".xx.x."
    os.close(other.fd)
    FILES.unlock_range(program.fd, 4, 1)
    assert program.picture(6) == ".xx..."
    assert "a program has 1 ranges" in caplog.text
    assert house.sharing is not None
    assert [lock.offset for _, lock in house.sharing.locks()] == [1, 4]  # between clients it is as it was
