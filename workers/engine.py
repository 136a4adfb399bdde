"""The protocol engine: frames from the transport in, replies to the transport out.

Owns: the order of things. READ, WRITE and ECHO run to their end on the spot, the usual ones by a short way (``express``, ``glance``); a
handler that waits is a task, which has taken what it needs out of its PDU before its first wait: the receive buffer moves on. Elements of a
compound run in order, each when the one before has ended. Invariant: every element received is answered exactly once, except CANCEL, which
never is; on a line that has ended, its answer is given back unsent.
"""

from __future__ import annotations

import itertools
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from pools.pool import HEADROOM, PoolExhausted
from smbd.smb2 import status
from smbd.smb2.connection import Disconnect, Element
from smbd.smb2.constants import FLAGS_RELATED_OPERATIONS, Command
from smbd.smb2.header import ERROR_BODY, HEADER_SIZE, TRANSFORM_PROTOCOL_ID, TRANSFORM_SIZE, TRANSPORT_SIZE
from smbd.smb2.header import async_id as async_id_of
from smbd.smb2.reply import Reply, pack_ahead, pack_in_place, pack_replies, pack_success, pack_success_in_place, reply_size
from smbd.smb2.status import SmbError
from workers import replay
from workers.binding import stray_signer
from workers.dispatch import ERRORS, answer_of, execute
from workers.glance import Glances
from workers.loop import Task
from workers.opening import enter
from workers.request import Answer, Chain, Request
from workers.rows import ROWS
from workers.transport.incoming import Incoming
from workers.transport.judge import judge

if TYPE_CHECKING:
    from pools.iovec import FileEntry
    from pools.pool import Buffer
    from smbd.smb2.crypto import Channel
    from workers.line import Line
    from workers.open import Open
    from workers.tree import TreeConnect

FRONT = TRANSPORT_SIZE + TRANSFORM_SIZE
BEHIND = 16  # the authentication tag of a sealed reply
CANCEL = int(Command.CANCEL)
CLOSE = int(Command.CLOSE)
QUERY_INFO = int(Command.QUERY_INFO)
NEGOTIATE = int(Command.NEGOTIATE)
IN_PROGRESS_LIMIT = 4096  # requests that may wait at once: far more than honest clients have credits for in waits
ASYNC_LIMIT = 511  # of these, for something that may never come: what Windows allows
COPIED = 1 << 16  # bytes of payload that are copied next to their neighbours' replies in a compound; more leaves where it lies
GATHERED = 1 << 18  # bytes of a compound's replies that are kept together (3.3.4.1.3 leaves that to the server)


