"""Breaks in a worker: what a CREATE may ask for, who is told, and messages that are late, lost or for somebody else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from pools.queue import AskBusy, AskGone, AskTimeout, Message
from smbd.sharing.messages import OPLOCK_BREAK, OPLOCK_BREAK_LAYOUT, OplockBreak
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.messages import control, create
from smbd.smb2.messages.create_contexts import LEASE, LEASE_V2, REQUEST_LEASE
from tests.wire_client import FileId, Offer, Request, Response, WireClient, create_body
from tests.workers.house import House

KEY = b"K" * 16
VERSION_1 = LEASE.pack(KEY, 7, 0, 0)
VERSION_2 = LEASE_V2.pack(KEY, 7, c.LEASE_FLAG_PARENT_LEASE_KEY_SET, 0, b"P" * 16, 3, 0)


def level_of(answer: Response) -> int:
    return int(answer.parse(create.CREATE_RESPONSE).oplock_level)


def file_id_of(answer: Response) -> FileId:
    fields = answer.parse(create.CREATE_RESPONSE)
    return fields.file_id_persistent, fields.file_id_volatile


def ask_lease(client: WireClient, name: str, context: bytes) -> Response:
    return client.create(name, oplock=c.OPLOCK_LEVEL_LEASE, contexts=[(REQUEST_LEASE, context)])


@pytest.mark.parametrize(
    ("dialects", "context", "size"),
    [
        ((0x0202,), VERSION_1, 0),
        ((0x0210,), VERSION_1, LEASE.size),
        ((0x0210,), VERSION_2, 0),
        ((0x0300,), VERSION_2, LEASE_V2.size),
        ((0x0311,), VERSION_1, LEASE.size),
        ((0x0311,), VERSION_1[:-1], 0),
    ],
)
def test_a_lease_needs_a_dialect_that_has_it(house: House, dialects: Sequence[int], context: bytes, size: int) -> None:
    answer = ask_lease(house.client(offer=Offer(dialects=dialects)), "file", context)
    assert level_of(answer) == (c.OPLOCK_LEVEL_LEASE if size else c.OPLOCK_LEVEL_NONE)
    fields = answer.parse(create.CREATE_RESPONSE)
    # one context: 16 bytes of header, the name in eight, then the lease
    assert fields.create_contexts_length == (24 + size if size else 0)


def test_the_parent_key_comes_back(client: WireClient) -> None:
    answer = ask_lease(client, "file", VERSION_2)
    fields = answer.parse(create.CREATE_RESPONSE)
    lease = LEASE_V2.unpack(answer.view, fields.create_contexts_offset + 24)
    assert (lease.lease_flags, lease.parent_lease_key, lease.epoch) == (c.LEASE_FLAG_PARENT_LEASE_KEY_SET, b"P" * 16, 4)


def test_directories_cache_nothing(client: WireClient) -> None:
    for level in (c.OPLOCK_LEVEL_II, c.OPLOCK_LEVEL_BATCH):
        assert level_of(client.create("folder", options=c.FILE_DIRECTORY_FILE, oplock=level)) == c.OPLOCK_LEVEL_NONE


def test_a_share_without_oplocks_grants_none(make_house: Callable[..., House]) -> None:
    client = make_house(share_text="oplocks = no").client()
    assert level_of(client.create("file", oplock=c.OPLOCK_LEVEL_BATCH)) == c.OPLOCK_LEVEL_NONE
    assert level_of(ask_lease(client, "file", VERSION_2)) == c.OPLOCK_LEVEL_NONE


def test_a_server_without_leases_grants_oplocks(make_house: Callable[..., House]) -> None:
    client = make_house(text="smb2 leases = no").client()
    assert level_of(ask_lease(client, "file", VERSION_2)) == c.OPLOCK_LEVEL_NONE
    assert level_of(client.create("other", oplock=c.OPLOCK_LEVEL_BATCH)) == c.OPLOCK_LEVEL_BATCH


def test_one_client_breaks_its_own_other_open(client: WireClient) -> None:
    first = client.create("file", oplock=c.OPLOCK_LEVEL_BATCH)
    (message_id,) = client.send(Request(Command.CREATE, create_body("file")))
    told = client.receive(c.UNSOLICITED_MESSAGE_ID).parse(control.OPLOCK_BREAK)
    assert (told.file_id_persistent, told.file_id_volatile) == file_id_of(first)
    wrong = client.call(Command.OPLOCK_BREAK, control.OPLOCK_BREAK.pack(24, c.OPLOCK_LEVEL_LEASE, 0, 0, *file_id_of(first)))
    assert wrong.status == status.INVALID_PARAMETER
    wrong = client.call(Command.OPLOCK_BREAK, control.OPLOCK_BREAK.pack(24, c.OPLOCK_LEVEL_BATCH, 0, 0, *file_id_of(first)))
    assert wrong.status == status.INVALID_OPLOCK_PROTOCOL  # and the oplock is gone
    assert client.receive(message_id).status == status.SUCCESS


def test_a_logoff_ends_a_waiting_open(house: House, client: WireClient) -> None:
    held = house.client()
    held.create("file", oplock=c.OPLOCK_LEVEL_BATCH)
    (message_id,) = client.send(Request(Command.CREATE, create_body("file")))
    assert client.receive(message_id, interim=True).status == status.PENDING
    assert client.tree_disconnect().status == status.SUCCESS
    assert status.is_error(client.receive(message_id).status)
    assert house.worker_of(client).opens == {}


def pending_break(house: House, client: WireClient) -> tuple[WireClient, OplockBreak]:
    """A second client whose worker has asked ``client``'s to break its batch oplock; the message has not been taken yet."""
    client.create("file", oplock=c.OPLOCK_LEVEL_BATCH)
    other = house.client()
    other.send(Request(Command.CREATE, create_body("file")))
    house.turn_until(lambda: bool(house.mail_of(other).asked))
    kind, payload, _ = house.mail_of(other).asked[0]
    assert kind == OPLOCK_BREAK.number
    return other, OPLOCK_BREAK_LAYOUT.unpack(payload)


