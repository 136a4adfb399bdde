"""Counters: one small shared segment, one page per process slot.

Owns: the segment's layout, its creation and its mappings. Invariant: a row has one writer, its process (the master
before the fork and after the reaping); after ``narrow`` the hardware holds a child to that, and the one process whose
threads are workers to its own row and theirs. Readers take no lock: a word is read whole, two words need not belong
together. Any number may stand in a row of another process, one that went wrong included: nothing here raises over it,
and whose a row is follows from its slot alone.

A row is 512 words of 64 bits. A row that belongs to nobody has pid 0.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from pools import port
from pools.buffer import CLASSES, USUAL, classes_by_bits
from pools.layout import U32, Layout, Raw8, WireError
from pools.record import sender_class

ROW_BYTES: Final = 4096
ROW_WORDS: Final = ROW_BYTES // 8
_MAGIC: Final = b"millpond"
_VERSION: Final = 3
_WORD: Final = (1 << 64) - 1


class _Head(NamedTuple):
    """The segment's first page."""

    magic: Raw8
    version: U32
    row_bytes: U32
    rows: U32
    classes: U32


_HEAD: Final = Layout(_Head)

FIXED_COLUMNS: Final = (
    # whose row it is
    "pid", "generation", "started",
    # signs of life: monotonic ns; txn_since is 0 outside a transaction on the shared state
    "heartbeat", "txn_since",
    # what it serves
    "connections", "sessions", "tree_connects", "opens",
    # what it did
    "requests", "errors", "bytes_read", "bytes_written", "async_waits", "messages_received", "messages_busy",
    # the master's row: bytes of all pools
    "budget", "reserved", "leased_bytes", "lease_waits", "lease_refusals",
    # the master's row: how the pools of new connections are made: mode by its place in ``pools.pool.MODES``, classes as bits by number,
    # bytes that one may hold, bytes of the turn, milliseconds
    "pool_mode", "pool_classes", "pool_ceiling", "pool_turn", "pool_decay",
    # the system's number of the thread that is this worker; 0 for a process
    "thread",
    # the master's row: what ended processes had done
    "past_workers", "past_requests", "past_errors", "past_bytes_read", "past_bytes_written",
)  # fmt: skip
CLASS_COLUMNS: Final = (
    # leased, committed, reserve: slabs; in_use, high_water: buffers; misses and what follows only ever grow
    "leased", "committed", "in_use", "high_water", "reserve", "misses", "waits", "asks", "refusals", "no_room",
)  # fmt: skip
GROWING: Final = CLASS_COLUMNS[CLASS_COLUMNS.index("misses") :]
COMMANDS: Final = 32  # one word per SMB2 command number
HISTOGRAM: Final = 32  # one word per power of two: word n counts requests of more than 2**(n-1) and at most 2**n bytes

_FIXED_ROOM: Final = 64
_CLASS_ROOM: Final = 16
COMMANDS_AT: Final = _FIXED_ROOM
HISTOGRAM_AT: Final = COMMANDS_AT + COMMANDS
REQUESTED_AT: Final = HISTOGRAM_AT + HISTOGRAM  # the bytes of those requests
CLASSES_AT: Final = REQUESTED_AT + HISTOGRAM

PAST: Final = ("requests", "errors", "bytes_read", "bytes_written")
COLUMN: Final[Mapping[str, int]] = {name: word for word, name in enumerate(FIXED_COLUMNS)}
PID: Final = COLUMN["pid"]
GENERATION: Final = COLUMN["generation"]
HEARTBEAT: Final = COLUMN["heartbeat"]
TXN_SINCE: Final = COLUMN["txn_since"]
REQUESTS: Final = COLUMN["requests"]
ERRORS: Final = COLUMN["errors"]
BYTES_READ: Final = COLUMN["bytes_read"]
BYTES_WRITTEN: Final = COLUMN["bytes_written"]


def class_word(number: int, column: str) -> int:
    """The word of ``column`` of the pool class ``number``."""
    return CLASSES_AT + number * _CLASS_ROOM + CLASS_COLUMNS.index(column)


