"""The hub in one process: real sockets, a clock of the test's own, no forks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from pools import port
from pools.queue import (
    ANSWER_BUSY,
    ANSWER_GONE,
    AUTHD,
    EVERYONE,
    KINDS,
    MASTER,
    MAX_PAYLOAD,
    PEER,
    PEER_DIED,
    PING,
    PONG,
    SERVICES,
    STOP,
    Endpoint,
    Kind,
    Message,
    table,
)
from smbd import hub as hub_module
from smbd.hub import BACKLOG_RECORDS, OPEN_QUESTIONS, STUCK_AFTER, Hub
from smbd.reactor import Reactor

ASK = Kind(0x0200, "ask", 1, 0, MAX_PAYLOAD, frozenset({"worker", "srvsvc"}))
REPLY = Kind(0x0201, "reply", 1, 0, MAX_PAYLOAD, SERVICES)
NOTE = Kind(0x0500, "note", 3, 0, 8192, frozenset({"worker"}))
URGENT = Kind(0x0502, "urgent", 0, 0, 64, frozenset({"worker"}))
HAND = Kind(0x0504, "hand", 3, 2, 64, EVERYONE)
SMALL = Kind(0x0506, "small", 3, 0, 4, EVERYONE)
TEST_KINDS = (*KINDS, ASK, REPLY, NOTE, URGENT, HAND, SMALL)

ALICE, BOB = 16, 17


class House:
    """A hub with its peers' ends."""

    def __init__(self) -> None:
        self.now = 100.0
        self.condemned: list[tuple[int, int, str]] = []
        self.reactor = Reactor()
        self.hub = Hub(table(TEST_KINDS), self.reactor, lambda: self.now, lambda *named: self.condemned.append(named))
        self.ends: dict[int, Endpoint] = {}

    def join(self, slot: int, generation: int = 1) -> Endpoint:
        ours, theirs = port.sockets.record_pair()
        self.ends[slot] = Endpoint(theirs)
        self.hub.attach(slot, generation, ours)
        return self.ends[slot]

    def die(self, slot: int) -> None:
        self.ends.pop(slot).close()
        self.hub.detach(slot)

    def run(self) -> None:
        for _ in range(400):
            self.reactor.turn(0)

    def close(self) -> None:
        for slot in list(self.ends):
            self.die(slot)
        self.reactor.close()


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.close()


def everything(endpoint: Endpoint) -> list[Message]:
    found = []
    while (message := endpoint.receive()) is not None:
        found.append(message)
    return found


def test_a_message_arrives_with_its_true_sender(house: House) -> None:
    alice, bob = house.join(ALICE, 7), house.join(BOB)
    alice.send(BOB, NOTE.number, b"hello")
    house.run()
    (message,) = everything(bob)
    assert (message.kind, message.sender, message.generation, bytes(message.payload)) == (NOTE.number, ALICE, 7, b"hello")


def test_a_question_is_answered_once_and_only_by_who_was_asked(house: House) -> None:
    alice, authd, srvsvc = house.join(ALICE), house.join(AUTHD), house.join(2)
    alice.send(AUTHD, ASK.number, b"?", id=5)
    house.run()
    (question,) = everything(authd)
    srvsvc.send(ALICE, REPLY.number, b"forged", id=5)
    authd.answer(question, b"!")
    authd.answer(question, b"again")
    house.run()
    assert [bytes(message.payload) for message in everything(alice)] == [b"!"]
    assert house.hub.traffic.stray == 2


def test_a_successor_does_not_hear_what_its_predecessor_asked(house: House) -> None:
    alice, authd = house.join(ALICE, 1), house.join(AUTHD)
    alice.send(AUTHD, ASK.number, id=1)
    house.run()
    (question,) = everything(authd)
    house.die(ALICE)
    second = house.join(ALICE, 2)
    second.send(AUTHD, ASK.number, id=1)
    house.run()
    authd.answer(question, b"for the first")
    house.run()
    assert everything(second) == []
    (question,) = everything(authd)
    authd.answer(question, b"for the second")
    house.run()
    assert [bytes(message.payload) for message in everything(second)] == [b"for the second"]


@pytest.mark.parametrize(("slot", "generation"), [(99, 0), (BOB, 9)])
def test_who_is_not_there_is_gone(house: House, slot: int, generation: int) -> None:
    alice = house.join(ALICE)
    house.join(BOB, 1)
    alice.send(slot, ASK.number, id=3, generation=generation)
    alice.send(slot, NOTE.number, generation=generation)
    house.run()
    assert [(message.kind, message.id) for message in everything(alice)] == [(ANSWER_GONE, 3)]


