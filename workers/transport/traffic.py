"""A connection's turns: frames in, engine, replies out, and when to stop reading.

Owns: receiver and sender, and what the loop watches the socket for. Invariant: nothing is executed without a buffer for its reply; a client
that does not take its replies is not read, nor is executed what was read of it; a frame that stays incomplete ends the connection.
"""

from __future__ import annotations

import logging
import socket
from abc import abstractmethod
from time import monotonic
from typing import TYPE_CHECKING

from pools.iovec import Pipe
from pools.layout import WireError
from pools.pool import BufferPool, PoolExhausted
from smbd.smb2.credits import Disconnect
from workers.loop import Loop, Timer
from workers.transport.incoming import Incoming
from workers.transport.receive import BATCH, Fill, Receiver
from workers.transport.send import Sender

if TYPE_CHECKING:
    from workers.engine import Engine
    from workers.worker import Worker

PROGRESS = 1 << 16  # bytes of an incomplete PDU that must come within ``pdu timeout``


class Traffic:
    """The transport's half of a line, which has an engine, and says how it ends."""

    loop: Loop
    pool: BufferPool
    engine: Engine
    log: logging.Logger
    client_address: str
    sock: socket.socket
    receiver: Receiver
    sender: Sender

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.loop, self.pool, self.log = worker.loop, worker.pool, worker.log
        self.ended = False  # nothing more is to be read
        self.halted = False  # nothing more is to be executed, for now or, when it has ended, for ever
        self.closed = False  # everything was given back
        self.draining = False
        self.paused = False  # a buffer is awaited
        self.incoming: Incoming | None = None  # a payload that goes from the socket to its file
        self._pipe: Pipe | None = None
        self._flushing = False
        self._behind = False  # whole frames are here that are executed when less is unsent
        self._full = False  # the socket took less than there was: it says when there is room again
        self._stall: Timer | None = None
        self._stall_seen = self._stall_frame = 0
        self._unread = False  # there was a time since the timer was set when the client was not read

    @abstractmethod
    def end(self, reason: str) -> None:
        """Read nothing more, and have the connection closed."""

    @abstractmethod
    def hurry(self) -> None:
        """A buffer is awaited: the pool is to ask for it again soon."""

    def open_traffic(self, sock: socket.socket) -> None:
        """Start reading."""
        self.sock = sock
        self.receiver = Receiver(sock, self.pool, self._resume)
        self.sender = Sender(sock, self.pool)
        self.loop.watch(sock.fileno(), self._readable)

    def stop_traffic(self) -> None:
        """Nothing more is read or sent."""
        self.loop.watch(self.sock.fileno(), None)

    def close_traffic(self) -> None:
        """Give socket and buffers back."""
        if self.incoming is not None:
            self.incoming.free()
            self.incoming = None
        self._drop_pipe()
        self.receiver.close()
        self.sender.close()
        self.sock.close()

    def pipe(self) -> Pipe:
        """The pipe through which payloads go from the socket to their files."""
        if self._pipe is None:
            self._pipe = Pipe()
        return self._pipe

    def trim(self) -> None:
        """The client is quiet: what serves large transfers goes back."""
        self.receiver.trim()
        self.sender.trim()
        if self.incoming is None:
            self._drop_pipe()

    def _drop_pipe(self) -> None:
        if self._pipe is not None:
            self._pipe.release()
            self._pipe = None

    def _readable(self) -> None:
        """One read and everything that came with it; one send for all answers."""
        begun = monotonic()
        try:
            outcome = self._receive()
        except (Disconnect, WireError, PoolExhausted) as error:
            self.hang_up(str(error))
            return
        finally:
            self.engine.turn_over(begun)
        self._flush()
        if outcome is Fill.CLOSED:
            self.end("closed by the client")
        elif outcome is Fill.WAITING and not self.halted:
            self._pause()
        self._watch_progress()

    def _receive(self) -> Fill:
        """Execute the frames that are here, then read, then execute what came. Until there is a session, one frame at a time."""
        receiver = self.receiver
        if self.incoming is not None:
            return self._absorb(self.incoming)
        if receiver.in_progress:
            if not self._execute():
                return Fill.NOTHING if self._behind else Fill.WAITING
            incoming = self._announced()  # nobody was asked before the pause that may have ended here
            if incoming is not None:
                return self._absorb(incoming)
        outcome = receiver.fill()
        while outcome is Fill.DATA:
            if not self._execute():
                return Fill.NOTHING if self._behind else Fill.WAITING
            if not receiver.in_progress:
                break
            incoming = self._announced()
            if incoming is not None:
                return self._absorb(incoming)
            if not receiver.one_at_a_time:
                break
            outcome = receiver.fill()
        return outcome

    def _announced(self) -> Incoming | None:
        """The payload of a large frame that has begun, if it goes from the socket to its file; its request is executed."""
        part = None if self.halted else self.receiver.announced()
        if part is None:
            return None
        incoming = self.engine.announced(*part)
        if incoming is None:
            return None
        self.receiver.skip()
        self.incoming = incoming
        self.engine.arriving(part[0].view[part[1] : part[2]], incoming)
        return incoming

    def _absorb(self, incoming: Incoming) -> Fill:
        """Take more of a payload on its way to its file."""
        try:
            over = incoming.advance()
        except ConnectionError:
            return Fill.CLOSED
        if over:
            self.incoming = None
            self._stall_frame = -1  # what is under way from here on is another frame
            if self.draining:
                self.rewatch()
        return Fill.DATA

    def _execute(self) -> bool:
        """Every whole frame. False when buffers for replies have to be waited for, or too much is unsent (``_behind``)."""
        receiver, sender, engine = self.receiver, self.sender, self.engine
        unsent, most = sender.unsent, BATCH if receiver.one_at_a_time else self.worker.send_limit
        # Not before a whole frame is here: a pause gives a buffer for replies back, which wakes whoever waits for one, and that may be we.
        while receiver.has_frame:
            if unsent.length > most:
                self._behind = True
                return False
            if self.halted or not (sender.prepare() or self._spare()):
                self._behind = False
                return False
            frame = receiver.frame()
            if frame is None:
                return True
            engine.frame(*frame)
        return True

    def _spare(self) -> bool:
        """Ask for a buffer for replies; True when there is one after all."""
        granted = self.pool.request((BATCH,), self._resume)
        if granted is not None:
            granted[0].release()
        return granted is not None and self.sender.prepare()

    def hang_up(self, reason: str) -> None:
        """The specification asks to drop the connection: what was answered before still leaves, as far as the socket takes it."""
        try:
            self.sender.flush()
        except OSError:
            self.log.debug("%s: gone before the last answer", self.client_address)
        self.end(f"connection dropped: {reason}")

    @property
    def received(self) -> int:
        """What grows, or falls back, with whatever comes from the client."""
        return self.receiver.received + (self.incoming.received if self.incoming is not None else 0)

    def _watch_progress(self) -> None:
        """A frame that stays incomplete without PROGRESS for ``pdu timeout`` ends the connection, if the client was read all that time.

        One timer looks after the fact how far things are; setting one anew at each read would cost a large transfer thousands.
        """
        if self._stall is None and (self.receiver.in_progress or self.incoming is not None) and not self.paused:
            self._stall_seen, self._stall_frame = self.received, self.receiver.whole
            self._unread = not self._reads
            self._stall = self.loop.later(self.worker.config.pdu_timeout, self._mind_progress)

    def _mind_progress(self) -> None:
        """The time is up. What waits in the socket counts: the engine may have been held up."""
        before = -1
        while self._stuck and before != self.received:
            before = self.received
            self._readable()
        if self._stuck:
            self.end("an incomplete PDU made no progress")
        self._stall = None
        if not self.ended:
            self._watch_progress()

    @property
    def _stuck(self) -> bool:
        """Whether the frame under way has made no progress since the timer was set, and the client was read all that time."""
        if self.ended or self.closed or self._unread or not (self.receiver.in_progress or self.incoming is not None):
            return False
        seen = self._stall_seen
        return seen <= self.received < seen + PROGRESS and self.receiver.whole == self._stall_frame

    def _pause(self) -> None:
        self.paused = True
        self.hurry()
        self.rewatch()

    def _resume(self) -> None:
        """A large buffer may be had now: the loop tries again at its next turn."""
        self.loop.soon(self._unpause)

    def _unpause(self) -> None:
        if self.paused and not (self.closed or self.draining or self.halted):
            self.paused = False
            self.rewatch()
            self._catch_up()

    def halt(self) -> None:
        """Execute nothing until ``go_on``: the line is about to be given away, or not."""
        self.halted = True
        self.rewatch()

    def go_on(self) -> None:
        """It was not."""
        if not self.ended and not self.closed:
            self.halted = self.paused = False
            self.rewatch()
            self.loop.soon(self._catch_up)

    def _catch_up(self) -> None:
        if self.closed or self.halted or self.paused or self.draining:
            return
        if self.clogged:
            self._behind = True
        else:
            self._readable()

    @property
    def clogged(self) -> bool:
        """Whether so much is unsent that the client is not read."""
        return self.sender.backlog > (BATCH if self.receiver.one_at_a_time else self.worker.send_limit)

    @property
    def _reads(self) -> bool:
        stopped = self.draining and self.incoming is None  # a payload under way is taken to its end
        return not (self.paused or self.halted or stopped or self.clogged)

    def rewatch(self) -> None:
        """Read unless a buffer is awaited or too much is unsent; write while something is unsent.

        For frames that stayed in the buffer while too much was, no event will come: they are executed at the loop's next turn.
        """
        reads = self._reads
        if not reads:
            self._unread = True
        self.loop.watch(self.sock.fileno(), self._readable if reads else None, self._writable if self.sender.backlog else None)
        if self._behind and not self.clogged:
            self._behind = False
            self.loop.soon(self._catch_up)

    def flush_soon(self) -> None:
        """Send what is queued before the loop waits again: for answers that no reading has brought about."""
        if not self._flushing:
            self._flushing = True
            self.loop.soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self.closed:
            return
        had = self.sender.backlog
        if self._full:
            self.rewatch()
            return
        try:
            done = self.sender.flush()
        except OSError as error:
            self.end(f"cannot send: {error}")
            return
        self._full = not done
        if not done or self._behind or had > self.worker.send_limit:
            self.rewatch()

    def _writable(self) -> None:
        self._full = False
        self._flush()
        if not self.closed:
            self.rewatch()
