"""Opens: share modes, delete-on-close, and the names under which files are open.

Owns: the tables files and opens. Invariants: a stream's sums in ``files`` equal its rows in ``opens``, dead ones included, in every
committed state; a file that is to be deleted stays delete pending until whoever deletes it says that it is done.

A row of a dead process counts as absent, unless it outlives it: when the sums tell of a conflict, the rows are walked and those that
stand decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from smbd.sharing.caches import ATTRIBUTES_ONLY, count_cache, grant_alone
from smbd.sharing.closing import FILE_PREFIX
from smbd.sharing.records import (
    LEASE_KEY,
    LOCK_ROW,
    OPEN_KEY,
    OPEN_STATE,
    STREAM_KEY,
    FileState,
    OpenKey,
    OpenState,
    pack_strings,
    stream_key,
    unpack_strings,
)
from smbd.sharing.rules import SHARED, Owner, count, count_named, doom, share_conflict
from smbd.sharing.store import Transaction, rows, walk
from smbd.sharing.values import NOBODY, CacheKind, FileKey, OpenClaim, Opened, OpenFlags, OpenRow, Waiter
from smbd.sharing.yielding import Yielding, open_row
from smbd.smb2 import status
from smbd.smb2.constants import DELETE, FILE_SHARE_DELETE, FILE_WRITE_DATA
from smbd.smb2.status import SmbError

EMPTY = FileState()


class Opens(Yielding):
    """Opens of all processes."""

    def open(self, key: FileKey, claim: OpenClaim) -> Opened:
        """Record an open and its cache, or say that it has to wait for others to give up theirs; in one transaction.

        Or refuse it: SHARING_VIOLATION, DELETE_PENDING, INSUFFICIENT_RESOURCES ([MS-FSA] 2.1.5.1.2), INVALID_PARAMETER for a lease key
        that another file has.
        """
        return self._write(self._open, key, claim)

    def _open(self, transaction: Transaction, key: FileKey, claim: OpenClaim) -> Opened:
        at = stream_key(key)
        state = self._state(transaction, at)
        base_at = STREAM_KEY.pack(key.dev, key.ino, 0) if key.stream else at
        base = self._state(transaction, base_at) if key.stream else state
        if (state.delete_pending or base.delete_pending) and not claim.admitted:
            return self._await_janitor(transaction, key, claim)
        if state.lasting and not claim.admitted:
            doomed = self._make_way(transaction, at, claim)
            state = self._state(transaction, at)
            base = self._state(transaction, base_at) if key.stream else state
            if doomed or state.delete_pending or base.delete_pending:
                return self._await_janitor(transaction, key, claim)._replace(doomed=True)
        lease = self._check_lease(transaction, at, claim) if claim.cache.kind >= CacheKind.LEASE else b""
        conflict = self._conflict(transaction, at, state, claim)
        mate: OpenState | None = None
        if state.handles and (state.cached or claim.cache.kind) and not claim.admitted:
            state, mate, opened = self._cache(transaction, at, state, claim, conflict)
        else:
            opened = grant_alone(claim)
        if opened.wait:
            self._save(transaction, at, state)
            return opened
        # Deleting a file deletes its streams: each open stream must share that.
        undeletable = not key.stream and claim.access & DELETE and state.named_undeletable
        if conflict or (undeletable and self._undeletable_stream(transaction, at)):
            raise SmbError(status.SHARING_VIOLATION)
        flags = 0
        if claim.durable is not None:
            lasting, flags = self._remember(transaction, at, claim, opened.granted)
            opened = opened._replace(lasting=lasting)
            state = state._replace(lasting=state.lasting + bool(lasting))
        fixed = _packed_row(claim, opened, mate, flags)
        row_key = at + self._own_suffix(claim.file_id)
        transaction.put(row_key, fixed + pack_strings(claim.share, claim.path, key.stream, claim.user), db=self._opens)
        if lease:
            transaction.put(lease, at, db=self._leases)
        state = count_cache(count(state, claim.access, claim.share_access, 1), opened.granted, 1)
        if claim.directory and not state.directory:
            state = state._replace(directory=1)
        self._save(transaction, at, state)
        if key.stream:
            self._save(transaction, base_at, count_named(base, claim.access, claim.share_access, 1))
        return opened

    def _await_janitor(self, transaction: Transaction, key: FileKey, claim: OpenClaim) -> Opened:
        """The file is to be deleted. Where only the janitor still has to do it, the open waits, and finds the name free."""
        if not claim.waiter_id or not self._awaits_janitor(transaction, key):
            raise SmbError(status.DELETE_PENDING)
        self._enlist(transaction, stream_key(key), claim.file_id, claim.waiter_id)
        return Opened(True)

    def may_look(self, key: FileKey, access: int) -> bool:
        """Whether an open of the unnamed stream for ``access``, which takes no part in sharing, would be let in and disturb nobody.

        Such an open need not be recorded as long as nothing else happens in its process before it is closed.
        """
        return self._read(self._may_look, key, access)

    def _may_look(self, transaction: Transaction, key: FileKey, access: int) -> bool:
        state = self._state(transaction, stream_key(key))
        return not state.delete_pending and not (state.cached and access & ~ATTRIBUTES_ONLY)

    def cache_of(self, key: FileKey, file_id: int) -> tuple[Opened, bytes]:
        """What one of our opens caches by now, as its CREATE would be told, and the key of its lease."""
        return self._read(self._cache_of, key, file_id)

    def _cache_of(self, transaction: Transaction, key: FileKey, file_id: int) -> tuple[Opened, bytes]:
        raw = transaction.get(stream_key(key) + self._own_suffix(file_id), db=self._opens)
        if raw is None:
            raise SmbError(status.FILE_CLOSED)
        row: OpenState = OPEN_STATE.unpack(raw)
        return Opened(False, row.kind, row.cache, row.epoch, bool(row.breaking)), row.lease_key

    def _conflict(self, transaction: Transaction, at: bytes, state: FileState, claim: OpenClaim) -> bool:
        # [MS-FSA] 2.1.5.1.2: overwriting counts as writing for the check, not for what is granted.
        access = claim.access | FILE_WRITE_DATA if claim.overwrite else claim.access
        if not share_conflict(state, access, claim.share_access):
            return False
        return share_conflict(self._living_sums(transaction, at), access, claim.share_access)

    def set_delete_on_close(self, key: FileKey, file_id: int, on: bool, uid: int = NOBODY, gid: int = NOBODY) -> None:
        """FileDispositionInformation: [MS-FSA] 2.1.5.15.3.

        The caller has checked access, read-only and, for a directory, that it is empty. ``uid`` and ``gid``: in whose name it is deleted.
        """
        self._write(self._set_delete, key, file_id, lambda state: doom(state, uid, gid, on))

    def doom_if_alone(self, key: FileKey, file_id: int, uid: int, gid: int) -> None:
        """The same for a file that should not have been made, unless somebody else has opened it by now: then it has become his, too."""

        def change(state: FileState) -> FileState:
            return doom(state, uid, gid) if state.handles + state.named_handles == 1 else state

        self._write(self._set_delete, key, file_id, change)

    def _set_delete(self, transaction: Transaction, key: FileKey, file_id: int, change: Callable[[FileState], FileState]) -> None:
        at = stream_key(key)
        if transaction.get(at + self._own_suffix(file_id), db=self._opens) is None:
            raise SmbError(status.FILE_CLOSED)
        self._save(transaction, at, change(self._state(transaction, at)))

    def is_delete_pending(self, key: FileKey) -> bool:
        """Whether the stream, or the file with all its streams, goes with its last close."""
        return self._read(self._is_delete_pending, key)

    def _is_delete_pending(self, transaction: Transaction, key: FileKey) -> bool:
        if self._state(transaction, stream_key(key)).delete_pending:
            return True
        return bool(key.stream and self._state(transaction, STREAM_KEY.pack(key.dev, key.ino, 0)).delete_pending)

    def rename(self, key: FileKey, path: str, old: str | None = None) -> None:
        """Every open of the file, whatever its stream, is now under ``path``. ``old``: it has several names, and those by this one are."""
        self._write(self._rename, key, path, old)

    def _rename(self, transaction: Transaction, key: FileKey, path: str, old: str | None) -> None:
        for row_key, raw in rows(transaction, self._opens, STREAM_KEY.pack(key.dev, key.ino, 0)[:FILE_PREFIX]):
            share, before, stream, user = unpack_strings(raw, OPEN_STATE.size, 4)
            if old is not None and before != old:
                continue
            transaction.put(row_key, raw[: OPEN_STATE.size] + pack_strings(share, path, stream, user), db=self._opens)

    def rename_stream(self, key: FileKey, file_id: int, stream: str, *, undo: bool = False) -> tuple[Waiter, ...]:
        """An open of this process is of its file's stream ``stream`` from now on, with its cache, its locks and its own waits.

        SHARING_VIOLATION while others have the old one open, who know it by its name; INVALID_PARAMETER while anybody has the new one
        ([MS-FSA] 2.1.5.15.11.1); DELETE_PENDING where what is to be deleted with the old one would be the file. ``undo``: back again,
        whoever came meanwhile. Returns who waits for the old one: it is free.
        """
        return self._write(self._rename_stream, key, file_id, stream, undo)

    def _rename_stream(self, transaction: Transaction, key: FileKey, file_id: int, stream: str, undo: bool) -> tuple[Waiter, ...]:
        at, to, suffix = stream_key(key), stream_key(key._replace(stream=stream)), self._own_suffix(file_id)
        raw = transaction.get(at + suffix, db=self._opens)
        if raw is None:
            raise SmbError(status.FILE_CLOSED)
        row, state = OPEN_STATE.unpack(raw), self._state(transaction, at)
        if not undo and self._others_alive(transaction, at, at + suffix):
            raise SmbError(status.SHARING_VIOLATION)
        if not undo and self._others_alive(transaction, to, at + suffix):
            raise SmbError(status.INVALID_PARAMETER)
        named = bool(stream and key.stream)  # what is to be deleted goes along, and is not the file
        if not named and not undo and (state.delete_pending or row.flags & OpenFlags.DELETE_ON_CLOSE):
            raise SmbError(status.DELETE_PENDING)
        share, path, _, user = unpack_strings(raw, OPEN_STATE.size, 4)
        transaction.delete(at + suffix, db=self._opens)
        transaction.put(to + suffix, raw[: OPEN_STATE.size] + pack_strings(share, path, stream, user), db=self._opens)
        before, after = _counted(state, row, -1), _counted(self._state(transaction, to), row, 1)
        if named and state.delete_pending:
            before, after = doom(before, on=False), doom(after, state.delete_uid, state.delete_gid)
        if not key.stream:
            before = count_named(before, row.access, row.share_access, 1)
        if not stream:
            after = count_named(after, row.access, row.share_access, -1)
        self._save(transaction, at, before)
        self._save(transaction, to, after)
        if row.kind >= CacheKind.LEASE:
            transaction.put(LEASE_KEY.pack(row.client_guid, row.lease_key), to, db=self._leases)
        if row.flags & OpenFlags.NAMED:
            self._name_stream(transaction, file_id, STREAM_KEY.unpack(to).stream)
        self._carry(transaction, at, to, Owner(self.slot, self.generation, file_id))
        return self._waiting(transaction, at)

    def opens_of(self, key: FileKey) -> list[OpenRow]:
        """The standing opens of one stream."""
        return self._read(lambda transaction: list(self._rows_of(transaction, stream_key(key))))

    def opens(self) -> list[OpenRow]:
        """The standing opens of all files, with the number of locks of each."""
        return self._read(self._all_opens)

    def _all_opens(self, transaction: Transaction) -> list[OpenRow]:
        owners: Counter[tuple[int, ...]] = Counter()
        for _, raw in rows(transaction, self._locks):
            owners.update(lock[:3] for lock in LOCK_ROW.iter_unpack(raw))
        found = self._rows_of(transaction, b"")
        return [row._replace(locks=owners[row.slot, row.generation, row.file_id]) if owners else row for row in found]

    def opens_beneath(self, share: str, path: str) -> list[OpenRow]:
        """The standing opens beneath the directory ``path``, without its own. A walk: for directory renames."""
        inside = path + "/" if path else ""
        return [row for row in self._read(self._all_rows) if row.share == share and row.path.startswith(inside)]

    def _all_rows(self, transaction: Transaction) -> list[OpenRow]:
        return list(self._rows_of(transaction, b""))

    # ---- the rows ----------------------------------------------------------------------------------------------------------------------

    def _rows_of(self, transaction: Transaction, prefix: bytes) -> Iterator[OpenRow]:
        for row_key, raw in walk(transaction, self._opens, prefix):
            at: OpenKey = OPEN_KEY.unpack(row_key)
            if self._stands(at.slot, at.generation, OPEN_STATE.unpack(raw).flags):
                yield open_row(row_key, raw)

    def _living_sums(self, transaction: Transaction, at: bytes) -> FileState:
        """The sums of a stream's standing rows."""
        state = EMPTY
        for row_key, raw in walk(transaction, self._opens, at):
            owner: OpenKey = OPEN_KEY.unpack(row_key)
            row: OpenState = OPEN_STATE.unpack(raw)
            if self._stands(owner.slot, owner.generation, row.flags):
                state = count(state, row.access, row.share_access, 1)
        return state

    def _undeletable_stream(self, transaction: Transaction, base_at: bytes) -> bool:
        """Whether a standing open of a named stream of the file does not share deletion."""
        for row_key, raw in walk(transaction, self._opens, base_at[:FILE_PREFIX]):
            owner: OpenKey = OPEN_KEY.unpack(row_key)
            row: OpenState = OPEN_STATE.unpack(raw)
            shares = row.share_access & FILE_SHARE_DELETE or not row.access & SHARED
            if owner.stream and not shares and self._stands(owner.slot, owner.generation, row.flags):
                return True
        return False


