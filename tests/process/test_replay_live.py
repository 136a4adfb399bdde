"""What is sent again, and applications that go on elsewhere, between real workers."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from typing import Any

import pytest
import spnego

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.messages import create_contexts as contexts
from smbd.smb2.messages.create import CREATE_RESPONSE
from tests.server import Server, eventually
from tests.wire_client import FileId, Offer, Request, Response, WireClient, create_body, write_body

AGAIN = c.FLAGS_REPLAY_OPERATION
GUID, OTHER, APP = bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 48))
BATCH = c.OPLOCK_LEVEL_BATCH


def named(guid: bytes = GUID, app: bytes | None = None) -> dict[str, Any]:
    asked = [(b"DH2Q", contexts.DURABLE_REQUEST_V2.pack(0, 0, 0, guid))]
    if app is not None:
        asked.append((contexts.APP_INSTANCE_ID, contexts.APP_INSTANCE.pack(20, 0, app)))
    return {"contexts": asked, "oplock": BATCH}


def file_id_of(answer: Response) -> FileId:
    fields = answer.parse(CREATE_RESPONSE)
    return fields.file_id_persistent, fields.file_id_volatile


def begin(client: WireClient, name: str, **wish: Any) -> Response:
    """Send a CREATE; its interim response."""
    (message_id,) = client.send(Request(Command.CREATE, create_body(name, **wish)))
    pending = client.receive(message_id, interim=True)
    assert pending.interim
    return pending


def opens_of(server: Server, name: str) -> int:
    """How many opens of a file there are; those that earlier tests' connections have left count for nothing."""
    return sum(row["path"] == name for row in server.status("opens")["opens"])


def repeat(client: WireClient, name: str, **wish: Any) -> Response:
    return client.call(Command.CREATE, create_body(name, **wish), flags=AGAIN)


def test_a_create_that_waits_for_another_process_is_made_once(server: Server) -> None:
    with server.client() as holder, server.client() as client:
        held = file_id_of(holder.create("waits", oplock=BATCH))
        pending = begin(client, "waits", **named())
        assert holder.receive(c.UNSOLICITED_MESSAGE_ID).header.command == Command.OPLOCK_BREAK
        for _ in range(3):
            assert repeat(client, "waits", **named()).status == status.FILE_NOT_AVAILABLE
        assert holder.close(held).status == status.SUCCESS
        answer = client.receive(pending.header.message_id)
        again = repeat(client, "waits", **named())
        assert bytes(again.body) == bytes(answer.body)
        assert opens_of(server, "waits") == 1
        assert client.close(file_id_of(answer)).status == status.SUCCESS


@pytest.mark.isolation
def test_who_is_waited_for_may_die(server: Server) -> None:
    with server.client() as holder, server.client() as client:
        holder.create("dies", oplock=BATCH)
        pending = begin(client, "dies", **named())
        holder.receive(c.UNSOLICITED_MESSAGE_ID)
        os.kill(server.worker_of(holder).pid, signal.SIGKILL)
        answer = client.receive(pending.header.message_id)
        assert file_id_of(repeat(client, "dies", **named())) == file_id_of(answer)


@pytest.mark.parametrize("seal", [False, True])
def test_what_was_overtaken_writes_nothing(server: Server, seal: bool) -> None:
    """By the short way too: the WRITEs leave in one piece, so that they are executed in one batch."""
    with server.client() as client:
        client.seal = seal
        opened = client.open("overtaken")
        writes = [(1, b"first"), (2, b"later"), (1, b"stale"), (2, b"last!"), (0xFFFF, b"wrong")]
        frames = [client.pack([Request(Command.WRITE, write_body(opened, 5 * at, data), channel_sequence=sequence)])
                  for at, (sequence, data) in enumerate(writes)]  # fmt: skip
        client.transport.send(b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames))
        late = status.FILE_NOT_AVAILABLE
        assert [client.receive().status for _ in writes] == [0, 0, late, 0, late]
        assert client.read_data(opened, 0, 100) == b"firstlater\0\0\0\0\0last!"


def test_an_application_goes_on_elsewhere(server: Server) -> None:
    with server.client() as first, server.client() as second:
        left = file_id_of(first.create("moves", share=0, **named(GUID, APP)))
        assert first.write(left, 0, b"kept").status == status.SUCCESS
        answer = second.create("moves", share=0, **named(OTHER, APP))
        assert answer.parse(CREATE_RESPONSE).oplock_level == BATCH
        assert second.read_data(file_id_of(answer), 0, 10) == b"kept"
        assert first.write(left, 0, b"lost").status == status.FILE_CLOSED
        assert first.echo().status == status.SUCCESS


def test_the_same_client_keeps_its_opens(server: Server) -> None:
    """Its two connections are two workers, and the application is where it was."""
    offer = Offer(client_guid=b"C" * 16)
    with server.client(offer=offer) as one, server.client(offer=offer) as two:
        kept = file_id_of(one.create("stays", share=0, contexts=named(GUID, APP)["contexts"]))
        assert two.create("stays", share=0, contexts=named(OTHER, APP)["contexts"]).status == status.SHARING_VIOLATION
        assert one.close(kept).status == status.SUCCESS


