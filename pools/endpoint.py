"""One process's end of its pair with the master.

Owns: ``Endpoint``. Invariants: a record is sent whole or not at all, in the order of ``send``; descriptors that arrive
belong to whoever takes the message, descriptors that are sent stay the caller's; a process that has none left for what
arrives gets the words of the record without them.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from pools import port
from pools.buffer import HEADROOM, Buffer
from pools.layout import WireError
from pools.record import ANY_GENERATION, MAX_DESCRIPTORS, MAX_PAYLOAD, MAX_RECORD, RECORD, AskBusy, HubClosed, Message, unpack

# Payloads up to this are handed out as bytes; larger ones stay in the pool buffer they were received into.
COPY_BELOW: Final = 4096
LOCAL_BACKLOG: Final = 1024
_log = logging.getLogger("millpond.queue")


class _Unsent(NamedTuple):
    head: bytes
    payload: bytes | memoryview
    descriptors: tuple[int, ...]


class Endpoint:
    """A child's end of its pair with the master. One thread uses it."""

    __slots__ = ("_allocate", "_landing", "_next_id", "_sock", "_unsent")

    def __init__(self, sock: socket.socket, allocate: Callable[[int], Buffer] | None = None) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._allocate = allocate
        self._landing: memoryview | None = None
        self._unsent: deque[_Unsent] = deque()
        self._next_id = 0

    def fileno(self) -> int:
        """For the poller."""
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether ``flush`` has something to do once the socket is writable."""
        return bool(self._unsent)

    def next_id(self) -> int:
        """A new question's id; never 0, never twice in a process."""
        self._next_id += 1
        return self._next_id

    def send(
        self,
        destination: int,
        kind: int,
        payload: bytes = b"",
        *,
        id: int = 0,
        descriptors: Sequence[int] = (),
        generation: int = ANY_GENERATION,
    ) -> None:
        """Send, or keep until the socket has room: then ``wants_write`` is true. The caller keeps its descriptors.

        AskBusy when no more can be kept; HubClosed without a master; ValueError when the payload is too large.
        """
        if len(payload) > MAX_PAYLOAD or len(descriptors) > MAX_DESCRIPTORS:
            raise ValueError(f"kind {kind:#06x}: {len(payload)} bytes and {len(descriptors)} descriptors do not fit a record")
        head = RECORD.pack(destination, generation, kind, 0, len(payload), id)
        if not self._unsent and self._try(head, payload, descriptors):
            return
        if len(self._unsent) >= LOCAL_BACKLOG:
            raise AskBusy(f"the hub takes nothing: {len(self._unsent)} records wait")
        self._unsent.append(_Unsent(head, payload, _duplicates(descriptors)))

    def answer(self, request: Message, payload: bytes = b"", descriptors: Sequence[int] = ()) -> None:
        """Answer a request: its kind + 1, its id, to that very process and no successor."""
        self.send(
            request.sender, request.kind + 1, payload, id=request.id, descriptors=descriptors, generation=request.generation
        )

    def flush(self) -> None:
        """Continue with what ``send`` kept; returns when all is sent or the socket is full again."""
        while self._unsent:
            head, payload, descriptors = self._unsent[0]
            if not self._try(head, payload, descriptors):
                return
            self._unsent.popleft()
            _close_all(descriptors)

    def receive(self) -> Message | None:
        """The next message, None when there is none now. HubClosed when the master is gone."""
        if self._allocate is None:
            return self._receive_into(self._own_landing(), None)
        try:
            buffer = self._allocate(MAX_RECORD)
        except MemoryError:
            # The pools are at their ceiling: the message may be what ends that.
            return self._receive_into(self._own_landing(), None)
        kept = False
        try:
            message = self._receive_into(buffer.view[HEADROOM : HEADROOM + MAX_RECORD], buffer)
            kept = message is not None and message.buffer is not None
            return message
        finally:
            if not kept:
                buffer.release()

    def close(self) -> None:
        """Close the socket and every descriptor still waiting to be sent."""
        for unsent in self._unsent:
            _close_all(unsent.descriptors)
        self._unsent.clear()
        self._sock.close()

    def _try(self, head: bytes, payload: bytes | memoryview, descriptors: Sequence[int]) -> bool:
        try:
            port.sockets.send_record(self._sock, (head, payload), descriptors)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError) as error:
            raise HubClosed("the master closed the queue") from error
        return True

    def _own_landing(self) -> memoryview:
        if self._landing is None:
            self._landing = memoryview(bytearray(MAX_RECORD))
        return self._landing

    def _receive_into(self, landing: memoryview, buffer: Buffer | None) -> Message | None:
        try:
            size, descriptors, truncated = port.sockets.receive_record(self._sock, (landing,), MAX_DESCRIPTORS)
        except BlockingIOError:
            return None
        except ConnectionResetError as error:
            raise HubClosed("the master closed the queue") from error
        if size == 0:
            raise HubClosed("the master closed the queue")
        try:
            head, payload = unpack(landing[:size])
            if truncated and len(descriptors) == MAX_DESCRIPTORS:
                raise WireError(f"record of kind {head.kind:#06x}: more than {MAX_DESCRIPTORS} descriptors")
        except WireError:
            _close_all(descriptors)
            raise
        if truncated:
            # This process has as many as it may have: the kernel has closed what did not fit. Whoever needs them sees that there are none.
            _log.error("a record of kind %#06x from slot %d lost its descriptors: this process has none left", head.kind, head.peer)
            _close_all(descriptors)
            descriptors = ()
        if buffer is None or head.length <= COPY_BELOW:
            return Message(head.kind, head.peer, head.generation, head.id, bytes(payload), descriptors)
        return Message(head.kind, head.peer, head.generation, head.id, payload, descriptors, buffer)


def _duplicates(descriptors: Sequence[int]) -> tuple[int, ...]:
    made: list[int] = []
    try:
        for fd in descriptors:
            made.append(port.files.dup(fd))
    except OSError as error:
        _close_all(made)
        raise AskBusy(f"the hub takes nothing, and descriptors cannot be kept: {error.strerror}") from error
    return tuple(made)


def _close_all(descriptors: Sequence[int]) -> None:
    for fd in descriptors:
        port.files.close(fd)
