"""The RPC server's process: ``main(child)``, its message table and its pipes.

Owns: every open pipe and the bytes that wait in it. Invariants: a pipe is reached only by the process that opened it; it is dropped when
that process dies; bounds: pipes of one process, pipes in all, unread bytes of a pipe.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pools.layout import WireError
from pools.queue import AUTHD, BROKER, PEER, PEER_DIED, RELOAD, AskError, Endpoint, Handler, Kind, Message, Service
from smbd.accounts import (
    LIST_USERS,
    LOOKUP_NAMES,
    LOOKUP_SIDS,
    PAGE,
    Account,
    IdMap,
    UserRecord,
    machine_sid,
    questions,
    unpack_accounts,
    unpack_users,
)
from smbd.child import SHARING_DIRECTORY, Child
from smbd.config import Config
from smbd.config_messages import unpack_config
from smbd.control_messages import CONTROL_SOCKET
from smbd.log import follow
from smbd.sharing import DISCONNECTED, Environment, OpenRow, SessionRecord, Sharing, TreeRecord
from smbd.sharing.messages import CLOSE_FILE, CLOSE_FILE_LAYOUT, CLOSE_SESSION, CLOSE_SESSION_LAYOUT, STATUS_ANSWER
from smbd.smb2 import status
from smbd.smb2.status import SmbError
from srvsvc import policy, shares, users, workstation
from srvsvc.association import MAX_UNREAD, Association, RpcFault
from srvsvc.control import Control
from srvsvc.messages import (
    CLOSE,
    CLOSE_PIPE,
    DATA,
    OPEN_PIPE,
    OPENED,
    READ_PIPE,
    RESULT,
    TRANSCEIVE_PIPE,
    WRITE_PIPE,
    Caller,
    unpack_open,
)
from srvsvc.server import Server

log = logging.getLogger("srvsvc")

PIPES = {
    "srvsvc": (shares.INTERFACE,),
    "wkssvc": (workstation.INTERFACE,),
    "lsarpc": (policy.INTERFACE,),
    "lsass": (policy.INTERFACE, users.INTERFACE),
    "samr": (users.INTERFACE,),
}
"""The pipes of IPC$ and the interfaces behind each."""

TOO_BUSY = 0x1C010014
"""nca_s_server_too_busy: authd does not answer now."""

MAX_PIPES_PER_PEER = 256
MAX_PIPES = 8192
MAX_HELD_PER_PEER = 8 << 20
MAX_HELD = 128 << 20
"""Bytes in pipes, said in part or not read, at which the pipe that took the last of them is broken: of one process, and in all."""


class Pipe:
    """One open pipe: an association and the messages the client has not read."""

    __slots__ = ("_association", "_unread", "_waiting", "broken")

    def __init__(self, name: str, group: int, server: Server) -> None:
        self._association = Association(PIPES[name], name, group, server)
        self._unread: deque[bytes] = deque()
        self._waiting = 0
        self.broken = False

    def write(self, data: bytes) -> int:
        """Take ``data``; SUCCESS, or PIPE_BROKEN once what came was no RPC."""
        if self.broken:
            return status.PIPE_BROKEN
        try:
            answers = self._association.feed(data)
            self._waiting += sum(map(len, answers))
            if self._waiting > MAX_UNREAD:
                raise WireError(f"{self._waiting} bytes of answers are not read")
        except WireError as error:
            self.break_off(str(error))
            return status.PIPE_BROKEN
        self._unread.extend(answers)
        return status.SUCCESS

    def break_off(self, reason: str) -> None:
        """Nothing more is taken, and nothing is kept."""
        log.info("pipe broken: %s", reason)
        self.broken = True
        self._unread.clear()
        self._waiting = 0
        self._association.drop()

    @property
    def held(self) -> int:
        """Bytes that lie here: said in part, or not read."""
        return self._waiting + self._association.held

    def read(self, limit: int) -> tuple[int, bytes]:
        """(status, at most ``limit`` bytes of the oldest message); BUFFER_OVERFLOW when the message goes on."""
        if not self._unread:
            return (status.PIPE_BROKEN if self.broken else status.PIPE_EMPTY), b""
        message = self._unread.popleft()
        part = message[:limit]
        self._waiting -= len(part)
        if len(part) == len(message):
            return status.SUCCESS, part
        self._unread.appendleft(message[limit:])
        return status.BUFFER_OVERFLOW, part

    @property
    def readable(self) -> bool:
        """Whether a message waits to be read."""
        return bool(self._unread)


class PipeKey(NamedTuple):
    """A pipe's name among all processes: the hub's stamp and the handle."""

    slot: int
    generation: int
    handle: int


class World:
    """``srvsvc.server.Backend``: the configuration, the shared tables, and authd's accounts. ``ask`` is set before the first message."""

    ask: Callable[[int, int, bytes, float], Message]

    def __init__(self, config: Config, open_sharing: Callable[[], Sharing]) -> None:
        self.config = config
        self.ids = IdMap(machine_sid(config.state_directory), config.netbios_name.upper())
        self._open_sharing = open_sharing
        self._opened: Sharing | None = None

    def use(self, config: Config) -> None:
        """A new configuration; the machine SID stays what it is."""
        self.config = config
        self.ids = IdMap(self.ids.machine, config.netbios_name.upper())

    @property
    def _sharing(self) -> Sharing:
        # Opened when first needed: the broker, which starts beside this process, prepares it.
        if self._opened is None:
            self._opened = self._open_sharing()
        return self._opened

    def sessions(self) -> Sequence[SessionRecord]:
        return self._sharing.sessions()

    def trees(self) -> Sequence[TreeRecord]:
        return self._sharing.trees()

    def opens(self) -> Sequence[OpenRow]:
        return self._sharing.opens()

    def close_open(self, row: OpenRow) -> bool:
        # What lost connections have left is no worker's.
        return self._end(BROKER if row.slot == DISCONNECTED else row.slot, CLOSE_FILE, CLOSE_FILE_LAYOUT.pack(row.file_id))

    def close_session(self, record: SessionRecord) -> bool:
        return self._end(record.slot, CLOSE_SESSION, CLOSE_SESSION_LAYOUT.pack(record.session_id, 0))

    def lookup_names(self, names: Sequence[str]) -> list[Account]:
        return [account for question in questions(names) for account in unpack_accounts(self._ask(LOOKUP_NAMES, question))]

    def lookup_sids(self, sids: Sequence[str]) -> list[Account]:
        return [account for question in questions(sids) for account in unpack_accounts(self._ask(LOOKUP_SIDS, question))]

    def users(self) -> list[UserRecord]:
        found: list[UserRecord] = []
        while True:
            total, page = unpack_users(self._ask(LIST_USERS, PAGE.pack(len(found), 0)))
            found += page
            if not page or len(found) >= total:
                return found

    def now(self) -> float:
        return time.time()

    def _ask(self, kind: Kind, payload: bytes) -> bytes:
        try:
            return bytes(self.ask(AUTHD, kind.number, payload, 10.0).payload)
        except AskError as error:
            log.warning("%s: %s", kind.name, error)
            raise RpcFault(TOO_BUSY) from error

    def _end(self, slot: int, kind: Kind, payload: bytes) -> bool:
        """Ask a worker to close something; false when it is gone or refuses."""
        try:
            answer = self.ask(slot, kind.number, payload, 5.0)
        except AskError as error:
            log.info("%s: %s", kind.name, error)
            return False
        return STATUS_ANSWER.unpack(answer.payload).status == status.SUCCESS


