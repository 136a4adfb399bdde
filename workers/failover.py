"""A break goes out on one of the client's connections, and on another while it has not arrived: [MS-SMB2] 3.3.4.6, 3.3.4.7.

Owns: the choice of the connection. Invariant: each connection is tried once, the newest first; one whose peer's machine has acknowledged
the bytes is the last. A client may hear of a break twice, and takes the second for what it is.
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

UNHEARD = 1.0  # seconds after which bytes that nobody has acknowledged count as lost with their connection
Say = Callable[["Line"], None]


def lines_of(worker: Worker, session: Session | None, *, any_session: bool) -> list[Line]:
    """Where the client of ``session`` can be told of a break, best first. ``any_session``: the message names no session (leases)."""
    own = [line for line in reversed(worker.lines) if session is not None and line in session.channels]
    if not any_session:
        return own
    return own + [line for line in reversed(worker.lines) if line not in own and line.connection.channels]


def tell(worker: Worker, lines: Callable[[], list[Line]], say: Say) -> None:
    """``say(line)`` on the first of ``lines()``, and on the next if that was in vain."""
    _Message(worker, lines, say).send()


class _Message:
    """What is said on one connection after the other until it is heard."""

    __slots__ = ("_lines", "_say", "_tried", "_worker")

    def __init__(self, worker: Worker, lines: Callable[[], list[Line]], say: Say) -> None:
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
        acknowledged, flying = sockets.progress(line.sock)
        try:
            self._say(line)
        except Disconnect as gone:
            line.end(f"connection dropped: {gone}")
        if len(left) > 1:
            self._worker.loop.later(UNHEARD, partial(self._check, line, acknowledged + flying + line.sender.backlog))

    def _check(self, line: Line, arrives: int) -> None:
        """``arrives``: so many bytes are acknowledged when the message is."""
        if line.ended or line.closed or not _heard(line, arrives):
            self._worker.log.info("%s: a break was not heard, another connection is tried", line.client_address)
            self.send()


def _heard(line: Line, arrives: int) -> bool:
    acknowledged, flying = sockets.progress(line.sock)
    return acknowledged >= arrives if acknowledged else not flying and not line.sender.backlog
