"""A break goes out on one of the client's connections, and on another while it has not arrived: [MS-SMB2] 3.3.4.6, 3.3.4.7.

Owns: the choice of the connection. Invariants: each connection is tried once, the oldest first; one whose peer's machine has acknowledged
the bytes is the last; one whose peer's machine acknowledges nothing ends: what waits on it may be asked for again on another, and whoever
waits for the client goes on before the break's own time is over. A client may hear of a break twice, and takes the second for what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pools.port import sockets
from smbd.smb2.credits import Disconnect

if TYPE_CHECKING:
    from workers.line import Line
    from workers.session import Session
    from workers.worker import Worker

RETRANSMISSIONS = 6  # that a connection whose peer acknowledges nothing is given; then it counts as lost
SHORTEST, LONGEST = 0.2, 1.0  # seconds that one is taken to last
ALONE = 10.0  # seconds, where there is no other connection: a network may be away for a while, but somebody waits
Say = Callable[["Line"], None]


def lines_of(worker: Worker, session: Session | None, *, any_session: bool) -> list[Line]:
    """Where the client of ``session`` can be told of a break, the oldest first. ``any_session``: the message names no session (leases)."""
    if any_session:
        return [line for line in worker.lines if line.connection.channels]
    return [line for line in worker.lines if session is not None and line in session.channels]


def tell(worker: Worker, lines: Callable[[], list[Line]], say: Say, *, awaited: bool) -> None:
    """``say(line)`` on the first of ``lines()``, and on the next if that was in vain. ``awaited``: somebody waits for the answer."""
    _Message(worker, lines, say, awaited=awaited).send()


class _Message:
    """What is said on one connection after the other until it is heard."""

    __slots__ = ("_awaited", "_lines", "_say", "_tried", "_worker")

    def __init__(self, worker: Worker, lines: Callable[[], list[Line]], say: Say, *, awaited: bool) -> None:
        self._awaited = awaited
        self._worker = worker
        self._lines = lines
        self._say = say
        self._tried: set[Line] = set()

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
        if len(left) > 1 or self._awaited:
            patience = RETRANSMISSIONS * min(max(timeout, SHORTEST), LONGEST) if len(left) > 1 else ALONE
            self._worker.loop.later(patience, partial(self._check, line, acknowledged, acknowledged + flying + line.sender.backlog))

    def _check(self, line: Line, before: int, arrives: int) -> None:
        """``before``: the bytes that were acknowledged when it was said; ``arrives``: those that are when it was heard."""
        if not (line.ended or line.closed):
            acknowledged, flying, _ = sockets.progress(line.sock)
            if acknowledged >= arrives if acknowledged else not flying and not line.sender.backlog:
                return
            if flying and acknowledged == before:
                sockets.reset_at_close(line.sock)
                line.end("the client's machine does not answer any more")
        self.send()
