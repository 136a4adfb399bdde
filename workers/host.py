"""The host: one process whose threads are the workers (``server mode = threaded``), for devices with little memory.

Usage: ``main(child)`` in a fork of the master. The master stays what it is: it accepts, and instead of forking it sends what a fork would
inherit (HAND_OVER). Each worker has what one in a process of its own has: its loop, its pair with the master, its arena, its row and its
identity, which the kernel keeps by thread. What they have in common is the interpreter, the environment of the shared state and the fate of
the process: killed, it takes all connections with it, and the master starts another.

Owns: the threads, and the environment. Invariants: signals and the master's messages belong to the main thread, which stays root and serves
no client; no process is ever forked from here; an unexpected error ends the connection it came from, and no other; ENDED is sent when
a thread is gone, so that nothing of it can touch its slot's row any more.
"""

from __future__ import annotations

import gc
import logging
import os.path
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache, partial

import lmdb

from pools import port
from pools.arena import Arena
from pools.counters import TXN_SINCE, Row
from pools.queue import MASTER, RELOAD, Endpoint, Message, Service
from smbd.child import SHARING_DIRECTORY, Child, pool_ceiling
from smbd.config import Config
from smbd.config_messages import unpack_config
from smbd.host_messages import ENDED, ENDED_LAYOUT, HAND_OVER, HandOver, unpack_hand_over
from smbd.log import follow
from smbd.sharing import Environment, Sharing
from workers.loop import SWITCH_INTERVAL
from workers.room import Room, serve

log = logging.getLogger("millpond.worker")

TIDY_AFTER = 2.0
"""Seconds after a thread's end at which its garbage is collected, with that of others that ended meanwhile."""
FAREWELL = 5.0
"""Seconds that the threads may take to close what they have when the master is gone."""


def main(child: Child) -> None:
    """Serve every client that the master hands over, until it says STOP or is gone."""
    port.memory.share_one_heap()
    sys.setswitchinterval(SWITCH_INTERVAL)  # engines wait for each other here as they do for VFS threads
    row = child.counters.row(child.slot)
    host = Host(child)
    service = Service(Endpoint(child.hub), {HAND_OVER.number: host.take, RELOAD: host.reload}, row)
    host.serve(service)


