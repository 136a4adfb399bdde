"""The times that one open has set, and what becomes of them ([MS-FSA] 2.1.1.6: UserSetModificationTime and its like).

Owns: the rules of [MS-FSA] 2.1.5.15.2 for what a client sets, freezes and thaws. Invariant: what was set through an open stays, whatever
that open then does; another open's doings count as ever.

The kernel sets the change time (ctime) itself and takes it from nobody. One that a client has set is kept in the xattr of the DOS
attributes with the moment at which that was written, and holds as long as the file's ctime is no later than that, or by no more than
``WINDOW``: whoever changes the file then, with or without the server, has changed it.
"""

from __future__ import annotations

import time
from typing import Final, Protocol

from pools.port import files
from pools.port.interface import Stat
from workers.vfs import attributes, xattrs
from workers.vfs.dosattrib import WINDOW, DosInfo

FREEZE: Final = -1
THAW: Final = -2
_TRIES: Final = 3
_BILLION: Final = 1_000_000_000


class Timed(xattrs.Base, Protocol):
    """What the functions here need of a handle."""

    times: SetTimes | None

    def dos(self) -> DosInfo: ...

    def store_dos(self, info: DosInfo) -> None: ...

    def shown_change_time(self) -> int: ...


class SetTimes:
    """``access`` and ``write``: ns since 1970, as they stay; None: as the file's. ``change``: FILETIME, and the kernel's ctime then."""

    __slots__ = ("access", "change", "write")

    def __init__(self) -> None:
        self.access: int | None = None
        self.write: int | None = None
        self.change: tuple[int, int] | None = None


def apply(handle: Timed, creation: int, access: int, write: int, change: int) -> None:
    """FileBasicInformation's times: 0 leaves one alone, -1 freezes it for what this open does, -2 thaws it ([MS-FSCC] 2.4.7)."""
    st = files.stat_fd(handle.fd)
    mine = handle.times = handle.times or SetTimes()
    if access:
        mine.access = _kept(access, st.atime * _BILLION + st.atime_ns)
    if write:
        mine.write = _kept(write, st.mtime * _BILLION + st.mtime_ns)
    if change:
        shown = handle.shown_change_time() if change == FREEZE else change
        mine.change = (shown, 0) if shown > 0 else None
    access_ns = attributes.to_ns(access) if access > 0 else None
    write_ns = attributes.to_ns(write) if write > 0 else None
    if access_ns is not None or write_ns is not None:
        handle.as_owner(lambda: files.set_times(handle.fd, access_ns, write_ns))
    if creation > 0 or mine.change is not None:
        known = handle.dos()
        store(handle, known._replace(creation=creation) if creation > 0 else known)


def _kept(wish: int, current: int) -> int | None:
    if wish == FREEZE:
        return current
    return None if wish == THAW else attributes.to_ns(wish)


def store(handle: Timed, info: DosInfo) -> None:
    """Write the DOS attributes, and with them the change time that this open has set, if it has: writing them changes the kernel's."""
    mine = handle.times
    if mine is None or mine.change is None:
        handle.store_dos(info._replace(change=0, stamp=0))
        return
    change = mine.change[0]
    for _ in range(_TRIES):  # a slow disk may take longer for it than the window is wide
        stamp = time.time_ns()
        handle.store_dos(info._replace(change=change, stamp=stamp))
        ctime = changed_at(files.stat_fd(handle.fd))
        if ctime - stamp <= WINDOW:
            break
    mine.change = (change, ctime)


def stay(handle: Timed) -> None:
    """After this open has written or cut the file: what was set stays. (Other opens are shown the kernel's change time.)"""
    mine = handle.times
    if mine is None:
        return
    frozen = mine.write
    if frozen is not None:
        handle.as_owner(lambda: files.set_times(handle.fd, None, frozen))
    if mine.change is not None:
        mine.change = (mine.change[0], changed_at(files.stat_fd(handle.fd)))


def stay_read(handle: Timed) -> None:
    """After this open has read the file: the access time that was set stays."""
    if handle.times is not None and handle.times.access is not None:
        files.set_times(handle.fd, handle.times.access, None)


def changed_at(st: Stat) -> int:
    """The kernel's ctime, in ns."""
    return st.ctime * _BILLION + st.ctime_ns
