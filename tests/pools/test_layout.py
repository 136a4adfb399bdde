"""Layouts: round trip, every truncation, offsets that would wrap around."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools.layout import U8, U16, U32, U64, Layout, Raw4, WireError


class Sample(NamedTuple):
    first: U8
    second: U16
    third: U32
    fourth: U64
    fifth: Raw4


SAMPLE = Layout(Sample)
FIELDS = st.tuples(
    st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary(min_size=4, max_size=4)
)


@given(FIELDS, st.binary(max_size=20), st.binary(max_size=20))
def test_round_trip_at_any_offset(fields: tuple[int, int, int, int, bytes], before: bytes, after: bytes) -> None:
    packed = SAMPLE.pack(*fields)
    assert len(packed) == SAMPLE.size == 19
    assert SAMPLE.unpack(before + packed + after, len(before)) == fields
    buffer = bytearray(before + bytes(SAMPLE.size) + after)
    SAMPLE.pack_into(buffer, len(before), *fields)
    assert buffer == before + packed + after


@pytest.mark.parametrize("length", range(19))
def test_every_truncation_is_refused(length: int) -> None:
    with pytest.raises(WireError):
        SAMPLE.unpack(bytes(length))


@pytest.mark.parametrize("offset", [-1, -19, 2, 1 << 40])
def test_offsets_outside_are_refused(offset: int) -> None:
    with pytest.raises(WireError):
        SAMPLE.unpack(bytes(20), offset)