class Engine:
    """Runs the requests of one line. ``waiting`` holds those whose handler has not ended, by MessageId."""

    __slots__ = ("_async_ids", "_by_async_id", "express", "line", "waiting", "worker")

    def __init__(self, line: Line) -> None:
        self.line = line
        self.worker = line.worker
        self.express = Glances(line)
        self.waiting: dict[int, Request] = {}
        self._by_async_id: dict[int, Request] = {}
        self._async_ids = itertools.count(1)

    def frame(self, view: memoryview, start: int, end: int) -> None:
        """Execute what the frame ``view[start:end]`` holds. ``Disconnect`` and ``WireError`` end the connection."""
        connection = self.line.connection
        if view[start] == TRANSFORM_PROTOCOL_ID[0] and end - start >= HEADER_SIZE and view[start : start + 4] == TRANSFORM_PROTOCOL_ID:
            plain, channel = connection.unseal(view, start, end)
            if self.express.take(plain, 0, len(plain), channel):
                return
            elements = connection.receive_plain(plain, channel)
        elif self.express.take(view, start, end, None):
            return
        else:
            elements = connection.receive(view, start, end)
        if len(elements) > 1:
            self._compound(elements)
        elif elements[0].header.command == NEGOTIATE and not elements[0].error:
            self._negotiate(elements[0])
        else:
            self._single(elements[0])

    def turn_over(self, begun: float) -> None:
        """Everything that came with one reading, ``begun`` at that time, was executed."""
        self.express.settle(begun)

    def announced(self, buffer: Buffer, start: int, end: int, size: int) -> Incoming | None:
        """Whether the payload of a frame, of which ``buffer.view[start:end]`` has come, may go from the socket to its file."""
        return judge(self.line, buffer, start, end, size)

    def arriving(self, view: memoryview, incoming: Incoming) -> None:
        """Execute a WRITE of which all but the payload is here. When it is refused, the payload is thrown away as it comes."""
        self._single(self.line.connection.receive(view)[0], incoming)
        if incoming.done is None:
            incoming.discard()

    def _negotiate(self, element: Element) -> None:
        """NEGOTIATE is the core's own business ([MS-SMB2] 3.3.5.3, 3.3.5.4)."""
        self._queue([self.line.connection.negotiate(element, self.worker.now())], None)

    # one element

    def _single(self, element: Element, incoming: Incoming | None = None) -> None:
        request = Request(self.line, element, None)
        request.incoming = incoming
        if request.header.command == CANCEL:
            if not element.error:
                self.cancel(request)
            return
        if len(self.waiting) >= IN_PROGRESS_LIMIT:
            # Before its handler has taken anything: a coroutine that never runs gives nothing back.
            self._reply(request, Answer(ERROR_BODY, status.INSUFFICIENT_RESOURCES))
            return
        result = self.start(request, element)
        if isinstance(result, (bytes, Answer)):
            self._reply(request, result)
            return
        self.waiting[request.header.message_id] = request
        replay.waits(request)

        def ended(value: Any, error: BaseException | None) -> None:
            self.forget(request)
            try:
                if error is not None:
                    value = self.answer_or_raise(error, request)
                self._reply(request, value)
            except Disconnect as gone:
                self.line.hang_up(str(gone))
            self.line.flush_soon()

        request.task = self.worker.loop.spawn(result, ended)

    def start(self, request: Request, element: Element) -> Any:
        """Run the handler to its end or its first wait, unless the core has refused the element."""
        if element.error:
            request.sign = request.sign or stray_signer(request, element.error)
            return Answer(ERROR_BODY, element.error)
        self.worker.count_request(request.header.command)
        return execute(ROWS[request.header.command], request)

    def answer_or_raise(self, error: BaseException, request: Request) -> Answer:
        """The error response for what ended a handler, unless it is a bug of ours or the end of the connection."""
        if isinstance(error, ERRORS):
            return answer_of(error, request)
        raise error

    @property
    def busy(self) -> bool:
        """Whether a request is under way that will end by itself; one that was answered with PENDING may wait for ever."""
        return len(self.waiting) > len(self._by_async_id)

    def forget(self, request: Request) -> None:
        """The handler has ended: nothing is left to cancel."""
        self.waiting.pop(request.header.message_id, None)
        replay.over(request)
        if request.async_id:
            self._by_async_id.pop(request.async_id, None)

    # cancelling

    def cancel(self, request: Request) -> None:
        """[MS-SMB2] 3.3.5.16: find the request by AsyncId or MessageId; nothing is answered."""
        async_id = async_id_of(request.header)
        target = self.waiting.get(request.header.message_id) if async_id is None else self._by_async_id.get(async_id)
        if target is not None and target.header.session_id == request.header.session_id:
            target.cancel()

    def cancel_session(self, session_id: int) -> None:
        """The session ends: every request of it that waits is cancelled."""
        for request in list(self.waiting.values()):
            if request.header.session_id == session_id and request.async_id and not request.ends_with_open:
                request.cancel()

    def cancel_tree(self, tree: TreeConnect) -> None:
        """The tree connect ends: likewise."""
        for request in list(self.waiting.values()):
            if request.async_id and request.has_tree(tree) and not request.ends_with_open:
                request.cancel()

    def abandon(self) -> None:
        """[MS-SMB2] 3.3.7.1: the line has ended. What may wait for ever is cancelled; the rest ends by itself, and nobody hears of it."""
        for request in list(self.waiting.values()):
            if not request.kept:
                request.cancel()

    # compounds

    def _compound(self, elements: Sequence[Element]) -> None:
        chain = _ChainRun(self, elements)
        try:
            chain.run()
        except Disconnect:
            chain.let_go()
            raise

    # replies

    def pend(self, request: Request) -> None:
        """Send the interim response ([MS-SMB2] 3.3.4.2); all credits are granted with it."""
        chain = request.chain
        if chain is not None and not chain.last:
            raise SmbError(status.INTERNAL_ERROR)  # what Windows answers in the middle of a compound
        if self.line.closed:
            raise SmbError(status.CANCELLED)
        if len(self._by_async_id) >= ASYNC_LIMIT:
            raise SmbError(status.INSUFFICIENT_RESOURCES)
        if chain is not None:
            chain.flush()
            chain.let_go()
        request.async_id = next(self._async_ids)
        self._by_async_id[request.async_id] = request
        self.waiting[request.header.message_id] = request
        self._queue([self._element(request, status.PENDING, ERROR_BODY, None)], request.seal)
        self.line.flush_soon()

    def make_reply(self, request: Request, answer: Answer | bytes) -> Reply:
        """The element that answers ``request``. An answer's payload buffer is copied: only single replies leave in place."""
        if isinstance(answer, bytes):
            return self._element(request, status.SUCCESS, answer, None)
        body = answer.body
        if answer.buffer is not None:
            body += bytes(answer.buffer.view[HEADROOM : HEADROOM + answer.length])
            answer.buffer.release()
            answer.buffer = None
        reply = self._element(request, answer.status, body, answer.channel)
        reply.preauth = answer.preauth
        return reply

    def _element(self, request: Request, code: int, body: bytes, channel: Channel | None) -> Reply:
        header = request.header
        granted = 0
        if not request.async_id or code == status.PENDING:
            granted = self.line.grant(header.credit, header.credit_charge) if request.granted < 0 else request.granted
        reply = Reply(header, code, body, granted, None if code == status.PENDING else channel or request.sign)
        chain = request.chain
        if chain is not None and header.flags & FLAGS_RELATED_OPERATIONS:
            if chain.session_id is not None:
                reply.session_id = chain.session_id
            if chain.tree_id is not None:
                reply.tree_id = chain.tree_id
        reply.session_id = request.answer_session or reply.session_id
        reply.tree_id = request.answer_tree or reply.tree_id
        if request.async_id:
            reply.async_id = request.async_id
        if status.is_error(code):
            self.worker.count_error()
        return reply

    def _reply(self, request: Request, answer: Answer | bytes) -> None:
        """Queue the answer to a single request."""
        if self.line.closed:
            _give_back(answer)
            return
        if request.after_reply is None and not (request.async_id or request.answer_session or request.answer_tree):
            if isinstance(answer, bytes):
                self._succeed(request, answer)
                return
            plain = answer.status == status.SUCCESS and answer.channel is None and answer.preauth is None and answer.file is None
            if plain and answer.buffer is None:
                self._succeed(request, answer.body)
                return
            if plain and answer.buffer is not None:
                header = request.header
                granted = self.line.grant(header.credit, header.credit_charge), request.sign, request.seal
                data = pack_success_in_place(answer.buffer.view, (HEADROOM, answer.length), answer.body, header, granted)
                self.line.sender.queue(data, answer.buffer)
                return
        if isinstance(answer, Answer) and answer.file is not None:
            self._send_file(request, answer, answer.file)
        elif isinstance(answer, Answer) and answer.buffer is not None:
            self.send_in_place(request, answer, answer.buffer)
        else:
            self._queue([self.make_reply(request, answer)], request.seal)
        if request.after_reply is not None:
            request.after_reply()

    def _succeed(self, request: Request, body: bytes) -> None:
        """The usual answer, without the objects that an unusual one needs."""
        header, line, seal = request.header, self.line, request.seal
        before, behind = (TRANSPORT_SIZE, 0) if seal is None else (FRONT, BEHIND)
        try:
            buffer, start = line.sender.room(before + HEADER_SIZE + len(body) + behind)
        except PoolExhausted:
            raise Disconnect("no buffer for a reply") from None
        granted = line.grant(header.credit, header.credit_charge), request.sign, seal
        line.sender.queue(pack_success(buffer.view, start + before, header, body, granted), buffer)

    def send_in_place(self, request: Request, answer: Answer, buffer: Buffer) -> None:
        """Queue an answer whose payload lies in ``buffer``: header and fixed part go in front of it."""
        if self.line.closed:
            buffer.release()
            return
        reply = self._element(request, answer.status, b"", answer.channel)
        data = pack_in_place(buffer.view, HEADROOM, answer.length, answer.body, reply, seal=request.seal)
        self.line.sender.queue(data, buffer)

    def _send_file(self, request: Request, answer: Answer, entry: FileEntry) -> None:
        """Queue an answer whose payload is a range of a file: it follows header and fixed part, and never enters the process."""
        reply = self._element(request, answer.status, b"", answer.channel)
        sender = self.line.sender
        try:
            buffer, start = sender.room(FRONT + reply_size([answer.body]))
        except PoolExhausted:
            entry.free()
            raise Disconnect("no buffer for a reply") from None
        sender.queue(pack_ahead(buffer.view, start + FRONT, answer.body, reply, entry.length), buffer)
        sender.queue_file(entry)

    def _queue(self, replies: Sequence[Reply], seal: Channel | None) -> None:
        if self.line.closed:
            return
        size = reply_size([reply.body for reply in replies])
        try:
            buffer, start = self.line.sender.room(FRONT + size + BEHIND)
        except PoolExhausted:
            if len(replies) > 1:
                for reply in replies:  # 3.3.4.1.3: they may as well leave one by one
                    self._queue([reply], seal)
                return
            # Without its answer the client would wait for ever, and the credits would be gone: better it comes back.
            raise Disconnect("no buffer for a reply") from None
        self.line.sender.queue(pack_replies(buffer.view, start + FRONT, replies, seal), buffer)

    def notify(self, body: bytes, session_id: int = 0, seal: Channel | None = None) -> None:
        """An oplock or lease break, which is nobody's response (3.3.4.6, 3.3.4.7)."""
        self._queue([Reply.notification(int(Command.OPLOCK_BREAK), body, session_id)], seal)
        self.line.flush_soon()

    def send_chain(self, request: Request, replies: Sequence[Reply]) -> None:
        """Queue the replies of a compound, protected as its first request was."""
        self._queue(replies, request.seal)


