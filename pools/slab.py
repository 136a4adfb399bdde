"""Slabs: committed ranges cut into buffers, and one class's part of a pool.

Owns: ``Slab``, and ``Slabs``: the slabs of one class, their LIFO free list and the leases not yet committed. Invariants:
every buffer of a committed slab is on the free list or out; a slab is decommitted only when no view of it lives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from pools.arena import Arena
from pools.buffer import HEADROOM, TAILROOM, Buffer, Home, SizeClass
from pools.counters import class_word

# What a released buffer holds in debug mode.
POISON: Final = 0xDB
_NOTHING: Final = memoryview(b"")


class Slab:
    """A committed range, cut into buffers. ``slot`` is its place in the class's range of the arena."""

    __slots__ = ("_alive", "buffers", "slot")

    def __init__(self, slot: int, size_class: SizeClass, home: Home, committed: tuple[memoryview, Callable[[], bool]]) -> None:
        view, self._alive = committed
        self.slot = slot
        length = HEADROOM + size_class.capacity + TAILROOM
        starts = range(0, size_class.stride * size_class.buffers, size_class.stride)
        self.buffers = [Buffer(view[start : start + length], home, self) for start in starts]

    def drop(self) -> bool:
        """Forget the buffers; whether nobody else has a view, so that the range may be decommitted."""
        for buffer in self.buffers:
            # Whoever still has the released buffer finds nothing in it.
            buffer.view = buffer.payload = _NOTHING
        self.buffers.clear()
        return not self._alive()


class Slabs:
    """One class's slabs in one pool, and the free list of their buffers. ``leases`` are not committed yet."""

    __slots__ = (
        "_arena", "_attend", "_debug", "_stale", "_unused", "_vacant", "asked", "attentive", "free", "in_use_word", "leases", "least",
        "low_water", "reserve", "row", "slabs", "used_leases", "words",
    )  # fmt: skip

    def __init__(self, row: SizeClass, words: memoryview, attend: Callable[[Slabs], None], arena: Arena | None, debug: bool) -> None:
        self.row = row
        self.words = words
        self.in_use_word = class_word(row.number, "in_use")
        self.free: list[Buffer] = []
        self.slabs: list[Slab] = []
        self.leases = 0
        self.asked = 0
        self.reserve = 0
        self.low_water = 0
        self.least = 0
        self.used_leases = False
        self.attentive = False
        self._attend = attend
        self._arena = arena
        self._debug = debug
        # Places in the arena: those that were given back, then those never used.
        self._vacant: list[int] = []
        self._unused = 0
        self._stale: list[Slab] = []

    def take_back(self, buffer: Buffer) -> None:
        """The buffer's last reference was dropped."""
        if self._debug:
            buffer.view[:] = bytes((POISON,)) * len(buffer.view)
        self.free.append(buffer)
        self.words[self.in_use_word] -= 1
        if self.attentive:
            self._attend(self)

    @property
    def within_reach(self) -> int:
        """Buffers that can be had without asking anyone."""
        return len(self.free) + self.leases * self.row.buffers

    @property
    def held(self) -> int:
        """Slabs that count against the budget."""
        return len(self.slabs) + len(self._stale) + self.leases

    def count(self, column: str, amount: int = 1) -> None:
        """Add to one of the class's counters."""
        self.words[class_word(self.row.number, column)] += amount

    def publish(self) -> None:
        """Write what is leased and committed into the counters."""
        self.words[class_word(self.row.number, "leased")] = self.held
        self.words[class_word(self.row.number, "committed")] = len(self.slabs) + len(self._stale)

    def commit(self) -> None:
        """Turn one lease into free buffers; ArenaFull changes nothing."""
        assert self._arena is not None
        slot = self._vacant[-1] if self._vacant else self._unused
        slab = Slab(slot, self.row, self, self._arena.commit(self.row, slot))
        if self._vacant:
            self._vacant.pop()
        else:
            self._unused += 1
        self.leases -= 1
        self.used_leases = True
        self.slabs.append(slab)
        self.free.extend(slab.buffers)
        self.least = len(self.free)
        if self._debug:
            for buffer in slab.buffers:
                buffer.view[:] = bytes((POISON,)) * len(buffer.view)
        self.publish()

    def dip(self) -> None:
        """The free list is shorter than it has been: note the high water."""
        self.least = len(self.free)
        used = self.words[self.in_use_word]
        high_word = class_word(self.row.number, "high_water")
        self.words[high_word] = max(used, self.words[high_word])

    def shed(self, most: int, reserve: int) -> int:
        """Give up to ``most`` idle slabs up, leases first, and keep ``reserve``; how many leases go back."""
        gone = self._sweep_stale()
        spare = max(0, min(most - gone, self.held - reserve, self.leases))
        self.leases -= spare
        gone += spare
        if gone < most and len(self.slabs) > reserve:
            gone += self._decommit_idle(min(most - gone, len(self.slabs) - reserve))
        self.least = min(self.least, len(self.free))
        self.publish()
        return gone

    def _decommit_idle(self, most: int) -> int:
        at_home = Counter(buffer.slab for buffer in self.free)
        # The oldest slabs first: their buffers lie deepest in the list.
        idle = [slab for slab in self.slabs if at_home[slab] == self.row.buffers][:most]
        if not idle:
            return 0
        going = set(idle)
        self.free[:] = [buffer for buffer in self.free if buffer.slab not in going]
        self.slabs[:] = [slab for slab in self.slabs if slab not in going]
        self._stale.extend(idle)
        idle.clear()
        return self._sweep_stale()

    def _sweep_stale(self) -> int:
        """Decommit what nobody has a view of any more; a slab that somebody still looks into stays and stays counted."""
        gone = 0
        for slab in tuple(self._stale):
            if self._arena is not None and slab.drop():
                self._arena.decommit(self.row, slab.slot)
                self._vacant.append(slab.slot)
                self._stale.remove(slab)
                gone += 1
        return gone
