"""The hub: records from one child to another, through the master.

Owns: the master's end of every pair, what waits for each peer, and which requests have no answer yet.
Invariants: a receiver sees the true sender (slot and generation are stamped here); a record whose kind, size, descriptors or sender are not
permitted by its row in the table is not delivered and ends its sender; an answer reaches only the very process that asked, and only while
the question is open; nothing here blocks.

A service's peer outlives its processes: what waits for it, and what was delivered but not answered when it died, reaches the next one.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pools import port, queue
from pools.layout import WireError
from pools.queue import ANSWER_BUSY, ANSWER_GONE, ANY_GENERATION, MASTER, MAX_DESCRIPTORS, MAX_RECORD, RECORD, Kind, Record, sender_class
from smbd.reactor import Reactor

BACKLOG_RECORDS = 1024
BACKLOG_BYTES = 16 << 20
UNREAD_ANSWERS = 4 * BACKLOG_RECORDS
"""Waiting records at which a process hears no answer of the master's any more."""
OPEN_QUESTIONS = 1024
OPEN_QUESTION_BYTES = 4 << 20
"""What one process may have asked without an answer; past it, it hears BUSY."""
STUCK_AFTER = 10.0
FORGET_AFTER = 120.0
"""Seconds after which a question counts as abandoned: who asks gives up after 30."""
ATTEMPTS = 3
"""A request that was delivered so often to a service that died of something is not tried again."""
RECORDS_PER_TURN = 32
DRAIN_RECORDS = 4096
PRIORITIES = 4


class Parcel(NamedTuple):
    """One stamped record. Descriptors are owned by whoever holds the parcel."""

    head: Record
    record: bytes | memoryview
    descriptors: tuple[int, ...]
    kind: Kind


class Delivery(NamedTuple):
    """A message to the master itself. Descriptors are closed when the handler returns."""

    sender: int
    generation: int
    id: int
    payload: memoryview


class Question(NamedTuple):
    """Names a request: asking slot, its generation, its id."""

    slot: int
    generation: int
    id: int


@dataclass(slots=True)
class Open:
    """A request without an answer yet. ``record`` is kept for services only, to be delivered again; ``queued``: it stands in a lane."""

    kind: int
    since: float
    size: int
    record: bytes | None
    delivered: int = 0
    queued: bool = False


@dataclass(slots=True)
class Peer:
    """One address. ``sock`` is None while a service is between two processes."""

    slot: int
    generation: int
    role: str
    sock: socket.socket | None
    moved: float = 0.0
    waiting: int = 0
    waiting_bytes: int = 0
    lanes: tuple[deque[Parcel], ...] = field(default_factory=lambda: tuple(deque() for _ in range(PRIORITIES)))
    unanswered: dict[Question, Open] = field(default_factory=dict)
    asked: dict[tuple[int, int], int] = field(default_factory=dict)
    asked_bytes: int = 0
    deaf: bool = False
    """Nothing is read from it any more: it closed its end, or sent what it may not."""

    @property
    def lasting(self) -> bool:
        """Whether the address survives its process."""
        return self.slot < queue.FIRST_WORKER


@dataclass(slots=True)
class Traffic:
    """What was passed on, refused because a queue was full, and answered to no open question."""

    routed: int = 0
    busy: int = 0
    stray: int = 0


