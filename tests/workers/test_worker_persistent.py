"""Persistent opens in a worker: nothing is answered before it is kept, and what cannot be kept is undone."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from smbd.sharing import Lasting
from smbd.sharing.messages import KEEP, KEEP_LAYOUT, STATUS_ANSWER
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.messages import create_contexts as contexts
from smbd.smb2.messages.create import CREATE_RESPONSE
from tests.wire_client import FileId, Request, Response, WireClient, close_body, create_body, lock_body
from tests.workers.house import House

GUID = b"G" * 16
ASKED = [(b"DH2Q", contexts.DURABLE_REQUEST_V2.pack(60_000, c.DHANDLE_FLAG_PERSISTENT, 0, GUID))]
EXCLUSIVE = c.LOCKFLAG_EXCLUSIVE_LOCK | c.LOCKFLAG_FAIL_IMMEDIATELY


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path, share_text="continuous availability = yes")
    yield house
    house.end()


def send(house: House, client: WireClient, command: int, body: bytes) -> int:
    """Send it, and see that it waits for the keeper."""
    (message_id,) = client.send(Request(command, body))
    house.turn_until(lambda: bool(house.mail_of(client).asked))
    kind, payload, _ = house.mail_of(client).asked[0]
    assert kind == KEEP.number
    assert KEEP_LAYOUT.unpack(payload).file_id
    return message_id


def answer(house: House, client: WireClient, message_id: int, code: int = status.SUCCESS) -> Response:
    house.mail_of(client).answer_next(STATUS_ANSWER.pack(code))
    return client.receive(message_id)


def persistent(house: House, client: WireClient) -> FileId:
    response = answer(house, client, send(house, client, Command.CREATE, create_body("file", contexts=ASKED)))
    fields = response.parse(CREATE_RESPONSE)
    found = contexts.parse_chain(memoryview(response.part(fields.create_contexts_offset, fields.create_contexts_length)))
    assert contexts.DURABLE_RESPONSE_V2.unpack(found[b"DH2Q"]).flags == c.DHANDLE_FLAG_PERSISTENT
    return fields.file_id_persistent, fields.file_id_volatile


def test_open_lock_and_close_are_kept_before_they_are_answered(house: House) -> None:
    client = house.client()
    held = persistent(house, client)
    assert house.sharing is not None
    found = house.sharing.find(held[0])
    assert found is not None
    assert found.claim.lasting & Lasting.PERSISTENT
    locking = send(house, client, Command.LOCK, lock_body(held, (0, 4, EXCLUSIVE), sequence=0x11))
    found = house.sharing.find(held[0])
    assert found is not None
    assert found.parting.sequences[0] == 2
    assert answer(house, client, locking).status == status.SUCCESS
    closing = send(house, client, Command.CLOSE, close_body(held))
    assert house.sharing.find(held[0]) is None
    assert answer(house, client, closing).status == status.SUCCESS


def test_an_open_that_is_cancelled_before_it_is_kept_never_was(house: House) -> None:
    holder, client = house.client(), house.client()
    kept = holder.open("file", oplock=c.OPLOCK_LEVEL_BATCH)
    (creating,) = client.send(Request(Command.CREATE, create_body("file", contexts=ASKED)))
    interim = client.receive(creating, interim=True)
    assert holder.close(kept).status == status.SUCCESS
    house.turn_until(lambda: bool(house.mail_of(client).asked))
    client.cancel(creating, interim.async_id)
    assert client.receive(creating).status == status.CANCELLED
    assert not house.worker_of(client).opens
    assert holder.create("file", share=0).status == status.SUCCESS


@pytest.mark.parametrize("there", [False, True])
def test_an_open_that_cannot_be_kept_never_was(house: House, there: bool) -> None:
    client = house.client()
    if there:
        client.close(client.open("file"))
    creating = send(house, client, Command.CREATE, create_body("file", contexts=ASKED))
    assert answer(house, client, creating, status.DISK_FULL).status == status.DISK_FULL
    assert (house.share / "file").exists() is there
    assert not house.worker_of(client).opens
    client.close(client.open("file"))


def test_a_lock_that_cannot_be_kept_is_none(house: House) -> None:
    client = house.client()
    held = persistent(house, client)
    locking = send(house, client, Command.LOCK, lock_body(held, (0, 4, EXCLUSIVE), sequence=0x11))
    assert answer(house, client, locking, status.DISK_FULL).status == status.DISK_FULL
    assert house.sharing is not None
    assert house.sharing.locks() == []
    locking = send(house, client, Command.LOCK, lock_body(held, (0, 4, EXCLUSIVE), sequence=0x11))
    assert answer(house, client, locking).status == status.SUCCESS
    assert len(house.sharing.locks()) == 1


def test_what_it_was_stacked_on_stays(house: House) -> None:
    """To unlock takes the exclusive one of two equal locks; to undo takes the last."""
    client = house.client()
    held = persistent(house, client)
    locking = send(house, client, Command.LOCK, lock_body(held, (0, 4, EXCLUSIVE)))
    assert answer(house, client, locking).status == status.SUCCESS
    locking = send(house, client, Command.LOCK, lock_body(held, (0, 4, c.LOCKFLAG_SHARED_LOCK | c.LOCKFLAG_FAIL_IMMEDIATELY)))
    assert answer(house, client, locking, status.DISK_FULL).status == status.DISK_FULL
    assert house.sharing is not None
    assert [lock.exclusive for _, lock in house.sharing.locks()] == [1]


def test_an_unlocking_is_one_even_if_that_cannot_be_kept(house: House) -> None:
    client = house.client()
    held = persistent(house, client)
    locking = send(house, client, Command.LOCK, lock_body(held, (0, 4, EXCLUSIVE)))
    assert answer(house, client, locking).status == status.SUCCESS
    unlocking = send(house, client, Command.LOCK, lock_body(held, (0, 4, c.LOCKFLAG_UNLOCK)))
    assert answer(house, client, unlocking, status.DISK_FULL).status == status.SUCCESS
    assert house.sharing is not None
    assert house.sharing.locks() == []


def test_a_close_is_one_even_if_that_cannot_be_kept(house: House) -> None:
    client = house.client()
    held = persistent(house, client)
    closing = send(house, client, Command.CLOSE, close_body(held))
    assert answer(house, client, closing, status.DISK_FULL).status == status.SUCCESS
    assert client.create("file", share=0).status == status.SUCCESS


def test_whoever_ends_otherwise_tells_the_keeper(house: House) -> None:
    client = house.client()
    held = persistent(house, client)
    client.tree_disconnect()
    assert (3, KEEP.number, KEEP_LAYOUT.pack(held[0])) in house.mail_of(client).sent


def test_a_client_that_asks_for_less_gets_less(house: House) -> None:
    client = house.client()
    plain = [(b"DH2Q", contexts.DURABLE_REQUEST_V2.pack(60_000, 0, 0, GUID))]
    assert not client.create("file", contexts=plain).parse(CREATE_RESPONSE).create_contexts_length
    assert not house.mail_of(client).asked


def test_what_others_wrote_stays_though_the_open_that_made_the_file_cannot_be_kept(house: House) -> None:
    client, other = house.client(), house.client()
    creating = send(house, client, Command.CREATE, create_body("file", contexts=ASKED))
    opened = other.open("file")
    assert other.write(opened, 0, b"by another").status == status.SUCCESS
    other.close(opened)
    assert answer(house, client, creating, status.DISK_FULL).status == status.DISK_FULL
    assert (house.share / "file").read_bytes() == b"by another"


def test_who_has_the_file_open_already_may_write_though_a_client_that_caches_it_is_lost(house: House) -> None:
    lease = (b"RqLs", contexts.LEASE_V2.pack(b"K" * 16, 3, 0, 0, bytes(16), 0, 0))
    client = house.client()
    asked = create_body("file", oplock=c.OPLOCK_LEVEL_LEASE, contexts=[*ASKED, lease])
    assert answer(house, client, send(house, client, Command.CREATE, asked)).status == status.SUCCESS
    other = house.client()
    opened = other.open("file")
    worker = house.worker_of(client)
    client.transport.close()
    house.turn_until(lambda: worker.ended)
    worker.close()
    assert other.write(opened, 0, b"written").status == status.SUCCESS
    assert other.lock(opened, (0, 4, EXCLUSIVE)).status == status.SUCCESS


def test_a_lock_that_cannot_be_kept_is_none_for_local_programs_either(tmp_path: Path) -> None:
    house = House(tmp_path, share_text="continuous availability = yes\nposix locking = yes")
    client = house.client()
    held = persistent(house, client)
    locking = send(house, client, Command.LOCK, lock_body(held, (0, 4, EXCLUSIVE)))
    with (tmp_path / "file").open("r+b") as local:
        with pytest.raises(BlockingIOError):
            fcntl.lockf(local, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert answer(house, client, locking, status.DISK_FULL).status == status.DISK_FULL
        fcntl.lockf(local, fcntl.LOCK_EX | fcntl.LOCK_NB)
    house.end()
