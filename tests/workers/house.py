"""A worker in memory: real loop, engine, VFS and shared state, a socket pair for a network, and fakes for the other processes.

Owns: ``House`` (one lock directory, one share, any number of workers) and ``Fake`` mailboxes. Nothing waits: whoever expects a frame turns
the workers' loops until it is there.
"""

from __future__ import annotations

import os
import pwd
import random
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

from authd.messages import (
    AUTHENTICATE,
    CONFIRM,
    CONFIRM_REQUEST,
    MORE_PROCESSING,
    Step,
    pack_confirmed,
    pack_step,
    proof_of,
    unpack_authenticate,
    unpack_step,
)
from authd.proofs import Proof, Proofs
from pools.counters import CounterSegment
from pools.pool import MallocPool
from pools.queue import Message
from smbd.accounts import IdMap
from smbd.channel_messages import CHANNEL_ASK, CHANNEL_MOVE
from smbd.config import Config, parse
from smbd.sharing import Environment, Sharing, prepare
from smbd.sharing.messages import CLOSE_FILE, CLOSE_FILE_LAYOUT, LOCK_WAKE, LOCK_WAKE_LAYOUT, NOTIFY, STATUS_ANSWER, unpack_notify
from smbd.smb2 import status
from smbd.smb2.connection import Connection
from smbd.smb2.dtyp import SID, Token
from tests.wire_client import Closed, Offer, Response, WireClient
from workers import binding, handover, identity
from workers.ending import close_file
from workers.loop import Completion, Loop
from workers.room import negotiate_settings
from workers.worker import Worker

MACHINE = SID.parse("S-1-5-21-1-2-3")
KEY = bytes(range(16))
TURNS = 2000
ALICE, BOB = "alice", "bob"
OURSELVES = pwd.getpwuid(os.geteuid()).pw_name


def token_of(name: str, **changes: Any) -> Token:
    """A user of the test's own Unix identity, whatever the name."""
    ids = IdMap(MACHINE, "MILLPOND")
    uid, gid = os.geteuid(), os.getegid()
    sid = ids.user_sid(uid) if name == ALICE else ids.user_sid(uid + 1000 + len(name))
    known = {"user_sid": sid, "group_sids": (ids.group_sid(gid), SID.parse("S-1-1-0")), "uid": uid, "gid": gid, "name": name}
    return Token(**{**known, **changes})


class Fake:
    """A mailbox whose other ends are here. ``replies``: by kind, what answers a question at once; others stay in ``asked``."""

    def __init__(self, house: House, loop: Loop, slot: int) -> None:
        self.house = house
        self._slot = slot
        self.loop = loop
        self.sent: list[tuple[int, int, bytes]] = []
        self.asked: deque[tuple[int, bytes, Completion[Message]]] = deque()
        self.replies: dict[int, Callable[[bytes], bytes]] = {AUTHENTICATE.number: house.authenticate, CONFIRM.number: house.confirm}

    def send(
        self, destination: int, kind: int, payload: bytes = b"", *, id: int = 0, descriptors: Sequence[int] = (), generation: int = 0
    ) -> None:
        self.sent.append((destination, kind, payload))
        worker = self.house.workers.get(destination)
        if worker is None:
            return
        if kind == CHANNEL_MOVE.number:
            self.house.moved[self._slot] = worker
            message = Message(kind, self._slot, 1, 0, payload, descriptors=tuple(os.dup(fd) for fd in descriptors))
            worker.loop.soon(partial(handover.arrived, worker, message))
        if kind == LOCK_WAKE.number:
            worker.lock_woken(LOCK_WAKE_LAYOUT.unpack(payload).waiter_id)
        elif kind == NOTIFY.number:
            fixed, name, new_name = unpack_notify(payload)
            worker.notices.deliver(fixed.watch_id, fixed.action, name, new_name)

    async def ask(self, destination: int, kind: int, payload: bytes = b"", timeout: float = 30.0) -> Message:
        done: Completion[Message] = Completion()
        reply = self.replies.get(kind)
        worker = self.house.workers.get(destination)
        if reply is not None:
            answer = reply(payload)
            if kind == AUTHENTICATE.number:
                self.house.note(self._slot, unpack_step(answer))
            done.finish(Message(kind + 1, destination, 1, 0, answer))
        elif kind == CHANNEL_ASK.number and worker is not None:
            self.house.questions.append(done)
            message = Message(kind, self._slot, 1, len(self.house.questions), payload)
            worker.loop.soon(partial(binding.asked, worker, message))
        elif kind == CLOSE_FILE.number and worker is not None:
            code = close_file(worker, CLOSE_FILE_LAYOUT.unpack(payload).file_id)
            done.finish(Message(kind + 1, destination, 1, 0, STATUS_ANSWER.pack(code)))
        else:
            self.asked.append((kind, payload, done))
        return await done

    def answer(self, request: Message, payload: bytes = b"") -> None:
        self.house.questions[request.id - 1].finish(Message(request.kind + 1, self._slot, 1, request.id, payload))

    def answer_next(self, payload: bytes) -> int:
        """Answer the oldest open question; its kind."""
        kind, _, done = self.asked.popleft()
        done.finish(Message(kind + 1, 0, 1, 0, payload))
        return kind


