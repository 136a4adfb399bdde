"""FSCTLs about the connection and about pipes: [MS-SMB2] 3.3.5.15.2, .8, .11, .12 and [MS-FSCC] 2.3.45 to 2.3.50."""

from __future__ import annotations

import ipaddress
from collections.abc import Coroutine
from typing import Any

from smbd.smb2 import status
from smbd.smb2.messages.ioctl import (
    NETWORK_INTERFACE_INFO,
    PIPE_PEEK_REPLY,
    SOCKADDR_FAMILY_IPV4,
    SOCKADDR_FAMILY_IPV6,
    SOCKADDR_IN,
    SOCKADDR_IN6,
    SOCKADDR_STORAGE_SIZE,
)
from smbd.smb2.status import SmbError
from workers.commands import pipe
from workers.interfaces import interfaces
from workers.request import Request

CONNECTED = 3  # [MS-FSCC] 2.3.46 FILE_PIPE_CONNECTED_STATE


def validate_negotiate(request: Request, data: memoryview, max_output: int) -> bytes:
    """3.3.5.15.12: a difference ends the connection."""
    return request.line.connection.validate_negotiate(data, max_output)


def network_interfaces(request: Request, data: memoryview, max_output: int) -> bytes:
    """3.3.5.15.11: one entry per address, with the interface's speed."""
    dialect = request.line.connection.dialect
    if dialect is None or not dialect.smb3:
        raise SmbError(status.INVALID_DEVICE_REQUEST)
    entries = interfaces(request.worker.config.interfaces)
    size = NETWORK_INTERFACE_INFO.size + SOCKADDR_STORAGE_SIZE
    if size * len(entries) > max_output:
        raise SmbError(status.BUFFER_TOO_SMALL)
    output = b""
    for number, one in enumerate(entries):
        following = size if number + 1 < len(entries) else 0
        output += NETWORK_INTERFACE_INFO.pack(following, one.if_index, one.capability, 0, one.speed) + _sockaddr(one.address)
    return output


def _sockaddr(address: str) -> bytes:
    """2.2.32.5.1 SOCKADDR_STORAGE."""
    parsed = ipaddress.ip_address(address)
    if parsed.version == 4:
        packed = SOCKADDR_IN.pack(SOCKADDR_FAMILY_IPV4, 0, int.from_bytes(parsed.packed, "little"), 0)
    else:
        packed = SOCKADDR_IN6.pack(SOCKADDR_FAMILY_IPV6, 0, 0, parsed.packed, 0)
    return packed.ljust(SOCKADDR_STORAGE_SIZE, b"\0")


def pipe_transceive(request: Request, data: memoryview, max_output: int) -> Coroutine[Any, None, tuple[bytes, int]]:
    """[MS-FSCC] 2.3.47: one write, one read."""
    return pipe.transceive(request, data, max_output)


def pipe_peek(request: Request, data: memoryview, max_output: int) -> bytes:
    """[MS-FSCC] 2.3.45: the pipe is connected; what lies in it is read by READ."""
    if max_output < PIPE_PEEK_REPLY.size:
        raise SmbError(status.BUFFER_TOO_SMALL)
    return PIPE_PEEK_REPLY.pack(CONNECTED, 0, 0, 0)


def pipe_wait(request: Request, data: memoryview, max_output: int) -> bytes:
    """[MS-FSCC] 2.3.49: our pipes always have a free instance."""
    if not request.tree.is_pipe:
        raise SmbError(status.INVALID_DEVICE_REQUEST)
    return b""
