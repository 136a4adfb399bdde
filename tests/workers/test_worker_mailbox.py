"""The worker's end of the queue, on a real loop and endpoint, with the master's end of the pair in the test's hand."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pools.layout import WireError
from pools.queue import ANSWER_BUSY, ANSWER_GONE, AskBusy, AskGone, AskTimeout, Endpoint, Message
from pools.record import pack, unpack
from workers.loop import Loop
from workers.mailbox import Mailbox

KIND = 0x0200


class Post:
    """A mailbox, and the hub's side of it."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.far.setblocking(False)
        self.lost = 0
        self.mailbox = Mailbox(self.loop, Endpoint(self.near), self.lose)
        self.ends: list[tuple[Message | None, BaseException | None]] = []

    def lose(self) -> None:
        self.lost += 1
        self.loop.watch(self.near.fileno(), None)

    def ask(self, timeout: float = 30.0) -> int:
        """Ask a question; its id as the hub sees it."""
        self.loop.spawn(self.mailbox.ask(1, KIND, b"?", timeout), lambda value, error: self.ends.append((value, error)))
        head, _ = unpack(memoryview(self.far.recv(65536)))
        return head.id

    def turn(self) -> None:
        self.loop.later(0.001, lambda: None)
        self.loop.turn()

    def close(self) -> None:
        self.loop.close()
        self.near.close()
        self.far.close()


@pytest.fixture
def post() -> Iterator[Post]:
    made = Post()
    yield made
    made.close()


def test_an_answer_finds_its_question(post: Post) -> None:
    first, second = post.ask(), post.ask()
    post.far.send(pack(1, KIND + 1, b"two", id=second))
    post.far.send(pack(1, KIND + 1, b"one", id=first))
    post.turn()
    assert [value.payload for value, _ in post.ends if value is not None] == [b"two", b"one"]


@pytest.mark.parametrize(("kind", "error"), [(ANSWER_BUSY, AskBusy), (ANSWER_GONE, AskGone)])
def test_busy_and_gone(post: Post, kind: int, error: type[Exception]) -> None:
    post.far.send(pack(0, kind, id=post.ask()))
    post.turn()
    assert isinstance(post.ends[0][1], error)


def test_a_time_out_and_an_answer_after_it(post: Post) -> None:
    number = post.ask(timeout=0)
    post.turn()
    assert isinstance(post.ends[0][1], AskTimeout)
    post.far.send(pack(1, KIND + 1, b"late", id=number))
    post.turn()
    assert len(post.ends) == 1


def test_what_comes_unasked_goes_to_its_route(post: Post) -> None:
    seen: list[bytes] = []
    post.mailbox.route(0x0500, lambda message: seen.append(bytes(message.payload)))
    post.far.send(pack(17, 0x0500, b"news"))
    post.far.send(pack(17, 0x0502, b"nobody's"))
    post.turn()
    assert seen == [b"news"]


def test_nonsense_from_another_process_is_logged_and_dropped(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    def route(message: Message) -> None:
        raise WireError("too short")

    post.mailbox.route(0x0500, route)
    post.far.send(pack(17, 0x0500, b""))
    post.turn()
    assert "makes no sense" in caplog.text


def test_a_full_queue_is_continued_when_there_is_room(post: Post) -> None:
    sent = 0
    while not post.mailbox._endpoint.wants_write:
        post.mailbox.send(17, 0x0500, b"x" * 1000)
        sent += 1
    got = 0
    while got < sent:
        try:
            post.far.recv(65536)
            got += 1
        except BlockingIOError:
            post.turn()
    assert not post.mailbox._endpoint.wants_write


def test_the_end_of_the_master_ends_the_worker_quietly(post: Post) -> None:
    post.far.close()
    post.mailbox.send(17, 0x0500, b"news")
    post.mailbox.answer(Message(KIND, 1, 1, 5, b""), b"answer")
    assert post.lost == 2
    post.loop.spawn(post.mailbox.ask(1, KIND), lambda value, error: post.ends.append((value, error)))
    assert post.lost == 3
