"""Messages about slab leases, between a process with a pool and the master's lessor.

Owns: kinds 0x0100-0x010F of the hub. A lease is the right to commit a slab of a class; these messages carry counts and no memory.
Invariant: every LEASE_ASK is answered by exactly one LEASE_ANSWER with the same id and class, at once or when the budget has room again;
``slabs`` 0 in the answer is a refusal. LEASE_RETURN has no answer, nor has LEASE_RECALL: others wait, give back what is idle
(``DynamicPool.shed``).
"""

from __future__ import annotations

from typing import NamedTuple

from pools.layout import U32, Layout
from pools.queue import Kind


class Lease(NamedTuple):
    """Payload of LEASE_ASK, LEASE_ANSWER and LEASE_RETURN: so many slabs of that class of buffer sizes."""

    class_index: U32
    slabs: U32
    turn: U32
    """In an answer: 1 when the slabs are the turn of the largest PDUs and go back right after use (``BufferPool.granted(..., turn)``)."""


LEASE = Layout(Lease)

HOLDERS = frozenset({"worker", "authd", "srvsvc", "broker"})
PRIORITY = 1

LEASE_ASK = Kind(0x0100, "LEASE_ASK", PRIORITY, 0, LEASE.size, HOLDERS)
LEASE_ANSWER = Kind(0x0101, "LEASE_ANSWER", PRIORITY, 0, LEASE.size, frozenset({"master"}))
LEASE_RETURN = Kind(0x0102, "LEASE_RETURN", PRIORITY, 0, LEASE.size, HOLDERS)
LEASE_RECALL = Kind(0x0104, "LEASE_RECALL", PRIORITY, 0, 0, frozenset({"master"}))

KINDS: tuple[Kind, ...] = (LEASE_ASK, LEASE_ANSWER, LEASE_RETURN, LEASE_RECALL)
