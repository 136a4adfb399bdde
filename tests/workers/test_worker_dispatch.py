"""The engine and dispatch: preconditions, compounds, errors by kind, back-pressure, and orderly ends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from pools.buffer import CLASSES, class_for
from pools.layout import WireError
from pools.pool import Buffer, MallocPool, PoolExhausted
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.connection import Disconnect
from smbd.smb2.constants import Command
from smbd.smb2.messages import create, file
from smbd.smb2.status import SmbError
from tests.wire_client import LAST, Closed, Request, WireClient, close_body, create_body, read_body, write_body
from tests.workers.house import ALICE, House, log_on
from workers import rows
from workers.dispatch import Row
from workers.loop import Cancelled
from workers.request import Answer

MEBIBYTE = 1 << 20
ECHO = b"\4\0\0\0"
RELATED = c.FLAGS_RELATED_OPERATIONS


def put(monkeypatch: pytest.MonkeyPatch, handler: object) -> None:
    """Let ECHO run ``handler``, which the short way would not ask."""
    monkeypatch.setattr("workers.express.Express.take", lambda *args: False)
    table = list(rows.ROWS)
    table[Command.ECHO] = table[Command.ECHO]._replace(handler=handler)  # type: ignore[arg-type]
    monkeypatch.setattr("workers.engine.ROWS", tuple(table))


@pytest.mark.parametrize("row", rows.ROWS, ids=lambda row: row.name)
def test_every_row_refuses_a_wrong_size_and_a_missing_session(house: House, client: WireClient, row: Row) -> None:
    command = Command[row.name]
    if command in (Command.NEGOTIATE, Command.CANCEL):
        return
    if row.structure_size:
        wrong = (row.structure_size + 2).to_bytes(2, "little") + bytes(100)
        assert client.call(command, wrong).status == status.INVALID_PARAMETER
    assert client.call(command, b"\4").status == status.INVALID_PARAMETER
    if row.session:
        body = row.structure_size.to_bytes(2, "little") + bytes(100)
        assert client.call(command, body, session_id=0x1234).status == status.USER_SESSION_DELETED
    if row.session and row.tree:
        body = row.structure_size.to_bytes(2, "little") + bytes(100)
        assert client.call(command, body, tree_id=0x1234).status == status.NETWORK_NAME_DELETED
    if row.file_id is not None and row.structure_size:
        assert client.call(command, body).status == status.FILE_CLOSED


@pytest.mark.parametrize(
    "case",
    [
        (SmbError(status.DISK_FULL), status.DISK_FULL),
        (WireError("nonsense"), status.INVALID_PARAMETER),
        (PermissionError(13, "no"), status.ACCESS_DENIED),
        (PoolExhausted(1), status.INSUFFICIENT_RESOURCES),
        (Cancelled(), status.CANCELLED),
    ],
    ids=lambda case: type(case[0]).__name__,
)
@pytest.mark.parametrize("waits", [False, True])
def test_each_kind_of_error_has_its_status(
    house: House, client: WireClient, monkeypatch: pytest.MonkeyPatch, case: tuple[BaseException, int], waits: bool
) -> None:
    error, code = case

    async def later(worker: object) -> bytes:
        await house.worker_of(client).loop.sleep(0)
        raise error

    def handler(request: object, body: object) -> object:
        if waits:
            return later(request)
        raise error

    put(monkeypatch, handler)
    assert client.echo().status == code
    assert client.compound(Request(Command.ECHO, ECHO), Request(Command.ECHO, ECHO))[1].status == code


@pytest.mark.parametrize("waits", [False, True])
def test_anything_else_ends_the_worker(house: House, client: WireClient, monkeypatch: pytest.MonkeyPatch, waits: bool) -> None:
    async def later() -> bytes:
        await house.worker_of(client).loop.sleep(0)
        raise ZeroDivisionError

    def handler(request: object, body: object) -> object:
        if waits:
            return later()
        raise ZeroDivisionError

    put(monkeypatch, handler)
    with pytest.raises(ZeroDivisionError):
        client.echo()


@pytest.mark.parametrize("compound", [False, True])
def test_a_disconnect_after_a_wait_ends_the_connection_and_nothing_else(
    house: House, client: WireClient, monkeypatch: pytest.MonkeyPatch, compound: bool
) -> None:
    async def later() -> bytes:
        await house.worker_of(client).loop.sleep(0)
        raise Disconnect("the handler says so")

    put(monkeypatch, lambda request, body: later())
    with pytest.raises(Closed):
        client.compound(*[Request(Command.ECHO, ECHO)] * (2 if compound else 1))
    assert house.worker_of(client).ended


def test_a_related_compound(client: WireClient, folder: Path) -> None:
    answers = client.compound(
        Request(Command.CREATE, create_body("f")),
        Request(Command.WRITE, write_body(LAST, 0, b"content")),
        Request(Command.READ, read_body(LAST, 3, 100)),
        Request(Command.CLOSE, close_body(LAST)),
        related=True,
    )
    assert [answer.status for answer in answers] == [status.SUCCESS] * 4
    read = answers[2].parse(file.READ_RESPONSE)
    assert answers[2].part(read.data_offset, read.data_length) == b"tent"
    assert (folder / "f").read_bytes() == b"content"


def test_what_follows_a_failed_create_fails_with_it(client: WireClient, folder: Path) -> None:
    kept = create_body("kept")
    missing = create_body("missing", disposition=c.FILE_OPEN)
    answers = client.compound(
        Request(Command.CREATE, kept),
        Request(Command.CREATE, missing),
        Request(Command.WRITE, write_body(LAST, 0, b"misplaced")),
        Request(Command.CLOSE, close_body(LAST)),
        related=True,
    )
    gone = status.OBJECT_NAME_NOT_FOUND
    assert [answer.status for answer in answers] == [status.SUCCESS, gone, gone, gone]
    assert (folder / "kept").read_bytes() == b""


def test_a_related_element_without_anything_to_relate_to(client: WireClient) -> None:
    answers = client.compound(Request(Command.CREATE, create_body("f"), flags=RELATED), Request(Command.CLOSE, close_body(LAST)))
    assert answers[0].status == status.INVALID_PARAMETER


def test_unrelated_elements_stand_for_themselves(client: WireClient) -> None:
    answers = client.compound(
        Request(Command.CREATE, create_body("missing", disposition=c.FILE_OPEN)),
        Request(Command.CREATE, create_body("made")),
        Request(Command.ECHO, ECHO, session_id=99),
    )
    assert [answer.status for answer in answers][:2] == [status.OBJECT_NAME_NOT_FOUND, status.SUCCESS]


def test_large_reads_in_a_compound_leave_on_their_own(house: House, client: WireClient, folder: Path) -> None:
    (folder / "big").write_bytes(b"b" * MEBIBYTE)
    opened = client.open("big")
    while client.credits < 100:
        client.echo(credits=200)
    small = Request(Command.READ, read_body(opened, 0, 100))
    large = [Request(Command.READ, read_body(opened, 0, MEBIBYTE), charge=16) for _ in range(3)]
    ids = client.send(small, *large, small)
    frames = [client.receive_frame() for _ in range(5)]
    assert [[answer.header.message_id for answer in frame] for frame in frames] == [[number] for number in ids]
    assert [frame[0].status for frame in frames] == [status.SUCCESS] * 5
    worker = house.worker_of(client)
    worker.lines[0].trim()
    assert worker.pool.in_use() == 1


def test_a_cancel_of_nothing_is_not_answered(client: WireClient) -> None:
    client.cancel(77)
    client.cancel(0, 12345)
    assert client.echo().status == status.SUCCESS


def test_a_read_waits_for_a_buffer(make_house: Callable[..., House], folder: Path) -> None:
    house = make_house(text="data path = user")  # kernel format needs no buffer
    (folder / "big").write_bytes(b"b" * MEBIBYTE)
    pool = MallocPool(house.segment.row(31), 2 * MEBIBYTE, debug=True)
    client, worker = house.join(pool)
    client.negotiate()
    log_on(client, ALICE)
    client.tree_connect("data")
    opened = client.open("big")
    while client.credits < 40:
        client.echo(credits=64)
    taken = pool.allocate(MEBIBYTE)
    (first,) = client.send(Request(Command.READ, read_body(opened, 0, MEBIBYTE), charge=16))
    (second,) = client.send(Request(Command.READ, read_body(opened, 0, MEBIBYTE), charge=16))
    assert client.echo().status == status.SUCCESS  # others are served meanwhile
    assert worker.lines[0].engine.busy
    taken.release()
    assert len(client.receive(first).view) == MEBIBYTE + 80
    assert len(client.receive(second).view) == MEBIBYTE + 80


def test_half_a_request_that_waits_for_a_buffer_leaves_the_last_one_alone(make_house: Callable[..., House]) -> None:
    house = make_house()
    pool = MallocPool(house.segment.row(31), 8 * CLASSES[class_for(65536)].stride, debug=True)
    client, worker = house.join(pool)
    client.negotiate()
    log_on(client, ALICE)
    pdu = client.pack([Request(Command.ECHO, b"\4\0\0\0")])
    frame = len(pdu).to_bytes(4, "big") + pdu
    client.transport.send(frame[:10])
    house.turn_until(lambda: worker.lines[0].receiver.in_progress)
    held = worker.lines[0].receiver.buffer
    taken: list[Buffer] = []
    assert held is not None
    held.hold()  # as a WRITE before it does, whose disk is slow
    worker.lines[0].sender.trim()
    with suppress(PoolExhausted):
        while True:
            taken.append(pool.allocate(65536))
    taken.pop().release()
    client.transport.send(frame[10:20])
    house.turn_until(lambda: worker.lines[0].paused or worker.lines[0].receiver.buffer is not held)
    client.transport.send(frame[20:])
    for buffer in (held, *taken):
        buffer.release()
    assert client.receive().status == status.SUCCESS


def test_a_file_closed_under_a_read_that_waits(make_house: Callable[..., House], folder: Path) -> None:
    house = make_house(text="data path = user")  # kernel format needs no buffer
    (folder / "big").write_bytes(b"b" * MEBIBYTE)
    pool = MallocPool(house.segment.row(31), 2 * MEBIBYTE, debug=True)
    client, _ = house.join(pool)
    client.negotiate()
    log_on(client, ALICE)
    client.tree_connect("data")
    opened = client.open("big")
    while client.credits < 40:
        client.echo(credits=64)
    taken = pool.allocate(MEBIBYTE)
    (reading,) = client.send(Request(Command.READ, read_body(opened, 0, MEBIBYTE), charge=16))
    assert client.close(opened).status == status.SUCCESS
    taken.release()
    assert client.receive(reading).status == status.FILE_CLOSED
    house.worker_of(client).lines[0].trim()
    assert pool.in_use() == 1  # the transport's own


def test_a_message_id_used_twice(house: House, client: WireClient) -> None:
    with pytest.raises(Closed):
        client.call(Command.ECHO, ECHO, message_id=0)
    assert house.worker_of(client).ended


def test_requests_behind_a_disconnect_are_not_executed(house: House, client: WireClient, folder: Path) -> None:
    good = client.pack([Request(Command.CREATE, create_body("before"))])
    bad = b"nonsense" * 10
    late = client.pack([Request(Command.CREATE, create_body("after"))])
    client.transport.send(b"".join(len(pdu).to_bytes(4, "big") + pdu for pdu in (good, bad, late)))
    assert client.receive().status == status.SUCCESS
    with pytest.raises(Closed):
        client.receive()
    assert (folder / "before").exists()
    assert not (folder / "after").exists()


def test_a_batch_is_answered_in_one_go(client: WireClient) -> None:
    while client.credits < 60:
        client.echo(credits=64)
    frames = [client.pack([Request(Command.ECHO, ECHO)]) for _ in range(50)]
    client.transport.send(b"".join(len(pdu).to_bytes(4, "big") + pdu for pdu in frames))
    assert [client.receive().status for _ in range(50)] == [status.SUCCESS] * 50


def test_drain_answers_what_is_under_way(house: House, client: WireClient, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = house.worker_of(client)

    async def later() -> bytes:
        await worker.loop.sleep(0.01)
        return ECHO

    put(monkeypatch, lambda request, body: later())
    (slow,) = client.send(Request(Command.ECHO, ECHO))
    house.turn_until(lambda: worker.lines[0].engine.busy)
    worker.drain()
    assert client.receive(slow).status == status.SUCCESS
    house.turn_until(lambda: worker.ended)


def test_an_answer_names_the_open_it_made(client: WireClient) -> None:
    first = client.create("f").parse(create.CREATE_RESPONSE)
    second = client.create("f").parse(create.CREATE_RESPONSE)
    assert first.file_id_volatile != second.file_id_volatile
    assert isinstance(Answer(b"").status, int)
