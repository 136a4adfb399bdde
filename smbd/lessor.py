"""The lessor: may this process commit another slab? Counts only; it touches neither memory nor sockets.

Owns: the budget of all pools, each slot's leases and the queue of asks that must wait.
Invariant: reserves + the turn + granted leases never exceed the budget; an ask is answered once.

Policy, in order:
- A process is admitted only when its reserve fits beside all others' (a reserve is never withdrawn, so a PDU of 64 KiB can always be read).
- While half of the leasable bytes are free, an ask is granted. Past that a slot may hold at most its fair share (leasable bytes divided
  by the slots that hold or want something), but always one slab.
- What cannot be granted now waits, first come first served, and is refused after ``PATIENCE`` seconds: the asker goes on with its reserve.
- The turn: two buffers of the largest class stay aside for the first in the queue that holds nothing of the class it asks for, so that a
  large PDU and its reply are served one connection at a time even when others sit on the rest of the budget. The grant says that it is a
  turn: it goes back after use, not after the decay.
- While somebody waits, whoever holds leases is asked to give idle ones back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

PATIENCE = 1.0
"""Seconds an ask may wait before it is refused."""

MAX_SLABS_PER_ASK = 1024
MAX_WAITING_PER_SLOT = 64

Answer = Callable[[int, int, int, int, bool], None]
"""(slot, id of the ask, class index, slabs, whether it is a turn): sends the LEASE_ANSWER."""
Recall = Callable[[int], None]
"""(slot): sends the LEASE_RECALL."""


@dataclass(slots=True)
class Account:
    """What one admitted slot has: slabs by class, and the bytes they add up to (its reserve not counted)."""

    reserve: int
    slabs: list[int]
    committed: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Ask:
    """An ask that waits. ``deadline`` in seconds of the master's clock."""

    slot: int
    id: int
    class_index: int
    slabs: int
    deadline: float


@dataclass(slots=True)
class Figures:
    """For the counter row of the master."""

    budget: int = 0
    reserved: int = 0
    leased: int = 0
    granted: int = 0
    waits: int = 0
    refused: int = 0


