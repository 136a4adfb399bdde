"""READ: [MS-SMB2] 2.2.19, 3.3.5.12."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import Any

from pools.pool import HEADROOM, Buffer, PoolExhausted
from smbd.smb2 import status
from smbd.smb2.constants import CHANNEL_NONE
from smbd.smb2.messages.file import READ_RESPONSE, READ_RESPONSE_STRUCTURE_SIZE, ReadRequest
from smbd.smb2.status import SmbError
from workers.commands import pipe
from workers.patience import Turns, patiently
from workers.request import Answer, Request

DATA_OFFSET = 80  # header and fixed response
LAST_OFFSET = 0x7FFFFFFFFFFFFFFF


def read(request: Request, body: ReadRequest) -> Answer | Coroutine[Any, None, bytes | Answer]:
    """Bytes of a file or a pipe, at the place in the reply buffer from which they are sent."""
    if body.length > request.worker.max_read:
        raise SmbError(status.INVALID_PARAMETER)
    request.check_charge(body.length)
    if body.channel != CHANNEL_NONE:
        raise SmbError(status.INVALID_PARAMETER)  # no RDMA here
    if request.open.pipe is not None:
        return pipe.read(request, body)
    if request.open.turns is not None:
        return read_in_turn(request, body, request.open.turns)
    return read_now(request, body)


async def read_in_turn(request: Request, body: ReadRequest, turns: Turns) -> Answer:
    """WRITEs that came before wait for a slow disk: what they write is what is read, and what comes later is not."""
    await turns.take()
    try:
        request.resume()
        answer = read_now(request, body)
        return answer if isinstance(answer, Answer) else await answer
    finally:
        if not turns.give():
            request.open.turns = None


def read_now(request: Request, body: ReadRequest) -> Answer | Coroutine[Any, None, Answer]:
    """From the file itself, from memory, or on a thread from the disk."""
    if body.length >= request.worker.leaves_from:
        answer = read_extent(request, body)
        if answer is not None:
            return answer
    try:
        buffer = request.worker.pool.allocate(body.length)
    except PoolExhausted:
        return read_later(request, body)
    return read_file(request, body, buffer)


async def read_later(request: Request, body: ReadRequest) -> Answer:
    """The pool has no such buffer now: read when it has."""
    answer = read_file(request, body, await request.obtain(body.length))
    return answer if isinstance(answer, Answer) else await answer


def read_file(request: Request, body: ReadRequest, buffer: Buffer) -> Answer | Coroutine[Any, None, Answer]:
    """What is in memory is read at once, what is on the disk by a VFS thread. Takes ``buffer`` over."""
    try:
        check(request, body)
        handle = request.open.handle
        assert handle is not None
        try:
            view = buffer.view[HEADROOM : HEADROOM + body.length]
            return _answer(request, body, buffer, handle.pread_into(view, body.offset, True) if body.length else 0)
        except BlockingIOError:
            return patiently(request, read_cold(request, body, buffer))
    except BaseException:
        buffer.release()
        raise


async def read_cold(request: Request, body: ReadRequest, buffer: Buffer) -> Answer:
    """The disk is asked elsewhere: it may take its time, and this client's other requests do not wait for it.

    A CLOSE meanwhile does not take the answer away: it was asked for later.
    """
    handle = request.open.handle
    assert handle is not None
    try:
        view = buffer.view[HEADROOM : HEADROOM + body.length]
        got = await request.worker.blocking(partial(handle.pread_into, view, body.offset), request.open)
        return _answer(request, body, buffer, got)
    except BaseException:
        buffer.release()
        raise


def _answer(request: Request, body: ReadRequest, buffer: Buffer, got: int) -> Answer:
    """3.3.5.12: fewer bytes than MinimumCount, or none where some were asked for, is END_OF_FILE."""
    if (got == 0 and body.length) or got < body.minimum_count:
        raise SmbError(status.END_OF_FILE)
    request.open.position = body.offset + got
    request.worker.count_read(got)
    return Answer(READ_RESPONSE.pack(READ_RESPONSE_STRUCTURE_SIZE, DATA_OFFSET, 0, got, 0, 0), status.SUCCESS, buffer, got)


def read_extent(request: Request, body: ReadRequest) -> Answer | None:
    """What is sent straight from the file; None where it has to be read: for its protection, for a compound, or for where it lies."""
    if request.sign is not None or request.seal is not None or request.chain is not None:
        return None
    check(request, body)
    opened, offset = request.open, body.offset
    assert opened.handle is not None
    entry = opened.handle.extent(offset, body.length)
    if entry is None:
        return None
    got = entry.length
    if got == 0 or got < body.minimum_count:
        entry.free()
        raise SmbError(status.END_OF_FILE)
    opened.position = offset + got
    request.worker.count_read(got)
    answer = Answer(READ_RESPONSE.pack(READ_RESPONSE_STRUCTURE_SIZE, DATA_OFFSET, 0, got, 0, 0))
    answer.file = entry
    return answer


def check(request: Request, body: ReadRequest) -> None:
    """What has to be so before a byte is read."""
    opened, length, offset = request.open, body.length, body.offset
    if opened.is_directory:
        raise SmbError(status.INVALID_DEVICE_REQUEST)
    if offset > LAST_OFFSET or offset + length > LAST_OFFSET:
        raise SmbError(status.INVALID_PARAMETER)
    assert opened.key is not None
    if length and request.worker.sharing.locks_conflict(opened.key, opened.persistent, offset, length, False):
        raise SmbError(status.FILE_LOCK_CONFLICT)
