"""Readiness by poll(2).

Owns: in each ``PollPoller`` the list of descriptors, which the kernel gets anew with each call. Contracts are in ``interface.Polling``.
"""

from __future__ import annotations

import errno
import math
import os
import select
from typing import Final

from pools.port.interface import HANGUP, READABLE, WRITABLE

_GONE: Final = select.POLLHUP | select.POLLERR | select.POLLNVAL


class PollPoller:
    """Behaves as epoll does where loops can tell: a descriptor is registered once, and must be there to be taken out.

    One difference stays: a descriptor that is closed while it is registered is not forgotten but hung up for ever.
    """

    __slots__ = ("_masks", "_poll", "_turn", "closed")

    def __init__(self) -> None:
        self._poll = select.poll()
        self._masks: dict[int, int] = {}
        self._turn = 0  # with whom of many that are ready the next call begins
        self.closed = False

    def register(self, fd: int, eventmask: int = READABLE | WRITABLE) -> None:
        """FileExistsError for one that is registered."""
        if fd in self._masks:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.fstat(fd)  # EBADF now, as epoll has it, not an event for ever
        self._set(fd, eventmask)

    def modify(self, fd: int, eventmask: int) -> None:
        """FileNotFoundError for one that is not registered."""
        self._known(fd)
        self._set(fd, eventmask)

    def unregister(self, fd: int) -> None:
        """FileNotFoundError for one that is not registered."""
        self._known(fd)
        del self._masks[fd]
        self._poll.unregister(fd)

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        """See ``interface.Poller``."""
        patience = None if timeout is None or timeout < 0 else math.ceil(timeout * 1000)  # never early: a timer would not be due
        ready = [(fd, _translated(events)) for fd, events in self._poll.poll(patience)]
        if 0 <= maxevents < len(ready):
            turn = self._turn % len(ready)  # all have their turn, as with epoll, however busy the first ones are
            self._turn = turn + maxevents
            ready = (ready[turn:] + ready[:turn])[:maxevents]
        return ready

    def close(self) -> None:
        """The kernel holds nothing of it."""
        self.closed = True
        self._masks.clear()
        self._poll = select.poll()

    def _known(self, fd: int) -> None:
        if fd not in self._masks:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def _set(self, fd: int, mask: int) -> None:
        self._masks[fd] = mask
        self._poll.register(fd, (select.POLLIN if mask & READABLE else 0) | (select.POLLOUT if mask & WRITABLE else 0))


def _translated(events: int) -> int:
    return (READABLE if events & select.POLLIN else 0) | (WRITABLE if events & select.POLLOUT else 0) | (HANGUP if events & _GONE else 0)


def poller() -> PollPoller:
    """See ``interface.Polling``."""
    return PollPoller()
