"""Memory without sparse shared objects: a slab is a mapping of its own.

Owns: in each ``SlabMemory`` the mappings of what is committed. Contracts are in ``interface.Memory``.

POSIX can cut a file at its end but not give pages from its middle back. An arena is used by one process alone, so its slabs need not be
shared: each is anonymous memory, mapped when it is committed and unmapped when it is given back. What that loses: the master cannot see
what a worker's arena takes, and a machine that promises more memory than it has says so at the first touch.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable
from typing import Final

from pools.port import portable

PAGE = portable.PAGE
NO_ROOM = portable.NO_ROOM
_ZEROES: Final = bytes(1 << 16)
create_memory_file = portable.create_memory_file


def create_shared_memory(size: int, likely_use: int) -> int:
    """A file without a name, wherever this system keeps temporary files."""
    del likely_use
    fd, path = tempfile.mkstemp(prefix="millpond-")
    os.unlink(path)
    return portable.sized(fd, size)


def commit(fd: int, offset: int, length: int) -> None:
    """posix_fallocate(3); where there is none (macOS, OpenBSD), zeroes that are written: what is committed has not been used yet."""
    if hasattr(os, "posix_fallocate"):
        portable.commit(fd, offset, length)
        return
    for at in range(offset, offset + length, len(_ZEROES)):
        os.pwrite(fd, _ZEROES[: offset + length - at], at)


def map_shared(fd: int, size: int, *, offset: int = 0, writable: bool = True) -> mmap.mmap:
    """See ``interface.Memory``."""
    protection = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
    return mmap.mmap(fd, size, mmap.MAP_SHARED, protection, offset=offset)


class SlabMemory:
    """Only the process that commits a slab has it."""

    __slots__ = ("_mapped", "_slabs")

    def __init__(self) -> None:
        self._mapped = False
        self._slabs: dict[int, mmap.mmap] = {}

    def fileno(self) -> int:
        """Nothing is inherited."""
        return -1

    def map(self) -> None:
        """See ``interface.ArenaMemory``."""
        self._mapped = True

    def commit(self, offset: int, length: int) -> tuple[memoryview, Callable[[], bool]]:
        """See ``interface.ArenaMemory``."""
        if not self._mapped:
            raise ValueError("the arena is not mapped")
        slab = self._slabs[offset] = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return portable.window(slab, 0, length)

    def decommit(self, offset: int, length: int) -> None:
        """BufferError when a view lives after all: better than a view of what is no longer there."""
        del length
        slab = self._slabs.get(offset)
        if slab is not None:
            slab.close()
            del self._slabs[offset]

    def committed_bytes(self) -> int:
        """In the process that has it."""
        return sum(map(len, self._slabs.values()))

    def close(self) -> None:
        """See ``interface.ArenaMemory``."""
        for offset in list(self._slabs):
            self.decommit(offset, 0)
        self._mapped = False


def create_arena(size: int, likely_use: int) -> SlabMemory:
    """See ``interface.Memory``: address space is not reserved ahead."""
    del size, likely_use
    return SlabMemory()


def map_large_allocations() -> None:
    """POSIX has no words for it."""


def share_one_heap() -> None:
    """Likewise."""


def merge_memory() -> str:
    """See ``interface.Memory``."""
    return "port `posix` cannot ask for it"
