"""Application instances: an application that goes on elsewhere takes its files with it."""

from __future__ import annotations

from typing import Any

import pytest

from pools.queue import AskBusy
from smbd.sharing.messages import CLOSE_FILE
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.dtyp import SID
from smbd.smb2.dtyp.sddl import parse_sddl
from smbd.smb2.messages import create_contexts as contexts
from smbd.smb2.messages.create import CREATE_RESPONSE
from tests.wire_client import FileId, Offer, Request, Response, WireClient, create_body
from tests.workers.house import House, token_of

ON_ERRANDS_TOO = True

APP, OTHER = bytes(range(16)), bytes(range(16, 32))
GUIDS = (b"1" * 16, b"2" * 16)
ALONE = {"share": 0}


def instance(app: bytes = APP, version: tuple[int, int] | None = None) -> list[tuple[bytes, bytes]]:
    made = [(contexts.APP_INSTANCE_ID, contexts.APP_INSTANCE.pack(20, 0, app))]
    if version is not None:
        made.append((contexts.APP_INSTANCE_VERSION, contexts.APP_VERSION.pack(24, 0, 0, *version)))
    return made


def take(client: WireClient, name: str = "file", asked: list[tuple[bytes, bytes]] | None = None, **wish: Any) -> Response:
    return client.create(name, contexts=instance() if asked is None else asked, **{**ALONE, **wish})


def file_id_of(response: Response) -> FileId:
    fields = response.parse(CREATE_RESPONSE)
    return fields.file_id_persistent, fields.file_id_volatile


@pytest.fixture
def pair(house: House) -> tuple[WireClient, WireClient]:
    """Two machines, so two clients."""
    first, second = (house.client(offer=Offer(client_guid=guid)) for guid in GUIDS)
    return first, second


def test_the_application_goes_on_elsewhere(house: House, pair: tuple[WireClient, WireClient]) -> None:
    """smb2.durable-v2-open.app-instance: what it had open is closed, its batch oplock is not broken."""
    first, second = pair
    durable = [(b"DH2Q", contexts.DURABLE_REQUEST_V2.pack(0, 0, 0, APP)), *instance()]
    kept = file_id_of(take(first, asked=durable, oplock=c.OPLOCK_LEVEL_BATCH))
    answer = take(second, asked=[(b"DH2Q", contexts.DURABLE_REQUEST_V2.pack(0, 0, 0, OTHER)), *instance()], oplock=c.OPLOCK_LEVEL_BATCH)
    fields = answer.parse(CREATE_RESPONSE)
    assert (fields.create_action, fields.oplock_level) == (c.FILE_OPENED, c.OPLOCK_LEVEL_BATCH)
    assert first.close(kept).status == status.FILE_CLOSED
    assert first.echo().status == status.SUCCESS  # and that is the next answer it gets: nothing was broken


def test_it_is_told_to_wait(house: House, pair: tuple[WireClient, WireClient]) -> None:
    first, second = pair
    kept = file_id_of(take(first))
    (waiting,) = second.send(Request(Command.CREATE, create_body("file", contexts=instance(), **ALONE)))
    assert second.receive(waiting, interim=True).interim
    assert second.receive(waiting).status == status.SUCCESS
    assert first.close(kept).status == status.FILE_CLOSED


@pytest.mark.parametrize("why", ["another application", "another file", "no application", "the same client", "another stream"])
def test_what_is_left_alone(house: House, pair: tuple[WireClient, WireClient], why: str) -> None:
    first, second = pair
    kept = file_id_of(take(first))
    if why == "the same client":
        second = house.client(offer=Offer(client_guid=GUIDS[0]))
    name = {"another file": "second", "another stream": "file:stream"}.get(why, "file")
    asked = {"another application": instance(OTHER), "no application": []}.get(why)
    answer = take(second, name, asked)
    assert answer.status == (status.SHARING_VIOLATION if name == "file" else status.SUCCESS)
    assert first.close(kept).status == status.SUCCESS


def test_who_may_not_open_the_file_closes_nobody_s(house: House, pair: tuple[WireClient, WireClient]) -> None:
    first, second = pair
    kept = file_id_of(take(first))
    assert take(second, disposition=c.FILE_CREATE).status == status.OBJECT_NAME_COLLISION
    assert take(second, options=c.FILE_DIRECTORY_FILE, disposition=c.FILE_OPEN).status == status.NOT_A_DIRECTORY
    assert first.close(kept).status == status.SUCCESS


