"""One request on its way through the engine, and the one gate through which offsets sent by a peer pass.

Owns: ``Request``, ``Answer`` and ``Chain`` (what a compound's elements share). Invariant: no byte of a PDU is reached through an offset
or length of the peer's except through ``Request.variable``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pools.layout import WireError
from smbd.smb2 import status
from smbd.smb2.header import HEADER_SIZE, Header
from smbd.smb2.names import decode
from smbd.smb2.status import SmbError
from workers import identity

if TYPE_CHECKING:
    from pools.iovec import FileEntry
    from pools.pool import Buffer
    from smbd.smb2.connection import Element
    from smbd.smb2.crypto import Channel, PreauthHash
    from workers.line import Line
    from workers.loop import Task
    from workers.open import Open
    from workers.session import Session
    from workers.transport.incoming import Incoming
    from workers.tree import TreeConnect

CREDIT_UNIT = 65536


class Answer:
    """A response that is more than a body with status SUCCESS.

    ``buffer`` holds ``length`` bytes of payload behind its headroom, to follow ``body`` on the wire; the answer owns one reference to it.
    ``file`` is payload to follow ``body`` that stays in the kernel; the answer owns it, and is neither signed nor encrypted.
    ``channel`` signs the response in place of the request's channel (the end of SESSION_SETUP).
    """

    __slots__ = ("body", "buffer", "channel", "file", "length", "preauth", "status")

    def __init__(self, body: bytes, code: int = status.SUCCESS, buffer: Buffer | None = None, length: int = 0) -> None:
        self.body = body
        self.status = code
        self.buffer = buffer
        self.length = length
        self.file: FileEntry | None = None
        self.channel: Channel | None = None
        self.preauth: PreauthHash | None = None


class Chain:
    """What related elements of a compound inherit from the element before ([MS-SMB2] 3.3.5.2.7.2).

    ``glance`` is an open that is not entered in the shared state: see ``closes_soon``. ``buffer`` is where the frame lies; the compound
    holds it from the first element that waits on.
    """

    __slots__ = ("buffer", "glance", "last", "open", "session_id", "status", "tree_id")

    def __init__(self) -> None:
        self.buffer: Buffer | None = None
        self.last = False
        self.glance: Open | None = None
        self.reset()

    def closes_soon(self) -> bool:
        """Whether the elements that follow only look at what this one opens, and then close it."""
        raise NotImplementedError

    def flush(self) -> None:
        """Send the replies gathered so far: an element is about to pend."""
        raise NotImplementedError

    def let_go(self) -> None:
        """The last element pends, and has taken what it needs out of the frame: the frame's buffer goes back."""
        raise NotImplementedError

    def reset(self) -> None:
        """An unrelated element: it inherits nothing."""
        self.session_id: int | None = None
        self.tree_id: int | None = None
        self.open: Open | None = None
        self.status = status.SUCCESS


class Request:
    """``view`` is the element from its header on. ``session``, ``tree`` and ``open`` are set by dispatch as the command's row asks."""

    __slots__ = (
        "after_reply",
        "answer_session",
        "answer_tree",
        "async_id",
        "beneath",
        "chain",
        "channel",
        "counted",
        "encrypted",
        "ends_with_open",
        "granted",
        "header",
        "incoming",
        "kept",
        "line",
        "open",
        "seal",
        "session",
        "sign",
        "task",
        "tree",
        "view",
        "waiter_id",
        "when_cancelled",
        "worker",
    )

    session: Session
    tree: TreeConnect
    open: Open

    def __init__(self, line: Line, element: Element, chain: Chain | None) -> None:
        self.line = line
        self.worker = line.worker
        self.header: Header = element.header
        self.view: memoryview = element.view
        self.channel: Channel | None = element.channel
        self.encrypted: bool = element.encrypted
        self.chain = chain
        self.sign: Channel | None = element.sign
        self.seal: Channel | None = element.seal
        self.async_id = 0
        self.task: Task | None = None
        self.granted = -1  # credits, when its response's were fixed beforehand
        self.answer_session = 0  # in the response's header, where the request could not name it yet
        self.answer_tree = 0
        self.after_reply: Callable[[], None] | None = None  # once the response is on its way
        self.ends_with_open = False  # waits for something that the end of its Open answers by itself
        self.when_cancelled: Callable[[], None] | None = None
        self.incoming: Incoming | None = None  # a WRITE's payload that has yet to come
        self.kept = False  # it goes on when its line has ended: its client may ask for the answer on another one
        self.counted = 0  # among those under way of its open, in that turn: see workers.replay
        self.beneath: frozenset[tuple[int, int, int]] | None = None  # the opens beneath a directory that was to be renamed at first
        self.waiter_id = 0  # under which it waits for others to give up what they cache

    def variable(self, offset: int, length: int, minimum: int = HEADER_SIZE) -> memoryview:
        """``length`` bytes at ``offset`` from the start of the header; ``WireError`` unless all lie in this element, after ``minimum``."""
        if length == 0:
            return self.view[:0]
        if offset < minimum or offset + length > len(self.view):
            raise WireError(f"{length} bytes at {offset} of a request of {len(self.view)}")
        return self.view[offset : offset + length]

    def text(self, offset: int, length: int) -> str:
        """A UTF-16LE string of the request. OBJECT_NAME_INVALID for what is none: no name in here holds half a character."""
        return decode(self.variable(offset, length))

    def check_charge(self, payload: int) -> None:
        """[MS-SMB2] 3.3.5.2.5: the credits charged must cover what is sent or asked for."""
        if payload > CREDIT_UNIT:
            self.line.connection.check_charge(self.header, payload, 0)

    def has_open(self) -> bool:
        """Whether the request was resolved to an Open."""
        return getattr(self, "open", None) is not None

    def has_tree(self, tree: TreeConnect) -> bool:
        """Whether the request was resolved to ``tree``."""
        return getattr(self, "tree", None) is tree

    def pend(self) -> None:
        """Tell the client that the answer will take a while ([MS-SMB2] 3.3.4.2). Call once, before the first long wait."""
        self.line.engine.pend(self)

    def resume(self) -> None:
        """After a wait: act as the tree's user again, unless open, tree connect or session have ended meanwhile, or the open was left."""
        if self.has_open():
            if not self.worker.serves(self.open):
                raise SmbError(status.FILE_CLOSED)
        elif self.worker.sessions.get(self.session.session_id) is not self.session:
            raise SmbError(status.USER_SESSION_DELETED)
        elif self.session.trees.get(self.tree.tree_id) is not self.tree:
            raise SmbError(status.NETWORK_NAME_DELETED)
        if self.tree.identity is not None:
            identity.assume(self.tree.identity)

    async def obtain(self, size: int) -> Buffer:
        """A buffer for ``size`` bytes of payload, when the pool has one; the request then goes on as ``resume`` has it."""
        self.worker.row.add("async_waits")
        buffer = await self.worker.obtain(size)
        try:
            self.resume()
        except SmbError:
            buffer.release()
            raise
        return buffer

    def cancel(self) -> None:
        """End the wait this request is in; harmless when it waits for nothing that can be cancelled."""
        if self.when_cancelled is not None:
            call, self.when_cancelled = self.when_cancelled, None
            call()
        elif self.task is not None and self.async_id:
            self.task.cancel()
