"""A WRITE's payload on its way from the socket to its file, without entering the process (kernel format).

Owns: what of the payload has come and where it goes. Invariants: the bytes of one PDU and no others are taken from the socket; once one
could not be written, or nobody wants them, the rest of the PDU is thrown away, so that the stream stays in step; what was written before
stands, as it does when the payload lay in memory.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import monotonic
from typing import Final

from pools.iovec import Descriptor, IoVector, Pipe
from smbd.smb2.status import SmbError
from workers import identity
from workers.identity import Identity
from workers.loop import Completion

PIECES: Final = 128  # taken in one turn of the loop; others want theirs
_scrap: Final = bytearray(1 << 16)  # what is thrown away lands here; nobody reads it


class Incoming:
    """``length`` bytes of payload: ``front`` has come already, the rest and ``tail`` bytes of padding are still in the socket."""

    __slots__ = (
        "_changed", "_discarded", "_front", "_missing", "_offset", "_pipe", "_sock", "_tail", "_target", "_wanted", "_who",
        "done", "length", "received",
    )  # fmt: skip

    def __init__(self, way: tuple[socket.socket, Pipe], front: IoVector, length: int, tail: int) -> None:
        """``way``: the socket, and the empty pipe through which all payloads of the connection go, one after the other."""
        self.length = length
        self.received = 0  # bytes that were taken from the socket
        self.done: Completion[None] | None = None  # in demand: finished when all is written, failed when it could not be
        self._sock, self._pipe = way
        self._front = front
        self._missing = length - front.length
        self._tail = tail
        self._target: Descriptor | None = None
        self._discarded = False
        self._offset = 0
        self._who: Identity | None = None
        self._wanted: Callable[[], bool] = _yes
        self._changed: Callable[[float], None] = _nothing

    def begin(self, target: Descriptor, offset: int, wanted: Callable[[], bool], changed: Callable[[float], None]) -> Completion[None]:
        """It goes to ``target`` at ``offset``, as the user who is assumed now, while ``wanted`` says so; await what is returned.

        ``changed`` is called after each piece, with the seconds it took: there may be no next one, and others' caches are out of date
        already. Not once it was discarded: a part of it may be gone.
        """
        assert not self._discarded
        target.hold()
        self._target, self._offset, self._wanted, self._changed = target, offset, wanted, changed
        self._who = identity.current()
        self.done = Completion()
        return self.done

    def discard(self) -> None:
        """Nobody wants it, or wants it any more: the rest of the PDU is thrown away as it comes."""
        self._discarded = True
        self._front.free()  # what the pipe holds goes with it
        target, self._target = self._target, None
        if target is not None:
            target.release()

    def advance(self) -> bool:
        """Take what the socket has; True when the PDU is through. ConnectionError when the client is gone."""
        try:
            for _ in range(PIECES):
                self._step()
                if not self._missing and not self._tail and (self._target is None or not self._front.length):
                    return self._through()
        except (BlockingIOError, InterruptedError):
            return False
        return False

    def _step(self) -> None:
        """One piece."""
        if self._target is not None and not self._wanted():
            self.discard()
        if self._target is not None and (self._front.length or self._missing):
            self._store(self._target)
            return
        if not self._missing and not self._tail:
            return  # a length of 0 would mean all there is
        most = min(len(_scrap), self._missing + self._tail)
        count = self._take(lambda: self._sock.recv_into(_scrap, most))
        taken = min(count, self._missing)
        self._missing -= taken
        self._tail -= count - taken

    def _store(self, target: Descriptor) -> None:
        """One piece into the file; its failure is the request's, and the rest of the PDU is thrown away."""
        front = self._front
        if not front.length:
            most = min(self._missing, self._pipe.capacity)
            self._missing -= self._take(lambda: front.receive(self._sock, self._pipe, most))
        if self._who is not None:
            identity.assume(self._who)  # whose disk space it is
        size = front.length
        begun = monotonic()
        try:
            try:
                front.write_to(target.fd, self._offset)
            finally:
                self._changed(monotonic() - begun)  # a part may be there
        except (OSError, SmbError) as error:
            self.discard()
            assert self.done is not None
            self.done.fail(error)
        else:
            self._offset += size

    def _take(self, call: Callable[[], int]) -> int:
        """The bytes that ``call`` takes from the socket. Its end, a reset or a time-out: the client is gone all the same."""
        try:
            count = call()
        except (BlockingIOError, InterruptedError):
            raise
        except OSError as error:
            raise ConnectionError(f"the client is gone: {error}") from error
        if not count:
            raise ConnectionError("the client left in the middle of a WRITE")
        self.received += count
        return count

    def _through(self) -> bool:
        wanted = self._target is not None
        self.discard()
        if self.done is not None and not self.done.done:
            if wanted:
                self.done.finish(None)
            else:
                self.done.fail(Unwanted())
        return True

    def free(self) -> None:
        """The connection ended."""
        self.discard()
        if self.done is not None:
            self.done.fail(Unwanted())


class Unwanted(Exception):
    """The payload was not written: its open ended meanwhile, or the connection."""


def _yes() -> bool:
    return True


def _nothing(_: float) -> None:
    return