def _give_back(answer: Answer | bytes) -> None:
    """Nobody is there to hear it."""
    if isinstance(answer, Answer):
        if answer.buffer is not None:
            answer.buffer.release()
        if answer.file is not None:
            answer.file.free()


class _ChainRun(Chain):
    """One compound on its way: elements in order, replies gathered until the end or until the last element pends."""

    __slots__ = ("_at", "_elements", "_engine", "_first", "_gathered", "_replies", "_running")

    def __init__(self, engine: Engine, elements: Sequence[Element]) -> None:
        super().__init__()
        self._engine = engine
        self._elements = elements
        self._at = 0  # the element that comes next
        self._replies: list[Reply] = []
        self._gathered = 0
        self._first: Request | None = None
        self._running = False

    def run(self) -> None:
        """Execute elements in order, to the end or to one that waits: then again from there. An unrelated one starts a new family."""
        engine, elements = self._engine, self._elements
        self._running = True
        while self._at < len(elements):
            element = elements[self._at]
            self._at += 1
            self.last = self._at == len(elements)
            if not element.header.flags & FLAGS_RELATED_OPERATIONS:
                self.reset()
            request = Request(engine.line, element, self)
            if self._first is None:
                self._first = request
            if element.header.command == CANCEL:
                if not element.error:
                    engine.cancel(request)
                continue
            if element.header.command == NEGOTIATE:
                raise Disconnect("NEGOTIATE in a compound")
            result = engine.start(request, element)
            if isinstance(result, (bytes, Answer)):
                self._done(request, result)
                if element.header.command == CLOSE and self.glance is not None:
                    self._look_longer(self.glance)
            elif not self._ends(request, result):
                self._running = False
                return
        self.flush()
        self.let_go()

    def closes_soon(self) -> bool:
        following = self._at
        for element in itertools.islice(self._elements, following, None):
            header = element.header
            if element.error or not header.flags & FLAGS_RELATED_OPERATIONS:
                return False
            if header.command != QUERY_INFO:
                return header.command == CLOSE
        return False

    def _look_longer(self, opened: Open) -> None:
        """The CLOSE that a glance relied on has been executed, or has to wait. If it has not closed it, it becomes an open like others."""
        self.glance = None
        worker = self._engine.worker
        if worker.opens.get(opened.volatile) is opened:
            enter(worker, opened)

    def _ends(self, request: Request, handler: Coroutine[Any, None, Answer | bytes]) -> bool:
        """Step a handler that may wait; whether it came to its end at once."""
        engine = self._engine
        if self.buffer is None:
            self.buffer = engine.line.receiver.buffer
            assert self.buffer is not None
            self.buffer.hold()  # elements to come are read after the transport has moved on

        def ended(value: Any, error: BaseException | None) -> None:
            engine.forget(request)
            at_once = self._running
            try:
                if error is not None:
                    value = engine.answer_or_raise(error, request)
                self._done(request, value)
                if not at_once:
                    self.run()
            except Disconnect as gone:
                if at_once:
                    raise
                self.let_go()
                engine.line.hang_up(str(gone))
            if not at_once:
                engine.line.flush_soon()

        engine.waiting[request.header.message_id] = request
        replay.waits(request)
        task = request.task = Task(engine.worker.loop, handler, ended)
        task.step()
        if not task.over and self.glance is not None:
            self._look_longer(self.glance)
        return task.over

    def _done(self, request: Request, answer: Answer | bytes) -> None:
        self.status = answer.status if isinstance(answer, Answer) else status.SUCCESS
        self._keep(request, answer)
        if request.after_reply is not None:
            request.after_reply()

    def _keep(self, request: Request, answer: Answer | bytes) -> None:
        """Gather the answer, or send what there is: a compound of large READs must not fill the memory with copies."""
        if isinstance(answer, Answer) and answer.buffer is not None and answer.length > COPIED:
            self.flush()
            self._engine.send_in_place(request, answer, answer.buffer)
            return
        reply = self._engine.make_reply(request, answer)
        self._gathered += len(reply.body)
        if self._gathered > GATHERED:
            self.flush()
            self._gathered = len(reply.body)
        self._replies.append(reply)

    def let_go(self) -> None:
        """Nothing more is read from the frame."""
        buffer, self.buffer = self.buffer, None
        if buffer is not None:
            buffer.release()

    def flush(self) -> None:
        """Send the replies gathered so far as one compound."""
        if self._replies:
            assert self._first is not None
            self._engine.send_chain(self._first, self._replies)
            self._replies = []
            self._gathered = 0
