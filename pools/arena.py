"""Arena: the shared memory that one process cuts its slabs from.

Owns: the sparse object and its mapping. Invariants: each size class has an offset range of its own, as large as the
ceiling, so offsets cannot fragment; a range is touched only while it is committed; one process maps an arena.

The master makes an arena for a slot before the fork and keeps the descriptor to account for it; the child maps it and
closes all others. When the child dies and the master closes the descriptor, the kernel frees the pages.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable

from pools import port
from pools.buffer import CLASSES, SizeClass


class ArenaFull(MemoryError):
    """The machine has no memory for this slab (ENOSPC on the tmpfs, ENOMEM)."""


class Arena:
    """A sparse object of one range per class; ``ceiling`` bytes may be committed in all."""

    __slots__ = ("_fd", "_map", "_range", "ceiling")

    def __init__(self, fd: int, ceiling: int) -> None:
        self._fd = fd
        self.ceiling = ceiling
        self._range = -(-ceiling // port.PAGE) * port.PAGE
        self._map: mmap.mmap | None = None

    @classmethod
    def create(cls, ceiling: int) -> Arena:
        """A new arena, not mapped; OSError when the machine gives none."""
        pages = -(-ceiling // port.PAGE) * port.PAGE
        return cls(port.create_shared_memory(pages * len(CLASSES), ceiling), ceiling)

    def map(self) -> None:
        """Map it in the process that owns it, after the fork."""
        if self._map is None:
            self._map = port.map_shared(self._fd, self._range * len(CLASSES))

    def fileno(self) -> int:
        """The descriptor, to keep over ``port.close_others``."""
        return self._fd

    def slots(self, size_class: SizeClass) -> int:
        """How many slabs of a class there is room for."""
        return self._range // size_class.slab_bytes

    def commit(self, size_class: SizeClass, slot: int) -> tuple[memoryview, Callable[[], bool]]:
        """Commit one slab: its bytes, and a function that tells whether any view of them still lives.

        ArenaFull when the machine has no room; nothing has changed then.
        """
        if self._map is None:
            raise ValueError("the arena is not mapped")
        offset = self._offset(size_class, slot)
        try:
            port.commit(self._fd, offset, size_class.slab_bytes)
        except OSError as error:
            if error.errno in port.NO_ROOM:
                raise ArenaFull(f"slab of {size_class.slab_bytes} bytes: {os.strerror(error.errno)}") from error
            raise
        return port.window(self._map, offset, size_class.slab_bytes)

    def decommit(self, size_class: SizeClass, slot: int) -> None:
        """Give one slab's memory back. No view of it may live: one that does would read zeros and could not be written."""
        if self._map is not None:
            port.decommit(self._map, self._offset(size_class, slot), size_class.slab_bytes)

    def committed_bytes(self) -> int:
        """What the arena costs now; works in the master too."""
        return port.committed_bytes(self._fd)

    def close(self) -> None:
        """Unmap and close. BufferError while views live."""
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _offset(self, size_class: SizeClass, slot: int) -> int:
        if not 0 <= slot < self.slots(size_class):
            raise IndexError(f"slab {slot} of {self.slots(size_class)} of {size_class.capacity} bytes")
        return self._range * size_class.number + slot * size_class.slab_bytes
