"""How to connect: what ``millpond serve`` tells the person in front of it, for Windows, macOS and Linux.

Owns: the text. Pure but for asking the machine its addresses.
"""

from __future__ import annotations

import ipaddress
import shlex
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from pools.port import sockets
from smbd.config import Config, Share

if TYPE_CHECKING:
    from smbd.cli.enrol import Account

_WIDTH = 12


def text(config: Config, people: Sequence[Account], guest: bool) -> str:
    """The whole message."""
    share = next(one for one in config.shares.values() if one.kind == "disk")
    port, host = config.smb_ports[0], address(config)
    path = share.path.replace("%%", "%")
    rights = "read only" if share.read_only else "read and write"
    lines = [
        f"millpond serves {path} as '{share.name}' on {host}:{port} ({rights}). Ctrl-C ends it.",
        "",
        *(_person(one) for one in people),
        *(["everybody     without a password, as guest"] if guest else []),
        "",
        *_ways(share, host, port, people[0].name if people else "guest"),
    ]
    return "\n".join(lines) + "\n"


def _person(one: Account) -> str:
    return f"{'user':<{_WIDTH}}  {one.name}    password  {one.password if one.made_up else '(as given)'}"


def _ways(share: Share, host: str, port: int, user: str) -> list[str]:
    """One line for each kind of client. Port 445 is every client's own; another has to be said."""
    usual = port == 445
    unc = f"\\\\{host}\\{share.name}"
    windows = unc if usual else f'net use * "{unc}" * /user:{user} /tcpport:{port}    (before Windows 11 24H2: port 445 only)'
    url = f"smb://{quote(user)}@{host}{'' if usual else f':{port}'}/{quote(share.name)}"
    target = shlex.quote(f"//{host}/{share.name}")
    ports = "" if usual else f" -p {port}"
    mount = f"username={user}" + ("" if usual else f",port={port}")
    return [
        f"{'Windows':<{_WIDTH}}  {windows}",
        f"{'macOS':<{_WIDTH}}  {url}    (Finder: Go > Connect to Server)",
        f"{'Linux':<{_WIDTH}}  {url}    (file manager)",
        f"{'':<{_WIDTH}}  smbclient {target}{ports} -U {shlex.quote(user)}",
        f"{'':<{_WIDTH}}  sudo mount -t cifs {target} /mnt -o {shlex.quote(mount)}",
    ]


def address(config: Config) -> str:
    """The address to tell others: the one listened on, else this machine's first in the local network, else its name."""
    import psutil  # noqa: PLC0415  # only where it is printed: the server forks from this process and should inherit little

    local = {
        name: [entry.address for entry in entries if entry.family == socket.AF_INET] for name, entries in psutil.net_if_addrs().items()
    }
    if config.bind_interfaces_only and config.interfaces:
        named = config.interfaces[0].partition("/")[0]
        return _literal((local.get(named) or [named])[0])
    own = [ipaddress.ip_address(one) for entries in local.values() for one in entries]
    outward = [one for one in own if not one.is_loopback and not one.is_link_local]
    return str(outward[0]) if outward else "127.0.0.1" if own else sockets.host_name()


def _literal(host: str) -> str:
    """IPv6 addresses hold colons, which neither UNC paths nor URLs with a port allow bare."""
    return f"[{host}]" if ":" in host else host
