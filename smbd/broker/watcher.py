"""The watcher: changes made outside the server, told to the workers whose clients watch.

Owns: one source of news, open only while somebody watches. Invariant: one source per change. A worker tells of what it does itself; an
exact source (fanotify) leaves such changes out. Where it is not exact (inotify, scans) the watcher watches along (its own rows in the
shared state), and what a worker has announced is not told again.
"""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable

from pools.port import watching
from pools.port.interface import ATTRIBUTES, CLOSE_WRITE, CREATED, DELETED, DIRECTORY, Change, Source, Tree
from pools.queue import BROKER, Service
from smbd.broker.listings import Listings
from smbd.config import Config
from smbd.sharing import Sharing
from smbd.sharing.messages import NOTIFY, pack_notify
from smbd.smb2.constants import (
    FILE_ACTION_ADDED,
    FILE_ACTION_MODIFIED,
    FILE_ACTION_REMOVED,
    FILE_ACTION_RENAMED_OLD_NAME,
    FILE_NOTIFY_CHANGE_ATTRIBUTES,
    FILE_NOTIFY_CHANGE_DIR_NAME,
    FILE_NOTIFY_CHANGE_FILE_NAME,
    FILE_NOTIFY_CHANGE_LAST_WRITE,
    FILE_NOTIFY_CHANGE_SECURITY,
    FILE_NOTIFY_CHANGE_SIZE,
)

log = logging.getLogger("millpond.broker")

RESERVED = ".millpond"
"""Beneath a share's root: large streams. No client sees it."""
EVERYTHING = 0xFFF
HOLD = 0.25
"""Seconds that news of unknown origin wait for the announcement of a worker."""
ANNOUNCED_FOR = 5.0
MOST_ANNOUNCED = 4096

Place = tuple[str, str]
"""Share and path beneath it."""


