"""Replies to a client's socket: small ones packed side by side in one buffer, large ones in their own, one ``sendmsg`` a batch.

Owns: the vector of unsent bytes. Invariant: bytes leave in the order of ``queue``; a buffer is released only when its last byte has left or
the connection ended.
"""

from __future__ import annotations

import socket
from contextlib import suppress

from pools.iovec import FileEntry, IoVector, MemoryEntry
from pools.pool import HEADROOM, Buffer, BufferPool, PoolExhausted

BATCH = 65536
USUAL = 1024  # what most replies fit that do not bring a buffer of their own


class Sender:
    """Gathers replies and sends them."""

    __slots__ = ("_batch", "_fill", "_pool", "_sock", "_unsent")

    def __init__(self, sock: socket.socket, pool: BufferPool) -> None:
        self._sock = sock
        self._pool = pool
        self._unsent = IoVector()
        self._batch: Buffer | None = None
        self._fill = 0

    @property
    def backlog(self) -> int:
        """Bytes that the socket has not taken yet."""
        return self._unsent.length

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
        self._unsent.push_back(MemoryEntry(data, buffer))

    def queue_file(self, entry: FileEntry) -> None:
        """Send a range of a file after what is queued already, as a header has announced it. The entry is taken over."""
        self._unsent.push_back(entry)

    def flush(self) -> bool:
        """Send what the socket takes now; True when nothing is left. ``OSError`` when the connection is gone."""
        if not self._unsent.send(self._sock):
            return False
        if self._batch is not None:
            self._batch.release()
            self._batch = None
        return True

    def close(self) -> None:
        """Drop what is unsent and give the buffers back."""
        self._unsent.free()
        if self._batch is not None:
            self._batch.release()
            self._batch = None
