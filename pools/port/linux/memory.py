"""Memory on Linux: sparse shared objects whose pages come and go.

Owns: no state but that of ``SparseMemory``. Contracts are in ``interface.Memory``.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from typing import Final

import posix_ipc

from pools.port import portable

PAGE = portable.PAGE
NO_ROOM = portable.NO_ROOM
create_memory_file = portable.create_memory_file
commit = portable.commit

_SHARED_MEMORY_DIRECTORY: Final = "/dev/shm"
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_MMAP_THRESHOLD: Final = 128 << 10  # glibc's own value at the start of a process
_PR_SET_MEMORY_MERGE: Final = 67  # Linux 6.4
_MERGING: Final = "/sys/kernel/mm/ksm/run"
_libc = ctypes.CDLL(None, use_errno=True)


def create_shared_memory(size: int, likely_use: int) -> int:
    """POSIX shared memory, unlinked before anyone else can open it. A memfd where /dev/shm is absent, closed to us or has no room for
    ``likely_use``: containers often mount 64 MiB there.
    """
    fd = _posix_shared_memory() if _room_for(likely_use) else None
    if fd is None:
        fd = os.memfd_create("millpond", os.MFD_CLOEXEC)
    return portable.sized(fd, size)


def _room_for(likely_use: int) -> bool:
    try:
        room = os.statvfs(_SHARED_MEMORY_DIRECTORY)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize >= likely_use


def _posix_shared_memory() -> int | None:
    try:
        memory = posix_ipc.SharedMemory(None, posix_ipc.O_CREX, mode=0o600, size=0)
    except (posix_ipc.Error, OSError):
        return None
    memory.unlink()
    fd: int = memory.fd
    os.set_inheritable(fd, False)
    return fd


def map_shared(fd: int, size: int, *, offset: int = 0, writable: bool = True) -> mmap.mmap:
    """See ``interface.Memory``."""
    protection = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
    mapping = mmap.mmap(fd, size, mmap.MAP_SHARED, protection, offset=offset)
    mapping.madvise(mmap.MADV_DONTDUMP)
    return mapping


class SparseMemory:
    """One sparse object: a page costs something from its commit to its decommit. The kernel frees all of it when the last descriptor is
    closed and the last mapping gone, however that happens.
    """

    __slots__ = ("_fd", "_map", "_size")

    def __init__(self, size: int, likely_use: int) -> None:
        self._fd = create_shared_memory(size, likely_use)
        self._size = size
        self._map: mmap.mmap | None = None

    def fileno(self) -> int:
        """See ``interface.ArenaMemory``."""
        return self._fd

    def map(self) -> None:
        """See ``interface.ArenaMemory``."""
        if self._map is None:
            self._map = map_shared(self._fd, self._size)

    def commit(self, offset: int, length: int) -> tuple[memoryview, Callable[[], bool]]:
        """See ``interface.ArenaMemory``."""
        if self._map is None:
            raise ValueError("the arena is not mapped")
        os.posix_fallocate(self._fd, offset, length)
        return portable.window(self._map, offset, length)

    def decommit(self, offset: int, length: int) -> None:
        """The range then reads as zeros, also for a view that should not be there any more."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_REMOVE, offset, length)

    def committed_bytes(self) -> int:
        """Works in the master too."""
        return os.fstat(self._fd).st_blocks * 512

    def close(self) -> None:
        """See ``interface.ArenaMemory``."""
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def create_arena(size: int, likely_use: int) -> SparseMemory:
    """See ``interface.Memory``."""
    return SparseMemory(size, likely_use)


def map_large_allocations() -> None:
    """mallopt(3), M_MMAP_THRESHOLD. Left alone, glibc raises its threshold when such a block is freed. A zeroed block of megabytes that is
    hardly used, as LMDB asks for, then comes out of the heap and is written to from end to end.
    """
    mallopt = getattr(_libc, "mallopt", None)  # glibc's own: other libraries have no such habit
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)


def share_one_heap() -> None:
    """mallopt(3), M_ARENA_MAX. glibc else makes a heap for nearly each thread, and what is free in one serves no other; threads that hold
    the interpreter's lock while they allocate gain nothing by it.
    """
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def merge_memory() -> str:
    """KSM. Children share most of the master's pages until they count a reference in them; many hold the same again soon after."""
    if _libc.prctl(_PR_SET_MEMORY_MERGE, 1, 0, 0, 0) != 0:
        return f"this kernel does not take the request ({os.strerror(ctypes.get_errno())})"
    try:
        with open(_MERGING, encoding="ascii") as state:
            return "" if state.read().strip() == "1" else f"the kernel's merging is off: echo 1 >{_MERGING}"
    except OSError as error:
        return f"{_MERGING}: {error.strerror}"
