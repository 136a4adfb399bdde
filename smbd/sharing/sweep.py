"""The janitor's work: records of processes that are gone.

Owns: ``Sharing``, the whole of the shared state, with the sweep on top. Invariant: a sweep may be killed at any point and done again: what
is to be deleted keeps a witness row until ``finish_sweep``.

The walks happen in read transactions; the writes follow in small transactions, so that no worker waits for a sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from smbd.sharing.images import Images
from smbd.sharing.records import (
    CHANNEL_STATE,
    CLIENT_KEY,
    LOCK_KEY,
    LOCK_ROW,
    OPEN_KEY,
    OPEN_STATE,
    OWNER_KEY,
    SESSION_KEY,
    SESSION_STATE,
    STREAM_KEY,
    TREE_STATE,
    WAITER_STATE,
    WATCH_KEY,
    ChannelState,
    OpenKey,
    SessionState,
    TreeState,
    WaiterState,
    WatchKey,
    stream_number,
    unpack_strings,
)
from smbd.sharing.store import DIRECTORY_COUNT, TIME_COUNT, WAITER_COUNT, WATCHER_COUNT, Table, Transaction, rows
from smbd.sharing.values import Deletion, Doomed, FileKey, Swept, Waiter
from smbd.sharing.yielding import is_closing_orphan

BATCH = 16
"""Rows a transaction of a sweep: a quarter of a millisecond during which others wait."""

Gone = Callable[[int, int], bool]


class Sharing(Images):
    """The shared file state, as one process sees it: one object a slot, made after the fork.

    Its tables are a chain of classes (sessions, watches, locks, keeping, caches, closing, yielding, opens,
    durables, images), each knowing only those before: the compiled form knows
    single inheritance only.
    """

    def sweep(self, slot: int, generation: int) -> Swept:
        """Remove what the process (slot, generation), which is gone, has left."""
        return self._sweep(lambda s, g: (s, g) == (slot, generation))

    def sweep_dead(self) -> Swept:
        """Remove what any process that is gone has left: at the janitor's start, and now and then."""
        return self._sweep(lambda s, g: not self.is_alive(s, g))

    def sweep_closing(self) -> Swept:
        """What disconnected opens have left to be deleted at their ends."""
        return self._sweep_opens(lambda _slot, _generation: False)

    def finish_sweep(self, doomed: Iterable[Doomed]) -> Swept:
        """The files are deleted, or cannot be: remove their witnesses. What is now to be deleted: a file after its last stream."""
        return _joined([self._write(self._finish_one, item) for item in doomed])

    def _sweep(self, gone: Gone) -> Swept:
        self.check_readers()
        # The opens first: one that outlives its process takes its locks along.
        swept = self._sweep_opens(gone)
        locks, wake = self._sweep_locks(gone)
        sessions = self._remove(self._sessions, self._read(self._dead_sessions, gone))
        self._remove(self._clients, self._read(self._dead_clients))
        self._remove(self._channels, self._read(self._dead_channels, gone))
        trees = self._remove(self._trees, self._read(self._dead_trees, gone))
        watchers = self._remove(self._watchers, self._read(self._dead_watchers, gone))
        self._remove(self._times, self._read(self._dead_times, gone))
        self._write(self._count, self._times, TIME_COUNT)
        self._write(self._count, self._watchers, WATCHER_COUNT)
        self._write(self._count, self._waiters, WAITER_COUNT)
        self._write(self._count, self._directories, DIRECTORY_COUNT)
        return swept._replace(locks=locks, sessions=sessions, trees=trees, watchers=watchers, wake=(*swept.wake, *wake))

    # ---- opens -------------------------------------------------------------------------------------------------------------------------

    def _sweep_opens(self, gone: Gone) -> Swept:
        dead = self._read(self._dead_opens, gone)
        ends = [end for batch in _batches(dead) for end in self._write(self._retire_all, batch)]
        return _joined(ends)._replace(opens=len(dead))

    def _dead_opens(self, transaction: Transaction, gone: Gone) -> list[bytes]:
        found: list[bytes] = []
        for row_key, raw in rows(transaction, self._opens):
            at: OpenKey = OPEN_KEY.unpack(row_key)
            if gone(at.slot, at.generation) or is_closing_orphan(row_key, raw):
                found.append(row_key)
        return found

    def _retire_all(self, transaction: Transaction, row_keys: Sequence[bytes]) -> list[Swept]:
        ends: list[Swept] = []
        for row_key in row_keys:
            raw = transaction.get(row_key, db=self._opens)
            if raw is not None and self._survives(transaction, row_key, raw):
                self._part(transaction, row_key, raw, None)
            elif raw is not None:
                ends.append(self._retire_dead(transaction, row_key, raw, Deletion.NOTHING))
        return ends

    def _finish_one(self, transaction: Transaction, item: Doomed) -> Swept:
        key = item.key
        at = STREAM_KEY.pack(key.dev, key.ino, stream_number(key.stream))
        row_key = at + OWNER_KEY.pack(item.slot, item.generation, item.file_id)
        raw = transaction.get(row_key, db=self._opens)
        if raw is None:
            return Swept()  # it was ended by an earlier sweep
        waiting = self._waiting(transaction, at)
        return self._retire_dead(transaction, row_key, raw, item.delete, waiting)

    def _retire_dead(self, transaction: Transaction, row_key: bytes, raw: bytes, done: Deletion, wake: tuple[Waiter, ...] = ()) -> Swept:
        """End one dead row: what that leaves to be deleted, and whom to wake."""
        closed = self._retire(transaction, row_key, raw, done, wake)
        if not closed.delete:
            return Swept(wake=closed.wake)
        at: OpenKey = OPEN_KEY.unpack(row_key)
        share, path, stream, _ = unpack_strings(raw, OPEN_STATE.size, 4)
        key = FileKey(at.dev, at.ino, stream)
        doomed = Doomed(closed.delete, key, at.slot, at.generation, at.file_id, share, path, closed.uid, closed.gid)
        return Swept(doomed=(doomed,), wake=closed.wake)

    # ---- locks -------------------------------------------------------------------------------------------------------------------------

    def _sweep_locks(self, gone: Gone) -> tuple[int, list[Waiter]]:
        removed = 0
        wake: list[Waiter] = []
        for at in self._read(self._streams_with_dead_locks, gone):
            number, waiting = self._write(self._drop_dead_locks, at, gone)
            removed += number
            wake += waiting
        self._remove(self._waiters, self._read(self._dead_waiters, gone))
        return removed, wake

    def _streams_with_dead_locks(self, transaction: Transaction, gone: Gone) -> list[bytes]:
        found = rows(transaction, self._locks)
        return [at for at, raw in found if any(gone(lock[0], lock[1]) for lock in LOCK_ROW.iter_unpack(raw))]

    def _drop_dead_locks(self, transaction: Transaction, at: bytes, gone: Gone) -> tuple[int, tuple[Waiter, ...]]:
        locks = list(LOCK_ROW.iter_unpack(transaction.get(at, db=self._locks) or b""))
        kept = [lock for lock in locks if not gone(lock[0], lock[1])]
        if len(kept) == len(locks):
            return 0, ()
        self._store(transaction, at, kept)
        _, dev, ino, stream = LOCK_KEY.unpack(at)
        return len(locks) - len(kept), self._waiting(transaction, STREAM_KEY.pack(dev, ino, stream))

    def _dead_waiters(self, transaction: Transaction, gone: Gone) -> list[bytes]:
        found: list[bytes] = []
        for row_key, raw in rows(transaction, self._waiters):
            state: WaiterState = WAITER_STATE.unpack(raw)
            if gone(state.slot, state.generation):
                found.append(row_key)
        return found

    # ---- the rest ----------------------------------------------------------------------------------------------------------------------

    def _dead_sessions(self, transaction: Transaction, gone: Gone) -> list[bytes]:
        found: list[bytes] = []
        for row_key, raw in rows(transaction, self._sessions):
            state: SessionState = SESSION_STATE.unpack(raw)
            if gone(state.slot, state.generation):
                found.append(row_key)
        return found

    def _dead_clients(self, transaction: Transaction) -> list[bytes]:
        """What leads to sessions that are gone."""
        keys = [row_key for row_key, _ in rows(transaction, self._clients)]
        return [key for key in keys if transaction.get(SESSION_KEY.pack(CLIENT_KEY.unpack(key).session_id), db=self._sessions) is None]

    def _dead_channels(self, transaction: Transaction, gone: Gone) -> list[bytes]:
        found: list[bytes] = []
        for row_key, raw in rows(transaction, self._channels):
            state: ChannelState = CHANNEL_STATE.unpack(raw)
            if gone(state.slot, state.generation):
                found.append(row_key)
        return found

    def _dead_trees(self, transaction: Transaction, gone: Gone) -> list[bytes]:
        found: list[bytes] = []
        for row_key, raw in rows(transaction, self._trees):
            state: TreeState = TREE_STATE.unpack(raw)
            if gone(state.slot, state.generation):
                found.append(row_key)
        return found

    def _dead_watchers(self, transaction: Transaction, gone: Gone) -> list[bytes]:
        found: list[bytes] = []
        for row_key, _ in rows(transaction, self._watchers):
            at: WatchKey = WATCH_KEY.unpack(row_key)
            if gone(at.slot, at.generation):
                found.append(row_key)
        return found

    def _dead_times(self, transaction: Transaction, gone: Gone) -> list[bytes]:
        found: list[bytes] = []
        for row_key, _ in rows(transaction, self._times):
            at: OpenKey = OPEN_KEY.unpack(row_key)
            if gone(at.slot, at.generation):
                found.append(row_key)
        return found

    def _remove(self, table: Table, row_keys: Sequence[bytes]) -> int:
        for batch in _batches(row_keys):
            self._write(self._delete_all, table, batch)
        return len(row_keys)

    def _delete_all(self, transaction: Transaction, table: Table, row_keys: Sequence[bytes]) -> None:
        for row_key in row_keys:
            transaction.delete(row_key, db=table)


def _batches(row_keys: Sequence[bytes]) -> list[list[bytes]]:
    source = iter(row_keys)
    batches: list[list[bytes]] = []
    while batch := list(islice(source, BATCH)):
        batches.append(batch)
    return batches


def _joined(ends: Sequence[Swept]) -> Swept:
    return Swept(doomed=tuple(item for end in ends for item in end.doomed), wake=tuple(waiter for end in ends for waiter in end.wake))
