"""The master: listens, accepts, forks, reaps, restarts, reloads, stops.

Usage: ``Master(config, programs, kinds, ...).run() -> exit status``. It runs in the foreground and logs to the log it finds set up.

Signals: SIGTERM and SIGINT stop in order (a second one hurries), SIGHUP reads the configuration again, SIGCHLD is a death. Handlers do
nothing: the interpreter writes the number to a socket that the loop reads.

Owns: the listening sockets, the services' throttles, the phases of the stop. Children belong to ``family``, messages to ``hub``, leases
to ``lessor``.
Invariants: it never blocks on anything a client or a child can hold; it reads no byte that a client sent; it opens neither the shared
state nor a pool.
"""

from __future__ import annotations

import errno
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from enum import Enum, auto
from functools import partial
from pathlib import Path

from pools import port, queue
from pools.counters import CounterSegment
from pools.pool import CLASSES, MODES
from smbd.child import (
    BROKER,
    COUNTERS_FILE,
    FIRST_WORKER,
    HOST,
    MASTER,
    READY,
    SHARING_DIRECTORY,
    STARTING_ORDER,
    WORKER,
    Program,
    pool_ceiling,
    pool_plan,
)
from smbd.config import Config, ConfigError
from smbd.config.hosts import admitted
from smbd.config_messages import pack_config
from smbd.control_messages import CONTROL_SOCKET
from smbd.family import Family, Refused, Visitor
from smbd.host_messages import ENDED, ENDED_LAYOUT
from smbd.hub import Delivery, Hub
from smbd.instance import Instance, StartError, make_directory
from smbd.lease_messages import LEASE, LEASE_ANSWER, LEASE_ASK, LEASE_RECALL, LEASE_RETURN
from smbd.lessor import Lessor
from smbd.listeners import addresses, listen, shown
from smbd.reactor import Reactor
from smbd.throttle import Throttle

log = logging.getLogger("millpond.master")

STATE_NAMES = (COUNTERS_FILE, SHARING_DIRECTORY, CONTROL_SOCKET)
"""Below the lock directory: what belongs to a running server only."""

WORKER_SLOTS = 1000
"""Connections at once when ``max smbd processes`` is 0: each slot costs a page of counters, committed at the start."""
ACCEPTS_PER_TURN = 16
REST = 1.0  # seconds without accepting when there is nothing to accept with
TICK = 1.0
FIRST_READY = 10.0
"""Seconds that the broker may take before connections are accepted without it."""
STEP = 2.0
"""Seconds between SIGTERM and SIGKILL, and for services to end."""
HOUSEKEEPING = 3600.0
_TAKEN_AT_START = ("server_mode", "port", "lock_directory", "pid_directory", "state_directory", "merge_memory")
"""Of the configuration: a reload leaves these as they were, and says so."""


class Phase(Enum):
    """The life of the server. Each stopping phase has a deadline, after which the next one begins."""

    STARTING = auto()
    RUNNING = auto()
    FINISHING = auto()  # workers were told to stop
    TERMINATING = auto()  # workers got SIGTERM
    KILLING = auto()  # workers got SIGKILL
    SERVICES_STOPPING = auto()
    SERVICES_TERMINATING = auto()
    SERVICES_KILLING = auto()


# What follows when a phase is over, and the signal sent then.
_NEXT = {
    Phase.FINISHING: (Phase.TERMINATING, signal.SIGTERM),
    Phase.TERMINATING: (Phase.KILLING, signal.SIGKILL),
    Phase.SERVICES_STOPPING: (Phase.SERVICES_TERMINATING, signal.SIGTERM),
    Phase.SERVICES_TERMINATING: (Phase.SERVICES_KILLING, signal.SIGKILL),
}
_SERVICE_PHASES = (Phase.SERVICES_STOPPING, Phase.SERVICES_TERMINATING, Phase.SERVICES_KILLING)


