"""When a connection is read, when not, and when it is given up: the transport with an engine that answers whatever it is told to."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from pools.counters import CounterSegment
from pools.iovec import Descriptor, IoVector
from pools.pool import HEADROOM, Buffer, MallocPool
from workers.loop import Loop
from workers.transport.incoming import Incoming
from workers.transport.receive import BATCH, FIXED
from workers.transport.traffic import Traffic

KIB, MIB = 1 << 10, 1 << 20
SMALL = 120  # bytes of a request


class Engine:
    """Answers each frame with ``answer`` bytes. ``takes``: the payload of a large frame does not come into memory, and is thrown away."""

    def __init__(self, traffic: Traffic, answer: int, *, takes: bool) -> None:
        self.traffic = traffic
        self.answer = answer
        self.takes = takes
        self.frames: list[int] = []  # their sizes
        self.asked: list[int] = []  # for a large frame: how much of it had come
        self.most = 0  # bytes that were unsent at once

    def frame(self, view: memoryview, start: int, end: int) -> None:
        self.frames.append(end - start)
        sender = self.traffic.sender
        if self.answer < BATCH:
            buffer, at = sender.room(self.answer)
        else:
            buffer, at = self.traffic.pool.allocate(self.answer), HEADROOM
        sender.queue(buffer.view[at : at + self.answer], buffer)
        self.most = max(self.most, sender.backlog)

    def announced(self, buffer: Buffer, start: int, end: int, size: int) -> Incoming | None:
        self.asked.append(end - start)
        if not self.takes:
            return None
        return Incoming((self.traffic.sock, self.traffic.pipe()), IoVector(), size - (end - start), 0)

    def arriving(self, view: memoryview, incoming: Incoming) -> None:
        incoming.discard()

    def turn_over(self, begun: float) -> None:
        pass


class Rig(Traffic):
    """A connection of somebody who is logged on, and its client's end."""

    def __init__(self, ceiling: int = 256 * MIB, *, answer: int = 900, takes: bool = False, limit: int = 16 * MIB) -> None:
        pool = MallocPool(CounterSegment.create(None, 1).row(0), ceiling, debug=True)
        config = SimpleNamespace(pdu_timeout=30.0)
        worker = SimpleNamespace(loop=Loop(), pool=pool, log=logging.getLogger("test"), config=config, send_limit=limit)
        super().__init__(worker)  # type: ignore[arg-type]
        self.client_address = "somebody"
        self.reason = ""
        self.pauses = 0
        near, self.far = socket.socketpair()
        near.setblocking(False)
        self.far.setblocking(False)
        self.open_traffic(near)
        self.does = Engine(self, answer, takes=takes)
        self.engine = self.does  # type: ignore[assignment]
        self.receiver.one_at_a_time = False
        self.receiver.limit = 9 * MIB
        self.receiver.announce_from = MIB

    def end(self, reason: str) -> None:
        self.ended = self.halted = True
        self.reason = self.reason or reason

    def hurry(self) -> None:
        self.pauses += 1
        self.sender.trim()  # as the worker has all its lines do when a buffer is awaited

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.loop.later(0, lambda: None)  # nothing is waited for
            self.loop.turn()

    def take(self, most: int = 16 * MIB) -> int:
        """The client reads, up to so many bytes: how many came."""
        taken = 0
        while taken < most:
            try:
                taken += len(self.far.recv(min(most - taken, MIB)))
            except BlockingIOError:
                break
        return taken

    def shut(self) -> None:
        self.closed = True
        self.stop_traffic()
        self.close_traffic()
        self.far.close()
        self.loop.close()
        assert self.pool.in_use() == 0


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(*arguments: int, **options: int) -> Rig:
        made.append(Rig(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for rig in made:
        rig.shut()


def framed(size: int) -> bytes:
    return size.to_bytes(4, "big") + bytes(size)


# A buffer for replies is awaited


@pytest.mark.parametrize("here", [FIXED - 1, FIXED, FIXED + 1, 3000])
def test_a_large_frame_that_begins_behind_small_ones_when_no_buffer_is_left(make_rig: Callable[..., Rig], here: int) -> None:
    """The pause comes before anybody is asked about it, and the rest of it after."""
    rig = make_rig(2 * (BATCH + HEADROOM + KIB), takes=True)
    large = framed(2 * MIB)
    rig.far.send(framed(SMALL) * 100 + large[:here])
    for _ in range(10):
        rig.turn()
        rig.take()
    assert rig.pauses
    assert rig.does.frames == [SMALL] * 100
    assert rig.reason == ""
    left = memoryview(large + framed(SMALL))[here:]
    while left:
        left = left[rig.far.send(left[: 64 * KIB]) :]
        rig.turn()
    rig.turn(2)
    assert rig.reason == ""
    assert rig.does.asked == [max(here, FIXED) - 4]
    assert rig.does.frames == [SMALL] * 101


def test_a_large_frame_that_waited_for_a_buffer_may_come_into_memory(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(4 * MIB)
    taken = rig.pool.allocate(4 * MIB - 2 * (BATCH + HEADROOM + KIB))
    large = framed(2 * MIB)
    rig.far.send(framed(SMALL) * 100 + large[:3000])
    for _ in range(10):
        rig.turn()
        rig.take()
    assert rig.pauses
    assert (rig.does.frames, rig.does.asked, rig.reason) == ([SMALL] * 100, [2996], "")
    taken.release()
    left = memoryview(large)[3000:]
    while left:
        left = left[rig.far.send(left[: 64 * KIB]) :]
        rig.turn()
    rig.turn(2)
    assert rig.does.frames == [SMALL] * 100 + [2 * MIB]
    assert rig.reason == ""


def test_a_frame_that_had_begun_before_large_ones_were_announced(make_rig: Callable[..., Rig]) -> None:
    """A session has come to the line meanwhile."""
    rig = make_rig(takes=True)
    rig.receiver.announce_from = 0
    frame = framed(10 * KIB)
    rig.far.send(frame[:3000])
    rig.turn()
    rig.receiver.announce_from = 1
    rig.far.send(frame[3000:9000])
    rig.turn()
    assert (rig.does.asked, rig.reason) == ([2996], "")
    rig.far.send(frame[9000:] + framed(SMALL))
    rig.turn(3)
    assert rig.does.asked == [2996, FIXED - 4]  # the next one is judged as it begins
    assert rig.reason == ""


def test_nobody_is_asked_while_nothing_may_be_executed(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(takes=True)
    large = framed(2 * MIB)
    rig.far.send(large[:3000])
    rig.halted = True  # by a request before it, in the same turn
    rig.turn(2)
    assert rig.does.asked == []
    rig.go_on()
    rig.turn()
    assert rig.does.asked == [2996]
    assert rig.reason == ""


# A frame that stays incomplete


def overdue(rig: Rig) -> None:
    """The time is up."""
    timer = rig._stall
    assert timer is not None
    timer.fire()


def test_a_client_that_is_not_read_is_not_blamed_for_half_a_frame(make_rig: Callable[..., Rig]) -> None:
    """So much is unsent that it is not; it takes that slowly, and sends the rest when it can."""
    rig = make_rig(answer=MIB, limit=2 * MIB)
    rig.far.send(framed(SMALL) * 4 + framed(SMALL)[:60])
    rig.turn()
    assert rig.clogged
    overdue(rig)
    assert rig.reason == ""
    overdue(rig)
    while rig.clogged:
        rig.take(64 * KIB)
        rig.turn()
    overdue(rig)  # there was a time when it was not read
    assert rig.reason == ""
    rig.far.send(framed(SMALL)[60:])
    rig.turn(2)
    assert rig.does.frames == [SMALL] * 5
    rig.take()
    rig.turn(2)
    overdue(rig)
    assert rig._stall is None
    assert rig.reason == ""


def test_half_a_frame_that_stays_half_while_it_is_read(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(answer=MIB, limit=2 * MIB)
    rig.far.send(framed(SMALL) * 4 + framed(SMALL)[:60])
    rig.turn()
    while rig.clogged:
        rig.take(64 * KIB)
        rig.turn()
    overdue(rig)
    rig.far.send(b"\0")
    overdue(rig)  # read all the time since the last
    assert rig.reason == "an incomplete PDU made no progress"
    assert rig._stall is None


def test_what_waits_in_the_socket_is_progress(make_rig: Callable[..., Rig]) -> None:
    """The engine was held up for so long that the timer is due before the socket has been looked at."""
    rig = make_rig(takes=True)
    large = framed(2 * MIB)
    rig.far.send(large[:60])
    rig.turn()
    sent = 60 + rig.far.send(large[60 : 60 + 128 * KIB])
    overdue(rig)
    assert rig.reason == ""
    assert rig.incoming is not None
    overdue(rig)
    assert rig.reason == "an incomplete PDU made no progress"
    assert sent < len(large)


def test_half_a_frame_behind_a_payload_has_its_own_time(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(takes=True)
    left = memoryview(framed(MIB))
    left = left[rig.far.send(left[:FIXED]) :]
    rig.turn()
    while left:
        left = left[rig.far.send(left[: 64 * KIB]) :]
        rig.turn()
    rig.far.send(framed(SMALL)[:60])
    rig.turn()
    overdue(rig)  # set when the payload began
    assert rig.reason == ""
    overdue(rig)
    assert rig.reason == "an incomplete PDU made no progress"


def test_the_end_of_the_stream_is_told_as_that(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.far.send(framed(SMALL)[:60])
    rig.turn()
    rig.far.shutdown(socket.SHUT_WR)
    overdue(rig)
    assert rig.reason == "closed by the client"


def test_a_payload_that_was_thrown_away_goes_nowhere(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    incoming = Incoming((rig.sock, rig.pipe()), IoVector(), 10, 0)
    incoming.discard()
    with pytest.raises(AssertionError):
        incoming.begin(Descriptor(-1), 0, lambda: True, lambda _: None)


# A client that does not take its answers


def test_what_came_in_one_piece_is_executed_as_the_answers_are_taken(make_rig: Callable[..., Rig]) -> None:
    """500 large READs in one receive, and then nothing more: no event tells of those that had to wait."""
    rig = make_rig(answer=MIB, limit=2 * MIB)
    rig.far.send(framed(SMALL) * 500)
    rig.turn(20)
    executed = len(rig.does.frames)
    assert executed < 6
    rig.turn(20)
    assert len(rig.does.frames) == executed
    taken = 0
    for _ in range(20_000):
        taken += rig.take(256 * KIB)
        rig.turn()
        if taken == 500 * MIB:
            break
    assert taken == 500 * MIB
    assert rig.does.most <= 4 * MIB  # one answer beyond the limit, and what the first turn found empty
    assert rig.reason == ""


@pytest.mark.parametrize("one_at_a_time", [False, True])
@pytest.mark.parametrize("buffers", [2, 3, 20])
@pytest.mark.parametrize("limit", [20 * KIB, 63 * KIB, 200 * KIB])
@pytest.mark.parametrize("taken", [3 * KIB, 100 * KIB])
def test_nobody_waits_for_ever(make_rig: Callable[..., Rig], one_at_a_time: bool, buffers: int, limit: int, taken: int) -> None:
    """Too much unsent, no buffer for an answer, or first one and then the other: whoever reads gets all his answers."""
    rig = make_rig(buffers * (BATCH + HEADROOM + KIB), limit=limit)
    rig.receiver.one_at_a_time = one_at_a_time
    rig.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    rig.far.send(framed(SMALL) * 1000)
    got = 0
    for _ in range(10_000):
        rig.turn()
        got += rig.take(taken)
        rig.trim()  # as the worker's tick does
        if got == 900 * 1000:
            break
    assert got == 900 * 1000
    assert rig.does.frames == [SMALL] * 1000
    assert rig.reason == ""
    assert rig.does.most <= max(limit, BATCH) + BATCH


def test_a_buffer_that_comes_while_too_much_is_unsent_changes_nothing(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(answer=MIB, limit=2 * MIB)
    rig.far.send(framed(SMALL) * 10)
    rig.turn()
    executed = len(rig.does.frames)
    rig._pause()
    rig._resume()
    rig.turn(3)
    assert not rig.paused
    assert len(rig.does.frames) == executed
    rig.halt()
    rig.go_on()
    rig.turn(3)
    assert len(rig.does.frames) == executed
    while rig.take() or len(rig.does.frames) < 10:
        rig.turn()
    rig.far.send(framed(SMALL) * 3)
    rig.turn()
    assert (len(rig.does.frames), rig.receiver.in_progress, rig.clogged) == (13, False, True)
    rig.far.send(framed(SMALL))
    read = rig.received
    rig._pause()
    rig._resume()
    rig.turn(3)
    assert rig.received == read
    while rig.take() or len(rig.does.frames) < 14:
        rig.turn()
    assert rig.reason == ""


def test_a_stranger_whose_answers_leave_at_once(make_rig: Callable[..., Rig]) -> None:
    """They are more than he may have unsent, and less than others."""
    rig = make_rig(answer=70 * KIB, limit=MIB)
    rig.receiver.one_at_a_time = True
    rig.receiver.seed(framed(SMALL) * 2)  # as another process has read them
    rig.loop.soon(rig._catch_up)
    rig.turn(3)
    assert rig.does.frames == [SMALL] * 2
    assert rig.take() == 140 * KIB
