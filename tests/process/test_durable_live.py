"""Lost connections and killed processes: what was open stays open for its client, and for nobody else."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from struct import pack
from typing import Any

import psutil
import pytest

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.messages import create_contexts as contexts
from smbd.smb2.messages.create import CREATE_RESPONSE
from tests.server import SHARE, Server, eventually, given_settings
from tests.wire_client import FileId, Offer, Request, Response, WireClient, create_body

EXCLUSIVE = c.LOCKFLAG_EXCLUSIVE_LOCK | c.LOCKFLAG_FAIL_IMMEDIATELY
R, H, W = 1, 2, 4
THREADED = given_settings().get("server mode") == "threaded"
Loss = Callable[[Server, WireClient], None]


@pytest.fixture
def one() -> Offer:
    """The machine whose connection is lost: no other test's, for all connections of a machine are served by one worker."""
    return Offer()


@pytest.fixture
def two() -> Offer:
    """Another machine."""
    return Offer()


def dh2q(name: str, timeout: int = 60_000) -> tuple[bytes, bytes]:
    return b"DH2Q", contexts.DURABLE_REQUEST_V2.pack(timeout, 0, 0, name.encode()[-16:])


def dh2c(name: str, file_id: FileId) -> tuple[bytes, bytes]:
    return b"DH2C", contexts.DURABLE_RECONNECT_V2.pack(*file_id, name.encode()[-16:], 0)


def lease(name: str, state: int = R | H | W) -> tuple[bytes, bytes]:
    return b"RqLs", contexts.LEASE_V2.pack(name.encode()[-16:], state, 0, 0, bytes(16), 0, 0)


def file_id_of(response: Response) -> FileId:
    fields = response.parse(CREATE_RESPONSE)
    return fields.file_id_persistent, fields.file_id_volatile


def durable(client: WireClient, name: str, state: int = R | H | W, timeout: int = 60_000, **options: Any) -> FileId:
    response = client.create(name, oplock=c.OPLOCK_LEVEL_LEASE, contexts=[lease(name, state), dh2q(name, timeout)], **options)
    assert response.status == status.SUCCESS
    return file_id_of(response)


def come_back(client: WireClient, name: str, file_id: FileId) -> Response:
    return client.create(name, oplock=c.OPLOCK_LEVEL_LEASE, contexts=[lease(name), dh2c(name, file_id)])


def hang_up(server: Server, client: WireClient) -> None:
    """The network is gone."""
    worker = server.worker_of(client)
    client.transport.close()
    if THREADED:
        eventually(lambda: f"{client.session_id:016x}" not in str(server.status("sessions")), what="the session stays")
    else:
        eventually(lambda: has_ended(worker), what="the worker stays")


