"""What is known of opens that outlive their connections, or that clients find again by names of their own.

Owns: the tables durables, guids, apps and lost. Invariants: a row of ``opens`` that is marked NAMED has one in ``durables``, and no other
row has; a row of ``lost`` stands for each open that is DISCONNECTED; an open changes hands with its locks, in one transaction.

FileId.Persistent is the name of all of them: whoever has a number that is taken gets no names and outlives nothing.
"""

from __future__ import annotations

from hashlib import blake2b
from time import monotonic_ns

from smbd.sharing.caching import HANDLE
from smbd.sharing.locks import Locks
from smbd.sharing.records import (
    APP_KEY,
    DURABLE_STATE,
    FILE_ID_KEY,
    GUID_KEY,
    LOCK_ROW,
    LOCK_STATE,
    LOST_STATE,
    OPEN_KEY,
    OPEN_STATE,
    OWNER_KEY,
    STREAM_KEY,
    DurableState,
    OpenKey,
    OpenState,
    lock_bucket,
    pack_strings,
    unpack_strings,
)
from smbd.sharing.records import LOCK_KEY as LOCKS_OF
from smbd.sharing.rules import Owner
from smbd.sharing.store import Transaction, rows
from smbd.sharing.values import DISCONNECTED, NO_GUID, DurableClaim, Lasting, OpenClaim, OpenFlags, Parting

NOBODYS = OWNER_KEY.pack(DISCONNECTED, 0, 0)[:8]
"""The slot and generation of a disconnected open, as a key has them."""
MS = 1_000_000


