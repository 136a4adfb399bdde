"""The master's children: who lives at which slot, their births and what a death sets in motion.

Owns: slots, generations, the table of processes, each worker's arena. Invariants: a slot has at most one process, a (slot, generation)
names one process for ever; after a death its leases, its arena, its row and its place in the hub are given back before the slot is used
again.
"""

from __future__ import annotations

import heapq
import logging
import signal
import socket
import time
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from pools import port
from pools.arena import Arena
from pools.counters import CounterSegment
from pools.plan import plan_bytes
from pools.queue import PEER, PEER_DIED, sender_class
from smbd.child import FIRST_WORKER, MASTER, STARTING_ORDER, WORKER, Child, Program, pool_ceiling, pool_plan
from smbd.config import Config
from smbd.config.hosts import source
from smbd.hub import Hub
from smbd.lessor import Lessor
from smbd.processes import Exit, Process, classify, fork

log = logging.getLogger("millpond.master")

STRANGERS = 16
TRANSACTION_LIMIT_NS = 2_000_000_000


class Refused(Exception):
    """A connection is not taken; the text says why."""


class Visitor(NamedTuple):
    """An accepted connection, before its worker exists."""

    sock: socket.socket
    address: tuple[str, int]
    listen_address: tuple[str, int]


class Family:
    """All children of the master."""

    def __init__(self, programs: Mapping[str, Program], counters: CounterSegment, hub: Hub, lessor: Lessor) -> None:
        self._programs = programs
        self._counters = counters
        self._hub = hub
        self._lessor = lessor
        self._by_pid: dict[int, Process] = {}
        self._by_slot: dict[int, Process] = {}
        self._arenas: dict[int, Arena] = {}
        self._generations: Counter[int] = Counter()
        self._free = list(range(FIRST_WORKER, counters.rows))
        self._sources: Counter[str] = Counter()

    # --- who is there ----------------------------------------------------------------------------------------------

    def workers(self) -> list[Process]:
        """Living workers."""
        return [process for process in self._by_slot.values() if process.role == WORKER]

    def services(self) -> list[Process]:
        """Living services."""
        return [process for process in self._by_slot.values() if process.role != WORKER]

    def __len__(self) -> int:
        return len(self._by_pid)

    # --- births ----------------------------------------------------------------------------------------------------

    def start_service(self, role: str, config: Config, now: float) -> Process:
        """Fork a service at its slot. OSError when the machine has no room for a process."""
        return self._start(STARTING_ORDER[role], config, now, None, None)

    def start_worker(self, visitor: Visitor, config: Config, now: float) -> Process:
        """Fork a worker for a connection and close the master's copy of its socket. ``Refused`` when it may not be or cannot be."""
        limit = min(config.max_smbd_processes or self._counters.rows, self._counters.rows - FIRST_WORKER)
        self._check_room(source(visitor.address[0]), limit)
        slot = self._free[0]
        if not self._lessor.admit(slot, reserve_bytes(config)):
            raise Refused("`pool budget` has no room for another connection's reserve")
        try:
            arena = Arena.create(pool_ceiling(config)) if config.pool_mode != "malloc" else None
        except OSError as error:
            self._lessor.dismiss(slot)
            raise Refused(f"no memory for its buffers: {error.strerror}") from error
        try:
            process = self._start(slot, config, now, visitor, arena)
        except OSError as error:
            self._lessor.dismiss(slot)
            if arena is not None:
                arena.close()
            raise Refused(f"cannot fork: {error.strerror}") from error
        heapq.heappop(self._free)
        if arena is not None:
            self._arenas[slot] = arena
        self._sources[source(visitor.address[0])] += 1
        visitor.sock.close()
        return process

    def _check_room(self, origin: str, limit: int) -> None:
        """``Refused`` when too many connections are open: in all, of one origin, or of one origin without anybody logged on."""
        count = len(self._by_slot) - len(self.services())
        if count >= limit or not self._free:
            raise Refused(f"{count} connections are open, `max smbd processes` allows no more")
        of_origin = self._sources[origin]
        if of_origin >= per_address(limit):
            raise Refused(f"{of_origin} connections are open from this address alone")
        if of_origin >= strangers(limit):
            idle = [worker.host for worker in self.workers() if not self._counters.row(worker.slot).get("sessions")]
            waiting = sum(source(host) == origin for host in idle)
            if waiting >= strangers(limit):
                raise Refused(f"{waiting} connections are open from this address with nobody logged on")

    def _start(self, slot: int, config: Config, now: float, visitor: Visitor | None, arena: Arena | None) -> Process:
        role, generation = sender_class(slot), self._generations[slot] + 1
        ours, theirs = port.sockets.record_pair()
        address, listening = (visitor.address, visitor.listen_address) if visitor else (None, None)
        client = visitor.sock if visitor else None
        child = Child(role, slot, generation, config, theirs, self._counters, arena, client, address, listening)
        keep = [theirs.fileno(), self._counters.fileno()]
        keep += [one.fileno() for one in (client, arena) if one is not None]
        try:
            pid = fork(child, self._programs[role], keep)
        except OSError:
            ours.close()
            theirs.close()
            raise
        theirs.close()
        self._generations[slot] = generation
        process = Process(role, slot, generation, pid, now, visitor.address[0] if visitor else "")
        self._by_pid[pid] = self._by_slot[slot] = process
        self._hub.attach(slot, generation, ours)
        return process

    # --- deaths ----------------------------------------------------------------------------------------------------

    def bury(self, pid: int, status: int) -> tuple[Process, Exit] | None:
        """A child ended: settle everything it had. None for a pid that is no child of ours."""
        process = self._by_pid.pop(pid, None)
        if process is None:
            return None
        slot = process.slot
        del self._by_slot[slot]
        self._hub.detach(slot)
        self._lessor.dismiss(slot)
        arena = self._arenas.pop(slot, None)
        if arena is not None:
            arena.close()
        self._counters.row(MASTER).inherit(self._counters.row(slot))
        self._hub.broadcast(PEER_DIED, PEER.pack(slot, process.generation), workers=False, services=True)
        if process.role == WORKER:
            heapq.heappush(self._free, slot)
            origin = source(process.host)
            self._sources[origin] -= 1
            if not self._sources[origin]:
                del self._sources[origin]
        return process, classify(status)

    def condemn(self, slot: int, generation: int, reason: str) -> None:
        """Kill one process that broke a rule; the log says which."""
        process = self._by_slot.get(slot)
        if process is None or process.generation != generation or process.condemned:
            return
        process.condemned = reason
        log.error("%s %d.%d (process %d%s) %s; killed", process.role, slot, generation, process.pid, _of(process), reason)
        port.processes.kill(process.pid, signal.SIGKILL)  # not reaped yet, so that the number still names it

    def check_transactions(self) -> None:
        """One that stopped inside a transaction on the shared state holds up all others: it dies."""
        now = time.monotonic_ns()
        for process in list(self._by_slot.values()):
            since = self._counters.row(process.slot).get("txn_since")
            # An odd value: it is inside. An even one waits for its turn, and is no one's fault.
            if since & 1 and now - since > TRANSACTION_LIMIT_NS:
                self.condemn(process.slot, process.generation, f"is inside a transaction since {(now - since) / 1e9:.1f} s")

    def signal(self, processes: list[Process], number: signal.Signals) -> None:
        """Send a signal to living children."""
        for process in processes:
            port.processes.kill(process.pid, number)


def reserve_bytes(config: Config) -> int:
    """What a worker has from its birth, and no one can take from it."""
    if config.pool_mode == "malloc":
        return 0
    plan = pool_plan(config)
    return plan_bytes(plan.static if config.pool_mode == "static" else plan.reserve)


def per_address(limit: int) -> int:
    """Connections from one address: enough for a busy terminal server, not enough to lock everyone else out."""
    return limit if limit <= 16 else limit * 3 // 4


def strangers(limit: int) -> int:
    """Connections from one address on which nobody has logged on: enough for many that start at once, few enough to wait for."""
    return max(STRANGERS, limit // 4)


def _of(process: Process) -> str:
    return f", client {process.host}" if process.host else ""
