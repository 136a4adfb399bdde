"""NDR: golden bytes, round trips, and every truncation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools.layout import WireError
from smbd.smb2.dtyp.sid import SID
from srvsvc import ndr
from srvsvc.ndr import Array, Bytes, Int, Raw, Record, Ref, Switch, Text, Unique, Varying
from srvsvc.types import HANDLE, OLD_TIME, SID_TYPE, U8, U16, U32, U64, USTRING, DiskText, levels

INNER = Record("INNER", name=Unique(Text()), number=U16)
EVERYTHING = Record(
    "EVERYTHING",
    byte=U8,
    large=U64,
    short=U16,
    handle=HANDLE,
    text=Unique(Text()),
    rows=Unique(Array(INNER)),
    inner=INNER,
    choice=Switch({1: Unique(INNER), 2: U64}),
    counted=USTRING,
    sid=Unique(SID_TYPE),
    raw=Unique(Bytes()),
    time=OLD_TIME,
    numbers=Unique(Varying(U16, 1000)),
    disk=Unique(Array(DiskText())),
    must=Ref(Text()),
)

NAME = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=8)
U16S = st.integers(0, 0xFFFF)
INNERS = st.tuples(st.none() | NAME, U16S)
SIDS = st.builds(SID, st.integers(0, 2**48 - 1), st.lists(st.integers(0, 2**32 - 1), max_size=15).map(tuple))
VALUES = st.tuples(
    st.integers(0, 255),
    st.integers(0, 2**64 - 1),
    U16S,
    st.binary(min_size=20, max_size=20),
    st.none() | NAME,
    st.none() | st.lists(INNERS, max_size=4),
    INNERS,
    st.one_of(st.tuples(st.just(1), st.none() | INNERS), st.tuples(st.just(2), st.integers(0, 2**64 - 1)), st.just((9, None))),
    st.none() | NAME,
    st.none() | SIDS,
    st.none() | st.binary(max_size=20),
    st.integers(0, 2**64 - 1),
    st.none() | st.lists(U16S, max_size=5),
    st.none() | st.lists(NAME, max_size=3),
    NAME,
)
STUB = Record("STUB", before=U8, everything=EVERYTHING, pointer=Unique(EVERYTHING), after=U32)


@given(VALUES, st.none() | VALUES)
def test_round_trip(value: Any, other: Any) -> None:
    packed = ndr.pack(STUB, (7, value, other, 0xFFFFFFFF))
    assert ndr.unpack(STUB, packed) == (7, value, other, 0xFFFFFFFF)


@given(VALUES, st.data())
def test_truncations_and_tails(value: Any, data: st.DataObject) -> None:
    packed = ndr.pack(STUB, (7, value, None, 0xFFFFFFFF))
    end = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(WireError):
        ndr.unpack(STUB, packed[:end])
    assert ndr.unpack(STUB, packed + data.draw(st.binary(max_size=8)))[0] == 7


@given(st.binary(max_size=400))
def test_random_bytes(data: bytes) -> None:
    try:
        ndr.unpack(STUB, data)
    except WireError:
        return


def test_golden_share_enumeration() -> None:
    info = levels({0: Record("SHARE_INFO_0", netname=Unique(Text()))})
    stub = ndr.pack(Record("R", info=info, total=U32), ((0, (0, (2, [("a",), ("bc",)]))), 2))
    assert stub == b"".join(
        (
            b"\x00\x00\x00\x00",  # Level
            b"\x00\x00\x00\x00",  # the union's discriminant
            b"\x04\x00\x02\x00",  # referent of the container
            b"\x02\x00\x00\x00",  # EntriesRead
            b"\x08\x00\x02\x00",  # referent of the array
            b"\x02\x00\x00\x00",  # maximum count
            b"\x0c\x00\x02\x00",  # shi0_netname of the first
            b"\x10\x00\x02\x00",  # shi0_netname of the second
            b"\x02\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00",  # maximum, offset, actual
            b"a\x00\x00\x00",
            b"\x03\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00",
            b"b\x00c\x00\x00\x00",
            b"\x00\x00",  # to the alignment of
            b"\x02\x00\x00\x00",  # TotalEntries
        )
    )


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (Array(U32), b"\xff\xff\xff\xff" + bytes(64)),
        (Varying(U32), b"\x00\x00\x01\x00\x00\x00\x00\x00\xff\xff\x00\x00" + bytes(64)),
        (Varying(U32), b"\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00" + bytes(64)),
        (Text(), b"\x02\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00" + bytes(64)),
        (Text(), b"\xff\xff\xff\x7f\x00\x00\x00\x00\xff\xff\xff\x7f" + bytes(64)),
        (Bytes(), b"\xff\xff\xff\xff" + bytes(64)),
        (SID_TYPE, b"\x10\x00\x00\x00" + bytes(128)),
        (SID_TYPE, b"\x01\x00\x00\x00\x01\x02" + bytes(128)),
        (DiskText(), b"\x00\x00\x00\x00\xff\xff\xff\x7f" + bytes(8)),
        (Ref(Text()), bytes(16)),
    ],
)
def test_lies_about_length(kind: Any, data: bytes) -> None:
    with pytest.raises(WireError):
        ndr.unpack(Record("R", value=kind), data)


def test_what_cannot_be_written_is_our_bug() -> None:
    for kind, value in ((Raw(4), b"123"), (Ref(Text()), None), (Switch({1: U32}), (2, 5))):
        with pytest.raises(ValueError):
            ndr.pack(Record("R", value=kind), (value,))
    with pytest.raises(ValueError):
        ndr.pack(Record("R", value=Int(4)), ())
