"""Pipes over messages: who may open them, how they are read, and when they are gone."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools.layout import WireError
from pools.queue import PEER, PEER_DIED, RELOAD, Message
from smbd.config import Config
from smbd.config_messages import pack_config
from smbd.smb2 import status
from smbd.smb2.status import SmbError
from srvsvc import client, messages, ndr, pdu
from srvsvc.association import MAX_UNREAD
from srvsvc.messages import Caller
from srvsvc.service import MAX_HELD_PER_PEER, MAX_PIPES_PER_PEER, PIPES, RpcServer
from tests.srvsvc.test_association import bind, context

ALICE = Caller("alice", "MILLPOND", "S-1-5-21-1-2-3-3000", "192.0.2.1", 1000)
SRVSVC_BIND = bind(context(0, PIPES["srvsvc"][0].uuid, 3))


class Desk:
    """An RPC server asked as a worker asks."""

    def __init__(self, world: Any, sender: tuple[int, int] = (16, 1), life: int = 5) -> None:
        self.server = RpcServer(world, life)
        self.sender = sender

    async def ask(self, destination: int, kind: int, payload: bytes = b"", timeout: float = 30.0) -> Message:
        answer = self.server.handlers()[kind](Message(kind, *self.sender, 1, payload))
        assert isinstance(answer, bytes)
        return Message(kind + 1, destination, 1, 1, answer)

    def send(self, destination: int, kind: int, payload: bytes = b"") -> None:
        assert self.server.handlers()[kind](Message(kind, *self.sender, 0, payload)) is None

    def open(self, name: str, caller: Caller = ALICE) -> int:
        return asyncio.run(client.open_pipe(self.ask, name, caller))

    def transceive(self, handle: int, data: bytes, limit: int = 4280) -> tuple[bytes, bool]:
        return asyncio.run(client.transceive(self.ask, handle, data, limit))

    def write(self, handle: int, data: bytes) -> int:
        return asyncio.run(client.write(self.ask, handle, data))

    def takes(self, handle: int, data: bytes) -> bool:
        """Writes; False when that broke the pipe."""
        payload = messages.DATA.pack(handle, 0) + data
        answer = asyncio.run(self.ask(0, messages.WRITE_PIPE.number, payload))
        code = messages.RESULT.unpack(answer.payload).status
        assert code in (status.SUCCESS, status.PIPE_BROKEN)
        return bool(code == status.SUCCESS)

    def read(self, handle: int, limit: int) -> tuple[bytes, bool]:
        return asyncio.run(client.read(self.ask, handle, limit))


@pytest.fixture
def desk(world: Any) -> Desk:
    return Desk(world)


def code(refusal: pytest.ExceptionInfo[SmbError]) -> int:
    return refusal.value.status


@pytest.mark.parametrize("name", ["srvsvc", "SRVSVC", "\\srvsvc", "lsarpc", "samr", "wkssvc"])
def test_pipes_have_no_case(desk: Desk, name: str) -> None:
    assert desk.open(name)


def test_who_may_open(desk: Desk, world: Any) -> None:
    with pytest.raises(SmbError) as refusal:
        desk.open("spoolss")
    assert code(refusal) == status.OBJECT_NAME_NOT_FOUND
    nobody = ALICE._replace(anonymous=True)
    assert desk.open("srvsvc", nobody)
    desk.send(0, RELOAD, pack_config(Config(restrict_anonymous=1)))
    with pytest.raises(SmbError) as refusal:
        desk.open("srvsvc", nobody)
    assert code(refusal) == status.ACCESS_DENIED
    assert desk.open("srvsvc", ALICE._replace(guest=True))


def test_reading_in_parts(desk: Desk) -> None:
    handle = desk.open("srvsvc")
    first, more = desk.transceive(handle, SRVSVC_BIND, 20)
    assert (len(first), more) == (20, True)
    with pytest.raises(SmbError) as refusal:
        desk.transceive(handle, SRVSVC_BIND)
    assert code(refusal) == status.PIPE_BUSY
    rest, more = desk.read(handle, 4280)
    assert not more
    assert len(first + rest) == int.from_bytes(first[8:10], "little")
    with pytest.raises(SmbError) as refusal:
        desk.read(handle, 4280)
    assert code(refusal) == status.PIPE_EMPTY


def test_writing_in_parts(desk: Desk) -> None:
    handle = desk.open("srvsvc")
    assert desk.write(handle, SRVSVC_BIND[:10]) == 10
    assert desk.write(handle, SRVSVC_BIND[10:]) == len(SRVSVC_BIND) - 10
    assert desk.read(handle, 4280)[0][2] == 12


def test_a_broken_pipe(desk: Desk) -> None:
    handle = desk.open("srvsvc")
    for _ in range(2):
        with pytest.raises(SmbError) as refusal:
            desk.write(handle, b"GET / HTTP/1.1\r\n\r\n")
        assert code(refusal) == status.PIPE_BROKEN
    with pytest.raises(SmbError) as refusal:
        desk.read(handle, 1)
    assert code(refusal) == status.PIPE_BROKEN


@pytest.mark.parametrize("how", ["close", "death", "restart", "another"])
def test_handles_end(desk: Desk, world: Any, how: str) -> None:
    handle = desk.open("srvsvc")
    if how == "close":
        client.close_pipe(desk.send, handle)
        client.close_pipe(desk.send, handle)
    elif how == "death":
        desk.server.peer_died(Message(PEER_DIED, 0, 1, 0, PEER.pack(16, 1)))
    elif how == "restart":
        desk.server = RpcServer(world, 6)
        desk.open("srvsvc")
    else:
        desk.sender = (17, 1)
    for call in (lambda: desk.read(handle, 10), lambda: desk.write(handle, b"x"), lambda: desk.transceive(handle, b"x")):
        with pytest.raises(SmbError) as refusal:
            call()
        assert code(refusal) == status.PIPE_DISCONNECTED


def test_a_process_has_a_number_of_pipes(desk: Desk) -> None:
    handles = [desk.open("srvsvc") for _ in range(MAX_PIPES_PER_PEER)]
    with pytest.raises(SmbError) as refusal:
        desk.open("srvsvc")
    assert code(refusal) == status.INSUFF_SERVER_RESOURCES
    client.close_pipe(desk.send, handles[0])
    assert desk.open("srvsvc")


def test_answers_that_nobody_reads_break_the_pipe(desk: Desk) -> None:
    handle = desk.open("srvsvc")
    desk.transceive(handle, SRVSVC_BIND)
    unknown = bytes.fromhex("05000003100000001800000001000000000000000000ffff")
    with pytest.raises(SmbError) as refusal:
        desk.write(handle, unknown * (MAX_UNREAD // 32 + 1))
    assert code(refusal) == status.PIPE_BROKEN


def canonicalize(length: int) -> bytes:
    """NetprNameCanonicalize with a buffer of ``length`` characters for its answer: the cheapest way to a large one."""
    text = ndr.Text()
    request = ndr.Record("Q", server=ndr.Unique(text), name=text, length=ndr.Int(4), kind=ndr.Int(4), flags=ndr.Int(4))
    stub = ndr.pack(request, (None, "x", length, 9, 0))
    return pdu.build(pdu.REQUEST, 1, pdu.REQUEST_BODY.pack(len(stub), 0, 34) + stub)


def test_one_write_gets_a_bounded_answer(desk: Desk) -> None:
    handle = desk.open("srvsvc")
    desk.transceive(handle, SRVSVC_BIND)
    began = time.monotonic()
    with pytest.raises(SmbError) as refusal:
        desk.write(handle, canonicalize(64000) * 600)
    assert code(refusal) == status.PIPE_BROKEN
    assert time.monotonic() - began < 2.0
    assert desk.server.held == 0


def test_a_process_may_leave_so_much_unread(desk: Desk) -> None:
    """However many pipes it has; the pipe that took too much is broken, the others go on."""
    handles = [desk.open("srvsvc") for _ in range(MAX_PIPES_PER_PEER)]
    for handle in handles:
        desk.transceive(handle, SRVSVC_BIND)
    broken = []
    for handle in handles:
        if not desk.takes(handle, canonicalize(64000) * 10):
            broken.append(handle)
        assert desk.server.held <= MAX_HELD_PER_PEER
    assert len(broken) == MAX_PIPES_PER_PEER - MAX_HELD_PER_PEER // (64000 * 20)
    assert desk.read(handles[0], 60000)[0]
    client.close_pipe(desk.send, handles[0])
    assert desk.server.held < MAX_HELD_PER_PEER - 10 * 120000
    desk.server.peer_died(Message(PEER_DIED, 0, 1, 0, PEER.pack(16, 1)))
    assert desk.server.held == 0


def test_what_is_said_in_part_counts_too(desk: Desk) -> None:
    half = pdu.build(pdu.REQUEST, 1, pdu.REQUEST_BODY.pack(0, 0, 34) + bytes(60000), pdu.FIRST_FRAG)
    for _ in range(MAX_PIPES_PER_PEER):
        handle = desk.open("srvsvc")
        desk.transceive(handle, SRVSVC_BIND)
        desk.takes(handle, half)
    assert MAX_HELD_PER_PEER - 61000 < desk.server.held <= MAX_HELD_PER_PEER


TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=40)
CALLERS = st.builds(Caller, TEXT, TEXT, TEXT, TEXT, st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.booleans())


@given(TEXT, CALLERS)
def test_open_round_trip(name: str, caller: Caller) -> None:
    packed = messages.pack_open(name, caller)
    assert messages.unpack_open(packed) == (name, caller)
    for end in range(len(packed)):
        with pytest.raises(WireError):
            messages.unpack_open(packed[:end])
