"""Arena: the shared memory that one process cuts its slabs from.

Owns: the sparse object and its mapping. Invariants: each size class has an offset range of its own, as large as the
ceiling, so offsets cannot fragment; a range is touched only while it is committed; one process maps an arena.

The master makes an arena for a slot before the fork and keeps the descriptor to account for it; the child maps it and
closes all others. When the child dies and the master closes the descriptor, the kernel frees the pages.
Where workers are threads of one process, that process makes one for each.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from pools import port
from pools.buffer import CLASSES, SizeClass
from pools.port.interface import ArenaMemory


class ArenaFull(MemoryError):
    """The machine has no memory for this slab (ENOSPC on the tmpfs, ENOMEM)."""


class Arena:
    """A sparse object of one range per class; ``ceiling`` bytes may be committed in all."""

    __slots__ = ("_memory", "_range", "ceiling")

    def __init__(self, memory: ArenaMemory, ceiling: int) -> None:
        self._memory = memory
        self.ceiling = ceiling
        self._range = _whole_pages(ceiling)

    @classmethod
    def create(cls, ceiling: int) -> Arena:
        """A new arena, not mapped; OSError when the machine gives none."""
        return cls(port.memory.create_arena(_whole_pages(ceiling) * len(CLASSES), ceiling), ceiling)

    def map(self) -> None:
        """Map it in the process that owns it, after the fork."""
        self._memory.map()

    def fileno(self) -> int:
        """The descriptor, to keep over ``port.processes.close_others``; -1 where there is none."""
        return self._memory.fileno()

    def slots(self, size_class: SizeClass) -> int:
        """How many slabs of a class there is room for."""
        return self._range // size_class.slab_bytes

    def commit(self, size_class: SizeClass, slot: int) -> tuple[memoryview, Callable[[], bool]]:
        """Commit one slab: its bytes, and a function that tells whether any view of them still lives.

        ArenaFull when the machine has no room; nothing has changed then.
        """
        try:
            return self._memory.commit(self._offset(size_class, slot), size_class.slab_bytes)
        except OSError as error:
            if error.errno in port.memory.NO_ROOM:
                raise ArenaFull(f"slab of {size_class.slab_bytes} bytes: {os.strerror(error.errno)}") from error
            raise

    def decommit(self, size_class: SizeClass, slot: int) -> None:
        """Give one slab's memory back. No view of it may live: one that does would read zeros and could not be written."""
        self._memory.decommit(self._offset(size_class, slot), size_class.slab_bytes)

    def committed_bytes(self) -> int:
        """What the arena costs now. On Linux the master can ask, too."""
        return self._memory.committed_bytes()

    def close(self) -> None:
        """Unmap and close. BufferError while views live."""
        self._memory.close()

    def _offset(self, size_class: SizeClass, slot: int) -> int:
        if not 0 <= slot < self.slots(size_class):
            raise IndexError(f"slab {slot} of {self.slots(size_class)} of {size_class.capacity} bytes")
        return self._range * size_class.number + slot * size_class.slab_bytes


def _whole_pages(size: int) -> int:
    return -(-size // port.memory.PAGE) * port.memory.PAGE
