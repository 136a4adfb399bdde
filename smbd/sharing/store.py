"""The environment: LMDB on tmpfs, and a page of shared words for what must cost nothing when there is nothing.

Owns: the files of the lock directory, the tables, transactions. Invariants: a transaction begins and ends inside one call of this module;
while a write transaction is open its clock cell tells since when; a shared word is never clear while what it stands for is committed.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator, MutableSequence
from pathlib import Path
from time import monotonic_ns, sleep
from typing import Protocol, TypeVar, TypeVarTuple, cast

import lmdb

from pools.port import files, memory
from smbd.sharing.records import BUCKET_PREFIX, BUCKETS
from smbd.sharing.values import DISCONNECTED
from smbd.smb2 import status
from smbd.smb2.status import SmbError

DATA = "data.mdb"
LOCK = "lock.mdb"
WORDS = "words"
TABLES = (
    b"files", b"opens", b"locks", b"waiters", b"watchers", b"sessions", b"trees", b"leases", b"contended", b"directories",
    b"durables", b"guids", b"apps", b"lost", b"clients", b"times", b"channels",
)  # fmt: skip
WORDS_SIZE = 64 + 2 * BUCKETS
WATCHER_COUNT, WAITER_COUNT, ERA, LOADED, DIRECTORY_COUNT, TIME_COUNT, FULLNESS = range(7)  # the words before the buckets
LEAST_SIZE = 1 << 20
PINNED = (0.0, 0.001, 0.01, 0.05, 0.2, 0.5)
"""Seconds for which a full map is waited for: a reader lets go of the pages that it sees when it is done."""
MEASURED_EACH = 64
"""Write transactions of one process after which it looks how full the map is."""

Clock = MutableSequence[int] | memoryview
R = TypeVar("R")
Ts = TypeVarTuple("Ts")


class Table(Protocol):
    """A named table of the environment (lmdb's ``_Database``)."""


class Transaction(Protocol):
    """The part of lmdb's transaction that is used."""

    def get(self, key: bytes, *, db: Table) -> bytes | None: ...
    def put(self, key: bytes, value: bytes, *, db: Table) -> bool: ...
    def delete(self, key: bytes, *, db: Table) -> bool: ...
    def cursor(self, db: Table) -> Cursor: ...
    def stat(self, db: Table) -> dict[str, int]: ...
    def commit(self) -> None: ...
    def abort(self) -> None: ...


class Cursor(Protocol):
    """The part of lmdb's cursor that is used."""

    def set_range(self, key: bytes) -> bool: ...
    def first(self) -> bool: ...
    def next(self) -> bool: ...
    def key(self) -> bytes: ...
    def value(self) -> bytes: ...


def wipe(directory: str) -> None:
    """Remove what an earlier server left. Only a starting master calls it, holding its lock file, before the first fork."""
    for name in (DATA, LOCK, WORDS):
        path = os.path.join(directory, name)
        if os.path.lexists(path):
            files.remove_path(path)


def prepare(directory: str, size: int, max_readers: int = 4096, clock: Clock | None = None) -> None:
    """Make the environment and reserve all of its space; what is there already stays, so a restarted broker may call it again.

    ``clock``: see ``Store``. Raises ``OSError``: a full tmpfs would otherwise be a SIGBUS in the middle of a transaction.
    """
    Path(directory).mkdir(0o700, parents=True, exist_ok=True)
    Path(directory).chmod(0o700)  # one that was there may be open to others
    _reserve(os.path.join(directory, WORDS), WORDS_SIZE)
    _begin_era(os.path.join(directory, WORDS))
    environment = _open(directory, max(size, LEAST_SIZE), max_readers)
    try:
        _open_tables(environment, clock, create=True)
        _reserve(os.path.join(directory, DATA), environment.info()["map_size"])
        _reserve(os.path.join(directory, LOCK), os.path.getsize(os.path.join(directory, LOCK)))
    finally:
        environment.close()


def _begin_era(path: str) -> None:
    """Give the state the number that tells its FileIds from those of an earlier server: 32 random bits, of which not all are 0."""
    with open(path, "r+b") as words:
        at = ERA * 8
        words.seek(at)
        if not any(words.read(8)):
            words.seek(at)
            words.write((secrets.randbelow((1 << 32) - 1) + 1).to_bytes(8, "little"))


def _reserve(path: str, size: int) -> None:
    descriptor = files.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    try:
        files.reserve(descriptor, size)
    except OSError as error:
        raise OSError(error.errno, f"cannot reserve {size} bytes for the shared state: {error.strerror}", path) from error
    finally:
        files.close(descriptor)


def _open(directory: str, size: int, max_readers: int, *, readonly: bool = False) -> lmdb.Environment:
    return lmdb.open(
        directory,
        map_size=size,
        mode=0o600,
        create=not readonly,
        readonly=readonly,
        writemap=not readonly,
        sync=False,
        metasync=False,
        map_async=True,
        max_dbs=len(TABLES),
        max_readers=max_readers,
    )


def _open_tables(environment: lmdb.Environment, clock: Clock | None, *, create: bool) -> list[Table]:
    """All tables, for reading and writing, in one write transaction: lmdb begins one for each that is opened outside of any."""
    clock = [0] if clock is None else clock
    since = monotonic_ns() & ~1
    clock[0] = since
    try:
        transaction = environment.begin(write=True)
        clock[0] = since | 1
        try:
            tables: list[Table] = [environment.open_db(name, transaction, create=create) for name in TABLES]
            transaction.commit()
        except BaseException:
            transaction.abort()
            raise
        return tables
    finally:
        clock[0] = 0


class Environment:
    """The files as one process has them open, once: LMDB forbids a second time. Threads share it, each with a ``Store`` of its own.

    ``clock``: see ``Store``; the tables are opened in a write transaction. ``readonly``: for who only looks, and not so: it waits for no
    writer, and none for it, whatever becomes of it. ``FileNotFoundError`` when the environment is not there, or not yet all of it.
    """

    def __init__(self, directory: str, clock: Clock | None = None, *, readonly: bool = False) -> None:
        with open(os.path.join(directory, WORDS), "r+b") as words:
            self._map = memory.map_shared(words.fileno(), WORDS_SIZE)
        self._words = memoryview(self._map)
        self.counts = self._words[:64].cast("Q")
        self.buckets = self._words[64:WORDS_SIZE]
        data = os.path.join(directory, DATA)
        self.lmdb = _open(directory, os.path.getsize(data), 4096, readonly=readonly)
        try:
            self.tables: list[Table] = (
                [self.lmdb.open_db(name, create=False) for name in TABLES] if readonly else _open_tables(self.lmdb, clock, create=False)
            )
        except lmdb.NotFoundError as error:
            self.close()
            raise FileNotFoundError(errno.ENOENT, str(error), data) from error
        self.pages = self.lmdb.info()["map_size"] // self.lmdb.stat()["psize"]

    def close(self) -> None:
        """Let go of the environment and the shared words; no ``Store`` on it may be used any more."""
        self.lmdb.close()
        for view in (self.counts, self.buckets, self._words):
            view.release()
        self._map.close()


class Store:
    """One worker's or service's view of the environment. ``alive`` tells whether a (slot, generation) still runs.

    ``place``: the directory, to be opened here, after the fork; or what this process has open already.
    ``clock`` is a sequence whose element 0 is the process's txn_since cell; None where nobody watches. The cell is 0 outside write
    transactions, else a monotonic time in ns: even while the process waits for its turn, odd while it holds up everybody else.
    """

    def __init__(
        self,
        place: str | Environment,
        slot: int,
        generation: int,
        clock: Clock | None,
        alive: Callable[[int, int], bool],
    ) -> None:
        self.slot = slot
        self.generation = generation
        self._alive = alive
        self._clock: Clock = [0] if clock is None else clock
        self._written = 0
        self._unsettled: set[int] = set()  # words of buckets to be cleared, if what is committed says so
        self._environment = Environment(place, clock) if isinstance(place, str) else place
        self._counts, self._buckets = self._environment.counts, self._environment.buckets
        self._begin = cast(Callable[..., Transaction], self._environment.lmdb.begin)
        tables = self._environment.tables
        self._files, self._opens, self._locks, self._waiters, self._watchers, self._sessions, self._trees = tables[:7]
        self._leases, self._contended, self._directories = tables[7:10]
        self._durables, self._guids, self._apps, self._lost, self._clients, self._times = tables[10:16]
        self._channels = tables[16]

    def close_environment(self) -> None:
        """Let go of the environment and the shared words. Nothing is removed: a sweep or the calls before did that."""
        self._environment.close()

    @property
    def era(self) -> int:
        """32 bits that another server's state, before or after this one's, hardly has: see ``Worker.new_open``."""
        return self._counts[ERA]

    @property
    def fullness(self) -> int:
        """How full the map is, in thousandths, as somebody has found it lately. One word is read.

        A full one takes no deletions either, as they need pages too, and so would stay full: who makes it fuller has to leave room.
        """
        return self._counts[FULLNESS]

    @property
    def loaded(self) -> bool:
        """Whether the persistent opens of an earlier server are in the tables."""
        return bool(self._counts[LOADED])

    @loaded.setter
    def loaded(self, on: bool) -> None:
        self._counts[LOADED] = int(on)

    def tables(self) -> tuple[Table, ...]:
        """All tables, for who counts or checks them."""
        files = self._files, self._opens, self._locks, self._waiters, self._leases, self._contended, self._directories
        others = self._watchers, self._sessions, self._channels, self._trees
        return *files, *others, self._durables, self._guids, self._apps, self._lost, self._times

    def _count(self, transaction: Transaction, table: Table, word: int) -> None:
        """Tell all processes how many rows a table has. Before the commit, under the writer's mutex.

        What a failed commit leaves behind is too high, or lacks a row that its owner was giving up.
        """
        self._counts[word] = transaction.stat(table)["entries"]

    def check_readers(self) -> int:
        """Free the reader slots of dead processes: each pins the pages it saw. Returns how many."""
        return int(self._environment.lmdb.reader_check())

    def is_alive(self, slot: int, generation: int) -> bool:
        """Whether the process that a record names still runs; our own always does. Disconnected opens stand until they are ended."""
        return (slot == self.slot and generation == self.generation) or slot == DISCONNECTED or self._alive(slot, generation)

    def _write(self, work: Callable[[Transaction, *Ts], R], *args: *Ts) -> R:
        """Run ``work`` in a write transaction: committed when it returns, undone when it raises.

        A full map is INSUFFICIENT_RESOURCES, after more tries without the pages that dead readers pinned, and living ones for a moment.
        """
        self._written += 1
        if not self._written % MEASURED_EACH:
            self._read(self._measure)
        for pause in PINNED:
            try:
                return self._attempt(work, args)
            except lmdb.MapFullError:
                self.check_readers()
                sleep(pause)
        try:
            return self._attempt(work, args)
        except lmdb.MapFullError as error:
            raise SmbError(status.INSUFFICIENT_RESOURCES) from error

    def _attempt(self, work: Callable[[Transaction, *Ts], R], args: tuple[*Ts]) -> R:
        # The clock is for whoever finds this process stopped while it holds the writer's mutex. Even: it wants the mutex; odd: it has it.
        # Without the difference everyone who waits for a stopped process would look stopped too.
        since = monotonic_ns() & ~1
        self._clock[0] = since
        try:
            transaction = self._begin(write=True)
            self._clock[0] = since | 1
            try:
                if self._unsettled:
                    self._settle(transaction)
                result = work(transaction, *args)
                transaction.commit()
            except BaseException:
                transaction.abort()
                raise
            return result
        finally:
            self._clock[0] = 0

    def _measure(self, transaction: Transaction) -> None:
        used = 0
        for table in self._environment.tables:
            stat = transaction.stat(table)
            used += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        self._counts[FULLNESS] = used * 1000 // self._environment.pages

    def _settle(self, transaction: Transaction) -> None:
        """Clear the words of buckets in which, by what is committed, nothing is locked, or no write disturbs a cache, any more.

        In the transaction after the one that made it so: by then that is committed, and nobody else is about to change it. Cleared before,
        and killed then, a process would leave locks, and caches, that nobody looks for.
        """
        for word in self._unsettled:
            prefix = BUCKET_PREFIX.pack(word % BUCKETS)
            cursor = transaction.cursor(db=self._locks if word < BUCKETS else self._contended)
            if not (cursor.set_range(prefix) and cursor.key().startswith(prefix)):
                self._buckets[word] = 0
        self._unsettled.clear()

    def _read(self, work: Callable[[Transaction, *Ts], R], *args: *Ts) -> R:
        """Run ``work`` in a read transaction: it sees one committed state and blocks nobody."""
        transaction = self._begin()
        try:
            return work(transaction, *args)
        finally:
            transaction.abort()


def walk(transaction: Transaction, table: Table, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of every row whose key starts with ``prefix``, in order, one at a time. The table must not change meanwhile."""
    cursor = transaction.cursor(db=table)
    there = cursor.set_range(prefix) if prefix else cursor.first()
    while there:
        key = cursor.key()
        if not key.startswith(prefix):
            break
        yield key, cursor.value()
        there = cursor.next()


def rows(transaction: Transaction, table: Table, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
    """What ``walk`` finds, all at once: the transaction may change the table while they are used."""
    return list(walk(transaction, table, prefix))