# What of a row is worth keeping when its process is dead: how its pool was asked, and what it could not give.
_GROWING_WORDS: Final = (
    *range(HISTOGRAM_AT, CLASSES_AT), *(class_word(number, column) for number in range(len(CLASSES)) for column in GROWING),
)  # fmt: skip


class Row:
    """One process's counters. ``words`` is a memoryview of 64-bit words: hot paths write ``row.words[PID] += 1``."""

    __slots__ = ("slot", "words")

    def __init__(self, words: memoryview, slot: int = 0) -> None:
        self.words = words
        self.slot = slot

    @classmethod
    def private(cls) -> Row:
        """A row that nobody else sees, for tests and for processes without a segment."""
        return cls(memoryview(bytearray(ROW_BYTES)).cast("Q"))

    def add(self, column: str, amount: int = 1) -> None:
        """Add to a named column; below zero is a bug: ``struct.error``/``ValueError``."""
        self.words[COLUMN[column]] += amount

    def set(self, column: str, value: int) -> None:
        """Set a named column."""
        self.words[COLUMN[column]] = value

    def get(self, column: str) -> int:
        """A named column."""
        return self.words[COLUMN[column]]

    def clear(self) -> None:
        """All words zero: the row belongs to nobody."""
        self.words[:] = memoryview(bytes(ROW_BYTES)).cast("Q")

    def inherit(self, other: Row, *, worker: bool) -> None:
        """Take over what a dead process's row has counted, so that sums over all rows never shrink; its row is cleared.

        Whether it was a ``worker`` the caller knows. Sums are modulo 2**64: no word is too large to be added.
        """
        other.words[PID] = 0  # first: who adds up now misses it, and does not count it twice
        for word in _GROWING_WORDS:
            self.words[word] = (self.words[word] + other.words[word]) & _WORD
        for column in PAST:
            past = f"past_{column}"
            self.set(past, (self.get(past) + other.get(column)) & _WORD)
        self.add("past_workers", int(worker))
        other.clear()

    def read(self) -> Reading:
        """A copy for monitors."""
        words = self.words.tolist()
        return Reading(
            self.slot,
            dict(zip(FIXED_COLUMNS, words, strict=False)),
            tuple(words[COMMANDS_AT:HISTOGRAM_AT]),
            tuple(words[HISTOGRAM_AT:REQUESTED_AT]),
            tuple(words[REQUESTED_AT:CLASSES_AT]),
            tuple(dict(zip(CLASS_COLUMNS, words[class_word(number, "leased") :], strict=False)) for number in range(len(CLASSES))),
        )


class Reading(NamedTuple):
    """A copied row: named words, requests per command number, requests per power of two of bytes and their bytes, words per class."""

    slot: int
    words: dict[str, int]
    commands: tuple[int, ...]
    histogram: tuple[int, ...]
    requested: tuple[int, ...]
    classes: tuple[dict[str, int], ...]

    @property
    def role(self) -> str:
        """Whose row it is; "unknown" at a slot that no role has."""
        try:
            return sender_class(self.slot)
        except ValueError:
            return "unknown"

    def class_requests(self, number: int, used: Sequence[int] = USUAL) -> int:
        """Requests of sizes that belong to a pool class where those ``used`` are in use, whichever class served them."""
        return sum(count for own, count in zip(classes_by_bits(used), self.histogram, strict=False) if own == number)

    def class_bytes(self, number: int, used: Sequence[int] = USUAL) -> int:
        """The bytes of those requests."""
        return sum(size for own, size in zip(classes_by_bits(used), self.requested, strict=False) if own == number)


