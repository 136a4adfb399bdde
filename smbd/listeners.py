"""Listening sockets: which addresses the configuration means, and how one is opened.

Owns: no state. Invariant: what cannot be listened on is a ``StartError`` that names it and the way out; a name that is no interface here
is one, too.
"""

from __future__ import annotations

import errno
import fnmatch
import ipaddress
import socket
from collections.abc import Iterable, Sequence

from pools.port import sockets
from smbd.instance import StartError

BACKLOG = 256
EVERYWHERE = ("0.0.0.0", "::")
_HINTS = {
    errno.EADDRINUSE: "another server has it; stop that one or choose another `smb ports` (--port)",
    errno.EACCES: "ports below 1024 need root; run as root or choose another `smb ports` (--port)",
    errno.EADDRNOTAVAIL: "this machine has no such address; correct `interfaces` (--listen)",
}


def addresses(interfaces: Sequence[str], only: bool) -> tuple[str, ...]:
    """smb.conf, ``interfaces`` and ``bind interfaces only``: the addresses to listen on; everywhere unless ``only``."""
    if not only or not interfaces:
        return EVERYWHERE
    found: dict[str, None] = {}
    for entry in interfaces:
        found.update(dict.fromkeys(_expand(entry.split(";")[0].strip())))
    return tuple(found)


def _expand(entry: str) -> Iterable[str]:
    """One entry: an address, an address with a mask, or an interface's name (wildcards allowed)."""
    try:
        given = ipaddress.ip_interface(entry)
    except ValueError:
        return _by_name(entry)
    if "/" not in entry or given.ip != given.network.network_address or given.network.prefixlen == given.max_prefixlen:
        return (str(given.ip),)
    # smb.conf: a network's address stands for our own addresses in it.
    return [text for _, text in _local() if ipaddress.ip_address(text) in given.network] or (str(given.ip),)


def _by_name(pattern: str) -> list[str]:
    found = [text for name, text in _local() if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        raise StartError(f"interfaces: no network interface or address is called {pattern!r}; see `ip address` for those there are")
    return found


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
