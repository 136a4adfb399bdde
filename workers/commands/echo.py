"""ECHO: [MS-SMB2] 2.2.28, 3.3.5.17."""

from __future__ import annotations

from smbd.smb2.messages.control import ECHO_RESPONSE, ECHO_STRUCTURE_SIZE, EchoRequest
from workers.request import Request

RESPONSE = ECHO_RESPONSE.pack(ECHO_STRUCTURE_SIZE, 0)


def echo(request: Request, body: EchoRequest) -> bytes:
    """Say that the connection lives."""
    return RESPONSE
