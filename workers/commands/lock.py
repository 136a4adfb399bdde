"""LOCK: [MS-SMB2] 2.2.26, 3.3.5.14."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from smbd.sharing import Operation, Range
from smbd.smb2 import status
from smbd.smb2.constants import (
    LOCKFLAG_EXCLUSIVE_LOCK,
    LOCKFLAG_FAIL_IMMEDIATELY,
    LOCKFLAG_SHARED_LOCK,
    LOCKFLAG_UNLOCK,
)
from smbd.smb2.header import HEADER_SIZE
from smbd.smb2.messages.file import LOCK_ELEMENT, LOCK_REQUEST, LOCK_RESPONSE, LOCK_RESPONSE_STRUCTURE_SIZE, LockElement, LockRequest
from smbd.smb2.status import SmbError
from workers import keeping, rangelocks, replay
from workers.breaks import woken
from workers.commands.close import wake
from workers.loop import Cancelled
from workers.open import Open
from workers.patience import may_wait, on_errand
from workers.request import Answer, Request

if TYPE_CHECKING:
    from workers.worker import Worker

RESPONSE = LOCK_RESPONSE.pack(LOCK_RESPONSE_STRUCTURE_SIZE, 0)
ELEMENTS_AT = HEADER_SIZE + LOCK_REQUEST.size
MAX_ELEMENTS = 256  # beyond what clients send (Linux: a page of them); each is a record in the shared state
MAX_LOCKS = 1 << 16  # of one client, on all of its files: the shared state is everybody's
WAITS = (LOCKFLAG_SHARED_LOCK, LOCKFLAG_EXCLUSIVE_LOCK)
AT_ONCE = tuple(flags | LOCKFLAG_FAIL_IMMEDIATELY for flags in WAITS)


def lock(request: Request, body: LockRequest) -> bytes | Coroutine[Any, None, bytes | Answer]:
    """Lock or unlock byte ranges. Where programs beside the server are told, the file system is asked, which may take its time."""
    if request.tree.share.posix_locking:
        result: bytes | Coroutine[Any, None, bytes | Answer] = may_wait(change_locks)(request, body)
        return result
    return change_locks(request, body)


def change_locks(request: Request, body: LockRequest) -> bytes | Coroutine[Any, None, bytes | Answer]:
    """The same at once; a single lock that may wait does so."""
    opened = request.open
    if opened.is_directory or opened.key is None:
        raise SmbError(status.INVALID_PARAMETER)
    if not 0 < body.lock_count <= MAX_ELEMENTS:
        raise SmbError(status.INVALID_PARAMETER)
    request.variable(ELEMENTS_AT, body.lock_count * LOCK_ELEMENT.size)
    elements = [LOCK_ELEMENT.unpack(request.view, ELEMENTS_AT + index * LOCK_ELEMENT.size) for index in range(body.lock_count)]
    entry = replay.lock_entry(request, body.lock_sequence)
    undoing = None if elements[0].flags & LOCKFLAG_UNLOCK else partial(undo, request, elements, entry)
    if entry < 0:
        return keeping.locked(request, execute(request, elements), undoing)
    if replay.lock_repeats(opened, entry, body.lock_sequence):
        return RESPONSE
    result = execute(request, elements)
    if isinstance(result, bytes):
        replay.lock_succeeded(opened, entry, body.lock_sequence)
    else:
        result = _remember(result, opened, (entry, body.lock_sequence))
    return keeping.locked(request, result, undoing)


async def _remember(waiting: Coroutine[Any, None, bytes], opened: Open, place: tuple[int, int]) -> bytes:
    result = await waiting
    replay.lock_succeeded(opened, *place)
    return result


def undo(request: Request, elements: list[LockElement], entry: int) -> None:
    """What was locked cannot be kept on disk, so it is not locked."""
    worker, opened = request.worker, request.open
    if opened.ended or opened.left or opened.key is None:
        return
    if opened.lock_sequences is not None and entry >= 0:
        opened.lock_sequences[entry] = replay.NOT_VALID
    ranges = ranges_of(elements)
    if opened.told:
        rangelocks.take_back(worker, opened, ranges)
    wake(worker, worker.sharing.withdraw(opened.key, opened.persistent, ranges))
    count(worker, opened, -len(ranges))


def count(worker: Worker, opened: Open, change: int) -> None:
    """So many locks more or, negative, less."""
    change = max(change, -opened.locks)
    opened.locks += change
    worker.locks += change


def ranges_of(elements: list[LockElement]) -> list[Range]:
    """What they lock."""
    return [Range(element.offset, element.length, bool(element.flags & LOCKFLAG_EXCLUSIVE_LOCK)) for element in elements]


def execute(request: Request, elements: list[LockElement]) -> bytes | Coroutine[Any, None, bytes]:
    """3.3.5.14: the first element says whether they lock or unlock."""
    if elements[0].flags & LOCKFLAG_UNLOCK:
        return unlock(request, elements)
    return lock_all(request, elements)


def unlock(request: Request, elements: list[LockElement]) -> bytes:
    """3.3.5.14.1: each element in turn; what was unlocked before a failure stays unlocked."""
    worker, opened = request.worker, request.open
    assert opened.key is not None
    good = 0
    while good < len(elements) and elements[good].flags == LOCKFLAG_UNLOCK:
        good += 1
    if not good:
        raise SmbError(status.INVALID_PARAMETER)
    ranges = [Range(element.offset, element.length) for element in elements[:good]]
    if opened.told:
        rangelocks.give_back(worker, opened, ranges)
    done = worker.sharing.unlock(opened.key, opened.persistent, ranges)
    wake(worker, done.wake)
    count(worker, opened, -done.ranges)
    if done.ranges < good:
        raise SmbError(status.RANGE_NOT_LOCKED)
    if good < len(elements):
        raise SmbError(status.INVALID_PARAMETER)
    return RESPONSE


def lock_all(request: Request, elements: list[LockElement]) -> bytes | Coroutine[Any, None, bytes]:
    """3.3.5.14.2: all of them or none; several only without waiting."""
    for element in elements:
        if element.flags not in WAITS and element.flags not in AT_ONCE:
            raise SmbError(status.INVALID_PARAMETER)
        if len(elements) > 1 and element.flags not in AT_ONCE:
            raise SmbError(status.INVALID_PARAMETER)
    ranges = ranges_of(elements)
    if elements[0].flags in AT_ONCE:
        if not grant(request, ranges):
            raise SmbError(status.LOCK_NOT_GRANTED)
        return RESPONSE
    waiter = request.worker.next_id()
    return RESPONSE if grant(request, ranges, waiter) else wait_for(request, ranges, waiter)


def grant(request: Request, ranges: list[Range], waiter: int = 0) -> bool:
    """Lock all of ``ranges``, or none and say False; LOCK_NOT_GRANTED where another client stands against it and nobody waits.

    ``OSError``: none of them, the kernel does not lock.
    """
    worker, opened = request.worker, request.open
    assert opened.key is not None
    if worker.locks + len(ranges) > MAX_LOCKS:
        raise SmbError(status.INSUFFICIENT_RESOURCES)
    worker.check_room()
    if not worker.sharing.lock(opened.key, opened.persistent, ranges, waiter):
        return False
    if request.tree.share.posix_locking:
        try:
            taken = rangelocks.take(worker, opened, ranges)
        except (OSError, SmbError):
            wake(worker, worker.sharing.withdraw(opened.key, opened.persistent, ranges))
            raise
        if not taken:
            wake(worker, worker.sharing.withdraw(opened.key, opened.persistent, ranges))
            return False
    count(worker, opened, len(ranges))
    worker.breaks.data_changed(opened, Operation.LOCK)
    return True


async def wait_for(request: Request, ranges: list[Range], waiter: int) -> bytes:
    """Try again at each wake-up until it is granted, cancelled, or the file is closed."""
    worker, opened = request.worker, request.open
    assert opened.key is not None
    request.ends_with_open = True
    opened.lock_waits.add(waiter)
    try:
        request.pend()
        while True:
            await woken(worker, waiter)
            if not worker.serves(opened):
                raise SmbError(status.RANGE_NOT_LOCKED)  # what Windows answers when the file is closed under a waiting lock
            again = partial(grant, request, ranges, waiter)
            if await on_errand(request, again) if request.tree.slow and opened.told else again():
                return RESPONSE
    except (Cancelled, SmbError, OSError):
        worker.sharing.cancel_wait(opened.key, waiter)
        raise
    finally:
        worker.lock_waits.pop(waiter, None)
        opened.lock_waits.discard(waiter)
