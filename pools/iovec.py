"""The io vector: a PDU as a chain of memory and kernel entries.

Owns: the entries and ``IoVector``, which holds them in order. Invariants: every byte of a vector is sent or written once and in order,
whatever part of it a call took; an entry is freed the moment its last byte has left, not when the vector has; a file that turns out to be
shorter than its entry promised is filled up with zeros, because the length has been announced by then.

The kinds of entries: ``MemoryEntry`` is a view of a pool buffer; ``FileEntry`` a range of a file (sendfile); ``PipeEntry`` bytes that the
kernel holds in a pipe (splice). Bytes of the last two never enter the process unless ``pull_up`` asks for it.

A vector belongs to one thread. System errors leave as ``OSError``; EAGAIN and EINTR never do: a call that can not go on says so.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from pools.buffer import Buffer
from pools.port import files, sockets

if TYPE_CHECKING:
    import socket

MOST_VIEWS: Final = 64  # of one sendmsg; far below IOV_MAX
PIPE_BYTES: Final = 1 << 20  # what an unprivileged process may make a pipe hold (pipe(7), pipe-max-size)
_ZEROES: Final = memoryview(bytes(1 << 16))
_NO_SENDFILE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class Shared(Protocol):
    """A descriptor with several users: its owner may close it while an entry still needs it."""

    @property
    def fd(self) -> int: ...
    def hold(self) -> None: ...
    def release(self) -> None: ...


class Descriptor:
    """A descriptor that is closed when its last user has let go of it: a number given back early would be another file's by then."""

    __slots__ = ("_references", "fd")

    def __init__(self, fd: int) -> None:
        """With one user, the caller."""
        self.fd = fd
        self._references = 1

    def hold(self) -> None:
        """One more user."""
        self._references += 1

    def release(self) -> None:
        """One user less."""
        self._references -= 1
        if not self._references:
            files.close(self.fd)


class MemoryEntry:
    """Bytes in the process. Owns one reference to ``buffer``, under which ``view`` lies; None: the view keeps itself alive."""

    __slots__ = ("buffer", "view")

    def __init__(self, view: memoryview, buffer: Buffer | None) -> None:
        self.view = view
        self.buffer = buffer

    @property
    def length(self) -> int:
        """Bytes."""
        return len(self.view)

    def take(self, count: int) -> MemoryEntry:
        """The first ``count`` bytes as an entry of their own, which are then no longer in this one."""
        if self.buffer is not None:
            self.buffer.hold()
        front = MemoryEntry(self.view[:count], self.buffer)
        self.view = self.view[count:]
        return front

    def read_into(self, view: memoryview) -> None:
        """Moves the first ``len(view)`` bytes."""
        view[:] = self.view[: len(view)]
        self.view = self.view[len(view) :]

    def free(self) -> None:
        """Give the reference back."""
        buffer, self.buffer = self.buffer, None
        self.view = self.view[:0]
        if buffer is not None:
            buffer.release()