class Wire:
    """The client's end of the network. Receiving turns every loop of the house until a frame has come or the worker has ended."""

    def __init__(self, house: House, sock: socket.socket, worker: Worker) -> None:
        sock.setblocking(False)
        self.house, self.sock, self._worker = house, sock, worker
        self.data = bytearray()

    @property
    def worker(self) -> Worker:
        """Who has the connection now."""
        while self._worker.ended and self._worker.slot in self.house.moved:
            self._worker = self.house.moved[self._worker.slot]
        return self._worker

    def send(self, frames: bytes) -> None:
        view = memoryview(frames)
        for _ in range(TURNS):
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                self.house.turn()
            except OSError as error:
                raise Closed(str(error)) from None
            if not view:
                return
        raise AssertionError("the worker reads nothing")

    def receive(self) -> bytearray:
        for _ in range(TURNS):
            size = int.from_bytes(self.data[:4], "big") + 4
            if len(self.data) >= size > 4:
                frame, self.data = self.data[4:size], self.data[size:]
                return frame
            if self._read():
                continue
            if self.worker.ended:
                raise Closed("the worker ended")
            self.house.turn()
        raise AssertionError("no answer")

    def _read(self) -> bool:
        try:
            part = self.sock.recv(1 << 20)
        except BlockingIOError:
            return False
        except OSError:
            raise Closed("reset") from None
        if not part:
            raise Closed("end of stream")
        self.data += part
        return True

    def close(self) -> None:
        self.sock.close()


