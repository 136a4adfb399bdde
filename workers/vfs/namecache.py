"""Which spelling a directory has for a name: the case-insensitive fallback when the exact name is not there.

Owns: for each directory of late, its names by folded spelling as shown to clients. Invariant: a cached answer is used only while the
directory's mtime and ctime are what they were when it was read; while those are too young to tell two changes apart, or while the cache
was kept by our own changes, only for twenty times as long as reading took. So reading again costs at most one part in twenty of the time,
whatever a client does. On a slow share several threads ask at once: one at a time.

A directory's short names (8.3) are made of its names when one is first asked for. One that two names have means neither. Who has found a
file by its short name and makes that name anew soon after means the name that had it ([MS-FSA] 2.1.1.1, the volume's tunnel cache): old
programs save so.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from pools.port import files
from smbd.smb2.names import display, fold, is_short, short_name

_TOTAL_NAMES = 200_000  # about 20 MB
_YOUNG_NS = 20_000_000  # file systems stamp with the kernel's tick, at worst 10 ms
_PATIENCE = 20
_TUNNEL_SECONDS = 15.0  # as Windows has it
_TUNNEL_NAMES = 256
NOTHING = ""

Stamp = tuple[int, int]
Key = tuple[int, int]


class _Names:
    __slots__ = ("expires", "names", "settled", "short", "stamp")

    def __init__(self, names: dict[str, str], stamp: Stamp, settled: bool, expires: float) -> None:
        self.names = names
        self.stamp = stamp
        self.settled = settled
        self.expires = expires
        self.short: dict[str, str | None] | None = None  # made when one is first asked for


def _stamp(st: os.stat_result) -> Stamp:
    return st.st_mtime_ns, st.st_ctime_ns


class NameCache:
    """One share's. ``find`` is given a directory readable for listing."""

    __slots__ = ("_clock", "_directories", "_short_names", "_total", "_tunnel", "_turn", "_wall")

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], int] = time.time_ns, *, short_names: bool = True
    ) -> None:
        self._directories: dict[Key, _Names] = {}
        self._short_names = short_names
        self._tunnel: dict[tuple[Key, str], tuple[str, float]] = {}
        self._total = 0
        self._clock = clock
        self._wall = wall
        self._turn = threading.RLock()

    def find(self, directory: int, name: str) -> str | None:
        """The spelling on disk (decoded with surrogateescape) of what clients call ``name``; None; NOTHING where the directory is empty."""
        with self._turn:
            return self._find(directory, name)

    def _find(self, directory: int, name: str) -> str | None:
        st = files.fstat(directory)
        key = (st.st_dev, st.st_ino)
        known = self._directories.get(key)
        if known is None or known.stamp != _stamp(st) or (not known.settled and self._clock() > known.expires):
            known = self._read(directory, key, st)
        if not known.names:
            return NOTHING
        found = known.names.get(fold(name))
        if found is None and self._short_names and "~" in name and is_short(name):
            found = self._by_short_name(known, name.upper())
            if found is not None:
                self._remember((key, name.upper()), found)
        return found

    def _by_short_name(self, known: _Names, wanted: str) -> str | None:
        """A client may come back with the 8.3 name that it was told."""
        if known.short is None:
            short: dict[str, str | None] = {}
            for name in known.names.values():
                made = short_name(display(name))
                short[made] = None if made in short else name
            known.short = short
        return known.short.get(wanted)

    def _remember(self, at: tuple[Key, str], name: str) -> None:
        self._tunnel.pop(at, None)
        if len(self._tunnel) >= _TUNNEL_NAMES:
            del self._tunnel[next(iter(self._tunnel))]
        self._tunnel[at] = name, self._clock() + _TUNNEL_SECONDS

    def tunnelled(self, directory: int, name: str) -> str:
        """How a new file is to be called that a client calls ``name``: the long name that this was short for a moment ago, or itself."""
        if not self._tunnel or "~" not in name:
            return name
        st = files.fstat(directory)
        with self._turn:
            known, expires = self._tunnel.get(((st.st_dev, st.st_ino), name.upper()), (name, 0.0))
        return known if self._clock() < expires else name

    def _read(self, directory: int, key: Key, st: os.stat_result) -> _Names:
        begun = self._clock()
        self._forget(key)
        names: dict[str, str] = {}
        for name in files.listdir(directory):
            names.setdefault(fold(display(name)), name)
        ended = self._clock()
        settled = self._wall() - max(st.st_mtime_ns, st.st_ctime_ns) > _YOUNG_NS
        if self._total + len(names) > _TOTAL_NAMES:
            self._directories.clear()
            self._total = 0
        known = self._directories[key] = _Names(names, _stamp(st), settled, ended + _PATIENCE * (ended - begun))
        self._total += len(names)
        return known

    def doubt(self, directory: int) -> None:
        """What was believed of a directory turned out wrong."""
        st = files.fstat(directory)
        with self._turn:
            self._forget((st.st_dev, st.st_ino))

    def _forget(self, key: Key) -> None:
        gone = self._directories.pop(key, None)
        if gone is not None:
            self._total -= len(gone.names)

    def changed(self, directory: int, removed: str | None, added: str | None) -> None:
        """We just removed or added a name: keep the cache instead of reading a large directory again for every file a client creates."""
        if self._directories:
            with self._turn:
                self._changed(directory, removed, added)

    def _changed(self, directory: int, removed: str | None, added: str | None) -> None:
        st = files.fstat(directory)
        known = self._directories.get((st.st_dev, st.st_ino))
        if known is None:
            return
        if removed is not None:
            known.names.pop(fold(display(removed)), None)
        if added is not None:
            known.names[fold(display(added))] = added
        known.short = None
        known.stamp = _stamp(st)
        known.settled = False
