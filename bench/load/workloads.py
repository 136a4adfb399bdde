"""What is measured: one row per workload, each a function that keeps a connection busy until a time is reached.

Owns: the table ``WORKLOADS`` and the files the workloads expect in the share (``furnish``).
Invariant: a workload leaves the share as it found it, and every final reply was a success.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.load.wire import (
    ANY_FILE,
    CLOSE,
    CREATE,
    ECHO,
    ECHO_BODY,
    NO_MORE_FILES,
    QUERY_DIRECTORY,
    QUERY_INFO,
    READ,
    READ_OFFSET_AT,
    WRITE,
    WRITE_OFFSET_AT,
    Connection,
    Frame,
    Q,
    Where,
    WireFault,
    charge_of,
    close_body,
    create_body,
    query_directory_body,
    query_info_body,
    read_body,
    write_body,
)

KIB, MIB = 1 << 10, 1 << 20
FILE_SIZE = 64 * MIB
LISTED = 10_000
BATCH_LIMIT = 64 * KIB

GENERIC_READ_DATA = 0x120089
GENERIC_READ_WRITE = 0x12019F
READ_ATTRIBUTES = 0x80
DELETE = 0x10000
CREATE_NEW, OPEN = 2, 1
DIRECTORY, NON_DIRECTORY, DELETE_ON_CLOSE = 0x1, 0x40, 0x1000
FILE_ALL, FILE_ID_BOTH_DIRECTORY = 18, 37


class Tally(NamedTuple):
    """What one client did: operations, payload bytes, seconds; and how long the 99th of 100 operations took, in microseconds."""

    operations: int
    payload: int
    seconds: float
    p99: float


class Seat(NamedTuple):
    """A workload's place: its connection, where that leads, and which of the clients it is."""

    connection: Connection
    where: Where
    number: int
    buffer: bytearray


Run = Callable[[Seat, float], Tally]


class Workload(NamedTuple):
    """One row: ``unit`` is 'MB/s' when the payload counts, else operations per second. ``connects``: it makes its own connections."""

    name: str
    unit: str
    run: Run
    protections: tuple[str, ...] = ("plain", "signed", "encrypted")
    connects: bool = False


