"""Persistent opens: answers that leave when what they promise is on the disk ([MS-SMB2] 3.3.1.10, Open.IsPersistent).

Owns: the waits for the keeper at CREATE, LOCK and CLOSE. Invariant: what could not be kept, or was cancelled before it was, is
undone; nothing persistent is promised by an answer that a crash could make untrue.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from pools.queue import BROKER, AskBusy, AskError
from smbd.sharing import Parting
from smbd.sharing.messages import KEEP, KEEP_LAYOUT, STATUS_ANSWER
from smbd.smb2 import status
from smbd.smb2.status import SmbError
from workers.loop import Cancelled
from workers.vfs.handle import PosixHandle
from workers.vfs.patient import unwrapped

if TYPE_CHECKING:
    from workers.open import Open
    from workers.opening import Wish
    from workers.request import Answer, Request
    from workers.worker import Worker

Made = bytes | Coroutine[Any, None, "bytes | Answer"]
PATIENCE = 30.0  # seconds: as long as a broker that was killed takes to be there again, and a slow disk to write


async def _keep(worker: Worker, file_id: int) -> None:
    """What the tables say of the open is on the disk afterwards; DISK_FULL, or INSUFFICIENT_RESOURCES where nobody can say so."""
    try:
        answer = await worker.mailbox.ask(BROKER, KEEP.number, KEEP_LAYOUT.pack(file_id), PATIENCE)
    except AskError:
        raise SmbError(status.INSUFFICIENT_RESOURCES) from None
    code = STATUS_ANSWER.unpack(answer.payload).status
    if code != status.SUCCESS:
        raise SmbError(code)


def created(request: Request, wish: Wish, result: Made, undo: Callable[[Open], None]) -> Made:
    """The answer of a CREATE that asked for a persistent open, when that is kept; ``undo`` when it cannot be."""
    return _created(request, wish, result, undo) if wish.wanted.persistent else result


async def _created(request: Request, wish: Wish, result: Made, undo: Callable[[Open], None]) -> bytes | Answer:
    response = result if isinstance(result, bytes) else await result
    opened = wish.made
    if opened is None or not is_kept(opened):
        return response
    try:
        await _keep(request.worker, opened.persistent)
    except (SmbError, Cancelled):
        request.resume()
        undo(opened)
        raise
    request.resume()
    return response


def locked(request: Request, result: Made, undo: Callable[[], None] | None) -> Made:
    """The answer of a LOCK, when a persistent open's locks are kept; ``undo`` when they cannot be.

    Without ``undo`` it is the same all the same: what was unlocked is not locked again. The keeper keeps that when it can.
    """
    return _locked(request, result, undo) if is_kept(request.open) else result


async def _locked(request: Request, result: Made, undo: Callable[[], None] | None) -> bytes | Answer:
    response = result if isinstance(result, bytes) else await result
    worker, opened = request.worker, request.open
    worker.sharing.note(opened.persistent, parting_of(opened))
    try:
        await _keep(worker, opened.persistent)
    except (SmbError, Cancelled) as error:
        if undo is not None:
            undo()
        if undo is not None or isinstance(error, Cancelled):
            raise
        worker.log.info("locks that were given back are still kept: status 0x%08x", error.status)
    request.resume()
    return response


def closed(request: Request, response: bytes) -> Made:
    """The answer of a CLOSE, when a persistent open is kept no longer."""
    return _closed(request, response) if is_kept(request.open) else response


async def _closed(request: Request, response: bytes) -> bytes:
    try:
        await _keep(request.worker, request.open.persistent)
    except SmbError as error:
        # It is closed all the same; the keeper finds out by itself, and says itself when its disk is full.
        request.worker.log.info("a closed persistent open is still kept: status 0x%08x", error.status)
    return response


def is_kept(opened: Open) -> bool:
    """Whether what happens to the open has to be kept on disk."""
    return opened.durability is not None and opened.durability.persistent


def parting_of(opened: Open) -> Parting:
    """What only its worker knows of an open."""
    sequences = bytes(opened.lock_sequences) if opened.lock_sequences is not None else Parting().sequences
    below = unwrapped(opened.handle) if opened.handle is not None else None
    allocation = below.allocated if isinstance(below, PosixHandle) else None
    return Parting(opened.mode, opened.position, sequences, allocation or 0)


def tell_keeper(worker: Worker, opened: Open) -> None:
    """A persistent open has ended, and nobody waits for that."""
    try:
        worker.mailbox.send(BROKER, KEEP.number, KEEP_LAYOUT.pack(opened.persistent))
    except AskBusy:
        return  # the keeper finds out by itself
