"""The child's side of the message queue: everything it needs under one name, and the loop of a service.

Owns: ``Service``, the blocking loop of authd, srvsvc and broker. Invariants: a request gets one answer at most; what
no honest worker sends has the worker ended, and nothing else happens; the loop ends when the master does.

The words of the queue (kinds, messages, errors) are in ``pools.record``, the socket's end in ``pools.endpoint``; both
can be had from here.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pools import port
from pools.counters import HEARTBEAT, Row
from pools.endpoint import LOCAL_BACKLOG, Endpoint
from pools.layout import WireError
from pools.record import (
    ANSWER_BUSY,
    ANSWER_GONE,
    ANY_GENERATION,
    AUTHD,
    AUTHENTICATION,
    BROKER,
    DROP_PEER,
    EVERYONE,
    FIRST_WORKER,
    HOST,
    KINDS,
    LEASE_BREAK,
    MASTER,
    MAX_DESCRIPTORS,
    MAX_PAYLOAD,
    MAX_RECORD,
    MONITORING,
    PEER,
    PEER_DIED,
    PING,
    PONG,
    RECORD,
    RELOAD,
    RPC,
    SERVICES,
    SRVSVC,
    STOP,
    Ask,
    AskBusy,
    AskError,
    AskGone,
    AskTimeout,
    HubClosed,
    Kind,
    Message,
    Peer,
    Record,
    failure,
    pack,
    sender_class,
    table,
    unpack,
)

__all__ = [
    "ANSWER_BUSY",
    "ANSWER_GONE",
    "ANY_GENERATION",
    "AUTHD",
    "AUTHENTICATION",
    "BROKER",
    "DROP_PEER",
    "EVERYONE",
    "FIRST_WORKER",
    "HOST",
    "KINDS",
    "LEASE_BREAK",
    "MASTER",
    "MAX_DESCRIPTORS",
    "MAX_PAYLOAD",
    "MAX_RECORD",
    "MONITORING",
    "PEER",
    "PEER_DIED",
    "PING",
    "PONG",
    "RECORD",
    "RELOAD",
    "RPC",
    "SERVICES",
    "SRVSVC",
    "STOP",
    "Answer",
    "Ask",
    "AskBusy",
    "AskError",
    "AskGone",
    "AskTimeout",
    "Deferred",
    "Endpoint",
    "Handler",
    "HubClosed",
    "Kind",
    "Message",
    "Peer",
    "Record",
    "Service",
    "failure",
    "pack",
    "sender_class",
    "table",
    "unpack",
]

_HEARTBEAT_SECONDS: Final = 1.0
_log = logging.getLogger("millpond.queue")


class Answer(NamedTuple):
    """A handler's answer with descriptors; they are closed here once sent."""

    payload: bytes
    descriptors: tuple[int, ...] = ()


class Deferred:
    """Returned by a handler whose answer comes later: call ``answer`` once, before or after the handler returned."""

    __slots__ = ("_early", "_request", "_service")

    def __init__(self) -> None:
        self._service: Service | None = None
        self._request: Message | None = None
        self._early: Answer | None = None

    def answer(self, payload: bytes = b"", descriptors: tuple[int, ...] = ()) -> None:
        """Send the answer."""
        if self._service is None or self._request is None:
            self._early = Answer(payload, descriptors)
        else:
            self._service.answer(self._request, Answer(payload, descriptors))

    def bind(self, service: Service, request: Message) -> None:
        """For the service: now it is known what is answered."""
        self._service, self._request = service, request._replace(payload=b"", buffer=None, descriptors=())
        if self._early is not None:
            service.answer(self._request, self._early)


Handler = Callable[[Message], bytes | Answer | Deferred | None]


@dataclass(order=True, slots=True)
class _Timer:
    due: float
    order: int
    call: Callable[[], None] = field(compare=False)
    period: float = field(compare=False)


