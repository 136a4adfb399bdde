"""Requests that wait: locks and change notification, their cancelling, and the end of what they wait on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.messages import directory
from tests.wire_client import FileId, Request, Response, WireClient, create_body, lock_body, notify_body
from tests.workers.house import House
from workers.commands import change_notify
from workers.engine import ASYNC_LIMIT

ON_ERRANDS_TOO = True

EXCLUSIVE, UNLOCK = c.LOCKFLAG_EXCLUSIVE_LOCK, c.LOCKFLAG_UNLOCK
AT_ONCE = EXCLUSIVE | c.LOCKFLAG_FAIL_IMMEDIATELY
ALL_CHANGES = 0xFFF


def pending(client: WireClient, command: int, body: bytes, **options: object) -> Response:
    """Send a request that has to wait; its interim response."""
    (message_id,) = client.send(Request(command, body, **options))  # type: ignore[arg-type]
    interim = client.receive(message_id, interim=True)
    assert interim.interim, status.name(interim.status)
    return interim


def final(client: WireClient, interim: Response) -> Response:
    response = client.receive(interim.header.message_id)
    assert response.async_id == interim.async_id
    assert response.header.credit == 0  # 3.3.4.2: the interim response granted them
    return response


def changes(response: Response) -> bytes:
    answer = response.parse(directory.CHANGE_NOTIFY_RESPONSE)
    return response.part(answer.output_buffer_offset, answer.output_buffer_length)


def folder_open(client: WireClient, name: str = "") -> FileId:
    return client.open(name, options=c.FILE_DIRECTORY_FILE)


# Locks


def test_a_lock_of_another_worker_is_waited_for(house: House, client: WireClient) -> None:
    other = house.client()
    mine, theirs = client.open("f"), other.open("f")
    assert client.lock(mine, (0, 10, AT_ONCE)).status == status.SUCCESS
    assert other.lock(theirs, (5, 1, AT_ONCE)).status == status.LOCK_NOT_GRANTED
    assert other.write(theirs, 0, b"x").status == status.FILE_LOCK_CONFLICT
    waiting = pending(other, Command.LOCK, lock_body(theirs, (5, 1, EXCLUSIVE)))
    assert client.lock(mine, (0, 10, UNLOCK)).status == status.SUCCESS
    assert final(other, waiting).status == status.SUCCESS
    assert client.lock(mine, (5, 1, AT_ONCE)).status == status.LOCK_NOT_GRANTED


@pytest.mark.parametrize("by_message", [False, True])
def test_a_cancelled_lock(house: House, client: WireClient, by_message: bool) -> None:
    first, second = client.open("f"), client.open("f")
    client.lock(first, (0, 1, AT_ONCE))
    waiting = pending(client, Command.LOCK, lock_body(second, (0, 1, EXCLUSIVE)))
    client.cancel(waiting.header.message_id if by_message else 0, None if by_message else waiting.async_id)
    assert final(client, waiting).status == status.CANCELLED
    client.lock(first, (0, 1, UNLOCK))
    assert client.lock(first, (0, 1, AT_ONCE)).status == status.SUCCESS  # nobody got it meanwhile
    assert not house.worker_of(client).lines[0].engine.waiting


def test_a_lock_whose_file_is_closed(house: House, client: WireClient) -> None:
    first, second = client.open("f"), client.open("f")
    client.lock(first, (0, 1, AT_ONCE))
    waiting = pending(client, Command.LOCK, lock_body(second, (0, 1, EXCLUSIVE)))
    assert client.close(second).status == status.SUCCESS
    assert final(client, waiting).status == status.RANGE_NOT_LOCKED
    assert not house.worker_of(client).lock_waits


def test_several_locks_are_all_or_none(client: WireClient) -> None:
    first, second = client.open("f"), client.open("f")
    client.lock(first, (10, 1, AT_ONCE))
    assert client.lock(second, (0, 1, AT_ONCE), (10, 1, AT_ONCE)).status == status.LOCK_NOT_GRANTED
    assert client.lock(first, (0, 1, AT_ONCE)).status == status.SUCCESS
    assert client.lock(second, (0, 1, EXCLUSIVE), (20, 1, EXCLUSIVE)).status == status.INVALID_PARAMETER
    assert client.lock(first, (0, 1, UNLOCK), (3, 1, UNLOCK)).status == status.RANGE_NOT_LOCKED
    assert client.lock(second, (0, 1, AT_ONCE)).status == status.SUCCESS


def test_lock_elements_that_are_not_there(client: WireClient) -> None:
    opened = client.open("f")
    body = bytearray(lock_body(opened, (0, 1, AT_ONCE)))
    for count in (0, 2, 0xFFFF):
        body[2:4] = count.to_bytes(2, "little")
        assert client.call(Command.LOCK, bytes(body)).status == status.INVALID_PARAMETER


def test_a_lock_that_waits_in_the_middle_of_a_compound(client: WireClient) -> None:
    first, second = client.open("f"), client.open("f")
    client.lock(first, (0, 1, AT_ONCE))
    body = lock_body(second, (0, 1, EXCLUSIVE))
    answers = client.compound(Request(Command.LOCK, body), Request(Command.ECHO, b"\4\0\0\0"))
    assert [answer.status for answer in answers] == [status.INTERNAL_ERROR, status.SUCCESS]
    ids = client.send(Request(Command.ECHO, b"\4\0\0\0"), Request(Command.LOCK, body))
    assert client.receive(ids[0]).status == status.SUCCESS  # what came before it does not wait
    waiting = client.receive(ids[1], interim=True)
    assert waiting.interim
    client.lock(first, (0, 1, UNLOCK))
    assert final(client, waiting).status == status.SUCCESS


# Change notification


def test_a_change_of_another_worker(house: House, client: WireClient) -> None:
    waiting = pending(client, Command.CHANGE_NOTIFY, notify_body(folder_open(client), ALL_CHANGES))
    house.client().open("brand new")
    assert "brand new".encode("utf-16-le") in changes(final(client, waiting))


def test_beneath_only_when_recursive(client: WireClient, folder: Path) -> None:
    (folder / "sub").mkdir()
    deep = pending(client, Command.CHANGE_NOTIFY, notify_body(folder_open(client), ALL_CHANGES, c.WATCH_TREE))
    flat = pending(client, Command.CHANGE_NOTIFY, notify_body(folder_open(client), ALL_CHANGES))
    client.open("sub\\inner")
    assert "sub\\inner".encode("utf-16-le") in changes(final(client, deep))
    client.open("outer")
    assert b"i\0n\0n\0e\0r" not in changes(final(client, flat))


def test_changes_are_kept_until_asked_for(client: WireClient) -> None:
    opened = folder_open(client)
    waiting = pending(client, Command.CHANGE_NOTIFY, notify_body(opened, ALL_CHANGES))
    client.open("first")
    final(client, waiting)
    client.open("second")
    assert "second".encode("utf-16-le") in changes(client.call(Command.CHANGE_NOTIFY, notify_body(opened, ALL_CHANGES)))


def test_nobody_is_told_when_the_administrator_says_so(make_house: Callable[..., House]) -> None:
    client = make_house(text="change notify = no").client()
    assert client.call(Command.CHANGE_NOTIFY, notify_body(folder_open(client), ALL_CHANGES)).status == status.NOT_IMPLEMENTED


def test_too_many_changes(client: WireClient, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = folder_open(client)
    waiting = pending(client, Command.CHANGE_NOTIFY, notify_body(opened, ALL_CHANGES, size=16))
    client.open("longer than that")
    assert final(client, waiting).status == status.NOTIFY_ENUM_DIR
    monkeypatch.setattr(change_notify, "KEPT", 50)
    for number in range(5):
        client.open(f"name{number}")
    assert client.call(Command.CHANGE_NOTIFY, notify_body(opened, ALL_CHANGES)).status == status.NOTIFY_ENUM_DIR
    pending(client, Command.CHANGE_NOTIFY, notify_body(opened, ALL_CHANGES))  # and then it begins anew


def test_a_cancelled_notification(house: House, client: WireClient) -> None:
    waiting = pending(client, Command.CHANGE_NOTIFY, notify_body(folder_open(client), ALL_CHANGES))
    client.cancel(0, waiting.async_id)
    assert final(client, waiting).status == status.CANCELLED
    assert not house.worker_of(client).lines[0].engine.waiting


def test_a_change_and_a_cancel_in_the_same_turn(house: House, client: WireClient) -> None:
    opened = folder_open(client)
    waiting = pending(client, Command.CHANGE_NOTIFY, notify_body(opened, ALL_CHANGES))
    worker = house.worker_of(client)
    (request,) = worker.lines[0].engine.waiting.values()
    (watch_id,) = worker.notices._watched
    worker.notices.deliver(watch_id, 1, "x")
    worker.loop.soon(request.cancel)
    assert final(client, waiting).status == status.CANCELLED
    assert b"x\0" in changes(client.call(Command.CHANGE_NOTIFY, notify_body(opened, ALL_CHANGES)))  # not lost


def test_a_change_is_told_once(client: WireClient) -> None:
    """smb2.notify.double: a change and two requests come in the same turn. One has it at once, the other waits for the next."""
    opened = folder_open(client)
    waiting = pending(client, Command.CHANGE_NOTIFY, notify_body(opened, ALL_CHANGES))
    client.cancel(0, waiting.async_id)
    assert final(client, waiting).status == status.CANCELLED
    client.echo(credits=8)
    client.send(Request(Command.CREATE, create_body("first")))
    one, two = (client.send(Request(Command.CHANGE_NOTIFY, notify_body(opened, ALL_CHANGES)))[0] for _ in range(2))
    assert "first".encode("utf-16-le") in changes(client.receive(one))
    interim = client.receive(two, interim=True)
    assert interim.interim
    client.open("second")
    assert "second".encode("utf-16-le") in changes(final(client, interim))


def test_a_change_whose_request_is_cancelled_is_the_next_one_s(house: House, client: WireClient) -> None:
    opened = folder_open(client)
    one, two = (pending(client, Command.CHANGE_NOTIFY, notify_body(opened, ALL_CHANGES)) for _ in range(2))
    worker = house.worker_of(client)
    request = worker.lines[0].engine.waiting[one.header.message_id]
    (watch_id,) = worker.notices._watched
    worker.notices.deliver(watch_id, 1, "x")
    worker.loop.soon(request.cancel)
    assert final(client, one).status == status.CANCELLED
    assert b"x\0" in changes(final(client, two))


@pytest.mark.parametrize("end", ["close", "tree", "logoff"])
def test_the_end_of_the_directory_ends_its_notification(house: House, client: WireClient, end: str) -> None:
    opened = folder_open(client)
    waiting = pending(client, Command.CHANGE_NOTIFY, notify_body(opened, ALL_CHANGES))
    {"close": lambda: client.close(opened), "tree": client.tree_disconnect, "logoff": client.logoff}[end]()
    assert final(client, waiting).status == status.NOTIFY_CLEANUP
    assert house.sharing is not None
    assert house.sharing.watched() == []


def test_a_watched_directory_that_was_renamed_leaves_no_watch(house: House, client: WireClient) -> None:
    opened = folder_open(client, "before")
    pending(client, Command.CHANGE_NOTIFY, notify_body(opened, ALL_CHANGES))
    name = "after".encode("utf-16-le")
    assert client.set_info(opened, c.INFO_FILE, 10, bytes(16) + len(name).to_bytes(4, "little") + name).status == status.SUCCESS
    client.close(opened)
    assert house.sharing is not None
    assert house.sharing.watched() == []


def test_only_so_many_may_wait_for_ever(house: House, client: WireClient) -> None:
    opened = folder_open(client)
    while client.credits < ASYNC_LIMIT + 10:
        client.echo(credits=512)
    waiting = [pending(client, Command.CHANGE_NOTIFY, notify_body(opened, ALL_CHANGES), credits=2) for _ in range(ASYNC_LIMIT)]
    refused = client.call(Command.CHANGE_NOTIFY, notify_body(opened, ALL_CHANGES))
    assert refused.status == status.INSUFFICIENT_RESOURCES
    client.close(opened)
    assert {final(client, each).status for each in waiting} == {status.NOTIFY_CLEANUP}


def test_a_notification_at_the_end_of_a_compound_holds_no_frame(house: House, client: WireClient) -> None:
    client.sign = False
    create = Request(Command.CREATE, create_body("", options=c.FILE_DIRECTORY_FILE))
    notify = Request(Command.CHANGE_NOTIFY, notify_body((c.RELATED_ID, c.RELATED_ID), ALL_CHANGES), flags=c.FLAGS_RELATED_OPERATIONS)
    ids = client.send(create, notify)
    assert client.receive(ids[0]).status == status.SUCCESS
    assert client.receive(ids[1], interim=True).interim
    client.echo()
    buffer = house.worker_of(client).lines[0].receiver.buffer
    assert buffer is not None
    assert buffer.references == 1
    house.worker_of(client).lines[0].trim()
    assert house.worker_of(client).pool.in_use() == 1


def test_the_end_of_the_connection_ends_all_waits(house: House, client: WireClient) -> None:
    first, second = client.open("f"), client.open("f")
    client.lock(first, (0, 1, AT_ONCE))
    pending(client, Command.LOCK, lock_body(second, (0, 1, EXCLUSIVE)))
    pending(client, Command.CHANGE_NOTIFY, notify_body(folder_open(client), ALL_CHANGES))
    client.close_connection()
    worker = house.worker_of(client)
    house.turn_until(lambda: worker.ended)
    worker.close()  # the house looks for what stayed behind
