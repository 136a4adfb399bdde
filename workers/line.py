"""A line: one transport connection of the worker's client, with everything that ends with it.

Owns: socket, receiver and sender (``Traffic``), the state of [MS-SMB2] 3.3.1.7 (``Connection``), and the requests under way (``Engine``).
What belongs to the client as a whole - sessions, tree connects, opens, buffers - is the worker's. Invariants: a request is answered on the
line it came from, or not at all when that one has ended; what it was about to send is given back then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pools.pool import HEADROOM, MAX_CAPACITY
from workers.engine import Engine
from workers.transport.receive import BATCH, FRAME_LENGTH
from workers.transport.traffic import Traffic

if TYPE_CHECKING:
    import socket

    from smbd.smb2.connection import Connection
    from smbd.smb2.crypto import Channel
    from workers.session import Logon
    from workers.worker import Worker

ALL_CREDITS = 65535
REMEMBERED = 16  # sessions that have ended


class Line(Traffic):
    """One connection. ``address`` is the client's."""

    def __init__(self, worker: Worker, sock: socket.socket, address: str, connection: Connection) -> None:
        super().__init__(worker)
        self.number = worker.next_id()
        self.connection = connection
        connection.elsewhere = self._elsewhere
        self.client_address = address
        self.logons: dict[int, Logon] = {}  # under way, by SessionId
        self.departed: dict[int, Channel] = {}  # of sessions that have ended
        self.shunned: set[int] = set()  # of these, by their own fault: what is encrypted for them ends the connection
        self.forgeries = 0  # bindings with a wrong signature
        self._known = False  # somebody was logged on when this was last asked
        self.open_traffic(sock)
        self.engine = Engine(self)
        self.loop.later(worker.config.session_setup_timeout, self._expect_session)

    @property
    def server_address(self) -> str:
        """Ours, on this connection; empty where there are no addresses, or the client has gone."""
        try:
            name = self.sock.getsockname()
        except OSError:
            return ""
        return str(name[0]) if isinstance(name, tuple) else ""

    def _elsewhere(self, session_id: int) -> Channel | None:
        """What came under the cipher of a session that was ended, or has no channel here, is answered under it."""
        return self.worker.first_channel(session_id) or (self.departed.get(session_id) if session_id not in self.shunned else None)

    def _expect_session(self) -> None:
        """Again and again: a connection on which nobody is logged on ends; one on which somebody was, at the next time."""
        if self.ended or self.closed:
            return
        known = bool(self.connection.channels)
        if not known and not self._known:
            self.end("no session in time")
            return
        self._known = known
        self.loop.later(self.worker.config.session_setup_timeout, self._expect_session)

    def end(self, reason: str) -> None:
        """Nothing more is read; the worker does the rest when this turn is over."""
        if not self.ended:
            self.ended = self.halted = True
            self.log.info("%s: %s", self.client_address, reason)
            self.worker.line_ended(self)

    def hurry(self) -> None:
        """A buffer is awaited."""
        self.worker.hurry()

    def welcome(self, announce_from: int, *, proven: bool) -> None:
        """A session has come to this line: larger frames are taken, and batches of them from a user who is somebody (``proven``)."""
        settings = self.connection.settings
        if proven:
            self.receiver.one_at_a_time = False
            self.receiver.announce_from = announce_from
        largest = max(settings.max_write_size, settings.max_transact_size)
        self.receiver.limit = min(largest + BATCH, HEADROOM + MAX_CAPACITY - FRAME_LENGTH)  # no buffer holds more

    def forget(self, session_id: int) -> None:
        """The session has ended. Its channel signs that for a while."""
        channel = self.connection.channels.pop(session_id, None)
        if channel is not None:
            self.departed[session_id] = channel
            if len(self.departed) > REMEMBERED:
                oldest = next(iter(self.departed))
                del self.departed[oldest]
                self.shunned.discard(oldest)

    def grant(self, requested: int, charged: int) -> int:
        """Credits for a response to a request that cost ``charged``. One at a time while a large buffer is awaited, and to strangers:
        who has no session yet asks one thing after the other, and cannot fill the authenticator's queue.
        """
        connection = self.connection
        ceiling = 1 if self.paused or not connection.channels else ALL_CREDITS
        return connection.credits.grant(requested, ceiling, (charged or 1) if connection.multi_credit else 1)

    def begin(self, unread: bytes) -> None:
        """Execute what another process has read from the socket, then go on reading."""
        if unread:
            self.receiver.seed(unread)
        self.loop.soon(self._catch_up)

    def leave(self, reason: str) -> None:
        """Another process has the connection: here nothing is left of it, and nothing more is said on it."""
        self.shut()
        self.end(reason)

    def shut(self) -> None:
        """Give back what is the line's own. Requests that wait are cancelled; whatever comes of them is thrown away."""
        self.closed = True
        self.stop_traffic()
        self.engine.abandon()
        self.close_traffic()
