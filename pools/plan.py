"""The plan of a pool: which size classes it uses, and how many slabs of each a process has from the start.

Owns: the usual plan, and the rules that a plan must keep. Pure. Invariants: PDUs of 64 KiB and of the largest size always have a class;
a reserve holds what a connection needs to go on when nothing more is granted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from pools.buffer import CAPACITIES, CLASSES, LARGEST, PDU, SMALL, USUAL

Slabs = tuple[int, ...]
"""Slabs of each class of the table, used or not."""


class Plan(NamedTuple):
    """Classes in use by number; slabs that are never given back (``dynamic``); slabs that there are at all (``static``)."""

    classes: tuple[int, ...]
    reserve: Slabs
    static: Slabs


# What the mode ``static`` has, by payload bytes: enough for a client that reads and writes at the largest size.
STATIC_SLABS: Final[Mapping[int, int]] = {
    4096: 4, 16384: 4, 65536: 8, 131072: 2, 262144: 2, 524288: 2, 1 << 20: 2, 2 << 20: 1, 4 << 20: 1, 8 << 20: 2,
}  # fmt: skip


def plan_bytes(slabs: Sequence[int]) -> int:
    """What so many slabs per class take when committed."""
    return sum(row.slab_bytes * count for row, count in zip(CLASSES, slabs, strict=True))


def usual_reserve(capacities: Sequence[int]) -> dict[int, int]:
    """Slabs by payload bytes that a process keeps from its fork to its end: one of the smallest class, and the pair for a PDU of 64 KiB
    and its reply. Without a smaller class than that, three pairs: who answers many small requests needs more than one buffer.
    """
    smallest = min(capacities)
    pdu = CAPACITIES[PDU]
    return {smallest: 1, pdu: 1} if smallest < pdu else {pdu: 3}


def usual_static(capacities: Sequence[int]) -> dict[int, int]:
    """Slabs by payload bytes of the mode ``static``, for these classes."""
    return {capacity: STATIC_SLABS.get(capacity, 2) for capacity in capacities}


def make_plan(capacities: Sequence[int], reserve: Mapping[int, int], static: Mapping[int, int]) -> Plan:
    """A plan from payload bytes; ``ValueError`` says which rule it breaks, in the words of the configuration."""
    for needed, why in ((PDU, "every client's first PDUs have up to that"), (LARGEST, "reads and writes may have that size")):
        if CAPACITIES[needed] not in capacities:
            raise ValueError(f"pool classes: {_text(CAPACITIES[needed])} is missing, and {why}")
    for name, slabs in (("pool reserve slabs", reserve), ("pool static slabs", static)):
        strange = [capacity for capacity in slabs if capacity not in capacities]
        if strange:
            raise ValueError(f"{name}: {_text(strange[0])} is not among the pool classes")
        for capacity, least in usual_reserve(capacities).items():
            if slabs.get(capacity, 0) < min(least, 2):
                text = f"{_text(capacity)} needs at least {min(least, 2)}, or a connection could not go on without a lease"
                raise ValueError(f"{name}: {text}")
    numbers = tuple(CAPACITIES.index(capacity) for capacity in sorted(capacities))
    return Plan(numbers, _by_class(reserve), _by_class(static))


def _by_class(slabs: Mapping[int, int]) -> Slabs:
    return tuple(slabs.get(capacity, 0) for capacity in CAPACITIES)


def _text(size: int) -> str:
    return f"{size >> 20}M" if size >= 1 << 20 else f"{size >> 10}K"


_CAPACITIES: Final = tuple(CAPACITIES[number] for number in USUAL)
USUAL_PLAN: Final = make_plan(_CAPACITIES, usual_reserve(_CAPACITIES), usual_static(_CAPACITIES))
assert USUAL_PLAN.reserve[SMALL] == 1
