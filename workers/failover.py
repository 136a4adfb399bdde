"""A break goes out on one of the client's connections, and on another while it has not arrived: [MS-SMB2] 3.3.4.6, 3.3.4.7.

Owns: the choice of the connection. Invariants: each connection is tried once, the oldest first; one whose peer's machine has acknowledged
the bytes is the last; one whose peer's machine acknowledges nothing ends: what waits on it may be asked for again on another, and whoever
waits for the client goes on before the break's own time is over. A client may hear of a break twice, and takes the second for what it is.

Where the system does not say what has arrived, only the client can: what it sends on a connection proves that one. A silent one is not the
last to be tried; it ends when another brings the answer at once, or when it is the only one and the break's time is over.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING, NamedTuple

from pools.port import sockets
from smbd.smb2.credits import Disconnect

if TYPE_CHECKING:
    from workers.line import Line
    from workers.session import Session
    from workers.worker import Worker

RETRANSMISSIONS = 6  # that a connection whose peer acknowledges nothing is given; then it counts as lost
SHORTEST, LONGEST = 0.2, 1.0  # seconds that one is taken to last
ALONE = 10.0  # seconds, where there is no other connection: a network may be away for a while, but somebody waits
LAST = 1.0  # seconds before a break's time is over
NS = 1_000_000_000
Say = Callable[["Line"], None]


class Awaited(NamedTuple):
    """An acknowledgement that somebody waits for. ``still``: whether it is still to come; ``deadline``: ns of the monotonic clock.

    ``own``: the client itself waits. Its connection was alive a moment ago, and has nothing more to say.
    """

    still: Callable[[], bool]
    deadline: int
    own: bool


def lines_of(worker: Worker, session: Session | None, *, any_session: bool) -> list[Line]:
    """Where the client of ``session`` can be told of a break, the oldest first. ``any_session``: the message names no session (leases)."""
    if any_session:
        return [line for line in worker.lines if line.connection.channels]
    return [line for line in worker.lines if session is not None and line in session.channels]


def tell(worker: Worker, lines: Callable[[], list[Line]], say: Say, awaited: Awaited | None) -> None:
    """``say(line)`` on the first of ``lines()``, and on the next if that was in vain. ``awaited``: somebody waits for the answer."""
    Told(worker, lines, say, awaited).send()


class Told:
    """What is said on one connection after the other until it is heard."""

    __slots__ = ("_awaited", "_lines", "_say", "_silent", "_tried", "_worker")

    def __init__(self, worker: Worker, lines: Callable[[], list[Line]], say: Say, awaited: Awaited | None) -> None:
        self._awaited = awaited
        self._worker = worker
        self._lines = lines
        self._say = say
        self._tried: set[Line] = set()
        self._silent: list[tuple[Line, int]] = []  # with what had been received on them

    def send(self) -> None:
        """Say it on the best connection that was not tried."""
        left = [line for line in self._lines() if line not in self._tried and not line.ended]
        if not left or self._worker.closed:
            return
        line = left[0]
        self._tried.add(line)
        acknowledged, flying, timeout = sockets.progress(line.sock)
        try:
            self._say(line)
        except Disconnect as gone:
            line.end(f"connection dropped: {gone}")
        if flying < 0:
            if self._awaited is not None:
                self._listen(line, self._awaited, alone=len(left) == 1 and len(self._tried) == 1)
        elif len(left) > 1 or self._awaited is not None:
            patience = RETRANSMISSIONS * min(max(timeout, SHORTEST), LONGEST) if len(left) > 1 else ALONE
            self._worker.loop.later(patience, partial(self._check, line, acknowledged, acknowledged + flying + line.sender.backlog))

    def _check(self, line: Line, before: int, arrives: int) -> None:
        """``before``: the bytes that were acknowledged when it was said; ``arrives``: those that are when it was heard."""
        if not (line.ended or line.closed):
            acknowledged, flying, _ = sockets.progress(line.sock)
            if acknowledged >= arrives if acknowledged else not flying and not line.sender.backlog:
                return
            if flying and acknowledged == before:
                _give_up(line, "the client's machine does not answer any more")
        self.send()

    # Where nobody says what arrives

    def _listen(self, line: Line, awaited: Awaited, *, alone: bool) -> None:
        """Wait for a sign of the client. The only connection has the break's whole time, if that is long enough for its silence to mean
        something.
        """
        patience = RETRANSMISSIONS * LONGEST
        if alone:
            patience = (awaited.deadline - monotonic_ns()) / NS - LAST
            if patience < ALONE or awaited.own:
                return
        before = {one: one.received for one in self._worker.lines}
        self._worker.loop.later(patience, partial(self._hear, line, awaited, before, alone=alone))

    def _hear(self, line: Line, awaited: Awaited, before: dict[Line, int], *, alone: bool) -> None:
        """``before``: what had been received on the client's connections when it was said on ``line``."""
        if not awaited.still():
            return
        if not (line.ended or line.closed):
            if line.received != before[line]:
                return
            if alone:
                _give_up(line, "the client does not say anything any more")
                return
            # A client that is at work elsewhere may be about to answer what it has heard here.
            if all(one.received == count for one, count in before.items() if not one.closed):
                if not self._silent:
                    self._worker.breaks.repeated.append(self)
                self._silent.append((line, before[line]))
        self.send()

    def settle(self) -> bool:
        """Whether this is over. If it was answered in time, connections that were silent all the while are given up."""
        awaited = self._awaited
        assert awaited is not None
        if awaited.still():
            return False
        if monotonic_ns() < awaited.deadline:
            for line, count in self._silent:
                if not (line.ended or line.closed) and line.received == count:
                    _give_up(line, "the client answers on another connection")
        return True


def _give_up(line: Line, why: str) -> None:
    sockets.reset_at_close(line.sock)
    line.end(why)
