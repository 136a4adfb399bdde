"""Replies to a client's socket: small ones packed side by side in one buffer, large ones in their own, one ``sendmsg`` a batch.

Owns: the vector of unsent bytes, and the buffer in which small replies are packed, which is kept from batch to batch until the client is
quiet. Invariant: bytes leave in the order of ``queue`` and ``append``; a buffer is released only when its last byte has left or the
connection ended.
"""

from __future__ import annotations

import socket
from contextlib import suppress

from pools.iovec import FileEntry, IoVector, MemoryEntry
from pools.pool import HEADROOM, Buffer, BufferPool, PoolExhausted
from pools.port import sockets

BATCH = 65536
USUAL = 1024  # what most replies fit that do not bring a buffer of their own


class Sender:
    """Gathers replies and sends them. ``unsent``: what was queued and is not sent, but for the answers appended last."""

    __slots__ = ("_batch", "_fill", "_pool", "_run", "_sock", "unsent")

    def __init__(self, sock: socket.socket, pool: BufferPool) -> None:
        self._sock = sock
        self._pool = pool
        self.unsent = IoVector()
        self._batch: Buffer | None = None
        self._fill = 0
        self._run = -1  # where in the batch the answers begin that were appended side by side and are not in the vector yet; -1: none

    @property
    def backlog(self) -> int:
        """Bytes that the socket has not taken yet."""
        return self.unsent.length if self._run < 0 else self.unsent.length + self._fill - self._run

    def room(self, size: int) -> tuple[Buffer, int]:
        """A buffer and an offset in its view with room for ``size`` bytes before and after which nothing else lies.

        The caller packs its reply there and passes the resulting view to ``queue`` with the same buffer.
        """
        if self._run >= 0:
            self._end_run()
        batch = self._batch
        if batch is None or self._fill + size > len(batch.view):
            batch = self._next_batch(size)
        start = self._fill
        self._fill += size
        return batch, start

    def reserve(self, size: int) -> tuple[memoryview, int]:
        """Room for ``size`` bytes at an offset of a view, to be packed at once: ``append`` queues them, else they were never asked for."""
        batch = self._batch
        if batch is None or self._fill + size > len(batch.view):
            if self._run >= 0:
                self._end_run()
            batch = self._next_batch(size)
        return batch.view, self._fill

    def append(self, end: int) -> None:
        """Send the bytes from the offset that ``reserve`` gave to ``end``, after what is queued already. Neighbours leave as one."""
        if self._run < 0:
            self._run = self._fill
        self._fill = end

    def _end_run(self) -> None:
        """Enter what was appended into the vector."""
        batch, start, self._run = self._batch, self._run, -1
        assert batch is not None
        batch.hold()
        self.unsent.push_back(MemoryEntry(batch.view[start : self._fill], batch))

    def _next_batch(self, size: int) -> Buffer:
        """Another buffer for replies in place of the one that is full; no run is open."""
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.release()
        batch = self._batch = self._new_batch(size)
        self._fill = 0
        return batch

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
            if self._run >= 0:
                self._end_run()
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
        if self._run >= 0:
            self._end_run()
        if buffer is self._batch:
            buffer.hold()
        self.unsent.push_back(MemoryEntry(data, buffer))

    def queue_file(self, entry: FileEntry) -> None:
        """Send a range of a file after what is queued already, as a header has announced it. The entry is taken over."""
        if self._run >= 0:
            self._end_run()
        self.unsent.push_back(entry)

    def flush(self) -> bool:
        """Send what the socket takes now; True when nothing is left. ``OSError`` when the connection is gone."""
        if self._run >= 0:
            if not self.unsent.length:
                return self._send_run()
            self._end_run()
        if not self.unsent.send(self._sock):
            return False
        self._rewind()
        return True

    def _send_run(self) -> bool:
        """Nothing but what was appended is to be sent: no entry is made for what leaves at once."""
        batch, start, self._run = self._batch, self._run, -1
        assert batch is not None
        view = batch.view[start : self._fill]
        try:
            sent = sockets.send_views(self._sock, (view,))
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent < len(view):
            batch.hold()
            self.unsent.push_back(MemoryEntry(view[sent:], batch))
            return False
        self._rewind()
        return True

    def _rewind(self) -> None:
        """Everything has left: the batch's buffer is used again from its start, unless it is somebody else's too."""
        batch = self._batch
        if batch is not None and (batch.references > 1 or batch.capacity > BATCH):
            batch.release()
            self._batch = None
        self._fill = 0

    def trim(self) -> None:
        """The client is quiet, or somebody waits for a buffer: the one for the next replies goes back."""
        if self._batch is not None and not self.backlog:
            self._batch.release()
            self._batch = None

    def close(self) -> None:
        """Drop what is unsent and give the buffers back."""
        self.unsent.free()
        self._run = -1
        if self._batch is not None:
            self._batch.release()
            self._batch = None
