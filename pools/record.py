"""Records of the message queue: what the hub and its children have in common.

Owns: the record's layout, ``Kind`` (what may be sent, by whom), ``Message`` (what was received) and what can go wrong
with a question. Pure. Invariant: a payload fits a record, and a record fits one send.

Requests have even kinds; an answer has the request's kind + 1 and carries its id. A kind without an answer (a notice)
is even too, and nothing is sent back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

from pools import port
from pools.buffer import Buffer
from pools.layout import U16, U32, U64, Layout, WireError

MASTER: Final = 0
AUTHD: Final = 1
SRVSVC: Final = 2
BROKER: Final = 3
HOST: Final = 5
FIRST_WORKER: Final = 16
ANY_GENERATION: Final = 0

# Priorities of the hub's backlog: what others wait for goes first.
LEASE_BREAK, AUTHENTICATION, RPC, MONITORING = range(4)


class Record(NamedTuple):
    """What stands before every payload. ``peer`` is the destination on the way to the hub, the sender on the way from it.

    ``generation`` belongs to ``peer``: a sender that names one is told GONE when the slot has another by then.
    """

    peer: U32
    generation: U32
    kind: U16
    reserved: U16
    length: U32
    id: U64


RECORD: Final = Layout(Record)
MAX_RECORD: Final = 65536
MAX_PAYLOAD: Final = MAX_RECORD - RECORD.size
MAX_DESCRIPTORS: Final = 4


class Kind(NamedTuple):
    """One row of the hub's table: what a record of this kind may be and who may send it."""

    number: int
    name: str
    priority: int = RPC
    descriptors: int = 0
    max_payload: int = MAX_PAYLOAD
    senders: frozenset[str] = frozenset({"worker"})


SERVICES: Final = frozenset({"authd", "srvsvc", "broker"})
EVERYONE: Final = SERVICES | {"master", "worker", "host"}
_FROM_MASTER: Final = frozenset({"master"})

ANSWER_BUSY: Final = 0x0001
ANSWER_GONE: Final = 0x0003
PEER_DIED: Final = 0x0004
RELOAD: Final = 0x0006
STOP: Final = 0x0008
PING: Final = 0x000A
PONG: Final = 0x000B
DROP_PEER: Final = 0x000C


class Peer(NamedTuple):
    """The payload of PEER_DIED and DROP_PEER."""

    slot: U32
    generation: U32


PEER: Final = Layout(Peer)

KINDS: Final = (
    Kind(ANSWER_BUSY, "busy", LEASE_BREAK, 0, 0, _FROM_MASTER | SERVICES),
    Kind(ANSWER_GONE, "gone", LEASE_BREAK, 0, 0, _FROM_MASTER),
    Kind(PEER_DIED, "peer died", LEASE_BREAK, 0, PEER.size, _FROM_MASTER),
    Kind(RELOAD, "reload", LEASE_BREAK, 0, MAX_PAYLOAD, _FROM_MASTER),
    Kind(STOP, "stop", LEASE_BREAK, 0, 0, _FROM_MASTER),
    Kind(PING, "ping", MONITORING, 0, 4096, EVERYONE),
    Kind(PONG, "pong", MONITORING, 0, 4096, EVERYONE),
    # A service met a record that no honest worker sends: the master ends that worker.
    Kind(DROP_PEER, "drop peer", LEASE_BREAK, 0, PEER.size, SERVICES),
)


def sender_class(slot: int) -> str:
    """The word for a slot in ``Kind.senders``; ValueError for a slot that nothing can have."""
    if slot >= FIRST_WORKER:
        return "worker"
    names = {MASTER: "master", AUTHD: "authd", SRVSVC: "srvsvc", BROKER: "broker", HOST: "host"}
    if slot not in names:
        raise ValueError(f"no role has slot {slot}")
    return names[slot]


def table(kinds: Iterable[Kind]) -> dict[int, Kind]:
    """All kinds by number; ValueError when two claim one number."""
    by_number: dict[int, Kind] = {}
    for kind in kinds:
        if by_number.setdefault(kind.number, kind) != kind:
            raise ValueError(f"kind {kind.number:#06x} is both {by_number[kind.number].name!r} and {kind.name!r}")
    return by_number


class Message(NamedTuple):
    """One record as received. ``buffer`` is set when ``payload`` lies in a pool buffer: call ``release`` when done.

    ``descriptors``: all that were sent, or none where this process has no room for them.
    """

    kind: int
    sender: int
    generation: int
    id: int
    payload: bytes | memoryview
    descriptors: tuple[int, ...] = ()
    buffer: Buffer | None = None

    def release(self) -> None:
        """Give the pool buffer back, if there is one; ``payload`` must not be used afterwards."""
        if self.buffer is not None:
            self.buffer.release()

    def close_descriptors(self) -> None:
        """Close what came along and is not wanted."""
        for fd in self.descriptors:
            port.files.close(fd)


class HubClosed(ConnectionError):
    """The master is gone: end."""


class AskError(Exception):
    """A question has no answer."""


class AskTimeout(AskError):
    """Nobody answered in time."""


class AskBusy(AskError):
    """The other side has too much to do; the question was not delivered."""


class AskGone(AskError):
    """The process asked does not exist any more."""


class Ask(Protocol):
    """How client stubs ask; given to them by whoever drives a loop."""

    async def __call__(self, destination: int, kind: int, payload: bytes = b"", timeout: float = 30.0) -> Message:
        """The answer. AskTimeout, AskBusy or AskGone without one."""
        ...


def failure(message: Message) -> AskError | None:
    """The error that an answer stands for; None when it is an answer indeed."""
    if message.kind == ANSWER_BUSY:
        return AskBusy(f"busy: question {message.id}")
    if message.kind == ANSWER_GONE:
        return AskGone(f"gone: question {message.id}")
    return None


def pack(peer: int, kind: int, payload: bytes | memoryview = b"", *, id: int = 0, generation: int = ANY_GENERATION) -> bytes:
    """A whole record in one piece."""
    return b"".join((RECORD.pack(peer, generation, kind, 0, len(payload), id), payload))


def unpack(record: memoryview) -> tuple[Record, memoryview]:
    """A whole record's head and payload; WireError when the length it names is not what follows."""
    head = RECORD.unpack(record)
    payload = record[RECORD.size :]
    if head.length != len(payload):
        raise WireError(f"record of kind {head.kind:#06x}: {len(payload)} bytes of payload, {head.length} named")
    return head, payload
