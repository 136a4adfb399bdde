"""The network interfaces that clients may open further channels to: [MS-SMB2] 3.3.5.15.11.

Owns: which, and what is said of them: the configuration's word, else the system's.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import NamedTuple

import psutil

from pools.port import sockets
from smbd.config.interfaces import Entry, meant, parse
from smbd.smb2.messages.ioctl import RDMA_CAPABLE, RSS_CAPABLE

DEFAULT_SPEED = 1_000_000_000  # bits per second, where the interface does not say
UNKNOWN_SPEEDS = (0, 65535, 4294967295)  # Mbit/s: what drivers without a speed report
CAPABILITIES = {"RSS": RSS_CAPABLE, "RDMA": RDMA_CAPABLE}
SILENT = Entry("")


class Interface(NamedTuple):
    """One address of an interface."""

    if_index: int
    capability: int
    speed: int
    address: str


def interfaces(words: tuple[str, ...]) -> list[Interface]:
    """What ``interfaces`` names of this machine's; without it all that are up, loopback only when there is nothing else."""
    stats = psutil.net_if_stats()
    local = [(name, address) for name, address in _addresses() if name in stats and stats[name].isup]
    if not words:
        outer = [one for one in local if not ipaddress.ip_address(one[1]).is_loopback]
        return [_interface(one, SILENT, stats[one[0]].speed) for one in outer or local]
    found: dict[str, Interface] = {}
    for entry in map(parse, words):
        addresses = meant(entry.where, local)
        for one in local:
            if one[1] in addresses and one[1] not in found:
                found[one[1]] = _interface(one, entry, stats[one[0]].speed)
    return list(found.values())


def _addresses() -> list[tuple[str, str]]:
    """(interface, address); link-local IPv6 left out: it needs a scope that clients cannot name."""
    found = [(name, entry) for name, entries in psutil.net_if_addrs().items() for entry in entries]
    return [
        (name, entry.address)
        for name, entry in found
        if entry.family in (socket.AF_INET, socket.AF_INET6) and not ipaddress.ip_address(entry.address.partition("%")[0]).is_link_local
    ]


def _interface(one: tuple[str, str], entry: Entry, megabits: int) -> Interface:
    name, address = one
    speed = DEFAULT_SPEED if megabits in UNKNOWN_SPEEDS or megabits < 0 else megabits * 1_000_000
    if entry.capabilities is not None:
        capability = sum(CAPABILITIES[word] for word in entry.capabilities)
    else:
        capability = RSS_CAPABLE if sockets.receive_queues(name) > 1 else 0
    index = entry.if_index if entry.if_index is not None else sockets.interface_index(name)
    return Interface(index, capability, speed if entry.speed is None else entry.speed, address)
