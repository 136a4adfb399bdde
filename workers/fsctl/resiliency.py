"""FSCTL_LMR_REQUEST_RESILIENCY: [MS-SMB2] 2.2.31.3, 3.3.5.15.9."""

from __future__ import annotations

from smbd.smb2 import status
from smbd.smb2.messages.ioctl import NETWORK_RESILIENCY_REQUEST
from smbd.smb2.status import SmbError
from workers import reliable
from workers.request import Request

DEFAULT_TIMEOUT = 120_000  # milliseconds, where the request leaves it to the server: what Windows takes
LONGEST_TIMEOUT = 300_000  # MaxResiliencyTimeout


def request_resiliency(request: Request, data: memoryview, max_output: int) -> bytes:
    """The open is to outlive its connection whatever it caches, for the time that is asked for."""
    dialect = request.line.connection.dialect
    if dialect is None or not dialect.leasing:
        raise SmbError(status.INVALID_DEVICE_REQUEST)  # 2.0.2 does not know it
    timeout = NETWORK_RESILIENCY_REQUEST.unpack(data).timeout
    if timeout > LONGEST_TIMEOUT:
        raise SmbError(status.INVALID_PARAMETER)
    opened = request.open
    if opened.is_directory or not opened.tree.share.durable_handles or not reliable.is_somebody(request.session):
        raise SmbError(status.NOT_SUPPORTED)
    reliable.endure(request.worker, opened, timeout or DEFAULT_TIMEOUT)
    return b""
