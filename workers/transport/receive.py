"""Frames from a client's socket, read in batches into pool buffers.

Owns: the receive buffer and what of it has been consumed. Frames are read from the very start of a buffer: the headers of a WRITE lie in
what is headroom for replies, so that its payload of a power of two fits the class of that size.
Invariant: a frame's view stays valid until the next ``fill``, or for as long as its ``buffer`` is held; a buffer somebody holds is never
written again.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from enum import Enum, auto
from struct import Struct

from pools.layout import WireError
from pools.pool import HEADROOM, Buffer, BufferPool

FRAME_LENGTH = 4
FIXED = FRAME_LENGTH + 64 + 48  # prefix, header and a WRITE's fixed part: what its payload follows, usually at once
SESSION_MESSAGE = 0x00
KEEPALIVE = 0x85
BATCH = 65536
_PREFIX = Struct(">I")  # [MS-SMB2] 2.1: a byte of type and 24 bits of length, in network order


class Fill(Enum):
    """What one ``fill`` came to."""

    DATA = auto()
    NOTHING = auto()
    CLOSED = auto()
    WAITING = auto()  # for a large buffer; ``resume`` is called when it is worth trying again


class Receiver:
    """Turns a byte stream into frames. ``limit`` is the largest frame accepted, in bytes, and may be raised at any time.

    ``announce_from``: of frames of so many bytes and more the beginning is read alone, for somebody to judge whether the rest comes here
    (``announced``); 0 for none.
    """

    __slots__ = (
        "_end", "_judged", "_narrow", "_pool", "_resume", "_sock", "_start", "_want", "announce_from", "buffer", "limit", "one_at_a_time",
        "received", "whole",
    )  # fmt: skip

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
        self._judged = False  # the frame under way was announced, or is none that is
        self._narrow = False  # read no further than a WRITE's fixed part: another may follow the one before
        self.announce_from = 0
        self.received = 0  # bytes, and
        self.whole = 0  # whole frames, since the beginning

    @property
    def in_progress(self) -> bool:
        """Whether part of a frame has arrived and the rest has not."""
        return self._end > self._start

    @property
    def has_frame(self) -> bool:
        """Whether a whole frame has arrived. ``WireError`` when the stream makes no sense."""
        if self._end <= self._start:
            return False
        want = self._want or self._frame_size()
        return 0 < want <= self._end - self._start

    def seed(self, data: bytes) -> None:
        """Begin with what somebody else has read from the socket. ``PoolExhausted`` when there is no buffer for it."""
        buffer = self.buffer = self._pool.allocate(max(BATCH, len(data)))
        buffer.view[: len(data)] = data
        self._start, self._end = 0, len(data)
        self.received = len(data)

    def fill(self) -> Fill:
        """Read once from the socket."""
        if not self._make_room():
            return Fill.WAITING
        buffer = self.buffer
        assert buffer is not None
        stop = len(buffer.view)
        if self.one_at_a_time:
            stop = self._end + max(self._missing(), 0)
        elif self.announce_from and (self._begins() or (self._narrow and not self._want)):
            stop = self._start + FIXED
        self._narrow = False
        if stop <= self._end:
            return Fill.DATA  # a whole frame is here: to read nothing would look like the end of the stream
        try:
            got = self._sock.recv_into(buffer.view[self._end : stop])
        except (BlockingIOError, InterruptedError):
            return Fill.NOTHING
        except OSError:
            return Fill.CLOSED  # reset by the peer, timed out: the same to us
        if got == 0:
            return Fill.CLOSED
        self._end += got
        self.received += got
        return Fill.DATA

    def _announces(self) -> bool:
        """Whether the frame under way is to be announced, and has not been."""
        return 0 < self.announce_from <= self._want and not self._judged

    def _begins(self) -> bool:
        """Whether it is to be announced once more of it is here."""
        return self._announces() and self._end - self._start < FIXED

    def announced(self) -> tuple[Buffer, int, int, int] | None:
        """Once for each large frame, when its beginning is here: the buffer, where in it the frame begins and what has come of it ends, the
        frame's length; prefix left out. ``skip`` if the rest is not to come here.
        """
        if not self._announces() or self._end - self._start < FIXED:
            return None
        self._judged = True
        assert self.buffer is not None
        return self.buffer, self._start + FRAME_LENGTH, self._end, self._want - FRAME_LENGTH

    def skip(self) -> None:
        """Somebody else takes the rest of the frame from the socket; then the next one begins."""
        self._start = self._end
        self._want = 0
        self._judged = False
        self._narrow = True
        self.whole += 1

    def frame(self) -> tuple[memoryview, int, int] | None:
        """The next whole frame that has arrived: a view, and where in it the frame starts and ends, its length prefix left out.

        ``WireError`` when the stream makes no sense.
        """
        while self._end > self._start:
            start, want = self._start, self._want or self._frame_size()
            if not want or self._end - start < want:
                break
            assert self.buffer is not None
            self._start = end = start + want
            self._want = 0
            self._judged = False
            self.whole += 1
            if want > FRAME_LENGTH:
                return self.buffer.view, start + FRAME_LENGTH, end
        return None

    def _frame_size(self) -> int:
        """Length of the frame at ``_start`` with its prefix, or 0 when the prefix has not arrived."""
        if self._want:
            return self._want
        if self._end - self._start < FRAME_LENGTH:
            return 0
        assert self.buffer is not None
        (prefix,) = _PREFIX.unpack_from(self.buffer.view, self._start)
        if prefix == KEEPALIVE << 24:
            self._want = FRAME_LENGTH
            return FRAME_LENGTH
        kind, length = prefix >> 24, prefix & 0xFFFFFF
        if kind != SESSION_MESSAGE:
            raise WireError(f"transport type {kind:#04x}, expected 0")
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
        if not pending and buffer.references == 1 and buffer.capacity <= BATCH:
            self._start = self._end = 0
            return True
        want = self._frame_size() or FRAME_LENGTH
        if self._begins():
            want = FIXED  # no buffer for the whole before it is known to be needed
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

    def let_go(self) -> None:
        """Somebody waits for a buffer, and nothing has begun in ours."""
        if self.buffer is not None and not self.in_progress:
            self.close()

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
            self._judged = False
