"""Readiness by epoll: the poller itself is the kernel's object, so that no layer lies between it and a loop."""

from __future__ import annotations

import select

from pools.port.interface import Poller


def poller() -> Poller:
    """See ``interface.Polling``."""
    return select.epoll(flags=select.EPOLL_CLOEXEC)