def test_a_question_to_a_worker_that_dies_is_gone(house: House) -> None:
    alice = house.join(ALICE)
    house.join(BOB)
    alice.send(BOB, ASK.number, id=3)
    house.run()
    house.die(BOB)
    house.run()
    assert [(message.kind, message.id) for message in everything(alice)] == [(ANSWER_GONE, 3)]


def test_what_is_sent_to_a_service_before_it_runs_waits_for_it(house: House) -> None:
    house.hub.expect(AUTHD, "authd")
    alice = house.join(ALICE)
    alice.send(AUTHD, ASK.number, b"early", id=1)
    house.run()
    authd = house.join(AUTHD)
    house.run()
    assert [bytes(message.payload) for message in everything(authd)] == [b"early"]


def test_unanswered_questions_are_delivered_again_in_their_order(house: House) -> None:
    alice, authd = house.join(ALICE), house.join(AUTHD)
    for number in (1, 2, 3):
        alice.send(AUTHD, ASK.number, b"%d" % number, id=number)
    house.run()
    authd.answer(everything(authd)[1], b"two")
    house.run()
    house.die(AUTHD)
    alice.send(AUTHD, ASK.number, b"4", id=4)
    house.run()
    authd = house.join(AUTHD, 2)
    house.run()
    messages = everything(authd)
    assert [bytes(message.payload) for message in messages] == [b"1", b"3", b"4"]
    for message in messages:
        authd.answer(message, b"answer to " + bytes(message.payload))
    house.run()
    assert [bytes(message.payload) for message in everything(alice)] == [b"two", b"answer to 1", b"answer to 3", b"answer to 4"]


def test_questions_of_the_dead_are_not_delivered_again(house: House) -> None:
    alice = house.join(ALICE)
    house.join(AUTHD)
    alice.send(AUTHD, ASK.number, id=1)
    house.run()
    house.die(ALICE)
    house.die(AUTHD)
    authd = house.join(AUTHD, 2)
    house.run()
    assert everything(authd) == []


def test_a_question_that_kills_its_service_thrice_is_gone(house: House) -> None:
    alice = house.join(ALICE)
    house.join(AUTHD)
    alice.send(AUTHD, ASK.number, id=1)
    house.run()
    for generation in (2, 3):
        house.die(AUTHD)
        assert len(everything(house.join(AUTHD, generation))) == 1
    house.die(AUTHD)
    house.run()
    assert [message.kind for message in everything(alice)] == [ANSWER_GONE]


def test_a_question_that_waits_is_not_put_back_beside_itself(house: House) -> None:
    alice, authd = house.join(ALICE), house.join(AUTHD)
    for number in range(1, 401):
        alice.send(AUTHD, ASK.number, bytes(3000), id=number)
        house.reactor.turn(0)
        everything(authd)
    house.die(AUTHD)
    house.join(AUTHD, 2)  # takes what its socket holds, and dies
    house.die(AUTHD)
    authd = house.join(AUTHD, 3)
    received: list[int] = []
    for _ in range(20):
        received += [message.id for message in everything(authd)]
        house.run()
    assert received == list(range(1, 401))
    house.die(AUTHD)
    house.run()
    gone = {message.id for message in everything(alice)}  # what all three have taken
    assert 0 < len(gone) < 400
    assert house.hub.traffic.busy == 0


def test_a_service_between_two_processes_needs_no_word_of_what_happens(house: House) -> None:
    alice, authd = house.join(ALICE), house.join(AUTHD)
    house.hub.broadcast(PEER_DIED, PEER.pack(BOB, 1), workers=True, services=True)
    assert [message.kind for message in everything(authd)] == [PEER_DIED]
    house.die(AUTHD)
    for _ in range(2):
        house.hub.broadcast(PEER_DIED, PEER.pack(BOB, 2), workers=True, services=True)
    assert everything(house.join(AUTHD, 2)) == []
    assert len(everything(alice)) == 3


def test_the_last_words_of_the_dead_are_delivered(house: House) -> None:
    alice, bob = house.join(ALICE), house.join(BOB)
    alice.send(BOB, NOTE.number, b"bye")
    house.die(ALICE)
    assert [bytes(message.payload) for message in everything(bob)] == [b"bye"]


