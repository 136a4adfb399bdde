"""What a worker may ask the RPC server: the life of a named pipe.

Owns: nothing but the phrasing. Invariant: a refusal comes back as ``SmbError`` with the status to answer; an unreachable server as
AskError. The data is opaque here.
"""

from __future__ import annotations

from typing import Protocol

from pools.layout import Readable
from pools.queue import SRVSVC, Ask
from smbd.smb2 import status
from smbd.smb2.status import SmbError
from srvsvc.messages import (
    CLOSE,
    CLOSE_PIPE,
    DATA,
    MAX_DATA,
    OPEN_PIPE,
    OPENED,
    READ_PIPE,
    RESULT,
    TRANSCEIVE_PIPE,
    WRITE_PIPE,
    Caller,
    pack_open,
)

__all__ = ["Caller", "close_pipe", "open_pipe", "read", "transceive", "write"]


class Send(Protocol):
    """``Endpoint.send``: hands a message over without waiting for an answer."""

    def __call__(self, destination: int, kind: int, payload: bytes = b"") -> None: ...


async def open_pipe(ask: Ask, name: str, caller: Caller) -> int:
    """Open the pipe ``name`` (as in CREATE on IPC$, any case); its handle. OBJECT_NAME_NOT_FOUND when there is no such pipe."""
    answer = await ask(SRVSVC, OPEN_PIPE.number, pack_open(name, caller))
    code, handle = OPENED.unpack(answer.payload)
    if code != status.SUCCESS:
        raise SmbError(code)
    return handle


async def write(ask: Ask, handle: int, data: Readable) -> int:
    """Write all of ``data``; its length."""
    for start in range(0, len(data), MAX_DATA):
        part = bytes(data[start : start + MAX_DATA])
        answer = await ask(SRVSVC, WRITE_PIPE.number, DATA.pack(handle, 0) + part)
        code, _ = RESULT.unpack(answer.payload)
        if code != status.SUCCESS:
            raise SmbError(code)
    return len(data)


async def read(ask: Ask, handle: int, max_output: int) -> tuple[bytes, bool]:
    """(at most ``max_output`` bytes of the oldest message, whether that message goes on). PIPE_EMPTY when there is none."""
    answer = await ask(SRVSVC, READ_PIPE.number, DATA.pack(handle, min(max_output, MAX_DATA)))
    return _output(answer.payload)


async def transceive(ask: Ask, handle: int, data: Readable, max_output: int) -> tuple[bytes, bool]:
    """FSCTL_PIPE_TRANSCEIVE: write, then read. (bytes, whether the message goes on: answer BUFFER_OVERFLOW)."""
    if len(data) > MAX_DATA:
        raise SmbError(status.INVALID_PARAMETER)
    answer = await ask(SRVSVC, TRANSCEIVE_PIPE.number, DATA.pack(handle, min(max_output, MAX_DATA)) + bytes(data))
    return _output(answer.payload)


def close_pipe(send: Send, handle: int) -> None:
    """The pipe is closed; nothing is waited for."""
    send(SRVSVC, CLOSE_PIPE.number, CLOSE.pack(handle))


def _output(payload: Readable) -> tuple[bytes, bool]:
    code, _ = RESULT.unpack(payload)
    if code not in (status.SUCCESS, status.BUFFER_OVERFLOW):
        raise SmbError(code)
    return bytes(payload[RESULT.size :]), code == status.BUFFER_OVERFLOW