class Keeping(Locks):
    """Opens by their names, and those whose connection is lost by their deadlines."""

    def _stands(self, slot: int, generation: int, flags: int) -> bool:
        """Whether an open counts: its process lives, or it outlives its process."""
        return bool(flags & OpenFlags.LASTING) or self.is_alive(slot, generation)

    # ---- names ---------------------------------------------------------------------------------------------------------------------------

    def _remember(self, transaction: Transaction, at: bytes, claim: OpenClaim, granted: int) -> tuple[int, int]:
        """Enter what a new open is to survive and its names. Returns the bits of ``Lasting`` that it got, and its flags."""
        durable = claim.durable
        assert durable is not None
        name = FILE_ID_KEY.pack(claim.file_id)
        lasting = _grant(claim, durable.lasting, granted)
        named = lasting or durable.create_guid != NO_GUID or durable.app_instance != NO_GUID
        if not named or transaction.get(name, db=self._durables) is not None:
            return 0, 0
        stream = STREAM_KEY.unpack(at)
        state = DurableState(
            *stream, self.slot, self.generation, lasting, durable.version, durable.timeout, 0, durable.birth, durable.options,
            durable.action, 0, 0, 0, durable.app_high, durable.app_low, durable.client_guid, durable.create_guid, durable.app_instance,
            Parting().sequences,
        )  # fmt: skip
        transaction.put(name, DURABLE_STATE.pack(*state) + pack_strings(durable.sid, durable.root), db=self._durables)
        self._enter_names(transaction, state, name)
        return lasting, OpenFlags.NAMED | (OpenFlags.LASTING if lasting else 0)

    def _enter_names(self, transaction: Transaction, state: DurableState, name: bytes) -> None:
        if state.create_guid != NO_GUID:
            transaction.put(GUID_KEY.pack(state.client_guid, state.create_guid), name, db=self._guids)
        if state.app_instance != NO_GUID:
            transaction.put(state.app_instance + name, b"\x01", db=self._apps)

    def _forget(self, transaction: Transaction, file_id: int) -> None:
        """An open that had names has ended."""
        name = FILE_ID_KEY.pack(file_id)
        raw = transaction.get(name, db=self._durables)
        if raw is None:
            return
        state = DURABLE_STATE.unpack(raw)
        transaction.delete(name, db=self._durables)
        guid = GUID_KEY.pack(state.client_guid, state.create_guid)
        if transaction.get(guid, db=self._guids) == name:
            transaction.delete(guid, db=self._guids)
        if state.app_instance != NO_GUID:
            transaction.delete(APP_KEY.pack(state.app_instance, file_id), db=self._apps)
        if state.slot == DISCONNECTED:
            transaction.delete(_lost_key(state.deadline, file_id), db=self._lost)

    def _name_stream(self, transaction: Transaction, file_id: int, stream: int) -> None:
        """The open of these names is of another stream of its file."""
        name = FILE_ID_KEY.pack(file_id)
        kept = transaction.get(name, db=self._durables)
        assert kept is not None
        state = DURABLE_STATE.unpack(kept)._replace(stream=stream)
        transaction.put(name, DURABLE_STATE.pack(*state) + kept[DURABLE_STATE.size :], db=self._durables)

    def _durable(self, transaction: Transaction, file_id: int) -> DurableState | None:
        raw = transaction.get(FILE_ID_KEY.pack(file_id), db=self._durables)
        return None if raw is None else DURABLE_STATE.unpack(raw)

    # ---- changing hands ------------------------------------------------------------------------------------------------------------------

    def _part(self, transaction: Transaction, row_key: bytes, raw: bytes, parting: Parting | None) -> bytes:
        """The connection of a lasting open is lost: it is nobody's until somebody reclaims it. Returns its row's new key."""
        file_id = OPEN_KEY.unpack(row_key).file_id
        name = FILE_ID_KEY.pack(file_id)
        kept = transaction.get(name, db=self._durables)
        assert kept is not None
        state, now = DURABLE_STATE.unpack(kept), monotonic_ns()
        deadline = now + state.timeout * MS
        state = state._replace(slot=DISCONNECTED, generation=0, deadline=deadline)
        if parting is not None:
            state = state._replace(**parting._asdict())
        transaction.put(name, DURABLE_STATE.pack(*state) + kept[DURABLE_STATE.size :], db=self._durables)
        (sid,) = unpack_strings(kept, DURABLE_STATE.size, 1)
        transaction.put(_lost_key(deadline, file_id), LOST_STATE.pack(now, user_hash(sid)), db=self._lost)
        return self._hand_over(transaction, row_key, raw, DISCONNECTED, 0)

    def _take(self, transaction: Transaction, row_key: bytes, raw: bytes) -> bytes:
        """A disconnected open is this process's now. Returns its row's new key."""
        file_id = OPEN_KEY.unpack(row_key).file_id
        name = FILE_ID_KEY.pack(file_id)
        kept = transaction.get(name, db=self._durables)
        assert kept is not None
        state = DURABLE_STATE.unpack(kept)
        transaction.delete(_lost_key(state.deadline, file_id), db=self._lost)
        state = state._replace(slot=self.slot, generation=self.generation, deadline=0)
        transaction.put(name, DURABLE_STATE.pack(*state) + kept[DURABLE_STATE.size :], db=self._durables)
        return self._hand_over(transaction, row_key, raw, self.slot, self.generation)

    def _hand_over(self, transaction: Transaction, row_key: bytes, raw: bytes, slot: int, generation: int) -> bytes:
        """Give an open's row and locks to another owner; the sums know no owners. Its waits have ended with their requests."""
        at: OpenKey = OPEN_KEY.unpack(row_key)
        after = OPEN_KEY.pack(at.dev, at.ino, at.stream, slot, generation, at.file_id)
        transaction.delete(row_key, db=self._opens)
        transaction.put(after, raw, db=self._opens)
        bucket = lock_bucket(at.dev, at.ino)
        if self._buckets[bucket]:
            locks_at = LOCKS_OF.pack(bucket, at.dev, at.ino, at.stream)
            locks = transaction.get(locks_at, db=self._locks) or b""
            before = Owner(at.slot, at.generation, at.file_id)
            if OWNER_KEY.pack(*before) in locks:
                moved = [(slot, generation, *lock[2:]) if lock[:3] == before else lock for lock in LOCK_ROW.iter_unpack(locks)]
                transaction.put(locks_at, b"".join(LOCK_STATE.pack(*lock) for lock in moved), db=self._locks)
        return after

    def _orphans(self, transaction: Transaction, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The rows beneath ``prefix`` of lasting opens that no living process has: disconnected ones, and those of killed processes."""
        found: list[tuple[bytes, bytes]] = []
        for row_key, raw in rows(transaction, self._opens, prefix):
            at: OpenKey = OPEN_KEY.unpack(row_key)
            if at.slot == DISCONNECTED or (OPEN_STATE.unpack(raw).flags & OpenFlags.LASTING and not self.is_alive(at.slot, at.generation)):
                found.append((row_key, raw))
        return found


def _grant(claim: OpenClaim, lasting: int, granted: int) -> int:
    """[MS-SMB2] 3.3.5.9.6, 3.3.5.9.10: handle caching makes an open durable, and directories are not."""
    if claim.directory:
        return 0
    return lasting if granted & HANDLE else lasting & ~Lasting.DURABLE


def survives(row: OpenState, lasting: int) -> bool:
    """3.3.7.1: whether an open is preserved when its connection is lost."""
    if lasting & (Lasting.RESILIENT | Lasting.PERSISTENT):
        return True
    return bool(lasting & Lasting.DURABLE and row.cache & HANDLE and not row.breaking)


def claim_of(state: DurableState, sid: str) -> DurableClaim:
    """The names and promises of an open, out of its row."""
    return DurableClaim(
        state.lasting, state.version, state.timeout, state.client_guid, state.create_guid, state.app_instance, state.app_high,
        state.app_low, sid, state.birth, state.options, state.action,
    )  # fmt: skip


def user_hash(sid: str) -> bytes:
    """What the table of lost opens knows users by."""
    return blake2b(sid.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _lost_key(deadline: int, file_id: int) -> bytes:
    return deadline.to_bytes(8, "big") + FILE_ID_KEY.pack(file_id)
