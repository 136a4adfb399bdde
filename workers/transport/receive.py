"""Frames from a client's socket, read in batches into pool buffers.

Owns: the receive buffer and what of it has been consumed. Frames are read from the very start of a buffer: the headers of a WRITE lie in
what is headroom for replies, so that its payload of a power of two fits the class of that size.
Invariant: a frame's view stays valid until the next ``fill``, or for as long as its ``buffer`` is held; a buffer somebody holds is never
written again.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from enum import Enum, auto

from pools.layout import WireError
from pools.pool import HEADROOM, Buffer, BufferPool

FRAME_LENGTH = 4
SESSION_MESSAGE = 0x00
KEEPALIVE = 0x85
BATCH = 65536


class Fill(Enum):
    """What one ``fill`` came to."""

    DATA = auto()
    NOTHING = auto()
    CLOSED = auto()
    WAITING = auto()  # for a large buffer; ``resume`` is called when it is worth trying again


class Receiver:
    """Turns a byte stream into frames. ``limit`` is the largest frame accepted, in bytes, and may be raised at any time."""

    __slots__ = ("_end", "_pool", "_resume", "_sock", "_start", "_want", "buffer", "limit", "one_at_a_time")

    def __init__(self, sock: socket.socket, pool: BufferPool, resume: Callable[[], None], limit: int = BATCH) -> None:
        self._sock = sock
        self._pool = pool
        self._resume = resume
        self.limit = limit
        self.one_at_a_time = True  # until the connection has a session
        self.buffer: Buffer | None = None
        self._start = 0
        self._end = 0
        self._want = 0  # length of the frame under way with its prefix; 0 while unknown

    @property
    def in_progress(self) -> bool:
        """Whether part of a frame has arrived and the rest has not."""
        return self._end > self._start

    def fill(self) -> Fill:
        """Read once from the socket."""
        if not self._make_room():
            return Fill.WAITING
        buffer = self.buffer
        assert buffer is not None
        stop = len(buffer.view)
        if self.one_at_a_time:
            stop = self._end + max(self._missing(), 0)
        try:
            got = self._sock.recv_into(buffer.view[self._end : stop])
        except (BlockingIOError, InterruptedError):
            return Fill.NOTHING
        except OSError:
            return Fill.CLOSED  # reset by the peer, timed out: the same to us
        if got == 0:
            return Fill.CLOSED
        self._end += got
        return Fill.DATA

    def frames(self) -> Iterator[tuple[memoryview, int, int]]:
        """Every whole frame that has arrived: a view, and where in it the frame starts and ends, its length prefix left out.

        ``WireError`` when the stream makes no sense.
        """
        while True:
            want = self._frame_size()
            if not want or self._end - self._start < want:
                return
            assert self.buffer is not None
            start = self._start
            self._start += want
            self._want = 0
            if want > FRAME_LENGTH:
                yield self.buffer.view, start + FRAME_LENGTH, start + want

    def _frame_size(self) -> int:
        """Length of the frame at ``_start`` with its prefix, or 0 when the prefix has not arrived."""
        if self._want:
            return self._want
        if self._end - self._start < FRAME_LENGTH:
            return 0
        assert self.buffer is not None
        at = self._start
        prefix = self.buffer.view[at : at + FRAME_LENGTH]
        length = int.from_bytes(prefix[1:], "big")
        if prefix[0] == KEEPALIVE and length == 0:
            self._want = FRAME_LENGTH
            return FRAME_LENGTH
        if prefix[0] != SESSION_MESSAGE:
            raise WireError(f"transport type {prefix[0]:#04x}, expected 0")
        if not 0 < length <= self.limit:
            raise WireError(f"frame of {length} bytes, at most {self.limit} accepted")
        self._want = FRAME_LENGTH + length
        return self._want

    def _missing(self) -> int:
        """Bytes that complete the prefix, then the frame, under way."""
        want = self._frame_size() or FRAME_LENGTH
        return want - (self._end - self._start)

    def _make_room(self) -> bool:
        """Have a buffer with room for the frame under way, its beginning moved to the front."""
        buffer = self.buffer
        if buffer is None:
            fresh = self._pool.request((BATCH,), self._resume)
            if fresh is not None:
                self.buffer = fresh[0]
            return fresh is not None
        pending = self._end - self._start
        want = self._frame_size() or FRAME_LENGTH
        if want > len(buffer.view):
            granted = self._pool.request((want - HEADROOM,), self._resume)
            if granted is None:
                return False
            self._move(granted[0])
        elif buffer.references > 1 or (buffer.capacity > BATCH and not pending):
            # One that is held stays with its holder; a large one goes back at once.
            granted = self._pool.request((max(want - HEADROOM, BATCH),), self._resume)
            if granted is None:
                return False
            self._move(granted[0])
        elif self._start and (not pending or self._start + want > len(buffer.view)):
            self._slide(buffer)
        return True

    def _move(self, target: Buffer) -> None:
        source = self.buffer
        assert source is not None
        pending = self._end - self._start
        target.view[:pending] = source.view[self._start : self._end]
        source.release()
        self.buffer = target
        self._start, self._end = 0, pending

    def _slide(self, buffer: Buffer) -> None:
        pending = self._end - self._start
        buffer.view[:pending] = bytes(buffer.view[self._start : self._end])
        self._start, self._end = 0, pending

    def trim(self) -> None:
        """The client is quiet: a large buffer goes back, and the next message begins in a small one."""
        if self.buffer is not None and self.buffer.capacity > BATCH and not self.in_progress:
            self.close()

    def close(self) -> None:
        """Give the buffer back."""
        if self.buffer is not None:
            self.buffer.release()
            self.buffer = None
            self._start = self._end = self._want = 0