class FileEntry:
    """``length`` bytes of a file from ``offset`` on. Owns one hold of ``file``; None: the descriptor is the caller's to keep open."""

    __slots__ = ("_ended", "fd", "file", "length", "offset")

    def __init__(self, fd: int, offset: int, length: int, file: Shared | None = None) -> None:
        self.fd = fd
        self.offset = offset
        self.length = length
        self.file = file
        self._ended = False  # the file is shorter by now: zeros from here on

    def take(self, count: int) -> FileEntry:
        """The first ``count`` bytes as an entry of their own, which are then no longer in this one."""
        if self.file is not None:
            self.file.hold()
        front = FileEntry(self.fd, self.offset, count, self.file)
        front._ended = self._ended
        self._advance(count)
        return front

    def read_into(self, view: memoryview) -> None:
        """Moves the first ``len(view)`` bytes into the process."""
        done = 0
        while done < len(view):
            got = 0 if self._ended else files.preadv(self.fd, (view[done:],), self.offset + done)
            if not got:
                self._ended = True
                got = min(len(view) - done, len(_ZEROES))
                view[done : done + got] = _ZEROES[:got]
            done += got
        self._advance(done)

    def send(self, sock: socket.socket, more: bool) -> int:
        """Sends what the socket takes: the bytes that left. BlockingIOError when there is no room."""
        if not self._ended:
            try:
                sent = sockets.sendfile(sock.fileno(), self.fd, self.offset, self.length)
            except OSError as error:
                if error.errno not in _NO_SENDFILE:
                    raise
                return self._send_copy(sock, more)
            if sent:
                self._advance(sent)
                return sent
            self._ended = True
        count = min(self.length, len(_ZEROES))
        sent = sockets.send_views(sock, [_ZEROES[:count]], more or count < self.length)
        self._advance(sent)
        return sent

    def _send_copy(self, sock: socket.socket, more: bool) -> int:
        """Where the file system knows no sendfile: through the process, a part at a time."""
        part = memoryview(bytearray(min(self.length, len(_ZEROES))))
        got = files.preadv(self.fd, (part,), self.offset)
        self._ended = not got
        sent = sockets.send_views(sock, [part[:got] if got else part], more or len(part) < self.length)
        self._advance(sent)
        return sent

    def _advance(self, count: int) -> None:
        self.offset += count
        self.length -= count

    def free(self) -> None:
        """Let go of the file."""
        file, self.file = self.file, None
        self.length = 0
        if file is not None:
            file.release()


class Pipe:
    """A kernel pipe whose content is known: ``held`` bytes. Counted: entries that lie in it keep it open."""

    __slots__ = ("_references", "capacity", "held", "reader", "writer")

    def __init__(self, size: int = PIPE_BYTES) -> None:
        """As large as the kernel grants, at most ``size``."""
        self.reader, self.writer, self.capacity = sockets.open_pipe(size)
        self.held = 0
        self._references = 1

    def hold(self) -> None:
        """One more user."""
        self._references += 1

    def release(self) -> None:
        """One user less; the last one closes the pipe."""
        self._references -= 1
        if not self._references:
            files.close(self.reader)
            files.close(self.writer)

    def fill(self, fd: int, most: int) -> int:
        """Splices from a socket: the bytes that came, 0 at its end. BlockingIOError when none can now: nothing came, or it is full."""
        came = sockets.splice_in(fd, self.writer, most)
        self.held += came
        return came

    def put(self, view: memoryview) -> int:
        """Writes bytes of the process into it: how many. BlockingIOError when it is full."""
        count = files.write(self.writer, view)
        self.held += count
        return count

    def drain(self) -> None:
        """Throw away what it holds."""
        while self.held:
            self.held -= len(files.read(self.reader, min(self.held, len(_ZEROES))))


class PipeEntry:
    """The next ``length`` bytes of a pipe. Bytes leave a pipe in the order they came: of two entries the front one goes first."""

    __slots__ = ("length", "pipe")

    def __init__(self, pipe: Pipe, length: int) -> None:
        pipe.hold()
        self.pipe = pipe
        self.length = length

    def take(self, count: int) -> PipeEntry:
        """The first ``count`` bytes as an entry of their own, which are then no longer in this one."""
        self.length -= count
        return PipeEntry(self.pipe, count)

    def read_into(self, view: memoryview) -> None:
        """Moves the first ``len(view)`` bytes into the process."""
        done = 0
        while done < len(view):
            done += self._left(files.readv(self.pipe.reader, (view[done:],)))

    def send(self, sock: socket.socket, more: bool) -> int:
        """Splices what the socket takes: the bytes that left. BlockingIOError when there is no room."""
        return self._left(sockets.splice_out(self.pipe.reader, sock.fileno(), self.length, None, more))

    def write_to(self, fd: int, offset: int) -> int:
        """Splices into a file: the bytes that were written."""
        try:
            return self._left(sockets.splice_out(self.pipe.reader, fd, self.length, offset, False))
        except OSError as error:
            if error.errno not in _NO_SENDFILE:
                raise
            return self._copy_to(fd, offset)

    def _copy_to(self, fd: int, offset: int) -> int:
        """Where the file system takes no splice: through the process, a part at a time."""
        part = files.read(self.pipe.reader, min(self.length, len(_ZEROES)))
        self._left(len(part))
        _write_all(fd, memoryview(part), offset)
        return len(part)

    def _left(self, count: int) -> int:
        self.length -= count
        self.pipe.held -= count
        return count

    def free(self) -> None:
        """What was not taken is thrown away, so that the pipe's next bytes are the next entry's."""
        while self.length:
            self._left(len(files.read(self.pipe.reader, min(self.length, len(_ZEROES)))))
        self.pipe.release()


