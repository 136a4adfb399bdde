"""Worker to worker: the kinds 0x0500 and their payloads.

Owns: numbers, priorities and layouts of what workers (and services that close a client's things) tell each other.
Invariant: each payload is a layout plus at most two counted strings; a receiver that does not know the id it is told ignores the message,
because the thing it named has ended meanwhile.

LOCK_WAKE, NOTIFY and SWEEP (to the broker: a disconnected open has ended and may have left something to be deleted) want no answer, nor
does an OPLOCK_BREAK or a KEEP without an id. Others, CLOSE_FILE and CLOSE_SESSION are answered by kind + 1 with STATUS_ANSWER when the
work is done.
"""

from __future__ import annotations

from typing import NamedTuple

from pools.layout import U8, U16, U32, U64, Layout, Raw16, Readable
from pools.queue import Kind
from smbd.sharing.records import pack_strings, unpack_strings
from smbd.sharing.values import Notice

_WORKERS = frozenset({"worker"})
_CLOSERS = frozenset({"worker", "srvsvc", "broker", "master"})
ADMINISTRATOR = 0
PREVIOUS_SESSION = 1
"""Reasons of a CLOSE_SESSION; the second: its client has come back, and its opens may be preserved ([MS-SMB2] 3.3.5.5.3)."""

_WAKERS = frozenset({"worker", "broker"})

MAX_NOTIFY = 32 << 10
"""Two paths of a rename: each up to 4,095 bytes on disk, of which each may take three as clients are shown it."""

NOTIFY = Kind(0x0500, "notify", 3, 0, MAX_NOTIFY, _WAKERS)
LOCK_WAKE = Kind(0x0502, "lock_wake", 0, 0, 64, _WAKERS)
OPLOCK_BREAK = Kind(0x0504, "oplock_break", 0, 0, 128, _WAKERS)
OPLOCK_BREAK_ANSWER = Kind(0x0505, "oplock_break_answer", 0, 0, 64, _WORKERS)
CLOSE_FILE = Kind(0x0508, "close_file", 3, 0, 64, _CLOSERS)
CLOSE_FILE_ANSWER = Kind(0x0509, "close_file_answer", 3, 0, 64, _WAKERS)
CLOSE_SESSION = Kind(0x050A, "close_session", 1, 0, 64, _CLOSERS)
CLOSE_SESSION_ANSWER = Kind(0x050B, "close_session_answer", 1, 0, 64, _WORKERS)
KEEP = Kind(0x050E, "keep", 0, 0, 64, _WORKERS)
KEEP_ANSWER = Kind(0x050F, "keep_answer", 0, 0, 64, frozenset({"broker"}))
SWEEP = Kind(0x050C, "sweep", 0, 0, 0, _WORKERS)

KINDS: tuple[Kind, ...] = (
    NOTIFY, LOCK_WAKE, OPLOCK_BREAK, OPLOCK_BREAK_ANSWER, CLOSE_FILE, CLOSE_FILE_ANSWER, CLOSE_SESSION, CLOSE_SESSION_ANSWER,
    KEEP, KEEP_ANSWER, SWEEP,
)  # fmt: skip


DOOMED = 0


class Notify(NamedTuple):
    """A change for one watch. ``action`` is [MS-FSCC] 2.7.1's; the name follows, and the new name after it for a rename (else '').

    ``DOOMED`` in place of an action: the watched directory itself is to be deleted.
    """

    watch_id: U64
    action: U32
    reserved: U32


class LockWake(NamedTuple):
    """A range was unlocked or a break is over: the waiter tries again."""

    waiter_id: U64


class OplockBreak(NamedTuple):
    """The cache of an open or, when ``lease`` is 1, of a lease goes from ``current`` to ``state`` (bits of 2.2.13.2.8).

    ``acknowledge`` 1: the client is to say so before ``deadline``, ns of the machine's monotonic clock. ``file_id``: an open of it.
    ``generation``: the low bits of its process's, for the slot may have another one by now.
    """

    file_id: U64
    deadline: U64
    epoch: U16
    current: U8
    state: U8
    lease: U8
    acknowledge: U8
    generation: U16
    lease_key: Raw16


class CloseFile(NamedTuple):
    """Close one open as if its client had: to its worker, or to the broker when it is disconnected."""

    file_id: U64


class Keep(NamedTuple):
    """To the broker: what the tables say of this persistent open, or that it is gone, is to be on the disk."""

    file_id: U64


class CloseSession(NamedTuple):
    """End one session: as if its client had logged off, or as if its connection were lost. ``reason``: who wants it, as below."""

    session_id: U64
    reason: U32


class StatusAnswer(NamedTuple):
    """NTSTATUS of what was asked."""

    status: U32


NOTIFY_LAYOUT = Layout(Notify)
LOCK_WAKE_LAYOUT = Layout(LockWake)
OPLOCK_BREAK_LAYOUT = Layout(OplockBreak)
CLOSE_FILE_LAYOUT = Layout(CloseFile)
KEEP_LAYOUT = Layout(Keep)
CLOSE_SESSION_LAYOUT = Layout(CloseSession)
STATUS_ANSWER = Layout(StatusAnswer)


def pack_break(notice: Notice) -> bytes:
    """Payload of OPLOCK_BREAK."""
    return OPLOCK_BREAK_LAYOUT.pack(*break_of(notice))


def break_of(notice: Notice) -> OplockBreak:
    """What the holder's worker is to know of a break."""
    acknowledge, generation = int(bool(notice.deadline)), notice.generation & 0xFFFF
    states = notice.epoch, notice.current, notice.state
    return OplockBreak(notice.file_id, notice.deadline, *states, int(notice.lease), acknowledge, generation, notice.lease_key)


def pack_notify(watch_id: int, action: int, name: str, new_name: str = "") -> bytes:
    """Payload of NOTIFY."""
    return NOTIFY_LAYOUT.pack(watch_id, action, 0) + pack_strings(name, new_name)


def unpack_notify(payload: Readable) -> tuple[Notify, str, str]:
    """Payload of NOTIFY: fixed part, name, new name ('' when there is none)."""
    fixed = NOTIFY_LAYOUT.unpack(payload)
    name, new_name = unpack_strings(payload, NOTIFY_LAYOUT.size, 2)
    return fixed, name, new_name
