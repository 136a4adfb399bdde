"""The message queue's child side: records, endpoint, service."""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools import port, queue
from pools.arena import Arena
from pools.counters import HEARTBEAT, Row
from pools.endpoint import LOCAL_BACKLOG
from pools.layout import WireError
from pools.pool import HEADROOM, DynamicPool, PoolExhausted
from pools.queue import (
    ANSWER_BUSY,
    ANSWER_GONE,
    AUTHD,
    DROP_PEER,
    MASTER,
    MAX_PAYLOAD,
    PEER,
    PING,
    PONG,
    RECORD,
    STOP,
    Answer,
    AskBusy,
    AskGone,
    AskTimeout,
    Deferred,
    Endpoint,
    HubClosed,
    Kind,
    Message,
    Service,
)

WORKER = 17
ECHO = 0x0F00


class Hub:
    """A fake master at the other end of the pair."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(True)
        sock.settimeout(10)

    def deliver(self, kind: int, payload: bytes = b"", *, sender: int = WORKER, generation: int = 5, id: int = 0) -> None:
        self.sock.send(queue.pack(sender, kind, payload, id=id, generation=generation))

    def take(self) -> tuple[queue.Record, bytes]:
        head, payload = queue.unpack(memoryview(self.sock.recv(queue.MAX_RECORD)))
        return head, bytes(payload)


@pytest.fixture
def pair() -> Iterator[tuple[Endpoint, Hub]]:
    child, master = port.sockets.record_pair()
    yield Endpoint(child), Hub(master)
    child.close()
    master.close()


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """This process may have so many more."""
    free = [os.dup(0) for _ in range(count + 1)]
    for fd in free:
        os.close(fd)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- records ---------------------------------------------------------------------------------------------------------

U32 = st.integers(0, 2**32 - 1)
RECORDS = st.builds(
    lambda peer, generation, kind, id, payload: (peer, generation, kind, id, payload),
    U32, U32, st.integers(0, 0xFFFF), st.integers(0, 2**64 - 1), st.binary(max_size=200),
)  # fmt: skip


@given(RECORDS)
def test_records_survive_the_round_trip(record: tuple[int, int, int, int, bytes]) -> None:
    peer, generation, kind, id, payload = record
    head, body = queue.unpack(memoryview(queue.pack(peer, kind, payload, id=id, generation=generation)))
    assert (head.peer, head.generation, head.kind, head.id, bytes(body)) == record


@given(RECORDS, st.data())
def test_every_truncation_and_every_tail_is_refused(record: tuple[int, int, int, int, bytes], data: st.DataObject) -> None:
    packed = queue.pack(record[0], record[2], record[4], id=record[3], generation=record[1])
    cut = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(WireError):
        queue.unpack(memoryview(packed[:cut]))
    with pytest.raises(WireError):
        queue.unpack(memoryview(packed + data.draw(st.binary(min_size=1, max_size=20))))


def test_no_two_kinds_share_a_number() -> None:
    assert set(queue.table(queue.KINDS)) == {kind.number for kind in queue.KINDS}
    with pytest.raises(ValueError, match="both"):
        queue.table((*queue.KINDS, Kind(STOP, "other")))


def test_roles_of_slots() -> None:
    assert [queue.sender_class(slot) for slot in (0, 1, 2, 3, 16, 999)] == ["master", "authd", "srvsvc", "broker", "worker", "worker"]
    with pytest.raises(ValueError):
        queue.sender_class(7)


# --- endpoint --------------------------------------------------------------------------------------------------------


def test_send_and_receive(pair: tuple[Endpoint, Hub]) -> None:
    endpoint, hub = pair
    assert endpoint.receive() is None
    endpoint.send(AUTHD, ECHO, b"hello", id=endpoint.next_id(), generation=2)
    head, payload = hub.take()
    assert (head.peer, head.kind, head.id, head.generation, payload) == (AUTHD, ECHO, 1, 2, b"hello")
    hub.deliver(ECHO + 1, b"world", sender=AUTHD, generation=9, id=1)
    assert endpoint.receive() == Message(ECHO + 1, AUTHD, 9, 1, b"world")
    assert endpoint.receive() is None


def test_an_answer_names_the_process_that_asked(pair: tuple[Endpoint, Hub]) -> None:
    endpoint, hub = pair
    hub.deliver(ECHO, b"?", generation=8, id=33)
    request = endpoint.receive()
    assert request is not None
    endpoint.answer(request, b"!")
    head, payload = hub.take()
    assert (head.peer, head.generation, head.kind, head.id, payload) == (WORKER, 8, ECHO + 1, 33, b"!")


def test_the_end_of_the_master(pair: tuple[Endpoint, Hub]) -> None:
    endpoint, hub = pair
    hub.deliver(ECHO, b"last")
    hub.sock.close()
    assert endpoint.receive() is not None
    with pytest.raises(HubClosed):
        endpoint.receive()
    with pytest.raises(HubClosed):
        endpoint.send(MASTER, ECHO)


def test_descriptors_travel_and_belong_to_the_taker(pair: tuple[Endpoint, Hub]) -> None:
    endpoint, hub = pair
    reader, writer = os.pipe()
    port.sockets.send_record(hub.sock, (queue.pack(WORKER, ECHO, b"take"),), (writer,))
    os.close(writer)
    message = endpoint.receive()
    assert message is not None
    (received,) = message.descriptors
    assert not os.get_inheritable(received)
    os.write(received, b"x")
    assert os.read(reader, 1) == b"x"
    message.close_descriptors()
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_too_many_descriptors_are_closed_and_the_record_refused(pair: tuple[Endpoint, Hub]) -> None:
    endpoint, hub = pair
    pipes = [os.pipe() for _ in range(queue.MAX_DESCRIPTORS + 1)]
    port.sockets.send_record(hub.sock, (queue.pack(WORKER, ECHO),), [writer for _, writer in pipes])
    for _, writer in pipes:
        os.close(writer)
    with pytest.raises(WireError):
        endpoint.receive()
    for reader, _ in pipes:
        assert os.read(reader, 1) == b""
        os.close(reader)


@pytest.mark.parametrize("left", [0, 1])
def test_descriptors_that_do_not_fit_are_lost_and_the_words_are_not(pair: tuple[Endpoint, Hub], left: int) -> None:
    endpoint, hub = pair
    pipes = [os.pipe() for _ in range(2)]
    port.sockets.send_record(hub.sock, (queue.pack(WORKER, ECHO, b"take"),), [writer for _, writer in pipes])
    hub.deliver(ECHO, b"next")
    with descriptors_left(left):
        message, after = endpoint.receive(), endpoint.receive()
    assert message == Message(ECHO, WORKER, 0, 0, b"take")
    assert after is not None
    assert after.payload == b"next"
    for reader, writer in pipes:
        os.close(writer)
        assert os.read(reader, 1) == b""  # nobody has the other end
        os.close(reader)


def test_a_descriptor_that_cannot_be_kept_is_not_sent(pair: tuple[Endpoint, Hub]) -> None:
    endpoint, _ = pair
    while not endpoint.wants_write:
        endpoint.send(AUTHD, ECHO, bytes(4096))
    reader, writer = os.pipe()
    with descriptors_left(1), pytest.raises(AskBusy):
        endpoint.send(AUTHD, ECHO, descriptors=(writer, writer))
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_an_odd_number_of_descriptors_is_not_one_more(pair: tuple[Endpoint, Hub]) -> None:
    # Room for three descriptors is rounded up to room for four.
    endpoint, hub = pair
    reader, writer = os.pipe()
    port.sockets.send_record(hub.sock, (queue.pack(WORKER, ECHO),), (writer,) * 4)
    _, descriptors, truncated = port.sockets.receive_record(endpoint._sock, (bytearray(100),), 3)
    assert truncated
    assert len(descriptors) == 3
    os.close(writer)
    for fd in descriptors:
        os.close(fd)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_full_socket_keeps_order_and_descriptors(pair: tuple[Endpoint, Hub]) -> None:
    endpoint, hub = pair
    sent = 0
    while not endpoint.wants_write:
        endpoint.send(AUTHD, ECHO, sent.to_bytes(4, "big") * 1000)
        sent += 1
    reader, writer = os.pipe()
    endpoint.send(AUTHD, ECHO, sent.to_bytes(4, "big"), descriptors=(writer,))
    os.close(writer)
    for expected in range(sent):
        assert hub.take()[1][:4] == expected.to_bytes(4, "big")
        endpoint.flush()
    assert not endpoint.wants_write
    size, descriptors, _ = port.sockets.receive_record(hub.sock, (bytearray(100),), 1)
    assert size == RECORD.size + 4
    os.close(descriptors[0])
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_hub_that_takes_nothing_is_busy_in_the_end(pair: tuple[Endpoint, Hub]) -> None:
    endpoint, _ = pair
    while not endpoint.wants_write:
        endpoint.send(AUTHD, ECHO, bytes(4096))
    for _ in range(LOCAL_BACKLOG - 1):
        endpoint.send(AUTHD, ECHO, bytes(4096))
    with pytest.raises(AskBusy):
        endpoint.send(AUTHD, ECHO, bytes(4096))


def test_what_fits_no_record_is_refused(pair: tuple[Endpoint, Hub]) -> None:
    endpoint, hub = pair
    endpoint.send(AUTHD, ECHO, bytes(MAX_PAYLOAD))
    assert len(hub.take()[1]) == MAX_PAYLOAD
    with pytest.raises(ValueError):
        endpoint.send(AUTHD, ECHO, bytes(MAX_PAYLOAD + 1))


def test_large_payloads_stay_in_a_pool_buffer_small_ones_do_not() -> None:
    arena = Arena.create(20 << 20)
    arena.map()
    pool = DynamicPool(arena, Row.private(), lambda number, slabs: None, lambda number, slabs: None)
    child, master = port.sockets.record_pair()
    endpoint, hub = Endpoint(child, pool.allocate), Hub(master)
    assert endpoint.receive() is None
    assert pool.in_use() == 0
    hub.deliver(ECHO, b"small")
    message = endpoint.receive()
    assert message is not None
    assert (message.payload, message.buffer, pool.in_use()) == (b"small", None, 0)
    hub.deliver(ECHO, b"L" * MAX_PAYLOAD)
    message = endpoint.receive()
    assert message is not None
    assert message.buffer is not None
    assert pool.in_use() == 1
    assert bytes(message.payload) == b"L" * MAX_PAYLOAD
    assert message.buffer.view[HEADROOM + RECORD.size] == ord("L")
    message.release()
    assert pool.in_use() == 0


def test_an_exhausted_pool_does_not_stop_the_queue() -> None:
    def exhausted(size: int) -> queue.Message:
        raise PoolExhausted(size)

    child, master = port.sockets.record_pair()
    endpoint, hub = Endpoint(child, exhausted), Hub(master)  # type: ignore[arg-type]
    hub.deliver(ECHO, b"L" * MAX_PAYLOAD)
    message = endpoint.receive()
    assert message is not None
    assert (len(message.payload), message.buffer) == (MAX_PAYLOAD, None)


# --- service ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def serving(pair: tuple[Endpoint, Hub]) -> Iterator[tuple[Callable[..., Service], Hub]]:
    """Start a service on a thread with the handlers given; it is stopped at the end."""
    endpoint, hub = pair
    threads: list[threading.Thread] = []

    def start(handlers: dict[int, queue.Handler], row: Row | None = None, prepare: Callable[[Service], None] | None = None) -> Service:
        service = Service(endpoint, handlers, row)
        if prepare is not None:
            prepare(service)
        threads.append(threading.Thread(target=service.run))
        threads[-1].start()
        return service

    yield start, hub
    for thread in threads:
        if thread.is_alive():
            hub.deliver(STOP, sender=MASTER)
        thread.join(10)
        assert not thread.is_alive()


def test_a_handler_answers(serving: tuple[Callable[..., Service], Hub]) -> None:
    start, hub = serving
    start({ECHO: lambda message: bytes(message.payload)[::-1]})
    hub.deliver(ECHO, b"abc", id=7)
    head, payload = hub.take()
    assert (head.peer, head.generation, head.kind, head.id, payload) == (WORKER, 5, ECHO + 1, 7, b"cba")


def test_a_notice_is_not_answered_and_ping_is(serving: tuple[Callable[..., Service], Hub]) -> None:
    start, hub = serving
    seen: list[Message] = []
    start({ECHO: seen.append})
    hub.deliver(ECHO, b"notice")
    hub.deliver(PING, b"alive?", sender=MASTER, id=3)
    head, payload = hub.take()
    assert (head.kind, head.id, payload) == (PONG, 3, b"alive?")
    assert [message.payload for message in seen] == [b"notice"]


@pytest.mark.parametrize("early", [True, False])
def test_a_deferred_answer(serving: tuple[Callable[..., Service], Hub], early: bool) -> None:
    start, hub = serving
    later: list[Deferred] = []

    def handle(message: Message) -> Deferred:
        deferred = Deferred()
        if early:
            deferred.answer(b"done")
        later.append(deferred)
        return deferred

    def finish(message: Message) -> None:
        later[0].answer(b"done")

    start({ECHO: handle, ECHO + 2: finish})
    hub.deliver(ECHO, b"slow", id=70)
    if not early:
        hub.deliver(ECHO + 2)
    head, payload = hub.take()
    assert (head.peer, head.kind, head.id, payload) == (WORKER, ECHO + 1, 70, b"done")


def test_an_answer_with_a_descriptor_closes_the_services_own(serving: tuple[Callable[..., Service], Hub]) -> None:
    start, hub = serving
    reader, writer = os.pipe()
    start({ECHO: lambda message: Answer(b"fd", (writer,))})
    hub.deliver(ECHO, id=1)
    hub.sock.setblocking(True)
    select_poller = port.polling.poller()
    select_poller.register(hub.sock.fileno(), port.READABLE)
    assert select_poller.poll(10)
    _, descriptors, _ = port.sockets.receive_record(hub.sock, (bytearray(100),), 1)
    hub.deliver(PING, sender=MASTER)
    hub.take()
    os.close(descriptors[0])
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_what_no_honest_worker_sends_ends_the_worker(serving: tuple[Callable[..., Service], Hub]) -> None:
    start, hub = serving

    def refuse(message: Message) -> bytes:
        raise WireError("no")

    start({ECHO: refuse})
    for kind in (ECHO, 0x0EEE):
        hub.deliver(kind, b"bad", generation=12)
        head, payload = hub.take()
        assert (head.peer, head.kind) == (MASTER, DROP_PEER)
        assert PEER.unpack(payload) == (WORKER, 12)


def test_stop_runs_its_handler_and_ends(pair: tuple[Endpoint, Hub]) -> None:
    endpoint, hub = pair
    seen: list[int] = []
    service = Service(endpoint, {STOP: lambda message: seen.append(message.kind)})
    hub.deliver(STOP, sender=MASTER)
    service.run()
    assert seen == [STOP]


def test_the_masters_end_is_the_services(pair: tuple[Endpoint, Hub]) -> None:
    endpoint, hub = pair
    hub.sock.close()
    Service(endpoint, {}).run()


def test_timers_and_descriptors(serving: tuple[Callable[..., Service], Hub]) -> None:
    start, hub = serving
    reader, writer = os.pipe()
    row = Row.private()
    seen: list[bytes] = []

    def prepare(service: Service) -> None:
        def readable() -> None:
            seen.append(os.read(reader, 10))
            service.unwatch(reader)
            service.send(MASTER, ECHO, b"read")

        service.watch(reader, readable)
        service.after(0.0, lambda: service.send(MASTER, ECHO, b"once"))

    start({}, row, prepare)
    assert hub.take()[1] == b"once"
    os.write(writer, b"data")
    assert hub.take()[1] == b"read"
    assert seen == [b"data"]
    assert row.words[HEARTBEAT] > 0
    os.close(reader)
    os.close(writer)


def test_a_repeating_timer(serving: tuple[Callable[..., Service], Hub]) -> None:
    start, hub = serving
    start({}, None, lambda service: service.every(0.001, lambda: service.send(MASTER, ECHO, b"tick")))
    assert [hub.take()[1] for _ in range(3)] == [b"tick"] * 3


def test_ask_waits_and_keeps_what_arrives_meanwhile(serving: tuple[Callable[..., Service], Hub]) -> None:
    start, hub = serving
    box: list[Service] = []

    def handle(message: Message) -> bytes:
        return b"<" + bytes(box[0].ask(AUTHD, 0x0200, b"who").payload) + b">"

    box.append(start({ECHO: handle, ECHO + 2: lambda message: b"second"}))
    hub.deliver(ECHO, id=1)
    question, payload = hub.take()
    assert (question.peer, question.kind, payload) == (AUTHD, 0x0200, b"who")
    hub.deliver(ECHO + 2, id=2)
    hub.deliver(0x0201, b"stale", sender=AUTHD, id=question.id + 100)
    hub.deliver(0x0201, b"alice", sender=AUTHD, id=question.id)
    assert [hub.take()[1] for _ in range(2)] == [b"<alice>", b"second"]


@pytest.mark.parametrize(("kind", "error"), [(ANSWER_BUSY, AskBusy), (ANSWER_GONE, AskGone)])
def test_ask_hears_busy_and_gone(pair: tuple[Endpoint, Hub], kind: int, error: type[Exception]) -> None:
    endpoint, hub = pair
    hub.deliver(kind, sender=MASTER, id=1)
    with pytest.raises(error):
        Service(endpoint, {}).ask(AUTHD, 0x0200)


def test_ask_times_out(pair: tuple[Endpoint, Hub]) -> None:
    endpoint, _ = pair
    with pytest.raises(AskTimeout):
        Service(endpoint, {}).ask(AUTHD, 0x0200, timeout=0.01)


def test_a_question_without_a_master(pair: tuple[Endpoint, Hub]) -> None:
    endpoint, hub = pair
    service = Service(endpoint, {})
    hub.sock.close()
    with pytest.raises(HubClosed):
        service.ask(AUTHD, 0x0200)


def test_requests_beyond_the_backlog_hear_busy_during_an_ask(pair: tuple[Endpoint, Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint, hub = pair
    monkeypatch.setattr(queue, "LOCAL_BACKLOG", 2)
    for id in (11, 12, 13):
        hub.deliver(ECHO, id=id)
    hub.deliver(0x0201, b"ok", sender=AUTHD, id=1)
    assert Service(endpoint, {}).ask(AUTHD, 0x0200).payload == b"ok"
    hub.take()
    head, _ = hub.take()
    assert (head.peer, head.generation, head.kind, head.id) == (WORKER, 5, ANSWER_BUSY, 13)
