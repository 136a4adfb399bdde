"""What a client sends again: channel sequences, repeated CREATEs and LOCKs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smbd.sharing import CacheClaim, CacheKind, Opened
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.dialects import DIALECTS
from smbd.smb2.messages import create_contexts as contexts
from smbd.smb2.messages import info
from smbd.smb2.messages.control import OPLOCK_BREAK
from smbd.smb2.messages.create import CREATE_RESPONSE
from smbd.smb2.status import SmbError
from tests.wire_client import (
    LAST,
    FileId,
    Offer,
    Request,
    Response,
    WireClient,
    close_body,
    create_body,
    ioctl_body,
    lock_body,
    notify_body,
    query_info_body,
    read_body,
    set_info_body,
    write_body,
)
from tests.workers.house import BOB, House, log_on
from workers import replay
from workers.reliable import told_again

ON_ERRANDS_TOO = True

GUID = bytes(range(16))
OTHER = bytes(range(16, 32))
KEY, ANOTHER_KEY = b"K" * 16, b"L" * 16
AGAIN = c.FLAGS_REPLAY_OPERATION
R, H, W = 1, 2, 4
BATCH, NONE, LEASE = c.OPLOCK_LEVEL_BATCH, c.OPLOCK_LEVEL_NONE, c.OPLOCK_LEVEL_LEASE
EXCLUSIVE = c.LOCKFLAG_EXCLUSIVE_LOCK | c.LOCKFLAG_FAIL_IMMEDIATELY
LATE = status.FILE_NOT_AVAILABLE
POSITION_INFORMATION = 14


def dh2q(guid: bytes = GUID) -> tuple[bytes, bytes]:
    return b"DH2Q", contexts.DURABLE_REQUEST_V2.pack(0, 0, 0, guid)


def lease(state: int, key: bytes = KEY) -> tuple[bytes, bytes]:
    return b"RqLs", contexts.LEASE.pack(key, state, 0, 0)


def ask(client: WireClient, name: str = "file", *, flags: int = 0, tree_id: int | None = None, **wish: Any) -> Response:
    wish = {"contexts": [dh2q()], "oplock": BATCH, **wish}
    return client.call(Command.CREATE, create_body(name, **wish), flags=flags, tree_id=tree_id)


def file_id_of(response: Response) -> FileId:
    fields = response.parse(CREATE_RESPONSE)
    return fields.file_id_persistent, fields.file_id_volatile


def names(response: Response) -> list[bytes]:
    """The contexts of the answer."""
    fields = response.parse(CREATE_RESPONSE)
    if not fields.create_contexts_length:
        return []
    return list(contexts.parse_chain(memoryview(response.part(fields.create_contexts_offset, fields.create_contexts_length))))


# Channel sequences


def write(client: WireClient, opened: FileId, **options: Any) -> Response:
    return client.call(Command.WRITE, write_body(opened, 0, b"abc"), **options)


def set_position(client: WireClient, opened: FileId, **options: Any) -> Response:
    body = set_info_body(opened, c.INFO_FILE, POSITION_INFORMATION, bytes(8))
    return client.call(Command.SET_INFO, body, **options)


def control(client: WireClient, opened: FileId, **options: Any) -> Response:
    return client.call(Command.IOCTL, ioctl_body(c.FSCTL_CREATE_OR_GET_OBJECT_ID, b"", opened, 64), **options)


def look(client: WireClient, opened: FileId, **options: Any) -> Response:
    return client.call(Command.QUERY_INFO, query_info_body(opened, c.INFO_FILE, POSITION_INFORMATION), **options)


# (ChannelSequence, status) in order, as Windows has it
SEQUENCES = [
    (0, 0),
    (0x8000, LATE),
    (0x8001, LATE),
    (0xFFFF, LATE),
    (0x7FFF, 0),
    (0x7FFE, LATE),
    (0, LATE),
    (0x1234, LATE),
    (0x8000, 0),
    (0xFFFF, 0),
    (0, 0),
    (1, 0),
    (0, LATE),
    (1, 0),
    (0xFFFF, LATE),
]


@pytest.mark.parametrize("change", [write, set_position, control])
@pytest.mark.parametrize("flags", [0, AGAIN])
def test_what_was_overtaken_changes_nothing(client: WireClient, change: Callable[..., Response], flags: int) -> None:
    opened = client.open("file")
    for sequence, expected in SEQUENCES:
        assert change(client, opened, channel_sequence=sequence, flags=flags).status == expected, hex(sequence)
        assert look(client, opened, channel_sequence=sequence, flags=flags).status == status.SUCCESS


def test_a_read_is_answered_whenever_it_comes(client: WireClient) -> None:
    opened = client.open("file")
    assert write(client, opened, channel_sequence=5).status == status.SUCCESS
    for sequence in (5, 4, 0x9000):
        read = client.call(Command.READ, read_body(opened, 0, 3), channel_sequence=sequence)
        assert bytes(read.view[-3:]) == b"abc"
    assert client.call(Command.LOCK, lock_body(opened, (0, 1, EXCLUSIVE)), channel_sequence=4).status == status.SUCCESS
    assert write(client, opened, channel_sequence=4).status == LATE
    assert client.call(Command.CLOSE, close_body(opened), channel_sequence=4).status == status.SUCCESS


@pytest.mark.parametrize("flags", [0, AGAIN])
def test_an_open_begins_with_the_sequence_of_its_create(client: WireClient, flags: int) -> None:
    """A client that has lost channels before is not told that its new opens come too late."""
    opened = file_id_of(client.call(Command.CREATE, create_body("file"), channel_sequence=0x9000, flags=flags))
    assert write(client, opened, channel_sequence=0x9000).status == status.SUCCESS
    assert write(client, opened, channel_sequence=0x8FFF).status == LATE
    assert write(client, opened, channel_sequence=0x9001).status == status.SUCCESS


@pytest.mark.parametrize("dialect", [0x0202, 0x0210])
def test_older_dialects_have_no_sequences(house: House, dialect: int) -> None:
    client = house.client(offer=Offer((dialect,)))
    opened = file_id_of(client.call(Command.CREATE, create_body("file"), channel_sequence=7))
    for sequence in (9, 0, 0xFFFF, 3):
        assert write(client, opened, channel_sequence=sequence).status == status.SUCCESS


def test_a_compound_is_verified_element_by_element(client: WireClient) -> None:
    opened = client.open("file")
    assert write(client, opened, channel_sequence=3).status == status.SUCCESS
    answers = client.compound(
        Request(Command.WRITE, write_body(opened, 0, b"x"), channel_sequence=2),
        Request(Command.WRITE, write_body(LAST, 0, b"y"), channel_sequence=3),
        related=False,
    )
    assert [answer.status for answer in answers] == [LATE, status.FILE_CLOSED]
    answers = client.compound(
        Request(Command.CREATE, create_body("file"), channel_sequence=3),
        Request(Command.WRITE, write_body(LAST, 0, b"y"), channel_sequence=2, session_id=c.RELATED_ID, tree_id=0xFFFFFFFF),
        Request(Command.CLOSE, close_body(LAST), channel_sequence=3, session_id=c.RELATED_ID, tree_id=0xFFFFFFFF),
        related=True,
    )
    assert [answer.status for answer in answers] == [status.SUCCESS, LATE, status.SUCCESS]


def test_nothing_is_repeated_while_it_may_still_be_under_way(client: WireClient, house: House) -> None:
    """3.3.5.2.10: requests of the sequences before count until they end, however they do."""
    opened = client.open("folder", options=c.FILE_DIRECTORY_FILE)
    (waiting,) = client.send(Request(Command.CHANGE_NOTIFY, notify_body(opened, c.FILE_NOTIFY_CHANGE_FILE_NAME), channel_sequence=1))
    pending = client.receive(waiting, interim=True)
    assert pending.interim
    assert set_position(client, opened, channel_sequence=1, flags=AGAIN).status == status.SUCCESS  # it is of this very sequence
    assert look(client, opened, channel_sequence=2).status == status.SUCCESS
    assert set_position(client, opened, channel_sequence=2, flags=AGAIN).status == LATE
    assert set_position(client, opened, channel_sequence=3, flags=AGAIN).status == LATE  # nor does a later one go on then
    assert set_position(client, opened, channel_sequence=2).status == status.SUCCESS
    client.cancel(waiting, pending.async_id)
    assert client.receive(waiting).status == status.CANCELLED
    assert set_position(client, opened, channel_sequence=2, flags=AGAIN).status == status.SUCCESS
    assert set_position(client, opened, channel_sequence=3, flags=AGAIN).status == status.SUCCESS


def test_counts_survive_a_sequence_that_comes_round_again(client: WireClient, house: House) -> None:
    """smb2.replay.replay7: what waits was sent under 0, and 0 it is again when it ends."""
    worker = house.worker_of(client)
    opened = client.open("folder", options=c.FILE_DIRECTORY_FILE)
    (waiting,) = client.send(Request(Command.CHANGE_NOTIFY, notify_body(opened, c.FILE_NOTIFY_CHANGE_FILE_NAME)))
    pending = client.receive(waiting, interim=True)
    (kept,) = worker.opens.values()
    for sequence, counts in ((30000, (0, 1)), (60000, (0, 1)), (0, (0, 1))):
        assert look(client, opened, channel_sequence=sequence).status == status.SUCCESS
        assert (kept.outstanding, kept.outstanding_before) == counts
    client.cancel(waiting, pending.async_id)
    assert client.receive(waiting).status == status.CANCELLED
    assert (kept.outstanding, kept.outstanding_before) == (0, 0)


def test_what_is_not_counted_is_not_counted_down(client: WireClient, house: House) -> None:
    worker = house.worker_of(client)
    opened = client.open("folder", options=c.FILE_DIRECTORY_FILE)
    (kept,) = worker.opens.values()
    assert look(client, opened, channel_sequence=5).status == status.SUCCESS
    body = notify_body(opened, c.FILE_NOTIFY_CHANGE_FILE_NAME)
    (waiting,) = client.send(Request(Command.CHANGE_NOTIFY, body, channel_sequence=4))
    pending = client.receive(waiting, interim=True)
    assert (kept.outstanding, kept.outstanding_before) == (0, 0)
    client.cancel(waiting, pending.async_id)
    assert client.receive(waiting).status == status.CANCELLED
    assert (kept.outstanding, kept.outstanding_before) == (0, 0)


class Sender:
    """A client of one open as 3.3.5.2.10 sees it, beside what the server has counted."""

    def __init__(self) -> None:
        self.opened: Any = SimpleNamespace(
            usual=0, channel_sequence=0, outstanding=0, outstanding_before=0, turn=1, durability=None
        )
        self.worker = SimpleNamespace(creates=replay.Creates())
        self.line = SimpleNamespace(connection=SimpleNamespace(dialect=DIALECTS[0x0300]))
        self.sequence = 0
        self.waiting: list[tuple[Any, int]] = []  # requests, with the number of changes before them
        self.changes = 0

    def send(self, sequence: int, *, again: bool, modifies: bool, waits: bool) -> bool:
        """Whether it was let in, as the specification says it is to be."""
        header = SimpleNamespace(status=sequence, flags=AGAIN if again else 0)
        request: Any = SimpleNamespace(
            header=header, line=self.line, worker=self.worker, counted=0, open=self.opened, has_open=lambda: True
        )
        ahead = (sequence - self.sequence) & 0xFFFF
        before = any(changes < self.changes for _, changes in self.waiting)
        good = ahead <= 0x7FFF and not (again and before)
        if good and ahead:
            self.sequence, self.changes = sequence, self.changes + 1
        try:
            replay.verify(request, self.opened, modifies=modifies)
        except SmbError as error:
            refused = error.status
        else:
            assert good or not modifies
            if waits:
                replay.waits(request)
                if good:
                    self.waiting.append((request, self.changes))
            return good
        assert (refused, good, modifies) == (LATE, False, True)
        return False

    def end(self, index: int) -> None:
        if self.waiting:
            request, _ = self.waiting.pop(index % len(self.waiting))
            replay.over(request)
            replay.over(request)  # once more is no more

    def check(self) -> None:
        now = sum(changes == self.changes for _, changes in self.waiting)
        counts = now, len(self.waiting) - now
        assert (self.opened.outstanding, self.opened.outstanding_before) == counts
        assert self.opened.channel_sequence == self.opened.usual == self.sequence


STEPS = st.one_of(
    st.tuples(st.integers(-3, 3) | st.sampled_from([0x7FFF, 0x8000, -0x7FFF, 30000]), st.booleans(), st.booleans(), st.booleans()),
    st.integers(0, 99),
)


@given(steps=st.lists(STEPS, max_size=40))
def test_counts_are_those_of_the_specification(steps: list[Any]) -> None:
    sender = Sender()
    for step in steps:
        if isinstance(step, int):
            sender.end(step)
        else:
            by, again, modifies, waits = step
            sender.send((sender.sequence + by) & 0xFFFF, again=again, modifies=modifies, waits=waits)
        sender.check()
    while sender.waiting:
        sender.end(0)
    sender.check()


# CREATEs


@pytest.mark.parametrize("changes", [{}, {"share": 0}, {"disposition": c.FILE_OPEN}, {"attributes": c.FILE_ATTRIBUTE_DIRECTORY}])
def test_a_repeated_create_is_the_same_open(client: WireClient, house: House, changes: dict[str, int]) -> None:
    first = ask(client)
    again = ask(client, flags=AGAIN, **changes)
    assert file_id_of(again) == file_id_of(first)
    assert bytes(again.body) == bytes(first.body)
    assert again.parse(CREATE_RESPONSE).create_action == c.FILE_CREATED
    assert len(house.worker_of(client).opens) == 1


def test_once_it_was_heard_of_it_is_another_one(client: WireClient, house: House) -> None:
    first = file_id_of(ask(client, oplock=NONE))
    assert client.read(first, 0, 1).status == status.END_OF_FILE
    second = file_id_of(ask(client, flags=AGAIN, oplock=NONE))
    assert second != first
    assert ask(client, oplock=NONE).status == status.DUPLICATE_OBJECTID  # of the second
    assert client.close(first).status == status.SUCCESS
    assert file_id_of(ask(client, flags=AGAIN, oplock=NONE)) == second
    assert client.close(second).status == status.SUCCESS
    assert house.worker_of(client).opens == {}


def test_an_acknowledgment_names_the_open_too(house: House) -> None:
    client, other = house.client(), house.client()
    first = file_id_of(ask(client))
    (opening,) = other.send(Request(Command.CREATE, create_body("file")))
    assert other.receive(opening, interim=True).interim
    answer = client.call(Command.OPLOCK_BREAK, OPLOCK_BREAK.pack(24, c.OPLOCK_LEVEL_II, 0, 0, *first))
    assert answer.status == status.SUCCESS
    assert other.receive(opening).status == status.SUCCESS
    assert file_id_of(ask(client, flags=AGAIN)) != first


def test_the_guid_is_free_again_after_the_end(client: WireClient) -> None:
    first = file_id_of(ask(client))
    assert client.tree_disconnect().status == status.SUCCESS
    assert client.tree_connect("data").status == status.SUCCESS
    assert file_id_of(ask(client)) != first


def test_a_guid_names_one_open_at_a_time(client: WireClient) -> None:
    ask(client)
    assert ask(client, "another").status == status.DUPLICATE_OBJECTID
    assert ask(client, "another", contexts=[dh2q(OTHER)]).status == status.SUCCESS


def test_what_belongs_to_another_tree_connect_is_not_given_away(client: WireClient) -> None:
    first = client.tree_id
    assert ask(client).status == status.SUCCESS
    assert client.tree_connect("data").status == status.SUCCESS
    assert client.tree_id != first
    assert ask(client, flags=AGAIN).status == status.DUPLICATE_OBJECTID
    assert log_on(client, BOB).status == status.SUCCESS
    assert client.tree_connect("data").status == status.SUCCESS
    assert ask(client, flags=AGAIN).status == status.DUPLICATE_OBJECTID


def test_a_create_that_failed_has_not_been(client: WireClient) -> None:
    for flags in (0, AGAIN, 0):
        assert ask(client, disposition=c.FILE_OPEN, flags=flags).status == status.OBJECT_NAME_NOT_FOUND
    assert ask(client).status == status.SUCCESS


def test_without_a_guid_a_create_is_done_again(client: WireClient) -> None:
    first = client.create("file")
    again = client.call(Command.CREATE, create_body("file"), flags=AGAIN)
    assert file_id_of(again) != file_id_of(first)
    assert again.parse(CREATE_RESPONSE).create_action == c.FILE_OPENED
    assert client.call(Command.CREATE, create_body("file", disposition=c.FILE_CREATE), flags=AGAIN).status == status.OBJECT_NAME_COLLISION


def test_older_dialects_have_no_guid(house: House) -> None:
    client = house.client(offer=Offer((0x0210,)))
    first, again = ask(client, oplock=NONE), ask(client, oplock=NONE)
    assert file_id_of(first) != file_id_of(again)


def test_less_is_told_where_less_is_asked_for(client: WireClient) -> None:
    """smb2.replay.replay-dhv2-oplock2; the open keeps what it has."""
    first = ask(client)
    again = ask(client, flags=AGAIN, oplock=NONE)
    assert file_id_of(again) == file_id_of(first)
    assert again.parse(CREATE_RESPONSE).oplock_level == NONE
    assert names(again) == []
    third = ask(client, flags=AGAIN)
    assert third.parse(CREATE_RESPONSE).oplock_level == BATCH
    assert names(third) == [b"DH2Q"]


def test_a_lease_is_told_as_it_is_by_now(client: WireClient) -> None:
    """smb2.replay.replay-dhv2-lease1 and 2: another open of the lease has raised it meanwhile."""
    asked = [lease(R | H), dh2q()]
    first = ask(client, oplock=LEASE, contexts=asked)
    assert ask(client, oplock=LEASE, contexts=[lease(R | H | W), dh2q(OTHER)]).status == status.SUCCESS
    for state in (R | H, R):
        again = ask(client, oplock=LEASE, flags=AGAIN, contexts=[lease(state), dh2q()])
        assert file_id_of(again) == file_id_of(first)
        fields = again.parse(CREATE_RESPONSE)
        found = contexts.parse_chain(memoryview(again.part(fields.create_contexts_offset, fields.create_contexts_length)))
        assert contexts.LEASE.unpack(found[b"RqLs"]).lease_state == R | H | W
        assert b"DH2Q" in found


def test_another_lease_is_not_the_open_s(client: WireClient) -> None:
    assert ask(client, oplock=LEASE, contexts=[lease(R | H), dh2q()]).status == status.SUCCESS
    other = [lease(R | H, ANOTHER_KEY), dh2q()]
    assert ask(client, oplock=LEASE, flags=AGAIN, contexts=other).status == status.ACCESS_DENIED
    assert ask(client, "second", contexts=[dh2q(OTHER)]).status == status.SUCCESS
    wrong = [lease(R | H), dh2q(OTHER)]
    assert ask(client, "second", oplock=LEASE, flags=AGAIN, contexts=wrong).status == status.ACCESS_DENIED


STATES = st.sampled_from([0, R, R | H, R | W, R | H | W])


@given(
    kind=st.sampled_from([CacheKind.NONE, CacheKind.OPLOCK, CacheKind.LEASE, CacheKind.LEASE_V2]),
    granted=STATES,
    asks=st.sampled_from([CacheKind.NONE, CacheKind.OPLOCK, CacheKind.LEASE, CacheKind.LEASE_V2]),
    state=STATES,
    key=st.sampled_from([KEY, ANOTHER_KEY]),
)
def test_never_more_is_told_than_there_is(kind: int, granted: int, asks: int, state: int, key: bytes) -> None:
    claim = CacheClaim(asks, state, 0, GUID, key)
    try:
        told = told_again(Opened(False, kind, granted), KEY, claim)
    except SmbError as error:
        refused = error.status
    else:
        assert not told.granted & ~granted
        assert asks >= CacheKind.LEASE or told.kind < CacheKind.LEASE
        return
    assert refused == status.ACCESS_DENIED
    assert asks >= CacheKind.LEASE
    assert kind < CacheKind.LEASE or key != KEY


@pytest.mark.parametrize("oplock", [NONE, BATCH])
def test_while_the_first_is_under_way_the_second_is_to_come_again(house: House, oplock: int) -> None:
    holder, client = house.client(), house.client()
    kept = holder.create("file", oplock=BATCH)
    (first,) = client.send(Request(Command.CREATE, create_body("file", oplock=oplock, contexts=[dh2q()])))
    assert client.receive(first, interim=True).interim
    for flags in (AGAIN, 0):
        assert ask(client, oplock=oplock, flags=flags).status == LATE
    assert holder.close(file_id_of(kept)).status == status.SUCCESS
    answer = client.receive(first)
    assert answer.parse(CREATE_RESPONSE).create_action == c.FILE_OPENED
    again = ask(client, oplock=oplock, flags=AGAIN)
    assert bytes(again.body) == bytes(answer.body)
    assert client.close(file_id_of(answer)).status == status.SUCCESS


def test_a_create_goes_on_when_its_channel_is_lost(house: House) -> None:
    """smb2.replay.dhv2-pending2: the client asks for the answer on another channel. One without a GUID it could not ask for."""
    holder, client = house.client(), house.client()
    kept = holder.create("file", oplock=BATCH)
    (plain,) = client.send(Request(Command.CREATE, create_body("file")))
    (first,) = client.send(Request(Command.CREATE, create_body("file", contexts=[dh2q()])))
    assert all(client.receive(one, interim=True).interim for one in (plain, first))
    engine = house.worker_of(client).lines[0].engine
    assert len(engine.waiting) == 2
    engine.abandon()
    house.turn_until(lambda: len(engine.waiting) == 1)
    assert ask(client, oplock=NONE, flags=AGAIN).status == LATE
    assert holder.close(file_id_of(kept)).status == status.SUCCESS
    house.turn_until(lambda: not engine.waiting)
    answer = ask(client, oplock=NONE, flags=AGAIN)
    assert answer.parse(CREATE_RESPONSE).create_action == c.FILE_OPENED
    assert len(house.worker_of(client).opens) == 1


@pytest.mark.parametrize("way", ["cancelled", "refused"])
def test_what_came_to_nothing_may_come_again(house: House, way: str) -> None:
    holder, client = house.client(), house.client()
    kept = holder.create("file", oplock=BATCH)
    (first,) = client.send(Request(Command.CREATE, create_body("file", disposition=c.FILE_OPEN, contexts=[dh2q()])))
    pending = client.receive(first, interim=True)
    if way == "cancelled":
        client.cancel(first, pending.async_id)
        assert client.receive(first).status == status.CANCELLED
        assert holder.close(file_id_of(kept)).status == status.SUCCESS
        assert ask(client).status == status.SUCCESS
        return
    info_class = 13  # FileDispositionInformation
    assert holder.set_info(file_id_of(kept), c.INFO_FILE, info_class, b"\1").status == status.SUCCESS
    assert holder.close(file_id_of(kept)).status == status.SUCCESS
    assert client.receive(first).status in (status.OBJECT_NAME_NOT_FOUND, status.DELETE_PENDING)
    assert ask(client, flags=AGAIN).parse(CREATE_RESPONSE).create_action == c.FILE_CREATED


def test_a_repeated_create_in_a_compound(client: WireClient) -> None:
    first = file_id_of(ask(client))
    related = {"session_id": c.RELATED_ID, "tree_id": 0xFFFFFFFF}
    answers = client.compound(
        Request(Command.CREATE, create_body("file", oplock=BATCH, contexts=[dh2q()]), flags=AGAIN),
        Request(Command.QUERY_INFO, query_info_body(LAST, c.INFO_FILE, POSITION_INFORMATION), **related),
        Request(Command.CLOSE, close_body(LAST), **related),
        related=True,
    )
    assert [answer.status for answer in answers] == [status.SUCCESS] * 3
    assert file_id_of(answers[0]) == first
    assert answers[1].parse(info.QUERY_INFO_RESPONSE).output_buffer_length == 8
    assert client.close(first).status == status.FILE_CLOSED


def test_a_glance_that_is_repeated(client: WireClient) -> None:
    """CREATE, QUERY_INFO and CLOSE with a GUID leave nothing behind that a repetition would meet."""
    assert client.close(client.open("file")).status == status.SUCCESS
    related = {"session_id": c.RELATED_ID, "tree_id": 0xFFFFFFFF}
    wish = create_body("file", access=c.FILE_READ_ATTRIBUTES, disposition=c.FILE_OPEN, contexts=[dh2q()])
    for flags in (0, AGAIN, 0):
        answers = client.compound(
            Request(Command.CREATE, wish, flags=flags),
            Request(Command.QUERY_INFO, query_info_body(LAST, c.INFO_FILE, POSITION_INFORMATION), **related),
            Request(Command.CLOSE, close_body(LAST), **related),
            related=True,
        )
        assert [answer.status for answer in answers] == [status.SUCCESS] * 3


# Locks


DURABLE = {"oplock": BATCH, "contexts": [(b"DHnQ", bytes(16))]}


def lock(client: WireClient, opened: FileId, sequence: int, flags: int = EXCLUSIVE) -> int:
    return client.lock(opened, (100, 100, flags), sequence=sequence).status


def test_a_lock_that_has_succeeded_is_not_done_again(client: WireClient) -> None:
    """smb2.lock.replay_smb3_specification_durable."""
    opened = client.open("file", **DURABLE)
    unlock, refused, free = c.LOCKFLAG_UNLOCK, status.LOCK_NOT_GRANTED, status.RANGE_NOT_LOCKED
    # An index outside of 1 to 64 says nothing.
    for sequence in (0x001, 0x411, 0xFFFFFFF1):
        assert [lock(client, opened, sequence) for _ in range(2)] == [0, refused]
        assert [lock(client, opened, sequence, unlock) for _ in range(2)] == [0, free]
    assert [lock(client, opened, 0x011) for _ in range(2)] == [0, 0]
    assert [lock(client, opened, 0x011, unlock) for _ in range(2)] == [0, 0]  # the same number: a repetition, whatever it asks for
    assert [lock(client, opened, 0x012) for _ in range(2)] == [refused, refused]
    assert lock(client, opened, 0x011) == refused  # what has failed since has made the entry say nothing
    assert [lock(client, opened, 0x402, unlock) for _ in range(2)] == [0, 0]
    assert lock(client, opened, 0x402) == 0
    assert lock(client, opened, 0x403, unlock) == free


def test_a_lock_that_waited_counts_when_it_is_granted(house: House) -> None:
    holder, client = house.client(), house.client()
    opened = client.open("file", contexts=[lease(R | H), (b"DHnQ", bytes(16))], oplock=LEASE)
    kept = holder.open("file")
    assert lock(holder, kept, 0) == status.SUCCESS
    body = lock_body(opened, (100, 100, c.LOCKFLAG_EXCLUSIVE_LOCK), sequence=0x011)
    (waiting,) = client.send(Request(Command.LOCK, body))
    assert client.receive(waiting, interim=True).interim
    (mine,) = house.worker_of(client).opens.values()
    assert mine.lock_sequences == bytes(64)
    assert holder.close(kept).status == status.SUCCESS
    assert client.receive(waiting).status == status.SUCCESS
    assert lock(client, opened, 0x011) == status.SUCCESS
    assert lock(client, opened, 0x012) == status.LOCK_NOT_GRANTED


@pytest.mark.parametrize("why", ["ordinary", "dialect", "configured"])
def test_where_locks_are_not_counted(make_house: Callable[..., House], why: str) -> None:
    house = make_house(text="smb2 disable lock sequence checking = yes" if why == "configured" else "")
    client = house.client(offer=Offer((0x0202 if why == "dialect" else 0x0300,), capabilities=0))
    opened = client.open("file", **(DURABLE if why != "ordinary" else {}))
    assert [lock(client, opened, 0x011) for _ in range(2)] == [0, status.LOCK_NOT_GRANTED]