class Hub:
    """``clock`` in seconds; ``condemn(slot, generation, reason)`` ends a peer; ``handlers`` take what is sent to the master."""

    def __init__(
        self,
        kinds: Mapping[int, Kind],
        reactor: Reactor,
        clock: Callable[[], float],
        condemn: Callable[[int, int, str], None],
    ) -> None:
        self._kinds = kinds
        self._reactor = reactor
        self._clock = clock
        self._condemn = condemn
        self._peers: dict[int, Peer] = {}
        self._landing = memoryview(bytearray(MAX_RECORD))
        self.handlers: dict[int, Callable[[Delivery], None]] = {}
        self.traffic = Traffic()

    # --- peers come and go ---------------------------------------------------------------------------------------

    def expect(self, slot: int, role: str) -> None:
        """A service that will come: what is sent to it waits from now on."""
        self._peers.setdefault(slot, Peer(slot, 0, role, None))

    def attach(self, slot: int, generation: int, sock: socket.socket) -> None:
        """A process was started; ``sock`` is the master's end of its pair and belongs to the hub from now on."""
        peer = self._peers.get(slot)
        if peer is None:
            peer = self._peers[slot] = Peer(slot, generation, sender_class(slot), None)
        peer.generation, peer.sock, peer.moved, peer.deaf = generation, sock, self._clock(), False
        self._reactor.add(sock.fileno(), lambda events: self._ready(peer, events))
        self._flush(peer)

    def detach(self, slot: int) -> None:
        """The process of ``slot`` is dead: its last words are delivered, its questions forgotten, those to it settled."""
        peer = self._peers.get(slot)
        if peer is None:
            return
        self._read(peer, DRAIN_RECORDS)
        self._hang_up(peer)
        for (destination, question_id), _ in list(peer.asked.items()):
            self._close_question(destination, Question(peer.slot, peer.generation, question_id))
        if peer.lasting:
            self._put_back(peer)
            return
        del self._peers[slot]
        for lane in peer.lanes:
            for parcel in lane:
                _close_all(parcel.descriptors)
        for question in list(peer.unanswered):
            self._forget(peer, question)
            self._tell(question, ANSWER_GONE)

    def end_stream(self, slot: int) -> None:
        """``slot`` reads the end of its stream after what it was sent: a worker ends of this. What it still says is heard."""
        peer = self._peers.get(slot)
        if peer is not None and peer.sock is not None:
            peer.sock.shutdown(socket.SHUT_WR)

    def forsake(self, slot: int) -> None:
        """A service will not come back (orderly stop): who waits for it hears GONE."""
        peer = self._peers.get(slot)
        if peer is not None and peer.sock is None:
            for question in list(peer.unanswered):
                self._forget(peer, question)
                self._tell(question, ANSWER_GONE)

    # --- the master's own messages ---------------------------------------------------------------------------------

    def send(self, slot: int, kind: int, payload: bytes = b"", *, id: int = 0, descriptors: tuple[int, ...] = ()) -> None:
        """A message from the master. It is never refused: the master says little, and what it says matters. The hub takes the descriptors.

        But who asks on and on and reads none of the answers must not fill this process with them.
        """
        peer = self._peers.get(slot)
        if peer is None:
            _close_all(descriptors)
            return
        if id and peer.waiting >= UNREAD_ANSWERS:
            if not peer.lasting and not peer.deaf:
                self._ignore(peer)
                self._condemn(peer.slot, peer.generation, f"asked and read none of {peer.waiting} messages")
            return
        head = Record(MASTER, ANY_GENERATION, kind, 0, len(payload), id)
        self._deliver(peer, Parcel(head, RECORD.pack(*head) + payload, descriptors, self._kinds[kind]))

    def unsent(self, slot: int, kind: int) -> list[bytes]:
        """The payloads of the master's messages of a kind that wait for ``slot``."""
        peer = self._peers.get(slot)
        lanes = peer.lanes if peer is not None else ()
        return [bytes(one.record[RECORD.size :]) for lane in lanes for one in lane if one.head.kind == kind]

    def broadcast(self, kind: int, payload: bytes = b"", *, workers: bool, services: bool) -> None:
        """The same message to many that live. The next process of a service begins with what is true then, and needs no word of it."""
        for peer in list(self._peers.values()):
            if peer.sock is not None and (services if peer.lasting else workers):
                self.send(peer.slot, kind, payload)

    # --- reading -----------------------------------------------------------------------------------------------------

    def _ready(self, peer: Peer, events: int) -> None:
        if events & port.WRITABLE:
            self._flush(peer)
        if events & ~port.WRITABLE and self._read(peer, RECORDS_PER_TURN):
            # Its process ends; if it does not, the rule for those who do not move applies.
            self._ignore(peer)

    def _ignore(self, peer: Peer) -> None:
        peer.deaf = True
        peer.moved = self._clock()
        if peer.sock is not None:
            self._reactor.remove(peer.sock.fileno())

    def _read(self, peer: Peer, limit: int) -> bool:
        """Route what the peer sent; True at the end of its stream."""
        for _ in range(limit):
            if peer.sock is None or peer.deaf:
                return False
            try:
                size, descriptors, truncated = port.sockets.receive_record(peer.sock, (self._landing,), MAX_DESCRIPTORS)
            except BlockingIOError:
                return False
            except ConnectionResetError:
                return True
            if size == 0:
                return True
            wrong = self._check(peer, size, descriptors, truncated)
            if wrong:
                _close_all(descriptors)
                self._ignore(peer)
                self._condemn(peer.slot, peer.generation, wrong)
                return False
            self._route(peer, self._landing[:size], descriptors)
        return False

    def _check(self, peer: Peer, size: int, descriptors: tuple[int, ...], truncated: bool) -> str:
        """The permit table: why this record is not permitted, or ''."""
        if truncated:
            return "sent a record too large or with too many descriptors"
        try:
            head, _ = queue.unpack(self._landing[:size])
        except WireError as error:
            return f"sent a malformed record: {error}"
        kind = self._kinds.get(head.kind)
        if kind is None:
            return f"sent the unknown kind {head.kind:#06x}"
        if peer.role not in kind.senders:
            return f"sent {kind.name}, which a {peer.role} may not send"
        if head.length > kind.max_payload or len(descriptors) > kind.descriptors:
            return f"sent {kind.name} with {head.length} bytes and {len(descriptors)} descriptors"
        return ""

    # --- routing -----------------------------------------------------------------------------------------------------

    def _route(self, sender: Peer, record: memoryview, descriptors: tuple[int, ...]) -> None:
        """Stamp and pass on. The landing buffer is reused: what is kept is copied."""
        asked = RECORD.unpack(record)
        kind = self._kinds[asked.kind]
        head = asked._replace(peer=sender.slot, generation=sender.generation)
        RECORD.pack_into(record, 0, *head)
        self.traffic.routed += 1
        parcel = Parcel(head, record, descriptors, kind)
        if asked.peer == MASTER:
            self._own(sender, parcel)
            return
        peer = self._peers.get(asked.peer)
        if peer is None or asked.generation not in (ANY_GENERATION, peer.generation):
            self._refuse(parcel, ANSWER_GONE)
        elif asked.kind & 1:
            self._answer(sender, peer, parcel)
        elif self._is_question(asked) and not self._open_question(sender, peer, parcel):
            self._refuse(parcel, ANSWER_BUSY)
        elif peer.waiting >= BACKLOG_RECORDS or peer.waiting_bytes >= BACKLOG_BYTES:
            self._close_question(peer.slot, Question(sender.slot, sender.generation, asked.id))
            self._refuse(parcel, ANSWER_BUSY)
        else:
            self._deliver(peer, parcel)

    def _own(self, sender: Peer, parcel: Parcel) -> None:
        handler = self.handlers.get(parcel.head.kind)
        if handler is not None:
            try:
                handler(Delivery(sender.slot, sender.generation, parcel.head.id, memoryview(parcel.record)[RECORD.size :]))
            except WireError as error:
                self._ignore(sender)
                self._condemn(sender.slot, sender.generation, f"sent a malformed {parcel.kind.name}: {error}")
            finally:
                _close_all(parcel.descriptors)
        elif parcel.head.kind == queue.PING:
            self.send(sender.slot, queue.PONG, bytes(parcel.record[RECORD.size :]), id=parcel.head.id)
        else:
            self._refuse(parcel, ANSWER_GONE)

    def _refuse(self, parcel: Parcel, answer: int) -> None:
        """Not delivered. Who asked hears why; a notice or an answer is dropped."""
        _close_all(parcel.descriptors)
        if answer == ANSWER_BUSY:
            self.traffic.busy += 1
        if self._is_question(parcel.head):
            self.send(parcel.head.peer, answer, id=parcel.head.id)

    def _is_question(self, head: Record) -> bool:
        return head.id != 0 and not head.kind & 1 and head.kind + 1 in self._kinds

    def _open_question(self, sender: Peer, peer: Peer, parcel: Parcel) -> bool:
        """Remember a request until it is answered; False when its sender has too many open."""
        size = len(parcel.record) if peer.lasting else RECORD.size
        if len(sender.asked) >= OPEN_QUESTIONS or sender.asked_bytes + size > OPEN_QUESTION_BYTES:
            return False
        question = Question(sender.slot, sender.generation, parcel.head.id)
        self._close_question(peer.slot, question)
        # Descriptors cannot be sent twice without keeping them: such a request is not delivered again.
        record = bytes(parcel.record) if peer.lasting and not parcel.descriptors else None
        peer.unanswered[question] = Open(parcel.head.kind, self._clock(), size, record)
        sender.asked[peer.slot, question.id] = size
        sender.asked_bytes += size
        return True

    def _close_question(self, destination: int, question: Question) -> None:
        peer = self._peers.get(destination)
        if peer is not None:
            self._forget(peer, question)

    def _forget(self, peer: Peer, question: Question) -> Open | None:
        """Take a question off both books."""
        found = peer.unanswered.pop(question, None)
        asker = self._peers.get(question.slot)
        if found is not None and asker is not None and asker.generation == question.generation:
            asker.asked_bytes -= asker.asked.pop((peer.slot, question.id), 0)
        return found

    def _answer(self, sender: Peer, peer: Peer, parcel: Parcel) -> None:
        """An answer passes only if that very question is open: no process hears what its predecessor asked."""
        question = Question(peer.slot, peer.generation, parcel.head.id)
        found = sender.unanswered.get(question)
        if found is None or parcel.head.kind not in (found.kind + 1, ANSWER_BUSY):
            self.traffic.stray += 1
            _close_all(parcel.descriptors)
            return
        self._forget(sender, question)
        self._deliver(peer, parcel)

    def _tell(self, question: Question, answer: int) -> None:
        asker = self._peers.get(question.slot)
        if asker is not None and asker.generation == question.generation:
            self.send(question.slot, answer, id=question.id)

    # --- delivering --------------------------------------------------------------------------------------------------

    def _deliver(self, peer: Peer, parcel: Parcel) -> None:
        """Send now if nothing waits and the socket has room, else keep."""
        if peer.sock is not None and not peer.waiting and self._push(peer, parcel):
            return
        if not peer.waiting:
            peer.moved = self._clock()
        self._keep(peer, parcel._replace(record=bytes(parcel.record)))
        if peer.sock is not None and peer.waiting == 1:
            self._want_write(peer, True)

    def _keep(self, peer: Peer, parcel: Parcel, *, first: bool = False) -> None:
        lane = peer.lanes[min(parcel.kind.priority, PRIORITIES - 1)]
        if first:
            lane.appendleft(parcel)
        else:
            lane.append(parcel)
        peer.waiting += 1
        peer.waiting_bytes += len(parcel.record)
        question = self._asked(peer, parcel.head)
        if question is not None:
            question.queued = True

    def _asked(self, peer: Peer, head: Record) -> Open | None:
        """The open question that a record for ``peer`` is."""
        return peer.unanswered.get(Question(head.peer, head.generation, head.id)) if head.id and not head.kind & 1 else None

    def _push(self, peer: Peer, parcel: Parcel) -> bool:
        """Hand one record to the kernel; False when it must wait. Its descriptors are closed here once they are on their way."""
        if peer.sock is None:
            return False
        try:
            port.sockets.send_record(peer.sock, (parcel.record,), parcel.descriptors)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return False
        _close_all(parcel.descriptors)
        question = self._asked(peer, parcel.head)
        if question is not None:
            question.delivered += 1
            question.queued = False
        return True

    def _flush(self, peer: Peer) -> None:
        """Send what waits, most urgent first, until the socket is full."""
        for lane in peer.lanes:
            while lane:
                if not self._push(peer, lane[0]):
                    self._want_write(peer, True)
                    return
                parcel = lane.popleft()
                peer.waiting -= 1
                peer.waiting_bytes -= len(parcel.record)
                peer.moved = self._clock()
        self._want_write(peer, False)

    def _want_write(self, peer: Peer, wanted: bool) -> None:
        if peer.sock is not None:
            self._reactor.want_write(peer.sock.fileno(), wanted)

    def _hang_up(self, peer: Peer) -> None:
        if peer.sock is not None:
            self._reactor.remove(peer.sock.fileno())
            peer.sock.close()
            peer.sock = None

    def _put_back(self, peer: Peer) -> None:
        """A service died: what it took and did not answer goes to the head of what waits for the next one. What it never took is there."""
        for question, found in reversed(list(peer.unanswered.items())):
            if found.queued:
                continue
            if found.record is None or found.delivered >= ATTEMPTS:
                self._forget(peer, question)
                self._tell(question, ANSWER_GONE)
                continue
            kind = self._kinds[found.kind]
            self._keep(peer, Parcel(RECORD.unpack(found.record), found.record, (), kind), first=True)

    # --- time --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Condemn who does not move, forget what nobody waits for any more."""
        for peer in list(self._peers.values()):
            if peer.sock is not None and (peer.waiting or peer.deaf) and now - peer.moved > STUCK_AFTER:
                self._condemn(peer.slot, peer.generation, f"took none of {peer.waiting} messages for {STUCK_AFTER:.0f} s")
            while peer.unanswered:
                question = next(iter(peer.unanswered))
                if now - peer.unanswered[question].since < FORGET_AFTER:
                    break
                self._forget(peer, question)


def _close_all(descriptors: tuple[int, ...]) -> None:
    for fd in descriptors:
        port.files.close(fd)