Entry = MemoryEntry | FileEntry | PipeEntry


class IoVector:
    """A chain of entries; ``length`` is the bytes in it."""

    __slots__ = ("_entries", "length")

    def __init__(self, *entries: Entry) -> None:
        self._entries: deque[Entry] = deque()
        self.length = 0
        for entry in entries:
            self.push_back(entry)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def origin(self) -> memoryview:
        """The memory at the front. ValueError when the first byte is not in the process: ``pull_up`` brings it there."""
        if self._entries and isinstance(first := self._entries[0], MemoryEntry):
            return first.view
        raise ValueError("the vector does not begin in memory")

    def push_back(self, entry: Entry) -> None:
        """Append; the vector owns the entry from here on."""
        self._entries.append(entry)
        self.length += entry.length

    def push_front(self, entry: Entry) -> None:
        """Prepend, as a header goes before its payload; the vector owns the entry from here on."""
        self._entries.appendleft(entry)
        self.length += entry.length

    def pull_up(self, count: int, allocate: Callable[[int], Buffer]) -> memoryview:
        """The first ``count`` bytes side by side in memory, copied into a buffer of ``allocate`` unless they already are.

        ValueError when the vector is shorter. When a file cannot be read (``OSError``), what had been read before is lost: free the vector.
        """
        if not 0 < count <= self.length:
            raise ValueError(f"{count} bytes of {self.length}")
        first = self._entries[0]
        if isinstance(first, MemoryEntry) and len(first.view) >= count:
            return first.view[:count]
        buffer = allocate(count)
        target = buffer.payload[:count]
        try:
            self._move_into(target)
        except BaseException:
            buffer.release()
            raise
        self.push_front(MemoryEntry(target, buffer))
        return target

    def _move_into(self, target: memoryview) -> None:
        done, count = 0, len(target)
        while done < count:
            entry = self._entries[0]
            part = min(entry.length, count - done)
            entry.read_into(target[done : done + part])
            self.length -= part
            done += part
            if not entry.length:
                self._drop_first()

    def push_down(self, pipe: Pipe) -> int:
        """Moves the memory at the front into ``pipe``, the opposite of ``pull_up``: how many bytes, which is less when the pipe is full.

        The pipe must be empty (else ValueError): what it held would leave before that memory.
        """
        if pipe.held:
            raise ValueError(f"the pipe holds {pipe.held} bytes")
        moved = 0
        with suppress(BlockingIOError):
            while self._entries and isinstance(first := self._entries[0], MemoryEntry):
                while first.length:
                    count = pipe.put(first.view)
                    first.view = first.view[count:]
                    moved += count
                self._drop_first()
        if moved:
            self.length -= moved
            self.push_front(PipeEntry(pipe, moved))
        return moved

    def split(self, count: int) -> IoVector:
        """The first ``count`` bytes as a vector of their own; this one keeps the rest. Nothing is copied."""
        if not 0 <= count <= self.length:
            raise ValueError(f"{count} bytes of {self.length}")
        front = IoVector()
        while count:
            entry = self._entries[0]
            if entry.length <= count:
                self._entries.popleft()
            else:
                entry = entry.take(count)
            self.length -= entry.length
            count -= entry.length
            front.push_back(entry)
        return front

    def free(self) -> None:
        """Give back everything that is left."""
        entries = self._entries
        self.length = 0
        while entries:
            entries.popleft().free()

    def receive(self, sock: socket.socket, into: Buffer | Pipe, most: int) -> int:
        """Append up to ``most`` bytes from a socket: the bytes that came, 0 at the end of the stream. BlockingIOError when there are none.

        Into a buffer: behind nothing, at its payload's start; the vector then owns the reference. Into a pipe: it holds them.
        """
        if isinstance(into, Pipe):
            came = into.fill(sock.fileno(), most)
            last = self._entries[-1] if self._entries else None
            if isinstance(last, PipeEntry) and last.pipe is into:
                last.length += came
                self.length += came
            elif came:
                self.push_back(PipeEntry(into, came))
            return came
        came = sock.recv_into(into.payload[:most])
        if came:
            self.push_back(MemoryEntry(into.payload[:came], into))
        return came

    def send(self, sock: socket.socket) -> bool:
        """Sends what the socket takes now; True when nothing is left. ``OSError`` when the connection is gone.

        Neighbours in memory leave with one call, and wait in the kernel for the entry behind them: a header and its file leave together.
        """
        entries = self._entries
        try:
            while entries:
                first = entries[0]
                if isinstance(first, MemoryEntry):
                    self._send_memory(sock)
                else:
                    self.length -= first.send(sock, len(entries) > 1)
                    if not first.length:
                        self._drop_first()
        except (BlockingIOError, InterruptedError):
            return False
        return True

    def _send_memory(self, sock: socket.socket) -> None:
        views: list[memoryview] = []
        more = False
        for entry in self._entries:
            if not isinstance(entry, MemoryEntry) or len(views) == MOST_VIEWS:
                more = True
                break
            views.append(entry.view)
        self._consume(sockets.send_views(sock, views, more))

    def _consume(self, count: int) -> None:
        """``count`` bytes of memory have left the front."""
        self.length -= count
        entries = self._entries
        while entries and isinstance(first := entries[0], MemoryEntry):
            size = len(first.view)
            if count < size:
                if count:
                    first.view = first.view[count:]
                return
            count -= size
            self._drop_first()
            if not count:
                return

    def write_to(self, fd: int, offset: int) -> int:
        """Writes everything to a file from ``offset`` on; the bytes, all of them.

        On ``OSError`` what was written before stands, and ``length`` tells what was not, except of an entry that the kernel does not move
        itself (a file; a pipe where there is no splice): the part of it that went through the process may be lost, up to 64 KiB. All that
        is left to be done with the vector is to free it.
        """
        total = self.length
        entries = self._entries
        while entries:
            first = entries[0]
            at = offset + total - self.length
            if isinstance(first, MemoryEntry):
                self._consume(files.pwrite(fd, first.view, at) if first.length else 0)
            elif isinstance(first, PipeEntry):
                self._count(first, first.write_to(fd, at))
            else:
                self._count(first, _copy(first, fd, at))
        return total

    def _count(self, first: Entry, count: int) -> None:
        self.length -= count
        if not first.length:
            self._drop_first()

    def _drop_first(self) -> None:
        self._entries.popleft().free()


def _copy(entry: FileEntry, fd: int, offset: int) -> int:
    """From file to file, a part at a time, through the process."""
    part = entry.take(min(entry.length, len(_ZEROES)))
    data = memoryview(bytearray(part.length))
    try:
        part.read_into(data)
    finally:
        part.free()
    _write_all(fd, data, offset)
    return len(data)


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        done += files.pwrite(fd, data[done:], offset + done)
