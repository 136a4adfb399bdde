"""How opens end: their rows, their locks, and what their end leaves to be deleted.

Owns: the removal of rows of ``opens``. Invariant: a file that is to be deleted keeps a witness row, marked CLOSING, until whoever deletes
it says that it is done.
"""

from __future__ import annotations

from smbd.sharing.caches import Caches, count_cache
from smbd.sharing.records import OPEN_KEY, OPEN_STATE, OWNER_KEY, STREAM_KEY, FileState, OpenKey, OpenState, stream_key
from smbd.sharing.rules import Owner, count, count_named, doom
from smbd.sharing.store import Transaction, walk
from smbd.sharing.values import NOBODY, CacheKind, Closed, Deletion, FileKey, OpenFlags, Waiter
from smbd.smb2 import status
from smbd.smb2.status import SmbError

NOTHING_CLOSED = Closed(False, Deletion.NOTHING, NOBODY, NOBODY, ())
FILE_PREFIX = 16
"""Bytes of (dev, ino) in front of every key that belongs to a file."""


class Closing(Caches):
    """The ends of opens."""

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
        wake = self._drop_locks(transaction, key, Owner(self.slot, self.generation, file_id)) if done is Deletion.NOTHING else ()
        return self._retire(transaction, row_key, raw, done, wake)

    def _retire(
        self, transaction: Transaction, row_key: bytes, raw: bytes, done: Deletion = Deletion.NOTHING, wake: tuple[Waiter, ...] = ()
    ) -> Closed:
        """The end of one row, ours or a dead one's: [MS-FSA] 2.1.5.5. A row whose file is to be deleted stays, marked CLOSING."""
        at = row_key[: STREAM_KEY.size]
        base_at = row_key[:FILE_PREFIX] + bytes(8)
        named = at != base_at
        row = OPEN_STATE.unpack(raw)
        state = self._state(transaction, at)
        if row.flags & OpenFlags.NAMED:
            row, state = self._without_names(transaction, row_key, row, state)
        if row.breaking:
            wake += self._waiting(transaction, at)
        if row.flags & OpenFlags.DELETE_ON_CLOSE and not row.flags & OpenFlags.CLOSING:
            state = doom(state, row.uid, row.gid)
        base = self._state(transaction, base_at) if named else state
        last = state.handles <= 1 or not self._others_alive(transaction, at, row_key)
        last_of_file = last and base.delete_pending and not self._others_alive(transaction, row_key[:FILE_PREFIX], row_key)
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

    def _without_names(
        self, transaction: Transaction, row_key: bytes, row: OpenState, state: FileState
    ) -> tuple[OpenState, FileState]:
        """From the beginning of its end nobody finds an open by its names any more, and it survives nothing."""
        self._forget(transaction, OPEN_KEY.unpack(row_key).file_id)
        if row.flags & OpenFlags.LASTING:
            state = state._replace(lasting=state.lasting - 1)
        return row._replace(flags=row.flags & ~(OpenFlags.NAMED | OpenFlags.LASTING)), state

    def _remove_row(self, transaction: Transaction, row_key: bytes, row: OpenState, state: FileState) -> None:
        at = row_key[: STREAM_KEY.size]
        base_at = row_key[:FILE_PREFIX] + bytes(8)
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

    def _own_suffix(self, file_id: int) -> bytes:
        return OWNER_KEY.pack(self.slot, self.generation, file_id)

    def _others_alive(self, transaction: Transaction, prefix: bytes, row_key: bytes) -> bool:
        """Whether a standing open other than ``row_key`` remains beneath ``prefix`` (a stream's or a file's)."""
        for other, raw in walk(transaction, self._opens, prefix):
            if other != row_key:
                owner: OpenKey = OPEN_KEY.unpack(other)
                if self._stands(owner.slot, owner.generation, OPEN_STATE.unpack(raw).flags):
                    return True
        return False
