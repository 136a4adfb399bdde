"""Size classes and the buffer.

Owns: the table of classes and ``Buffer``. A class keeps its number whether or not a pool uses it (``pools.plan``), so that processes
with different plans understand each other's counts. Invariant: a buffer is either at home with no references, or out with at least
one; who drops the last one sends it home.

A *slab* is a range of an arena cut into equal buffers of one class; it is committed and decommitted whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

# Before and after the payload of every buffer. Before: transport length 4, transform header 52, SMB2 header 64 and the
# fixed part of a response. After: the tag of an AEAD cipher.
HEADROOM: Final = 256
TAILROOM: Final = 16

_LINE: Final = 64
_PAGE: Final = 4096


class SizeClass(NamedTuple):
    """One class: payload bytes of a buffer, bytes from one buffer to the next, buffers in a slab, bytes of a slab."""

    number: int
    capacity: int
    stride: int
    buffers: int
    slab_bytes: int


def _size_class(number: int, capacity: int, buffers: int) -> SizeClass:
    stride = -(-(HEADROOM + capacity + TAILROOM) // _LINE) * _LINE
    return SizeClass(number, capacity, stride, buffers, -(-stride * buffers // _PAGE) * _PAGE)


# Payload bytes and buffers per slab. 14 buffers of 4 KiB with their rooms fill 16 pages; a slab of 64 KiB is a pair, a
# PDU's and its reply's. Powers of two alone: they are what clients ask for.
_SHAPES: Final = ((4096, 14), (8192, 8), (16384, 4), (32768, 2), (65536, 2), *((131072 << step, 1) for step in range(7)))
CLASSES: Final = tuple(_size_class(number, capacity, buffers) for number, (capacity, buffers) in enumerate(_SHAPES))
CAPACITIES: Final = tuple(row.capacity for row in CLASSES)
SMALL: Final = 0
PDU: Final = 4  # 64 KiB: the largest PDU before authentication
LARGEST: Final = len(CLASSES) - 1
MAX_CAPACITY: Final = CLASSES[LARGEST].capacity
# Those a pool uses unless its plan says otherwise: what is between 4 and 16 KiB, or 16 and 64, is rarely asked for.
USUAL: Final = tuple(row.number for row in CLASSES if row.capacity not in (8192, 32768))


def classes_by_bits(used: Sequence[int]) -> tuple[int, ...]:
    """For each (size - 1).bit_length() the smallest of the classes ``used`` that holds the size: one shift instead of a search."""
    rows = [CLASSES[number] for number in sorted(used)]
    return tuple(next(row.number for row in rows if row.capacity >= 1 << bits) for bits in range(MAX_CAPACITY.bit_length()))


_USUAL_BY_BITS: Final = classes_by_bits(USUAL)


def class_for(size: int, by_bits: Sequence[int] = _USUAL_BY_BITS) -> int:
    """The smallest class whose buffers hold ``size`` payload bytes; ValueError when none does."""
    if not 0 <= size <= MAX_CAPACITY:
        raise ValueError(f"{size} bytes: buffers hold at most {MAX_CAPACITY}")
    return by_bits[(size - 1).bit_length()] if size else by_bits[0]


class Home(Protocol):
    """Where a buffer goes when its last reference is dropped."""

    def take_back(self, buffer: Buffer) -> None:
        """The buffer has no references any more."""
        ...


class Buffer:
    """Payload bytes with room in front and behind. One thread counts its references: the one that drives the protocol.

    ``view`` is all of it, ``payload`` the ``capacity`` bytes from HEADROOM on. Views of a buffer must not outlive the
    reference of whoever made them.
    """

    __slots__ = ("capacity", "home", "payload", "references", "slab", "view")

    def __init__(self, view: memoryview, home: Home, slab: object = None) -> None:
        self.view = view
        self.capacity = len(view) - HEADROOM - TAILROOM
        self.payload = view[HEADROOM : HEADROOM + self.capacity]
        self.home = home
        self.slab = slab
        self.references = 0

    def hold(self) -> None:
        """One more reference, for one more ``release``."""
        if self.references <= 0:
            raise AssertionError("a buffer at home was held")
        self.references += 1

    def release(self) -> None:
        """Drop a reference; the last one sends the buffer home."""
        self.references = left = self.references - 1
        if left == 0:
            self.home.take_back(self)
        elif left < 0:
            self.references = 0
            raise AssertionError("a buffer was released more often than held")
