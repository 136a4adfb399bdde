"""What snapshots are called: any time, any name, any token that a client makes up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smbd.config.shadow import read
from smbd.smb2.names import Path
from workers.vfs import snapnames

LAST = 253_402_300_799
READERS = [
    snapnames.reader(read(options))
    for options in (
        {},
        {"shadow:format": "%Y-%m-%d %H:%M:%S", "shadow:localtime": "yes"},
        {"shadow:format": "s%lu", "shadow:sscanf": "yes"},
        {"shadow:format": "_GMT%Y", "shadow:snapprefix": "^a*b"},
    )
]


@given(st.integers(0, LAST))
def test_a_token_says_its_time(seconds: int) -> None:
    token = snapnames.token(seconds)
    assert len(token) == len("@GMT-YYYY.MM.DD-HH.MM.SS")
    assert snapnames.seconds_of(token) == seconds
    assert READERS[0](token) == seconds


@given(st.integers(0, (1 << 64) - 1))
def test_any_time_of_a_client_is_one_or_none(filetime: int) -> None:
    token = snapnames.token_of_filetime(filetime)
    assert token is None or snapnames.seconds_of(token) == filetime // 10_000_000 - 11_644_473_600


@given(st.text(max_size=40) | st.from_regex(r"@GMT-\d{4}\.\d\d\.\d\d-\d\d\.\d\d\.\d\d", fullmatch=True))
def test_any_name_is_a_time_or_none(name: str) -> None:
    for reader in (snapnames.seconds_of, *READERS):
        seconds = reader(name)
        assert seconds is None or 0 <= seconds <= LAST or reader is snapnames.seconds_of


@given(st.binary(max_size=200) | st.from_regex(rb"<date>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d</date>"))
def test_any_info_of_snapper_is_a_time_or_none(info: bytes) -> None:
    seconds = snapnames.seconds_of_info(info)
    assert seconds is None or isinstance(seconds, int)


@pytest.mark.parametrize("at", range(4))
def test_the_first_token_of_a_path_goes_in_front(at: int) -> None:
    token, others = snapnames.token(5), ["a", "b", "c"]
    path = snapnames.canonical(Path((*others[:at], token, *others[at:]), "stream", "$DATA"))
    assert path == Path((token, "a", "b", "c"), "stream", "$DATA")
    assert snapnames.moment(path) == 5
    assert snapnames.within(path).components == ("a", "b", "c")


def test_what_only_looks_like_a_token_is_a_name() -> None:
    for name in ("@GMT-", "@GMT-2020.13.01-00.00.00", "@GMT-2020.01.01-00.00.00x", "x@GMT-2020.01.01-00.00.00"):
        path = Path(("a", name))
        assert snapnames.canonical(path) is path
        assert snapnames.moment(Path((name,))) is None


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("link", range(3))
def test_what_stops_a_path_is_told_with_the_token_still_to_come(at: int, link: int) -> None:
    """The rest that a client puts behind a link's target leads into the same snapshot, where the token was not before the link."""
    token, others = snapnames.token(5), ["a", "b", "c"]
    asked = Path((*others[:at], token, *others[at:]))
    found = snapnames.depth_as_asked(asked, 2 + link)  # the token, and what leads to the link
    before, rest = asked.components[:found], asked.components[found:]
    assert [name for name in before if name != token][-1] == others[link]
    assert (token in rest) == (at > link)