class RpcServer:
    """Answers messages. ``life`` makes this process's handles unlike those of the one before it; ``held``: bytes that lie in pipes."""

    def __init__(self, world: World, life: int) -> None:
        self._world = world
        self._pipes: dict[PipeKey, Pipe] = {}
        self._peers: dict[tuple[int, int], int] = {}
        self._held: Counter[tuple[int, int]] = Counter()
        self.held = 0
        self._next = itertools.count(life << 32 | 1)

    def handlers(self) -> dict[int, Handler]:
        """The message table."""
        return {
            OPEN_PIPE.number: self.open,
            WRITE_PIPE.number: self.write,
            READ_PIPE.number: self.read,
            TRANSCEIVE_PIPE.number: self.transceive,
            CLOSE_PIPE.number: self.close,
            PEER_DIED: self.peer_died,
            RELOAD: self.reload,
        }

    def open(self, message: Message) -> bytes:
        """OPEN_PIPE."""
        name, caller = unpack_open(message.payload)
        try:
            return OPENED.pack(status.SUCCESS, self._open(message, name, caller))
        except SmbError as error:
            return OPENED.pack(error.status, 0)

    def _open(self, message: Message, name: str, caller: Caller) -> int:
        name = name.strip("\\").casefold()
        if name not in PIPES:
            raise SmbError(status.OBJECT_NAME_NOT_FOUND)
        if caller.anonymous and self._world.config.restrict_anonymous:
            raise SmbError(status.ACCESS_DENIED)
        peer = message.sender, message.generation
        if self._peers.get(peer, 0) >= MAX_PIPES_PER_PEER or len(self._pipes) >= MAX_PIPES:
            raise SmbError(status.INSUFF_SERVER_RESOURCES)
        handle = next(self._next)
        self._pipes[PipeKey(*peer, handle)] = Pipe(name, handle & 0xFFFFFFFF, Server(self._world, caller))
        self._peers[peer] = self._peers.get(peer, 0) + 1
        return handle

    def write(self, message: Message) -> bytes:
        """WRITE_PIPE."""
        pipe, _, data = self._find(message)
        if pipe is None:
            return RESULT.pack(status.PIPE_DISCONNECTED, 0)
        return RESULT.pack(self._write(message, pipe, data), len(data))

    def read(self, message: Message) -> bytes:
        """READ_PIPE."""
        pipe, limit, _ = self._find(message)
        if pipe is None:
            return RESULT.pack(status.PIPE_DISCONNECTED, 0)
        code, data = self._read(message, pipe, limit)
        return RESULT.pack(code, 0) + data

    def transceive(self, message: Message) -> bytes:
        """TRANSCEIVE_PIPE. [MS-FSCC] 2.3.45: PIPE_BUSY while an answer is unread."""
        pipe, limit, data = self._find(message)
        if pipe is None:
            return RESULT.pack(status.PIPE_DISCONNECTED, 0)
        if pipe.readable:
            return RESULT.pack(status.PIPE_BUSY, 0)
        code = self._write(message, pipe, data)
        if code != status.SUCCESS:
            return RESULT.pack(code, 0)
        code, answer = self._read(message, pipe, limit)
        return RESULT.pack(code, len(data)) + answer

    def close(self, message: Message) -> None:
        """CLOSE_PIPE."""
        (handle,) = CLOSE.unpack(message.payload)
        peer = message.sender, message.generation
        pipe = self._pipes.pop(PipeKey(*peer, handle), None)
        if pipe is not None:
            self._count(peer, -pipe.held)
            left = self._peers.pop(peer) - 1
            if left:
                self._peers[peer] = left

    def peer_died(self, message: Message) -> None:
        """PEER_DIED: its pipes with it."""
        slot, generation = PEER.unpack(message.payload)
        peer = slot, generation
        if self._peers.pop(peer, 0):
            self._count(peer, -self._held[peer])
            self._pipes = {key: pipe for key, pipe in self._pipes.items() if key[:2] != peer}

    def reload(self, message: Message) -> None:
        """RELOAD: what is listed from now on."""
        config = unpack_config(message.payload)
        follow(config)
        self._world.use(config)

    def _write(self, message: Message, pipe: Pipe, data: bytes) -> int:
        """``Pipe.write`` within the bounds of what may lie in pipes."""
        peer = message.sender, message.generation
        before = pipe.held
        code = pipe.write(data)
        self._count(peer, pipe.held - before)
        if self._held[peer] > MAX_HELD_PER_PEER or self.held > MAX_HELD:
            before = pipe.held
            pipe.break_off(f"{self._held[peer]} bytes lie in this process's pipes, {self.held} in all")
            self._count(peer, pipe.held - before)
            return status.PIPE_BROKEN
        return code

    def _read(self, message: Message, pipe: Pipe, limit: int) -> tuple[int, bytes]:
        before = pipe.held
        found = pipe.read(limit)
        self._count((message.sender, message.generation), pipe.held - before)
        return found

    def _count(self, peer: tuple[int, int], change: int) -> None:
        self.held += change
        self._held[peer] += change
        if not self._held[peer]:
            del self._held[peer]

    def _find(self, message: Message) -> tuple[Pipe | None, int, bytes]:
        head = DATA.unpack(message.payload)
        pipe = self._pipes.get(PipeKey(message.sender, message.generation, head.handle))
        return pipe, head.max_output, bytes(message.payload[DATA.size :])


def main(child: Child) -> None:
    """Serve until the master stops it or is gone."""
    directory = os.path.join(child.config.lock_directory, SHARING_DIRECTORY)

    def open_sharing() -> Sharing:
        return Sharing(Environment(directory, readonly=True), child.slot, child.generation, None, child.counters.is_alive)

    world = World(child.config, open_sharing)
    service = Service(Endpoint(child.hub), RpcServer(world, secrets.randbits(31) | 1).handlers(), child.counters.row(child.slot))
    world.ask = service.ask
    Control(service, world, os.path.join(child.config.lock_directory, CONTROL_SOCKET))
    service.run()
