"""``interfaces``: which of this machine's addresses an entry means, and what it says of them to clients.

Owns: the form of an entry, as smb.conf(5) has it: an address, a network or a name with wildcards, then options behind a semicolon. Pure:
the machine's addresses are the caller's.
"""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

CAPABILITIES = ("RSS", "RDMA")
MOST = {"speed": (1 << 64) - 1, "if_index": (1 << 32) - 1}


class Entry(NamedTuple):
    """One word of ``interfaces``. ``speed`` in bits per second; None where the entry says nothing."""

    where: str
    speed: int | None = None
    capabilities: frozenset[str] | None = None
    if_index: int | None = None


def parse(word: str) -> Entry:
    """``eth0;speed=10000000000,capability=RSS,if_index=3``. ValueError for an option that there is not."""
    where, _, options = word.partition(";")
    numbers: dict[str, int] = {}
    capabilities: set[str] = set()
    for option in filter(None, (one.strip() for one in options.split(","))):
        name, _, value = (part.strip() for part in option.partition("="))
        if name.casefold() == "capability" and value.upper() in CAPABILITIES:
            capabilities.add(value.upper())
        elif name.casefold() in MOST and value.isdecimal() and int(value) <= MOST[name.casefold()]:
            numbers[name.casefold()] = int(value)
        else:
            raise ValueError(f"'{option}' of '{word}' is none of speed=NUMBER, if_index=NUMBER, capability={' or '.join(CAPABILITIES)}")
    return Entry(where.strip(), numbers.get("speed"), frozenset(capabilities) or None, numbers.get("if_index"))


def meant(where: str, local: Iterable[tuple[str, str]]) -> list[str]:
    """The addresses that an entry means; ``local``: (interface, address) of this machine. An address stands for itself, here or not."""
    try:
        given = ipaddress.ip_interface(where)
    except ValueError:
        return [text for name, text in local if fnmatch.fnmatchcase(name, where)]
    if "/" not in where or given.ip != given.network.network_address or given.network.prefixlen == given.max_prefixlen:
        return [str(given.ip)]
    # smb.conf: a network's address stands for our own addresses in it.
    return [text for _, text in local if ipaddress.ip_address(text) in given.network] or [str(given.ip)]
