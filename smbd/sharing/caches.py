"""Oplocks and leases of all processes: what ``caching`` decides, done to the rows of opens.

Owns: the caching fields of the tables files and opens, the table leases, and the shared words that say "a write to this file may disturb a
cache". Invariants: all rows of a lease in a stream say the same; a stream's ``cached`` and ``exclusive`` equal its rows; whoever waits for
an acknowledgement is registered in the transaction that found it missing.

A holder whose process is dead holds nothing, unless its open outlives its process. A break that its worker neither saw acknowledged nor
ended in time is ended by whom it keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import monotonic_ns
from typing import NamedTuple

from smbd.sharing.caching import HANDLE, READ, WRITE, Break, Holder, Operation, Spares, acknowledged, breaks_of, following, must_wait
from smbd.sharing.caching import claim as decide
from smbd.sharing.keeping import Keeping
from smbd.sharing.records import (
    BUCKET_PREFIX,
    BUCKETS,
    FILE_STATE,
    LEASE_KEY,
    LOCK_ROW,
    OPEN_KEY,
    OPEN_STATE,
    OWNER_KEY,
    STREAM_KEY,
    FileState,
    OpenState,
    lock_bucket,
    stream_key,
)
from smbd.sharing.store import DIRECTORY_COUNT, Transaction, rows, walk
from smbd.sharing.values import DISCONNECTED, Acknowledged, CacheKind, Disturbed, FileKey, Notice, OpenClaim, Opened, OpenFlags, Waiter
from smbd.smb2 import status
from smbd.smb2.constants import FILE_READ_ATTRIBUTES, FILE_WRITE_ATTRIBUTES, READ_CONTROL, SYNCHRONIZE
from smbd.smb2.status import SmbError

EMPTY = FileState()
UNDISTURBED = Disturbed()
ATTRIBUTES_ONLY = FILE_READ_ATTRIBUTES | FILE_WRITE_ATTRIBUTES | SYNCHRONIZE
GRACE = 5_000_000_000
"""ns after its deadline at which a break is over though its own worker has not said so: that one is stopped, or was never told."""


class Act(NamedTuple):
    """An operation through the open ``file_id``, 0 when it is none of the file's opens.

    ``deadline``, ns of the monotonic clock: when what it breaks counts as acknowledged.
    ``spared``: of a CHILD of the directory, the lease key that whoever changes it has named as the directory's.
    """

    file_id: int
    operation: Operation
    deadline: int = 0
    waiter_id: int = 0
    spared: bytes = b""


class Member(NamedTuple):
    """A living row of a stream: its key, its fixed part, and the strings behind it."""

    at: bytes
    row: OpenState
    rest: bytes

    @property
    def cache(self) -> bytes:
        """What tells its cache from others: equal for all opens of a lease."""
        row = self.row
        if row.kind >= CacheKind.LEASE:
            return row.client_guid + row.lease_key
        return self.at[STREAM_KEY.size :]


def count_cache(state: FileState, cache: int, step: int) -> FileState:
    """The sums after one row more (``step`` 1) or less (-1) that caches ``cache``."""
    if not cache:
        return state
    return state._replace(cached=state.cached + step, exclusive=state.exclusive + (step if cache & WRITE else 0))


def spares_of(claim: OpenClaim) -> Spares:
    """Who need not be asked about an open: [MS-FSA] 2.1.5.1.2, and for leases also who only reads the descriptor."""
    if claim.overwrite or claim.access & ~(ATTRIBUTES_ONLY | READ_CONTROL):
        return Spares.NOBODY
    return Spares.LEASES if claim.access & READ_CONTROL else Spares.ALL


def holders_of(members: Iterable[Member]) -> list[Holder]:
    found: dict[bytes, Holder] = {}
    for member in members:
        row = member.row
        lease = row.kind >= CacheKind.LEASE
        if row.cache or lease:
            whole = bool(row.flags & OpenFlags.NO_LEVEL_II)
            found[member.cache] = Holder(member.cache, lease, row.cache, bool(row.breaking), row.required, whole)
    return list(found.values())


def operation_of(claim: OpenClaim, conflict: bool) -> Operation:
    if conflict:
        return Operation.SHARING_VIOLATION
    if claim.overwrite:
        return Operation.OVERWRITE
    return Operation.DELETE_ON_OPEN if claim.delete_on_close else Operation.OPEN


class Caches(Keeping):
    """Caches of all processes."""

    # ---- what opens, writes and the like do to them --------------------------------------------------------------------------------------

    def is_cached(self, key: FileKey) -> bool:
        """Whether an operation through an open of the file may disturb a cache: one byte is read. False is certain."""
        return bool(self._buckets[BUCKETS + (key.ino ^ key.dev * 31) % BUCKETS])

    def caches_directories(self) -> bool:
        """Whether anybody caches any directory: one word is read. False is certain."""
        return bool(self._counts[DIRECTORY_COUNT])

    def disturb(self, key: FileKey, act: Act) -> Disturbed:
        """What an operation through an open breaks. With a ``waiter_id`` the answer may be to wait; ``cancel_wait`` is due in the end."""
        if (act.file_id and not self.is_cached(key)) or not self._read(self._disturbs, key, act):
            return UNDISTURBED
        return self._write(self._disturb, key, act)

    def _disturbs(self, transaction: Transaction, key: FileKey, act: Act) -> bool:
        own, holders = self._concerned(self._members(transaction, stream_key(key)), act)
        return bool(breaks_of(holders, own, act.operation)) or bool(act.waiter_id and must_wait(holders, own, act.operation))

    def _disturb(self, transaction: Transaction, key: FileKey, act: Act) -> Disturbed:
        at = stream_key(key)
        state, members = self._settled(transaction, at, self._state(transaction, at))
        own, holders = self._concerned(members, act)
        wait = bool(act.waiter_id) and must_wait(holders, own, act.operation)
        state, notices = self._break(transaction, state, members, breaks_of(holders, own, act.operation), act.deadline)
        self._save(transaction, at, state)
        if wait:
            self._enlist(transaction, at, act.file_id, act.waiter_id)
        return Disturbed(wait, notices)

    def _concerned(self, members: Sequence[Member], act: Act) -> tuple[bytes, list[Holder]]:
        """Whose cache ``act`` comes from, and the caches that it may disturb.

        [MS-FSA] 2.1.4.12.2: who changes what is in a directory is recognised by the lease key alone, whichever client it is.
        """
        holders = holders_of(members)
        if act.operation is Operation.CHILD:
            return b"", [holder for holder in holders if not act.spared or holder.key[-len(act.spared) :] != act.spared]
        return self._own_cache(members, act.file_id), holders

    def _own_cache(self, members: Sequence[Member], file_id: int) -> bytes:
        suffix = OWNER_KEY.pack(self.slot, self.generation, file_id)
        return next((member.cache for member in members if member.at.endswith(suffix)), suffix)

    def _cache(
        self, transaction: Transaction, at: bytes, state: FileState, claim: OpenClaim, conflict: bool
    ) -> tuple[FileState, OpenState | None, Opened]:
        """What an open of a file that others have open gets and breaks; also a row of the lease it belongs to."""
        state, members = self._settled(transaction, at, state)
        wanted = claim.cache
        lease = wanted.kind >= CacheKind.LEASE
        own = wanted.client_guid + wanted.lease_key if lease else OWNER_KEY.pack(self.slot, self.generation, claim.file_id)
        mates = [member for member in members if lease and member.cache == own and member.row.kind >= CacheKind.LEASE]
        asked = 0 if not mates and self._has_locks(transaction, at, 0 if claim.overwrite else claim.allocation) else wanted.state
        decision = decide(
            holders_of(members),
            Holder(own, lease, asked, whole=wanted.whole),
            operation=operation_of(claim, conflict),
            other_opens=any(m not in mates and (m.row.access & ~ATTRIBUTES_ONLY or m.row.kind >= CacheKind.LEASE) for m in members),
            spares=spares_of(claim),
            again=claim.again,
        )
        state, notices = self._break(transaction, state, members, decision.breaks, claim.deadline)
        if decision.wait:
            self._enlist(transaction, at, claim.file_id, claim.waiter_id)
            return state, None, Opened(True, notices=notices)
        if not mates:
            return state, None, _new_cache(claim, decision.granted)._replace(notices=notices)
        row = mates[0].row
        if decision.granted != row.cache:
            row = row._replace(cache=decision.granted, epoch=_next_epoch(row))
            state = self._put_all(transaction, state, mates, row)
        return state, row, Opened(False, row.kind, row.cache, row.epoch, bool(row.breaking), notices)

    def _has_locks(self, transaction: Transaction, at: bytes, allocation: int) -> bool:
        """Whether a byte range that holds data is locked, which a cache would hide: [MS-FSA] 2.1.5.18.2. ``allocation``: of the stream."""
        _, ino, _ = key = STREAM_KEY.unpack(at)
        bucket = lock_bucket(key.dev, ino)
        if not self._buckets[bucket]:
            return False
        locks = transaction.get(BUCKET_PREFIX.pack(bucket) + at, db=self._locks)
        return locks is not None and any(lock[3] < allocation for lock in LOCK_ROW.iter_unpack(locks))

    # ---- acknowledgements ----------------------------------------------------------------------------------------------------------------

    def acknowledge_oplock(self, key: FileKey, file_id: int, state: int, deadline: int) -> Acknowledged:
        """An open's break is acknowledged ([MS-SMB2] 3.3.5.22.1). INVALID_OPLOCK_PROTOCOL when none is under way."""
        return self._write(self._acknowledge_oplock, key, file_id, state, deadline)

    def _acknowledge_oplock(self, transaction: Transaction, key: FileKey, file_id: int, state: int, deadline: int) -> Acknowledged:
        at = stream_key(key)
        mates = self._mates(transaction, at, OWNER_KEY.pack(self.slot, self.generation, file_id))
        if not mates or not mates[0].row.breaking:
            raise SmbError(status.INVALID_OPLOCK_PROTOCOL)
        if state & ~mates[0].row.requested:
            return self._end_break(transaction, at, mates, 0)._replace(accepted=False)
        return self._acknowledged(transaction, at, mates, state, deadline)

    def acknowledge_lease(self, client_guid: bytes, lease_key: bytes, state: int, deadline: int) -> Acknowledged:
        """A lease's break is acknowledged (3.3.5.22.2): OBJECT_NAME_NOT_FOUND, UNSUCCESSFUL, REQUEST_NOT_ACCEPTED."""
        return self._write(self._acknowledge_lease, client_guid + lease_key, state, deadline)

    def _acknowledge_lease(self, transaction: Transaction, cache: bytes, state: int, deadline: int) -> Acknowledged:
        at = transaction.get(cache, db=self._leases)
        mates = self._mates(transaction, at, cache) if at is not None else []
        if at is None or not mates:
            raise SmbError(status.OBJECT_NAME_NOT_FOUND)
        if not mates[0].row.breaking:
            raise SmbError(status.UNSUCCESSFUL)
        return self._acknowledged(transaction, at, mates, state, deadline)

    def awaits_oplock(self, key: FileKey, file_id: int, deadline: int) -> bool:
        """Whether the acknowledgement of the break with this deadline is still to come."""
        return self._read(self._awaits, stream_key(key), OWNER_KEY.pack(self.slot, self.generation, file_id), deadline)

    def awaits_lease(self, client_guid: bytes, lease_key: bytes, deadline: int) -> bool:
        """Likewise for a lease."""
        return self._read(self._awaits, None, client_guid + lease_key, deadline)

    def _awaits(self, transaction: Transaction, at: bytes | None, cache: bytes, deadline: int) -> bool:
        return self._awaited(transaction, at, cache, deadline) is not None

    def _awaited(self, transaction: Transaction, at: bytes | None, cache: bytes, deadline: int) -> tuple[bytes, list[Member]] | None:
        """The stream and the rows of a cache whose break with this deadline is under way. ``at`` None: the lease says which stream."""
        if at is None:
            at = transaction.get(cache, db=self._leases)
        mates = self._mates(transaction, at, cache) if at is not None else []
        under_way = at is not None and mates and mates[0].row.breaking and mates[0].row.deadline == deadline
        return (at, mates) if at is not None and under_way else None

    def expire_oplock(self, key: FileKey, file_id: int, deadline: int) -> tuple[Waiter, ...]:
        """The break with this deadline was not acknowledged in time: nothing is cached any more. Returns whom to wake."""
        return self._write(self._expire, stream_key(key), OWNER_KEY.pack(self.slot, self.generation, file_id), deadline)

    def expire_lease(self, client_guid: bytes, lease_key: bytes, deadline: int) -> tuple[Waiter, ...]:
        """Likewise for a lease."""
        return self._write(self._expire, None, client_guid + lease_key, deadline)

    def _expire(self, transaction: Transaction, at: bytes | None, cache: bytes, deadline: int) -> tuple[Waiter, ...]:
        found = self._awaited(transaction, at, cache, deadline)
        return () if found is None else self._end_break(transaction, *found, 0).wake

    def _acknowledged(self, transaction: Transaction, at: bytes, mates: list[Member], left: int, deadline: int) -> Acknowledged:
        row = mates[0].row
        holder = Holder(mates[0].cache, row.kind >= CacheKind.LEASE, row.cache, True, row.required)
        after = acknowledged(holder, row.requested, left)
        if after is None:
            raise SmbError(status.REQUEST_NOT_ACCEPTED)
        further = following(after)
        if further is None:
            return self._end_break(transaction, at, mates, left)
        epoch = row.epoch  # further steps of a break are the same change to the client
        if not further.acknowledge:
            done = self._end_break(transaction, at, mates, further.state)
            return done._replace(state=left, notices=(notice_of(mates[0], left, further.state, epoch, 0),))
        again = row._replace(cache=left, requested=further.state, deadline=deadline)
        self._save(transaction, at, self._put_all(transaction, self._state(transaction, at), mates, again))
        return Acknowledged(True, left, (notice_of(mates[0], left, further.state, epoch, deadline),), ())

    def _end_break(self, transaction: Transaction, at: bytes, mates: list[Member], left: int) -> Acknowledged:
        done = mates[0].row._replace(cache=left, breaking=0, requested=0, required=0, deadline=0)
        self._save(transaction, at, self._put_all(transaction, self._state(transaction, at), mates, done))
        return Acknowledged(True, left, (), self._waiting(transaction, at))

    # ---- the rows ------------------------------------------------------------------------------------------------------------------------

    def _members(self, transaction: Transaction, at: bytes) -> list[Member]:
        """The standing rows of a stream whose opens have not begun to end."""
        found: list[Member] = []
        for row_key, raw in rows(transaction, self._opens, at):
            owner, row = OPEN_KEY.unpack(row_key), OPEN_STATE.unpack(raw)
            if self._stands(owner.slot, owner.generation, row.flags) and not row.flags & OpenFlags.CLOSING:
                found.append(Member(row_key, row, raw[OPEN_STATE.size :]))
        return found

    def _mates(self, transaction: Transaction, at: bytes, cache: bytes) -> list[Member]:
        return [member for member in self._members(transaction, at) if member.row.kind and member.cache == cache]

    def _settled(self, transaction: Transaction, at: bytes, state: FileState) -> tuple[FileState, list[Member]]:
        """The members, after ending breaks that nobody has ended in time."""
        members = self._members(transaction, at)
        overdue = [m for m in members if m.row.breaking and monotonic_ns() > m.row.deadline + GRACE]
        if not overdue:
            return state, members
        for member in overdue:
            ended = member.row._replace(cache=0, breaking=0, requested=0, required=0, deadline=0)
            state = self._put_all(transaction, state, [member], ended)
        return state, self._members(transaction, at)

    def _put_all(self, transaction: Transaction, state: FileState, mates: Iterable[Member], like: OpenState) -> FileState:
        """Give the rows of a cache the caching fields of ``like``; the sums afterwards."""
        for member in mates:
            row = member.row._replace(
                cache=like.cache,
                breaking=like.breaking,
                requested=like.requested,
                required=like.required,
                epoch=like.epoch,
                deadline=like.deadline,
            )
            transaction.put(member.at, OPEN_STATE.pack(*row) + member.rest, db=self._opens)
            if row.cache != member.row.cache:
                state = count_cache(count_cache(state, member.row.cache, -1), row.cache, 1)
        return state

    def _break(
        self, transaction: Transaction, state: FileState, members: Sequence[Member], breaks: Iterable[Break], deadline: int
    ) -> tuple[FileState, tuple[Notice, ...]]:
        notices: list[Notice] = []
        for item in breaks:
            mates = [member for member in members if member.row.kind and member.cache == item.key]
            row = mates[0].row
            if item.silent:
                changed = row._replace(required=item.state)
            elif item.acknowledge:
                changed = row._replace(breaking=1, requested=item.state, required=item.state, deadline=deadline, epoch=_next_epoch(row))
            else:
                changed = row._replace(cache=item.state, epoch=_next_epoch(row))
            state = self._put_all(transaction, state, mates, changed)
            told = [mate for mate in mates if OPEN_KEY.unpack(mate.at).slot != DISCONNECTED]
            if told and not item.silent:
                notices.append(notice_of(told[0], row.cache, item.state, changed.epoch, deadline if item.acknowledge else 0))
        return state, tuple(notices)

    # ---- the table leases ----------------------------------------------------------------------------------------------------------------

    def _check_lease(self, transaction: Transaction, at: bytes, claim: OpenClaim) -> bytes:
        """[MS-SMB2] 3.3.5.9.8: a lease key belongs to one stream; INVALID_PARAMETER while it is open under another.

        Returns the key to enter when the open is recorded, empty when it is entered already.
        """
        wanted = claim.cache
        cache = LEASE_KEY.pack(wanted.client_guid, wanted.lease_key)
        there = transaction.get(cache, db=self._leases)
        if there == at:
            return b""
        if there is not None and any(member.row.kind >= CacheKind.LEASE for member in self._mates(transaction, there, cache)):
            raise SmbError(status.INVALID_PARAMETER)
        return cache

    def _leave_lease(self, transaction: Transaction, at: bytes, row: OpenState, last: bool) -> None:
        """A row of a lease is gone: with the last one the key is free. ``last``: no other row of the stream is there."""
        cache = LEASE_KEY.pack(row.client_guid, row.lease_key)
        if transaction.get(cache, db=self._leases) != at:
            return
        if not last:
            # The lease's name ends the fixed part of a row.
            first, end = OPEN_STATE.size - len(cache), OPEN_STATE.size
            for _, raw in walk(transaction, self._opens, at):
                if raw[first:end] == cache and OPEN_STATE.unpack(raw).kind >= CacheKind.LEASE:
                    return
        transaction.delete(cache, db=self._leases)

    # ---- the sums ------------------------------------------------------------------------------------------------------------------------

    def _state(self, transaction: Transaction, at: bytes) -> FileState:
        raw = transaction.get(at, db=self._files)
        return EMPTY if raw is None else FILE_STATE.unpack(raw)

    def _save(self, transaction: Transaction, at: bytes, state: FileState) -> None:
        # A sole open that caches writes is disturbed by nobody but itself, which it is not: the usual case touches no further table.
        contended = bool(state.cached) and not (state.exclusive and state.handles == 1)
        if contended != bool(state.contended):
            state = state._replace(contended=int(contended))
            self._contend(transaction, at, contended)
            if state.directory:
                self._list_directory(transaction, at, contended)
        if state.handles or state.named_handles:
            transaction.put(at, FILE_STATE.pack(*state), db=self._files)
        else:
            transaction.delete(at, db=self._files)

    def _list_directory(self, transaction: Transaction, at: bytes, cached: bool) -> None:
        """Tell all processes how many directories are cached."""
        if cached:
            transaction.put(at, b"\x01", db=self._directories)
        else:
            transaction.delete(at, db=self._directories)
        self._count(transaction, self._directories, DIRECTORY_COUNT)

    def _contend(self, transaction: Transaction, at: bytes, contended: bool) -> None:
        """The word is set before the commit, and cleared after it: killed in between, a process leaves it too high, never too low."""
        key = STREAM_KEY.unpack(at)
        bucket = lock_bucket(key.dev, key.ino)
        if contended:
            transaction.put(BUCKET_PREFIX.pack(bucket) + at, b"\x01", db=self._contended)
            self._buckets[BUCKETS + bucket] = 1
        else:
            transaction.delete(BUCKET_PREFIX.pack(bucket) + at, db=self._contended)
            self._unsettled.add(BUCKETS + bucket)


