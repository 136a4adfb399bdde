"""What one client may take of the state that all share: others have room, and what is in it can always go."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from tests.wire_client import FileId, Request, WireClient, notify_body
from tests.workers.house import House
from workers import leaving
from workers.worker import CROWDED, FULL

DEEP = "\\".join(["n" * 200] * 20)
"""Each open of a file there takes two pages of the state."""
DURABLE = {"oplock": c.OPLOCK_LEVEL_BATCH, "contexts": [(b"DHnQ", bytes(16))]}


@pytest.fixture
def house(make_house: Callable[..., House], folder: Path) -> House:
    here = os.open(folder, os.O_RDONLY)
    for name in DEEP.split("\\"):  # step by step: the way from the root of the host is too long for one
        os.mkdir(name, 0o777, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    return make_house()


def fill(client: WireClient, refusal: int = status.INSUFFICIENT_RESOURCES) -> list[FileId]:
    """Opens the same directory until that is refused."""
    found = []
    for _ in range(4000):
        answer = client.create(DEEP, access=c.FILE_LIST_DIRECTORY, options=c.FILE_DIRECTORY_FILE)
        if answer.status != status.SUCCESS:
            assert answer.status == refusal, status.name(answer.status)
            return found
        found.append((int.from_bytes(answer.view[128:136], "little"), int.from_bytes(answer.view[136:144], "little")))
    raise AssertionError("there is no end")


def test_who_has_much_gets_no_more_and_others_do(house: House) -> None:
    greedy, modest = house.client(), house.client()
    first = modest.open("file")
    opened = fill(greedy)
    assert CROWDED <= house.worker_of(greedy).sharing.fullness < FULL
    for number in range(50):
        modest.close(modest.open(f"file {number}"))
    assert modest.lock(first, (0, 1, c.LOCKFLAG_EXCLUSIVE_LOCK)).status == status.SUCCESS
    modest.send(Request(Command.CHANGE_NOTIFY, notify_body(modest.open("", options=c.FILE_DIRECTORY_FILE), 0x17F)))
    assert greedy.lock(opened[0], (0, 1, c.LOCKFLAG_EXCLUSIVE_LOCK)).status == status.INVALID_PARAMETER  # a directory
    assert greedy.call(Command.CHANGE_NOTIFY, notify_body(opened[0], 0x17F)).status == status.INSUFFICIENT_RESOURCES
    for one in opened:
        assert greedy.close(one).status == status.SUCCESS
    for number in range(100):
        greedy.close(greedy.open(f"file {number}"))
    assert house.worker_of(greedy).sharing.fullness < CROWDED


def test_what_many_have_filled_can_be_emptied(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that each have little make it as full as it may be, and then all of them can close what they have."""
    monkeypatch.setattr("workers.worker.MUCH", 1 << 40)
    clients = [house.client() for _ in range(3)]
    opened = [(client, fill(client)) for client in clients]
    assert house.worker_of(clients[0]).sharing.fullness >= FULL
    for client, files in opened:
        for one in files:
            assert client.close(one).status == status.SUCCESS
    for client in clients:
        for number in range(100):
            client.close(client.open(f"file {number}"))