class Watcher:
    """``own`` gives the pids of this server."""

    def __init__(self, sharing: Sharing, service: Service, config: Config, own: Callable[[], frozenset[int]]) -> None:
        self._sharing = sharing
        self._service = service
        self._listings = Listings(sharing, self._post, config.oplock_break_timeout)
        self._ways = watching.sources(own)
        self._source: Source | None = None
        self._covered: set[Tree] = set()
        self._along: dict[tuple[str, str, bool], int] = {}
        self._along_by_id: dict[int, Place] = {}
        self._announced: OrderedDict[Place, float] = OrderedDict()
        self._next_id = 1
        self._roots: dict[str, str] = {}
        self.configure(config)

    def configure(self, config: Config) -> None:
        """The shares' folders. One that depends on the client cannot be known here; workers' own changes are told all the same."""
        self._listings.timeout = config.oplock_break_timeout
        disks = [share for share in config.shares.values() if share.kind == "disk" and share.available and "%" not in share.path]
        told = config.change_notify and config.kernel_change_notify
        self._roots = {share.name: os.path.realpath(share.path) for share in disks} if told else {}

    # --- what to watch ---------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Follow the table of watchers; nothing but one word is read while nobody watches."""
        wanted = {(row.share, row.path, row.recursive) for row in self._sharing.watched() if row.slot != BROKER}
        trees = {Tree(self._disk(share, path), recursive) for share, path, recursive in wanted if share in self._roots}
        if trees != self._covered:
            self._cover(trees)
        if self._source is not None and not self._source.exact:
            self._watch_along(wanted if trees else set())

    def _disk(self, share: str, path: str) -> str:
        return os.path.join(self._roots[share], path) if path else self._roots[share]

    def _cover(self, trees: set[Tree]) -> None:
        if not trees:
            self._watch_along(set())
            self._drop_source()
            return
        if self._source is not None and self._covers(self._source, trees):
            return
        self._drop_source()
        for way in self._ways:
            try:
                source = way()
            except OSError as error:
                log.debug("%s", error)
                continue
            self._use(source)
            if self._covers(source, trees):
                return
            self._drop_source()
        log.warning("changes made outside the server go unnoticed: this system gives nothing to watch folders with")
        self._covered = trees  # said once

    def _covers(self, source: Source, trees: set[Tree]) -> bool:
        try:
            source.cover(trees)
        except OSError as error:
            log.info("a way to watch folders does not serve this file system (%s): trying the next", error.strerror)
            return False
        self._covered = trees
        return True

    def _use(self, source: Source) -> None:
        self._source = source
        if source.period:
            self._service.after(source.period, lambda: self._again(source))
        else:
            self._service.watch(source.fileno(), self._ready)

    def _again(self, source: Source) -> None:
        """A source that must be asked, until it is given back."""
        if source is self._source:
            self._ready()
            self._service.after(source.period, lambda: self._again(source))

    def _drop_source(self) -> None:
        if self._source is not None:
            if not self._source.period:
                self._service.unwatch(self._source.fileno())
            self._source.close()
            self._source = None
        self._covered = set()

    def _watch_along(self, wanted: set[tuple[str, str, bool]]) -> None:
        """Be a watcher ourselves, so that workers announce their changes to us."""
        for share, path, recursive in set(self._along) - wanted:
            number = self._along.pop((share, path, recursive))
            del self._along_by_id[number]
            self._sharing.unwatch(share, path, number)
        for share, path, recursive in wanted - set(self._along):
            number, self._next_id = self._next_id, self._next_id + 1
            self._along[share, path, recursive] = number
            self._along_by_id[number] = (share, path)
            self._sharing.watch(share, path, EVERYTHING, recursive, number)

    # --- what happened ---------------------------------------------------------------------------------------------

    def announced(self, watch_id: int, name: str, new_name: str) -> None:
        """A worker made this change and has told all watchers, us among them."""
        share, directory = self._along_by_id.get(watch_id, ("", ""))
        now = time.monotonic()
        for one in filter(None, (name, new_name)):
            place = (share, f"{directory}/{one}" if directory else one)
            self._announced[place] = now
            self._announced.move_to_end(place)
        while self._announced:
            place, since = next(iter(self._announced.items()))
            if now - since < ANNOUNCED_FOR and len(self._announced) <= MOST_ANNOUNCED:
                break
            del self._announced[place]

    def _ready(self) -> None:
        assert self._source is not None
        changes = self._source.changes()
        if self._source.exact:
            self._tell_all(changes)
        elif changes:
            self._service.after(HOLD, lambda: self._tell_all(changes))

    def _tell_all(self, changes: list[Change]) -> None:
        for change in changes:
            for share, root in self._roots.items():
                self._tell_share(share, root, change)

    def _tell_share(self, share: str, root: str, change: Change) -> None:
        old, new = _beneath(root, change.path), _beneath(root, change.new_path)
        if self._was_announced(share, old) or self._was_announced(share, new):
            return
        # Before anybody is told: who is told looks at the directory again, and is not to see what it has cached of it.
        for directory in {os.path.dirname(path) for path, seen in ((change.path, old), (change.new_path, new)) if seen}:
            self._listings.changed_at(directory)
        name = FILE_NOTIFY_CHANGE_DIR_NAME if change.mask & DIRECTORY else FILE_NOTIFY_CHANGE_FILE_NAME
        if change.new_path:
            self._tell_rename(share, old, new, name)
        elif old:
            self._tell_mask(share, old, change.mask, name)

    def _was_announced(self, share: str, path: str) -> bool:
        since = self._announced.get((share, path))
        return since is not None and time.monotonic() - since < ANNOUNCED_FOR

    def _tell_rename(self, share: str, old: str, new: str, name: int) -> None:
        """Within one directory it is a rename; across directories, or across the share's border, a removal and an addition."""
        if old and new and os.path.dirname(old) == os.path.dirname(new):
            self._tell(share, old, FILE_ACTION_RENAMED_OLD_NAME, name, new)
            return
        if old:
            self._tell(share, old, FILE_ACTION_REMOVED, name)
        if new:
            self._tell(share, new, FILE_ACTION_ADDED, name)

    def _tell_mask(self, share: str, path: str, mask: int, name: int) -> None:
        """The kernel may merge what followed closely into one event: told in the order in which it can have happened."""
        if mask & CREATED:
            self._tell(share, path, FILE_ACTION_ADDED, name)
        if mask & CLOSE_WRITE:
            self._tell(share, path, FILE_ACTION_MODIFIED, FILE_NOTIFY_CHANGE_SIZE | FILE_NOTIFY_CHANGE_LAST_WRITE)
        if mask & ATTRIBUTES:
            self._tell(share, path, FILE_ACTION_MODIFIED, FILE_NOTIFY_CHANGE_ATTRIBUTES | FILE_NOTIFY_CHANGE_SECURITY)
        if mask & DELETED:
            self._tell(share, path, FILE_ACTION_REMOVED, name)

    def _tell(self, share: str, path: str, action: int, change: int, new: str = "") -> None:
        for watcher in self._sharing.watchers_of(share, path, change):
            if watcher.slot != BROKER:
                new_name = new[len(path) - len(watcher.name) :] if new else ""
                payload = pack_notify(watcher.watch_id, action, watcher.name, new_name)
                self._post(watcher.slot, NOTIFY.number, payload, watcher.generation)

    def _post(self, slot: int, kind: int, payload: bytes, generation: int) -> None:
        self._service.send(slot, kind, payload, generation=generation)

    def close(self) -> None:
        """Give the source back. Our rows in the table are swept by the next broker."""
        self._drop_source()


def _beneath(root: str, path: str) -> str:
    """``path`` relative to the share's root; '' when it lies elsewhere or where no client looks."""
    if not path.startswith(root.rstrip("/") + "/"):
        return ""
    relative = path[len(root.rstrip("/")) + 1 :]
    return "" if relative.split("/", 1)[0] == RESERVED else relative
