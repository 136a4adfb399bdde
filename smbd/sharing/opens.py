"""Opens: share modes, delete-on-close, and the names under which files are open.

Owns: the tables files and opens. Invariants: a stream's sums in ``files`` equal its rows in ``opens``, dead ones included, in every
committed state; a file that is to be deleted stays delete pending until whoever deletes it says that it is done.

A row of a dead process counts as absent: when the sums tell of a conflict, the rows are walked and the living ones decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from smbd.sharing.caches import ATTRIBUTES_ONLY, Caches, count_cache, grant_alone
from smbd.sharing.records import (
    LOCK_ROW,
    OPEN_KEY,
    OPEN_STATE,
    OWNER_KEY,
    STREAM_KEY,
    FileState,
    OpenKey,
    OpenState,
    pack_strings,
    stream_key,
    unpack_strings,
)
from smbd.sharing.rules import SHARED, count, count_named, doom, share_conflict
from smbd.sharing.store import Transaction, rows, walk
from smbd.sharing.values import NOBODY, CacheKind, Closed, Deletion, FileKey, OpenClaim, Opened, OpenFlags, OpenRow, Waiter
from smbd.smb2 import status
from smbd.smb2.constants import DELETE, FILE_SHARE_DELETE, FILE_WRITE_DATA
from smbd.smb2.status import SmbError

EMPTY = FileState()
NOTHING_CLOSED = Closed(False, Deletion.NOTHING, NOBODY, NOBODY, ())
_FILE_PREFIX = 16
"""Bytes of (dev, ino) in front of every key that belongs to a file."""


class Opens(Caches):
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
            raise SmbError(status.DELETE_PENDING)
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
        fixed = _packed_row(claim, opened, mate)
        row_key = at + self._own_suffix(claim.file_id)
        transaction.put(row_key, fixed + pack_strings(claim.share, claim.path, key.stream, claim.user), db=self._opens)
        if lease:
            transaction.put(lease, at, db=self._leases)
        state = count_cache(count(state, claim.access, claim.share_access, 1), opened.granted, 1)
        self._save(transaction, at, state)
        if key.stream:
            self._save(transaction, base_at, count_named(base, claim.access, claim.share_access, 1))
        return opened

    def may_look(self, key: FileKey, access: int) -> bool:
        """Whether an open of the unnamed stream for ``access``, which takes no part in sharing, would be let in and disturb nobody.

        Such an open need not be recorded as long as nothing else happens in its process before it is closed.
        """
        return self._read(self._may_look, key, access)

    def _may_look(self, transaction: Transaction, key: FileKey, access: int) -> bool:
        state = self._state(transaction, stream_key(key))
        return not state.delete_pending and not (state.cached and access & ~ATTRIBUTES_ONLY)

    def _conflict(self, transaction: Transaction, at: bytes, state: FileState, claim: OpenClaim) -> bool:
        # [MS-FSA] 2.1.5.1.2: overwriting counts as writing for the check, not for what is granted.
        access = claim.access | FILE_WRITE_DATA if claim.overwrite else claim.access
        if not share_conflict(state, access, claim.share_access):
            return False
        return share_conflict(self._living_sums(transaction, at), access, claim.share_access)

    def close(self, key: FileKey, file_id: int) -> Closed:
        """Forget an open and its locks. See ``Closed``: with ``delete`` set, ``finish_delete`` is due; FILE_CLOSED for an unknown open."""
        return self._write(self._close, key, file_id, Deletion.NOTHING)

    def abandon(self, key: FileKey, file_id: int) -> Closed:
        """Forget an open that failed after it was recorded: it deletes nothing that it wanted to delete at its close.

        What another open has marked meanwhile goes with the last one all the same: see ``Closed``.
        """
        return self._write(self._abandon, key, file_id)

    def _abandon(self, transaction: Transaction, key: FileKey, file_id: int) -> Closed:
        row_key = stream_key(key) + self._own_suffix(file_id)
        raw = transaction.get(row_key, db=self._opens)
        if raw is None:
            return NOTHING_CLOSED
        row = OPEN_STATE.unpack(raw)
        harmless = OPEN_STATE.pack(*row._replace(flags=row.flags & ~OpenFlags.DELETE_ON_CLOSE)) + raw[OPEN_STATE.size :]
        return self._retire(transaction, row_key, harmless)

    def finish_delete(self, key: FileKey, file_id: int, done: Deletion) -> Closed:
        """What ``close`` asked to delete is gone, or could not be deleted. The answer may ask for the file after its last stream."""
        return self._write(self._close, key, file_id, done)

    def _close(self, transaction: Transaction, key: FileKey, file_id: int, done: Deletion) -> Closed:
        at = stream_key(key)
        row_key = at + self._own_suffix(file_id)
        raw = transaction.get(row_key, db=self._opens)
        if raw is None:
            raise SmbError(status.FILE_CLOSED)
        wake = self._drop_locks(transaction, key, file_id) if done is Deletion.NOTHING else ()
        return self._retire(transaction, row_key, raw, done, wake)

    def _retire(
        self, transaction: Transaction, row_key: bytes, raw: bytes, done: Deletion = Deletion.NOTHING, wake: tuple[Waiter, ...] = ()
    ) -> Closed:
        """The end of one row, ours or a dead one's: [MS-FSA] 2.1.5.5. A row whose file is to be deleted stays, marked CLOSING."""
        at = row_key[: STREAM_KEY.size]
        base_at = row_key[:_FILE_PREFIX] + bytes(8)
        named = at != base_at
        row = OPEN_STATE.unpack(raw)
        state = self._state(transaction, at)
        if row.breaking:
            wake += self._waiting(transaction, at)
        if row.flags & OpenFlags.DELETE_ON_CLOSE and not row.flags & OpenFlags.CLOSING:
            state = doom(state, row.uid, row.gid)
        base = self._state(transaction, base_at) if named else state
        last = state.handles <= 1 or not self._others_alive(transaction, at, row_key)
        last_of_file = last and base.delete_pending and not self._others_alive(transaction, row_key[:_FILE_PREFIX], row_key)
        delete = Deletion.NOTHING
        if last_of_file and done is not Deletion.FILE:
            delete = Deletion.FILE
        elif named and last and state.delete_pending and done is Deletion.NOTHING:
            delete = Deletion.STREAM
        doomed = base if delete is Deletion.FILE else state
        if delete:
            marked = row._replace(flags=row.flags | OpenFlags.CLOSING, cache=0, breaking=0)
            transaction.put(row_key, OPEN_STATE.pack(*marked) + raw[OPEN_STATE.size :], db=self._opens)
            self._save(transaction, at, count_cache(state, row.cache, -1))
        else:
            self._remove_row(transaction, row_key, row, state)
        return Closed(last, delete, doomed.delete_uid, doomed.delete_gid, wake)

    def _remove_row(self, transaction: Transaction, row_key: bytes, row: OpenState, state: FileState) -> None:
        at = row_key[: STREAM_KEY.size]
        base_at = row_key[:_FILE_PREFIX] + bytes(8)
        transaction.delete(row_key, db=self._opens)
        if row.kind >= CacheKind.LEASE:
            self._leave_lease(transaction, at, row, state.handles == 1)
        if state.handles == 1 and not state.named_handles and not state.contended:
            transaction.delete(at, db=self._files)
        else:
            self._save(transaction, at, count(count_cache(state, row.cache, -1), row.access, row.share_access, -1))
        if at != base_at:
            base = self._state(transaction, base_at)
            self._save(transaction, base_at, count_named(base, row.access, row.share_access, -1))

    def set_delete_on_close(self, key: FileKey, file_id: int, on: bool, uid: int = NOBODY, gid: int = NOBODY) -> None:
        """FileDispositionInformation: [MS-FSA] 2.1.5.15.3.

        The caller has checked access, read-only and, for a directory, that it is empty. ``uid`` and ``gid``: in whose name it is deleted.
        """
        self._write(self._set_delete, key, file_id, lambda state: doom(state, uid, gid, on))

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

    def rename(self, key: FileKey, path: str) -> None:
        """Every open of the file, whatever its stream, is now under ``path``."""
        self._write(self._rename, key, path)

    def _rename(self, transaction: Transaction, key: FileKey, path: str) -> None:
        for row_key, raw in rows(transaction, self._opens, STREAM_KEY.pack(key.dev, key.ino, 0)[:_FILE_PREFIX]):
            share, _, stream, user = unpack_strings(raw, OPEN_STATE.size, 4)
            transaction.put(row_key, raw[: OPEN_STATE.size] + pack_strings(share, path, stream, user), db=self._opens)

    def opens_of(self, key: FileKey) -> list[OpenRow]:
        """The living opens of one stream."""
        return self._read(lambda transaction: list(self._rows_of(transaction, stream_key(key))))

    def opens(self) -> list[OpenRow]:
        """The living opens of all files, with the number of locks of each."""
        return self._read(self._all_opens)

    def _all_opens(self, transaction: Transaction) -> list[OpenRow]:
        owners: Counter[tuple[int, ...]] = Counter()
        for _, raw in rows(transaction, self._locks):
            owners.update(lock[:3] for lock in LOCK_ROW.iter_unpack(raw))
        found = self._rows_of(transaction, b"")
        return [row._replace(locks=owners[row.slot, row.generation, row.file_id]) if owners else row for row in found]

    def opens_beneath(self, share: str, path: str) -> bool:
        """Whether a living open is at or beneath the directory ``path``, without the directory's own. A walk: for directory renames."""
        inside = path + "/" if path else ""
        return self._read(lambda transaction: any(r.share == share and r.path.startswith(inside) for r in self._rows_of(transaction, b"")))

    # ---- the rows ----------------------------------------------------------------------------------------------------------------------

    def _own_suffix(self, file_id: int) -> bytes:
        return OWNER_KEY.pack(self.slot, self.generation, file_id)

    def _rows_of(self, transaction: Transaction, prefix: bytes) -> Iterator[OpenRow]:
        for row_key, raw in walk(transaction, self._opens, prefix):
            at: OpenKey = OPEN_KEY.unpack(row_key)
            if not self.is_alive(at.slot, at.generation):
                continue
            row: OpenState = OPEN_STATE.unpack(raw)
            share, path, stream, user = unpack_strings(raw, OPEN_STATE.size, 4)
            yield OpenRow(
                FileKey(at.dev, at.ino, stream), at.slot, at.generation, at.file_id, row.access, row.share_access, row.flags,
                row.session_id, row.tree_id, row.opened, row.uid, row.gid, share, path, user, 0, row.kind, row.cache,
            )  # fmt: skip

    def _living_sums(self, transaction: Transaction, at: bytes) -> FileState:
        """The sums of a stream's living rows."""
        state = EMPTY
        for row_key, raw in walk(transaction, self._opens, at):
            owner: OpenKey = OPEN_KEY.unpack(row_key)
            if self.is_alive(owner.slot, owner.generation):
                row: OpenState = OPEN_STATE.unpack(raw)
                state = count(state, row.access, row.share_access, 1)
        return state

    def _undeletable_stream(self, transaction: Transaction, base_at: bytes) -> bool:
        """Whether a living open of a named stream of the file does not share deletion."""
        for row_key, raw in walk(transaction, self._opens, base_at[:_FILE_PREFIX]):
            owner: OpenKey = OPEN_KEY.unpack(row_key)
            row: OpenState = OPEN_STATE.unpack(raw)
            shares = row.share_access & FILE_SHARE_DELETE or not row.access & SHARED
            if owner.stream and not shares and self.is_alive(owner.slot, owner.generation):
                return True
        return False

    def _others_alive(self, transaction: Transaction, prefix: bytes, row_key: bytes) -> bool:
        """Whether a living open other than ``row_key`` remains beneath ``prefix`` (a stream's or a file's)."""
        for other, _ in walk(transaction, self._opens, prefix):
            if other != row_key:
                owner: OpenKey = OPEN_KEY.unpack(other)
                if self.is_alive(owner.slot, owner.generation):
                    return True
        return False


def _packed_row(claim: OpenClaim, opened: Opened, mate: OpenState | None) -> bytes:
    """The fixed part of a new row; ``mate`` is a row of the lease it belongs to, whose break it takes part in."""
    flags = (OpenFlags.DELETE_ON_CLOSE if claim.delete_on_close else 0) | (OpenFlags.DIRECTORY if claim.directory else 0)
    cache = claim.cache
    breaking = (0, 0, 0) if mate is None else (mate.breaking, mate.requested, mate.required)
    deadline = 0 if mate is None else mate.deadline
    return OPEN_STATE.pack(
        claim.session_id, claim.opened, claim.tree_id, claim.access, claim.share_access, flags, claim.uid, claim.gid,
        opened.kind, opened.granted, *breaking, 0, opened.epoch, deadline, cache.client_guid, cache.lease_key,
    )  # fmt: skip