def has_ended(process: psutil.Process) -> bool:
    """Whether it has, if its parent has not heard of it yet."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill_worker(server: Server, client: WireClient) -> None:
    server.worker_of(client).send_signal(signal.SIGKILL)
    client.transport.close()


LOSSES = [hang_up] if THREADED else [hang_up, kill_worker]  # threads are not killed one by one


def row_of(server: Server, name: str, *, lost: bool = False) -> dict[str, Any] | None:
    return next((row for row in server.status("opens")["opens"] if row["path"] == name and row["lost"] >= lost), None)


@pytest.mark.parametrize("lose", LOSSES)
def test_everything_stands_until_its_client_is_back(server: Server, lose: Loss, one: Offer, two: Offer) -> None:
    name = lose.__name__
    client, other = server.client(offer=one), server.client(offer=two)
    held = durable(client, name, R | H)
    assert client.write(held, 0, b"acknowledged").status == status.SUCCESS
    assert client.lock(held, (0, 4, EXCLUSIVE)).status == status.SUCCESS
    lose(server, client)
    reader = other.open(name, access=c.FILE_READ_DATA)
    assert other.read(reader, 0, 4).status == status.FILE_LOCK_CONFLICT
    assert other.lock(reader, (2, 4, EXCLUSIVE)).status == status.LOCK_NOT_GRANTED
    lost = eventually(lambda: row_of(server, name, lost=True), what="nobody left it")
    assert (lost["pid"], lost["locks"]) == (0, 1)
    assert come_back(other, name, held).status == status.OBJECT_NAME_NOT_FOUND
    back = server.client(offer=one)
    again = come_back(back, name, held)
    assert again.status == status.SUCCESS
    now = file_id_of(again)
    assert now[0] == held[0]
    assert back.read_data(now, 0, 12) == b"acknowledged"
    assert other.read(reader, 0, 4).status == status.FILE_LOCK_CONFLICT
    assert back.lock(now, (0, 4, c.LOCKFLAG_UNLOCK)).status == status.SUCCESS
    assert other.read_data(reader, 0, 4) == b"ackn"
    back.close(now)


def test_its_lease_breaks_in_the_worker_that_has_it_now(server: Server, one: Offer, two: Offer) -> None:
    client, other = server.client(offer=one), server.client(offer=two)
    held = durable(client, "moved")
    hang_up(server, client)
    back = server.client(offer=one)
    now = file_id_of(come_back(back, "moved", held))
    (waiting,) = other.send(Request(Command.CREATE, create_body("moved")))
    assert other.receive(waiting, interim=True).status == status.PENDING
    assert back.receive(c.UNSOLICITED_MESSAGE_ID).header.command == Command.OPLOCK_BREAK
    back.close(now)
    assert other.receive(waiting).status == status.SUCCESS


@pytest.mark.parametrize("lose", LOSSES)
def test_who_needs_the_file_does_not_wait(server: Server, lose: Loss, one: Offer, two: Offer) -> None:
    name = f"needed-{lose.__name__}"
    client, other = server.client(offer=one), server.client(offer=two)
    held = durable(client, name, share=0)
    lose(server, client)
    assert eventually(lambda: other.create(name, share=0).status == status.SUCCESS)
    assert come_back(server.client(offer=one), name, held).status == status.OBJECT_NAME_NOT_FOUND


@pytest.mark.parametrize("lose", LOSSES)
def test_a_file_that_goes_with_its_open_goes_before_the_next_comes(server: Server, lose: Loss, one: Offer, two: Offer) -> None:
    name = f"doomed-{lose.__name__}"
    client, other = server.client(offer=one), server.client(offer=two)
    held = durable(client, name, share=0, options=c.FILE_DELETE_ON_CLOSE)
    assert client.write(held, 0, b"to be forgotten").status == status.SUCCESS
    lose(server, client)
    answer = other.create(name).parse(CREATE_RESPONSE)
    assert (answer.create_action, answer.end_of_file) == (c.FILE_CREATED, 0)


def test_time_deletes_too(server: Server, one: Offer) -> None:
    client = server.client(offer=one)
    durable(client, "short-lived", timeout=300, options=c.FILE_DELETE_ON_CLOSE)
    path = server.share / "short-lived"
    kill_worker(server, client)
    eventually(lambda: not path.exists(), what="it is still there")
    eventually(lambda: row_of(server, "short-lived") is None)


def test_a_waiting_lock_is_granted_when_its_time_is_over(server: Server, one: Offer, two: Offer) -> None:
    client, other = server.client(offer=one), server.client(offer=two)
    held = durable(client, "patience", R | H, timeout=1500)
    client.lock(held, (0, 10, EXCLUSIVE))
    theirs = other.open("patience")
    hang_up(server, client)
    assert other.lock(theirs, (0, 10, c.LOCKFLAG_EXCLUSIVE_LOCK)).status == status.SUCCESS


def test_another_user_gets_nothing(server: Server, one: Offer) -> None:
    client = server.client(offer=one)
    held = durable(client, "mine")
    hang_up(server, client)
    assert come_back(server.client(other=True, offer=one), "mine", held).status == status.ACCESS_DENIED
    assert come_back(server.client(offer=one), "mine", held).status == status.SUCCESS


def test_a_client_that_is_faster_than_the_network(server: Server, one: Offer) -> None:
    """Its old connection still stands; it names the session of it, and gets what that had."""
    client = server.client(offer=one)
    held = durable(client, "faster")
    back = server.negotiated(offer=one)
    assert back.session_setup(server.user, server.password, previous=client.session_id).status == status.SUCCESS
    assert back.tree_connect(SHARE).status == status.SUCCESS
    assert come_back(back, "faster", held).status == status.SUCCESS


def test_an_administrator_closes_what_nobody_has(server: Server, one: Offer) -> None:
    client = server.client(offer=one)
    held = durable(client, "forgotten")
    hang_up(server, client)
    row = row_of(server, "forgotten")
    assert row is not None
    assert (row["lost"], row["lasts"]) == (True, "durable")
    assert row["left"] > 0
    assert server.command("close", row["open"]).returncode == 0
    assert row_of(server, "forgotten") is None
    assert come_back(server.client(offer=one), "forgotten", held).status == status.OBJECT_NAME_NOT_FOUND
    assert server.command("close", row["open"]).returncode == 1


def test_the_broker_may_die_in_between(server: Server, one: Offer) -> None:
    client = server.client(offer=one)
    held = durable(client, "steady")
    client.lock(held, (0, 4, EXCLUSIVE))
    (broker,) = server.pids("broker")
    os.kill(broker, signal.SIGKILL)
    kill_worker(server, client)
    eventually(lambda: [pid for pid in server.pids("broker") if pid != broker])
    back = server.client(offer=one)
    again = come_back(back, "steady", held)
    assert again.status == status.SUCCESS
    assert back.lock(file_id_of(again), (0, 4, c.LOCKFLAG_UNLOCK)).status == status.SUCCESS
    durable(back, "short", timeout=200, options=c.FILE_DELETE_ON_CLOSE)
    kill_worker(server, back)
    eventually(lambda: not (server.share / "short").exists(), what="the new broker does not scavenge")


def guest(server: Server, offer: Offer, user: str = "whoever") -> WireClient:
    """Somebody without a password; anonymous without a name."""
    client = server.negotiated(offer=offer)
    assert client.session_setup(user, "no password" if user else "").status == status.SUCCESS
    assert client.tree_connect(SHARE).status == status.SUCCESS
    return client


@pytest.mark.parametrize("user", ["whoever", ""])
def test_what_a_guest_has_open_ends_with_its_connection(make_server: Callable[..., Server], one: Offer, two: Offer, user: str) -> None:
    """Guests share one SID: what one of them leaves behind would be any other's to take up."""
    shares = {"guest ok": "yes", "continuous availability": "yes", "force user": "root"}
    server = make_server(settings={"map to guest": "bad user"}, share_settings=shares)
    client = guest(server, one, user)
    asked: list[tuple[str, list[tuple[bytes, bytes]], int]] = [
        ("first", [(b"DHnQ", bytes(16))], c.OPLOCK_LEVEL_BATCH),
        ("second", [dh2q("second")], c.OPLOCK_LEVEL_BATCH),
        ("third", [(b"DH2Q", contexts.DURABLE_REQUEST_V2.pack(0, c.DHANDLE_FLAG_PERSISTENT, 0, b"third".ljust(16)))], 0),
    ]
    held = []
    for name, context, oplock in asked:
        answer = client.create(name, contexts=context, oplock=oplock)
        fields = answer.parse(CREATE_RESPONSE)
        assert (fields.oplock_level, fields.create_contexts_length) == (oplock, 0)  # what it may cache it may
        held.append(file_id_of(answer))
    assert client.ioctl(c.FSCTL_LMR_REQUEST_RESILIENCY, pack("<II", 60_000, 0), held[0]).status == status.NOT_SUPPORTED
    leased = client.create("fourth", oplock=c.OPLOCK_LEVEL_LEASE, contexts=[lease("fourth"), dh2q("fourth")])
    told = leased.parse(CREATE_RESPONSE)
    found = contexts.parse_chain(memoryview(leased.part(told.create_contexts_offset, told.create_contexts_length)))
    assert list(found) == [b"RqLs"]
    hang_up(server, client)
    assert server.status("opens")["opens"] == []
    other = guest(server, one, user)
    assert other.create("", contexts=[(b"DHnC", contexts.DURABLE_RECONNECT.pack(*held[0]))]).status == status.OBJECT_NAME_NOT_FOUND
    assert other.create("second", contexts=[dh2c("second", held[1])]).status == status.OBJECT_NAME_NOT_FOUND
    assert server.client(offer=two).create("first", share=0).status == status.SUCCESS


def test_a_guest_takes_nothing_up(make_server: Callable[..., Server], one: Offer) -> None:
    """Not even what an account of the same SID has left, which only a password makes it."""
    accounts = [("nobody", "Mill.Pond-4452"), ("news", "Other.Pond-4451")]
    server = make_server(settings={"map to guest": "bad user"}, share_settings={"guest ok": "yes", "force user": "root"}, accounts=accounts)
    client = server.client(offer=one)
    held = durable(client, "mine")
    hang_up(server, client)
    assert come_back(guest(server, one), "mine", held).status == status.ACCESS_DENIED
    assert come_back(server.client(offer=one), "mine", held).status == status.SUCCESS