class Master:
    """One server. ``reread`` gives the configuration anew on SIGHUP, ``reloaded`` is told of it when it counts; ``prepare`` and ``ready``
    are called once each (see ``run``).
    """

    def __init__(
        self,
        config: Config,
        programs: Mapping[str, Program],
        kinds: Iterable[queue.Kind],
        *,
        reread: Callable[[], Config],
        prepare: Callable[[], None] = lambda: None,
        ready: Callable[[], None] = lambda: None,
        reloaded: Callable[[Config], None] = lambda _config: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._programs = programs
        self._reread = reread
        self._prepare = prepare
        self._told_ready = ready
        self._reloaded = reloaded
        self._clock = clock
        self._instance = Instance(Path(config.lock_directory), Path(config.pid_directory))
        self._reactor = Reactor()
        self._hub = Hub(queue.table(kinds), self._reactor, clock, self._condemn)
        self._lessor = Lessor(config.pool_budget, [row.slab_bytes for row in CLASSES], self._answer_lease, self._recall, turn_bytes(config))
        self._hub.handlers = {
            LEASE_ASK.number: self._lease_asked,
            LEASE_RETURN.number: self._lease_returned,
            READY.number: self._service_ready,
            ENDED.number: self._thread_ended,
            queue.DROP_PEER: self._drop_peer,
        }
        self._started_with = config
        self._threaded = config.server_mode == "threaded"
        wanted = {role: Throttle() for role, slot in STARTING_ORDER.items() if role in programs and (self._threaded or slot != HOST)}
        self._throttles = wanted
        self._listeners: dict[tuple[str, int], socket.socket] = {}
        self._phase = Phase.STARTING
        self._deadline = 0.0
        self._next_tick = 0.0
        self._next_housekeeping = clock() + HOUSEKEEPING
        self._family: Family
        self._counters: CounterSegment
        self._last_refusal = float("-inf")
        self._resting: list[tuple[float, socket.socket]] = []

    # --- life ------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until told to stop. ``StartError`` or ``OSError`` when it cannot start.

        ``prepare`` is called when the lock is held and before the first fork; ``ready`` when connections are accepted.
        """
        self._instance.acquire()
        try:
            make_directory(Path(self._config.state_directory), 0o700)
            with _Signals(self._reactor, self._signalled):  # before anybody can connect, and see it end otherwise than in order
                self._open_listeners(self._config)
                self._prepare()
                self._instance.wipe(*STATE_NAMES)
                self._counters = CounterSegment.create(str(self._instance.directory / COUNTERS_FILE), FIRST_WORKER + slots(self._config))
                self._family = Family(self._programs, self._counters, self._hub, self._lessor, threaded=self._threaded)
                port.processes.raise_descriptor_limit()  # two descriptors for each worker, and a few
                self._own_row()
                self._instance.write_pid()
                self._serve()
        finally:
            self._close_listeners()
            self._instance.release()
        log.info("stopped")
        return 0

    def _serve(self) -> None:
        gc.collect()
        # Cycles are collected at long intervals only: a collection would touch every page that children share with the master.
        gc.disable()
        for role in self._throttles:
            self._hub.expect(STARTING_ORDER[role], role)
        self._deadline = self._clock() + FIRST_READY
        try:
            if BROKER not in {STARTING_ORDER[role] for role in self._throttles}:
                self._accept_connections()
            while not (self._phase in _SERVICE_PHASES and not len(self._family)):
                self._turn()
        finally:
            gc.enable()
            self._family.signal(self._family.workers() + self._family.services(), signal.SIGKILL)

    def _turn(self) -> None:
        now = self._clock()
        if self._phase not in _SERVICE_PHASES:
            self._start_due_services(now)
        if now >= self._next_tick:
            self._next_tick = now + TICK
            self._tick(now)
        due = [throttle.due for throttle in self._throttles.values() if throttle.due is not None and self._phase not in _SERVICE_PHASES]
        wake = min([self._next_tick, *due] + ([self._deadline] if self._phase is not Phase.RUNNING else []))
        self._reactor.turn(wake - self._clock())
        self._advance(self._clock())
        self._wake_listeners(self._clock())

    def _tick(self, now: float) -> None:
        self._hub.tick(now)
        self._lessor.tick(now)
        self._family.check_transactions()
        self._family.check_notices()
        self._own_row()
        if now >= self._next_housekeeping:
            self._next_housekeeping = now + HOUSEKEEPING
            gc.unfreeze()
            gc.collect()

    def _own_row(self) -> None:
        """Post the master's figures. The row is looked up each time: a child could not narrow its mapping while views of it live."""
        row = self._counters.row(MASTER)
        row.set("pid", port.processes.own_pid())
        row.set("generation", 1)
        row.set("heartbeat", time.monotonic_ns())
        if not row.get("started"):
            row.set("started", time.time_ns())
        row.set("connections", len(self._family.workers()))
        row.set("messages_received", self._hub.traffic.routed)
        row.set("messages_busy", self._hub.traffic.busy)
        figures = self._lessor.figures
        row.set("budget", figures.budget)
        row.set("reserved", figures.reserved)
        row.set("leased_bytes", figures.leased)
        row.set("lease_waits", figures.waits)
        row.set("lease_refusals", figures.refused)
        config = self._config
        row.set("pool_mode", MODES.index(config.pool_mode))
        row.set("pool_classes", sum(1 << number for number in pool_plan(config).classes))
        row.set("pool_ceiling", pool_ceiling(config))
        row.set("pool_turn", self._lessor.turn)
        row.set("pool_decay", round(config.pool_decay * 1000))

    # --- services --------------------------------------------------------------------------------------------------

    def _start_due_services(self, now: float) -> None:
        for role, throttle in self._throttles.items():
            if throttle.due is None or throttle.due > now:
                continue
            try:
                process = self._family.start_service(role, self._config, now)
            except OSError as error:
                throttle.start(now)
                log.error("%s cannot be started (%s); next try in %.2f s", role, error.strerror, throttle.died(now))
                continue
            throttle.start(now)
            log.info("%s started as process %d", role, process.pid)
            if process.slot == HOST and self._phase is Phase.RUNNING:
                self._watch_listeners(self._listeners.values())

    def _service_ready(self, delivery: Delivery) -> None:
        if delivery.sender == BROKER and self._phase is Phase.STARTING:
            self._accept_connections()

    def _condemn(self, slot: int, generation: int, reason: str) -> None:
        self._family.condemn(slot, generation, reason)

    def _drop_peer(self, delivery: Delivery) -> None:
        peer = queue.PEER.unpack(delivery.payload)
        if peer.slot >= FIRST_WORKER:
            self._family.condemn(peer.slot, peer.generation, f"was reported by {queue.sender_class(delivery.sender)} for what it sent")

    # --- leases ----------------------------------------------------------------------------------------------------

    def _lease_asked(self, delivery: Delivery) -> None:
        lease = LEASE.unpack(delivery.payload)
        self._lessor.ask(delivery.sender, delivery.id, lease.class_index, lease.slabs, self._clock())

    def _lease_returned(self, delivery: Delivery) -> None:
        lease = LEASE.unpack(delivery.payload)
        self._lessor.returned(delivery.sender, lease.class_index, lease.slabs)

    def _answer_lease(self, slot: int, ask_id: int, class_index: int, slabs: int, turn: bool) -> None:
        self._hub.send(slot, LEASE_ANSWER.number, LEASE.pack(class_index, slabs, int(turn)), id=ask_id)

    def _recall(self, slot: int) -> None:
        self._hub.send(slot, LEASE_RECALL.number)

    # --- connections -----------------------------------------------------------------------------------------------

    def _open_listeners(self, config: Config) -> None:
        """Open what is not open yet and close what is not wanted any more; ``StartError`` changes nothing."""
        wanted = {(host, number) for host in addresses(config.interfaces, config.bind_interfaces_only) for number in config.smb_ports}
        fresh: dict[tuple[str, int], socket.socket] = {}
        try:
            for host, number in sorted(wanted - set(self._listeners)):
                one = listen(host, number, optional=_other_family(wanted, host))
                if one is not None:
                    fresh[host, number] = one
        except StartError:
            for one in fresh.values():
                one.close()
            raise
        for place in set(self._listeners) - wanted:
            self._close_listener(place)
        self._listeners |= fresh
        if self._phase is Phase.RUNNING:
            self._watch_listeners(fresh.values())

    def _accept_connections(self) -> None:
        self._phase = Phase.RUNNING
        self._watch_listeners(self._listeners.values())
        log.info("listening on %s", ", ".join(shown(*place) for place in sorted(self._listeners)))
        self._told_ready()

    def _watch_listeners(self, listeners: Iterable[socket.socket]) -> None:
        if self._family.homeless:
            return  # whoever connects meanwhile waits in the listener's queue
        resting = [listener for _, listener in self._resting]  # woken in their time
        for one in listeners:
            if one not in resting:
                self._reactor.add(one.fileno(), partial(self._accept, one))

    def _close_listener(self, place: tuple[str, int]) -> None:
        one = self._listeners.pop(place)
        self._reactor.remove(one.fileno())
        one.close()

    def _close_listeners(self) -> None:
        for place in list(self._listeners):
            self._close_listener(place)

    def _accept(self, listener: socket.socket, _events: int) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # accept(2): errors of the new connection's network arrive here as well; the next one may be fine.
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._log_refusal("a connection", f"cannot accept: {error.strerror}")
                    self._rest(listener)
                return
            self._welcome(sock, (address[0], address[1]))

    def _rest(self, listener: socket.socket) -> None:
        """Out of descriptors or memory: the connection stays queued; asking for it again at once would only burn the processor."""
        self._reactor.remove(listener.fileno())
        self._resting.append((self._clock() + REST, listener))

    def _wake_listeners(self, now: float) -> None:
        while self._resting and self._resting[0][0] <= now:
            _, listener = self._resting.pop(0)
            if listener.fileno() >= 0 and not self._family.homeless:
                self._reactor.add(listener.fileno(), partial(self._accept, listener))

    def _welcome(self, sock: socket.socket, address: tuple[str, int]) -> None:
        """A worker for this connection, or a closed door: for who may not connect at all, before a byte is read."""
        if not admitted(self._config.hosts_allow, self._config.hosts_deny, address[0]):
            self._log_refusal(shown(*address), "`hosts allow` and `hosts deny` of [global] do not let it in")
            sock.close()
            return
        try:
            local = sock.getsockname()
            process = self._family.start_worker(Visitor(sock, address, (local[0], local[1])), self._config, self._clock())
        except (Refused, OSError) as reason:
            self._log_refusal(shown(*address), str(reason))
            sock.close()
            return
        log.debug("%s is served by process %d, slot %d", shown(*address), process.pid, process.slot)

    def _log_refusal(self, who: str, reason: str) -> None:
        """One line a second at most: a flood of connections must not become a flood of lines."""
        now = self._clock()
        if now - self._last_refusal >= 1.0:
            self._last_refusal = now
            log.warning("%s refused: %s", who, reason)

    # --- signals ---------------------------------------------------------------------------------------------------

    def _signalled(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGHUP:
            self._reload()
        elif number in (signal.SIGTERM, signal.SIGINT):
            self._stop(number)

    def _reap(self) -> None:
        for pid, status in port.processes.reap():
            connections = len(self._family.workers())
            buried = self._family.bury(pid, status)
            if buried is None:
                continue
            process, ending = buried
            stopping = self._phase not in (Phase.STARTING, Phase.RUNNING)
            if process.slot == HOST:
                self._lost_host(connections - len(self._family.workers()))
            if process.role == WORKER:
                text = f"worker {process.slot}.{process.generation} (process {pid}, client {process.host}) ended: {ending.text}"
                log.log(logging.DEBUG if ending.clean else logging.WARNING, text)
            elif self._phase in _SERVICE_PHASES:
                self._hub.forsake(process.slot)
            else:
                delay = self._throttles[process.role].died(self._clock())
                level = logging.INFO if stopping else logging.ERROR
                log.log(level, "%s (process %d) ended: %s; starting it again in %.2f s", process.role, pid, ending.text, delay)

    def _lost_host(self, connections: int) -> None:
        """Its threads ended with it; nobody is let in before there is another, and whoever was, waits for that."""
        if connections:
            log.error("%d connection%s ended with the process that served them", connections, " has" if connections == 1 else "s have")
        if self._phase not in (Phase.STARTING, Phase.RUNNING):
            self._family.give_up_waiting()
        for listener in self._listeners.values():
            self._reactor.remove(listener.fileno())

    def _thread_ended(self, delivery: Delivery) -> None:
        ended = ENDED_LAYOUT.unpack(delivery.payload)
        process = self._family.dismiss(ended.slot, ended.generation)
        if process is not None:
            text = f"worker {ended.slot}.{ended.generation} (a thread of process {process.pid}, client {process.host}) ended"
            log.log(logging.DEBUG if ended.clean else logging.WARNING, "%s: %s", text, "by itself" if ended.clean else "unexpected error")

    def _reload(self) -> None:
        if self._phase not in (Phase.STARTING, Phase.RUNNING):
            return
        try:
            wanted = self._reread()
            config = replace(wanted, **{name: getattr(self._started_with, name) for name in _TAKEN_AT_START})
            payload = pack_config(config)
            self._open_listeners(config)
        except (ConfigError, StartError, OSError, ValueError) as error:
            log.error("the configuration stays as it is: %s", error)
            return
        self._config = config
        self._reloaded(config)
        self._warn_of_start(wanted)
        self._lessor.resize(config.pool_budget, turn_bytes(config))
        self._hub.broadcast(queue.RELOAD, payload, workers=True, services=True)
        log.info("configuration read again")

    def _warn_of_start(self, wanted: Config) -> None:
        """What of a configuration that was read again waits for the next start."""
        for name in _TAKEN_AT_START:
            if getattr(wanted, name) != getattr(self._started_with, name):
                log.warning("`%s` changes when the server is started again", name.replace("_", " "))
        room = self._counters.rows - FIRST_WORKER
        if slots(wanted) > room:
            log.warning("`max smbd processes`: there is room for %d until the server is started again", room)

    # --- the stop --------------------------------------------------------------------------------------------------

    def _stop(self, number: int) -> None:
        now = self._clock()
        if self._phase not in (Phase.STARTING, Phase.RUNNING):
            self._deadline = now
            return
        count, seconds = len(self._family.workers()), self._config.stop_timeout
        log.info("stopping on %s: %d connections get %.0f s to finish", signal.Signals(number).name, count, seconds)
        self._close_listeners()
        self._phase = Phase.FINISHING
        self._deadline = now + self._config.stop_timeout
        self._hub.broadcast(queue.STOP, workers=True, services=False)

    def _advance(self, now: float) -> None:
        """Move on when a phase is over: nobody is left, or its time is up."""
        if self._phase is Phase.RUNNING:
            return
        if self._phase is Phase.STARTING:
            if now >= self._deadline:
                log.warning("the broker is not ready after %.0f s; accepting connections without it", FIRST_READY)
                self._accept_connections()
            return
        if self._phase not in _SERVICE_PHASES and not self._family.workers():
            self._phase, self._deadline = Phase.SERVICES_STOPPING, now + STEP
            self._hub.broadcast(queue.STOP, workers=False, services=True)
        elif now >= self._deadline:
            self._deadline = now + STEP
            left = self._family.services() if self._phase in _SERVICE_PHASES else self._family.workers()
            following = _NEXT.get(self._phase)
            if following is not None:
                self._phase, number = following
                log.warning("%d processes have not ended; sending %s", len(left), number.name)
                self._family.signal(left, number)


class _Signals:
    """Signals as events of the loop, for as long as the context lasts. The handlers do nothing: the interpreter writes the numbers."""

    HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

    def __init__(self, reactor: Reactor, act: Callable[[int], None]) -> None:
        self._reactor = reactor
        self._act = act

    def __enter__(self) -> None:
        self._ours, self._theirs = port.sockets.stream_pair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self._before = port.processes.on_signals(dict.fromkeys(self.HANDLED, lambda _number, _frame: None))
        self._wakeup = port.processes.wake_by_signals(self._theirs.fileno())
        self._reactor.add(self._ours.fileno(), self._ready)

    def __exit__(self, *_exception: object) -> None:
        port.processes.wake_by_signals(self._wakeup)
        port.processes.on_signals(self._before)
        self._reactor.remove(self._ours.fileno())
        self._ours.close()
        self._theirs.close()

    def _ready(self, _events: int) -> None:
        # Each number once: ten deaths are one visit to the reaper.
        for number in sorted(set(self._ours.recv(4096))):
            self._act(number)


def turn_bytes(config: Config) -> int:
    """What is set aside for the turn: a buffer of the largest size for the PDU and one for its reply, unless configured."""
    return config.pool_reserve or 2 * CLASSES[-1].slab_bytes


def slots(config: Config) -> int:
    """How many workers there is room for. Fixed when the server starts; a reload can only lower the limit below it."""
    return config.max_smbd_processes or WORKER_SLOTS


def _other_family(wanted: Iterable[tuple[str, int]], host: str) -> bool:
    """Everywhere means both families: a machine without IPv6 is served over IPv4 alone."""
    return host == "::" and any(other == "0.0.0.0" for other, _ in wanted)