class House:
    """One server's shared things; ``join`` adds a worker with its client."""

    def __init__(self, share: Path, text: str = "", share_text: str = "") -> None:
        self.share = share
        self.directory = tempfile.mkdtemp(dir="/dev/shm", prefix="millpond-test-")
        prepare(self.directory, 8 << 20, max_readers=64)
        channels = "" if "multi channel" in text else "server multi channel support = no"  # each client is to have a worker to itself
        whole = f"[global]\nguest account = {OURSELVES}\n{channels}\n{text}\n[data]\npath = {share}\nread only = no\n{share_text}\n"
        self.config: Config = parse(whole, "test")
        self.segment = CounterSegment.create(None, 64)
        self.environment: Environment | None = None
        self.sharing: Sharing | None = None
        self.workers: dict[int, Worker] = {}
        self.moved: dict[int, Worker] = {}  # by the slot that a connection was in: who has it now
        self.questions: list[Completion[Message]] = []  # of worker to worker
        self.tokens: dict[str, Token] = {name: token_of(name) for name in (ALICE, BOB)}
        self.steps: deque[Step] = deque()
        self.proofs = Proofs()
        self._umask = os.umask(0)
        self._identity = identity.current()

    def authenticate(self, payload: bytes) -> bytes:
        """The fake authenticator: a client's token is its user's name; "more" asks for another round."""
        if self.steps:
            return pack_step(self.steps.popleft())
        _, token, _ = unpack_authenticate(payload)
        name = bytes(token).decode()
        if name == "more":
            return pack_step(Step(MORE_PROCESSING, b"go on"))
        found = self.tokens.get(name)
        return pack_step(Step(status.SUCCESS, b"", KEY, found) if found else Step(status.LOGON_FAILURE, b""))

    def note(self, slot: int, step: Step) -> None:
        """What the authenticator remembers of a logon."""
        if step.identity is not None:
            self.proofs.note(Proof(slot, 1, proof_of(step.session_key)), step.identity, 0.0)

    def confirm(self, payload: bytes) -> bytes:
        """The fake authenticator: who has logged on with a worker's key."""
        return pack_confirmed(self.proofs.take(Proof(*CONFIRM_REQUEST.unpack(payload)), 0.0))

    def process(self, slot: int) -> Sharing:
        """The state as worker ``slot`` sees it. One environment a process is LMDB's rule, so they share it here, as threads do."""
        row = self.segment.row(slot)
        row.set("generation", 1)
        row.set("pid", os.getpid())
        if self.environment is None:
            self.environment = Environment(self.directory)
        made = Sharing(self.environment, slot, 1, None, self.segment.is_alive)
        self.sharing = self.sharing or made
        return made

    def join(self, pool: MallocPool | None = None) -> tuple[WireClient, Worker]:
        """A worker and the wire to it; nothing negotiated."""
        slot = 16 + len(self.workers)
        row = self.segment.row(slot)
        loop = Loop(2)
        ids = IdMap(MACHINE, "MILLPOND")
        worker = Worker(
            self.config,
            slot=slot,
            generation=1,
            loop=loop,
            pool=pool or MallocPool(row, 64 << 20, debug=True),
            row=row,
            sharing=self.process(slot),
            ids=ids,
        )
        worker.mailbox = Fake(self, loop, slot)  # type: ignore[assignment]
        near, far = socket.socketpair()
        near.setblocking(False)
        random_bytes = random.Random(slot).randbytes
        worker.attach(near, "127.0.0.1", Connection(negotiate_settings(self.config, ids), random_bytes))
        self.workers[slot] = worker
        return WireClient(Wire(self, far, worker)), worker

    def client(self, user: str = ALICE, share: str = "data", offer: Offer | None = None) -> WireClient:
        """A client that is connected to the share."""
        client, _ = self.join()
        assert client.negotiate(offer).status == status.SUCCESS
        assert log_on(client, user).status == status.SUCCESS
        if share:
            assert client.tree_connect(share).status == status.SUCCESS
        return client

    def worker_of(self, client: WireClient) -> Worker:
        """Who serves ``client``."""
        assert isinstance(client.transport, Wire)
        return client.transport.worker

    def mail_of(self, client: WireClient) -> Fake:
        """Its worker's fake mailbox."""
        mailbox = self.worker_of(client).mailbox
        assert isinstance(mailbox, Fake)
        return mailbox

    def turn(self) -> None:
        """One turn of every worker's loop, without waiting for more than a thread's hand-over."""
        for worker in self.workers.values():
            if not worker.ended:
                worker.loop.later(0.0005, lambda: None)
                worker.loop.turn()

    def turn_until(self, condition: Callable[[], bool]) -> None:
        """Turn until something is so."""
        for _ in range(TURNS):
            if condition():
                return
            self.turn()
        raise AssertionError("it never came about")

    def end(self) -> None:
        """Close every worker and see that each gave back every buffer."""
        for worker in self.workers.values():
            worker.stopping = True
            worker.close()
            worker.loop.close()
        if self.sharing is not None:
            self.sharing.end_disconnected([row.file_id for row in self.sharing.opens()])
        identity.assume(self._identity)
        os.umask(self._umask)
        if self.sharing is not None:
            assert self.sharing.opens() == []
            assert self.sharing.locks() == []
            assert self.sharing.watched() == []
            assert list(self.sharing.sessions()) == []
            self.sharing.close_environment()
        os.close(self.segment.fileno())  # the mapping goes with the rows that workers still hold
        rmtree(self.directory)


def log_on(client: WireClient, user: str, **options: Any) -> Response:
    """SESSION_SETUP in one round; the token is the user's name."""
    return client.logon(lambda token: user.encode(), lambda: KEY, **options)
