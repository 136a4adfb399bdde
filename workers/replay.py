"""What a client sends again because it does not know whether it arrived: [MS-SMB2] 3.3.5.2.10, 3.3.5.9.10, 3.3.5.14.

Owns: the channel sequence of an open and the count of its requests under way; the CREATEs by which an open may still be asked for once
more; the lock sequences. Invariants: a WRITE, SET_INFO or IOCTL from before the loss of a channel never overtakes what came after it; a
CREATE that is repeated makes no second open, and is answered with the first one only as long as no other request has named that.

``Open.usual`` is what the short ways compare: the ChannelSequence of a request of which nothing need be known but its command. While a
CREATE may be repeated it is ``UNHEARD``, which no request carries, so that the first request that names the open comes here.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from smbd.sharing import Lasting
from smbd.smb2 import status
from smbd.smb2.constants import CAP_MULTI_CHANNEL, FLAGS_REPLAY_OPERATION
from smbd.smb2.status import SmbError
from workers.reliable import Kind, Reconnect

if TYPE_CHECKING:
    from workers.open import Open
    from workers.opening import Wish
    from workers.request import Answer, Request

SEQUENCE: Final = 0xFFFF  # bits of a request's Status field that are ChannelSequence
AHEAD: Final = 0x7FFF  # in 16-bit arithmetic: further away is behind
UNHEARD: Final = -1
UNCOUNTED: Final = -1

LOCK_ENTRIES: Final = 64  # 3.3.1.10 LockSequenceArray
NOT_VALID: Final = 0  # of an entry, which is LockSequenceNumber + 1 otherwise: as `Parting.sequences` has it


# Channel sequences


def begin(request: Request, opened: Open) -> None:
    """A new open begins with the ChannelSequence of its CREATE: the client may have lost channels before."""
    dialect = request.line.connection.dialect
    if dialect is not None and dialect.smb3:
        opened.channel_sequence = opened.usual = request.header.status & SEQUENCE


def verify(request: Request, opened: Open, *, modifies: bool) -> None:
    """3.3.5.2.10, for a request that is not a usual one. FILE_NOT_AVAILABLE when it comes too late to change anything."""
    header = request.header
    request.worker.creates.heard(opened)
    dialect = request.line.connection.dialect
    if dialect is None or not dialect.smb3:
        return
    sequence = header.status & SEQUENCE
    ahead = (sequence - opened.channel_sequence) & SEQUENCE
    before = opened.outstanding_before if header.flags & FLAGS_REPLAY_OPERATION else 0
    if ahead > AHEAD or before:
        # A request of a channel that is gone; or a repeated one, while the one it repeats may still be under way.
        if modifies:
            raise SmbError(status.FILE_NOT_AVAILABLE)
        request.counted = UNCOUNTED
    elif ahead:
        opened.channel_sequence = opened.usual = sequence
        opened.outstanding_before += opened.outstanding
        opened.outstanding = 0
        opened.turn += 1


def waits(request: Request) -> None:
    """The request's handler did not end at once: it counts among those under way. (One that has ended need not be counted.)"""
    if request.has_open() and request.counted != UNCOUNTED:
        request.open.outstanding += 1
        request.counted = request.open.turn


def over(request: Request) -> None:
    """A request that ``waits`` has ended, whatever its open has become."""
    turn, request.counted = request.counted, 0
    if turn > 0:
        if turn == request.open.turn:
            request.open.outstanding -= 1
        else:
            request.open.outstanding_before -= 1


# CREATEs