def test_what_was_left_behind_gives_way(house: House, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opens without a connection are fewer where room runs short."""
    monkeypatch.setattr(leaving, "CROWDED", 0)
    client = house.client()
    worker = house.worker_of(client)
    monkeypatch.setattr(leaving, "WHEN_CROWDED", worker.config.max_disconnected_opens_per_user // 3)
    for number in range(5):
        assert client.create(f"left {number}", **DURABLE).status == status.SUCCESS
    client.close_connection()
    house.turn_until(lambda: worker.ended)
    worker.close()
    assert worker.sharing.surplus(3, 3) == []
    assert len(worker.sharing.opens()) == 3


def test_a_client_opens_a_file_so_often_and_no_more(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.worker.MAX_SAME", 3)
    client, other = house.client(), house.client()
    opened = [client.open("file") for _ in range(3)]
    assert client.create("file").status == status.TOO_MANY_OPENED_FILES
    assert client.create("FILE:stream").status == status.SUCCESS
    assert client.create("another").status == status.SUCCESS
    assert other.create("file").status == status.SUCCESS
    client.close(opened.pop())
    assert client.create("file").status == status.SUCCESS
    assert client.create("file").status == status.TOO_MANY_OPENED_FILES


def test_a_client_locks_so_many_ranges_and_no_more(client: WireClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.commands.lock.MAX_LOCKS", 6)
    one, two = client.open("one"), client.open("two")
    lock, unlock = c.LOCKFLAG_EXCLUSIVE_LOCK | c.LOCKFLAG_FAIL_IMMEDIATELY, c.LOCKFLAG_UNLOCK
    for opened in (one, two):
        assert client.lock(opened, *((at, 1, lock) for at in range(3))).status == status.SUCCESS
    assert client.lock(one, (9, 1, lock)).status == status.INSUFFICIENT_RESOURCES
    assert client.lock(one, (0, 1, unlock)).status == status.SUCCESS
    assert client.lock(two, (9, 1, lock)).status == status.SUCCESS
    assert client.lock(one, (9, 1, lock)).status == status.INSUFFICIENT_RESOURCES
    assert client.lock(two, (9, 1, unlock), (8, 1, unlock)).status == status.RANGE_NOT_LOCKED  # the first is unlocked all the same
    assert client.lock(one, (0, 1, lock)).status == status.SUCCESS
    assert client.lock(one, (9, 1, lock)).status == status.INSUFFICIENT_RESOURCES
    client.close(two)
    assert client.lock(one, *((at, 1, lock) for at in range(10, 13))).status == status.SUCCESS
    assert client.lock(one, (9, 1, lock)).status == status.INSUFFICIENT_RESOURCES


def test_a_directory_is_watched_so_often_and_no_more(client: WireClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever changes something there has to tell each watch."""
    monkeypatch.setattr("workers.commands.change_notify.MAX_WATCHES", 2)
    roots = [client.open("", options=c.FILE_DIRECTORY_FILE) for _ in range(3)]
    for root in roots[:2]:
        client.send(Request(Command.CHANGE_NOTIFY, notify_body(root, 0x17F)))
    assert client.call(Command.CHANGE_NOTIFY, notify_body(roots[2], 0x17F)).status == status.INSUFFICIENT_RESOURCES
    below = client.open("below", options=c.FILE_DIRECTORY_FILE)
    client.send(Request(Command.CHANGE_NOTIFY, notify_body(below, 0x17F)))
    client.close(roots[0])
    client.send(Request(Command.CHANGE_NOTIFY, notify_body(roots[2], 0x17F)))
    client.close(roots[2])
    assert client.echo().status == status.SUCCESS


def test_the_last_descriptors_of_the_process_are_not_for_files(make_house: Callable[..., House]) -> None:
    def fill(client: WireClient, name: str) -> list[FileId]:
        opened: list[FileId] = []
        while (answer := client.create(name.format(len(opened)))).status == status.SUCCESS:
            opened.append((int.from_bytes(answer.view[128:136], "little"), int.from_bytes(answer.view[136:144], "little")))
        assert answer.status == status.TOO_MANY_OPENED_FILES
        return opened

    house = make_house()
    free = os.dup(0)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 400, hard))
    try:
        client = house.client()
        opened = fill(client, "file {}")
        assert len(opened) > 200
        assert not (house.share / f"file {len(opened)}").exists()
        opened += fill(client, "file 0")
        spare = [os.dup(0) for _ in range(30)]
        for fd in spare:
            os.close(fd)
        other = house.client()  # who comes now is served
        assert other.create("file 0").status == status.TOO_MANY_OPENED_FILES
        for one in opened:
            assert client.close(one).status == status.SUCCESS
        other.close(other.open("file 0"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
