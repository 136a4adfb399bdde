"""Changes found by looking again and again.

Owns: in each ``Scanner`` what the watched directories held when they were looked at last. Contracts are in ``interface.Watching``.
Invariants: looking takes at most one part in twenty of the time, while it takes less than a fifth of a second; what is found is told once.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from pools.port.interface import ATTRIBUTES, CLOSE_WRITE, CREATED, DELETED, DIRECTORY, RENAMED, Change, Source, Tree

ENTRIES: Final = 50_000  # names that are looked at each time; what lies beyond goes unnoticed
_PERIOD: Final = 1.0
_PATIENCE: Final = 20
_LONGEST: Final = 4.0  # seconds; a worker's own announcement of a change is remembered for five


class _Look(NamedTuple):
    """One name as it was: whose it is, what its content and its attributes were like."""

    identity: tuple[int, int]
    content: tuple[int, int]
    changed: int
    directory: bool


_Looks = dict[str, _Look]


class Scanner:
    """Looks at every name of every watched directory."""

    exact = False

    def __init__(self) -> None:
        self.period = _PERIOD
        self._trees: set[Tree] = set()
        self._known: dict[str, _Looks] = {}

    def fileno(self) -> int:
        """See ``interface.Source``."""
        return -1

    def cover(self, trees: set[Tree]) -> None:
        """What is there when a directory is first looked at is no news."""
        self._trees = set(trees)
        seen = self._look()
        self._known = {path: self._known.get(path, looks) for path, looks in seen.items()}

    def changes(self) -> list[Change]:
        """Differences to the last look. A name that went and one that came are a renaming when they are the same file's."""
        begun = time.monotonic()
        before, self._known = self._known, self._look()
        found = _differences(before, self._known)
        self.period = min(_LONGEST, max(_PERIOD, _PATIENCE * (time.monotonic() - begun)))
        return found

    def close(self) -> None:
        """See ``interface.Source``."""
        self._known = {}
        self._trees = set()

    def _look(self) -> dict[str, _Looks]:
        seen: dict[str, _Looks] = {}
        left = ENTRIES
        todo = [(tree.path, tree.recursive) for tree in sorted(self._trees, reverse=True)]
        done: set[tuple[str, bool]] = set()
        while todo and left > 0:
            place = todo.pop()
            if place in done:
                continue
            done.add(place)
            path, recursive = place
            looks = seen.get(path)
            if looks is None:
                looks = seen[path] = _names(path, left)
                left -= len(looks) + 1
            if recursive:
                todo += ((os.path.join(path, name), True) for name, look in looks.items() if look.directory)
        return seen


def _names(path: str, most: int) -> _Looks:
    """What a directory holds now; nothing when it is gone."""
    looks: _Looks = {}
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if len(looks) >= most:
                    break
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                directory = stat.S_ISDIR(found.st_mode)
                # A directory's own times change with what is in it, which is told of the names in it.
                content = (0, 0) if directory else (found.st_size, found.st_mtime_ns)
                looks[entry.name] = _Look((found.st_dev, found.st_ino), content, 0 if directory else found.st_ctime_ns, directory)
    except OSError:
        return looks
    return looks


def _differences(before: dict[str, _Looks], after: dict[str, _Looks]) -> list[Change]:
    went = {look.identity: (path, look) for path, look in _only(before, after)}
    found: list[Change] = []
    for path, look in _only(after, before):
        kind = DIRECTORY if look.directory else 0
        old = went.get(look.identity)
        # A number is soon used again: what is not as it was is another file.
        if old is not None and (old[1].directory, old[1].content) == (look.directory, look.content):
            del went[look.identity]
            found.append(Change(RENAMED | kind, old[0], path))
        else:
            found.append(Change(CREATED | kind | (0 if look.directory or not look.content[0] else CLOSE_WRITE), path))
    found += (Change(DELETED | (DIRECTORY if look.directory else 0), path) for path, look in went.values())
    found += _touched(before, after)
    return found


def _only(these: dict[str, _Looks], those: dict[str, _Looks]) -> Iterator[tuple[str, _Look]]:
    """Names, or files under a name, that only the first have. A directory that was not watched in both tells nothing."""
    for path, looks in these.items():
        others = those.get(path)
        if others is None:
            if not _inside(path, those) and not _inside(path, these):
                continue
            others = {}
        for name, look in looks.items():
            if name not in others or others[name].identity != look.identity:
                yield os.path.join(path, name), look


def _inside(path: str, seen: dict[str, _Looks]) -> bool:
    """Whether the directory lies in one that is looked at, too: it came or went; it was not added to the list or taken from it."""
    return os.path.dirname(path) in seen


def _touched(before: dict[str, _Looks], after: dict[str, _Looks]) -> Iterator[Change]:
    for path, looks in after.items():
        known = before.get(path, {})
        for name, look in looks.items():
            old = known.get(name)
            if old is None or old.identity != look.identity:
                continue
            if old.content != look.content:
                yield Change(CLOSE_WRITE, os.path.join(path, name))
            elif old.changed != look.changed:
                yield Change(ATTRIBUTES, os.path.join(path, name))


def sources(own: Callable[[], frozenset[int]]) -> Sequence[Callable[[], Source]]:
    """See ``interface.Watching``."""
    del own
    return (Scanner,)
