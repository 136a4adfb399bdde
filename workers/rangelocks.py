"""Clients' byte-range locks as locks that programs beside the server see and respect (``posix locking = yes``).

Owns: what of an Open's locks the kernel is told. The shared state decides between clients ([MS-FSA] 2.1.5.8); only then is the kernel
asked, for a lock of the Open's descriptor. Invariant: the kernel never holds more for an Open than the shared state does, so that clients
are never refused by what another client has given back.

The kernel's locks are a map from bytes to none, shared or exclusive; a client's locks may be stacked, and are given back one by one. So
what is told is always the whole picture of a range: the strongest lock that covers each part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

from smbd.sharing import Range
from smbd.sharing.rules import undone
from smbd.smb2.status import SmbError
from workers.vfs.interface import Handle

if TYPE_CHECKING:
    from workers.open import Open
    from workers.worker import Worker

_FREE, _SHARED, _EXCLUSIVE = range(3)
_EVERYTHING = Range(0, 1 << 64)


def take(worker: Worker, opened: Open, wanted: Sequence[Range]) -> bool:
    """Tell the kernel of locks that the shared state has just granted, all or none. False: a program beside the server has one of them.

    ``OSError``: the kernel has no room for one, or does not know locks on this file system.
    """
    assert opened.key is not None
    assert opened.handle is not None
    opened.told = True
    mine = worker.sharing.own_locks(opened.key, opened.persistent)
    for number, one in enumerate(wanted):
        try:
            _tell(opened.handle, mine, one)
        except (OSError, SmbError) as error:
            _restore(opened.handle, undone(mine, wanted), wanted[: number + 1])
            if isinstance(error, BlockingIOError):
                return False
            raise
    return True


def take_again(worker: Worker, opened: Open) -> None:
    """An open has been reclaimed, with its locks and another descriptor: the kernel is told of them.

    A program beside the server may have locked some of it meanwhile. Its client was promised the lock and keeps it; the log says so.
    """
    assert opened.key is not None
    assert opened.handle is not None
    mine = worker.sharing.own_locks(opened.key, opened.persistent)
    opened.told = bool(mine)
    missing = 0
    for one in mine:
        try:
            _tell(opened.handle, mine, one)
        except OSError:  # the kernel may also have no room for it
            missing += 1
    if missing:
        path = "" if opened.path is None else opened.path.wire()
        worker.log.warning("%s in share %s: a program has %d ranges that a client locked before", path, opened.tree.share.name, missing)


def give_back(worker: Worker, opened: Open, ranges: Sequence[Range]) -> None:
    """Before the shared state takes these locks away: the kernel is the first to forget them."""
    assert opened.key is not None
    assert opened.handle is not None
    left = without(worker.sharing.own_locks(opened.key, opened.persistent), ranges)
    for one in ranges:
        _tell(opened.handle, left, one)


def take_back(worker: Worker, opened: Open, ranges: Sequence[Range]) -> None:
    """Before the shared state withdraws these locks, which it has just granted."""
    assert opened.key is not None
    assert opened.handle is not None
    _restore(opened.handle, undone(worker.sharing.own_locks(opened.key, opened.persistent), ranges), ranges)


def forget(worker: Worker, opened: Open) -> None:
    """Before an Open ends, whatever comes of this: what the kernel does not forget now goes with the descriptor."""
    assert opened.handle is not None
    try:
        _tell(opened.handle, (), _EVERYTHING)
    except (OSError, SmbError) as error:
        worker.log.warning("locks in share %s stay until their file is closed: %s", opened.tree.share.name, error)


def without(locks: Sequence[Range], ranges: Sequence[Range]) -> list[Range]:
    """What is left when ``ranges`` are unlocked, in order, up to the first that is not locked ([MS-SMB2] 3.3.5.14.1)."""
    left = list(locks)
    for one in ranges:
        equal = [lock for lock in left if lock[:2] == one[:2]]
        if not equal:
            break
        left.remove(next((lock for lock in equal if lock.exclusive), equal[-1]))
    return left


def _restore(handle: Handle, before: Sequence[Range], ranges: Sequence[Range]) -> None:
    """The kernel's picture of ``ranges`` is that of ``before`` again, as far as it goes: something else has failed already."""
    for one in ranges:
        with suppress(OSError, SmbError):
            _tell(handle, before, one)


def _tell(handle: Handle, locks: Sequence[Range], region: Range) -> None:
    """Make the kernel's picture of ``region`` that of ``locks``. BlockingIOError at the first part that somebody else has."""
    start, end = region.offset, region.offset + region.length
    edges = {start, end}
    for lock in locks:
        edges.update(edge for edge in (lock.offset, lock.offset + lock.length) if start < edge < end)
    for begin, stop in pairwise(sorted(edges)):
        kind = max((_strength(lock) for lock in locks if lock.offset <= begin and stop <= lock.offset + lock.length), default=_FREE)
        if kind == _FREE:
            handle.unlock_range(begin, stop - begin)
        else:
            handle.lock_range(begin, stop - begin, kind == _EXCLUSIVE)


def _strength(lock: Range) -> int:
    return _EXCLUSIVE if lock.exclusive else _SHARED