class Creates:
    """CREATEs by their CreateGuid: under way, or answered with an open of which the client has not shown yet that it heard."""

    __slots__ = ("_made", "_under_way")

    def __init__(self) -> None:
        self._under_way: set[bytes] = set()
        self._made: dict[bytes, Open] = {}

    def earlier(self, request: Request, wish: Wish) -> Open | None:
        """3.3.5.9.10: the open that the CREATE asks for once more; None when it is the first.

        FILE_NOT_AVAILABLE while that is under way; DUPLICATE_OBJECTID when this one does not claim to be a repetition, or is one of another
        session's, unless that one is about to lose a persistent open with its connection.
        """
        guid = wish.wanted.create_guid
        if guid in self._under_way:
            raise SmbError(status.FILE_NOT_AVAILABLE)
        opened = self._made.get(guid)
        if opened is None:
            return None
        again = request.header.flags & FLAGS_REPLAY_OPERATION
        if again and opened.tree is request.tree:
            return opened
        durability = opened.durability
        if again and opened.session is not request.session and durability is not None and durability.persistent:
            raise SmbError(status.FILE_NOT_AVAILABLE)
        raise SmbError(status.DUPLICATE_OBJECTID)

    def knows(self, guid: bytes) -> bool:
        """Whether a CREATE with this GUID was, or is, this worker's."""
        return guid in self._made or guid in self._under_way

    def begun(self, guid: bytes) -> None:
        """A CREATE is under way from now on."""
        self._under_way.add(guid)

    def over(self, guid: bytes) -> None:
        """It has ended. If it has made no open, the next one is the first again."""
        self._under_way.discard(guid)

    def answered(self, opened: Open, action: int) -> None:
        """A CREATE that is under way here has made an open, by ``action``; once it is over it may be repeated."""
        durability = opened.durability
        if durability is not None:  # one that is only glanced at is closed before its CREATE is answered
            durability.action = action
            self._made[durability.create_guid] = opened
            if not durability.persistent:  # 3.3.5.12 and elsewhere: that one may be asked for as long as it is there
                opened.usual = UNHEARD

    def heard(self, opened: Open) -> None:
        """The client knows of its open: to send the CREATE again would be to ask for another one."""
        if opened.usual == UNHEARD:
            self.forget(opened)
            opened.usual = opened.channel_sequence

    def forget(self, opened: Open) -> None:
        """The open is none that a CREATE may ask for once more: it has ended."""
        durability = opened.durability
        if durability is not None and self._made.get(durability.create_guid) is opened:
            del self._made[durability.create_guid]


def lost(request: Request, wish: Wish) -> Reconnect | None:
    """3.3.5.9.10: a persistent open that the CREATE made on a connection that is lost, so that it is to be taken up again.

    DUPLICATE_OBJECTID when this CREATE is none that is sent again; FILE_NOT_AVAILABLE while the other connection is not known to be lost.
    """
    wanted, worker = wish.wanted, request.worker
    if not wanted.persistent or not request.tree.share.continuous_availability or worker.creates.knows(wanted.create_guid):
        return None
    durable = worker.sharing.find_created(worker.client_guid, wanted.create_guid)
    if durable is None or not durable.claim.lasting & Lasting.PERSISTENT:
        return None
    if not request.header.flags & FLAGS_REPLAY_OPERATION:
        raise SmbError(status.DUPLICATE_OBJECTID)
    if durable.connected:
        raise SmbError(status.FILE_NOT_AVAILABLE)
    return Reconnect(Kind.DURABLE_V2, durable.row.file_id, 0, True, wanted.create_guid)


Made = bytes | Coroutine[Any, None, "bytes | Answer"]


def once(request: Request, wish: Wish, make: Callable[[], Made], repeat: Callable[[Open], bytes]) -> Made:
    """``make()``, unless it has been done before: then ``repeat`` what was answered. Only DH2Q has a GUID to tell that by."""
    if wish.wanted.kind is not Kind.DURABLE_V2:
        return make()
    creates, guid = request.worker.creates, wish.wanted.create_guid
    opened = creates.earlier(request, wish)
    if opened is not None:
        return repeat(opened)
    creates.begun(guid)
    result: Made = b""
    try:
        result = make()
    finally:
        if isinstance(result, bytes):
            creates.over(guid)
    if isinstance(result, bytes):
        return result
    request.kept = True
    return _later(creates, guid, result)


async def _later(creates: Creates, guid: bytes, waiting: Coroutine[Any, None, bytes | Answer]) -> bytes | Answer:
    try:
        return await waiting
    finally:
        creates.over(guid)


# Locks


def lock_entry(request: Request, lock_sequence: int) -> int:
    """3.3.5.14: the entry of LockSequenceArray that a LOCK speaks of, from 0; -1 when it is not to be looked at."""
    index = (lock_sequence >> 4) - 1
    if not 0 <= index < LOCK_ENTRIES:
        return -1
    connection = request.line.connection
    if connection.dialect is None or not connection.dialect.leasing or request.worker.config.smb2_disable_lock_sequence_checking:
        return -1
    durability = request.open.durability
    if durability is not None and durability.kind is not Kind.NONE:
        return index
    return index if connection.choice is not None and connection.choice.capabilities & CAP_MULTI_CHANNEL else -1


def lock_repeats(opened: Open, entry: int, lock_sequence: int) -> bool:
    """Whether this very LOCK has succeeded before. If it has not, the entry says nothing until it does."""
    sequences = opened.lock_sequences
    if sequences is None:
        sequences = opened.lock_sequences = bytearray(LOCK_ENTRIES)
    if sequences[entry] == (lock_sequence & 0xF) + 1:
        return True
    sequences[entry] = NOT_VALID
    return False


def lock_succeeded(opened: Open, entry: int, lock_sequence: int) -> None:
    """Remember it: the same one again is its repetition."""
    if opened.lock_sequences is not None:
        opened.lock_sequences[entry] = (lock_sequence & 0xF) + 1
