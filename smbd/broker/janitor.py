"""The janitor: what a dead process left in the shared state, and what follows from its removal.

Owns: no state of its own; the shared state keeps witnesses of what is still to be deleted, so that a janitor that dies is continued by the
next. Invariant: a file is deleted only through ``remove``, which must check that the name still is that very file, and with the rights of
the user who asked for the deletion.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from pools.queue import AskBusy
from smbd.broker.listings import Listings, Send
from smbd.sharing import Doomed, FileKey, Sharing, Swept, Waiter
from smbd.sharing.messages import LOCK_WAKE, LOCK_WAKE_LAYOUT, NOTIFY, pack_notify
from smbd.sharing.values import Deletion
from smbd.smb2.constants import (
    FILE_ACTION_REMOVED,
    FILE_ACTION_REMOVED_STREAM,
    FILE_NOTIFY_CHANGE_DIR_NAME,
    FILE_NOTIFY_CHANGE_FILE_NAME,
    FILE_NOTIFY_CHANGE_STREAM_NAME,
)

log = logging.getLogger("millpond.broker")

Remove = Callable[[Doomed], FileKey | None]
"""Delete one file, directory or stream if it still is the one that is meant; the directory it was in, where that is known.

``OSError`` when it cannot be deleted.
"""


class Janitor:
    """Sweeps after the dead. ``remove`` is given by the composition root: it knows how a share's files are deleted. ``break_timeout``:
    seconds that a client has to acknowledge a break.
    """

    def __init__(self, sharing: Sharing, send: Send, remove: Remove, break_timeout: float = 35.0) -> None:
        self.listings = Listings(sharing, self._tell, break_timeout)
        self._sharing = sharing
        self._send = send
        self._remove = remove

    def sweep(self, slot: int, generation: int) -> None:
        """The process (slot, generation) is gone."""
        self._settle(self._sharing.sweep(slot, generation), f"{slot}.{generation}")

    def sweep_dead(self) -> None:
        """Whoever is gone: at the start, and now and then in case a word was missed."""
        self._settle(self._sharing.sweep_dead(), "the dead")

    def sweep_closing(self) -> None:
        """Disconnected opens have ended."""
        self._settle(self._sharing.sweep_closing(), "disconnected opens")

    def scavenge(self, per_user: int, in_all: int) -> None:
        """End disconnected opens whose time is over, or of which there are too many."""
        ended = self._sharing.overdue() or self._sharing.surplus(per_user, in_all)
        if ended:
            log.info("%d disconnected opens end", len(ended))
            self._end(ended)

    def end_disconnected(self, file_id: int) -> bool:
        """End one disconnected open; whether it was one."""
        found = self._sharing.find(file_id)
        if found is None or found.connected:
            return False
        self._end([file_id])
        return True

    def _end(self, file_ids: Iterable[int]) -> None:
        self.wake(self._sharing.end_disconnected(file_ids))
        self.sweep_closing()

    def _settle(self, swept: Swept, whose: str) -> None:
        if any(swept):
            log.info(
                "swept after %s: %d opens, %d locks, %d sessions, %d tree connects, %d watchers, %d to delete",
                whose, swept.opens, swept.locks, swept.sessions, swept.trees, swept.watchers, len(swept.doomed),
            )  # fmt: skip
        self.wake(swept.wake)
        while swept.doomed:
            for item in swept.doomed:
                self._delete(item)
            swept = self._sharing.finish_sweep(swept.doomed)
            self.wake(swept.wake)

    def wake(self, waiters: Iterable[Waiter]) -> None:
        """Ranges were unlocked: who waits for one may try again."""
        for waiter in waiters:
            self._tell(waiter.slot, LOCK_WAKE.number, LOCK_WAKE_LAYOUT.pack(waiter.waiter_id), waiter.generation)

    def _delete(self, item: Doomed) -> None:
        try:
            directory = self._remove(item)
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("cannot delete %s in share %s for a client that is gone: %s", item.path, item.share, error.strerror or error)
            return
        stream = item.delete is Deletion.STREAM
        action = FILE_ACTION_REMOVED_STREAM if stream else FILE_ACTION_REMOVED
        # Whether it was a directory is not on record any more: whoever watches names of either sort is told.
        change = FILE_NOTIFY_CHANGE_STREAM_NAME if stream else FILE_NOTIFY_CHANGE_FILE_NAME | FILE_NOTIFY_CHANGE_DIR_NAME
        path = f"{item.path}:{item.key.stream}" if stream else item.path
        for watcher in self._sharing.watchers_of(item.share, path, change):
            self._tell(watcher.slot, NOTIFY.number, pack_notify(watcher.watch_id, action, watcher.name), watcher.generation)
        if directory is not None:
            self.listings.changed(directory)

    def _tell(self, slot: int, kind: int, payload: bytes, generation: int) -> None:
        try:
            self._send(slot, kind, payload, generation)
        except AskBusy:
            log.warning("slot %d is not told of kind %#06x: the hub is full", slot, kind)
