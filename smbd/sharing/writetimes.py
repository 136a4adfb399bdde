"""Write times that are told late (``smbd:writetimeupdatedelay``): what the file system says already, and clients do not see yet.

Owns: the table times and the shared count of its rows. Invariants: the count is never 0 while a row is committed, so where it is 0 what the
file system says is what is told; a row goes with its open, and one of a dead process counts for nothing.
"""

from __future__ import annotations

from smbd.sharing.records import OPEN_KEY, OWNER_KEY, STREAM_KEY, TOLD_TIME, OpenKey
from smbd.sharing.sessions import Sessions
from smbd.sharing.store import TIME_COUNT, Transaction, rows, walk
from smbd.sharing.values import FileKey


class WriteTimes(Sessions):
    """Those of all processes, by the opens through which the files were written."""

    def holds_write_times(self) -> bool:
        """Whether any file's write time is held back: one word is read. False is certain."""
        return bool(self._counts[TIME_COUNT])

    def hold_write_time(self, key: FileKey, file_id: int, told: int) -> None:
        """Until the open ``file_id`` says otherwise its file's write time is told as ``told`` (FILETIME), or as others hold it already."""
        self._write(self._hold, key, file_id, told)

    def _hold(self, transaction: Transaction, key: FileKey, file_id: int, told: int) -> None:
        before = self._told(transaction, key)
        transaction.put(self._at(key, file_id), TOLD_TIME.pack(told if before is None else before), db=self._times)
        self._count(transaction, self._times, TIME_COUNT)

    def tell_write_time(self, key: FileKey, told: int) -> None:
        """From now on ``told`` is told, by all who hold this file's time back. Nothing when nobody does."""
        if self.holds_write_times():
            self._write(self._tell, key, told)

    def _tell(self, transaction: Transaction, key: FileKey, told: int) -> None:
        for at, _ in rows(transaction, self._times, STREAM_KEY.pack(key.dev, key.ino, 0)):
            transaction.put(at, TOLD_TIME.pack(told), db=self._times)

    def release_write_time(self, key: FileKey, file_id: int) -> None:
        """The open ``file_id`` holds nothing back any more."""
        self._write(self._release, key, file_id)

    def _release(self, transaction: Transaction, key: FileKey, file_id: int) -> None:
        transaction.delete(self._at(key, file_id), db=self._times)
        self._count(transaction, self._times, TIME_COUNT)

    def told_write_time(self, key: FileKey) -> int | None:
        """What is told of the file, whatever its stream; None: what the file system says."""
        return self._read(self._told, key) if self._counts[TIME_COUNT] else None

    def _told(self, transaction: Transaction, key: FileKey) -> int | None:
        for at, raw in walk(transaction, self._times, STREAM_KEY.pack(key.dev, key.ino, 0)):
            owner: OpenKey = OPEN_KEY.unpack(at)
            if self.is_alive(owner.slot, owner.generation):
                told: int = TOLD_TIME.unpack(raw).told
                return told
        return None

    def _at(self, key: FileKey, file_id: int) -> bytes:
        return STREAM_KEY.pack(key.dev, key.ino, 0) + OWNER_KEY.pack(self.slot, self.generation, file_id)
