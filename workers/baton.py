"""Handlers that may wait for a slow disk: each on a thread of its own, and yet only one thing at a time happens to the worker's state.

Owns: the baton. Whoever has it may touch what the worker has: the loop's thread, which keeps it except while it waits in ``poll``, or an
errand, which keeps it except while it asks the disk (``Errand.away``). Invariants: one has it, never two; an errand that wants it while the
loop's thread is busy gets it at that one's next turn, in the order of asking.

So a handler on a thread is a coroutine whose waits are its calls of the file system: between two of them nothing else happens, across one
of them anything may, and what has to stay as it is across them is protected as it is across an ``await`` (``workers.patience``).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final, TypeVar

T = TypeVar("T")
POLITE: Final = 0.0005  # seconds for which an errand waits for the loop to wait by itself: to wake it, and be handed the baton, costs more


class Abandoned(BaseException):
    """The worker ended while this errand was at the disk: nobody is there for what it brings back."""


class Baton:
    """The loop's half: made on its thread, which has the baton then.

    ``ring`` wakes the loop, on any thread; ``restless`` says whether a loop that waits has been given something to do since.
    """

    __slots__ = ("_held", "_loop_waits", "_restless", "_ring", "_wanting", "closed", "errands")

    def __init__(self, ring: Callable[[], None], restless: Callable[[], bool]) -> None:
        self._ring = ring
        self._restless = restless
        self._held = threading.Lock()
        self._held.acquire()
        self._wanting: deque[threading.Lock] = deque()
        self._loop_waits = False  # then nobody who comes later gets ahead of it
        self.closed = False
        self.errands = 0  # that are not over: without any the loop need not lend it

    # the loop's thread

    def lend(self) -> None:
        """The loop is about to wait: errands may go on meanwhile. ``regain`` is called before anything else."""
        self._held.release()

    def regain(self) -> None:
        """Have it back, after the errand that has it now."""
        self._loop_waits = True
        self._held.acquire()
        self._loop_waits = False

    def hand_over(self) -> None:
        """Each errand that wants the baton has it once."""
        for _ in range(len(self._wanting)):
            self._wanting.popleft().release()
            self.regain()

    def close(self) -> None:
        """The loop is over; errands that come back from a disk find that out."""
        self.closed = True
        while self._wanting:
            self._wanting.popleft().release()

    # errands

    def take(self) -> None:
        """Wait for it. ``Abandoned`` when the loop is over."""
        if self._loop_waits or not self._held.acquire(timeout=POLITE):
            turn = threading.Lock()
            turn.acquire()
            self._wanting.append(turn)
            if self.closed:
                raise Abandoned
            self._ring()
            turn.acquire()
        if self.closed:
            raise Abandoned

    def give(self) -> None:
        """Let others go on."""
        restless = self._restless()
        self._held.release()
        if restless:
            self._ring()


class _Here(threading.local):
    errand: Errand | None = None


_here = _Here()


class Errand:
    """One handler on a thread. ``took`` hears how many seconds each of its calls of the file system took."""

    __slots__ = ("_baton", "_took", "begun", "withdrawn")

    def __init__(self, baton: Baton, took: Callable[[float], None]) -> None:
        self._baton = baton
        self._took = took
        self.begun = False
        self.withdrawn = False  # cancelled before it began

    def run(self, call: Callable[[], None]) -> None:
        """``call()`` with the baton, on the calling thread."""
        try:
            self._baton.take()
        except Abandoned:
            return
        _here.errand = self
        try:
            if not self.withdrawn:
                self.begun = True
                call()
        except Abandoned:
            return  # without the baton
        finally:
            _here.errand = None
        self._baton.give()

    def away(self, call: Callable[..., T], args: tuple[object, ...]) -> T:
        """``call(*args)`` without the baton."""
        if self._baton.closed:
            return call(*args)  # an abandoned errand gives back what it has
        self._baton.give()
        begun = monotonic()
        value: T | None = None
        try:
            value = call(*args)
            return value
        finally:
            took = monotonic() - begun
            try:
                self._baton.take()
            except Abandoned:
                _give_back(value)
                raise
            self._took(took)


def _give_back(value: object) -> None:
    """What was opened for nobody: in a process that goes on its descriptor would stay for ever."""
    close = getattr(value, "close", None)
    if close is not None:
        close()


def away(call: Callable[..., T], *args: object) -> T:
    """``call(*args)``, which may have to wait for a disk: when an errand makes it, everyone else goes on meanwhile."""
    errand = _here.errand
    return call(*args) if errand is None else errand.away(call, args)
