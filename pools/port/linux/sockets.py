"""Sockets on Linux, with sendfile and splice.

Owns: nothing. Contracts are in ``interface.Sockets``.
"""

from __future__ import annotations

import fcntl
import os
import socket
import termios
from collections.abc import Sequence
from contextlib import suppress
from struct import Struct
from typing import Final

from pools.port import portable

KERNEL_FORMAT = True
OPTIONS = portable.OPTIONS
adopt = portable.adopt
connect_local = portable.connect_local
host_name = portable.host_name
interface_index = portable.interface_index
listen_local = portable.listen_local
record_pair = portable.record_pair
reset_at_close = portable.reset_at_close
stream = portable.stream
stream_pair = portable.stream_pair
sendfile = os.sendfile

# Plain numbers: to join two members of an enumeration takes as long as a small send.
_PLAIN: Final = int(socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
_WITH_MORE: Final = _PLAIN | int(socket.MSG_MORE)
_RECEIVE: Final = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)

_COUNT: Final = Struct("i")
_TCP_INFO: Final = Struct("8xI108xQ")  # struct tcp_info (linux/tcp.h): tcpi_rto at 8, tcpi_bytes_acked at 120


def receive_queues(name: str) -> int:
    """What sysfs shows."""
    try:
        found = os.listdir(f"/sys/class/net/{os.path.basename(name)}/queues")
    except OSError:
        return 1
    return max(1, sum(one.startswith("rx-") for one in found))


def send_record(sock: socket.socket, parts: Sequence[bytes | memoryview], descriptors: Sequence[int] = ()) -> None:
    """See ``interface.Sockets``."""
    sock.sendmsg(parts, portable.rights(descriptors), _PLAIN)


def receive_record(sock: socket.socket, into: Sequence[memoryview | bytearray], limit: int = 0) -> tuple[int, tuple[int, ...], bool]:
    """See ``interface.Sockets``."""
    size, ancillary, flags, _ = sock.recvmsg_into(into, portable.room_for_rights(limit), _RECEIVE)
    return size, *portable.arrived(ancillary, limit, flags)


def send_views(sock: socket.socket, views: Sequence[memoryview], more: bool = False) -> int:
    """See ``interface.Sockets``."""
    return sock.sendmsg(views, (), _WITH_MORE if more else _PLAIN)


def progress(sock: socket.socket) -> tuple[int, int, float]:
    """SIOCOUTQ, and TCP_INFO where there is TCP."""
    try:
        flying = _COUNT.unpack(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(_COUNT.size)))[0]
    except OSError:
        return 0, -1, 1.0
    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:
        return 0, flying, 1.0
    if len(told) < _TCP_INFO.size:
        return 0, flying, 1.0
    timeout, acknowledged = _TCP_INFO.unpack(told)
    return acknowledged, flying, timeout / 1e6


def open_pipe(size: int) -> tuple[int, int, int]:
    """Less than ``size`` where the user has too many pages in pipes."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    with suppress(OSError):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, size)
    return reader, writer, fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)


def splice_in(source: int, pipe: int, most: int) -> int:
    """See ``interface.Sockets``."""
    return os.splice(source, pipe, most, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)


def splice_out(pipe: int, target: int, most: int, offset: int | None, more: bool) -> int:
    """See ``interface.Sockets``."""
    flags = os.SPLICE_F_MOVE | (os.SPLICE_F_MORE if more else 0)
    return os.splice(pipe, target, most, offset_dst=offset, flags=flags)


def no_kernel_cipher() -> str:
    """What the kernel's AF_ALG sockets say to AES-GCM."""
    try:
        with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as probe:
            probe.bind(("aead", "gcm(aes)"))
    except (AttributeError, OSError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""
