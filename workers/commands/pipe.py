"""Named pipes on IPC$ ([MS-SMB2] 3.3.5.9.1 and the pipe parts of READ, WRITE, CLOSE and IOCTL): handed to the RPC service.

Owns: the translation between requests and ``srvsvc.client``. Invariant: an Open with ``pipe`` set has no file; the service forgets the pipe
at CLOSE or when this worker ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pools.queue import AskBusy, AskError
from smbd.smb2 import status
from smbd.smb2.constants import FILE_ATTRIBUTE_NORMAL, FILE_OPENED
from smbd.smb2.messages.create import CREATE_RESPONSE, CREATE_RESPONSE_STRUCTURE_SIZE
from smbd.smb2.messages.file import (
    CLOSE_RESPONSE,
    CLOSE_RESPONSE_STRUCTURE_SIZE,
    READ_RESPONSE,
    READ_RESPONSE_STRUCTURE_SIZE,
    WRITE_RESPONSE,
    WRITE_RESPONSE_STRUCTURE_SIZE,
    ReadRequest,
)
from smbd.smb2.status import SmbError
from srvsvc import client as srvsvc
from workers import replay
from workers.request import Answer, Request

if TYPE_CHECKING:
    from workers.worker import Worker

DATA_OFFSET = 80
ALLOCATION = 4096
PIPE_ACCESS = 0x0012019F  # generic read and write


@contextmanager
def served() -> Iterator[None]:
    """An RPC service that does not answer is PIPE_NOT_AVAILABLE to the client, who may try again."""
    try:
        yield
    except AskError:
        raise SmbError(status.PIPE_NOT_AVAILABLE) from None


async def open_pipe(request: Request, name: str) -> bytes:
    """Open the pipe ``name``, with or without a leading backslash."""
    worker, tree, token = request.worker, request.tree, request.session.require_token()
    if len(worker.opens) >= worker.config.max_open_files:
        raise SmbError(status.TOO_MANY_OPENED_FILES)
    caller = srvsvc.Caller(
        token.name, token.domain, str(token.user_sid), request.line.client_address, token.uid, token.guest, token.anonymous, token.uid == 0
    )
    with served():
        handle = await srvsvc.open_pipe(worker.mailbox.ask, name.removeprefix("\\"), caller)
    if tree.session.trees.get(tree.tree_id) is not tree:
        release(worker, handle)  # disconnected meanwhile: nobody would ever close it
        raise SmbError(status.NETWORK_NAME_DELETED)
    opened = worker.new_open(tree)
    replay.begin(request, opened)
    opened.pipe = handle
    opened.pipe_name = name.removeprefix("\\")
    opened.granted = PIPE_ACCESS
    worker.add_open(opened)
    if request.chain is not None:
        request.chain.open = opened
    ids = (opened.persistent, opened.volatile)
    return CREATE_RESPONSE.pack(
        CREATE_RESPONSE_STRUCTURE_SIZE, 0, 0, FILE_OPENED, 0, 0, 0, 0, ALLOCATION, 0, FILE_ATTRIBUTE_NORMAL, 0, *ids, 0, 0
    )


async def read(request: Request, body: ReadRequest) -> Answer:
    """Bytes of the oldest message; BUFFER_OVERFLOW says that it goes on."""
    with served():
        data, more = await srvsvc.read(request.worker.mailbox.ask, _pipe(request), body.length)
    fixed = READ_RESPONSE.pack(READ_RESPONSE_STRUCTURE_SIZE, DATA_OFFSET, 0, len(data), 0, 0)
    return Answer(fixed + data, status.BUFFER_OVERFLOW if more else status.SUCCESS)


async def write(request: Request, data: memoryview) -> bytes:
    """Bytes to the pipe; the whole is one message or a part of one."""
    taken = bytes(data)
    with served():
        count = await srvsvc.write(request.worker.mailbox.ask, _pipe(request), taken)
    return WRITE_RESPONSE.pack(WRITE_RESPONSE_STRUCTURE_SIZE, 0, count, 0, 0, 0)


async def transceive(request: Request, data: memoryview, max_output: int) -> tuple[bytes, int]:
    """FSCTL_PIPE_TRANSCEIVE: output and status."""
    taken = bytes(data)
    with served():
        output, more = await srvsvc.transceive(request.worker.mailbox.ask, _pipe(request), taken, max_output)
    return output, status.BUFFER_OVERFLOW if more else status.SUCCESS


def close(request: Request) -> bytes:
    """Forget the pipe, here and there."""
    request.worker.remove_open(request.open)
    release(request.worker, _pipe(request))
    return CLOSE_RESPONSE.pack(CLOSE_RESPONSE_STRUCTURE_SIZE, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def release(worker: Worker, handle: int) -> None:
    """Tell the service; one that has no room for the message drops the pipe when this worker ends."""
    try:
        srvsvc.close_pipe(worker.mailbox.send, handle)
    except AskBusy:
        worker.log.warning("a pipe's close could not be told to the RPC service")


def _pipe(request: Request) -> int:
    handle = request.open.pipe
    assert handle is not None
    return handle
