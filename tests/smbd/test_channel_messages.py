"""What workers say to each other about a connection: there and back, and nothing else taken for it."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools.layout import WireError
from pools.queue import MAX_PAYLOAD, MAX_RECORD
from smbd.channel_messages import CHANNEL_MOVE, JOINING, KINDS, MOVE, Joining, Moved, pack_move, unpack_move

U8, U32, U64 = st.integers(0, 255), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
JOININGS = st.builds(Joining, U64, U64, st.integers(0, 1 << 56), U32, U8, U8, U8, U8, U8)


@given(st.binary(max_size=300), st.ip_addresses().map(str), st.binary(max_size=2000))
def test_a_connection_there_and_back(connection: bytes, address: str, unread: bytes) -> None:
    moved = Moved(0, connection, address, unread, None, b"", b"")
    assert unpack_move(pack_move(moved)) == moved


@given(JOININGS, st.integers(1, (1 << 64) - 1), st.data())
def test_a_session_comes_along(joining: Joining, twin: int, data: st.DataObject) -> None:
    preauth, key = (data.draw(st.binary(min_size=size, max_size=size)) for size in (joining.preauth, joining.key))
    moved = Moved(twin, b"connection", "192.0.2.1", b"", joining, preauth, key)
    packed = pack_move(moved)
    assert unpack_move(packed) == moved
    for wrong in (packed[:-1], packed + b"\0"):
        with pytest.raises(WireError):
            unpack_move(wrong)


@given(st.binary(max_size=400))
def test_bytes_that_are_no_connection(noise: bytes) -> None:
    with contextlib.suppress(WireError):
        moved = unpack_move(noise)
        assert MOVE.size + len(moved.connection) + len(moved.unread) <= len(noise)


def test_the_largest_fits_a_record() -> None:
    assert CHANNEL_MOVE.max_payload == MAX_PAYLOAD < MAX_RECORD
    assert MOVE.size + JOINING.size < 256
    assert len({kind.number for kind in KINDS}) == len(KINDS)
