"""Disconnected opens give way: what somebody else does to their file ends those whose client could not be asked.

Owns: which of them an operation ends. Invariants: an open that no living process has is DISCONNECTED before anything is decided about
its file; a persistent one gives way to nobody (FILE_NOT_AVAILABLE), a resilient one is waited for as if its client were there. What is
done already, by who had the file open before, ends neither: it breaks their caches.
"""

from __future__ import annotations

from collections.abc import Sequence

from smbd.sharing.caches import Act, Member, holders_of, operation_of, spares_of
from smbd.sharing.caching import Break, Spares, breaks_of
from smbd.sharing.closing import FILE_PREFIX, Closing
from smbd.sharing.keeping import survives
from smbd.sharing.records import OPEN_KEY, OPEN_STATE, STREAM_KEY, FileState, OpenKey, stream_key, unpack_strings
from smbd.sharing.rules import Owner, count, share_conflict
from smbd.sharing.store import Transaction, rows
from smbd.sharing.values import (
    DISCONNECTED,
    CacheKind,
    Closed,
    Disturbed,
    FileKey,
    Lasting,
    OpenClaim,
    OpenFlags,
    OpenRow,
)
from smbd.smb2 import status
from smbd.smb2.constants import FILE_WRITE_DATA
from smbd.smb2.status import SmbError


class Yielding(Closing):
    """The ends of opens that nobody has."""

    def _make_way(self, transaction: Transaction, at: bytes, claim: OpenClaim) -> bool:
        """End what stands against an open. True when a file is to be deleted of it, which the open has to wait for.

        [MS-SMB2] 3.3.4.6, 3.3.4.7: a break that its client would have to acknowledge ends a disconnected open.
        """
        orphans = self._settle_orphans(transaction, at)
        if not orphans:
            return False
        access = claim.access | FILE_WRITE_DATA if claim.overwrite else claim.access
        unsharing = [one for one in orphans if share_conflict(_sums_of(one), access, claim.share_access)]
        lease = claim.cache.kind >= CacheKind.LEASE
        own = claim.cache.client_guid + claim.cache.lease_key if lease else self._own_suffix(claim.file_id)
        operation = operation_of(claim, bool(unsharing))
        broken = _broken(orphans, breaks_of(holders_of(orphans), own, operation, spares_of(claim)))
        return self._end_orphans(transaction, broken, unsharing)

    def _disturb(self, transaction: Transaction, key: FileKey, act: Act) -> Disturbed:
        at = stream_key(key)
        if self._state(transaction, at).lasting:
            orphans = self._settle_orphans(transaction, at)
            own = self._own_cache(orphans, act.file_id)
            broken = _broken(orphans, breaks_of(holders_of(orphans), own, act.operation, Spares.NOBODY))
            if not act.waiter_id:  # it is done already, and cannot be refused: a persistent open's client hears of it when it comes back
                broken = [member for member in broken if not self._lasting(transaction, member) & Lasting.PERSISTENT]
            self._end_orphans(transaction, broken, ())
        return super()._disturb(transaction, key, act)

    def _end_orphans(self, transaction: Transaction, broken: Sequence[Member], unsharing: Sequence[Member]) -> bool:
        """End those that are ``broken``, as far as they may be. Whether a file is to be deleted of it."""
        if any(self._lasting(transaction, member) & Lasting.PERSISTENT for member in (*broken, *unsharing)):
            raise SmbError(status.FILE_NOT_AVAILABLE)  # 3.3.5.9: its client is to find it as it left it
        ending = [member for member in broken if not self._lasting(transaction, member) & Lasting.RESILIENT]
        ends = [self._end_orphan(transaction, member.at, OPEN_STATE.pack(*member.row) + member.rest) for member in ending]
        return any(closed.delete for closed in ends)

    def _end_orphan(self, transaction: Transaction, row_key: bytes, raw: bytes) -> Closed:
        """The end of a disconnected open. What it leaves to be deleted is the janitor's: see ``Sharing.sweep_closing``."""
        owner = OPEN_KEY.unpack(row_key)
        at = row_key[: STREAM_KEY.size]
        wake = self._drop_ranges(transaction, at, Owner(owner.slot, owner.generation, owner.file_id))
        return self._retire(transaction, row_key, raw, wake=wake)

    def _settle_orphans(self, transaction: Transaction, at: bytes) -> list[Member]:
        """The disconnected opens of a stream. Opens of killed processes are among them, or end here, as if their connections were lost."""
        found: list[Member] = []
        for row_key, raw in self._orphans(transaction, at):
            row = OPEN_STATE.unpack(raw)
            if row.flags & OpenFlags.CLOSING:
                continue
            now_at: bytes | None = row_key
            if OPEN_KEY.unpack(row_key).slot != DISCONNECTED:
                now_at = self._lose(transaction, row_key, raw)
            if now_at is not None:
                found.append(Member(now_at, row, raw[OPEN_STATE.size :]))
        return found

    def _lose(self, transaction: Transaction, row_key: bytes, raw: bytes) -> bytes | None:
        """The process of a lasting open is gone: its row's new key; None when it ends of that."""
        if self._survives(transaction, row_key, raw):
            return self._part(transaction, row_key, raw, None)
        self._end_orphan(transaction, row_key, raw)
        return None

    def _survives(self, transaction: Transaction, row_key: bytes, raw: bytes) -> bool:
        durable = self._durable(transaction, OPEN_KEY.unpack(row_key).file_id)
        return durable is not None and survives(OPEN_STATE.unpack(raw), durable.lasting)

    def _lasting(self, transaction: Transaction, member: Member) -> int:
        durable = self._durable(transaction, OPEN_KEY.unpack(member.at).file_id)
        return 0 if durable is None else durable.lasting

    def _awaits_janitor(self, transaction: Transaction, key: FileKey) -> bool:
        """Whether the file is about to be deleted because an open ended that was disconnected, or whose process was killed.

        Or was deleted, and a new one has its number before the janitor has met what a killed process left of the old one.
        """
        for row_key, raw in rows(transaction, self._opens, STREAM_KEY.pack(key.dev, key.ino, 0)[:FILE_PREFIX]):
            owner = OPEN_KEY.unpack(row_key)
            if is_closing_orphan(row_key, raw):
                return True
            if owner.slot != DISCONNECTED and not self.is_alive(owner.slot, owner.generation):
                return True
        return False


def is_closing_orphan(row_key: bytes, raw: bytes) -> bool:
    """Whether a row is the witness of a disconnected open's deletion."""
    return OPEN_KEY.unpack(row_key).slot == DISCONNECTED and bool(OPEN_STATE.unpack(raw).flags & OpenFlags.CLOSING)


def open_row(row_key: bytes, raw: bytes) -> OpenRow:
    """A row of ``opens`` as others are shown it."""
    at: OpenKey = OPEN_KEY.unpack(row_key)
    row = OPEN_STATE.unpack(raw)
    share, path, stream, user = unpack_strings(raw, OPEN_STATE.size, 4)
    return OpenRow(
        FileKey(at.dev, at.ino, stream), at.slot, at.generation, at.file_id, row.access, row.share_access, row.flags,
        row.session_id, row.tree_id, row.opened, row.uid, row.gid, share, path, user, 0, row.kind, row.cache, row.lease_key,
    )  # fmt: skip


def _broken(members: Sequence[Member], breaks: Sequence[Break]) -> list[Member]:
    asked = {item.key for item in breaks if item.acknowledge}
    return [member for member in members if member.row.kind and member.cache in asked]


def _sums_of(member: Member) -> FileState:
    return count(FileState(), member.row.access, member.row.share_access, 1)