@pytest.mark.parametrize("lease", [0, 1])
def test_a_break_for_an_earlier_process_of_the_slot_is_nobodys(house: House, client: WireClient, lease: int) -> None:
    _, notice = pending_break(house, client)
    worker, mail = house.worker_of(client), house.mail_of(client)
    answers: list[Message] = []
    mail.answer = lambda message, payload=b"": answers.append(message)  # type: ignore[attr-defined]
    stale = notice._replace(generation=notice.generation + 1, lease=lease)
    queued = worker.lines[0].sender.backlog
    worker.breaks.arrived(Message(OPLOCK_BREAK.number, 17, 1, 5, OPLOCK_BREAK_LAYOUT.pack(*stale)))
    assert worker.lines[0].sender.backlog == queued
    worker.breaks.arrived(Message(OPLOCK_BREAK.number, 17, 1, 6, OPLOCK_BREAK_LAYOUT.pack(*notice)))
    assert client.receive(c.UNSOLICITED_MESSAGE_ID).parse(control.OPLOCK_BREAK).oplock_level == c.OPLOCK_LEVEL_II
    assert [message.id for message in answers] == [5, 6]


def test_a_busy_hub_is_asked_again(house: House, client: WireClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.breaks.BUSY_RETRIES", (0.0, 0.0))
    other, _ = pending_break(house, client)
    mail = house.mail_of(other)
    mail.asked.popleft()[2].fail(AskBusy("full"))
    house.turn_until(lambda: bool(mail.asked))
    mail.asked.popleft()[2].fail(AskBusy("full"))
    house.turn()
    assert not mail.asked  # it has said so in the log; the time-out does the rest


@pytest.mark.parametrize("error", [AskGone("dead"), AskTimeout("stopped")])
def test_a_worker_that_is_gone_is_not_asked_again(house: House, client: WireClient, error: Exception) -> None:
    other, _ = pending_break(house, client)
    mail = house.mail_of(other)
    mail.asked.popleft()[2].fail(error)
    house.turn()
    assert not mail.asked