class Host:
    """The threads, by slot."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._config = child.config
        self._environment: Environment | None = None
        self._threads: dict[int, Callable[[float], bool]] = {}  # waits so many seconds for its end
        self._ended: deque[tuple[Room, bool]] = deque()
        self._left: list[Arena] = []  # of ended threads, with views that only a collection of garbage finds
        self._bell, self._rope = port.sockets.stream_pair()
        self._service: Service
        self._tidying = False
        # A message to all workers is the same bytes for each: one configuration in memory, not one a thread.
        self._unpack = lru_cache(maxsize=1)(unpack_config)
        self._unpacking = threading.Lock()  # who comes second finds it done

    def serve(self, service: Service) -> None:
        """The main thread's life."""
        self._service = service
        for end in (self._bell, self._rope):
            end.setblocking(False)
        service.watch(self._bell.fileno(), self._collect)
        service.run()
        self._await_all()
        if self._environment is not None and not self._threads:
            self._environment.close()

    def reload(self, message: Message) -> None:
        """RELOAD: for clients that come from now on; those that are here hear of it themselves."""
        self._config = self._shared(message.payload)
        follow(self._config)

    def _shared(self, payload: bytes | memoryview) -> Config:
        with self._unpacking:
            return self._unpack(bytes(payload))

    # births

    def take(self, message: Message) -> None:
        """HAND_OVER: a client, and its worker's end of the pair with the master."""
        handed, address = unpack_hand_over(message.payload)
        if not message.descriptors:
            log.error("worker %d.%d of %s cannot be started: no descriptors are left", handed.slot, handed.generation, address)
            self._report(handed.slot, handed.generation, False)
            return
        client, hub = (port.sockets.adopt(fd) for fd in message.descriptors)
        arena: Arena | None = None
        try:
            if self._config.pool_mode != "malloc":
                arena = Arena.create(pool_ceiling(self._config))
            room = self._room(handed, address, client, hub, arena)
            name = f"worker {handed.slot}.{handed.generation}"
            self._threads[handed.slot] = port.processes.start_thread(name, partial(self._live, room))
        except (OSError, RuntimeError, lmdb.Error) as error:  # no memory, no more threads, no shared state: this client is not served
            log.error("worker %d.%d of %s cannot be started: %s", handed.slot, handed.generation, address, error)
            for end in (client, hub):
                end.close()
            if arena is not None:
                arena.close()
            self._report(handed.slot, handed.generation, False)

    def _room(self, handed: HandOver, address: str, client: socket.socket, hub: socket.socket, arena: Arena | None) -> Room:
        counters = self._child.counters
        if self._environment is None:
            # The broker has made it by now: there are no clients before.
            own = counters.row(self._child.slot).words[TXN_SINCE : TXN_SINCE + 1]
            self._environment = Environment(os.path.join(self._config.lock_directory, SHARING_DIRECTORY), own)
        row = self._own(counters.row(handed.slot), handed.generation)
        clock = row.words[TXN_SINCE : TXN_SINCE + 1]
        return Room(
            slot=handed.slot,
            generation=handed.generation,
            config=self._config,
            hub=hub,
            client=client,
            address=address,
            arena=arena,
            row=row,
            sharing=Sharing(self._environment, handed.slot, handed.generation, clock, counters.is_alive),
            title=port.processes.name_thread,
            unpack=self._shared,
            outlived=True,
        )

    @staticmethod
    def _own(row: Row, generation: int) -> Row:
        """A worker's row, as a fork would have begun it."""
        row.clear()
        row.set("generation", generation)
        row.set("started", time.time_ns())
        row.set("heartbeat", time.monotonic_ns())
        row.set("pid", port.processes.own_pid())
        return row

    # lives

    def _live(self, room: Room) -> None:
        """A thread's whole life. Nothing that happens in it reaches another."""
        clean = False
        try:
            room.row.set("thread", port.processes.own_thread())
            room.title(room.address)
            serve(room)
            clean = True
        except BaseException:
            # The outermost frame of a connection: what arrives here is a bug, and the traceback is all that is left of it.
            log.exception("worker %d.%d of %s: unexpected error, this connection ends", room.slot, room.generation, room.address)
        finally:
            for end in (room.client, room.hub):
                end.close()
            self._ended.append((room, clean))
            self._ring()

    def _ring(self) -> None:
        try:
            self._rope.send(b"\0")
        except BlockingIOError:
            return  # it is ringing already

    # deaths

    def _collect(self) -> None:
        """Threads have ended: the master may use their slots again."""
        self._bell.recv(4096)
        while self._ended:
            room, clean = self._ended.popleft()
            self._threads.pop(room.slot)(FAREWELL)  # its last instructions
            if room.arena is not None:
                self._left.append(room.arena)
            self._report(room.slot, room.generation, clean)
        self._unmap()
        if not self._tidying:
            self._tidying = True
            self._service.after(TIDY_AFTER, self._tidy)

    def _report(self, slot: int, generation: int, clean: bool) -> None:
        self._service.send(MASTER, ENDED.number, ENDED_LAYOUT.pack(slot, generation, int(clean)))

    def _tidy(self) -> None:
        """What a worker was is full of cycles; a client's share of memory goes back soon, not when enough garbage has come together."""
        self._tidying = False
        gc.collect()
        self._unmap()

    def _unmap(self) -> None:
        """Arenas that nobody looks into any more."""
        left, self._left = self._left, []
        for arena in left:
            try:
                arena.close()
            except BufferError:
                self._left.append(arena)

    def _await_all(self) -> None:
        deadline = time.monotonic() + FAREWELL
        for slot, over in list(self._threads.items()):
            if over(max(0.0, deadline - time.monotonic())):
                del self._threads[slot]