@pytest.mark.parametrize(
    ("send", "reason"),
    [
        (lambda end: end.send(BOB, 0x7777), "unknown kind"),
        (lambda end: end.send(BOB, REPLY.number, id=1), "a worker may not send"),
        (lambda end: end.send(BOB, SMALL.number, b"12345"), "5 bytes"),
        (lambda end: end.send(BOB, NOTE.number, descriptors=[0]), "1 descriptors"),
        (lambda end: end._sock.send(b"short"), "malformed"),
    ],
)
def test_what_is_not_permitted_condemns_its_sender_and_is_not_delivered(
    house: House, send: Callable[[Endpoint], None], reason: str
) -> None:
    alice, bob = house.join(ALICE, 4), house.join(BOB)
    send(alice)
    alice.send(BOB, NOTE.number, b"and then")
    house.run()
    assert everything(bob) == []
    ((slot, generation, why),) = house.condemned
    assert (slot, generation) == (ALICE, 4)
    assert reason in why


def test_descriptors_travel_and_none_is_left_behind(house: House) -> None:
    alice, bob = house.join(ALICE), house.join(BOB)
    before = len(os.listdir("/proc/self/fd"))
    read, write = os.pipe()
    alice.send(BOB, HAND.number, descriptors=[write])
    os.close(write)
    house.run()
    (message,) = everything(bob)
    (arrived,) = message.descriptors
    os.write(arrived, b"through")
    assert os.read(read, 10) == b"through"
    os.close(arrived)
    alice.send(99, HAND.number, descriptors=[read])
    os.close(read)
    house.run()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_full_backlog_is_busy_and_its_order_is_by_priority(house: House) -> None:
    alice, bob = house.join(ALICE), house.join(BOB)
    for number in range(3000):
        alice.send(BOB, NOTE.number, b"%04d" % number + bytes(4000))
        house.reactor.turn(0)
    alice.send(BOB, URGENT.number, b"now")
    alice.send(BOB, ASK.number, id=1)
    house.run()
    assert [message.kind for message in everything(alice)] == [ANSWER_BUSY]
    received: list[Message] = []
    for _ in range(2000):
        received += everything(bob)
        house.reactor.turn(0)
    notes = [bytes(message.payload[:4]) for message in received if message.kind == NOTE.number]
    assert len(notes) >= BACKLOG_RECORDS
    assert notes == sorted(notes)
    house.condemned.clear()


def test_an_urgent_message_overtakes_what_waits(house: House) -> None:
    alice, bob = house.join(ALICE), house.join(BOB)
    for _ in range(400):
        alice.send(BOB, NOTE.number, bytes(4000))
        house.reactor.turn(0)
    alice.send(BOB, URGENT.number)
    house.run()
    received = everything(bob)
    position = len(received)
    house.run()
    received += everything(bob)
    assert received[position].kind == URGENT.number


def test_who_asks_too_much_is_busy(house: House) -> None:
    alice = house.join(ALICE)
    house.join(AUTHD)
    for number in range(1, OPEN_QUESTIONS + 2):
        alice.send(AUTHD, ASK.number, id=number)
        house.reactor.turn(0)
        everything(house.ends[AUTHD])
    house.run()
    assert [(message.kind, message.id) for message in everything(alice)] == [(ANSWER_BUSY, OPEN_QUESTIONS + 1)]


def test_who_does_not_move_is_condemned(house: House) -> None:
    alice, bob = house.join(ALICE), house.join(BOB)
    for _ in range(600):
        alice.send(BOB, NOTE.number, bytes(4000))
        house.reactor.turn(0)
    house.now += STUCK_AFTER - 1
    house.hub.tick(house.now)
    assert house.condemned == []
    everything(bob)
    house.run()
    house.now += STUCK_AFTER - 1
    house.hub.tick(house.now)
    assert house.condemned == []
    house.now += 2
    house.hub.tick(house.now)
    assert [slot for slot, _, _ in house.condemned] == [BOB]


def test_who_closes_its_end_and_lives_on_is_condemned(house: House) -> None:
    house.join(ALICE).close()
    house.run()
    house.now += STUCK_AFTER + 1
    house.hub.tick(house.now)
    assert [slot for slot, _, _ in house.condemned] == [ALICE]


def test_an_abandoned_question_is_forgotten(house: House) -> None:
    alice, authd = house.join(ALICE), house.join(AUTHD)
    alice.send(AUTHD, ASK.number, id=1)
    house.run()
    house.now += hub_module.FORGET_AFTER + 1
    house.hub.tick(house.now)
    authd.answer(everything(authd)[0], b"late")
    house.run()
    assert everything(alice) == []


def test_the_master_answers_a_ping_and_tells_everyone(house: House) -> None:
    alice, authd = house.join(ALICE), house.join(AUTHD)
    alice.send(MASTER, PING, b"x", id=1)
    house.run()
    house.hub.broadcast(STOP, workers=True, services=False)
    assert [(message.kind, message.sender) for message in everything(alice)] == [(PONG, MASTER), (STOP, MASTER)]
    assert everything(authd) == []
