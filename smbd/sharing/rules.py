"""Who conflicts with whom: share modes and byte-range locks, as pure functions.

Owns: the rules of [MS-FSA] 2.1.5.1.2.2 (sharing) and 2.1.4.10 (locks). Invariant: no state, no clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeVar

from smbd.sharing.records import FileState
from smbd.sharing.values import NOBODY, Range
from smbd.smb2.constants import (
    DELETE,
    FILE_APPEND_DATA,
    FILE_EXECUTE,
    FILE_READ_DATA,
    FILE_SHARE_DELETE,
    FILE_SHARE_READ,
    FILE_SHARE_WRITE,
    FILE_WRITE_DATA,
)

READS = FILE_READ_DATA | FILE_EXECUTE
WRITES = FILE_WRITE_DATA | FILE_APPEND_DATA
SHARED = READS | WRITES | DELETE
"""The access that takes part in sharing; an open with none of it conflicts with nothing."""

T = TypeVar("T")

LAST = (1 << 64) - 1

LockTuple = tuple[int, int, int, int, int, int]
"""slot, generation, file_id, offset, length, exclusive."""


class Owner(NamedTuple):
    """The open that locks: also the first three elements of a lock."""

    slot: int
    generation: int
    file_id: int


def share_conflict(state: FileState, access: int, share_access: int) -> bool:
    """Whether a new open conflicts with the opens whose sums ``state`` holds: [MS-FSA] 2.1.5.1.2.2, both directions."""
    if not access & SHARED or not state.opens:
        return False
    return bool(
        (access & READS and state.shared_read < state.opens)
        or (access & WRITES and state.shared_write < state.opens)
        or (access & DELETE and state.shared_delete < state.opens)
        or (not share_access & FILE_SHARE_READ and state.readers)
        or (not share_access & FILE_SHARE_WRITE and state.writers)
        or (not share_access & FILE_SHARE_DELETE and state.deleters)
    )


def count(state: FileState, access: int, share_access: int, step: int) -> FileState:
    """The sums after one open more (``step`` 1) or less (-1)."""
    handles = state.handles + step
    if not access & SHARED:
        return FileState(handles, *state[1:])
    return FileState(
        handles,
        state.opens + step,
        state.readers + (step if access & READS else 0),
        state.writers + (step if access & WRITES else 0),
        state.deleters + (step if access & DELETE else 0),
        state.shared_read + (step if share_access & FILE_SHARE_READ else 0),
        state.shared_write + (step if share_access & FILE_SHARE_WRITE else 0),
        state.shared_delete + (step if share_access & FILE_SHARE_DELETE else 0),
        *state[8:],
    )


def count_named(state: FileState, access: int, share_access: int, step: int) -> FileState:
    """The unnamed stream's sums after one open more or less of a named stream."""
    fixed = step if access & SHARED and not share_access & FILE_SHARE_DELETE else 0
    return state._replace(named_handles=state.named_handles + step, named_undeletable=state.named_undeletable + fixed)


def doom(state: FileState, uid: int = NOBODY, gid: int = NOBODY, on: bool = True) -> FileState:
    """The state with delete pending set or cleared."""
    if not on:
        return state._replace(delete_pending=0, delete_uid=NOBODY, delete_gid=NOBODY)
    return state._replace(delete_pending=1, delete_uid=uid, delete_gid=gid)


def valid_range(offset: int, length: int) -> bool:
    """[MS-FSA] 2.1.5.8: a range may not reach beyond the largest 64-bit offset."""
    return offset + length <= LAST + 1


def overlap(offset: int, length: int, other_offset: int, other_length: int) -> bool:
    """Whether two ranges meet: [MS-FSA] 2.1.4.10.

    An empty range lies between two bytes and meets a range that has both; {0, 0} and another empty range are never met.
    """
    return offset < other_offset + other_length and other_offset < offset + length


def lock_conflict(locks: Iterable[LockTuple], owner: Owner, wanted: Range) -> LockTuple | None:
    """The first of ``locks`` that stands against locking ``wanted``: [MS-FSA] 2.1.4.10 with LockIntent.

    A shared lock of the same open may be stacked on its exclusive one; nothing else that overlaps and is exclusive on one side.
    """
    for lock in locks:
        if overlap(wanted.offset, wanted.length, lock[3], lock[4]) and (wanted.exclusive or (lock[5] and lock[:3] != owner)):
            return lock
    return None


class _Spans:
    """Where locks are, to be asked many times: their beginnings in order, and how far those up to each of them reach."""

    __slots__ = ("_furthest", "_starts")

    def __init__(self, locks: Iterable[LockTuple]) -> None:
        spans = sorted((lock[3], lock[3] + lock[4]) for lock in locks)
        self._starts = [start for start, _ in spans]
        self._furthest = list(accumulate((end for _, end in spans), max))

    def meet(self, wanted: Range) -> bool:
        """Whether one of them ``overlap``s."""
        before = bisect_left(self._starts, wanted.offset + wanted.length)
        return before > 0 and self._furthest[before - 1] > wanted.offset


def any_conflict(locks: Sequence[LockTuple], owner: Owner, ranges: Sequence[Range]) -> bool:
    """Whether ``lock_conflict`` would find something if ``ranges`` were locked in this order."""
    every, barred = _Spans(locks), _Spans(lock for lock in locks if lock[5] and lock[:3] != owner)
    for number, wanted in enumerate(ranges):
        if (every if wanted.exclusive else barred).meet(wanted):
            return True
        if wanted.exclusive and any(overlap(*wanted[:2], *one[:2]) for one in ranges[:number]):
            return True
    return False


def undone(locks: Sequence[T], taken: Sequence[T]) -> list[T]:
    """``locks``, in the order of granting, without ``taken``, which came last: among equal ones it is the last that goes."""
    going, left = Counter(taken), list[T]()
    for lock in reversed(locks):
        if going[lock]:
            going[lock] -= 1
        else:
            left.append(lock)
    return left[::-1]


def access_conflict(locks: Iterable[LockTuple], owner: Owner, offset: int, length: int, write: bool) -> LockTuple | None:
    """The first of ``locks`` that stands against reading or writing: [MS-FSA] 2.1.4.10 without LockIntent.

    A shared lock is in the way of every write, its owner's too; an exclusive one of everything but its owner's.
    """
    if not length:
        return None
    for lock in locks:
        if overlap(offset, length, lock[3], lock[4]) and (lock[:3] != owner if lock[5] else write):
            return lock
    return None
