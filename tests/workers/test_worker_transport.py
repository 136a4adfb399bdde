"""Frames from a stream and replies to one: any cutting of the bytes, held buffers, waiting for the pool, partial sends."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools.counters import CounterSegment
from pools.layout import WireError
from pools.pool import HEADROOM, MAX_CAPACITY, Buffer, MallocPool, PoolExhausted
from workers.transport.receive import BATCH, Fill, Receiver
from workers.transport.send import Sender

MEBIBYTE = 1 << 20


class Line:
    """A socket pair, a pool, and the worker's ends of both."""

    def __init__(self, ceiling: int = 64 * MEBIBYTE) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.setblocking(False)
        self.pool = MallocPool(CounterSegment.create(None, 1).row(0), ceiling, debug=True)
        self.resumed = 0
        self.receiver = Receiver(self.near, self.pool, self.resume, 16 * MEBIBYTE)
        self.receiver.one_at_a_time = False
        self.sender = Sender(self.near, self.pool)

    def resume(self) -> None:
        self.resumed += 1

    def frames(self) -> list[bytes]:
        return [bytes(view[start:end]) for view, start, end in iter(self.receiver.frame, None)]

    def feed(self, data: bytes) -> list[bytes]:
        """Everything sent and read, as it fits."""
        got: list[bytes] = []
        while data:
            data = data[self.far.send(data[:50000]) :]
            while self.receiver.fill() is Fill.DATA:
                got += self.frames()
        return got

    def drain(self, size: int) -> bytes:
        taken = b""
        while len(taken) < size:
            self.sender.flush()
            taken += self.far.recv(1 << 20)
        return taken

    def close(self) -> None:
        self.receiver.close()
        self.sender.close()
        self.near.close()
        self.far.close()
        assert self.pool.in_use() == 0


@pytest.fixture
def make_line() -> Iterator[Callable[..., Line]]:
    made: list[Line] = []

    def make(ceiling: int = 64 * MEBIBYTE) -> Line:
        made.append(Line(ceiling))
        return made[-1]

    yield make
    for line in made:
        line.close()


@pytest.fixture
def line(make_line: Callable[..., Line]) -> Line:
    return make_line()


def framed(*payloads: bytes) -> bytes:
    return b"".join(len(payload).to_bytes(4, "big") + payload for payload in payloads)


def test_a_batch_of_frames(line: Line) -> None:
    payloads = [bytes([number]) * (number + 1) for number in range(100)]
    assert line.feed(framed(*payloads)) == payloads


def test_byte_by_byte(line: Line) -> None:
    got = []
    for byte in framed(b"one", b"", b"three" * 10).replace(b"\0\0\0\0", b"\x85\0\0\0"):
        got += line.feed(bytes([byte]))
    assert got == [b"one", b"three" * 10]  # a keep-alive is no frame


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20), st.lists(st.integers(1, 400), max_size=40), st.booleans())
def test_any_cutting_gives_the_same_frames(payloads: list[bytes], cuts: list[int], one_at_a_time: bool) -> None:
    line = Line()
    line.receiver.one_at_a_time = one_at_a_time
    data, got = framed(*payloads), []
    for cut in [*cuts, len(data)]:
        part, data = data[:cut], data[cut:]
        got += line.feed(part)
    assert got == payloads
    line.close()


def test_large_frames_between_small_ones(line: Line) -> None:
    payloads = [b"a", b"b" * 100000, b"c", b"d" * MEBIBYTE, b"e" * 65536, b"f" * 70000]
    assert line.feed(framed(*payloads)) == payloads


def test_the_largest_frame_fits_the_largest_buffer(line: Line) -> None:
    most = HEADROOM + MAX_CAPACITY - 4
    assert [len(frame) for frame in line.feed(framed(bytes(most), b"x"))] == [most, 1]


def test_one_at_a_time_reads_no_byte_of_the_next_frame(line: Line) -> None:
    line.receiver.one_at_a_time = True
    line.far.send(framed(b"one", b"two"))
    assert line.receiver.fill() is Fill.DATA  # the length
    assert line.receiver.fill() is Fill.DATA
    assert line.frames() == [b"one"]
    assert line.near.recv(100) == framed(b"two")


def test_a_buffer_that_is_held_is_not_written_again(line: Line) -> None:
    line.far.send(framed(b"first"))
    line.receiver.fill()
    view, start, end = line.receiver.frame()
    held = line.receiver.buffer
    assert held is not None
    held.hold()
    assert line.feed(framed(*[b"x" * 1000] * 100)) == [b"x" * 1000] * 100
    assert bytes(view[start:end]) == b"first"
    held.release()


def test_a_large_buffer_goes_back_when_the_client_is_quiet(line: Line) -> None:
    data = framed(bytes(MEBIBYTE))
    while not line.frames():
        data = data[line.far.send(data[:50000]) :]
        line.receiver.fill()
    assert line.receiver.buffer is not None
    line.receiver.trim()
    assert line.receiver.buffer is None
    assert line.feed(framed(b"next")) == [b"next"]
    line.far.send(framed(bytes(200000))[:100000])
    while line.receiver.fill() is Fill.DATA:
        assert line.frames() == []
    line.receiver.trim()
    assert line.receiver.in_progress


def test_a_frame_that_the_pool_cannot_hold_now_waits(make_line: Callable[..., Line]) -> None:
    line = make_line(3 * MEBIBYTE)
    taken = line.pool.allocate(2 * MEBIBYTE)
    data = framed(b"z" * (2 * MEBIBYTE - 300))
    line.far.send(data[:1000])
    assert line.receiver.fill() is Fill.DATA
    assert line.frames() == []
    assert line.receiver.fill() is Fill.WAITING
    assert line.resumed == 0
    taken.release()
    assert line.resumed == 1
    assert line.feed(data[1000:]) == [data[4:]]


