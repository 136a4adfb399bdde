"""Buffer pools in memory: classes, references, leases, reserve, waiting, decay, exhaustion."""

from __future__ import annotations

import errno

import pytest

from pools import port
from pools.arena import Arena
from pools.buffer import CAPACITIES, CLASSES, LARGEST, PDU, SMALL, USUAL, class_for, classes_by_bits
from pools.counters import HISTOGRAM_AT, REQUESTED_AT, Row, class_word
from pools.plan import make_plan, usual_reserve, usual_static
from pools.pool import (
    HEADROOM,
    MAX_CAPACITY,
    TAILROOM,
    USUAL_PLAN,
    BufferPool,
    DynamicPool,
    MallocPool,
    Plan,
    PoolExhausted,
    StaticPool,
    open_pool,
    plan_bytes,
)
from pools.port.linux.memory import SparseMemory
from pools.slab import POISON

MEGABYTE = 1 << 20
CEILING = 64 * MEGABYTE


class Lessor:
    """A fake of the other side: writes down what was asked and given back."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.returned: list[tuple[int, int]] = []

    def ask(self, number: int, slabs: int) -> None:
        self.asked.append((number, slabs))

    def give_back(self, number: int, slabs: int) -> None:
        self.returned.append((number, slabs))

    def grant_all(self, pool: BufferPool) -> None:
        asked, self.asked = self.asked, []
        for number, slabs in asked:
            pool.granted(number, slabs)


@pytest.fixture
def arena() -> Arena:
    made = Arena.create(CEILING)
    made.map()
    return made


@pytest.fixture
def lessor() -> Lessor:
    return Lessor()


@pytest.fixture
def pool(arena: Arena, lessor: Lessor) -> DynamicPool:
    return DynamicPool(arena, Row.private(), lessor.ask, lessor.give_back, decay=10.0)


def leased(pool: BufferPool, number: int) -> int:
    return pool._words[class_word(number, "leased")]


def test_classes_hold_what_they_promise() -> None:
    assert [row.capacity for row in CLASSES] == [4096 << step for step in range(12)]
    for row in CLASSES:
        assert row.stride >= HEADROOM + row.capacity + TAILROOM
        assert row.stride % 64 == 0
        assert row.stride * row.buffers <= row.slab_bytes
        assert row.slab_bytes % port.memory.PAGE == 0


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 16384, 16385, 65536, 65537, 131072, MEGABYTE, MEGABYTE + 1, MAX_CAPACITY])
def test_smallest_class_that_fits(size: int) -> None:
    assert class_for(size) == next(number for number in USUAL if CLASSES[number].capacity >= size)
    assert class_for(size, classes_by_bits((PDU, LARGEST))) == (PDU if size <= 65536 else LARGEST)


@pytest.mark.parametrize("size", [-1, MAX_CAPACITY + 1])
def test_sizes_outside_the_classes(size: int) -> None:
    with pytest.raises(ValueError):
        class_for(size)


def test_a_buffer_has_room_in_front_and_behind(pool: DynamicPool) -> None:
    buffer = pool.allocate(65536)
    assert (buffer.capacity, len(buffer.view), len(buffer.payload)) == (65536, HEADROOM + 65536 + TAILROOM, 65536)
    buffer.payload[0] = 7
    assert buffer.view[HEADROOM] == 7
    assert not buffer.view.readonly


def test_the_last_release_sends_it_home_and_lifo_hands_it_out_again(pool: DynamicPool) -> None:
    buffer = pool.allocate(100)
    buffer.hold()
    buffer.release()
    assert pool.in_use() == 1
    buffer.release()
    assert pool.in_use() == 0
    assert pool.allocate(4096) is buffer


def test_releasing_and_holding_at_home_are_bugs(pool: DynamicPool) -> None:
    buffer = pool.allocate(1)
    buffer.release()
    with pytest.raises(AssertionError):
        buffer.release()
    with pytest.raises(AssertionError):
        buffer.hold()
    assert pool.in_use() == 0


def test_the_reserve_is_committed_at_the_start(pool: DynamicPool, arena: Arena) -> None:
    assert arena.committed_bytes() == plan_bytes(USUAL_PLAN.reserve)
    small = [pool.allocate(4096) for _ in range(CLASSES[SMALL].buffers)]
    pair = [pool.allocate(65536) for _ in range(2)]
    assert len({id(buffer) for buffer in (*small, *pair)}) == 16


def test_buffers_do_not_overlap(pool: DynamicPool) -> None:
    buffers = [pool.allocate(4096) for _ in range(14)]
    for mark, buffer in enumerate(buffers):
        buffer.view[:] = bytes((mark,)) * len(buffer.view)
    for mark, buffer in enumerate(buffers):
        assert bytes(buffer.view) == bytes((mark,)) * len(buffer.view)


def test_the_low_water_mark_asks_ahead_once(pool: DynamicPool, lessor: Lessor) -> None:
    buffers = [pool.allocate(4096) for _ in range(10)]
    assert lessor.asked == []
    buffers += [pool.allocate(4096) for _ in range(3)]
    assert lessor.asked == [(SMALL, 1)]
    lessor.grant_all(pool)
    buffers += [pool.allocate(4096) for _ in range(8)]
    assert leased(pool, SMALL) == 2
    assert pool._words[class_word(SMALL, "high_water")] == 21


def test_a_miss_is_served_from_a_class_above_then_exhausted(pool: DynamicPool, lessor: Lessor) -> None:
    first = pool.allocate(16384)
    assert first.capacity == 65536
    assert lessor.asked == [(class_for(16384), 1)]  # for the next time
    pool.allocate(16384)
    with pytest.raises(PoolExhausted) as caught:
        pool.allocate(16384)
    assert caught.value.size == 16384
    assert (class_for(16384), 1) in lessor.asked
    lessor.grant_all(pool)
    assert pool.allocate(16384).capacity == 16384


def test_a_request_waits_for_its_lease_and_is_called_once(pool: DynamicPool, lessor: Lessor) -> None:
    calls: list[str] = []
    assert pool.request((8 * MEGABYTE, 4096), lambda: calls.append("ready")) is None
    assert lessor.asked == [(LARGEST, 1)]
    assert pool.in_use() == 0
    lessor.grant_all(pool)
    assert calls == ["ready"]
    got = pool.request((8 * MEGABYTE, 4096), lambda: calls.append("again"))
    assert got is not None
    assert [buffer.capacity for buffer in got] == [8 * MEGABYTE, 4096]
    assert calls == ["ready"]


def test_two_of_one_class_are_asked_for_in_one_ask(pool: DynamicPool, lessor: Lessor) -> None:
    assert pool.request((MEGABYTE, MEGABYTE), lambda: None) is None
    assert lessor.asked == [(class_for(MEGABYTE), 2)]


def test_a_release_wakes_who_waits(pool: DynamicPool, lessor: Lessor) -> None:
    pair = [pool.allocate(65536) for _ in range(2)]
    calls: list[int] = []
    assert pool.request((65536,), lambda: calls.append(1)) is None
    pool.refused(PDU)
    pair[0].release()
    assert calls == [1]
    assert pool.request((65536,), lambda: None) is not None


def test_a_refusal_gives_back_what_was_got_for_a_part_and_asks_at_the_next_tick(pool: DynamicPool, lessor: Lessor) -> None:
    calls: list[int] = []
    assert pool.request((8 * MEGABYTE, 4 * MEGABYTE), lambda: calls.append(1)) is None
    assert sorted(lessor.asked) == [(LARGEST - 1, 1), (LARGEST, 1)]
    lessor.asked.clear()
    pool.granted(LARGEST, 1)
    pool.refused(LARGEST - 1)
    assert lessor.returned == [(LARGEST, 1)]
    assert (calls, lessor.asked) == ([], [])
    pool.tick(1.0)
    assert sorted(lessor.asked) == [(LARGEST - 1, 1), (LARGEST, 1)]
    lessor.grant_all(pool)
    assert calls == [1]


def test_nothing_is_asked_again_between_a_refusal_and_the_tick(pool: DynamicPool, lessor: Lessor) -> None:
    for _ in range(3):
        with pytest.raises(PoolExhausted):
            pool.allocate(MEGABYTE)
        pool.refused(class_for(MEGABYTE))
    assert lessor.asked == [(class_for(MEGABYTE), 1)]


def test_a_lent_turn_goes_back_when_its_buffer_comes_home(pool: DynamicPool, lessor: Lessor, arena: Arena) -> None:
    before = arena.committed_bytes()
    assert pool.request((8 * MEGABYTE,), lambda: None) is None
    pool.granted(LARGEST, 1, turn=True)
    got = pool.request((8 * MEGABYTE,), lambda: None)
    assert got is not None
    assert arena.committed_bytes() > before
    got[0].release()
    assert lessor.returned == [(LARGEST, 1)]
    assert arena.committed_bytes() == before


def test_what_can_never_be_had_is_refused_at_once(lessor: Lessor) -> None:
    arena = Arena.create(4 * MEGABYTE)
    arena.map()
    pool = DynamicPool(arena, Row.private(), lessor.ask, lessor.give_back)
    for sizes in ((8 * MEGABYTE,), (2 * MEGABYTE, MEGABYTE, MEGABYTE), (MEGABYTE,) * 4):
        with pytest.raises(PoolExhausted):
            pool.request(sizes, lambda: None)
    assert lessor.asked == []


def test_the_ceiling_is_never_exceeded_and_idle_slabs_make_room(lessor: Lessor) -> None:
    arena = Arena.create(10 * MEGABYTE)
    arena.map()
    pool = DynamicPool(arena, Row.private(), lessor.ask, lessor.give_back)
    assert pool.request((4 * MEGABYTE,), lambda: None) is None
    lessor.grant_all(pool)
    got = pool.request((4 * MEGABYTE,), lambda: None)
    assert got is not None
    calls: list[int] = []
    assert pool.request((8 * MEGABYTE,), lambda: calls.append(1)) is None
    assert lessor.asked == []
    got[0].release()
    assert lessor.returned == [(LARGEST - 1, 1)]
    assert lessor.asked == [(LARGEST, 1)]
    lessor.grant_all(pool)
    assert calls == [1]


def test_decay_gives_back_halves_but_never_the_reserve(pool: DynamicPool, lessor: Lessor, arena: Arena) -> None:
    for number in (SMALL, PDU, LARGEST):
        pool.granted(number, 4)
    burst = [pool.allocate(65536) for _ in range(10)]
    while burst:
        burst.pop().release()
    assert leased(pool, PDU) == 5
    pool.tick(0.0)
    for period in range(1, 12):
        pool.tick(period * 10.0)
    assert [leased(pool, row.number) for row in CLASSES] == list(USUAL_PLAN.reserve)
    assert arena.committed_bytes() == plan_bytes(USUAL_PLAN.reserve)
    assert sum(slabs for number, slabs in lessor.returned if number == LARGEST) == 4


def test_decay_waits_a_whole_period(pool: DynamicPool, lessor: Lessor) -> None:
    pool.granted(LARGEST, 1)
    pool.tick(100.0)
    pool.tick(109.9)
    assert lessor.returned == []
    pool.tick(110.0)
    assert lessor.returned == [(LARGEST, 1)]


def test_what_is_used_does_not_decay(pool: DynamicPool, lessor: Lessor) -> None:
    pool.granted(PDU, 1)
    for period in range(5):
        pool.tick(period * 10.0)
        for buffer in [pool.allocate(65536) for _ in range(4)]:
            buffer.release()
        held = pool.allocate(65536)
        pool.tick(period * 10.0 + 5)
        held.release()
        kept = [pool.allocate(65536) for _ in range(4)]
        pool.tick(period * 10.0 + 9.999)
        for buffer in kept:
            buffer.release()
    assert leased(pool, PDU) >= 1


def test_a_slab_with_a_live_view_stays_until_the_view_is_gone(pool: DynamicPool, lessor: Lessor, arena: Arena) -> None:
    pool.granted(LARGEST, 1)
    buffer = pool.allocate(8 * MEGABYTE)
    forgotten = buffer.payload[10:20]
    buffer.release()
    del buffer
    assert pool.shed() == 0
    forgotten[0] = 1
    assert leased(pool, LARGEST) == 1
    forgotten.release()
    assert pool.shed() == CLASSES[LARGEST].slab_bytes
    assert arena.committed_bytes() == plan_bytes(USUAL_PLAN.reserve)


def test_no_room_on_the_machine_is_exhaustion(pool: DynamicPool, lessor: Lessor, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(memory: SparseMemory, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    pool.granted(LARGEST, 2)
    monkeypatch.setattr(SparseMemory, "commit", full)
    with pytest.raises(PoolExhausted):
        pool.allocate(8 * MEGABYTE)
    assert lessor.returned == [(LARGEST, 2)]
    assert pool._words[class_word(LARGEST, "no_room")] == 1
    monkeypatch.undo()
    pool.tick(1.0)
    with pytest.raises(PoolExhausted):
        pool.allocate(8 * MEGABYTE)
    lessor.grant_all(pool)
    assert pool.allocate(8 * MEGABYTE).capacity == 8 * MEGABYTE


def test_no_room_during_a_request_takes_nothing(pool: DynamicPool, lessor: Lessor, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(memory: SparseMemory, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    pool.granted(LARGEST, 1)
    monkeypatch.setattr(SparseMemory, "commit", full)
    calls: list[int] = []
    assert pool.request((4096, 8 * MEGABYTE), lambda: calls.append(1)) is None
    assert pool.in_use() == 0
    monkeypatch.undo()
    pool.tick(1.0)
    lessor.grant_all(pool)
    assert calls == [1]


def test_other_errors_at_commit_are_not_hidden(pool: DynamicPool, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(memory: SparseMemory, offset: int, length: int) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    pool.granted(LARGEST, 1)
    monkeypatch.setattr(SparseMemory, "commit", broken)
    with pytest.raises(OSError, match="Bad file"):
        pool.allocate(8 * MEGABYTE)


def test_no_room_for_the_reserve_ends_the_start(arena: Arena, lessor: Lessor, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(memory: SparseMemory, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SparseMemory, "commit", full)
    with pytest.raises(PoolExhausted):
        DynamicPool(arena, Row.private(), lessor.ask, lessor.give_back)


def test_debug_mode_poisons_what_comes_home(arena: Arena, lessor: Lessor) -> None:
    pool = DynamicPool(arena, Row.private(), lessor.ask, lessor.give_back, debug=True)
    buffer = pool.allocate(4096)
    view = buffer.payload
    view[:4] = b"data"
    buffer.release()
    assert bytes(view[:4]) == bytes((POISON,)) * 4


def test_close_gives_everything_back(pool: DynamicPool, lessor: Lessor, arena: Arena) -> None:
    pool.granted(LARGEST, 2)
    pool.allocate(8 * MEGABYTE).release()
    pool.close()
    assert arena.committed_bytes() == 0
    assert sorted(lessor.returned) == [(SMALL, 1), (PDU, 1), (LARGEST, 2)]
    arena.close()


def test_static_commits_its_plan_and_asks_nobody(arena: Arena) -> None:
    pool = StaticPool(arena, Row.private())
    assert arena.committed_bytes() == plan_bytes(USUAL_PLAN.static)
    pair = [pool.allocate(8 * MEGABYTE) for _ in range(2)]
    calls: list[int] = []
    assert pool.request((8 * MEGABYTE,), lambda: calls.append(1)) is None
    pair.pop().release()
    assert calls == [1]
    with pytest.raises(PoolExhausted):
        pool.request((8 * MEGABYTE,) * 3, lambda: None)
    pool.tick(1000.0)
    assert arena.committed_bytes() == plan_bytes(USUAL_PLAN.static)


def test_malloc_has_the_same_interface(lessor: Lessor) -> None:
    row = Row.private()
    pool = open_pool("malloc", None, row, lessor.ask, lessor.give_back, ceiling=3 * MEGABYTE)
    assert isinstance(pool, MallocPool)
    buffer = pool.allocate(MEGABYTE)
    assert len(buffer.view) == HEADROOM + MEGABYTE + TAILROOM
    other = pool.allocate(MEGABYTE)
    calls: list[int] = []
    assert pool.request((MEGABYTE, 4096), lambda: calls.append(1)) is None
    with pytest.raises(PoolExhausted):
        pool.allocate(MEGABYTE)
    other.release()
    assert calls == [1]
    assert pool.request((MEGABYTE, 4096), lambda: None) is not None
    with pytest.raises(PoolExhausted):
        pool.request((4 * MEGABYTE,), lambda: None)
    assert pool.in_use() == 3


@pytest.mark.parametrize("mode", ["dynamic", "static", "malloc"])
def test_every_mode_counts(mode: str, arena: Arena, lessor: Lessor) -> None:
    row = Row.private()
    pool = open_pool(mode, arena, row, lessor.ask, lessor.give_back)
    assert pool.mode == mode
    buffers = [pool.allocate(size) for size in (1, 3000, 65536)]
    assert row.words[class_word(SMALL, "in_use")] == 2
    assert row.words[class_word(PDU, "in_use")] == 1
    assert [row.words[HISTOGRAM_AT + bits] for bits in (0, 12, 16)] == [1, 1, 1]
    assert [row.words[REQUESTED_AT + bits] for bits in (0, 12, 16)] == [1, 3000, 65536]
    while buffers:
        buffers.pop().release()
    assert pool.in_use() == 0


def test_unknown_modes_and_missing_arenas(lessor: Lessor, arena: Arena) -> None:
    with pytest.raises(ValueError, match="needs an arena"):
        open_pool("dynamic", None, Row.private(), lessor.ask, lessor.give_back)
    with pytest.raises(ValueError, match="needs a ceiling"):
        open_pool("malloc", None, Row.private(), lessor.ask, lessor.give_back)
    with pytest.raises(ValueError, match="one of"):
        open_pool("paper", arena, Row.private(), lessor.ask, lessor.give_back)


def test_places_in_the_arena_are_used_again(pool: DynamicPool, lessor: Lessor, arena: Arena) -> None:
    for _ in range(3 * arena.slots(CLASSES[LARGEST])):
        pool.granted(LARGEST, 1)
        pool.allocate(8 * MEGABYTE).release()
        pool.shed()
    assert arena.committed_bytes() == plan_bytes(USUAL_PLAN.reserve)


def plan_of(*kib: int) -> Plan:
    capacities = [size << 10 for size in kib]
    return make_plan(capacities, usual_reserve(capacities), usual_static(capacities))


@pytest.mark.parametrize("mode", ["dynamic", "static", "malloc"])
def test_a_plan_chooses_the_classes(mode: str, arena: Arena, lessor: Lessor) -> None:
    row = Row.private()
    pool = open_pool(mode, arena, row, lessor.ask, lessor.give_back, plan=plan_of(8, 64, 1024, 8192))
    buffers = [pool.allocate(size) for size in (1, 8192, 8193)]
    if mode != "malloc":
        assert [buffer.capacity for buffer in buffers] == [8192, 8192, 65536]
    assert row.words[class_word(1, "in_use")] == 2
    assert pool.request((200_000,), lambda: None) is not None or lessor.asked[-1] == (CAPACITIES.index(MEGABYTE), 1)


def test_without_small_classes_no_small_request_takes_a_large_buffer(arena: Arena, lessor: Lessor) -> None:
    pool = DynamicPool(arena, Row.private(), lessor.ask, lessor.give_back, plan=plan_of(64, 8192))
    pool.granted(LARGEST, 1)
    assert [pool.allocate(100).capacity for _ in range(6)] == [65536] * 6
    with pytest.raises(PoolExhausted):
        pool.allocate(100)


@pytest.mark.parametrize(
    ("capacities", "reserve", "words"),
    [
        ((4096, 8 << 20), {}, "64K is missing"),
        ((4096, 65536), {}, "8M is missing"),
        ((4096, 65536, 8 << 20), {8192: 1}, "8K is not among"),
        ((4096, 65536, 8 << 20), {65536: 1}, "4K needs at least 1"),
        ((65536, 8 << 20), {65536: 1}, "64K needs at least 2"),
    ],
)
def test_a_plan_that_could_hang_a_connection_is_refused(capacities: tuple[int, ...], reserve: dict[int, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_plan(capacities, reserve, usual_static(capacities))
