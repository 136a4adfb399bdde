"""Two clients at once, each with a worker of its own: share modes, byte-range locks, delete-on-close, change notify."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from typing import BinaryIO

import pytest

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.fscc import change
from smbd.smb2.messages import create
from tests.server import Server, eventually, given_settings
from tests.wire_client import Request, Response, WireClient, lock_body, notify_body

SHARED, EXCLUSIVE, UNLOCK, AT_ONCE = 1, 2, 4, 16  # [MS-SMB2] 2.2.26.1
READ, WRITE, DELETE = 0x120089, 0x120116, 0x10000
NEVER_CONFLICTS = 0x80  # FILE_READ_ATTRIBUTES


@pytest.fixture
def pair(server: Server) -> Iterator[tuple[WireClient, WireClient]]:
    """Two logged-on clients of one user."""
    with server.client() as one, server.client() as two:
        yield one, two


@pytest.mark.isolation
def test_each_client_has_a_worker(server: Server, pair: tuple[WireClient, WireClient]) -> None:
    assert server.worker_of(pair[0]).pid != server.worker_of(pair[1]).pid


@pytest.mark.isolation
def test_a_workers_title_names_client_and_user(server: Server, pair: tuple[WireClient, WireClient]) -> None:
    title = " ".join(server.worker_of(pair[0]).cmdline()).strip()
    assert title == f"millpond: worker 127.0.0.1 {server.user}"


@pytest.mark.parametrize("allowed", [0, c.FILE_SHARE_READ, c.FILE_SHARE_WRITE, c.FILE_SHARE_READ | c.FILE_SHARE_WRITE])
def test_share_modes_hold_between_workers(pair: tuple[WireClient, WireClient], allowed: int) -> None:
    one, two = pair
    held = one.open(f"modes {allowed}", access=READ, share=allowed)
    for access, needed in ((READ, c.FILE_SHARE_READ), (WRITE, c.FILE_SHARE_WRITE), (DELETE, c.FILE_SHARE_DELETE)):
        answer = two.create(f"modes {allowed}", access=access)
        expected = status.SUCCESS if allowed & needed else status.SHARING_VIOLATION
        assert status.name(answer.status) == status.name(expected), hex(access)
        if answer.status == status.SUCCESS:
            two.close(_id(answer))
    # what asks for attributes only never conflicts ([MS-FSA] 2.1.5.1.2)
    answer = two.create(f"modes {allowed}", access=NEVER_CONFLICTS, share=0)
    assert answer.status == status.SUCCESS
    two.close(_id(answer))
    # and the other direction: the second open's share access must admit the first one's access
    answer = two.create(f"modes {allowed}", access=NEVER_CONFLICTS | 1, share=c.FILE_SHARE_WRITE)
    assert answer.status == status.SHARING_VIOLATION
    one.close(held)
    answer = two.create(f"modes {allowed}", access=READ | WRITE, share=0)
    assert answer.status == status.SUCCESS, status.name(answer.status)
    two.close(_id(answer))


def _id(answer: Response) -> tuple[int, int]:
    fields = answer.parse(create.CREATE_RESPONSE)
    return fields.file_id_persistent, fields.file_id_volatile


def test_locks_hold_between_workers(pair: tuple[WireClient, WireClient]) -> None:
    one, two = pair
    first, second = one.open("locks"), two.open("locks")
    assert one.write(first, 0, bytes(range(200))).status == status.SUCCESS
    assert one.lock(first, (10, 20, EXCLUSIVE | AT_ONCE)).status == status.SUCCESS
    assert two.lock(second, (29, 1, SHARED | AT_ONCE)).status == status.LOCK_NOT_GRANTED
    assert two.lock(second, (30, 5, EXCLUSIVE | AT_ONCE)).status == status.SUCCESS
    assert two.read(second, 0, 15).status == status.FILE_LOCK_CONFLICT
    assert two.write(second, 25, b"x").status == status.FILE_LOCK_CONFLICT
    assert two.read_data(second, 0, 10) == bytes(range(10))
    assert one.read_data(first, 10, 20) == bytes(range(10, 30))
    assert one.lock(first, (10, 20, UNLOCK)).status == status.SUCCESS
    assert two.write(second, 25, b"x").status == status.SUCCESS
    assert one.lock(first, (10, 20, UNLOCK)).status == status.RANGE_NOT_LOCKED
    one.close(first)
    two.close(second)


def test_a_lock_is_waited_for_and_granted_on_release(pair: tuple[WireClient, WireClient]) -> None:
    one, two = pair
    first, second = one.open("waited"), two.open("waited")
    assert one.lock(first, (0, 100, EXCLUSIVE | AT_ONCE)).status == status.SUCCESS
    (message_id,) = two.send(Request(Command.LOCK, lock_body(second, (50, 10, EXCLUSIVE))))
    assert two.receive(message_id, interim=True).interim
    assert two.echo().status == status.SUCCESS, "the connection goes on while the lock is waited for"
    assert one.lock(first, (0, 100, UNLOCK)).status == status.SUCCESS
    assert two.receive(message_id).status == status.SUCCESS
    assert one.lock(first, (55, 1, EXCLUSIVE | AT_ONCE)).status == status.LOCK_NOT_GRANTED
    # and one that is waited for is granted when the holder just goes away
    (message_id,) = one.send(Request(Command.LOCK, lock_body(first, (50, 10, EXCLUSIVE))))
    assert one.receive(message_id, interim=True).interim
    two.close_connection()
    assert one.receive(message_id).status == status.SUCCESS


def test_a_waiting_lock_can_be_cancelled(pair: tuple[WireClient, WireClient]) -> None:
    one, two = pair
    first, second = one.open("cancelled"), two.open("cancelled")
    assert one.lock(first, (0, 1, EXCLUSIVE | AT_ONCE)).status == status.SUCCESS
    (message_id,) = two.send(Request(Command.LOCK, lock_body(second, (0, 1, EXCLUSIVE))))
    interim = two.receive(message_id, interim=True)
    two.cancel(message_id, interim.async_id)
    assert two.receive(message_id).status == status.CANCELLED
    assert one.lock(first, (0, 1, UNLOCK)).status == status.SUCCESS
    assert two.lock(second, (0, 1, EXCLUSIVE | AT_ONCE)).status == status.SUCCESS


def test_delete_on_close_waits_for_the_last_open_of_all(server: Server, pair: tuple[WireClient, WireClient]) -> None:
    one, two = pair
    first, second = one.open("last one"), two.open("last one")
    third = one.open("last one", options=c.FILE_DELETE_ON_CLOSE)
    one.close(third)
    assert two.create("last one").status == status.DELETE_PENDING
    one.close(first)
    assert (server.share / "last one").exists()
    two.close(second)
    assert not (server.share / "last one").exists()
    answer = two.create("last one", disposition=c.FILE_OPEN)
    assert answer.status == status.OBJECT_NAME_NOT_FOUND


@pytest.mark.skipif(given_settings().get("port") == "posix", reason="port posix has no locks that belong to an open")
def test_locks_of_clients_and_of_local_programs_respect_each_other() -> None:
    with Server(share_settings={"posix locking": "yes"}).running() as server, server.client() as one, server.client() as two:
        first, second = one.open("seen by all"), two.open("seen by all")
        with (server.share / "seen by all").open("rb+") as program:
            assert one.lock(first, (0, 10, EXCLUSIVE | AT_ONCE)).status == status.SUCCESS
            with pytest.raises(BlockingIOError):
                fcntl.lockf(program, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 9)
            assert one.lock(first, (0, 10, UNLOCK)).status == status.SUCCESS
            fcntl.lockf(program, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 9)
            assert two.lock(second, (9, 1, SHARED | AT_ONCE)).status == status.LOCK_NOT_GRANTED
            (message_id,) = two.send(Request(Command.LOCK, lock_body(second, (5, 5, EXCLUSIVE))))
            assert two.receive(message_id, interim=True).interim
            assert one.lock(first, (5, 5, EXCLUSIVE | AT_ONCE)).status == status.LOCK_NOT_GRANTED
            fcntl.lockf(program, fcntl.LOCK_UN)
            assert two.receive(message_id).status == status.SUCCESS
            assert one.lock(first, (9, 1, SHARED | AT_ONCE)).status == status.LOCK_NOT_GRANTED
            two.close(second)
            assert one.lock(first, (9, 1, SHARED | AT_ONCE)).status == status.SUCCESS
            server.worker_of(one).kill()
            eventually(lambda: _is_free(program))


def _is_free(program: BinaryIO) -> bool:
    try:
        fcntl.lockf(program, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_a_change_by_one_client_is_told_to_the_other(pair: tuple[WireClient, WireClient]) -> None:
    one, two = pair
    one.close(one.open("watched", options=c.FILE_DIRECTORY_FILE))
    folder = one.open("watched", options=c.FILE_DIRECTORY_FILE, access=READ)
    (message_id,) = one.send(Request(Command.CHANGE_NOTIFY, notify_body(folder, 0x17F)))
    assert one.receive(message_id, interim=True).interim
    two.close(two.open("watched\\Neues 日本.txt"))
    answer = one.receive(message_id)
    assert answer.status == status.SUCCESS
    assert "Neues 日本.txt".encode("utf-16-le") in bytes(answer.view)
    one.close(folder)


def test_rename_and_data_are_seen_at_once(pair: tuple[WireClient, WireClient]) -> None:
    one, two = pair
    first, second = one.open("seen"), two.open("seen")
    for turn in range(50):
        assert one.write(first, turn * 10, b"0123456789").status == status.SUCCESS
        assert two.read_data(second, turn * 10, 10) == b"0123456789"
    one.close(first)
    two.close(second)


def renamed(client: WireClient, file: tuple[int, int], name: str, replace: bool = False) -> int:
    return client.set_info(file, c.INFO_FILE, change.FILE_RENAME_INFORMATION, change.pack_rename(name, replace)).status


def test_a_renamed_stream_is_found_by_its_new_name_and_by_no_other(pair: tuple[WireClient, WireClient]) -> None:
    one, two = pair
    first = one.open("renamed:old", share=c.FILE_SHARE_READ)
    assert one.write(first, 0, b"content").status == status.SUCCESS
    assert one.lock(first, (0, 3, EXCLUSIVE | AT_ONCE)).status == status.SUCCESS
    assert renamed(one, first, ":new") == status.SUCCESS
    assert two.create("renamed:old", disposition=c.FILE_OPEN).status == status.OBJECT_NAME_NOT_FOUND
    other = two.open("renamed:old", share=0)
    assert two.lock(other, (0, 3, EXCLUSIVE | AT_ONCE)).status == status.SUCCESS
    assert two.create("renamed:new").status == status.SHARING_VIOLATION
    second = two.open("renamed:new", access=READ, disposition=c.FILE_OPEN)
    assert two.read(second, 0, 7).status == status.FILE_LOCK_CONFLICT
    assert one.lock(first, (0, 3, UNLOCK)).status == status.SUCCESS
    assert two.read_data(second, 0, 7) == b"content"
    assert renamed(one, first, ":again") == status.SHARING_VIOLATION
    two.close(second)
    one.close(first)
    assert two.lock(two.open("renamed:new", share=0), (0, 3, EXCLUSIVE | AT_ONCE)).status == status.SUCCESS


def test_a_stream_takes_the_place_of_what_its_file_holds(server: Server, pair: tuple[WireClient, WireClient]) -> None:
    one, two = pair
    first = one.open("whole:part", share=c.FILE_SHARE_READ)
    assert one.write(first, 0, b"content").status == status.SUCCESS
    assert renamed(one, first, "::$DATA") == status.OBJECT_NAME_COLLISION
    looking = two.open("whole", access=READ)
    assert renamed(one, first, "::$DATA", replace=True) == status.INVALID_PARAMETER
    two.close(looking)
    assert renamed(one, first, "::$DATA", replace=True) == status.SUCCESS
    assert (server.share / "whole").read_bytes() == b"content"
    assert one.write(first, 7, b" and more").status == status.SUCCESS
    assert one.read_data(first, 0, 100) == b"content and more"
    assert two.create("whole").status == status.SHARING_VIOLATION
    assert two.create("whole:part", disposition=c.FILE_OPEN).status == status.OBJECT_NAME_NOT_FOUND
    one.close(first)
    assert two.read_data(two.open("whole", share=0), 0, 100) == b"content and more"


def test_a_stream_is_not_renamed_by_a_path(pair: tuple[WireClient, WireClient]) -> None:
    """[MS-FSA] 2.1.5.15.11: the path's directory is opened first, and no name in it has a colon."""
    one, two = pair
    two.close(two.open("above", options=c.FILE_DIRECTORY_FILE))
    first = one.open("above\\file:old")
    assert renamed(one, first, "above\\file:new") == status.OBJECT_NAME_INVALID
    held = two.open("above", options=c.FILE_DIRECTORY_FILE, access=DELETE)
    assert renamed(one, first, "above\\file:new") == status.SHARING_VIOLATION
    assert renamed(one, first, ":new") == status.SUCCESS
    two.close(held)
    one.close(first)
