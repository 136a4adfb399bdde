"""FSCTL_QUERY_NETWORK_INTERFACE_INFO ([MS-SMB2] 3.3.5.15.11): what clients hear of the machine's interfaces."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import NamedTuple

import pytest

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.messages.ioctl import NETWORK_INTERFACE_INFO, RDMA_CAPABLE, RSS_CAPABLE
from tests.wire_client import WireClient
from tests.workers.house import House
from workers import interfaces as module
from workers.interfaces import DEFAULT_SPEED, Interface, interfaces

ENTRY = NETWORK_INTERFACE_INFO.size + 128


class Stats(NamedTuple):
    """As psutil has it."""

    isup: bool
    speed: int


class Address(NamedTuple):
    """Likewise."""

    family: socket.AddressFamily
    address: str


STATS = {"lo": Stats(True, 0), "eth0": Stats(True, 10_000), "eth1": Stats(True, 65535), "down": Stats(False, 1000)}
ADDRESSES = {
    "lo": [Address(socket.AF_INET, "127.0.0.1")],
    "eth0": [Address(socket.AF_INET, "192.0.2.7"), Address(socket.AF_PACKET, "00:11:22:33:44:55")],
    "eth1": [Address(socket.AF_INET6, "2001:db8::7"), Address(socket.AF_INET6, "fe80::7%eth1")],
    "down": [Address(socket.AF_INET, "198.51.100.7")],
}
NUMBERS = {"lo": 1, "eth0": 2, "eth1": 3}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One with two interfaces that are up, and one that is not."""
    monkeypatch.setattr(module.psutil, "net_if_stats", lambda: STATS)
    monkeypatch.setattr(module.psutil, "net_if_addrs", lambda: ADDRESSES)
    monkeypatch.setattr(module.sockets, "interface_index", NUMBERS.__getitem__)
    monkeypatch.setattr(module.sockets, "receive_queues", lambda name: 4 if name == "eth0" else 1)


FAST = Interface(2, RSS_CAPABLE, 10_000_000_000, "192.0.2.7")
SLOW = Interface(3, 0, DEFAULT_SPEED, "2001:db8::7")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), [FAST, SLOW]),
        (("eth1",), [SLOW]),
        (("lo",), [Interface(1, 0, DEFAULT_SPEED, "127.0.0.1")]),
        (("down", "nosuch0", "203.0.113.1"), []),
        (("eth0;speed=5,capability=RDMA,if_index=9", "eth*"), [Interface(9, RDMA_CAPABLE, 5, "192.0.2.7"), SLOW]),
    ],
)
@pytest.mark.usefixtures("machine")
def test_what_is_said_of_which(words: tuple[str, ...], expected: list[Interface]) -> None:
    assert interfaces(words) == expected


@pytest.mark.usefixtures("machine")
def test_a_machine_with_nothing_but_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.psutil, "net_if_addrs", lambda: {"lo": ADDRESSES["lo"]})
    assert [one.address for one in interfaces(())] == ["127.0.0.1"]


@pytest.mark.usefixtures("machine")
def test_as_clients_see_it(make_house: Callable[..., House]) -> None:
    client: WireClient = make_house().client()
    output = client.output(client.ioctl(c.FSCTL_QUERY_NETWORK_INTERFACE_INFO))
    assert len(output) == 2 * ENTRY
    first, second = (NETWORK_INTERFACE_INFO.unpack(output, at) for at in (0, ENTRY))
    assert (first.next, first.if_index, first.capability, first.link_speed) == (ENTRY, 2, RSS_CAPABLE, 10_000_000_000)
    assert (second.next, second.if_index, second.capability, second.link_speed) == (0, 3, 0, DEFAULT_SPEED)
    assert ipaddress.ip_address(output[NETWORK_INTERFACE_INFO.size + 4 :][:4]) == ipaddress.ip_address("192.0.2.7")
    assert ipaddress.ip_address(output[ENTRY + NETWORK_INTERFACE_INFO.size + 8 :][:16]) == ipaddress.ip_address("2001:db8::7")
    assert client.ioctl(c.FSCTL_QUERY_NETWORK_INTERFACE_INFO, size=ENTRY).status == status.BUFFER_TOO_SMALL