@pytest.mark.isolation
def test_an_owner_that_is_stopped_is_waited_for(server: Server) -> None:
    """The new CREATE waits, may be cancelled, and goes on when the stopped process dies; nobody else is held up."""
    with server.client() as first, server.client() as second, server.client() as third:
        first.create("stopped", share=0, contexts=named(GUID, APP)["contexts"])
        owner = server.worker_of(first).pid
        os.kill(owner, signal.SIGSTOP)
        try:
            wish = {"share": 0, "contexts": named(OTHER, APP)["contexts"]}
            pending = begin(second, "stopped", **wish)
            assert third.create("another").status == status.SUCCESS
            second.cancel(pending.header.message_id, pending.async_id)
            assert second.receive(pending.header.message_id).status == status.CANCELLED
            pending = begin(second, "stopped", **wish)
            began = time.monotonic()
        finally:
            os.kill(owner, signal.SIGKILL)
        assert second.receive(pending.header.message_id).status == status.SUCCESS
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("way", ["lost", pytest.param("killed", marks=pytest.mark.isolation)])
def test_a_resilient_open_is_there_when_its_client_comes_back(server: Server, way: str) -> None:
    """It caches nothing, and outlives its connection and its worker: its locks exclude others meanwhile."""
    name, exclusive = f"resilient {way}", c.LOCKFLAG_EXCLUSIVE_LOCK | c.LOCKFLAG_FAIL_IMMEDIATELY
    first = server.client()
    opened = first.open(name)
    assert first.write(opened, 0, b"written before").status == status.SUCCESS
    assert first.ioctl(c.FSCTL_LMR_REQUEST_RESILIENCY, bytes(8), opened, 0).status == status.SUCCESS
    assert first.lock(opened, (0, 10, exclusive)).status == status.SUCCESS
    if way == "killed":
        server.worker_of(first).kill()
    first.close_connection()
    with server.client() as other, server.client() as client:
        theirs = other.open(name)
        assert other.lock(theirs, (5, 1, exclusive)).status == status.LOCK_NOT_GRANTED
        assert other.write(theirs, 5, b"x").status == status.FILE_LOCK_CONFLICT
        reconnect = (b"DHnC", contexts.DURABLE_RECONNECT.pack(*opened))
        again = file_id_of(eventually(lambda: (answer := client.create("", contexts=[reconnect])).status == status.SUCCESS and answer))
        assert again[0] == opened[0]
        assert client.read_data(again, 0, 100) == b"written before"
        assert client.lock(again, (0, 10, c.LOCKFLAG_UNLOCK)).status == status.SUCCESS
        assert other.lock(theirs, (5, 1, exclusive)).status == status.SUCCESS
        assert client.close(again).status == status.SUCCESS
        assert other.close(theirs).status == status.SUCCESS


def channels(server: Server) -> tuple[WireClient, WireClient]:
    """One session on two connections."""
    offer = Offer(client_guid=os.urandom(16))
    first, second = server.client(offer=offer), server.negotiated(offer=offer)
    logon = spnego.client(server.user, server.password, hostname="localhost", service="cifs", protocol="negotiate")
    assert second.bind(first, lambda token: logon.step(token) or b"", lambda: logon.session_key).status == status.SUCCESS
    first.sign = second.sign = True
    return first, second


def test_a_create_is_asked_for_again_on_another_channel(server: Server) -> None:
    """smb2.replay.dhv2-pending2: it goes on though its own channel is lost, and is not made twice."""
    first, second = channels(server)
    with server.client() as holder, second:
        held = file_id_of(holder.create("asked again", oplock=BATCH))
        begin(first, "asked again", **named())
        holder.receive(c.UNSOLICITED_MESSAGE_ID)
        first.close_connection()
        assert second.echo().status == status.SUCCESS
        repetition = Request(Command.CREATE, create_body("asked again", **named()), flags=AGAIN, channel_sequence=1)

        def again() -> Response:
            return second.receive(second.send(replace(repetition))[0])

        assert again().status == status.FILE_NOT_AVAILABLE
        assert holder.close(held).status == status.SUCCESS
        answer = eventually(lambda: (found := again()).status == status.SUCCESS and found)
        assert answer.parse(CREATE_RESPONSE).create_action == c.FILE_OPENED
        assert opens_of(server, "asked again") == 1
        assert second.close(file_id_of(answer)).status == status.SUCCESS


def test_a_lost_channel_s_write_comes_too_late(server: Server) -> None:
    """smb2.replay.replay4: what the client has repeated on one channel is not overwritten by what arrives on the other after all."""
    first, second = channels(server)
    with first, second:
        opened = first.open("too late")
        assert first.write(opened, 0, b"first").status == status.SUCCESS
        repeated = second.call(Command.WRITE, write_body(opened, 0, b"again"), flags=AGAIN, channel_sequence=1)
        assert repeated.status == status.SUCCESS
        assert first.write(opened, 0, b"stale").status == status.FILE_NOT_AVAILABLE
        assert first.read_data(opened, 0, 10) == b"again"
        assert first.call(Command.WRITE, write_body(opened, 0, b"later"), channel_sequence=1).status == status.SUCCESS
        assert second.read_data(opened, 0, 10) == b"later"
