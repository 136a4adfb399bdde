"""The worker's event loop: descriptors, timers, coroutines and the few threads that wait for slow disks.

Owns: one poller, the timer heap, the tasks and the lanes of VFS threads of one worker.
Invariant: everything but the body of an ``in_thread`` call runs on the thread that calls ``run``, or on an errand's while that has the
baton; a coroutine is resumed only from the first, so protocol state needs no lock.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import logging
import math
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar

from pools import port
from workers import identity
from workers.baton import Abandoned, Baton, Errand
from workers.lane import Lane

T = TypeVar("T")
log = logging.getLogger("millpond.worker")
READ = port.READABLE | port.HANGUP
WRITE = port.WRITABLE
MOST_EVENTS = 64  # of one wait; room for them is made each time
PRUNE_AT = 256  # timers in the heap
MOST_AT_ONCE = 1024  # calls made before descriptors are looked at again
CLOSE_PATIENCE = 5.0  # seconds for which VFS threads are waited for at the end: a disk that hangs may never let them go
SWITCH_INTERVAL = 0.0002  # seconds for which a busy engine keeps a VFS thread waiting: 5 ms, Python's own value, at each hand-over


class Cancelled(Exception):
    """Thrown into a coroutine whose request was cancelled or whose connection ended."""


class Completion(Generic[T]):
    """A value that arrives once. ``await`` it from a task of the loop; ``finish`` or ``fail`` it from the loop's thread."""

    __slots__ = ("_error", "_task", "_value", "done")

    def __init__(self) -> None:
        self.done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._task: Task | None = None

    def finish(self, value: T) -> None:
        """Deliver ``value``; later deliveries are ignored (an answer that lost against its time-out)."""
        if not self.done:
            self.done = True
            self._value = value
            self._wake()

    def fail(self, error: BaseException) -> None:
        """Deliver an error; later deliveries are ignored."""
        if not self.done:
            self.done = True
            self._error = error
            self._wake()

    def attach(self, task: Task) -> None:
        """The task to resume on delivery: at most one."""
        self._task = task

    def _wake(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.loop.soon(task.step)

    def __await__(self) -> Generator[Completion[T], None, T]:
        while not self.done:  # a task may be stepped for another reason, such as a cancel
            yield self
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # set whenever done without error


class Task:
    """One coroutine on its way. ``ended(result, error)`` is called exactly once."""

    __slots__ = ("_coroutine", "_ended", "_thrown", "cancelled", "loop", "over")

    def __init__(self, loop: Loop, coroutine: Coroutine[Any, None, Any], ended: Callable[[Any, BaseException | None], None]) -> None:
        self.loop = loop
        self.over = False
        self.cancelled = False  # though the coroutine may have put that off
        self._coroutine = coroutine
        self._ended = ended
        self._thrown: BaseException | None = None

    def step(self) -> None:
        """Run the coroutine to its next wait or its end."""
        if self.over:
            return
        thrown, self._thrown = self._thrown, None
        try:
            waiting = self._coroutine.send(None) if thrown is None else self._coroutine.throw(thrown)
        except StopIteration as stop:
            self._over()
            self._ended(stop.value, None)
        except BaseException as error:  # noqa: BLE001 - handed over whole to the owner, who knows the three kinds
            self._over()
            self._ended(None, error)
        else:
            self.loop.suspended.add(self)
            waiting.attach(self)
            if waiting.done:
                self.loop.soon(self.step)

    def _over(self) -> None:
        self.over = True
        self.loop.suspended.discard(self)

    def close(self) -> None:
        """End the coroutine where it waits: what it holds is given back, and ``ended`` is not called."""
        self._over()
        self._coroutine.close()

    def cancel(self) -> None:
        """Throw ``Cancelled`` into the coroutine at its present wait."""
        self.cancelled = True
        if not self.over and self._thrown is None:
            self._thrown = Cancelled()
            self.loop.soon(self.step)


class Timer:
    """One call in the future, until cancelled."""

    __slots__ = ("_call", "due")

    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Forget the call. Harmless when it has happened."""
        self._call = None

    @property
    def live(self) -> bool:
        """Whether the call is still to come."""
        return self._call is not None

    def fire(self) -> None:
        """Make the call, once."""
        call, self._call = self._call, None
        if call is not None:
            call()


class Loop:
    """Descriptors, timers and tasks of one thread."""

    def __init__(self, threads: int = 4) -> None:
        self._poller = port.polling.poller()
        self._readers: dict[int, Callable[[], None]] = {}
        self._writers: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._prune_at = PRUNE_AT
        self._soon: deque[Callable[[], None]] = deque()
        self._threads = threads
        self._lanes: dict[str, Lane] = {}
        self._here = not identity.per_thread()
        self._finished: deque[tuple[Completion[Any], Any, BaseException | None]] = deque()
        self._bell: tuple[socket.socket, socket.socket] | None = None
        self._baton: Baton | None = None
        self._wakes = 0.0  # when the wait under way ends by itself, at the latest
        self._stopping = False
        self.suspended: set[Task] = set()

    # descriptors

    def watch(self, fd: int, reader: Callable[[], None] | None, writer: Callable[[], None] | None = None) -> None:
        """Call ``reader`` when ``fd`` has bytes or its end, ``writer`` when it has room. Replaces what was watched before."""
        known = (READ if fd in self._readers else 0) | (WRITE if fd in self._writers else 0)
        self._readers.pop(fd, None)
        self._writers.pop(fd, None)
        events = 0
        if reader is not None:
            self._readers[fd] = reader
            events |= READ
        if writer is not None:
            self._writers[fd] = writer
            events |= WRITE
        if events == known:
            return  # other calls for the same events: the kernel need not hear of it
        if not events:
            self._poller.unregister(fd)
        elif known:
            self._poller.modify(fd, events)
        else:
            self._poller.register(fd, events)

    # time

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """``call()`` after ``seconds``."""
        timer = Timer(time.monotonic() + seconds, call)
        heapq.heappush(self._timers, (timer.due, next(self._order), timer))
        if len(self._timers) > self._prune_at:
            self._prune()
        return timer

    def _prune(self) -> None:
        """Cancelled timers leave the heap when there are many: a busy connection cancels thousands long before they are due."""
        self._timers[:] = [entry for entry in self._timers if entry[2].live]
        heapq.heapify(self._timers)
        self._prune_at = PRUNE_AT + 2 * len(self._timers)

    def soon(self, call: Callable[[], None]) -> None:
        """``call()`` before the loop waits again."""
        self._soon.append(call)

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling coroutine."""
        done: Completion[None] = Completion()
        timer = self.later(seconds, lambda: done.finish(None))
        try:
            await done
        finally:
            timer.cancel()

    # coroutines and threads

    def spawn(self, coroutine: Coroutine[Any, None, T], ended: Callable[[Any, BaseException | None], None]) -> Task:
        """Run ``coroutine`` to its first wait at once; ``ended`` may have been called when this returns."""
        task = Task(self, coroutine, ended)
        task.step()
        return task

    def in_thread(self, call: Callable[[], T], lane: str = "") -> Completion[T]:
        """Run a blocking ``call`` on a thread of ``lane``, which has as many as ``vfs threads`` says; await what is returned.

        It runs here and now where a thread cannot have an identity of its own: what the call may do must not depend on whom the engine
        serves meanwhile.
        """
        completion: Completion[T] = Completion()
        if self._here:
            _run_here(completion, call)
            return completion
        self._submit(lane, partial(self._run_blocking, completion, call), completion)
        return completion

    def errand(self, call: Callable[[], T], lane: str, took: Callable[[float], None]) -> tuple[Errand, Completion[T]]:
        """Run ``call`` on a thread of ``lane``, with the baton except while it is ``away``; ``took`` hears how long it was, each time.

        Not where a thread cannot have an identity of its own: no disk is slow there (``Disk``).
        """
        if self._baton is None:
            self._open_bell()
            self._baton = Baton(self._ring, self._restless)
        self._baton.errands += 1
        made: Errand = Errand(self._baton, took)
        completion: Completion[T] = Completion()
        self._submit(lane, partial(made.run, partial(self._run_errand, completion, call)), completion)
        return made, completion

    def _submit(self, name: str, job: Callable[[], None], completion: Completion[T]) -> None:
        self._open_bell()
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = Lane(name, self._threads)
        try:
            lane.submit(job)
        except RuntimeError as error:  # no more threads on this machine; the job stays in the lane's queue, and finds itself over
            completion.fail(OSError(errno.EAGAIN, str(error)))

    def _open_bell(self) -> None:
        if self._bell is None:
            sys.setswitchinterval(SWITCH_INTERVAL)
            self._bell = port.sockets.stream_pair()
            for end in self._bell:
                end.setblocking(False)
            self.watch(self._bell[0].fileno(), self._deliver)

    def _run_blocking(self, completion: Completion[T], call: Callable[[], T]) -> None:
        value: T | None = None
        error: BaseException | None = None
        if completion.done:
            return
        try:
            value = call()
        except BaseException as caught:  # noqa: BLE001 - carried to the awaiting coroutine, where it belongs
            error = caught
        self._finished.append((completion, value, error))
        self._ring()

    def _run_errand(self, completion: Completion[T], call: Callable[[], T]) -> None:
        """On a VFS thread, with the baton: what it brings back is delivered at once."""
        if completion.done:
            return
        try:
            completion.finish(call())
        except Abandoned:
            raise
        except BaseException as caught:  # noqa: BLE001 - as above
            completion.fail(caught)

    def errand_over(self) -> None:
        """Whoever awaited an errand has what it brought back."""
        assert self._baton is not None
        self._baton.errands -= 1

    def _ring(self) -> None:
        """Wake the loop; on any thread."""
        assert self._bell is not None
        with suppress(OSError):  # it is ringing already, or the loop is over
            self._bell[1].send(b"\0")

    def _restless(self) -> bool:
        return bool(self._soon) or bool(self._timers and self._timers[0][0] < self._wakes)

    def _deliver(self) -> None:
        assert self._bell is not None
        self._bell[0].recv(4096)
        while self._finished:
            completion, value, error = self._finished.popleft()
            if error is None:
                completion.finish(value)
            else:
                completion.fail(error)
        if self._baton is not None:
            self._baton.hand_over()

    # running

    def stop(self) -> None:
        """Leave ``run`` after the present turn."""
        self._stopping = True

    def run(self) -> None:
        """Serve until ``stop``."""
        while not self._stopping:
            self.turn()

    def turn(self) -> None:
        """One wait and everything it brought."""
        if self._soon:
            self._run_soon()
        if self._stopping:
            return
        baton = self._baton
        events_of = self._poller.poll(self._patience(), MOST_EVENTS) if baton is None or not baton.errands else self._poll_lending(baton)
        for fd, events in events_of:
            # Looked up one at a time: an earlier callback of this turn may have unwatched a later descriptor.
            if events & READ:
                reader = self._readers.get(fd)
                if reader is not None:
                    reader()
            if events & (WRITE | port.HANGUP):
                writer = self._writers.get(fd)
                if writer is not None:
                    writer()
        self._fire_timers()
        if self._soon:
            self._run_soon()

    def _poll_lending(self, baton: Baton) -> list[tuple[int, int]]:
        """Wait; errands go on meanwhile."""
        patience = self._patience()
        self._wakes = self._timers[0][0] if self._timers else math.inf
        baton.lend()
        try:
            return self._poller.poll(patience, MOST_EVENTS)
        finally:
            baton.regain()

    def _patience(self) -> float | None:
        if self._soon:
            return 0.0
        if not self._timers:
            return None
        return max(0.0, self._timers[0][0] - time.monotonic())

    def _fire_timers(self) -> None:
        timers = self._timers
        if not timers:
            return
        now = time.monotonic()
        while timers and timers[0][0] <= now:
            heapq.heappop(timers)[2].fire()

    def _run_soon(self) -> None:
        """Whatever is due at once, and what comes of it; not for ever, or nobody else would have a turn."""
        queue = self._soon
        left = MOST_AT_ONCE
        while queue and left:
            left -= 1
            queue.popleft()()

    def turn_until(self, over: Callable[[], bool], seconds: float) -> bool:
        """Take turns until something is so, though the loop was stopped; whether it came about in time."""
        ends = time.monotonic() + seconds
        while not over() and time.monotonic() < ends:
            self._stopping = False
            timer = self.later(max(0.0, ends - time.monotonic()), _nothing)
            self.turn()
            timer.cancel()
        return over()

    def close(self, *, patiently: bool = False) -> int:
        """Give the descriptors and threads back; how many blocking calls do not end in time.

        They are left to the kernel; or, ``patiently``, waited for however long they take: a process that goes on may give nothing back that
        they still use.
        """
        if self._baton is not None:
            self._baton.close()
        until = time.monotonic() + CLOSE_PATIENCE
        left = sum(lane.close(until) for lane in self._lanes.values())
        if patiently:
            for lane in self._lanes.values():
                lane.outlive()
        if patiently or not left:
            self._settle()
        if self._bell is not None:
            for end in self._bell:
                end.close()
        self._poller.close()
        return left

    def _settle(self) -> None:
        """Close every coroutine that still waits, here on the loop's own thread.

        What a coroutine does at its end (give back a descriptor, assume an identity again) would else happen on whichever thread collects
        garbage, and that one may act for another client.
        """
        while self.suspended:
            task = next(iter(self.suspended))
            try:
                task.close()
            except Exception:
                log.exception("a request that was given up did not end well")


def _run_here(completion: Completion[T], call: Callable[[], T]) -> None:
    try:
        completion.finish(call())
    except BaseException as caught:  # noqa: BLE001 - carried to the awaiting coroutine, where it belongs
        completion.fail(caught)


def _nothing() -> None:
    return