def test_who_may_not_read_the_file_closes_nobody_s(house: House, pair: tuple[WireClient, WireClient]) -> None:
    """3.3.5.9.13: the maximal access has to include GENERIC_READ, whatever is asked for: the id alone is no right to another's file."""
    first, _ = pair
    kept = file_id_of(take(first, access=c.GENERIC_ALL))
    house.tokens["other"] = token_of("other", group_sids=(SID.parse("S-1-1-0"),))
    closed = parse_sddl("D:(A;;FA;;;OW)(A;;0x100080;;;WD)").pack()
    assert first.set_info(kept, c.INFO_SECURITY, 0, closed, c.DACL_SECURITY_INFORMATION).status == status.SUCCESS
    second = house.client("other", offer=Offer(client_guid=GUIDS[1]))
    assert take(second, access=c.FILE_READ_ATTRIBUTES, disposition=c.FILE_OPEN).status == status.SUCCESS
    assert first.close(kept).status == status.SUCCESS


def test_who_may_not_read_the_file_hears_of_a_version_all_the_same(house: House, pair: tuple[WireClient, WireClient]) -> None:
    """3.3.5.9.13 compares versions first."""
    first, _ = pair
    kept = file_id_of(take(first, asked=instance(version=(1, 5)), access=c.GENERIC_ALL))
    house.tokens["other"] = token_of("other", group_sids=(SID.parse("S-1-1-0"),))
    closed = parse_sddl("D:(A;;FA;;;OW)(A;;0x100080;;;WD)").pack()
    assert first.set_info(kept, c.INFO_SECURITY, 0, closed, c.DACL_SECURITY_INFORMATION).status == status.SUCCESS
    second = house.client("other", offer=Offer(client_guid=GUIDS[1]))
    answer = take(second, asked=instance(version=(1, 4)), access=c.FILE_READ_ATTRIBUTES, disposition=c.FILE_OPEN)
    assert answer.status == status.FILE_FORCED_CLOSED
    assert first.close(kept).status == status.SUCCESS


@pytest.mark.parametrize(
    ("known", "asked", "dialect", "expected"),
    [
        ((1, 5), (1, 6), 0x0311, status.SUCCESS),
        ((1, 5), (2, 0), 0x0311, status.SUCCESS),
        ((1, 5), (1, 5), 0x0311, status.FILE_FORCED_CLOSED),
        ((1, 5), (1, 4), 0x0311, status.FILE_FORCED_CLOSED),
        ((2, 0), (1, 9), 0x0311, status.FILE_FORCED_CLOSED),
        (None, (1, 4), 0x0311, status.SUCCESS),
        ((1, 5), None, 0x0311, status.FILE_FORCED_CLOSED),
        ((1, 5), None, 0x0302, status.FILE_FORCED_CLOSED),
        ((1, 5), (1, 6), 0x0302, status.FILE_FORCED_CLOSED),  # there are no versions before 3.1.1, so it names none
        ((0, 0), None, 0x0311, status.SUCCESS),
        ((0, 0), (0, 0), 0x0311, status.SUCCESS),  # zeros are no version
        (None, None, 0x0311, status.SUCCESS),
    ],
)
def test_a_later_version_stays(
    house: House, known: tuple[int, int] | None, asked: tuple[int, int] | None, dialect: int, expected: int
) -> None:
    first = house.client(offer=Offer(client_guid=GUIDS[0]))
    second = house.client(offer=Offer((dialect,), client_guid=GUIDS[1]))
    kept = file_id_of(take(first, asked=instance(version=known)))
    assert take(second, asked=instance(version=asked)).status == expected
    assert first.close(kept).status == (status.SUCCESS if expected else status.FILE_CLOSED)


def test_an_owner_that_takes_no_messages_is_asked_again(
    house: House, pair: tuple[WireClient, WireClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    monkeypatch.setattr("workers.breaks.RETRY", 0.01)
    kept = file_id_of(take(first))
    mail = house.mail_of(second)
    ask, tries = mail.ask, []

    async def busy(destination: int, kind: int, payload: bytes = b"", timeout: float = 30.0) -> Any:
        if kind == CLOSE_FILE.number:
            tries.append(destination)
            if len(tries) < 3:
                raise AskBusy
        return await ask(destination, kind, payload, timeout)

    monkeypatch.setattr(mail, "ask", busy)
    assert take(second).status == status.SUCCESS
    assert len(tries) == 3
    assert first.close(kept).status == status.FILE_CLOSED


def test_who_waits_may_give_up(house: House, pair: tuple[WireClient, WireClient], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = pair
    kept = file_id_of(take(first))
    monkeypatch.setattr(house, "workers", {})  # nobody answers
    worker_first, worker_second = house.worker_of(first), house.worker_of(second)
    monkeypatch.setattr(house, "turn", lambda: [worker.loop.turn() for worker in (worker_first, worker_second) if _nudge(worker)])
    (waiting,) = second.send(Request(Command.CREATE, create_body("file", contexts=instance(), **ALONE)))
    pending = second.receive(waiting, interim=True)
    assert pending.interim
    second.cancel(waiting, pending.async_id)
    assert second.receive(waiting).status == status.CANCELLED
    assert first.close(kept).status == status.SUCCESS
    monkeypatch.undo()


def _nudge(worker: Any) -> bool:
    worker.loop.later(0.0005, lambda: None)
    return not worker.ended
