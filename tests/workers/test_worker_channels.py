"""Sessions bound to further connections ([MS-SMB2] 3.3.5.5): within a worker, and from one worker to another."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from authd.messages import Step, proof_of
from pools.layout import WireError
from pools.port import sockets
from pools.queue import Message
from smbd.channel_messages import ANSWER, ASK, CHANNEL_ASK, CHANNEL_MOVE, MOVE, Joining, Moved, Purpose, pack_move
from smbd.smb2 import constants as c
from smbd.smb2 import passage, status
from smbd.smb2.constants import Command
from smbd.smb2.header import HEADER_SIZE
from smbd.smb2.messages import control
from smbd.smb2.messages.directory import CHANGE_NOTIFY_REQUEST
from tests.wire_client import Closed, FileId, Offer, Request, Response, WireClient, create_body
from tests.workers.house import ALICE, BOB, KEY, House, log_on
from workers import binding, handover
from workers.binding import MAX_CHANNELS, MAX_FORGERIES, MAX_LINES
from workers.loop import Completion
from workers.session import Session, terms_of

GUID = bytes(range(16))
OTHER_GUID = bytes(range(16, 32))
Make = Callable[..., House]


@pytest.fixture
def house(make_house: Make) -> House:
    return make_house(text="server multi channel support = yes")


def offer(guid: bytes = GUID, **changes: Any) -> Offer:
    return Offer(client_guid=guid, **changes)


def bind(client: WireClient, other: WireClient, user: str = ALICE, **options: Any) -> Response:
    return client.bind(other, lambda _: user.encode(), lambda: KEY, **options)


def fresh(house: House, terms: Offer | None = None) -> WireClient:
    """A connection that is negotiated and nothing more."""
    client, _ = house.join()
    assert client.negotiate(terms or offer()).status == status.SUCCESS
    return client


def first_of(house: House, terms: Offer | None = None, user: str = ALICE) -> WireClient:
    client = house.client(user, offer=terms or offer())
    client.sign = True
    return client


def echo(client: WireClient, **options: Any) -> Response:
    return client.call(Command.ECHO, b"\4\0\0\0", **options)


@pytest.mark.parametrize("dialect", [0x0300, 0x0302, 0x0311])
def test_a_connection_goes_to_the_session_s_worker(house: House, dialect: int) -> None:
    first = first_of(house, offer(dialects=(dialect,)))
    opened = first.open("file", disposition=c.FILE_CREATE)
    second = fresh(house, offer(dialects=(dialect,)))
    before = house.worker_of(second)
    answer = bind(second, first)
    assert (answer.status, answer.valid) == (status.SUCCESS, True)
    assert before.ended
    assert house.worker_of(second) is house.worker_of(first)
    second.sign = True
    assert second.write(opened, 0, b"by the second").status == status.SUCCESS
    assert first.read_data(opened, 0, 13) == b"by the second"
    assert second.close(opened).status == status.SUCCESS


def test_each_channel_has_its_own_key_and_all_have_one_cipher(house: House) -> None:
    first = first_of(house)
    second = fresh(house)
    assert bind(second, first).status == status.SUCCESS
    first.seal = second.seal = True
    for client in (first, second, first, second):
        answer = echo(client)
        assert (answer.status, answer.encrypted) == (status.SUCCESS, True)
    first.seal = second.seal = False
    second.channels[second.session_id] = first.channels[first.session_id]
    assert echo(second, sign=True).status == status.ACCESS_DENIED


def test_a_binding_takes_as_many_steps_as_the_logon(house: House) -> None:
    first, second = first_of(house), fresh(house)
    tokens = iter([b"more", b"more", ALICE.encode()])
    assert second.bind(first, lambda _: next(tokens), lambda: KEY).valid
    assert echo(second, sign=True).valid


@pytest.mark.parametrize("step", range(2))
def test_each_step_is_signed(house: House, step: int) -> None:
    first, second = first_of(house), fresh(house)
    session_id = first.session_id
    second.channels[session_id] = first.first[session_id]
    for _ in range(step):
        answer = second.session_setup_raw(b"more", session_id, flags=c.SESSION_FLAG_BINDING, sign=True)
        assert answer.status == status.MORE_PROCESSING_REQUIRED
    answer = second.session_setup_raw(ALICE.encode(), session_id, flags=c.SESSION_FLAG_BINDING, sign=False)
    assert answer.status == status.INVALID_PARAMETER
    assert echo(first).status == status.SUCCESS


def test_another_user_is_not_bound_and_the_right_one_is_afterwards(house: House) -> None:
    first, second = first_of(house), fresh(house)
    answer = bind(second, first, BOB)
    assert (answer.status, answer.valid) == (status.ACCESS_DENIED, True)
    answer = bind(second, first, "nobody we know")
    assert (answer.status, answer.valid) == (status.LOGON_FAILURE, True)
    assert echo(first).status == status.SUCCESS
    assert bind(second, first).status == status.SUCCESS


REFUSALS = [
    ({"dialects": (0x0311,), "signing": (1,)}, {"dialects": (0x0302,)}, status.INVALID_PARAMETER),
    ({"dialects": (0x0300,)}, {"dialects": (0x0311,), "signing": (1,)}, status.INVALID_PARAMETER),
    ({"dialects": (0x0210,)}, {"dialects": (0x0210,)}, status.REQUEST_NOT_ACCEPTED),
    ({"dialects": (0x0311,), "signing": (1,)}, {"dialects": (0x0210,)}, status.REQUEST_NOT_ACCEPTED),
    ({"ciphers": (2,)}, {"ciphers": (1,)}, status.INVALID_PARAMETER),
    ({"signing": (2,)}, {"signing": (1,)}, status.REQUEST_OUT_OF_SEQUENCE),
    ({"signing": (0,)}, {"signing": (2,)}, status.NOT_SUPPORTED),
    ({"signing": (0,)}, {"signing": (1,)}, status.SUCCESS),
]


@pytest.mark.parametrize("guid", [GUID, OTHER_GUID], ids=["same client", "another client"])
@pytest.mark.parametrize(("ours", "theirs", "expected"), REFUSALS)
def test_what_was_negotiated_has_to_agree(house: House, ours: Any, theirs: Any, expected: int, guid: bytes) -> None:
    first, second = first_of(house, offer(**ours)), fresh(house, offer(guid, **theirs))
    answer = bind(second, first)
    assert (answer.status, answer.valid) == (expected, True)
    assert echo(first).status == status.SUCCESS
    if expected != status.SUCCESS:
        assert house.worker_of(second) is not house.worker_of(first)
        assert log_on(second, BOB).status == status.SUCCESS


def test_without_the_flag_the_session_is_not_there_and_the_answer_says_so_credibly(house: House) -> None:
    first, second = first_of(house), fresh(house)
    answer = bind(second, first, flags=0)
    assert (answer.status, answer.valid) == (status.USER_SESSION_DELETED, True)
    answer = second.session_setup_raw(ALICE.encode(), first.session_id)
    assert (answer.status, answer.valid) == (status.USER_SESSION_DELETED, None)


def test_a_session_that_is_bound_here_is_not_bound_again(house: House) -> None:
    first = first_of(house)
    answer = bind(first, first)
    assert answer.status == status.REQUEST_NOT_ACCEPTED
    second = fresh(house)
    assert bind(second, first).status == status.SUCCESS


@pytest.mark.parametrize(("session_id", "expected"), [(0, status.INVALID_PARAMETER), (4711, status.USER_SESSION_DELETED)])
def test_no_session_at_all(house: House, session_id: int, expected: int) -> None:
    assert fresh(house).session_setup_raw(ALICE.encode(), session_id, flags=c.SESSION_FLAG_BINDING).status == expected


def test_forgers_reach_nothing_and_do_not_try_for_ever(house: House) -> None:
    first, forger, stranger = first_of(house), fresh(house), first_of(house, offer(OTHER_GUID), BOB)
    worker, session_id = house.worker_of(first), first.session_id
    forger.channels[session_id] = stranger.first[stranger.session_id]  # a key, but not the right one
    for _ in range(MAX_FORGERIES):
        answer = forger.session_setup_raw(ALICE.encode(), session_id, flags=c.SESSION_FLAG_BINDING, sign=True)
        assert answer.status == status.ACCESS_DENIED
        assert not answer.header.flags & c.FLAGS_SIGNED
    with pytest.raises(Closed):
        forger.session_setup_raw(ALICE.encode(), session_id, flags=c.SESSION_FLAG_BINDING, sign=True)
    assert len(worker.lines) == 1
    assert echo(first).status == status.SUCCESS


def test_a_session_has_so_many_channels(house: House) -> None:
    first = first_of(house)
    bound = [fresh(house) for _ in range(MAX_CHANNELS - 1)]
    assert all(bind(client, first).status == status.SUCCESS for client in bound)
    answer = bind(fresh(house), first)
    assert (answer.status, answer.valid) == (status.INSUFFICIENT_RESOURCES, True)
    assert MAX_CHANNELS < MAX_LINES


def test_a_session_lives_as_long_as_one_of_its_connections(house: House) -> None:
    first, second = first_of(house), fresh(house)
    opened = first.open("file", disposition=c.FILE_CREATE)
    assert bind(second, first).status == status.SUCCESS
    second.sign = True
    worker = house.worker_of(first)
    first.close_connection()
    house.turn_until(lambda: len(worker.lines) == 1)
    assert second.write(opened, 0, b"still there").status == status.SUCCESS
    second.close_connection()
    house.turn_until(lambda: worker.ended)


def test_a_logoff_ends_all_channels(house: House) -> None:
    first, second = first_of(house), fresh(house)
    assert bind(second, first).status == status.SUCCESS
    assert second.logoff().status == status.SUCCESS
    answer = echo(first)
    assert (answer.status, answer.valid) == (status.USER_SESSION_DELETED, True)
    assert log_on(second, ALICE).status == status.SUCCESS


def test_what_waits_on_a_lost_connection_is_dropped_and_the_rest_is_not(house: House) -> None:
    first, second = first_of(house), fresh(house)
    assert bind(second, first).status == status.SUCCESS
    second.sign = True
    directory = first.open("", options=c.FILE_DIRECTORY_FILE)
    waiting = [client.send(Request(Command.CHANGE_NOTIFY, notify_body(directory)))[0] for client in (first, second)]
    for client, message_id in zip((first, second), waiting, strict=True):
        assert client.receive(message_id, interim=True).interim
    worker = house.worker_of(first)
    first.close_connection()
    house.turn_until(lambda: len(worker.lines) == 1)
    second.open("new", disposition=c.FILE_CREATE)
    assert second.receive(waiting[1]).status == status.SUCCESS


def notify_body(directory: tuple[int, int]) -> bytes:
    return CHANGE_NOTIFY_REQUEST.pack(32, 0, 4096, *directory, c.FILE_NOTIFY_CHANGE_FILE_NAME, 0)


def test_a_second_connection_of_the_same_user_joins_the_first(house: House) -> None:
    first = first_of(house)
    second = first_of(house)
    assert house.worker_of(second) is house.worker_of(first)
    assert echo(second).valid
    assert bind(second, first).status == status.SUCCESS
    third = fresh(house)
    assert bind(third, first).status == status.SUCCESS
    assert len(house.worker_of(first).lines) == 3
    assert {record.slot for record in house.worker_of(first).sharing.sessions()} == {house.worker_of(first).slot}


@pytest.mark.parametrize(("guid", "user"), [(OTHER_GUID, ALICE), (GUID, BOB)], ids=["another client", "another user"])
def test_others_stay_where_they_are(house: House, guid: bytes, user: str) -> None:
    first, second = first_of(house), first_of(house, offer(guid), user)
    assert house.worker_of(second) is not house.worker_of(first)


def test_a_connection_with_a_session_of_its_own_stays_with_it(house: House) -> None:
    first, second = first_of(house), first_of(house, offer(), BOB)
    answer = bind(second, first)
    assert (answer.status, answer.valid) == (status.REQUEST_NOT_ACCEPTED, True)
    assert second.tree_connect("data").status == status.SUCCESS


def test_when_the_owner_dies_the_connection_goes_on(house: House) -> None:
    first, second = first_of(house), fresh(house)
    owner = house.worker_of(first)
    house.segment.row(owner.slot).set("pid", 0)
    assert bind(second, first).status == status.USER_SESSION_DELETED
    assert log_on(second, ALICE).status == status.SUCCESS
    house.segment.row(owner.slot).set("pid", 1)


def test_switched_off(make_house: Make) -> None:
    house = make_house(text="server multi channel support = no")
    first, second = first_of(house), fresh(house)
    assert not first.negotiated.capabilities & c.CAP_MULTI_CHANNEL
    answer = bind(second, first)
    assert (answer.status, answer.valid) == (status.REQUEST_NOT_ACCEPTED, True)


# breaks


def break_of(client: WireClient) -> int | None:
    """The level to which the client's oplock is broken, if that was said on its connection."""
    client.transport.sock.setblocking(False)  # type: ignore[attr-defined]
    for _ in range(50):
        client.transport.house.turn()  # type: ignore[attr-defined]
        if client.transport._read():  # type: ignore[attr-defined]
            frame = client.transport.receive()
            return frame[HEADER_SIZE + 2] if frame[12] == Command.OPLOCK_BREAK else None
    return None