class CounterSegment:
    """The segment as this process maps it: made by the master, inherited by its children, attached by monitors."""

    __slots__ = ("_fd", "_map", "_own", "_own_slots", "rows")

    def __init__(self, fd: int, rows: int, mapping: mmap.mmap) -> None:
        self._fd = fd
        self.rows = rows
        self._map: mmap.mmap = mapping
        self._own: mmap.mmap | None = None
        self._own_slots = range(0)  # whose rows are in it

    @classmethod
    def create(cls, path: str | None, rows: int) -> CounterSegment:
        """A new segment of ``rows`` rows: a file of mode 0600 (put it on a tmpfs), or nameless when ``path`` is None.

        A former segment of that name is replaced, never written to: a monitor may still have it mapped.
        """
        size = ROW_BYTES * (rows + 1)
        fd = port.memory.create_shared_memory(size, size) if path is None else port.memory.create_memory_file(path, size)
        try:
            # All of it now: a tmpfs that fills up later would be a SIGBUS in whoever counts next.
            port.memory.commit(fd, 0, size)
            mapping = port.memory.map_shared(fd, size)
        except OSError:
            port.files.close(fd)
            raise
        _HEAD.pack_into(memoryview(mapping), 0, _MAGIC, _VERSION, ROW_BYTES, rows, len(CLASSES))
        return cls(fd, rows, mapping)

    @classmethod
    def attach(cls, path: str) -> CounterSegment:
        """The running server's segment, read-only. FileNotFoundError without one, WireError when it is of another version."""
        fd = port.files.open(path, os.O_RDONLY)
        try:
            head = _HEAD.unpack(port.files.pread(fd, _HEAD.size, 0))
            if head != (_MAGIC, _VERSION, ROW_BYTES, head.rows, len(CLASSES)):
                raise WireError(f"{path}: not a counter segment of this version")
            if port.files.fstat(fd).st_size < ROW_BYTES * (head.rows + 1):
                raise WireError(f"{path}: shorter than its {head.rows} rows")
            return cls(fd, head.rows, port.memory.map_shared(fd, ROW_BYTES * (head.rows + 1), writable=False))
        except (OSError, WireError):
            port.files.close(fd)
            raise

    def narrow(self, slot: int, *, and_behind: bool = False) -> Row:
        """For a child after its fork: from now on only its own row can be written, and all behind it if asked for; its own."""
        slots = range(slot, self.rows if and_behind else slot + 1)
        own = port.memory.map_shared(self._fd, ROW_BYTES * len(slots), offset=self._offset(slot))
        others = port.memory.map_shared(self._fd, ROW_BYTES * (self.rows + 1), writable=False)
        self._map.close()
        port.files.close(self._fd)
        self._fd, self._map, self._own, self._own_slots = -1, others, own, slots
        return self.row(slot)

    def row(self, slot: int) -> Row:
        """The row of a slot, writable where this process may write it."""
        offset = self._offset(slot)
        if self._own is not None and slot in self._own_slots:
            at = ROW_BYTES * (slot - self._own_slots.start)
            return Row(memoryview(self._own)[at : at + ROW_BYTES].cast("Q"), slot)
        return Row(memoryview(self._map)[offset : offset + ROW_BYTES].cast("Q"), slot)

    def is_alive(self, slot: int, generation: int) -> bool:
        """Whether a record made by (slot, generation) belongs to a process that still stands."""
        if not 0 <= slot < self.rows:
            return False
        words = self.row(slot).words
        return words[GENERATION] == generation and words[PID] != 0

    def read_rows(self) -> Iterator[Reading]:
        """Copies of all rows that belong to a process."""
        for slot in range(self.rows):
            row = self.row(slot)
            if row.words[PID]:
                yield row.read()

    def close(self) -> None:
        """Unmap. Rows handed out must be gone: BufferError otherwise."""
        self._map.close()
        if self._own is not None:
            self._own.close()
        if self._fd >= 0:
            port.files.close(self._fd)
            self._fd = -1

    def fileno(self) -> int:
        """The descriptor, to keep over ``port.processes.close_others``; -1 after ``narrow``."""
        return self._fd

    def _offset(self, slot: int) -> int:
        if not 0 <= slot < self.rows:
            raise IndexError(f"counter row {slot} of {self.rows}")
        return ROW_BYTES * (slot + 1)