def furnish(share: Path, clients: int) -> None:
    """The files the workloads read, overwrite and list, made behind the server's back before it is measured."""
    data = random.Random(4450).randbytes(MIB)
    for number in range(clients):
        with (share / f"data{number}.bin").open("wb") as file:
            for _ in range(FILE_SIZE // MIB):
                file.write(data)
    (share / "small.txt").write_bytes(b"small\n")
    folder = share / "listed"
    folder.mkdir()
    for number in range(LISTED):
        (folder / f"entry number {number:05}.txt").touch()
    for path in (share, folder, *share.iterdir(), *folder.iterdir()):
        path.chmod(0o777 if path.is_dir() else 0o666)


# -- transfers -------------------------------------------------------------------------------------------------------------------


def _nothing() -> None:
    """A request that is the same every time."""


def _offsets(size: int, *, ordered: bool) -> list[int]:
    places = [place * size for place in range(FILE_SIZE // size)]
    if not ordered:
        random.Random(size).shuffle(places)
    return places


def _pipeline(
    connection: Connection, frame: Frame, window: int, until: float, *, advance: Callable[[], None] = _nothing, replies: int = 1,
    skim: bool = False,
) -> tuple[int, float]:
    """Keeps ``window`` copies of a request under way until the time is reached; the number of operations finished, and their p99."""
    sock = connection.sock
    large = frame.size > BATCH_LIMIT
    finished = sent = 0
    wanted = window
    clock = time.perf_counter
    starts: deque[float] = deque()  # replies mostly come in order; where they do not, two latencies swap
    latencies: list[float] = []
    while wanted or sent * replies > finished:
        batch = bytearray()
        for _ in range(wanted):
            advance()
            starts.append(clock())
            if large:
                sock.sendall(frame.stamp())
            else:
                batch += frame.stamp()
        if batch:
            sock.sendall(batch)
        sent += wanted
        for reply in connection.skim() if skim else connection.replies():
            if reply.status:
                raise WireFault(f"status 0x{reply.status:08x}")
            finished += 1
            if finished % replies == 0:
                latencies.append(clock() - starts.popleft())
        wanted = window - (sent - finished // replies) if clock() < until else 0
    return finished // replies, p99(latencies)


def p99(latencies: list[float]) -> float:
    """The time that 99 of 100 stayed below, in microseconds, of seconds."""
    return sorted(latencies)[len(latencies) * 99 // 100] * 1e6 if latencies else 0.0


def _transfer(size: int, window: int, *, write: bool, ordered: bool) -> Run:
    def run(seat: Seat, until: float) -> Tally:
        connection = seat.connection
        chunk = min(size, connection.max_write if write else connection.max_read)
        charge = charge_of(chunk) if connection.dialect > 0x0202 else 0
        room = max(1, connection.credits // max(1, charge))
        file_id = connection.create(f"data{seat.number}.bin", access=GENERIC_READ_WRITE)
        body = write_body(file_id, 0, random.Random(1).randbytes(chunk)) if write else read_body(file_id, 0, chunk)
        frame = connection.frame((WRITE if write else READ, body, charge))
        element, place = frame.elements[0], WRITE_OFFSET_AT if write else READ_OFFSET_AT
        offsets = _offsets(chunk, ordered=ordered)
        turn = 0

        def advance() -> None:
            nonlocal turn
            Q.pack_into(element, place, offsets[turn])
            turn = (turn + 1) % len(offsets)

        begin = time.perf_counter()
        skim = connection.protection == "plain" and not write and chunk > BATCH_LIMIT
        finished, slow = _pipeline(connection, frame, min(window, room), until, advance=advance, skim=skim)
        seconds = time.perf_counter() - begin
        connection.close_file(file_id)
        return Tally(finished, finished * chunk, seconds, slow)

    return run


# -- names and metadata ----------------------------------------------------------------------------------------------------------


def _stat(window: int) -> Run:
    def run(seat: Seat, until: float) -> Tally:
        connection = seat.connection
        charge = 1 if connection.dialect > 0x0202 else 0
        frame = connection.frame(
            (CREATE, create_body("small.txt", access=READ_ATTRIBUTES), charge),
            (QUERY_INFO, query_info_body(ANY_FILE, FILE_ALL, 4096), charge),
            (CLOSE, close_body(ANY_FILE), charge),
        )
        begin = time.perf_counter()
        finished, slow = _pipeline(connection, frame, window, until, replies=3)
        return Tally(finished, 0, time.perf_counter() - begin, slow)

    return run


def _echo(window: int) -> Run:
    def run(seat: Seat, until: float) -> Tally:
        frame = seat.connection.frame((ECHO, ECHO_BODY, 1 if seat.connection.dialect > 0x0202 else 0))
        begin = time.perf_counter()
        finished, slow = _pipeline(seat.connection, frame, window, until)
        return Tally(finished, 0, time.perf_counter() - begin, slow)

    return run


def _loop(step: Callable[[Seat], int]) -> Run:
    """A workload of whole steps, one after the other; a step tells its number of operations."""

    def run(seat: Seat, until: float) -> Tally:
        done = 0
        latencies: list[float] = []
        begin = now = time.perf_counter()
        while now < until:
            done += step(seat)
            before, now = now, time.perf_counter()
            latencies.append(now - before)
        return Tally(done, 0, now - begin, p99(latencies))

    return run


def _open_close(seat: Seat) -> int:
    seat.connection.close_file(seat.connection.create("small.txt", access=GENERIC_READ_DATA, options=NON_DIRECTORY))
    return 1


def _create_delete(seat: Seat) -> int:
    connection = seat.connection
    name = f"made by {seat.number}.tmp"
    file_id = connection.create(name, access=GENERIC_READ_WRITE, disposition=CREATE_NEW, options=NON_DIRECTORY)
    connection.call(WRITE, write_body(file_id, 0, bytes(4 * KIB)))
    connection.close_file(file_id)
    connection.close_file(connection.create(name, access=DELETE, options=NON_DIRECTORY | DELETE_ON_CLOSE))
    return 1


def _list(seat: Seat) -> int:
    """One listing; an operation is one entry. Counted by walking NextEntryOffset, as a client must."""
    connection = seat.connection
    file_id = connection.create("listed", access=GENERIC_READ_DATA, options=DIRECTORY)
    size = 65536
    entries = 0
    restart = True
    while True:
        body = query_directory_body(file_id, FILE_ID_BOTH_DIRECTORY, size, restart=restart)
        reply = connection.call(QUERY_DIRECTORY, body, charge=charge_of(size), check=False)
        restart = False
        if reply.status == NO_MORE_FILES:
            break
        if reply.status:
            raise WireFault(f"listing: status 0x{reply.status:08x}")
        entries += _count_entries(reply.view)
    connection.close_file(file_id)
    if not entries:
        raise WireFault("an empty listing")
    return entries


def _count_entries(view: memoryview) -> int:
    at = int.from_bytes(view[66:68], "little")
    entries = 1
    while following := int.from_bytes(view[at:at + 4], "little"):
        at += following
        entries += 1
    return entries


def _connect(seat: Seat) -> int:
    connection = Connection(seat.where, seat.connection.protection, seat.buffer)
    connection.open(gather=False)
    connection.close()
    return 1


WORKLOADS: tuple[Workload, ...] = (
    Workload("read 1M", "MB/s", _transfer(MIB, 8, write=False, ordered=True)),
    Workload("read 8M", "MB/s", _transfer(8 * MIB, 2, write=False, ordered=True)),
    Workload("read 4K w1", "op/s", _transfer(4 * KIB, 1, write=False, ordered=False)),
    Workload("read 4K w16", "op/s", _transfer(4 * KIB, 16, write=False, ordered=False)),
    Workload("write 1M", "MB/s", _transfer(MIB, 8, write=True, ordered=True)),
    Workload("write 8M", "MB/s", _transfer(8 * MIB, 2, write=True, ordered=True)),
    Workload("write 4K w1", "op/s", _transfer(4 * KIB, 1, write=True, ordered=False)),
    Workload("write 4K w16", "op/s", _transfer(4 * KIB, 16, write=True, ordered=False)),
    Workload("open-close", "op/s", _loop(_open_close)),
    Workload("stat w1", "op/s", _stat(1)),
    Workload("stat w8", "op/s", _stat(8)),
    Workload("create-delete", "op/s", _loop(_create_delete)),
    Workload("list", "op/s", _loop(_list)),
    Workload("echo w1", "op/s", _echo(1)),
    Workload("echo w16", "op/s", _echo(16)),
    Workload("connect", "op/s", _loop(_connect), connects=True),
)
# Sizes between: for figures over sizes (bench.claims), not for the comparison with others.
BETWEEN: tuple[Workload, ...] = tuple(
    Workload(f"{'write' if write else 'read'} {size // KIB}K", "MB/s", _transfer(size, 8, write=write, ordered=True))
    for write in (False, True)
    for size in (64 * KIB, 256 * KIB)
)
EVERY = WORKLOADS + BETWEEN
