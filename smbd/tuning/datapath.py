"""What a transfer costs in user and in kernel format, on this machine, in this folder.

Owns: the measuring loops and the rule that makes thresholds of their figures. A nameless file in the folder is read to, and written from, a
TCP connection over loopback, the same system calls as the data path's own. Invariants: only the thread that plays the server is counted
(its peer is a thread of its own); nothing waits longer than ``PATIENCE``; nothing is left behind, for the file never had a name.
"""

from __future__ import annotations

import math
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import IO, Final, NamedTuple

from pools import port
from pools.iovec import Pipe

KIB: Final = 1 << 10
MIB: Final = 1 << 20
SIZES: Final = (64 * KIB, 128 * KIB, 256 * KIB, 512 * KIB, MIB, 2 * MIB, 4 * MIB, 8 * MIB)
FILE_BYTES: Final = 32 * MIB
PATIENCE: Final = 10.0
# A format that saves less than this is not told from noise, and the user format is the simpler one.
WORTH: Final = 0.97
_HEADER: Final = bytes(84)  # transport, SMB2 header and the fixed part of a READ response


class Figure(NamedTuple):
    """Of one size and direction: CPU seconds per GiB in user and in kernel format, the median of the rounds."""

    direction: str
    size: int
    user: float
    kernel: float

    @property
    def ratio(self) -> float:
        """Below 1 the kernel format is the cheaper one."""
        return self.kernel / self.user if self.user else 1.0


class _Place(NamedTuple):
    """What a loop works on: its end of the connection, the file, memory for one transfer, a pipe."""

    sock: socket.socket
    file: int
    memory: memoryview
    pipe: Pipe


def measure(directory: str, rounds: int, transfer: int, progress: Callable[[float], None]) -> list[Figure]:
    """All sizes in both directions; each sample moves ``transfer`` bytes. The formats take turns within a round.

    ``OSError`` when the folder takes no file of ``FILE_BYTES``. ``progress`` is told the part that is done, up to 1.
    """
    figures = []
    with tempfile.TemporaryFile(dir=directory) as file:
        _fill(file)
        for done, (direction, size) in enumerate((way, size) for way in _WAYS for size in SIZES):
            samples: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(rounds):
                for kernel in (False, True):
                    samples[kernel].append(_sample(direction, kernel, size, file.fileno(), max(transfer, size)))
            figures.append(Figure(direction, size, statistics.median(samples[False]), statistics.median(samples[True])))
            progress((done + 1) / (len(_WAYS) * len(SIZES)))
    return figures


def threshold(figures: list[Figure], direction: str) -> int:
    """The size from which on the kernel format saves most, all sizes above it taken together; 0 when it never saves enough.

    Together, because one noisy figure among the large sizes must not hide what the others say.
    """
    best, least, total = 0, 0.0, 0.0
    for one in sorted((one for one in figures if one.direction == direction), key=lambda one: -one.size):
        saved = math.log(max(one.ratio, 0.01) / WORTH)
        total += saved
        # a size that pays nothing itself is never where it begins
        if saved < 0 and total < least:
            best, least = one.size, total
    return best


