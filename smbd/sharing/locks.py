"""Byte-range locks and those who wait for them.

Owns: the tables locks and waiters, and the buckets of shared words that say "this file may have locks". Invariants: a committed lock has
its bucket set; a waiter is registered in the same transaction that found the conflict, so that no wake-up is lost.

The value of ``locks`` is the array of all locks of one stream, in the order in which they were granted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from smbd.sharing.records import (
    BUCKET_PREFIX,
    BUCKETS,
    DURABLE_STATE,
    FILE_ID_KEY,
    LOCK_KEY,
    LOCK_ROW,
    LOCK_STATE,
    OWNER_KEY,
    STREAM_KEY,
    WAITER_KEY,
    WAITER_STATE,
    lock_bucket,
    lock_key,
    stream_key,
)
from smbd.sharing.rules import LockTuple, Owner, access_conflict, any_conflict, lock_conflict, undone, valid_range
from smbd.sharing.store import WAITER_COUNT, Transaction, rows
from smbd.sharing.values import FileKey, Lock, Range, Unlocked, Waiter
from smbd.sharing.watches import Watches
from smbd.smb2 import status
from smbd.smb2.status import SmbError

MOST = 16384
"""Locks of one stream, of all its opens: the table is everybody's, and so is the time that it takes to look at them."""


