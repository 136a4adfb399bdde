"""Sockets without a way around the process: what a client reads or writes passes through memory.

Owns: nothing. Contracts are in ``interface.Sockets``.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from typing import Final

from pools.port import portable

KERNEL_FORMAT = False
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

_PLAIN: Final = int(socket.MSG_DONTWAIT)  # no MSG_NOSIGNAL: the interpreter ignores SIGPIPE


def receive_queues(name: str) -> int:
    """No portable call tells."""
    return 1


def send_record(sock: socket.socket, parts: Sequence[bytes | memoryview], descriptors: Sequence[int] = ()) -> None:
    """See ``interface.Sockets``."""
    sock.sendmsg(parts, portable.rights(descriptors), _PLAIN)


def receive_record(sock: socket.socket, into: Sequence[memoryview | bytearray], limit: int = 0) -> tuple[int, tuple[int, ...], bool]:
    """Descriptors are marked close-on-exec one after the other: this server executes no other program."""
    size, ancillary, flags, _ = sock.recvmsg_into(into, portable.room_for_rights(limit), _PLAIN)
    descriptors, truncated = portable.arrived(ancillary, limit, flags)
    for fd in descriptors:
        os.set_inheritable(fd, False)
    return size, descriptors, truncated


def send_views(sock: socket.socket, views: Sequence[memoryview], more: bool = False) -> int:
    """See ``interface.Sockets``: ``more`` is a hint that this port cannot pass on."""
    del more
    return sock.sendmsg(views, (), _PLAIN)


def sendfile(sock: int, file: int, offset: int, count: int, /) -> int:
    """Each system has another sendfile, or none."""
    raise _not_here()


def progress(sock: socket.socket) -> tuple[int, int, float]:
    """No portable call tells."""
    return 0, -1, 1.0


def open_pipe(size: int) -> tuple[int, int, int]:
    """As it comes; what it holds at least is what one write may put in whole (PIPE_BUF)."""
    del size
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    return reader, writer, os.fpathconf(writer, "PC_PIPE_BUF")


def splice_in(source: int, pipe: int, most: int) -> int:
    """Linux's alone."""
    raise _not_here()


def splice_out(pipe: int, target: int, most: int, offset: int | None, more: bool) -> int:
    """Linux's alone."""
    raise _not_here()


def no_kernel_cipher() -> str:
    """See ``interface.Sockets``."""
    return "port `posix` keeps no payload in the kernel"


def _not_here() -> OSError:
    return OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
