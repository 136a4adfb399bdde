"""The event loop: tasks, completions, cancelling, timers, descriptors and threads."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from workers.loop import PRUNE_AT, Cancelled, Completion, Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop(2)
    yield made
    made.close()


class Ends:
    """Takes down how tasks ended."""

    def __init__(self) -> None:
        self.ends: list[tuple[Any, BaseException | None]] = []

    def __call__(self, value: Any, error: BaseException | None) -> None:
        self.ends.append((value, error))


def turn(loop: Loop) -> None:
    """One turn that does not wait for ever."""
    loop.later(0.001, lambda: None)
    loop.turn()


def turn_until(loop: Loop, ends: Ends, count: int = 1) -> None:
    while len(ends.ends) < count:
        turn(loop)


def test_a_task_that_never_waits_ends_at_once(loop: Loop) -> None:
    async def work() -> int:
        return 7

    ended = Ends()
    task = loop.spawn(work(), ended)
    assert ended.ends == [(7, None)]
    assert task.over
    task.cancel()
    turn(loop)
    assert len(ended.ends) == 1


def test_a_completion_wakes_its_task_once(loop: Loop) -> None:
    done: Completion[str] = Completion()

    async def work() -> str:
        return await done

    ended = Ends()
    loop.spawn(work(), ended)
    assert ended.ends == []
    done.finish("first")
    done.finish("second")
    done.fail(ValueError())
    turn_until(loop, ended)
    assert ended.ends == [("first", None)]


def test_a_failed_completion_raises_where_it_is_awaited(loop: Loop) -> None:
    done: Completion[None] = Completion()

    async def work() -> str:
        try:
            await done
        except KeyError:
            return "caught"
        return "not reached"

    ended = Ends()
    loop.spawn(work(), ended)
    done.fail(KeyError())
    turn_until(loop, ended)
    assert ended.ends == [("caught", None)]


def test_cancel_is_thrown_into_the_wait_and_beats_a_late_delivery(loop: Loop) -> None:
    first: Completion[None] = Completion()
    second: Completion[str] = Completion()

    async def work() -> str:
        try:
            await first
        except Cancelled:
            return await second  # waits on, in spite of the delivery that comes late
        return "not cancelled"

    ended = Ends()
    task = loop.spawn(work(), ended)
    task.cancel()
    first.finish(None)
    turn(loop)
    assert ended.ends == []
    second.finish("end")
    turn_until(loop, ended)
    assert ended.ends == [("end", None)]


def test_what_still_waits_at_the_end_is_closed_on_the_loops_thread(loop: Loop) -> None:
    done: list[int] = []
    busy, go_on = threading.Event(), threading.Event()

    def call() -> None:
        busy.set()
        assert go_on.wait(20)
        done.append(0)

    async def work() -> None:
        try:
            await loop.in_thread(call)
        finally:
            done.append(threading.get_ident())

    ended = Ends()
    loop.spawn(work(), ended)
    assert busy.wait(20)
    go_on.set()
    loop.close()
    assert done == [0, threading.get_ident()], "first the call, then what waited for it"
    assert ended.ends == []
    assert not loop.suspended


def test_an_error_goes_to_the_owner(loop: Loop) -> None:
    async def work() -> None:
        raise KeyError("ours")

    ended = Ends()
    loop.spawn(work(), ended)
    (_, error) = ended.ends[0]
    assert isinstance(error, KeyError)


def test_what_comes_of_itself_again_and_again_leaves_others_their_turn(loop: Loop) -> None:
    def again() -> None:
        loop.soon(again)

    fired: list[str] = []
    again()
    loop.later(0, lambda: fired.append("a timer"))
    loop.turn()
    assert fired == ["a timer"]


def test_timers_fire_in_order_and_cancelled_ones_do_not(loop: Loop) -> None:
    fired: list[str] = []
    loop.later(0.002, lambda: fired.append("later"))
    loop.later(0.001, lambda: fired.append("sooner"))
    loop.later(0, lambda: fired.append("never")).cancel()
    while len(fired) < 2:
        loop.turn()
    assert fired == ["sooner", "later"]


def test_cancelled_timers_do_not_pile_up(loop: Loop) -> None:
    kept = [loop.later(1000, lambda: None) for _ in range(10)]
    for _ in range(100 * PRUNE_AT):
        loop.later(1000, lambda: None).cancel()
    assert len(loop._timers) <= 2 * PRUNE_AT
    assert all(timer.live for timer in kept)
    assert sum(entry[2].live for entry in loop._timers) == 10


def test_a_timer_may_unwatch_a_descriptor_of_the_same_turn(loop: Loop) -> None:
    near, far = socket.socketpair()
    other, other_far = socket.socketpair()
    seen: list[str] = []

    def first() -> None:
        seen.append("one")
        loop.watch(near.fileno(), None)
        loop.watch(other.fileno(), None)

    loop.watch(near.fileno(), first)
    loop.watch(other.fileno(), first)
    far.send(b"x")
    other_far.send(b"x")
    loop.turn()
    assert seen == ["one"]
    for sock in (near, far, other, other_far):
        sock.close()


def test_a_blocking_call_runs_on_a_thread_and_comes_back(loop: Loop) -> None:
    async def work() -> tuple[int, int]:
        return await loop.in_thread(threading.get_ident), threading.get_ident()

    ended = Ends()
    loop.spawn(work(), ended)
    turn_until(loop, ended)
    ((there, here), error) = ended.ends[0]
    assert error is None
    assert there != here == threading.get_ident()


def test_an_error_of_a_blocking_call_is_raised_in_the_coroutine(loop: Loop) -> None:
    def fail() -> None:
        raise OSError(28, "full")

    async def work() -> None:
        await loop.in_thread(fail)

    ended = Ends()
    loop.spawn(work(), ended)
    turn_until(loop, ended)
    assert isinstance(ended.ends[0][1], OSError)


def test_many_blocking_calls_all_come_back(loop: Loop) -> None:
    ended = Ends()

    async def work(number: int) -> int:
        return await loop.in_thread(lambda: number)

    for number in range(500):
        loop.spawn(work(number), ended)
    turn_until(loop, ended, 500)
    assert sorted(value for value, _ in ended.ends) == list(range(500))


def test_stop_leaves_run(loop: Loop) -> None:
    loop.soon(loop.stop)
    loop.run()
