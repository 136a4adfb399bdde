"""Messages between the master and the host, the process whose threads are the workers (``server mode = threaded``).

Owns: kinds 0x0120-0x012F of the hub. Where a forked worker inherits what is its own, HAND_OVER carries it: the client's socket and the
worker's end of its pair with the master. Invariant: each HAND_OVER is followed by one ENDED for the same (slot, generation), sent when the
thread is gone; the slot is not used again before.
"""

from __future__ import annotations

from typing import NamedTuple

from pools.layout import U32, Layout
from pools.queue import LEASE_BREAK, Kind


class HandOver(NamedTuple):
    """Payload of HAND_OVER; the client's address follows as text."""

    slot: U32
    generation: U32


class Ended(NamedTuple):
    """Payload of ENDED. ``clean``: 1 unless an unexpected error ended the thread."""

    slot: U32
    generation: U32
    clean: U32


HAND_OVER_LAYOUT = Layout(HandOver)
ENDED_LAYOUT = Layout(Ended)

_MOST_TEXT = 256
_SOCKET_AND_PAIR = 2

HAND_OVER = Kind(0x0120, "HAND_OVER", LEASE_BREAK, _SOCKET_AND_PAIR, HAND_OVER_LAYOUT.size + _MOST_TEXT, frozenset({"master"}))
ENDED = Kind(0x0122, "ENDED", LEASE_BREAK, 0, ENDED_LAYOUT.size, frozenset({"host"}))

KINDS: tuple[Kind, ...] = (HAND_OVER, ENDED)


def pack_hand_over(slot: int, generation: int, address: str) -> bytes:
    """The payload of HAND_OVER."""
    return HAND_OVER_LAYOUT.pack(slot, generation) + address.encode("ascii", "replace")[:_MOST_TEXT]


def unpack_hand_over(payload: bytes | memoryview) -> tuple[HandOver, str]:
    """What ``pack_hand_over`` packed. WireError when it is too short."""
    view = memoryview(payload)
    return HAND_OVER_LAYOUT.unpack(view), bytes(view[HAND_OVER_LAYOUT.size :]).decode("ascii", "replace")
