"""The master's children: who lives at which slot, their births and what a death sets in motion.

Owns: slots, generations, the table of processes, each worker's arena. Invariants: a slot has at most one process, a (slot, generation)
names one process for ever; after a death its leases, its arena, its row and its place in the hub are given back before the slot is used
again.

With ``server mode = threaded`` a worker is a thread of one more child, the host. All the above holds for it as for a process; only its
birth is a message, and its death another one or the host's.
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
from smbd.child import FIRST_WORKER, HOST, MASTER, STARTING_ORDER, WORKER, Child, Program, pool_ceiling, pool_plan
from smbd.config import Config
from smbd.config.hosts import source
from smbd.host_messages import HAND_OVER, pack_hand_over, unpack_hand_over
from smbd.hub import Hub
from smbd.lessor import Lessor
from smbd.processes import Exit, Process, classify, fork

log = logging.getLogger("millpond.master")

STRANGERS = 16
TRANSACTION_LIMIT_NS = 2_000_000_000
NOTICE = 5.0
"""Seconds in which a condemned thread must have ended, else its whole process is killed."""


class Refused(Exception):
    """A connection is not taken; the text says why."""


class Visitor(NamedTuple):
    """An accepted connection, before its worker exists."""

    sock: socket.socket
    address: tuple[str, int]
    listen_address: tuple[str, int]


class Family:
    """All children of the master. ``threaded``: workers are threads of the host."""

    def __init__(
        self, programs: Mapping[str, Program], counters: CounterSegment, hub: Hub, lessor: Lessor, *, threaded: bool = False
    ) -> None:
        self._programs = programs
        self._counters = counters
        self._hub = hub
        self._lessor = lessor
        self._threaded = threaded
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

    @property
    def homeless(self) -> bool:
        """Whether workers can be started by nobody just now."""
        return self._threaded and HOST not in self._by_slot

    def __len__(self) -> int:
        """Processes, whatever they are."""
        return len(self._by_pid)

    # --- births ----------------------------------------------------------------------------------------------------

    def start_service(self, role: str, config: Config, now: float) -> Process:
        """Fork a service at its slot. OSError when the machine has no room for a process."""
        return self._start(STARTING_ORDER[role], config, now, None, None)

    def start_worker(self, visitor: Visitor, config: Config, now: float) -> Process:
        """A worker for a connection, whose socket the master has no more. ``Refused`` when it may not be or cannot be."""
        limit = min(config.max_smbd_processes or self._counters.rows, self._counters.rows - FIRST_WORKER)
        self._check_room(source(visitor.address[0]), limit)
        slot = self._free[0]
        if not self._lessor.admit(slot, reserve_bytes(config)):
            raise Refused("`pool budget` has no room for another connection's reserve")
        try:
            process = self._seat(slot, now, visitor) if self._threaded else self._start_with_arena(slot, config, now, visitor)
        except (Refused, OSError):
            self._lessor.dismiss(slot)
            raise
        heapq.heappop(self._free)
        self._sources[source(visitor.address[0])] += 1
        visitor.sock.close()
        return process

    def _start_with_arena(self, slot: int, config: Config, now: float, visitor: Visitor) -> Process:
        try:
            arena = Arena.create(pool_ceiling(config)) if config.pool_mode != "malloc" else None
        except OSError as error:
            raise Refused(f"no memory for its buffers: {error.strerror}") from error
        try:
            process = self._start(slot, config, now, visitor, arena)
        except OSError as error:
            if arena is not None:
                arena.close()
            raise Refused(f"cannot fork: {error.strerror}") from error
        if arena is not None:
            self._arenas[slot] = arena
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
        if slot == HOST:
            for worker in self.workers():
                worker.pid = pid
        self._hub.attach(slot, generation, ours)
        return process

    def _seat(self, slot: int, now: float, visitor: Visitor) -> Process:
        """The birth of a thread: what a fork would inherit goes to the host, which makes the arena."""
        host = self._by_slot.get(HOST)
        if host is None:
            raise Refused("the process that serves all connections is being started again")
        generation = self._generations[slot] + 1
        ours, theirs = port.sockets.record_pair()
        self._generations[slot] = generation
        process = Process(WORKER, slot, generation, host.pid, now, visitor.address[0], thread=True)
        self._by_slot[slot] = process
        self._hub.attach(slot, generation, ours)
        payload = pack_hand_over(slot, generation, visitor.address[0])
        self._hub.send(HOST, HAND_OVER.number, payload, descriptors=(visitor.sock.detach(), theirs.detach()))
        return process

    # --- deaths ----------------------------------------------------------------------------------------------------

    def bury(self, pid: int, status: int) -> tuple[Process, Exit] | None:
        """A child ended: settle everything it had, and its threads with it. None for a pid that is no child of ours."""
        process = self._by_pid.pop(pid, None)
        if process is None:
            return None
        self._settle(process)  # its last messages say which of its threads had ended before
        if process.slot == HOST:
            self._lose_threads()
        return process, classify(status)

    def _lose_threads(self) -> None:
        """The host is dead. Connections that it was not sent yet are the next one's."""
        waiting = {unpack_hand_over(payload)[0].slot for payload in self._hub.unsent(HOST, HAND_OVER.number)}
        for worker in self.workers():
            if worker.slot in waiting:
                worker.pid = 0
            else:
                self._settle(worker)

    def give_up_waiting(self) -> None:
        """There will be no host again: who waits for one is let go."""
        for worker in self.workers():
            if not worker.pid:
                self._settle(worker)

    def dismiss(self, slot: int, generation: int) -> Process | None:
        """A thread of the host has ended: likewise. None when it is settled already."""
        process = self._by_slot.get(slot)
        if process is None or process.generation != generation or not process.thread:
            return None
        self._settle(process)
        return process

    def _settle(self, process: Process) -> None:
        slot = process.slot
        del self._by_slot[slot]
        self._hub.detach(slot)
        self._lessor.dismiss(slot)
        arena = self._arenas.pop(slot, None)
        if arena is not None:
            arena.close()
        self._counters.row(MASTER).inherit(self._counters.row(slot), worker=process.role == WORKER)
        self._hub.broadcast(PEER_DIED, PEER.pack(slot, process.generation), workers=False, services=True)
        if process.role == WORKER:
            heapq.heappush(self._free, slot)
            origin = source(process.host)
            self._sources[origin] -= 1
            if not self._sources[origin]:
                del self._sources[origin]

    def condemn(self, slot: int, generation: int, reason: str) -> None:
        """End one that broke a rule; the log says which. A process is killed; a thread is told, and killed with its process if it stays."""
        process = self._by_slot.get(slot)
        if process is None or process.generation != generation or process.condemned:
            return
        process.condemned = reason
        how = "told to end" if process.thread else "killed"
        log.error("%s %d.%d (process %d%s) %s; %s", process.role, slot, generation, process.pid, _of(process), reason, how)
        if process.thread:
            process.doomed = time.monotonic() + NOTICE
            self._hub.end_stream(slot)
        else:
            port.processes.kill(process.pid, signal.SIGKILL)  # not reaped yet, so that the number still names it

    def check_transactions(self) -> None:
        """One that stopped inside a transaction on the shared state holds up all others: it dies."""
        now = time.monotonic_ns()
        for process in list(self._by_slot.values()):
            since = self._counters.row(process.slot).get("txn_since")
            # An odd value: it is inside. An even one waits for its turn, and is no one's fault. A time to come is no time at all.
            if since & 1 and abs(now - since) > TRANSACTION_LIMIT_NS:
                reason = f"is inside a transaction since {(now - since) / 1e9:.1f} s"
                if process.thread:  # what it does not come out of, it will not hear in either
                    self._condemn_host(process, reason)
                else:
                    self.condemn(process.slot, process.generation, reason)

    def check_notices(self) -> None:
        """A condemned thread that has not ended in time takes its process with it."""
        now = time.monotonic()
        for process in self.workers():
            if process.doomed and now > process.doomed:
                self._condemn_host(process, f"was told to end {NOTICE:.0f} s ago")

    def _condemn_host(self, thread: Process, reason: str) -> None:
        host = self._by_slot.get(HOST)
        if host is not None:
            client = f"worker {thread.slot}.{thread.generation}{_of(thread)}"
            self.condemn(HOST, host.generation, f"has a thread, {client}, that {reason}: {len(self.workers())} connections end with it")

    def signal(self, processes: list[Process], number: signal.Signals) -> None:
        """Send a signal to living children."""
        for pid in {process.pid for process in processes if process.pid}:
            port.processes.kill(pid, number)


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