def _fill(file: IO[bytes]) -> None:
    block = bytes(range(256)) * (MIB // 256)
    for _ in range(FILE_BYTES // MIB):
        file.write(block)
    file.flush()


def _sample(direction: str, kernel: bool, size: int, file: int, total: int) -> float:
    """CPU seconds per GiB of one sample."""
    count = total // size
    loop = _WAYS[direction][kernel]
    length = count * (size + (len(_HEADER) if direction == "read" else 0))
    with _connection(_drain if direction == "read" else _supply, length) as sock:
        pipe = Pipe()
        try:
            place = _Place(sock, file, memoryview(bytearray(size)), pipe)
            loop(place, 0)  # pages and buffers are there before the clock runs
            before = time.thread_time()
            for turn in range(1, count):
                loop(place, turn * size % (FILE_BYTES - size + 1))
            spent = time.thread_time() - before
        finally:
            pipe.release()
    return spent / ((max(count - 1, 1) * size) / (1 << 30))


@contextmanager
def _connection(peer: Callable[[socket.socket, int], None], length: int) -> Iterator[socket.socket]:
    """Our end, non-blocking, of a loopback connection whose other end a thread drives with ``peer``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname(), PATIENCE)
        listener.settimeout(PATIENCE)
        try:
            ours, _ = listener.accept()
        except OSError:
            theirs.close()
            raise
    over = port.processes.start_thread("peer", partial(_drive, peer, theirs, length))
    try:
        ours.setblocking(False)
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield ours
    finally:
        ours.close()
        over(PATIENCE)


def _drive(peer: Callable[[socket.socket, int], None], sock: socket.socket, length: int) -> None:
    with sock, suppress(OSError):  # the other side tells what went wrong
        peer(sock, length)


def _drain(sock: socket.socket, length: int) -> None:
    room = memoryview(bytearray(4 * MIB))
    while length:
        count = sock.recv_into(room, min(length, len(room)), socket.MSG_TRUNC)
        if not count:
            return
        length -= count


def _supply(sock: socket.socket, length: int) -> None:
    block = memoryview(bytearray(MIB))
    while length:
        length -= sock.send(block[: min(length, len(block))])


# -- the loops: one transfer each ------------------------------------------------------------------------------------------------


def _ready(sock: socket.socket, event: int) -> None:
    """Waits for the connection. TimeoutError when it does not move."""
    poller = port.polling.poller()
    try:
        poller.register(sock.fileno(), event)
        if not poller.poll(PATIENCE):
            raise TimeoutError("the loopback connection does not move")
    finally:
        poller.close()


def _moved(sock: socket.socket, event: int, call: Callable[..., int], *given: object) -> int:
    """What ``call(*given)`` moved, once it can. ConnectionError at the connection's end."""
    while True:
        try:
            count = call(*given)
        except BlockingIOError:
            _ready(sock, event)
            continue
        if not count:
            raise ConnectionError("the loopback connection has ended")
        return count


def _send_all(sock: socket.socket, views: list[memoryview], more: bool) -> None:
    while views:
        count = _moved(sock, port.WRITABLE, port.sockets.send_views, sock, views, more)
        while views and count >= len(views[0]):
            count -= len(views.pop(0))
        if count:
            views[0] = views[0][count:]


def _read_user(place: _Place, offset: int) -> None:
    done = 0
    while done < len(place.memory):
        done += port.files.preadv(place.file, [place.memory[done:]], offset + done)
    _send_all(place.sock, [memoryview(_HEADER), place.memory], more=False)


def _read_kernel(place: _Place, offset: int) -> None:
    sock = place.sock
    _send_all(sock, [memoryview(_HEADER)], more=True)
    left = len(place.memory)
    while left:
        count = _moved(sock, port.WRITABLE, port.sockets.sendfile, sock.fileno(), place.file, offset, left)
        offset += count
        left -= count


def _write_user(place: _Place, offset: int) -> None:
    sock, memory = place.sock, place.memory
    done = 0
    while done < len(memory):
        done += _moved(sock, port.READABLE, sock.recv_into, memory[done:])
    done = 0
    while done < len(memory):
        done += port.files.pwrite(place.file, memory[done:], offset + done)


def _write_kernel(place: _Place, offset: int) -> None:
    sock, pipe = place.sock, place.pipe
    left = len(place.memory)
    while left:
        held = _moved(sock, port.READABLE, pipe.fill, sock.fileno(), left)
        left -= held
        while held:
            count = port.sockets.splice_out(pipe.reader, place.file, held, offset, False)
            pipe.held -= count
            held -= count
            offset += count


_Loop = Callable[[_Place, int], None]
# By direction: the loop in user format, the loop in kernel format.
_WAYS: Final[dict[str, tuple[_Loop, _Loop]]] = {"read": (_read_user, _read_kernel), "write": (_write_user, _write_kernel)}
