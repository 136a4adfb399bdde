"""Change notification: who watches which directory.

Owns: the table watchers and the shared count of its rows. Invariant: the count is never 0 while a watcher is committed, so a change that
finds 0 concerns nobody.

A watch belongs to a name (share and directory), not to an inode: what a client hears about are names.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from smbd.sharing.records import WATCH_KEY, WATCH_STATE, WatchKey, WatchState, pack_strings, unpack_strings
from smbd.sharing.store import WATCHER_COUNT, Transaction, rows, walk
from smbd.sharing.values import Watcher
from smbd.sharing.writetimes import WriteTimes


def _directory(share: str, path: str) -> bytes:
    """The part of a key that names a directory; names compare without case, as on the wire."""
    return blake2b(f"{share}\0{path}".casefold().encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Watched(NamedTuple):
    """A directory that somebody watches, for who brings news from outside."""

    slot: int
    share: str
    path: str
    recursive: bool


class Watches(WriteTimes):
    """Watches of all processes."""

    def watch(self, share: str, path: str, changes: int, recursive: bool, watch_id: int) -> None:
        """Watch the directory ``path`` ('' is the root) for ``changes`` (FILE_NOTIFY_CHANGE_* bits); beneath it too when ``recursive``."""
        at = WATCH_KEY.pack(_directory(share, path), self.slot, self.generation, watch_id)
        self._write(self._watch, at, WATCH_STATE.pack(changes, recursive) + pack_strings(share, path))

    def _watch(self, transaction: Transaction, at: bytes, record: bytes) -> None:
        transaction.put(at, record, db=self._watchers)
        self._count(transaction, self._watchers, WATCHER_COUNT)

    def unwatch(self, share: str, path: str, watch_id: int) -> None:
        """End a watch; one that is not there is ignored."""
        self._write(self._unwatch, share, path, watch_id)

    def _unwatch(self, transaction: Transaction, share: str, path: str, watch_id: int) -> None:
        transaction.delete(WATCH_KEY.pack(_directory(share, path), self.slot, self.generation, watch_id), db=self._watchers)
        self._count(transaction, self._watchers, WATCHER_COUNT)

    def watched(self) -> list[Watched]:
        """What is watched, by whom. One word is read when nothing is."""
        if not self._counts[WATCHER_COUNT]:
            return []
        return self._read(self._watched)

    def _watched(self, transaction: Transaction) -> list[Watched]:
        found: list[Watched] = []
        for row_key, raw in rows(transaction, self._watchers):
            at: WatchKey = WATCH_KEY.unpack(row_key)
            share, path = unpack_strings(raw, WATCH_STATE.size, 2)
            found.append(Watched(at.slot, share, path, bool(WATCH_STATE.unpack(raw).recursive)))
        return found

    def is_watched(self) -> bool:
        """Whether anybody watches anything: one word is read. False is certain."""
        return bool(self._counts[WATCHER_COUNT])

    def watchers_at(self, share: str, path: str) -> list[Watcher]:
        """Who watches the directory ``path`` itself."""
        return self._read(self._watchers_at, share, path) if self._counts[WATCHER_COUNT] else []

    def _watchers_at(self, transaction: Transaction, share: str, path: str) -> list[Watcher]:
        found: list[Watcher] = []
        for row_key, raw in walk(transaction, self._watchers, _directory(share, path)):
            at: WatchKey = WATCH_KEY.unpack(row_key)
            if self.is_alive(at.slot, at.generation):
                found.append(Watcher(at.slot, at.generation, at.watch_id, WATCH_STATE.unpack(raw).filter, ""))
        return found

    def watchers_of(self, share: str, path: str, change: int) -> list[Watcher]:
        """Who wants to hear of ``change`` (FILE_NOTIFY_CHANGE_* bits) to the object ``path``. One word is read when nobody watches."""
        if not self._counts[WATCHER_COUNT]:
            return []
        return self._read(self._watchers_of, share, path, change)

    def _watchers_of(self, transaction: Transaction, share: str, path: str, change: int) -> list[Watcher]:
        found: list[Watcher] = []
        directory, name, parent = path, "", True
        while directory:
            directory, _, part = directory.rpartition("/")
            name = f"{part}/{name}" if name else part
            for row_key, raw in walk(transaction, self._watchers, _directory(share, directory)):
                at: WatchKey = WATCH_KEY.unpack(row_key)
                state: WatchState = WATCH_STATE.unpack(raw)
                if state.filter & change and (parent or state.recursive) and self.is_alive(at.slot, at.generation):
                    found.append(Watcher(at.slot, at.generation, at.watch_id, state.filter, name))
            parent = False
        return found
