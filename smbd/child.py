"""What a forked process is given: one frozen record, made by the master before the fork.

Owns: ``Child``, the roles and the hub addresses of the roles. Invariant: everything in a ``Child`` belongs to the process that received it;
whatever belongs to another process was closed before the program was called, except the pages themselves.

A program is a callable ``program(child)``. It returns when its work is done (exit status 0) and lets an exception it cannot handle
through (traceback in the log, exit status 1). It is called in the forked process, on the main thread, with default signal handlers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pools.plan import Plan, make_plan
from pools.queue import AUTHD, BROKER, FIRST_WORKER, HOST, MASTER, SERVICES, SRVSVC, Kind

if TYPE_CHECKING:
    from socket import socket

    from pools.arena import Arena
    from pools.counters import CounterSegment
    from smbd.config import Config

__all__ = [
    "AUTHD", "BROKER", "FIRST_WORKER", "HOST", "KINDS", "MASTER", "READY", "SRVSVC", "STARTING_ORDER", "WORKER",
    "Child", "Program", "pool_ceiling", "pool_plan",
]  # fmt: skip

STARTING_ORDER: dict[str, int] = {"broker": BROKER, "authd": AUTHD, "srvsvc": SRVSVC, "host": HOST}
"""Services by role name with their slots, in the order in which they start: the broker first, it prepares the shared state.
Each has one process at a time; its row in the counter segment has the number of its slot. The host, whose threads are the workers, is
there with ``server mode = threaded`` only."""

READY = Kind(0x0110, "ready", 0, 0, 0, SERVICES)
"""A service to the master: what others need of it stands. The master accepts no connection before the broker has said so."""

KINDS: tuple[Kind, ...] = (READY,)

WORKER = "worker"

COUNTERS_FILE = "counters"
SHARING_DIRECTORY = "sharing"
"""In the lock directory: the counter segment, and the directory of the shared file state. Whoever looks from outside finds them there."""


@dataclass(frozen=True, slots=True)
class Child:
    """The inheritance of one process. ``generation`` grows with each fork for ``slot``: the pair names this process and no other."""

    role: str
    slot: int
    generation: int
    config: Config
    hub: socket
    counters: CounterSegment
    arena: Arena | None = None
    client: socket | None = None
    address: tuple[str, int] | None = None
    listen_address: tuple[str, int] | None = None


Program = Callable[[Child], None]

def pool_ceiling(config: Config) -> int:
    """Bytes that one connection's buffers may take at most."""
    return min(config.pool_ceiling, config.pool_budget)


def pool_plan(config: Config) -> Plan:
    """Classes and slabs of the pools of new connections."""
    return make_plan(config.pool_classes, dict(config.pool_reserve_slabs), dict(config.pool_static_slabs))
