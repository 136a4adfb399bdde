"""Orders of the ``millpond`` command: end a session, close an open.

Owns: the listening socket in the lock directory and the connections that have not said what they want. Invariant: a connection is one order
and one report; one that says nothing is closed after ``PATIENCE``, and at most ``MOST`` are kept, the oldest going first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from socket import socket
from typing import Protocol

from pools.layout import WireError
from pools.port import sockets
from smbd.control_messages import ORDER, REPORT, Order, Outcome, Verb
from smbd.sharing import OpenRow, SessionRecord

log = logging.getLogger("srvsvc")

PATIENCE = 5.0
"""Seconds that a connection may take for its order."""

MOST = 16


class Loop(Protocol):
    """What is needed of ``pools.queue.Service``."""

    def watch(self, fd: int, call: Callable[[], None]) -> None: ...

    def unwatch(self, fd: int) -> None: ...

    def after(self, seconds: float, call: Callable[[], None]) -> None: ...


class World(Protocol):
    """What is needed of the service's world."""

    def sessions(self) -> Sequence[SessionRecord]: ...

    def opens(self) -> Sequence[OpenRow]: ...

    def close_session(self, record: SessionRecord) -> bool: ...

    def close_open(self, row: OpenRow) -> bool: ...


class Control:
    """Listens until the process ends."""

    def __init__(self, loop: Loop, world: World, path: str) -> None:
        self._loop = loop
        self._world = world
        self._listener = sockets.listen_local(path)
        self._silent: dict[int, socket] = {}
        loop.watch(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return  # gone before it was taken
        client.setblocking(False)
        if len(self._silent) >= MOST:
            self._dismiss(next(iter(self._silent.values())))
        self._silent[client.fileno()] = client
        self._loop.watch(client.fileno(), lambda: self._hear(client))
        self._loop.after(PATIENCE, lambda: self._dismiss(client))

    def _dismiss(self, client: socket) -> None:
        if self._silent.get(client.fileno()) is client:
            del self._silent[client.fileno()]
            self._loop.unwatch(client.fileno())
            client.close()

    def _hear(self, client: socket) -> None:
        try:
            # A record this short comes whole, or it is not one of ours.
            data = client.recv(ORDER.size)
            if data:
                client.send(REPORT.pack(self.obey(ORDER.unpack(memoryview(data)))))
        except (OSError, WireError) as error:
            log.info("an order was not carried out: %s", error)
        finally:
            self._dismiss(client)

    def obey(self, order: Order) -> Outcome:
        """Carry out one order."""
        if order.verb == Verb.END_SESSION:
            session = next((one for one in self._world.sessions() if one.session_id == order.id), None)
            done = session is not None and self._world.close_session(session)
            found = session is not None
        elif order.verb == Verb.CLOSE_OPEN:
            row = next((one for one in self._world.opens() if one.file_id == order.id), None)
            done = row is not None and self._world.close_open(row)
            found = row is not None
        else:
            raise WireError(f"verb {order.verb} is not known")
        if done:
            log.info("%s %x by an administrator's order", Verb(order.verb).name.lower().replace("_", " "), order.id)
        return Outcome.DONE if done else Outcome.UNANSWERED if found else Outcome.UNKNOWN
