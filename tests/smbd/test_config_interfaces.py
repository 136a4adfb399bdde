"""``interfaces``: the form of its entries, and which addresses they mean."""

from __future__ import annotations

import pytest

from smbd.config import ConfigError, parse
from smbd.config import interfaces as named
from smbd.config.interfaces import Entry

LOCAL = [("lo", "127.0.0.1"), ("eth0", "192.0.2.7"), ("eth1", "198.51.100.7"), ("eth1", "2001:db8::7")]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("eth0", Entry("eth0")),
        ("eth0;speed=10000000000", Entry("eth0", 10_000_000_000)),
        ("192.0.2.7;capability=RSS,capability=rdma", Entry("192.0.2.7", capabilities=frozenset({"RSS", "RDMA"}))),
        ("2001:db8::7 ; if_index = 3 , SPEED=1", Entry("2001:db8::7", 1, None, 3)),
        ("eth0;", Entry("eth0")),
    ],
)
def test_what_an_entry_says(word: str, expected: Entry) -> None:
    assert named.parse(word) == expected


@pytest.mark.parametrize("option", ["speed=fast", "speed=-1", f"speed={1 << 64}", f"if_index={1 << 32}", "capability=TOE", "colour"])
def test_an_option_that_there_is_not(option: str) -> None:
    with pytest.raises(ValueError, match="is none of"):
        named.parse(f"eth0;{option}")


def test_the_configuration_says_where_a_wrong_option_is() -> None:
    assert parse('[global]\ninterfaces = "eth0;speed=1000" lo').interfaces == ("eth0;speed=1000", "lo")
    with pytest.raises(ConfigError, match="speed=fast"):
        parse('[global]\ninterfaces = "eth0;speed=fast"')


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("eth1", ["198.51.100.7", "2001:db8::7"]),
        ("eth*", ["192.0.2.7", "198.51.100.7", "2001:db8::7"]),
        ("192.0.2.0/24", ["192.0.2.7"]),
        ("192.0.2.7/24", ["192.0.2.7"]),
        ("203.0.113.1", ["203.0.113.1"]),
        ("wlan0", []),
    ],
)
def test_which_addresses_are_meant(where: str, expected: list[str]) -> None:
    assert named.meant(where, LOCAL) == expected
