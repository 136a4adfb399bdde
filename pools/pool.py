"""Buffer pools: dynamic, static and malloc behind one interface.

Owns: free lists, leases and who waits for them, for one process. Invariants: what is leased never exceeds the arena's
ceiling; the reserve is never given back; a buffer is given out once; a slab is decommitted only when no view of it lives.

A *lease* is the right to commit a slab. The pool asks for it ahead through ``ask`` and gives it back through
``give_back``; who answers, and how, is not known here. One thread uses a pool.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from pools.arena import Arena, ArenaFull
from pools.buffer import CLASSES, HEADROOM, MAX_CAPACITY, PDU, TAILROOM, Buffer, class_for, classes_by_bits
from pools.counters import HISTOGRAM_AT, REQUESTED_AT, Row
from pools.exhausted import PoolExhausted
from pools.plan import USUAL_PLAN, Plan, plan_bytes
from pools.slab import Slabs

__all__ = [
    "CLASSES", "HEADROOM", "LOW_WATER", "MAX_CAPACITY", "MODES", "TAILROOM", "USUAL_PLAN",
    "Buffer", "BufferPool", "DynamicPool", "MallocPool", "Plan", "PoolExhausted", "StaticPool", "open_pool", "plan_bytes",
]  # fmt: skip

MODES: Final = ("dynamic", "static", "malloc")

# Fewer buffers than this within reach: ask for more before they are needed. From 2 MiB on, only when they are.
LOW_WATER: Final = (4, 2, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0)
# A miss may be served from so many classes above its own, whose buffers are at most so many times as large.
_CLASSES_ABOVE: Final = 2
_TIMES_AS_LARGE: Final = 16


class _Waiting(NamedTuple):
    needs: Counter[int]
    ready: Callable[[], None]


class BufferPool:
    """What all modes share: allocation from the free lists, all-or-nothing requests, and who waits."""

    mode = ""

    def __init__(self, row: Row, ceiling: int, arena: Arena | None = None, *, plan: Plan = USUAL_PLAN, debug: bool = False) -> None:
        self._words = row.words
        self._ceiling = ceiling
        self._classes = tuple(Slabs(size_class, row.words, self._attend, arena, debug) for size_class in CLASSES)
        self._class_by_bits = classes_by_bits(plan.classes)
        self._by_bits = tuple(self._classes[number] for number in self._class_by_bits)
        self._used = plan.classes
        self._waiting: deque[_Waiting] = deque()
        self._closed = False

    def allocate(self, size: int) -> Buffer:
        """A buffer for ``size`` payload bytes, with one reference.

        PoolExhausted when there is none now; IndexError above MAX_CAPACITY.
        """
        bits = (size - 1).bit_length()
        slabs = self._by_bits[bits]
        try:
            buffer = slabs.free.pop()
        except IndexError:
            buffer = self._missed(slabs, size)
            slabs = self._by_bits[(buffer.capacity - 1).bit_length()]
        buffer.references = 1
        words = self._words
        words[HISTOGRAM_AT + bits] += 1
        words[REQUESTED_AT + bits] += size
        words[slabs.in_use_word] += 1
        if len(slabs.free) < slabs.least:
            slabs.dip()
            if slabs.within_reach < slabs.low_water:
                self._ask_ahead(slabs)
        return buffer

    def request(self, sizes: tuple[int, ...], ready: Callable[[], None]) -> tuple[Buffer, ...] | None:
        """Buffers of all these sizes, or none of them: then ``ready`` is called once, when it is worth asking again.

        ``ready`` may run inside anybody's ``release``: it only schedules. PoolExhausted when this can never be had.
        """
        needs = Counter(class_for(size, self._class_by_bits) for size in sizes)
        if self._can_serve(needs):
            buffers = self._take(sizes)
            if buffers is not None:
                return buffers
        self._refuse_the_impossible(needs, max(sizes, default=0))
        for number in needs:
            self._classes[number].count("waits")
        self._waiting.append(_Waiting(needs, ready))
        self._watch()
        self._ask_for_waiting()
        return None

    def granted(self, class_index: int, slabs: int, turn: bool = False) -> None:
        """The lessor's answer: so many leases more. With ``turn`` they are lent out of what all processes share."""

    def refused(self, class_index: int) -> None:
        """The lessor's answer: not now."""

    def tick(self, now: float) -> None:
        """Once in a second or so: what is idle for long goes back. ``now`` is monotonic seconds."""

    def shed(self) -> int:
        """Give everything idle back at once, but for the reserve; the bytes that went."""
        return 0

    def close(self) -> None:
        """The process needs no buffers any more. Nobody who waits is called."""
        self._closed = True
        self._waiting.clear()

    def in_use(self) -> int:
        """Buffers that are out."""
        return sum(self._words[slabs.in_use_word] for slabs in self._classes)

    def _missed(self, slabs: Slabs, size: int) -> Buffer:
        """The free list is empty: a buffer all the same, or PoolExhausted."""
        slabs.count("misses")
        place = self._used.index(slabs.row.number)
        for number in self._used[place : place + 1 + _CLASSES_ABOVE]:
            candidate = self._classes[number]
            if candidate.row.capacity > _TIMES_AS_LARGE * slabs.row.capacity:
                break
            if candidate.free or self._commit(candidate):
                if candidate is not slabs and slabs.low_water:
                    self._ask_ahead(slabs)  # or it would be served from above for ever
                return candidate.free.pop()
        self._starved(slabs)
        raise PoolExhausted(size)

    def _commit(self, slabs: Slabs) -> bool:
        """Turn a lease into buffers, if there is one."""
        if not slabs.leases:
            return False
        try:
            slabs.commit()
        except ArenaFull:
            slabs.count("no_room")
            self._no_room(slabs)
            return False
        return True

    def _no_room(self, slabs: Slabs) -> None:
        """The machine had no memory for a lease."""

    def _starved(self, slabs: Slabs) -> None:
        """A single allocation failed."""

    def _ask_ahead(self, slabs: Slabs) -> None:
        """Less than the low-water mark is within reach."""

    def _ask_for_waiting(self) -> None:
        """Somebody waits for buffers."""

    def _refuse_the_impossible(self, needs: Counter[int], size: int) -> None:
        """PoolExhausted when waiting would be for ever."""
        for number, count in needs.items():
            slabs = self._classes[number]
            if self._slabs_for(slabs, count) > slabs.held:
                raise PoolExhausted(size)

    def _slabs_for(self, slabs: Slabs, count: int) -> int:
        return -(-count // slabs.row.buffers)

    def _can_serve(self, needs: Counter[int]) -> bool:
        return all(self._classes[number].within_reach >= count for number, count in needs.items())

    def _take(self, sizes: tuple[int, ...]) -> tuple[Buffer, ...] | None:
        buffers: list[Buffer] = []
        try:
            for size in sizes:
                buffers.append(self.allocate(size))
        except PoolExhausted:
            # A commit failed on the way: the machine is fuller than the budget knows.
            for buffer in buffers:
                buffer.release()
            return None
        return tuple(buffers)

    def _watch(self) -> None:
        """Have releases reported while somebody waits."""
        for slabs in self._classes:
            slabs.attentive = bool(self._waiting)

    def _attend(self, slabs: Slabs) -> None:
        """A buffer came home while somebody waits."""
        if slabs.attentive:
            self._wake()

    def _wake(self) -> None:
        """Call those who can be served now; who finds it taken asks again and waits again."""
        servable = [waiting for waiting in self._waiting if self._can_serve(waiting.needs)]
        for waiting in servable:
            self._waiting.remove(waiting)
        self._watch()
        for waiting in servable:
            waiting.ready()


class StaticPool(BufferPool):
    """Everything leased and committed at the start; nothing grows, nothing goes back."""

    mode = "static"

    def __init__(self, arena: Arena, row: Row, *, plan: Plan = USUAL_PLAN, debug: bool = False) -> None:
        if plan_bytes(plan.static) > arena.ceiling:
            raise ValueError(f"the plan takes {plan_bytes(plan.static)} bytes, the ceiling is {arena.ceiling}")
        super().__init__(row, arena.ceiling, arena, plan=plan, debug=debug)
        _commit_reserve(self._classes, plan.static)


class DynamicPool(BufferPool):
    """Grows by leases up to the arena's ceiling and gives back what has been idle for a while.

    ``ask(class, slabs)`` and ``give_back(class, slabs)`` send and return; they must not raise, for they are called from
    inside ``allocate`` and ``release``. An ask that cannot be sent is answered by ``refused`` from the loop.
    """

    mode = "dynamic"

    def __init__(
        self,
        arena: Arena,
        row: Row,
        ask: Callable[[int, int], None],
        give_back: Callable[[int, int], None],
        *,
        plan: Plan = USUAL_PLAN,
        decay: float = 10.0,
        debug: bool = False,
    ) -> None:
        if plan_bytes(plan.reserve) > arena.ceiling:
            raise ValueError(f"the reserve takes {plan_bytes(plan.reserve)} bytes, the ceiling is {arena.ceiling}")
        super().__init__(row, arena.ceiling, arena, plan=plan, debug=debug)
        self._ask = ask
        self._give_back = give_back
        self._decay = decay
        self._next_decay: float | None = None
        # Somebody lacks memory: large buffers go back after their turn. Nothing more is asked for before the next tick.
        self._pressed = self._holding_off = False
        _commit_reserve(self._classes, plan.reserve)
        for slabs, low_water in zip(self._classes, LOW_WATER, strict=True):
            slabs.low_water = low_water

    def granted(self, class_index: int, slabs: int, turn: bool = False) -> None:
        """So many leases more; they are committed when they are needed."""
        grown = self._classes[class_index]
        grown.asked = 0
        grown.leases += slabs
        grown.publish()
        self._pressed = turn
        self._wake()

    def refused(self, class_index: int) -> None:
        """Not now: whoever waits is asked for again at the next tick.

        What was got for a part of a request goes back meanwhile, or two processes that each hold what the other lacks
        would wait for ever.
        """
        slabs = self._classes[class_index]
        slabs.asked = 0
        slabs.count("refusals")
        self._pressed = self._holding_off = True
        self._shed_large()
        self._watch()

    def tick(self, now: float) -> None:
        """Ask again for those who wait; after each ``decay`` seconds, half of what was idle all the while goes back."""
        if self._closed:
            return
        self._holding_off = False
        if self._waiting:
            self._wake()
            self._ask_for_waiting()
        elif self._pressed:
            # Who asked is gone, others wait.
            self._shed_large()
        if self._next_decay is None or now < self._next_decay:
            self._next_decay = self._next_decay or now + self._decay
            return
        self._next_decay = now + self._decay
        self._pressed = self._pressed and bool(self._waiting)
        self._watch()
        for slabs in self._classes:
            self._decay_class(slabs)

    def shed(self) -> int:
        """Give everything idle back at once, but for the reserve; the bytes that went."""
        return sum(self._shed_class(slabs, slabs.held) * slabs.row.slab_bytes for slabs in self._classes)

    def close(self) -> None:
        """Give everything back that nobody uses, the reserve too."""
        super().close()
        for slabs in self._classes:
            slabs.reserve = slabs.low_water = 0
            slabs.attentive = False
        self.shed()

    def _decay_class(self, slabs: Slabs) -> None:
        if slabs.used_leases:
            idle = 0
        elif slabs.least == len(slabs.slabs) * slabs.row.buffers:
            # Not one was out: all beyond the reserve goes, half of it at a time.
            idle = slabs.held - slabs.reserve
        else:
            # At the low-water mark one lease stays within reach.
            idle = slabs.leases + (slabs.least - slabs.low_water) // slabs.row.buffers
        if idle > 0:
            self._shed_class(slabs, -(-idle // 2))
        slabs.used_leases = False
        slabs.least = len(slabs.free)

    def _shed_large(self) -> None:
        for slabs in self._classes[PDU + 1 :]:
            self._shed_class(slabs, slabs.held)

    def _shed_class(self, slabs: Slabs, most: int) -> int:
        gone = slabs.shed(most, slabs.reserve)
        if gone:
            self._give_back(slabs.row.number, gone)
        return gone

    def _no_room(self, slabs: Slabs) -> None:
        # The budget promised what the machine does not have: exhaustion, not a crash. The leases go back for others.
        gone, slabs.leases = slabs.leases, 0
        slabs.publish()
        self._pressed = self._holding_off = True
        self._give_back(slabs.row.number, gone)

    def _starved(self, slabs: Slabs) -> None:
        self._request_leases(slabs, 1)

    def _ask_ahead(self, slabs: Slabs) -> None:
        self._request_leases(slabs, min(max(1, slabs.held // 2), self._room() // slabs.row.slab_bytes))

    def _ask_for_waiting(self) -> None:
        for waiting in self._waiting:
            for number, count in waiting.needs.items():
                slabs = self._classes[number]
                self._request_leases(slabs, self._slabs_for(slabs, count - slabs.within_reach))

    def _request_leases(self, slabs: Slabs, count: int) -> None:
        """Ask for leases unless an answer is due already; within the ceiling, for which others' idle slabs go first."""
        if slabs.asked or count <= 0 or self._holding_off or self._closed:
            return
        wanted = count * slabs.row.slab_bytes
        for other in reversed(self._classes):
            if self._room() >= wanted:
                break
            if other is not slabs:
                self._shed_class(other, -(-(wanted - self._room()) // other.row.slab_bytes))
        if self._room() < wanted:
            return
        slabs.asked = count
        slabs.count("asks")
        self._ask(slabs.row.number, count)

    def _room(self) -> int:
        return self._ceiling - sum((slabs.held + slabs.asked) * slabs.row.slab_bytes for slabs in self._classes)

    def _refuse_the_impossible(self, needs: Counter[int], size: int) -> None:
        slabs = [max(each.reserve, self._slabs_for(each, needs[each.row.number])) for each in self._classes]
        if plan_bytes(slabs) > self._ceiling:
            raise PoolExhausted(size)

    def _watch(self) -> None:
        for slabs in self._classes:
            slabs.attentive = bool(self._waiting) or (self._pressed and slabs.row.number > PDU)

    def _attend(self, slabs: Slabs) -> None:
        self._wake()
        if self._pressed and slabs.row.number > PDU and slabs.attentive:
            # Others wait for memory: a large buffer goes back after its turn, not after the decay.
            self._shed_class(slabs, 1)
        if self._waiting:
            # What came home may make room beneath the ceiling.
            self._ask_for_waiting()


class MallocPool(BufferPool):
    """Every buffer from the interpreter's allocator and back to it, at the size asked for: what pools are compared with."""

    mode = "malloc"

    def __init__(self, row: Row, ceiling: int, *, plan: Plan = USUAL_PLAN, debug: bool = False) -> None:
        super().__init__(row, ceiling, plan=plan, debug=debug)
        self._out = 0

    def allocate(self, size: int) -> Buffer:
        """As in the other modes; PoolExhausted at the ceiling."""
        bits = (size - 1).bit_length()
        slabs = self._by_bits[bits]
        length = HEADROOM + size + TAILROOM
        if self._out + length > self._ceiling:
            raise PoolExhausted(size)
        self._out += length
        buffer = Buffer(memoryview(bytearray(length)), self)
        buffer.references = 1
        words = self._words
        words[HISTOGRAM_AT + bits] += 1
        words[REQUESTED_AT + bits] += size
        words[slabs.in_use_word] += 1
        return buffer

    def take_back(self, buffer: Buffer) -> None:
        """Forget the buffer: the allocator has it as soon as nobody refers to it."""
        slabs = self._by_bits[(buffer.capacity - 1).bit_length()]
        self._words[slabs.in_use_word] -= 1
        self._out -= len(buffer.view)
        if self._waiting:
            self._wake()

    def _can_serve(self, needs: Counter[int]) -> bool:
        return self._out + self._bytes(needs) <= self._ceiling

    def _refuse_the_impossible(self, needs: Counter[int], size: int) -> None:
        if self._bytes(needs) > self._ceiling:
            raise PoolExhausted(size)

    def _bytes(self, needs: Counter[int]) -> int:
        return sum(CLASSES[number].stride * count for number, count in needs.items())


def _commit_reserve(classes: tuple[Slabs, ...], reserve: Sequence[int]) -> None:
    """Commit what a pool starts with; PoolExhausted when the machine has no memory even for that."""
    for slabs, count in zip(classes, reserve, strict=True):
        slabs.reserve = slabs.leases = count
        slabs.count("reserve", count)
        for _ in range(count):
            try:
                slabs.commit()
            except ArenaFull as error:
                raise PoolExhausted(slabs.row.capacity) from error
        slabs.least = len(slabs.free)
        slabs.used_leases = False


def open_pool(
    mode: str,
    arena: Arena | None,
    row: Row,
    ask: Callable[[int, int], None],
    give_back: Callable[[int, int], None],
    *,
    plan: Plan = USUAL_PLAN,
    ceiling: int = 0,
    decay: float = 10.0,
    debug: bool = False,
) -> BufferPool:
    """The pool of a process. ``arena`` must be mapped; the mode ``malloc`` has none and takes ``ceiling`` bytes instead."""
    if mode == "malloc":
        ceiling = ceiling or (arena.ceiling if arena is not None else 0)
        if not ceiling:
            raise ValueError("pool mode malloc needs a ceiling")
        return MallocPool(row, ceiling, plan=plan, debug=debug)
    if arena is None:
        raise ValueError(f"pool mode {mode} needs an arena")
    if mode == "static":
        return StaticPool(arena, row, plan=plan, debug=debug)
    if mode == "dynamic":
        return DynamicPool(arena, row, ask, give_back, plan=plan, decay=decay, debug=debug)
    raise ValueError(f"pool mode {mode}: one of {', '.join(MODES)}")