def _counted(state: FileState, row: OpenState, step: int) -> FileState:
    """The sums of a stream with a row more (``step`` 1) or less (-1)."""
    state = count(count_cache(state, row.cache, step), row.access, row.share_access, step)
    return state._replace(lasting=state.lasting + step) if row.flags & OpenFlags.LASTING else state


def _packed_row(claim: OpenClaim, opened: Opened, mate: OpenState | None, flags: int) -> bytes:
    """The fixed part of a new row; ``mate`` is a row of the lease it belongs to, whose break it takes part in."""
    cache = claim.cache
    flags |= (OpenFlags.DELETE_ON_CLOSE if claim.delete_on_close else 0) | (OpenFlags.DIRECTORY if claim.directory else 0)
    flags |= (OpenFlags.NO_LEVEL_II if cache.whole else 0) | (OpenFlags.EXACT if claim.exact else 0)
    breaking = (0, 0, 0) if mate is None else (mate.breaking, mate.requested, mate.required)
    deadline = 0 if mate is None else mate.deadline
    return OPEN_STATE.pack(
        claim.session_id, claim.opened, claim.tree_id, claim.access, claim.share_access, flags, claim.uid, claim.gid,
        opened.kind, opened.granted, *breaking, 0, opened.epoch, deadline, cache.client_guid, cache.lease_key,
    )  # fmt: skip