@pytest.mark.parametrize("before", [[], [1000], [BATCH - 200]])
def test_a_large_frame_that_nobody_was_asked_about_is_received(line: Line, before: list[int]) -> None:
    """However much of it is here, and wherever in the buffer: it is not taken for the end of the stream."""
    data = framed(*map(bytes, before), b"w" * MEBIBYTE)
    sent = line.far.send(data[: 2 * BATCH])
    assert line.receiver.fill() is Fill.DATA
    assert [len(frame) for frame in line.frames()] == before
    line.receiver.announce_from = 1
    got: list[bytes] = []
    while not got:
        if sent < len(data):
            sent += line.far.send(data[sent : sent + 50000])
        assert line.receiver.fill() is Fill.DATA
        got = line.frames()
    assert got == [b"w" * MEBIBYTE]


def test_a_fill_behind_a_whole_frame_is_not_the_end(line: Line) -> None:
    line.receiver.one_at_a_time = True
    line.far.send(framed(b"one", b"two"))
    for _ in range(3):
        assert line.receiver.fill() is Fill.DATA
    assert line.frames() == [b"one"]


def test_a_frame_that_can_never_be_held(make_line: Callable[..., Line]) -> None:
    line = make_line(MEBIBYTE)
    line.far.send(framed(bytes(4 * MEBIBYTE))[:1000])
    line.receiver.fill()
    assert line.frames() == []
    with pytest.raises(PoolExhausted):
        line.receiver.fill()


@pytest.mark.parametrize("prefix", [b"\1\0\0\4", b"\0\0\0\0", b"\0\xff\xff\xff", b"\x85\0\0\1"])
def test_nonsense_in_place_of_a_length(line: Line, prefix: bytes) -> None:
    line.receiver.limit = BATCH
    line.far.send(prefix + b"data")
    line.receiver.fill()
    with pytest.raises(WireError):
        line.frames()


def test_the_end_of_the_stream(line: Line) -> None:
    assert line.receiver.fill() is Fill.NOTHING
    line.far.close()
    assert line.receiver.fill() is Fill.CLOSED


def reply(line: Line, data: bytes) -> None:
    buffer, start = line.sender.room(len(data))
    buffer.view[start : start + len(data)] = data
    line.sender.queue(buffer.view[start : start + len(data)], buffer)


def test_small_replies_share_a_buffer_and_leave_in_order(line: Line) -> None:
    for number in range(200):
        reply(line, b"%03d" % number)
    assert line.pool.in_use() == 1
    assert line.sender.flush()
    assert line.far.recv(1000) == b"".join(b"%03d" % number for number in range(200))
    assert line.pool.in_use() == 1  # kept for the next replies, until the client is quiet
    line.sender.trim()
    assert line.pool.in_use() == 0


def test_partial_sends_go_on_where_they_stopped(line: Line) -> None:
    large: list[Buffer] = [line.pool.allocate(MEBIBYTE) for _ in range(3)]
    expected = b""
    for number, buffer in enumerate(large):
        reply(line, b"small%d" % number)
        content = bytes([number]) * MEBIBYTE
        buffer.payload[:] = content
        line.sender.queue(buffer.payload, buffer)
        expected += b"small%d" % number + content
    assert not line.sender.flush()
    assert 0 < line.sender.backlog < len(expected)
    assert line.drain(len(expected)) == expected
    assert line.sender.backlog == 0
    line.sender.trim()
    assert line.pool.in_use() == 0


def test_what_is_appended_leaves_between_its_neighbours_once(line: Line) -> None:
    """Whatever is queued in between, and whatever the socket takes at a time."""
    expected = b""
    for number in range(1000):
        view, at = line.sender.reserve(1000)
        view[at : at + 4] = b"lost"  # reserved and not appended: as if it had never been
        if number % 3:
            view, at = line.sender.reserve(1016)
            view[at : at + 1000] = part = b"%04d" % number * 250
            line.sender.append(at + 1000)
        else:
            part = b"<%d>" % number
            reply(line, part)
        expected += part
        assert line.sender.backlog == len(expected)
    assert not line.sender.flush()
    view, at = line.sender.reserve(100)
    view[at : at + 4] = b"last"
    line.sender.append(at + 4)
    assert line.drain(len(expected) + 4) == expected + b"last"
    assert line.sender.backlog == 0
    line.sender.trim()
    assert line.pool.in_use() == 0


def test_more_replies_than_a_buffer_holds(line: Line) -> None:
    for number in range(100):
        reply(line, bytes([number]) * 1500)
    assert line.pool.in_use() == 3
    assert line.drain(150000) == b"".join(bytes([number]) * 1500 for number in range(100))


def test_prepare_has_room_for_the_next_reply_or_says_no(make_line: Callable[..., Line]) -> None:
    line = make_line(2 * BATCH)
    assert line.sender.prepare()
    reply(line, bytes(BATCH))
    assert not line.sender.prepare()  # the first is nearly full, a second is not to be had
    line.sender.flush()
    assert line.sender.prepare()


def test_close_drops_what_is_unsent(line: Line) -> None:
    reply(line, b"unsent")
    line.sender.close()
    assert line.sender.backlog == 0
    assert line.pool.in_use() == 0


def test_a_peer_that_is_gone(line: Line) -> None:
    line.far.close()
    reply(line, b"x")
    with pytest.raises(OSError, match="Broken pipe"):
        line.sender.flush()