def _next_epoch(row: OpenState) -> int:
    """[MS-SMB2] 3.3.4.7: only a lease of version 2 has an epoch, and every change of its state another one."""
    return row.epoch + 1 & 0xFFFF if row.kind == CacheKind.LEASE_V2 else row.epoch


def notice_of(member: Member, current: int, state: int, epoch: int, deadline: int) -> Notice:
    owner, row = OPEN_KEY.unpack(member.at), member.row
    lease = row.kind >= CacheKind.LEASE
    return Notice(owner.slot, owner.generation, owner.file_id, lease, row.lease_key, epoch, current, state, deadline)


def _new_cache(claim: OpenClaim, granted: int) -> Opened:
    """The answer to the first open of a lease, or to an open with an oplock of its own."""
    wanted = claim.cache
    kind = wanted.kind if granted or wanted.kind >= CacheKind.LEASE else CacheKind.NONE
    # [MS-SMB2] 3.3.5.9.11: a lease that caches nothing has not changed.
    epoch = wanted.epoch + bool(granted) & 0xFFFF if kind == CacheKind.LEASE_V2 else 0
    return Opened(False, kind, granted, epoch)


def grant_alone(claim: OpenClaim) -> Opened:
    """The answer to the only open of a stream."""
    wanted = claim.cache
    if not wanted.kind:
        return _ALONE
    state = wanted.state
    # [MS-FSA] 2.1.5.18: without READ there is nothing to be granted.
    if not state & READ or state & ~(READ | HANDLE | WRITE) or (wanted.whole and state == READ):
        state = 0
    return _new_cache(claim, state)


_ALONE = Opened(False)
