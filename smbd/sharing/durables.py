"""Opens that are found again: by FileId, by what their client called them, and by whoever takes them over.

Owns: the public calls about opens that outlive their connections. Invariant: each is one transaction; of several who reclaim an open one
gets it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from time import monotonic_ns

from smbd.sharing.caches import Member, notice_of
from smbd.sharing.keeping import claim_of, survives
from smbd.sharing.opens import Opens
from smbd.sharing.records import (
    APP_KEY,
    DURABLE_STATE,
    FILE_ID_KEY,
    GUID_KEY,
    LOST_STATE,
    OPEN_KEY,
    OPEN_STATE,
    STREAM_KEY,
    DurableState,
    pack_strings,
    stream_key,
    unpack_strings,
)
from smbd.sharing.store import WAITER_COUNT, Transaction, walk
from smbd.sharing.values import (
    DISCONNECTED,
    Claimant,
    Durable,
    DurableClaim,
    FileKey,
    OpenClaim,
    Opened,
    OpenFlags,
    Parting,
    Waiter,
)
from smbd.sharing.yielding import open_row
from smbd.smb2 import status
from smbd.smb2.status import SmbError


class Durables(Opens):
    """Opens that outlive their connections, or have names of their own."""

    # ---- finding them --------------------------------------------------------------------------------------------------------------------

    def find(self, file_id: int) -> Durable | None:
        """The open with this FileId.Persistent, if it has names or lasts: [MS-SMB2] 3.3.5.9.7, 3.3.5.9.12, the GlobalOpenTable."""
        return self._read(self._find, file_id)

    def find_created(self, client_guid: bytes, create_guid: bytes) -> Durable | None:
        """The open that a client's CREATE with this CreateGuid made (3.3.5.9.10)."""
        return self._read(self._find_created, client_guid, create_guid)

    def find_app(self, app_instance: bytes) -> list[Durable]:
        """The opens with this AppInstanceId (3.3.5.9.13)."""
        return self._read(self._find_app, app_instance)

    def _find(self, transaction: Transaction, file_id: int) -> Durable | None:
        kept = transaction.get(FILE_ID_KEY.pack(file_id), db=self._durables)
        if kept is None:
            return None
        state = DURABLE_STATE.unpack(kept)
        row_key = row_key_of(state, file_id)
        raw = transaction.get(row_key, db=self._opens)
        connected = state.slot != DISCONNECTED and self.is_alive(state.slot, state.generation)
        if raw is None or not (connected or state.lasting):
            return None
        (sid,) = unpack_strings(kept, DURABLE_STATE.size, 1)
        parting = Parting(state.mode, state.position, state.sequences, state.allocation)
        return Durable(open_row(row_key, raw), claim_of(state, sid), parting, connected, state.deadline)

    def _find_created(self, transaction: Transaction, client_guid: bytes, create_guid: bytes) -> Durable | None:
        name = transaction.get(GUID_KEY.pack(client_guid, create_guid), db=self._guids)
        return None if name is None else self._find(transaction, FILE_ID_KEY.unpack(name).file_id)

    def _find_app(self, transaction: Transaction, app_instance: bytes) -> list[Durable]:
        found = (self._find(transaction, APP_KEY.unpack(key).file_id) for key, _ in walk(transaction, self._apps, app_instance))
        return [one for one in found if one is not None]

    def promises(self) -> dict[int, tuple[int, int]]:
        """Of opens that outlive their connections, by FileId: bits of ``Lasting``, and the deadline (ns of the monotonic clock) of one that
        is disconnected, else 0.
        """
        return self._read(self._promises)

    def _promises(self, transaction: Transaction) -> dict[int, tuple[int, int]]:
        found = ((FILE_ID_KEY.unpack(name).file_id, DURABLE_STATE.unpack(raw)) for name, raw in walk(transaction, self._durables))
        return {file_id: (state.lasting, state.deadline) for file_id, state in found if state.lasting}

    # ---- losing and reclaiming them ------------------------------------------------------------------------------------------------------

    def endure(self, key: FileKey, file_id: int, claim: DurableClaim) -> None:
        """An open of this process is to survive more than before: FSCTL_LMR_REQUEST_RESILIENCY (3.3.5.15.9); FILE_CLOSED if there is none.

        ``claim.lasting`` and ``claim.timeout`` replace what was; names it has already stay.
        """
        self._write(self._endure, key, file_id, claim)

    def _endure(self, transaction: Transaction, key: FileKey, file_id: int, claim: DurableClaim) -> None:
        at = stream_key(key)
        row_key = at + self._own_suffix(file_id)
        raw = transaction.get(row_key, db=self._opens)
        if raw is None:
            raise SmbError(status.FILE_CLOSED)
        row, name = OPEN_STATE.unpack(raw), FILE_ID_KEY.pack(file_id)
        if not row.flags & OpenFlags.NAMED:
            lasting, flags = self._remember(transaction, at, OpenClaim(file_id, 0, 0, "", durable=claim), row.cache)
        else:
            kept = transaction.get(name, db=self._durables)
            assert kept is not None
            lasting, flags = claim.lasting, OpenFlags.NAMED | OpenFlags.LASTING
            changed = DURABLE_STATE.unpack(kept)._replace(lasting=lasting, timeout=claim.timeout)
            transaction.put(name, DURABLE_STATE.pack(*changed) + kept[DURABLE_STATE.size :], db=self._durables)
        if lasting and not row.flags & OpenFlags.LASTING:
            state = self._state(transaction, at)
            self._save(transaction, at, state._replace(lasting=state.lasting + 1))
        transaction.put(row_key, OPEN_STATE.pack(*row._replace(flags=row.flags | flags)) + raw[OPEN_STATE.size :], db=self._opens)

    def disconnect(self, key: FileKey, file_id: int, parting: Parting) -> bool:
        """The connection of this process's open is lost: whether the open is preserved ([MS-SMB2] 3.3.7.1). If not, ``close`` is due."""
        return self._write(self._disconnect, key, file_id, parting)

    def _disconnect(self, transaction: Transaction, key: FileKey, file_id: int, parting: Parting) -> bool:
        row_key = stream_key(key) + self._own_suffix(file_id)
        raw, durable = transaction.get(row_key, db=self._opens), self._durable(transaction, file_id)
        if raw is None or durable is None or not survives(OPEN_STATE.unpack(raw), durable.lasting):
            return False
        if self._counts[WAITER_COUNT]:
            self._strike(transaction, stream_key(key), 0, file_id)
        self._part(transaction, row_key, raw, parting)
        return True

    def reclaim(self, key: FileKey, file_id: int, claimant: Claimant) -> Opened:
        """A disconnected open is this process's from now on, with its locks and its cache; ``key``: the file as it was found again.

        OBJECT_NAME_NOT_FOUND when somebody else has it, has taken it or has ended it, when its time is over, or when it is of another file.
        Notices tell of a break that is under way: to be sent after the answer.
        """
        return self._write(self._reclaim, key, file_id, claimant)

    def _reclaim(self, transaction: Transaction, key: FileKey, file_id: int, claimant: Claimant) -> Opened:
        at, durable = stream_key(key), self._durable(transaction, file_id)
        if durable is None or not durable.lasting or STREAM_KEY.pack(durable.dev, durable.ino, durable.stream) != at:
            raise SmbError(status.OBJECT_NAME_NOT_FOUND)
        row_key = row_key_of(durable, file_id)
        raw = transaction.get(row_key, db=self._opens)
        if raw is None:
            raise SmbError(status.OBJECT_NAME_NOT_FOUND)
        if durable.slot != DISCONNECTED:
            row_key = self._reclaim_orphan(transaction, row_key, raw)
        elif monotonic_ns() > durable.deadline:
            raise SmbError(status.OBJECT_NAME_NOT_FOUND)
        share, path, stream, _ = unpack_strings(raw, OPEN_STATE.size, 4)
        row = OPEN_STATE.unpack(raw)._replace(session_id=claimant.session_id, tree_id=claimant.tree_id)
        raw = OPEN_STATE.pack(*row) + pack_strings(share, path, stream, claimant.user)
        taken = self._take(transaction, row_key, raw)
        notices = (notice_of(Member(taken, row, b""), row.cache, row.requested, row.epoch, row.deadline),) if row.breaking else ()
        return Opened(False, row.kind, row.cache, row.epoch, bool(row.breaking), notices, durable.lasting)

    def _reclaim_orphan(self, transaction: Transaction, row_key: bytes, raw: bytes) -> bytes:
        """An open of a killed process that nobody has swept yet."""
        owner = OPEN_KEY.unpack(row_key)
        if self.is_alive(owner.slot, owner.generation) or not self._survives(transaction, row_key, raw):
            raise SmbError(status.OBJECT_NAME_NOT_FOUND)
        return self._part(transaction, row_key, raw, None)

    # ---- ending them -------------------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """When the next disconnected open's time is over, in ns of the monotonic clock; None when there is none."""
        return self._read(self._next_deadline)

    def _next_deadline(self, transaction: Transaction) -> int | None:
        cursor = transaction.cursor(db=self._lost)
        return int.from_bytes(cursor.key()[:8], "big") if cursor.first() else None

    def overdue(self) -> list[int]:
        """The FileIds of disconnected opens whose time is over."""
        return self._read(self._overdue, monotonic_ns().to_bytes(8, "big"))

    def _overdue(self, transaction: Transaction, now: bytes) -> list[int]:
        found: list[int] = []
        for key, _ in walk(transaction, self._lost):
            if key[:8] > now:
                break
            found.append(_lost_id(key))
        return found

    def surplus(self, per_user: int, in_all: int) -> list[int]:
        """The FileIds of disconnected opens beyond what one user, and all together, may leave behind: those that were lost first."""
        return self._read(self._surplus, per_user, in_all)

    def _surplus(self, transaction: Transaction, per_user: int, in_all: int) -> list[int]:
        number = transaction.stat(self._lost)["entries"]
        if number <= min(per_user, in_all):
            return []
        lost = [(LOST_STATE.unpack(raw), _lost_id(key)) for key, raw in walk(transaction, self._lost)]
        lost.sort(reverse=True)
        had: Counter[bytes] = Counter()
        kept, found = 0, []
        for state, file_id in lost:
            if kept < in_all and had[state.user] < per_user:
                had[state.user] += 1
                kept += 1
            else:
                found.append(file_id)
        return found

    def end_disconnected(self, file_ids: Iterable[int]) -> tuple[Waiter, ...]:
        """End disconnected opens, those of them that still are. Returns whom to wake; what is to be deleted: ``sweep_closing``."""
        wake: list[Waiter] = []
        for file_id in file_ids:
            wake += self._write(self._end_disconnected, file_id)
        return tuple(wake)

    def _end_disconnected(self, transaction: Transaction, file_id: int) -> tuple[Waiter, ...]:
        durable = self._durable(transaction, file_id)
        if durable is None or durable.slot != DISCONNECTED:
            return ()
        row_key = row_key_of(durable, file_id)
        raw = transaction.get(row_key, db=self._opens)
        return () if raw is None else self._end_orphan(transaction, row_key, raw).wake


def row_key_of(state: DurableState, file_id: int) -> bytes:
    """The key in ``opens`` of an open that is known by its names."""
    return OPEN_KEY.pack(state.dev, state.ino, state.stream, state.slot, state.generation, file_id)


def _lost_id(key: bytes) -> int:
    return FILE_ID_KEY.unpack(key, 8).file_id
