"""Replies to a client's socket: small ones packed side by side in one buffer, large ones in their own, one ``sendmsg`` a batch.

Owns: the queue of unsent bytes and the buffers under it. Invariant: bytes leave in the order of ``queue``; a buffer is released
only when its last byte has left or the connection ended.
"""

from __future__ import annotations

import socket
from collections import deque
from contextlib import suppress

from pools.pool import HEADROOM, Buffer, BufferPool, PoolExhausted

BATCH = 65536
USUAL = 1024  # what most replies fit that do not bring a buffer of their own
ENTRIES = 64  # of one sendmsg; far below IOV_MAX


class Sender:
    """Gathers replies and sends them. ``backlog`` is what the socket has not taken yet, in bytes."""

    __slots__ = ("_batch", "_entries", "_fill", "_pool", "_sock", "backlog")

    def __init__(self, sock: socket.socket, pool: BufferPool) -> None:
        self._sock = sock
        self._pool = pool
        self._entries: deque[tuple[memoryview, Buffer]] = deque()
        self._batch: Buffer | None = None
        self._fill = 0
        self.backlog = 0

    def room(self, size: int) -> tuple[Buffer, int]:
        """A buffer and an offset in its view with room for ``size`` bytes before and after which nothing else lies.

        The caller packs its reply there and passes the resulting view to ``queue`` with the same buffer.
        """
        batch = self._batch
        if batch is None or self._fill + size > len(batch.view):
            if batch is not None:
                batch.release()
                self._batch = None
            batch = self._batch = self._new_batch(size)
            self._fill = 0
        start = self._fill
        self._fill += size
        return batch, start

    def _new_batch(self, size: int) -> Buffer:
        try:
            return self._pool.allocate(max(BATCH, size - HEADROOM))
        except PoolExhausted:
            # What has left frees buffers; failing that, one that just holds this reply will do. OSError waits for the next flush.
            with suppress(OSError):
                self.flush()
            return self._pool.allocate(size)

    def prepare(self) -> bool:
        """Have room for the next reply, before anything is executed that needs it; False when there is none now."""
        batch = self._batch
        if batch is None or self._fill + USUAL > len(batch.view):
            try:
                self._batch = self._pool.allocate(BATCH)
            except PoolExhausted:
                return False
            self._fill = 0
            if batch is not None:
                batch.release()
        return True

    def queue(self, data: memoryview, buffer: Buffer) -> None:
        """Send ``data`` after what is queued already. The reference to ``buffer`` is taken over; ``room`` buffers are held by us."""
        if buffer is self._batch:
            buffer.hold()
        self._entries.append((data, buffer))
        self.backlog += len(data)

    def flush(self) -> bool:
        """Send what the socket takes now; True when nothing is left. ``OSError`` when the connection is gone."""
        entries = self._entries
        while entries:
            views = [entry[0] for entry in entries] if len(entries) <= ENTRIES else [entries[i][0] for i in range(ENTRIES)]
            try:
                sent = self._sock.sendmsg(views, (), socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                return False
            self.backlog -= sent
            self._consume(sent)
        if self._batch is not None:
            self._batch.release()
            self._batch = None
        return True

    def _consume(self, sent: int) -> None:
        entries = self._entries
        while entries:
            data, buffer = entries[0]
            if sent < len(data):
                entries[0] = (data[sent:], buffer)
                return
            sent -= len(data)
            entries.popleft()
            buffer.release()
            if not sent:
                return

    def close(self) -> None:
        """Drop what is unsent and give the buffers back."""
        while self._entries:
            self._entries.popleft()[1].release()
        if self._batch is not None:
            self._batch.release()
            self._batch = None
        self.backlog = 0
