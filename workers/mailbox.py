"""The worker's end of the message queue, on its event loop.

Owns: the questions under way. Invariant: every ``ask`` ends, by its answer, by BUSY or GONE from the hub, or by its time-out;
an answer that comes too late is dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from pools.layout import WireError
from pools.queue import ANSWER_BUSY, ANSWER_GONE, AskBusy, AskGone, AskTimeout, Endpoint, HubClosed, Message
from workers.loop import Completion, Loop

Route = Callable[[Message], None]
log = logging.getLogger("millpond.worker")


class Mailbox:
    """Sends, asks, and hands what arrives unasked to the route of its kind."""

    def __init__(self, loop: Loop, endpoint: Endpoint, lost: Callable[[], None]) -> None:
        self._loop = loop
        self._endpoint = endpoint
        self._lost = lost
        self._asked: dict[int, Completion[Message]] = {}
        self._routes: dict[int, Route] = {}
        self._writing = False
        loop.watch(endpoint.fileno(), self._readable)

    def route(self, kind: int, call: Route) -> None:
        """``call(message)`` for every message of ``kind`` that answers nothing."""
        self._routes[kind] = call

    def send(
        self, destination: int, kind: int, payload: bytes = b"", *, id: int = 0, descriptors: Sequence[int] = (), generation: int = 0
    ) -> None:
        """Hand a message over; it leaves at once or as soon as the hub takes it. AskBusy when it takes nothing any more.

        Descriptors stay the caller's. ``generation``: the process that is to have it, and no other at ``destination``; 0 for any.
        """
        try:
            self._endpoint.send(destination, kind, payload, id=id, descriptors=descriptors, generation=generation)
        except HubClosed:
            self._lost()
        else:
            self._arm()

    def soon(self, call: Callable[[], None]) -> None:
        """``call()`` at the loop's next turn."""
        self._loop.soon(call)

    def answer(self, request: Message, payload: bytes = b"") -> None:
        """Answer what another process asked. Where the hub takes nothing any more, the asker's time-out is the answer."""
        try:
            self._endpoint.answer(request, payload)
        except HubClosed:
            self._lost()
        except AskBusy:
            log.warning("an answer to process %d is lost: the queue is full", request.sender)
        else:
            self._arm()

    async def ask(self, destination: int, kind: int, payload: bytes = b"", timeout: float = 30.0) -> Message:
        """The answer to a question. Raises ``AskTimeout``, ``AskBusy`` or ``AskGone``."""
        number = self._endpoint.next_id()
        completion: Completion[Message] = Completion()
        self._asked[number] = completion
        timer = self._loop.later(timeout, lambda: completion.fail(AskTimeout(f"no answer to kind {kind:#06x} in {timeout:g} s")))
        try:
            self.send(destination, kind, payload, id=number)
            return await completion
        finally:
            timer.cancel()
            self._asked.pop(number, None)

    def _readable(self) -> None:
        while True:
            try:
                message = self._endpoint.receive()
            except HubClosed:
                self._lost()
                return
            if message is None:
                return
            self._deliver(message)

    def _deliver(self, message: Message) -> None:
        asked = self._asked.get(message.id) if message.kind & 1 else None
        if asked is None:
            route = self._routes.get(message.kind)
            if route is None:
                message.close_descriptors()
                return
            try:
                route(message)
            except WireError as error:  # whoever sent it is out of order; that is no reason for this client to suffer
                log.warning("a message of kind %#06x from process %d makes no sense: %s", message.kind, message.sender, error)
        elif message.kind == ANSWER_BUSY:
            asked.fail(AskBusy("the destination has too much to do"))
        elif message.kind == ANSWER_GONE:
            asked.fail(AskGone("the destination does not exist"))
        else:
            asked.finish(message)

    def _arm(self) -> None:
        wants = self._endpoint.wants_write
        if wants != self._writing:
            self._writing = wants
            self._loop.watch(self._endpoint.fileno(), self._readable, self._writable if wants else None)

    def _writable(self) -> None:
        try:
            self._endpoint.flush()
        except HubClosed:
            self._lost()
        else:
            self._arm()
