"""``hosts allow`` and ``hosts deny``: may this address connect?

Owns: the patterns of smb.conf. Pure: names are compared only if the caller has looked them up.
Invariant: a pattern that cannot be understood matches nobody, so a slip in ``hosts allow`` lets nobody in.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def admitted(allow: Sequence[str], deny: Sequence[str], address: str, names: Collection[str] = ()) -> bool:
    """smb.conf(5), hosts allow: what is allowed wins over what is denied; this machine itself is let in unless denied expressly.

    ``names``: the client's host names, where known.
    """
    client = parse(address)
    if client is None:
        return not allow and not deny
    if matches(allow, client, names):
        return True
    if deny or client.is_loopback:
        return not matches(deny, client, names)
    return not allow


def parse(address: str) -> Address | None:
    """An address as sockets show it: without scope, IPv4 also when it came in over IPv6."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def source(address: str) -> str:
    """Whose doing a connection is, for limits: an IPv4 address itself; of IPv6 the network: one client has addresses in it without end."""
    client = parse(address)
    return str(ipaddress.ip_network((client, 64), strict=False)) if isinstance(client, ipaddress.IPv6Address) else address


def matches(patterns: Sequence[str], client: Address, names: Collection[str] = ()) -> bool:
    """Whether a list names the client. ``A B EXCEPT C``: those before the word, without those after it."""
    for position, word in enumerate(patterns):
        if word.upper() == "EXCEPT":
            return matches(patterns[:position], client, names) and not matches(patterns[position + 1 :], client, names)
    return any(_one(pattern, client, names) for pattern in patterns)


def _one(pattern: str, client: Address, names: Collection[str]) -> bool:
    word = pattern.casefold()
    if word == "all":
        return True
    if word == "localhost":
        return client.is_loopback
    if word.endswith(".") and word[:1].isdigit():
        return str(client).startswith(word)  # "192.168." is every address that begins so
    try:
        network = ipaddress.ip_network(word.strip("[]"), strict=False)
    except ValueError:
        return _named(word, names)
    return client in network


def _named(word: str, names: Collection[str]) -> bool:
    known = [name.casefold() for name in names]
    return any(name.endswith(word) for name in known) if word.startswith(".") else word in known
