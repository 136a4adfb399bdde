"""FSCTL_LMR_REQUEST_RESILIENCY: who may ask for it, what an open survives then, and what waits for its client."""

from __future__ import annotations

from collections.abc import Callable
from struct import pack

import pytest

from smbd.sharing import Lasting
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.messages import create_contexts as contexts
from smbd.smb2.messages.create import CREATE_RESPONSE
from tests.wire_client import FileId, Offer, Request, WireClient, create_body
from tests.workers.house import ALICE, BOB, House
from workers.fsctl.resiliency import DEFAULT_TIMEOUT, LONGEST_TIMEOUT

ON_ERRANDS_TOO = True

GUID, APP = bytes(range(16)), bytes(range(16, 32))
EXCLUSIVE = c.LOCKFLAG_EXCLUSIVE_LOCK | c.LOCKFLAG_FAIL_IMMEDIATELY
BATCH = c.OPLOCK_LEVEL_BATCH
NAMES = [
    (b"DH2Q", contexts.DURABLE_REQUEST_V2.pack(5000, 0, 0, GUID)),
    (contexts.APP_INSTANCE_ID, contexts.APP_INSTANCE.pack(20, 0, APP)),
]


def ask(client: WireClient, opened: FileId, timeout: int = 60_000, data: bytes | None = None) -> int:
    return client.ioctl(c.FSCTL_LMR_REQUEST_RESILIENCY, pack("<II", timeout, 0) if data is None else data, opened, 0).status


def drop(house: House, client: WireClient) -> None:
    """The network is gone."""
    worker = house.worker_of(client)
    client.transport.close()
    house.turn_until(lambda: worker.ended)
    worker.close()


def back(client: WireClient, opened: FileId) -> FileId:
    answer = client.create("", contexts=[(b"DHnC", contexts.DURABLE_RECONNECT.pack(*opened))])
    fields = answer.parse(CREATE_RESPONSE)
    return fields.file_id_persistent, fields.file_id_volatile


@pytest.mark.parametrize("wish", [{}, {"oplock": BATCH}, {"oplock": BATCH, "contexts": NAMES}, {"contexts": NAMES}])
@pytest.mark.parametrize("timeout", [0, 1, LONGEST_TIMEOUT])
def test_whatever_an_open_caches(house: House, wish: dict[str, object], timeout: int) -> None:
    client = house.client()
    sharing = house.sharing
    assert sharing is not None
    opened = client.open("file", **wish)
    assert ask(client, opened, timeout) == status.SUCCESS
    found = sharing.find(opened[0])
    assert found is not None
    assert (found.claim.lasting, found.claim.timeout) == (Lasting.RESILIENT, timeout or DEFAULT_TIMEOUT)
    assert found.claim.sid == str(house.tokens[ALICE].user_sid)
    assert (sharing.find_app(APP) == [found]) == ("contexts" in wish)
    assert client.close(opened).status == status.SUCCESS
    assert sharing.find(opened[0]) is None


def test_what_makes_no_sense(client: WireClient) -> None:
    opened = client.open("file")
    folder = client.open("folder", options=c.FILE_DIRECTORY_FILE)
    assert ask(client, opened, LONGEST_TIMEOUT + 1) == status.INVALID_PARAMETER
    assert ask(client, opened, data=bytes(7)) == status.INVALID_PARAMETER
    assert ask(client, opened, data=b"") == status.INVALID_PARAMETER
    assert ask(client, folder) == status.NOT_SUPPORTED
    assert ask(client, (opened[0], opened[1] + 1)) == status.FILE_CLOSED


def test_the_oldest_dialect_does_not_know_it(house: House) -> None:
    client = house.client(offer=Offer((0x0202,)))
    assert ask(client, client.open("file")) == status.INVALID_DEVICE_REQUEST


def test_a_share_may_do_without(make_house: Callable[..., House]) -> None:
    client = make_house(share_text="durable handles = no").client()
    assert ask(client, client.open("file")) == status.NOT_SUPPORTED


def test_locks_are_counted_from_then_on(house: House) -> None:
    """smb2.lock.replay_broken_windows."""
    client = house.client(offer=Offer((0x0210,)))
    opened = client.open("file")
    lock = (100, 100, EXCLUSIVE)
    assert [client.lock(opened, lock, sequence=0x11).status for _ in range(2)] == [0, status.LOCK_NOT_GRANTED]
    assert client.lock(opened, (100, 100, c.LOCKFLAG_UNLOCK)).status == status.SUCCESS
    assert ask(client, opened) == status.SUCCESS
    assert [client.lock(opened, lock, sequence=0x11).status for _ in range(2)] == [0, 0]


def test_it_is_there_when_its_client_comes_back(house: House) -> None:
    """With its locks, and with what it knows of their numbers."""
    client = house.client()
    opened = client.open("file", share=0)
    assert client.write(opened, 0, b"kept").status == status.SUCCESS
    assert ask(client, opened) == status.SUCCESS
    assert client.lock(opened, (0, 10, EXCLUSIVE), sequence=0x25).status == status.SUCCESS
    drop(house, client)
    stranger, client = house.client(BOB), house.client()
    assert stranger.create("file", access=c.FILE_READ_DATA).status == status.SHARING_VIOLATION
    assert stranger.create("", contexts=[(b"DHnC", contexts.DURABLE_RECONNECT.pack(*opened))]).status == status.ACCESS_DENIED
    again = back(client, opened)
    assert again[0] == opened[0]
    assert client.read_data(again, 0, 10) == b"kept"
    assert client.lock(again, (0, 10, EXCLUSIVE), sequence=0x25).status == status.SUCCESS  # it is the one it had before
    assert client.lock(again, (0, 10, EXCLUSIVE), sequence=0x26).status == status.LOCK_NOT_GRANTED
    assert client.close(again).status == status.SUCCESS


def test_who_breaks_its_cache_waits_for_its_client(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A durable open ends when somebody needs what it caches; a resilient one does not."""
    monkeypatch.setattr("workers.breaks.RETRY", 0.01)
    client = house.client()
    opened = client.open("file", oplock=BATCH)
    assert ask(client, opened) == status.SUCCESS
    drop(house, client)
    other = house.client()
    (waiting,) = other.send(Request(Command.CREATE, create_body("file")))
    assert other.receive(waiting, interim=True).interim
    client = house.client()
    again = back(client, opened)
    assert client.close(again).status == status.SUCCESS
    assert other.receive(waiting).status == status.SUCCESS