class Service:
    """The loop of a service: one thread, one handler per kind, timers and further descriptors.

    A handler returns the answer's payload, an ``Answer``, a ``Deferred``, or None for a notice. A WireError from it, or
    a kind without a handler, is what no honest worker sends: the master is asked to end that worker. STOP is handled
    like any other kind and then ends the loop; so does the master's end.
    """

    def __init__(self, endpoint: Endpoint, handlers: Mapping[int, Handler], row: Row | None = None) -> None:
        self._endpoint = endpoint
        self._handlers = dict(handlers)
        self._row = row
        self._poller = port.polling.poller()
        self._armed = port.READABLE
        self._poller.register(endpoint.fileno(), self._armed)
        self._watched: dict[int, Callable[[], None]] = {}
        self._timers: list[_Timer] = []
        self._kept: deque[Message] = deque()
        self._order = 0
        self._running = True
        if row is not None:
            self.every(_HEARTBEAT_SECONDS, self._beat)
            self._beat()

    def run(self) -> None:
        """Serve until STOP comes or the master goes."""
        try:
            while self._running:
                self._turn()
            self._drain()
        except HubClosed:
            _log.info("the master is gone")
        finally:
            self._poller.close()

    def stop(self) -> None:
        """End the loop after this turn."""
        self._running = False

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call once, so many seconds from now."""
        self._schedule(seconds, call, 0.0)

    def every(self, seconds: float, call: Callable[[], None]) -> None:
        """Call again and again, so many seconds apart."""
        self._schedule(seconds, call, seconds)

    def watch(self, fd: int, call: Callable[[], None]) -> None:
        """Call whenever ``fd`` is readable."""
        self._watched[fd] = call
        self._poller.register(fd, port.READABLE)

    def unwatch(self, fd: int) -> None:
        """No more; before ``fd`` is closed. After the loop's end there is nothing left to take it out of."""
        del self._watched[fd]
        if not self._poller.closed:
            self._poller.unregister(fd)

    def send(self, destination: int, kind: int, payload: bytes = b"", *, id: int = 0, generation: int = ANY_GENERATION) -> None:
        """A notice, or a request whose answer has a handler. Waits while the hub takes nothing."""
        self._patiently(lambda: self._endpoint.send(destination, kind, payload, id=id, generation=generation))

    def answer(self, request: Message, answer: Answer) -> None:
        """Send an answer and close its descriptors. Waits while the hub takes nothing."""
        try:
            self._patiently(lambda: self._endpoint.answer(request, answer.payload, answer.descriptors))
        finally:
            for fd in answer.descriptors:
                port.files.close(fd)

    def ask(self, destination: int, kind: int, payload: bytes = b"", timeout: float = 30.0) -> Message:
        """Ask another service and wait. AskTimeout, AskBusy or AskGone without an answer; HubClosed without a master.

        What arrives meanwhile is handled afterwards. Questions go one way only (srvsvc asks authd): two services that
        ask each other would both wait.
        """
        question = self._endpoint.next_id()
        self._patiently(lambda: self._endpoint.send(destination, kind, payload, id=question))
        deadline = time.monotonic() + timeout
        while True:
            message = self._endpoint.receive()
            if message is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AskTimeout(f"kind {kind:#06x}: no answer within {timeout} s")
                self._wait_for_hub(left)
            elif message.id == question and message.kind in (kind + 1, ANSWER_BUSY, ANSWER_GONE):
                error = failure(message)
                if error is not None:
                    raise error
                return message
            else:
                self._keep(message)

    def _keep(self, message: Message) -> None:
        if len(self._kept) < LOCAL_BACKLOG or message.kind % 2 or not message.id:
            self._kept.append(message)
            return
        message.close_descriptors()
        message.release()
        self._endpoint.send(message.sender, ANSWER_BUSY, id=message.id, generation=message.generation)

    def _turn(self) -> None:
        while self._running and self._kept:
            self._handle(self._kept.popleft())
        if self._hub_events() != self._armed:
            self._armed = self._hub_events()
            self._poller.modify(self._endpoint.fileno(), self._armed)
        for fd, events in self._poller.poll(self._until_next_timer()):
            if fd != self._endpoint.fileno():
                # An earlier call of this turn may have ended the watch.
                self._watched.get(fd, _nothing)()
                continue
            if events & port.WRITABLE:
                self._endpoint.flush()
            if events & (port.READABLE | port.HANGUP):
                self._receive()
        self._run_timers()

    def _receive(self) -> None:
        # A bounded batch, so that timers and descriptors get their turn under load.
        for _ in range(64):
            message = self._endpoint.receive()
            if message is None:
                return
            self._handle(message)
            if not self._running or self._kept:
                return

    def _handle(self, message: Message) -> None:
        if self._row is not None:
            self._row.add("messages_received")
        handler = self._handlers.get(message.kind, self._built_in(message.kind))
        if handler is None:
            message.close_descriptors()
            message.release()
            # An odd kind is the answer to a question that timed out.
            if message.kind % 2 == 0:
                self._drop(message, "no such kind")
            return
        try:
            result = handler(message)
        except WireError as error:
            self._drop(message, str(error))
            return
        finally:
            message.release()
        if isinstance(result, Deferred):
            result.bind(self, message)
        elif isinstance(result, Answer):
            self.answer(message, result)
        elif result is not None:
            self.answer(message, Answer(result))
        if message.kind == STOP:
            self._running = False

    def _built_in(self, kind: int) -> Handler | None:
        if kind == PING:
            return lambda message: bytes(message.payload)
        # Not every service cares for these.
        return _ignore if kind in (STOP, RELOAD, PEER_DIED) else None

    def _drop(self, message: Message, why: str) -> None:
        _log.warning("slot %d sent kind %#06x: %s", message.sender, message.kind, why)
        if message.sender >= FIRST_WORKER:
            self.send(MASTER, DROP_PEER, PEER.pack(message.sender, message.generation))

    def _patiently(self, send: Callable[[], None]) -> None:
        while True:
            try:
                return send()
            except AskBusy:
                self._wait_for_hub(None)

    def _wait_for_hub(self, timeout: float | None) -> None:
        """Until the hub sends, takes or is gone; what was kept is sent on."""
        waiting = port.polling.poller()
        try:
            waiting.register(self._endpoint.fileno(), port.WRITABLE if timeout is None else self._hub_events())
            waiting.poll(timeout)
        finally:
            waiting.close()
        self._endpoint.flush()

    def _drain(self) -> None:
        """Send what is kept before the end."""
        while self._endpoint.wants_write:
            self._wait_for_hub(None)

    def _hub_events(self) -> int:
        return port.READABLE | (port.WRITABLE if self._endpoint.wants_write else 0)

    def _schedule(self, seconds: float, call: Callable[[], None], period: float) -> None:
        self._order += 1
        heapq.heappush(self._timers, _Timer(time.monotonic() + seconds, self._order, call, period))

    def _until_next_timer(self) -> float | None:
        if not self._timers:
            return None
        return max(0.0, self._timers[0].due - time.monotonic())

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].due <= now:
            timer = heapq.heappop(self._timers)
            timer.call()
            if timer.period:
                self._schedule(timer.period, timer.call, timer.period)

    def _beat(self) -> None:
        if self._row is not None:
            self._row.words[HEARTBEAT] = time.monotonic_ns()


def _ignore(message: Message) -> None:
    message.close_descriptors()


def _nothing() -> None:
    return
