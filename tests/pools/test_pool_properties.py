"""Buffer pools under random histories: nothing is given out twice, counted wrongly or kept beyond its lease."""

from __future__ import annotations

import errno
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pools import port
from pools.arena import Arena
from pools.buffer import CLASSES
from pools.counters import Row, class_word
from pools.pool import USUAL_PLAN, Buffer, DynamicPool, PoolExhausted, plan_bytes

SIZES = st.sampled_from([0, 1, 4096, 5000, 16384, 20000, 65536, 65537, 200_000, 1 << 20, 3 << 20, 8 << 20])
NUMBERS = st.integers(0, len(CLASSES) - 1)


class History(RuleBasedStateMachine):
    """A worker, its lessor and a machine that is full now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena.create(20 << 20)
        self.arena.map()
        self.row = Row.private()
        self.asked: list[tuple[int, int]] = []
        self.leases = list(USUAL_PLAN.reserve)
        self.pool = DynamicPool(self.arena, self.row, self.ask, self.give_back, decay=1.0, debug=False)
        self.out: list[tuple[Buffer, int]] = []
        self.marks = 0
        self.now = 0.0
        self.woken = 0
        self.waiting = 0
        self.full = False
        self.commit: Any = port.memory.commit
        port.memory.commit = self.guarded_commit

    def guarded_commit(self, fd: int, offset: int, length: int) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "full")
        self.commit(fd, offset, length)

    def ask(self, number: int, slabs: int) -> None:
        self.asked.append((number, slabs))

    def give_back(self, number: int, slabs: int) -> None:
        assert slabs > 0
        self.leases[number] -= slabs

    def ready(self) -> None:
        self.woken += 1

    def mark(self, buffer: Buffer) -> None:
        self.marks += 1
        buffer.view[:8] = buffer.view[-8:] = self.marks.to_bytes(8, "big")
        self.out.append((buffer, self.marks))

    @rule(size=SIZES, count=st.integers(1, 16))
    def allocate(self, size: int, count: int) -> None:
        for _ in range(count):
            try:
                buffer = self.pool.allocate(size)
            except PoolExhausted:
                return
            assert buffer.capacity >= size
            self.mark(buffer)

    @rule(sizes=st.lists(SIZES, min_size=1, max_size=3))
    def request(self, sizes: list[int]) -> None:
        try:
            got = self.pool.request(tuple(sizes), self.ready)
        except PoolExhausted:
            return
        if got is None:
            self.waiting += 1
            return
        for buffer, size in zip(got, sizes, strict=True):
            assert buffer.capacity >= size
            self.mark(buffer)

    @rule(picks=st.lists(st.integers(0, 1000), min_size=1, max_size=12))
    def release(self, picks: list[int]) -> None:
        for pick in picks:
            if self.out:
                self.put(*self.out.pop(pick % len(self.out)))

    @rule()
    def release_all(self) -> None:
        while self.out:
            self.put(*self.out.pop())

    def put(self, buffer: Buffer, mark: int) -> None:
        expected = mark.to_bytes(8, "big")
        assert bytes(buffer.view[:8]) == bytes(buffer.view[-8:]) == expected
        buffer.release()

    @rule(grant=st.booleans(), turn=st.booleans())
    def answer(self, grant: bool, turn: bool) -> None:
        if not self.asked:
            return
        number, slabs = self.asked.pop(0)
        if grant:
            self.leases[number] += slabs
            self.pool.granted(number, slabs, turn)
        else:
            self.pool.refused(number)

    @rule()
    def grant_everything(self) -> None:
        while self.asked:
            number, slabs = self.asked.pop(0)
            self.leases[number] += slabs
            self.pool.granted(number, slabs)

    @rule(seconds=st.floats(0.0, 3.0))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.pool.tick(self.now)

    @rule()
    def shed(self) -> None:
        self.pool.shed()

    @rule(full=st.booleans())
    def machine(self, full: bool) -> None:
        self.full = full

    @invariant()
    def nothing_out_overlaps(self) -> None:
        assert len({id(buffer) for buffer, _ in self.out}) == len(self.out)
        assert self.pool.in_use() == len(self.out)

    @invariant()
    def leases_agree_with_the_lessor(self) -> None:
        leased = [self.row.words[class_word(number, "leased")] for number in range(len(CLASSES))]
        assert leased == self.leases
        assert all(held >= reserve for held, reserve in zip(leased, USUAL_PLAN.reserve, strict=True))
        assert plan_bytes(leased) <= self.arena.ceiling

    @invariant()
    def the_machine_gives_what_is_counted(self) -> None:
        committed = [self.row.words[class_word(number, "committed")] for number in range(len(CLASSES))]
        assert self.arena.committed_bytes() == plan_bytes(committed)

    @invariant()
    def nobody_is_called_twice(self) -> None:
        assert self.woken <= self.waiting

    def teardown(self) -> None:
        port.memory.commit = self.commit
        for buffer, _ in self.out:
            buffer.release()
        self.out.clear()
        self.pool.close()
        assert self.pool.in_use() == 0
        assert self.arena.committed_bytes() == 0
        self.arena.close()


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=100, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck))