@dataclass(slots=True)
class Lessor:
    """``slab_bytes[i]`` is the cost of one slab of class ``i``; ``budget`` and ``turn`` are bytes."""

    budget: int
    slab_bytes: Sequence[int]
    answer: Answer
    recall: Recall
    turn: int = 0
    accounts: dict[int, Account] = field(default_factory=dict)
    waiting: deque[Ask] = field(default_factory=deque)
    figures: Figures = field(default_factory=Figures)
    turn_of: int | None = None

    def __post_init__(self) -> None:
        self.resize(self.budget, self.turn)

    def admit(self, slot: int, reserve: int) -> bool:
        """Open an account for ``slot`` and set ``reserve`` bytes aside; False when the budget has no room for them."""
        figures = self.figures
        if slot in self.accounts:
            raise AssertionError(f"slot {slot} has an account already")
        if figures.reserved + figures.leased + self.turn + reserve > self.budget:
            return False
        self.accounts[slot] = Account(reserve, [0] * len(self.slab_bytes))
        figures.reserved += reserve
        return True

    def resize(self, budget: int, turn: int) -> None:
        """A new budget, and what of it is wanted for the turn, which gets half at most.

        Below what is out already, nothing is granted until enough came back.
        """
        self.budget = self.figures.budget = budget
        self.turn = min(turn, budget // 2)
        self._serve_waiting()

    def ask(self, slot: int, ask_id: int, class_index: int, slabs: int, now: float) -> None:
        """A slot wants ``slabs`` more of a class: answered now, or later from ``returned``, ``dismiss`` or ``tick``."""
        account = self.accounts.get(slot)
        if account is None:
            self.answer(slot, ask_id, class_index, 0, False)
            return
        if class_index >= len(self.slab_bytes) or not 0 < slabs <= MAX_SLABS_PER_ASK or account.waiting >= MAX_WAITING_PER_SLOT:
            self._refuse(Ask(slot, ask_id, class_index, slabs, now))
            return
        ask = Ask(slot, ask_id, class_index, slabs, now + PATIENCE)
        if not self.waiting and self._grant(ask):
            return
        account.waiting += 1
        self.waiting.append(ask)
        self.figures.waits += 1
        self._serve_waiting()

    def returned(self, slot: int, class_index: int, slabs: int) -> None:
        """A slot gives slabs back. A pool that closes names its reserve too: that stays on the books until its process is dead."""
        account = self.accounts.get(slot)
        if account is None or class_index >= len(self.slab_bytes):
            return
        self._take_back(account, class_index, min(slabs, account.slabs[class_index]))
        if self.turn_of == slot:
            self.turn_of = None
        self._serve_waiting()

    def dismiss(self, slot: int) -> None:
        """The process of ``slot`` is dead: everything it had is free again."""
        account = self.accounts.pop(slot, None)
        if account is None:
            return
        self.figures.reserved -= account.reserve
        self.figures.leased -= account.committed
        if account.waiting:
            self.waiting = deque(ask for ask in self.waiting if ask.slot != slot)
        if self.turn_of == slot:
            self.turn_of = None
        self._serve_waiting()

    def tick(self, now: float) -> None:
        """Refuse who waited too long."""
        while self.waiting and self.waiting[0].deadline <= now:
            ask = self.waiting.popleft()
            self.accounts[ask.slot].waiting -= 1
            self._refuse(ask)
        self._serve_waiting()
        if self.waiting:
            for slot, account in self.accounts.items():
                if account.committed:
                    self.recall(slot)

    def _serve_waiting(self) -> None:
        """One pass over the queue, in order; who cannot be served keeps the place, and does not hold up smaller asks behind."""
        if not self.waiting:
            return
        still: deque[Ask] = deque()
        for ask in self.waiting:
            if self._grant(ask) or (not still and self._grant_turn(ask)):
                self.accounts[ask.slot].waiting -= 1
            else:
                still.append(ask)
        self.waiting = still

    def _may_grow(self, account: Account, cost: int) -> bool:
        """The policy: is there room, and is it this slot's to have?"""
        figures = self.figures
        leasable = self.budget - self.turn - figures.reserved
        if figures.leased + cost > leasable:
            return False
        if figures.leased + cost <= leasable // 2 or not account.committed:
            return True
        rivals = sum(1 for other in self.accounts.values() if other.committed or other.waiting)
        return account.committed + cost <= leasable // max(1, rivals)

    def _grant(self, ask: Ask) -> bool:
        account = self.accounts[ask.slot]
        cost = self.slab_bytes[ask.class_index] * ask.slabs
        if not self._may_grow(account, cost):
            return False
        self._give(account, ask, cost, turn=False)
        return True

    def _grant_turn(self, ask: Ask) -> bool:
        """The largest PDUs take turns: what was set aside goes to one slot at a time, until it returns something or dies."""
        account = self.accounts[ask.slot]
        cost = self.slab_bytes[ask.class_index] * ask.slabs
        if self.turn_of is not None or account.slabs[ask.class_index]:
            return False
        if self.figures.reserved + self.figures.leased + cost > self.budget or cost > self.turn:
            return False
        self.turn_of = ask.slot
        self._give(account, ask, cost, turn=True)
        return True

    def _give(self, account: Account, ask: Ask, cost: int, *, turn: bool) -> None:
        account.slabs[ask.class_index] += ask.slabs
        account.committed += cost
        self.figures.leased += cost
        self.figures.granted += ask.slabs
        self.answer(ask.slot, ask.id, ask.class_index, ask.slabs, turn)

    def _take_back(self, account: Account, class_index: int, slabs: int) -> None:
        cost = self.slab_bytes[class_index] * slabs
        account.slabs[class_index] -= slabs
        account.committed -= cost
        self.figures.leased -= cost

    def _refuse(self, ask: Ask) -> None:
        self.figures.refused += 1
        self.answer(ask.slot, ask.id, ask.class_index, 0, False)
