"""Cutting compounds: all good chains, and every kind of bad NextCommand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools.layout import WireError
from smbd.smb2.compound import MAX_ELEMENTS, split
from smbd.smb2.header import HEADER, HEADER_SIZE, PROTOCOL_ID


def element(following: int, message_id: int = 0, body: bytes = b"") -> bytes:
    return HEADER.pack(PROTOCOL_ID, 64, 1, 0, 13, 1, 0, following, message_id, 0, 0, 0, bytes(16)) + body


def chain(bodies: list[bytes]) -> bytes:
    out = b""
    for index, body in enumerate(bodies):
        padded = body + bytes(-len(body) % 8)
        last = index == len(bodies) - 1
        out += element(0 if last else HEADER_SIZE + len(padded), index, body if last else padded)
    return out


BODIES = st.lists(st.binary(max_size=30), min_size=1, max_size=8)


@given(bodies=BODIES)
def test_elements_cover_the_pdu(bodies: list[bytes]) -> None:
    pdu = chain(bodies)
    parts = split(memoryview(pdu))
    assert [header.message_id for header, _ in parts] == list(range(len(bodies)))
    assert b"".join(view for _, view in parts) == pdu
    assert all(view[HEADER_SIZE:].tobytes().startswith(body) for (_, view), body in zip(parts, bodies, strict=True))


@given(bodies=BODIES, cut=st.integers(0, 1000), tail=st.binary(max_size=80))
def test_truncated_with_a_tail(bodies: list[bytes], cut: int, tail: bytes) -> None:
    pdu = chain(bodies)
    broken = pdu[: cut % (len(pdu) + 1)] + tail
    try:
        parts = split(memoryview(broken))
    except WireError:
        return
    assert sum(len(view) for _, view in parts) == len(broken)


@pytest.mark.parametrize("following", [1, 8, 60, 63, 65, 68, 72, 136, 0x80000000, 0xFFFFFFF8])
def test_bad_next_command(following: int) -> None:
    with pytest.raises(WireError):
        split(memoryview(element(following) + element(0)))


def test_bad_protocol_id_inside() -> None:
    with pytest.raises(WireError):
        split(memoryview(element(64) + b"\xfdSMB" + element(0)[4:]))


def test_too_many() -> None:
    assert len(split(memoryview(element(64) * (MAX_ELEMENTS - 1) + element(0)))) == MAX_ELEMENTS
    with pytest.raises(WireError):
        split(memoryview(element(64) * MAX_ELEMENTS + element(0)))
