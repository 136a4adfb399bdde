"""Listening sockets: which addresses the configuration means, and how one is opened.

Owns: no state. Invariant: what cannot be listened on is a ``StartError`` that names it and the way out; a name that is no interface here
is one, too.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from pools.port import sockets
from smbd.config.interfaces import meant, parse
from smbd.instance import StartError

BACKLOG = 256
EVERYWHERE = ("0.0.0.0", "::")
_HINTS = {
    errno.EADDRINUSE: "another server has it; stop that one or choose another --port (of `serve`) or `smb ports`",
    errno.EACCES: "ports below 1024 need root; run as root or choose another --port (of `serve`) or `smb ports`",
    errno.EADDRNOTAVAIL: "this machine has no such address; correct --listen (of `serve`) or `interfaces`",
}


def addresses(interfaces: Sequence[str], only: bool) -> tuple[str, ...]:
    """smb.conf, ``interfaces`` and ``bind interfaces only``: the addresses to listen on; everywhere unless ``only``."""
    if not only or not interfaces:
        return EVERYWHERE
    found: dict[str, None] = {}
    for entry in interfaces:
        where = parse(entry).where
        those = meant(where, _local())
        if not those:
            hint = "correct --listen (of `serve`) or `interfaces`; `ip address` shows those there are"
            raise StartError(f"no network interface or address is called {where!r}: {hint}")
        found.update(dict.fromkeys(those))
    return tuple(found)


def _local() -> list[tuple[str, str]]:
    """(interface, address) of this machine, link-local IPv6 left out: those need a scope that clients cannot name."""
    import psutil  # noqa: PLC0415  # only where interfaces are named: the master stays small without it

    found = []
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family in (socket.AF_INET, socket.AF_INET6) and not entry.address.lower().startswith("fe80"):
                found.append((name, entry.address))
    return found


def listen(host: str, port: int, *, optional: bool = False) -> socket.socket | None:
    """A listening socket; ``StartError`` says why not. ``optional``: None where the machine does not speak the address family."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        one = sockets.stream(family)
    except OSError as error:
        if optional and error.errno == errno.EAFNOSUPPORT:
            return None
        raise StartError(f"{host}: {error.strerror}") from error
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((host, port))
        one.listen(BACKLOG)
    except OSError as error:
        one.close()
        if optional and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return None
        hint = _HINTS.get(error.errno or 0, "see `interfaces` and `smb ports`")
        raise StartError(f"cannot listen on {shown(host, port)}: {error.strerror}; {hint}") from error
    return one


def shown(host: str, port: int) -> str:
    """An address as people write it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