class Locks(Watches):
    """Locks of all processes."""

    def lock(self, key: FileKey, file_id: int, ranges: Sequence[Range], waiter_id: int = 0) -> bool:
        """Lock all of ``ranges`` or none. True when granted.

        On a conflict: without ``waiter_id`` LOCK_NOT_GRANTED is raised; with one it is registered and the answer is False: LOCK_WAKE will
        name it, then the caller asks again with the same ``waiter_id``. A range past the last offset is INVALID_LOCK_RANGE.
        """
        for wanted in ranges:
            if not valid_range(wanted.offset, wanted.length):
                raise SmbError(status.INVALID_LOCK_RANGE)
        return self._write(self._lock, key, file_id, ranges, waiter_id)

    def _lock(self, transaction: Transaction, key: FileKey, file_id: int, ranges: Sequence[Range], waiter_id: int) -> bool:
        at = lock_key(key)
        owner = Owner(self.slot, self.generation, file_id)
        raw = transaction.get(at, db=self._locks) or b""
        if len(raw) + len(ranges) * LOCK_STATE.size > MOST * LOCK_STATE.size:
            raise SmbError(status.INSUFFICIENT_RESOURCES)
        if self._stand_against(transaction, list(LOCK_ROW.iter_unpack(raw)), owner, ranges):
            if not waiter_id:
                raise SmbError(status.LOCK_NOT_GRANTED)
            self._enlist(transaction, stream_key(key), file_id, waiter_id)
            return False
        raw += b"".join(LOCK_STATE.pack(*owner, one.offset, one.length, int(one.exclusive)) for one in ranges)
        transaction.put(at, raw, db=self._locks)
        if waiter_id:
            self._strike(transaction, stream_key(key), waiter_id)
        self._buckets[lock_bucket(key.dev, key.ino)] = 1
        return True

    def _stand_against(self, transaction: Transaction, locks: list[LockTuple], owner: Owner, ranges: Sequence[Range]) -> bool:
        """Whether locks of living processes conflict with ``ranges``, or these with each other."""
        if len(ranges) > 1:  # everybody waits for this transaction: it takes no longer for many of many
            return any_conflict(locks, owner, ranges) and any_conflict(self._standing(transaction, locks), owner, ranges)
        found = lock_conflict(locks, owner, ranges[0])
        if found is None or self.is_alive(found[0], found[1]):
            return found is not None
        return lock_conflict(self._standing(transaction, locks), owner, ranges[0]) is not None

    def _standing(self, transaction: Transaction, locks: Iterable[LockTuple]) -> list[LockTuple]:
        """The locks of living processes, and those of opens that outlive theirs."""
        return [lock for lock in locks if self.is_alive(lock[0], lock[1]) or self._outlives(transaction, lock)]

    def _outlives(self, transaction: Transaction, lock: LockTuple) -> bool:
        raw = transaction.get(FILE_ID_KEY.pack(lock[2]), db=self._durables)
        if raw is None:
            return False
        state = DURABLE_STATE.unpack(raw)
        return bool(state.lasting) and (state.slot, state.generation) == lock[:2]

    def unlock(self, key: FileKey, file_id: int, ranges: Sequence[Range]) -> Unlocked:
        """Give back ranges exactly as they were locked, in order, up to the first that is not locked ([MS-SMB2] 3.3.5.14.1)."""
        for wanted in ranges:
            if not valid_range(wanted.offset, wanted.length):
                raise SmbError(status.INVALID_LOCK_RANGE)
        return self._write(self._unlock, key, file_id, ranges)

    def _unlock(self, transaction: Transaction, key: FileKey, file_id: int, ranges: Sequence[Range]) -> Unlocked:
        at = lock_key(key)
        owner = (self.slot, self.generation, file_id)
        raw = transaction.get(at, db=self._locks) or b""
        locks: list[LockTuple] = list(LOCK_ROW.iter_unpack(raw))
        mine: dict[tuple[int, int], list[int]] = {}
        for place, lock in enumerate(locks):
            if lock[:3] == owner:
                mine.setdefault((lock[3], lock[4]), []).append(place)
        gone: set[int] = set()
        for wanted in ranges:
            equal = mine.get((wanted.offset, wanted.length))
            if not equal:
                break
            # [MS-FSA] 2.1.5.9: of several equal locks an exclusive one goes first; it was granted before those stacked on it.
            gone.add(equal.pop(0 if locks[equal[0]][5] else -1))
        if not gone:
            return Unlocked(0, ())
        self._store(transaction, at, [lock for place, lock in enumerate(locks) if place not in gone])
        return Unlocked(len(gone), self._waiting(transaction, stream_key(key)))

    def withdraw(self, key: FileKey, file_id: int, ranges: Sequence[Range]) -> tuple[Waiter, ...]:
        """Undo a ``lock`` that was granted: of equal locks the last goes, where ``unlock`` takes the first. Returns who may try again."""
        return self._write(self._withdraw, key, file_id, ranges)

    def _withdraw(self, transaction: Transaction, key: FileKey, file_id: int, ranges: Sequence[Range]) -> tuple[Waiter, ...]:
        at = lock_key(key)
        locks: list[LockTuple] = list(LOCK_ROW.iter_unpack(transaction.get(at, db=self._locks) or b""))
        left = undone(locks, [(self.slot, self.generation, file_id, one.offset, one.length, int(one.exclusive)) for one in ranges])
        self._store(transaction, at, left)
        return self._waiting(transaction, stream_key(key))

    def _drop_locks(self, transaction: Transaction, key: FileKey, owner: Owner) -> tuple[Waiter, ...]:
        """Remove an open's locks and waits, at its end. Returns who may try again."""
        at = stream_key(key)
        if self._counts[WAITER_COUNT] and owner.slot == self.slot:
            self._strike(transaction, at, 0, owner.file_id)
        return self._drop_ranges(transaction, at, owner)

    def _drop_ranges(self, transaction: Transaction, at: bytes, owner: Owner) -> tuple[Waiter, ...]:
        _, ino, _ = key = STREAM_KEY.unpack(at)
        bucket = lock_bucket(key.dev, ino)
        if not self._buckets[bucket]:
            return ()
        locks_at = BUCKET_PREFIX.pack(bucket) + at
        raw = transaction.get(locks_at, db=self._locks) or b""
        # A lock begins with its owner's bytes: without them anywhere there is nothing of its to look for.
        if OWNER_KEY.pack(*owner) not in raw:
            return ()
        locks: list[LockTuple] = list(LOCK_ROW.iter_unpack(raw))
        kept = [lock for lock in locks if lock[:3] != owner]
        if len(kept) == len(locks):
            return ()
        self._store(transaction, locks_at, kept)
        return self._waiting(transaction, at)

    def _carry(self, transaction: Transaction, at: bytes, to: bytes, owner: Owner) -> None:
        """An open of this process takes its locks and its waits along from one stream of its file to another."""
        _, ino, _ = key = STREAM_KEY.unpack(at)
        prefix = BUCKET_PREFIX.pack(lock_bucket(key.dev, ino))
        locks: list[LockTuple] = list(LOCK_ROW.iter_unpack(transaction.get(prefix + at, db=self._locks) or b""))
        own = [lock for lock in locks if lock[:3] == owner]
        if own:
            there: list[LockTuple] = list(LOCK_ROW.iter_unpack(transaction.get(prefix + to, db=self._locks) or b""))
            self._store(transaction, prefix + to, there + own)
            self._store(transaction, prefix + at, [lock for lock in locks if lock[:3] != owner])
        for row_key, raw in rows(transaction, self._waiters, at):
            state = WAITER_STATE.unpack(raw)
            if (state.slot, state.generation, state.file_id) == owner:
                transaction.delete(row_key, db=self._waiters)
                self._enlist(transaction, to, state.file_id, state.waiter_id)

    def _store(self, transaction: Transaction, at: bytes, locks: list[LockTuple]) -> None:
        if locks:
            transaction.put(at, b"".join(LOCK_STATE.pack(*lock) for lock in locks), db=self._locks)
        else:
            transaction.delete(at, db=self._locks)
            self._unsettled.add(LOCK_KEY.unpack(at).bucket)

    def own_locks(self, key: FileKey, file_id: int) -> list[Range]:
        """The locks of one open of this process, in the order in which they were granted."""
        transaction = self._begin()
        try:
            raw = transaction.get(lock_key(key), db=self._locks) or b""
        finally:
            transaction.abort()
        owner = (self.slot, self.generation, file_id)
        return [Range(lock[3], lock[4], bool(lock[5])) for lock in LOCK_ROW.iter_unpack(raw) if lock[:3] == owner]

    def has_locks(self, key: FileKey) -> bool:
        """Whether anybody may hold a lock on the file: one byte is read. False is certain."""
        return bool(self._buckets[(key.ino ^ key.dev * 31) % BUCKETS])

    def locks_conflict(self, key: FileKey, file_id: int, offset: int, length: int, write: bool) -> bool:
        """Whether a lock forbids this READ or WRITE: then FILE_LOCK_CONFLICT. One byte is read when the file has no locks."""
        if not self.has_locks(key):
            return False
        transaction = self._begin()
        try:
            raw = transaction.get(lock_key(key), db=self._locks)
            if not raw:
                return False
            owner = Owner(self.slot, self.generation, file_id)
            found = access_conflict(LOCK_ROW.iter_unpack(raw), owner, offset, length, write)
            if found is None or self.is_alive(found[0], found[1]):
                return found is not None
            standing = self._standing(transaction, LOCK_ROW.iter_unpack(raw))
            return access_conflict(standing, owner, offset, length, write) is not None
        finally:
            transaction.abort()

    def cancel_wait(self, key: FileKey, waiter_id: int) -> None:
        """Forget a waiter: CANCEL, or its connection ends. Unknown ones are ignored: it may have been granted or closed."""
        self._write(self._strike, stream_key(key), waiter_id)

    def _enlist(self, transaction: Transaction, at: bytes, file_id: int, waiter_id: int) -> None:
        sequence = 0
        for row_key, raw in rows(transaction, self._waiters, at):
            state = WAITER_STATE.unpack(raw)
            if (state.slot, state.generation, state.waiter_id) == (self.slot, self.generation, waiter_id):
                return
            sequence = max(sequence, int.from_bytes(row_key[STREAM_KEY.size :], "big") + 1)
        # Big-endian inside the key's last field: the table's order is then the order of arrival.
        row = at + sequence.to_bytes(WAITER_KEY.size - STREAM_KEY.size, "big")
        transaction.put(row, WAITER_STATE.pack(self.slot, self.generation, waiter_id, file_id), db=self._waiters)
        self._count(transaction, self._waiters, WAITER_COUNT)

    def _strike(self, transaction: Transaction, at: bytes, waiter_id: int, file_id: int | None = None) -> None:
        """Remove one waiter of ours by its id, or all of an open's by ``file_id``."""
        for row_key, raw in rows(transaction, self._waiters, at):
            state = WAITER_STATE.unpack(raw)
            if (state.slot, state.generation) == (self.slot, self.generation) and (
                state.waiter_id == waiter_id if file_id is None else state.file_id == file_id
            ):
                transaction.delete(row_key, db=self._waiters)
        self._count(transaction, self._waiters, WAITER_COUNT)

    def _waiting(self, transaction: Transaction, at: bytes) -> tuple[Waiter, ...]:
        """The living waiters of a stream, oldest first."""
        states = (WAITER_STATE.unpack(raw) for _, raw in rows(transaction, self._waiters, at))
        return tuple(Waiter(*state[:3]) for state in states if self.is_alive(state.slot, state.generation))

    def locks(self) -> list[tuple[FileKey, Lock]]:
        """Every lock that stands. A named stream is shown by its number, since locks do not keep names: '#1f...'."""
        return self._read(self._all_locks)

    def _all_locks(self, transaction: Transaction) -> list[tuple[FileKey, Lock]]:
        found: list[tuple[FileKey, Lock]] = []
        for at, raw in rows(transaction, self._locks):
            _, dev, ino, stream = LOCK_KEY.unpack(at)
            key = FileKey(dev, ino, f"#{stream:x}" if stream else "")
            found += [(key, Lock(*lock)) for lock in self._standing(transaction, LOCK_ROW.iter_unpack(raw))]
        return found
