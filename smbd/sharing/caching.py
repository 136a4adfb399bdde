"""Oplocks and leases: who may cache what, and whose caching an operation ends. Pure decisions; no table, no message.

Owns: the rules of [MS-FSA] 2.1.4.12 and 2.1.5.18 as clients see them. Invariants, checked by property tests: once the breaks are
acknowledged, a holder of WRITE caching is alone with its key; what is granted never exceeds what was asked, but for what the key holds
already; an operation never breaks its own lease.

An oplock is a lease with a key of its own: level II caches reads, exclusive also writes, batch also handles. Unlike a lease it breaks to
level II at once, it never shares a file with a lease that caches handles, and at level II its own open's writes and locks end it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

# [MS-SMB2] 2.2.13.2.8 LeaseState
READ = 1
HANDLE = 2
WRITE = 4
GRANTABLE = frozenset({0, READ, READ | HANDLE, READ | WRITE, READ | HANDLE | WRITE})

# [MS-SMB2] 2.2.13 RequestedOplockLevel
LEVEL_NONE, LEVEL_II, LEVEL_EXCLUSIVE, LEVEL_BATCH = 0x00, 0x01, 0x08, 0x09
STATE_OF_LEVEL = {LEVEL_NONE: 0, LEVEL_II: READ, LEVEL_EXCLUSIVE: READ | WRITE, LEVEL_BATCH: READ | HANDLE | WRITE}


class Holder(NamedTuple):
    """A living cache on the stream. ``key``: client GUID and lease key, or what names one open.

    ``breaking``: an acknowledgement is awaited, after which no more than ``required`` is to be left. ``whole``: an oplock that ends when it
    is broken, where there is no level II.
    """

    key: bytes
    lease: bool
    state: int
    breaking: bool = False
    required: int = 0
    whole: bool = False


class Break(NamedTuple):
    """``key``'s caching goes down to ``state``; ``acknowledge``: when its owner says so, for it may have data or handles to give back.

    ``silent``: another break of it is under way, whose acknowledgement is to be followed by this one.
    """

    key: bytes
    state: int
    acknowledge: bool
    silent: bool = False


class Decision(NamedTuple):
    """``wait``: the operation goes on when the acknowledgements are in. ``granted`` holds only then, and is decided anew if it waited."""

    granted: int
    breaks: tuple[Break, ...]
    wait: bool


class Spares(Enum):
    """Whose caching an open leaves alone because of the access it asks for, as long as it overwrites nothing."""

    NOBODY = 0
    LEASES = 1
    ALL = 2


class Operation(Enum):
    """What an operation leaves to the caches of others; see ``_LEFT``."""

    OPEN = "open"
    OVERWRITE = "overwrite"
    SHARING_VIOLATION = "sharing violation"
    WRITE = "write"
    LOCK = "lock"
    RENAME = "rename"
    DELETE = "delete"
    DELETE_ON_OPEN = "open for deletion"
    CHILD = "change of what is in the directory"


_LEFT = {
    Operation.OPEN: READ | HANDLE,
    Operation.OVERWRITE: 0,
    Operation.SHARING_VIOLATION: READ | WRITE,
    Operation.WRITE: 0,
    Operation.LOCK: 0,
    Operation.RENAME: READ | WRITE,
    Operation.DELETE: READ | WRITE,
    Operation.DELETE_ON_OPEN: READ,
    Operation.CHILD: 0,  # [MS-FSA] 2.1.4.12, PARENT_OBJECT: READ goes, and HANDLE is nothing without it
}


_OF_DATA = frozenset({Operation.WRITE, Operation.LOCK})


_WAITS_FOR = {
    Operation.OPEN: WRITE,
    Operation.OVERWRITE: WRITE,
    Operation.SHARING_VIOLATION: HANDLE,
    Operation.WRITE: 0,
    Operation.LOCK: 0,
    Operation.RENAME: HANDLE,
    Operation.DELETE: HANDLE,
    Operation.DELETE_ON_OPEN: WRITE | HANDLE,
    Operation.CHILD: 0,
}
"""The caching whose end an operation waits for: data that is not here yet, handles that may be closed. Of other ends it only tells."""


def breaks_of(holders: Sequence[Holder], key: bytes, operation: Operation, spares: Spares = Spares.NOBODY) -> tuple[Break, ...]:
    """The breaks that ``operation`` by ``key`` causes."""
    found: list[Break] = []
    for holder in holders:
        if _spared(holder, key, operation, spares):
            continue
        left = _left_to(holder, operation)
        if holder.breaking:
            if holder.required & ~left:
                found.append(Break(holder.key, holder.required & left, True, True))
        elif left != holder.state:
            found.append(Break(holder.key, left, bool(holder.state & (HANDLE | WRITE))))
    return tuple(found)


def must_wait(holders: Sequence[Holder], key: bytes, operation: Operation, spares: Spares = Spares.NOBODY, *, again: bool = False) -> bool:
    """Whether ``operation`` goes on only after an acknowledgement: of a break it causes or of one that is under way.

    ``again``: it has waited before. Then it waits for every break that is under way, so that all of them are over when it is answered.
    """
    return any(
        (holder.breaking and again)
        or (holder.state & _WAITS_FOR[operation] and (holder.breaking or _left_to(holder, operation) != holder.state))
        for holder in holders
        if not _spared(holder, key, operation, spares)
    )


def _spared(holder: Holder, key: bytes, operation: Operation, spares: Spares) -> bool:
    if holder.key == key:
        # What is written through a handle is not read from the cache of its level II oplock; a lease knows of all its handles.
        return holder.lease or bool(holder.state & WRITE) or operation not in _OF_DATA
    return spares is Spares.ALL or (spares is Spares.LEASES and holder.lease)


def _left_to(holder: Holder, operation: Operation) -> int:
    left = holder.state & _LEFT[operation]
    # An oplock has no level that caches handles without writes, and none that caches writes without reads.
    if not holder.lease and left != holder.state:
        left = 0 if holder.whole else left & READ
    return left


def claim(
    holders: Sequence[Holder],
    asked: Holder,
    *,
    operation: Operation = Operation.OPEN,
    other_opens: bool = False,
    spares: Spares = Spares.NOBODY,
    again: bool = False,
) -> Decision:
    """What an open that asks for ``asked`` is granted, and whose caching it breaks: [MS-FSA] 2.1.5.18.

    ``other_opens``: the stream is open otherwise than under ``asked.key``, for more than its attributes, cached or not. An open for
    attributes only (``spares`` ALL) caches something only when it is alone.
    """
    held = next((holder for holder in holders if holder.key == asked.key), None)
    breaks = breaks_of(holders, asked.key, operation, spares)
    after = {item.key: item.state for item in breaks if not item.silent}
    others = [holder._replace(state=after.get(holder.key, holder.state)) for holder in holders if holder.key != asked.key]
    alone = not others and not other_opens
    wait = must_wait(holders, asked.key, operation, spares, again=again)
    if spares is Spares.ALL and not alone:
        return Decision(held.state if held is not None else 0, breaks, wait)
    return Decision(_grant(held, asked, others, alone), breaks, wait)


def _grant(held: Holder | None, asked: Holder, others: Sequence[Holder], alone: bool) -> int:
    state = asked.state if asked.state in GRANTABLE else 0
    if held is not None and held.breaking:
        # [MS-SMB2] 3.3.5.9.8: while the lease breaks the open gets what it has, and hears of the break.
        return held.state
    if held is not None and asked.lease:
        # A lease is raised only to something that contains it, and to write caching only when nobody else is there.
        higher = state & held.state == held.state and (alone or not state & WRITE)
        return state if higher and _fits(state, asked, others) else held.state
    if not alone:
        state &= ~WRITE
    if asked.lease:
        return state if _fits(state, asked, others) else state & READ
    if not alone or state == READ:
        state = 0 if asked.whole else state & READ
    return state if _fits(state, asked, others) else 0


def _fits(state: int, asked: Holder, others: Sequence[Holder]) -> bool:
    """Oplocks and handle-caching leases exclude each other."""
    if asked.lease:
        return not state & HANDLE or all(holder.lease or not holder.state for holder in others)
    return not state or not any(holder.lease and holder.state & HANDLE for holder in others)


def acknowledged(holder: Holder, allowed: int, state: int) -> Holder | None:
    """The holder after its acknowledgement with ``state``; None when it claims more than the break allowed (REQUEST_NOT_ACCEPTED)."""
    if state & ~allowed:
        return None
    return holder._replace(state=state, breaking=False)


def following(holder: Holder) -> Break | None:
    """The break that follows an acknowledgement when more is required meanwhile; one step at a time: RWH, RH, R, nothing."""
    if not holder.state & ~holder.required:
        return None
    if holder.state & (HANDLE | WRITE):
        return Break(holder.key, holder.state & (holder.required | READ), True)
    return Break(holder.key, holder.state & holder.required, False)