def channels_with_oplock(house: House) -> tuple[WireClient, WireClient]:
    first, second = first_of(house), fresh(house)
    assert bind(second, first).status == status.SUCCESS
    first.open("file", disposition=c.FILE_CREATE, oplock=c.OPLOCK_LEVEL_BATCH)
    return first, second


def open_elsewhere(house: House) -> WireClient:
    other = first_of(house, offer(OTHER_GUID))
    other.send(Request(Command.CREATE, create_body("file")))
    mail = house.mail_of(other)
    house.turn_until(lambda: bool(mail.asked))
    kind, payload, _ = mail.asked[0]
    owner = next(worker for worker in house.workers.values() if worker.opens)
    house.questions.append(Completion())
    owner.breaks.arrived(Message(kind, house.worker_of(other).slot, 1, len(house.questions), payload))
    return other


def test_a_break_is_told_on_the_oldest_channel(house: House) -> None:
    first, second = channels_with_oplock(house)
    other = open_elsewhere(house)
    assert break_of(first) == c.OPLOCK_LEVEL_II
    assert break_of(second) is None
    other.close_connection()


def test_a_break_that_is_not_heard_is_told_on_another_channel(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.failover.RETRANSMISSIONS", 0.01)
    first, second = channels_with_oplock(house)
    other = open_elsewhere(house)
    assert break_of(second) == c.OPLOCK_LEVEL_II  # on a local socket, what nobody reads is not acknowledged
    assert break_of(first) == c.OPLOCK_LEVEL_II
    house.turn_until(lambda: len(house.worker_of(second).lines) == 1)  # and who acknowledges nothing at all is not there
    other.close_connection()


def test_a_client_whose_machine_does_not_answer_a_break_is_not_there(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.failover.ALONE", 0.01)
    first = first_of(house)
    first.open("file", disposition=c.FILE_CREATE, oplock=c.OPLOCK_LEVEL_BATCH)
    worker = house.worker_of(first)
    other = open_elsewhere(house)
    house.turn_until(lambda: worker.ended)
    other.close_connection()


def test_a_client_that_takes_a_break_may_take_its_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.failover.ALONE", 0.05)
    first = first_of(house)
    first.open("file", disposition=c.FILE_CREATE, oplock=c.OPLOCK_LEVEL_BATCH)
    other = open_elsewhere(house)
    assert break_of(first) == c.OPLOCK_LEVEL_II
    over: list[bool] = []
    house.worker_of(first).loop.later(0.1, lambda: over.append(True))
    house.turn_until(lambda: bool(over))
    assert not house.worker_of(first).ended
    other.close_connection()


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that does not say what has arrived."""
    monkeypatch.setattr(sockets, "progress", lambda _sock: (0, -1, 1.0))
    monkeypatch.setattr("workers.failover.RETRANSMISSIONS", 0.1)


def acknowledge(client: WireClient, file_id: FileId) -> Response:
    return client.call(Command.OPLOCK_BREAK, control.OPLOCK_BREAK.pack(24, c.OPLOCK_LEVEL_II, 0, 0, *file_id))


@pytest.mark.usefixtures("unknown")
def test_a_channel_on_which_nothing_is_heard_is_not_there_when_another_answers(house: House) -> None:
    first, second = first_of(house), fresh(house)
    assert bind(second, first).status == status.SUCCESS
    second.sign = True
    held = first.open("file", disposition=c.FILE_CREATE, oplock=c.OPLOCK_LEVEL_BATCH)
    other = open_elsewhere(house)
    assert over_soon(house, first)
    assert break_of(second) == c.OPLOCK_LEVEL_II
    assert len(house.worker_of(second).lines) == 2
    assert acknowledge(second, held).status == status.SUCCESS
    house.turn_until(lambda: len(house.worker_of(second).lines) == 1)
    assert echo(second).status == status.SUCCESS
    other.close_connection()


@pytest.mark.usefixtures("unknown")
def test_a_channel_whose_client_is_at_work_elsewhere_stays(house: House) -> None:
    first, second = first_of(house), fresh(house)
    assert bind(second, first).status == status.SUCCESS
    second.sign = True
    held = first.open("file", disposition=c.FILE_CREATE, oplock=c.OPLOCK_LEVEL_BATCH)
    other = open_elsewhere(house)
    assert second.write(held, 0, b"what it had cached").status == status.SUCCESS
    assert over_soon(house, first)
    assert break_of(second) == c.OPLOCK_LEVEL_II
    assert acknowledge(second, held).status == status.SUCCESS
    assert break_of(first) == c.OPLOCK_LEVEL_II
    assert len(house.worker_of(second).lines) == 2
    other.close_connection()


@pytest.mark.usefixtures("unknown")
def test_a_channel_on_which_something_is_heard_has_the_break(house: House) -> None:
    first, second = channels_with_oplock(house)
    other = open_elsewhere(house)
    assert echo(first).status == status.SUCCESS
    assert over_soon(house, first)
    assert break_of(second) is None
    other.close_connection()


@pytest.mark.usefixtures("unknown")
@pytest.mark.parametrize("speaks", [False, True])
def test_the_only_channel_has_the_time_of_the_break(house: House, monkeypatch: pytest.MonkeyPatch, speaks: bool) -> None:
    monkeypatch.setattr("workers.failover.ALONE", 0.0)
    monkeypatch.setattr("workers.failover.LAST", 34.7)
    first = first_of(house)
    first.open("file", disposition=c.FILE_CREATE, oplock=c.OPLOCK_LEVEL_BATCH)
    worker = house.worker_of(first)
    other = open_elsewhere(house)
    if speaks:
        assert echo(first).status == status.SUCCESS
        assert over_soon(house, first)
        assert not worker.ended
    else:
        house.turn_until(lambda: worker.ended)
    other.close_connection()


@pytest.mark.usefixtures("unknown")
def test_who_waits_for_itself_is_there(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.failover.ALONE", 0.0)
    monkeypatch.setattr("workers.failover.LAST", 34.7)
    first = first_of(house)
    first.open("file", disposition=c.FILE_CREATE, oplock=c.OPLOCK_LEVEL_BATCH)
    first.send(Request(Command.CREATE, create_body("file")))
    assert over_soon(house, first)
    assert not house.worker_of(first).ended


def over_soon(house: House, client: WireClient) -> bool:
    """Turn until what was to happen soon has happened."""
    over: list[bool] = []
    house.worker_of(client).loop.later(0.4, lambda: over.append(True))
    house.turn_until(lambda: bool(over))
    return True


def test_a_break_is_told_on_the_channel_that_is_left(house: House) -> None:
    first, second = channels_with_oplock(house)
    first.close_connection()
    house.turn_until(lambda: len(house.worker_of(second).lines) == 1)
    other = open_elsewhere(house)
    assert break_of(second) == c.OPLOCK_LEVEL_II
    other.close_connection()


def test_what_is_encrypted_for_a_session_of_another_channel_is_answered(house: House) -> None:
    first, second = first_of(house), first_of(house)
    second.channels[first.session_id] = first.first[first.session_id]
    own, second.session_id, second.seal = second.session_id, first.session_id, True
    answer = echo_of_tree(second)
    assert (answer.status, answer.encrypted) == (status.USER_SESSION_DELETED, True)
    second.session_id, second.seal = own, False
    assert echo(second).status == status.SUCCESS


def echo_of_tree(client: WireClient) -> Response:
    """Something that needs a session."""
    return client.tree_connect("data")


@pytest.mark.parametrize("why", ["ended by its user", "not proven again"])
def test_what_is_encrypted_for_a_session_that_has_ended(house: House, why: str) -> None:
    """Who ended it from elsewhere is told so; after a logon that failed there is nothing to talk about."""
    first, second = first_of(house), fresh(house)
    assert bind(second, first).status == status.SUCCESS
    first.seal = True
    if why == "ended by its user":
        second.sign = True
        assert second.logoff().status == status.SUCCESS
        answer = echo_of_tree(first)
        assert (answer.status, answer.encrypted) == (status.USER_SESSION_DELETED, True)
        return
    assert second.session_setup_raw(b"nobody", second.session_id, sign=True).status == status.LOGON_FAILURE
    with pytest.raises(Closed):
        echo_of_tree(first)


# what a worker that was taken over could say: see binding.asked, handover.arrived


def session_of(house: House, client: WireClient) -> Session:
    return house.worker_of(client).sessions[client.session_id]


def ask_to_join(house: House, sender: WireClient, victim: WireClient, proof: bytes) -> int:
    """The answer to a question that ``sender``'s worker puts to ``victim``'s."""
    worker = house.worker_of(victim)
    terms = terms_of(house.worker_of(sender).lines[0].connection)._replace(client_guid=session_of(house, victim).terms.client_guid)
    fixed = ASK.pack(victim.session_id, Purpose.JOIN, 0, 0, *terms)
    done: Completion[Message] = Completion()
    house.questions.append(done)
    answers: list[int] = []
    worker.loop.spawn(answer_to(done, answers), lambda *_: None)
    binding.asked(worker, Message(CHANNEL_ASK.number, house.worker_of(sender).slot, 1, len(house.questions), fixed + proof))
    house.turn_until(lambda: bool(answers))
    return answers[0]


async def answer_to(done: Completion[Message], answers: list[int]) -> None:
    answers.append(ANSWER.unpack((await done).payload).status)


def joining(house: House, sender: WireClient, victim: WireClient, key: bytes = KEY, **changes: Any) -> bytes:
    """The connection of ``sender`` with a session of ``victim``'s user, as its worker would say it."""
    told = Joining(0x1234, 5, 0, 0, 0, 0, 0, 64, len(key))._replace(**changes)
    connection = passage.pack(house.worker_of(sender).lines[0].connection)
    return pack_move(Moved(victim.session_id, connection, "192.0.2.1", b"", told, bytes(64), key))


def move(house: House, sender: WireClient, victim: WireClient, payload: bytes, descriptors: Sequence[int] | None = None) -> socket.socket:
    """``payload`` goes from ``sender``'s worker to ``victim``'s, by default with one end of a pair; the other end."""
    near, far = socket.socketpair()
    with near:
        sent = tuple(os.dup(fd) for fd in ([near.fileno()] if descriptors is None else descriptors))
        with contextlib.suppress(WireError):
            handover.arrived(house.worker_of(victim), Message(CHANNEL_MOVE.number, house.worker_of(sender).slot, 1, 0, payload, sent))
    return far


def untouched(house: House, victim: WireClient, far: socket.socket) -> None:
    """Nobody has come in, and the victim goes on."""
    house.turn()
    far.settimeout(5)
    with far:
        assert far.recv(1) == b""
    assert len(house.worker_of(victim).lines) == len(house.worker_of(victim).sessions) == 1
    assert echo(victim).status == status.SUCCESS


@pytest.fixture
def forger(house: House) -> WireClient:
    """Somebody else, of whose worker anything is to be expected."""
    return first_of(house, offer(OTHER_GUID), BOB)


def test_a_forged_session_that_was_not_asked_for_is_nobody_s(house: House, forger: WireClient) -> None:
    victim = first_of(house)
    untouched(house, victim, move(house, forger, victim, joining(house, forger, victim)))


def test_who_has_logged_on_says_the_authenticator_alone(house: House, forger: WireClient) -> None:
    """The forger's worker has a key, and knows who the victim is; it has not seen him log on."""
    victim = first_of(house)
    assert ask_to_join(house, forger, victim, proof_of(KEY)) == status.REQUEST_NOT_ACCEPTED
    assert ask_to_join(house, forger, victim, proof_of(b"another key")) == status.REQUEST_NOT_ACCEPTED
    assert ask_to_join(house, forger, victim, b"") == status.REQUEST_NOT_ACCEPTED
    untouched(house, victim, move(house, forger, victim, joining(house, forger, victim)))


def test_the_victim_s_own_proof_serves_nobody_else(house: House, forger: WireClient) -> None:
    victim = first_of(house)
    house.note(house.worker_of(victim).slot, Step(status.SUCCESS, b"", b"victim's own key", house.tokens[ALICE]))
    assert ask_to_join(house, forger, victim, proof_of(b"victim's own key")) == status.REQUEST_NOT_ACCEPTED


def welcome(house: House, sender: WireClient, victim: WireClient) -> None:
    house.note(house.worker_of(sender).slot, Step(status.SUCCESS, b"", KEY, house.tokens[ALICE]))
    assert ask_to_join(house, sender, victim, proof_of(KEY)) == status.SUCCESS


def test_who_has_proven_a_key_comes_with_that_one_and_once(house: House, forger: WireClient) -> None:
    victim, stranger = first_of(house), first_of(house, offer(bytes(16)), BOB)
    welcome(house, forger, victim)
    untouched(house, victim, move(house, stranger, victim, joining(house, forger, victim)))
    untouched(house, victim, move(house, forger, victim, joining(house, forger, victim, b"another key, 16 ")))
    untouched(house, victim, move(house, forger, victim, joining(house, forger, victim)))
    welcome(house, forger, victim)
    with move(house, forger, victim, joining(house, forger, victim)):
        assert {session.require_token().name for session in house.worker_of(victim).sessions.values()} == {ALICE}
        assert len(house.worker_of(victim).sessions) == 2
    house.turn_until(lambda: len(house.worker_of(victim).lines) == 1)


@pytest.mark.parametrize(
    "changes", [{"session_id": 0}, {"nonce_counter": (1 << 56) - 1}, {"nonce_counter": (1 << 64) - 1}, {"session_id": None}]
)
def test_a_session_that_is_none(house: House, forger: WireClient, changes: dict[str, Any]) -> None:
    victim = first_of(house)
    changes = {name: forger.session_id if value is None else value for name, value in changes.items()}
    welcome(house, forger, victim)
    far = move(house, forger, victim, joining(house, forger, victim, **changes))
    house.turn_until(lambda: len(house.worker_of(victim).lines) == 1)
    untouched(house, victim, far)


def test_what_is_no_connection_disturbs_nobody(house: House, forger: WireClient, tmp_path: Path) -> None:
    victim = first_of(house)
    good = joining(house, forger, victim)
    datagrams, listener = socket.socketpair(type=socket.SOCK_DGRAM), socket.create_server(("127.0.0.1", 0))
    with open(tmp_path / "file", "wb") as file, listener, datagrams[0], datagrams[1]:
        for descriptors in ([], [file.fileno()], [file.fileno()] * 2, [datagrams[0].fileno()], [listener.fileno()]):
            welcome(house, forger, victim)
            untouched(house, victim, move(house, forger, victim, good, descriptors))
    fixed = MOVE.size
    for at in range(0, passage.PASSAGE.size, 2):
        welcome(house, forger, victim)
        noise = good[: fixed + at] + b"\xff\xff" + good[fixed + at + 2 :]
        with move(house, forger, victim, noise):
            house.turn()
        house.turn_until(lambda: len(house.worker_of(victim).lines) == 1)
        assert echo(victim).status == status.SUCCESS
