"""Where news of outside changes comes from: fanotify for whole file systems, or inotify for single directories.

Owns: the kernel's descriptors and the directories registered with them. Invariant: both sources speak of absolute paths on disk and of
nothing else; which share they lie in, and who wants to know, is the watcher's business.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from pools.port import watching

log = logging.getLogger("millpond.broker")

DIRECTORIES = 8192
"""inotify watches at most; fs.inotify.max_user_watches is for all programs of the user."""


class Change(NamedTuple):
    """One change on disk. ``mask`` holds ``watching``'s bits; ``new_path`` is '' unless something was renamed."""

    mask: int
    path: str
    new_path: str = ""


class Tree(NamedTuple):
    """A directory to be watched, with what is beneath it if ``recursive``."""

    path: str
    recursive: bool


class Source(Protocol):
    """News from the kernel. ``exact``: changes by this server's own processes are left out already."""

    exact: bool

    def fileno(self) -> int: ...
    def cover(self, trees: set[Tree]) -> None: ...
    def changes(self) -> list[Change]: ...
    def close(self) -> None: ...


class Fanotify:
    """Needs CAP_SYS_ADMIN. One mark a file system; what happens elsewhere on it is dropped by the watcher."""

    exact = True

    def __init__(self, own: Callable[[], frozenset[int]]) -> None:
        self._group = watching.fanotify()
        self._own = own
        self._mounts: dict[int, int] = {}

    def fileno(self) -> int:
        """For the poller."""
        return self._group

    def cover(self, trees: set[Tree]) -> None:
        """Mark the file systems of the trees. OSError when one cannot be marked."""
        if not trees:
            watching.unmark_filesystems(self._group)
            self._forget_mounts()
        for tree in trees:
            self._mark(tree.path)

    def _mark(self, path: str) -> None:
        try:
            mount = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return
        device = os.fstat(mount).st_dev
        if device in self._mounts:
            os.close(mount)
            return
        try:
            watching.mark_filesystem(self._group, path)
        except OSError:
            os.close(mount)
            raise
        self._mounts[device] = mount

    def changes(self) -> list[Change]:
        """What others did. What this server's own processes did is told by them."""
        own = self._own()
        return [change for event in watching.fanotify_events(self._group) if event.pid not in own for change in self._change(event)]

    def _change(self, event: watching.FanotifyEvent) -> Iterable[Change]:
        paths = [path for path in (self._path(place) for place in event.places) if path]
        if len(paths) == len(event.places) and paths:
            yield Change(event.mask, paths[0], paths[1] if len(paths) > 1 else "")

    def _path(self, place: watching.Place) -> str:
        for mount in self._mounts.values():
            try:
                directory = watching.handle_path(mount, place.handle)
            except OSError:
                continue  # gone meanwhile, or a handle of another file system
            return os.fsdecode(directory.rstrip(b"/") + b"/" + place.name)
        return ""

    def close(self) -> None:
        """Give everything back."""
        self._forget_mounts()
        os.close(self._group)

    def _forget_mounts(self) -> None:
        for mount in self._mounts.values():
            os.close(mount)
        self._mounts.clear()


class Inotify:
    """For everyone else: one instance, a watch for each directory. It cannot tell who made a change."""

    exact = False

    def __init__(self) -> None:
        self._instance = watching.inotify()
        self._directories: dict[int, tuple[str, bool]] = {}
        self._numbers: dict[str, int] = {}
        self._full = False

    def fileno(self) -> int:
        """For the poller."""
        return self._instance

    def cover(self, trees: set[Tree]) -> None:
        """Watch exactly these."""
        wanted: dict[str, bool] = {}
        for tree in sorted(trees):
            for path in _beneath(tree) if tree.recursive else (tree.path,):
                wanted[path] = wanted.get(path, False) or tree.recursive
        for path in set(self._numbers) - set(wanted):
            number = self._numbers.pop(path)
            self._directories.pop(number, None)
            watching.unwatch_directory(self._instance, number)
        for path, recursive in wanted.items():
            self._watch(path, recursive)

    def _watch(self, path: str, recursive: bool) -> None:
        if len(self._numbers) >= DIRECTORIES:
            if not self._full:
                log.warning("more than %d directories are watched: changes made outside the server go unnoticed in some", DIRECTORIES)
            self._full = True
            return
        try:
            number = watching.watch_directory(self._instance, path)
        except OSError:
            return  # it is gone, or the user's watches are used up: workers' own changes are told all the same
        self._numbers[path] = number
        self._directories[number] = (path, recursive)

    def changes(self) -> list[Change]:
        """What happened, whoever did it."""
        found: list[Change] = []
        moved: dict[int, int] = {}
        for event in watching.inotify_events(self._instance):
            if event.mask & watching.IGNORED:
                path, _ = self._directories.pop(event.watch, ("", False))
                self._numbers.pop(path, None)
            elif event.watch in self._directories:
                self._one(event, found, moved)
        return found

    def _one(self, event: watching.InotifyEvent, found: list[Change], moved: dict[int, int]) -> None:
        directory, recursive = self._directories[event.watch]
        path = os.path.join(directory, os.fsdecode(event.name))
        if recursive and event.mask & watching.DIRECTORY and event.mask & (watching.CREATED | watching.MOVED_TO):
            for beneath in _beneath(Tree(path, True)):
                self._watch(beneath, True)
        if event.mask & watching.MOVED_FROM:
            moved[event.cookie] = len(found)
            found.append(Change(event.mask ^ watching.MOVED_FROM | watching.DELETED, path))
        elif event.mask & watching.MOVED_TO and event.cookie in moved:
            at = moved.pop(event.cookie)
            found[at] = Change(found[at].mask ^ watching.DELETED | watching.RENAMED, found[at].path, path)
        elif event.mask & watching.MOVED_TO:
            found.append(Change(event.mask ^ watching.MOVED_TO | watching.CREATED, path))
        else:
            found.append(Change(event.mask, path))

    def close(self) -> None:
        """Give the instance back, and all watches with it."""
        os.close(self._instance)


def _beneath(tree: Tree) -> Iterable[str]:
    """The tree's directories, itself included; symbolic links are not followed."""
    for count, (path, _, _) in enumerate(os.walk(tree.path)):
        if count >= DIRECTORIES:
            return
        yield path
