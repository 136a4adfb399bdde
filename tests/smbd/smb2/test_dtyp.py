"""SIDs, ACLs, descriptors: golden bytes, round trips, every truncation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools.layout import WireError
from smbd.smb2.dtyp import ACE, ACL, SID, SecurityDescriptor, allow, deny, format_sddl, parse_sddl
from smbd.smb2.dtyp.acl import ACCESS_ALLOWED_OBJECT
from smbd.smb2.dtyp.descriptor import (
    DACL_INFORMATION,
    DACL_PRESENT,
    DACL_PROTECTED,
    OWNER_INFORMATION,
    SELF_RELATIVE,
)
from smbd.smb2.dtyp.sid import ADMINISTRATORS, EVERYONE, SYSTEM

sids = st.builds(SID, st.integers(0, (1 << 48) - 1), st.lists(st.integers(0, 0xFFFFFFFF), max_size=15).map(tuple))
nothing = st.just(b"")
plain_aces = st.builds(
    ACE, st.sampled_from([0, 1, 2, 17]), st.integers(0, 255), st.integers(0, 0xFFFFFFFF), sids, nothing, nothing, nothing
)
guids = st.sampled_from([b"", bytes(range(16))])
object_aces = st.builds(ACE, st.sampled_from([5, 6, 7]), st.integers(0, 255), st.integers(0, 0xFFFFFFFF), sids, guids, guids, nothing)
raw_aces = st.builds(
    lambda kind, flags, extra: ACE(kind, flags, 0, SID(0, (0,)), extra=extra),
    st.integers(9, 16),
    st.integers(0, 255),
    st.binary(max_size=8).map(lambda raw: raw * 4),
)
acls = st.builds(lambda aces: ACL(tuple(aces)), st.lists(plain_aces | object_aces | raw_aces, max_size=6))


@st.composite
def descriptors(draw: st.DrawFn) -> SecurityDescriptor:
    control = SELF_RELATIVE
    dacl, sacl = draw(st.none() | acls), draw(st.none() | acls)
    control |= 0x4 if dacl is not None or draw(st.booleans()) else 0
    control |= 0x10 if sacl is not None else 0
    control |= draw(st.sampled_from([0, 0x400, 0x1000, 0x1400]))
    return SecurityDescriptor(control, draw(st.none() | sids), draw(st.none() | sids), dacl, sacl)


def test_sid_golden() -> None:
    raw = bytes.fromhex("01 02 000000000005 20000000 20020000".replace(" ", ""))
    assert SID.unpack(raw) == ADMINISTRATORS
    assert ADMINISTRATORS.pack() == raw
    assert str(ADMINISTRATORS) == "S-1-5-32-544"
    assert SID.parse("S-1-5-32-544") == ADMINISTRATORS
    assert SID(5, (21, 1, 2, 3)).child(500).rid == 500


BAD_SIDS = ["", "S-1", "S-2-5-1", "S-1-5-", "S-1-5-4294967296", "S-1-5" + "-1" * 16, "S-1-٥-1", "S-1-0xfffffffffffff"]


@pytest.mark.parametrize("text", BAD_SIDS)
def test_sid_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="SID"):
        SID.parse(text)


@given(sids)
def test_sid_round_trips(sid: SID) -> None:
    assert SID.unpack(sid.pack()) == sid
    assert SID.parse(str(sid)) == sid
    for end in range(sid.size):
        with pytest.raises(WireError):
            SID.unpack(sid.pack()[:end])


def test_descriptor_golden() -> None:
    descriptor = SecurityDescriptor(SELF_RELATIVE | DACL_PRESENT, SYSTEM, None, ACL((allow(EVERYONE, 0x1F01FF, 3),)))
    assert descriptor.pack() == b"".join(
        bytes.fromhex(field)
        for field in (
            "01",  # Revision
            "00",  # Sbz1
            "0480",  # Control: SR, DP
            "14000000",  # OffsetOwner
            "00000000",  # OffsetGroup
            "00000000",  # OffsetSacl
            "20000000",  # OffsetDacl
            "01 01 000000000005 12000000",  # S-1-5-18
            "02 00 1c00 0100 0000",  # AclRevision, Sbz1, AclSize, AceCount, Sbz2
            "00 03 1400",  # AceType, AceFlags, AceSize
            "ff011f00",  # Mask
            "01 01 000000000001 00000000",  # S-1-1-0
        )
    )


@given(descriptors())
def test_descriptor_round_trips(descriptor: SecurityDescriptor) -> None:
    raw = descriptor.pack()
    assert SecurityDescriptor.unpack(raw) == descriptor
    assert SecurityDescriptor.unpack(memoryview(b"".join((raw, b"tail")))) == descriptor


@given(descriptors())
def test_descriptor_truncated(descriptor: SecurityDescriptor) -> None:
    raw = descriptor.pack()
    for end in range(len(raw)):
        with pytest.raises(WireError):
            SecurityDescriptor.unpack(raw[:end])


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_descriptor_noise(noise: bytes, tail: bytes) -> None:
    head = SecurityDescriptor(SELF_RELATIVE | DACL_PRESENT, SYSTEM, EVERYONE, ACL((deny(EVERYONE, 1),))).pack()
    for raw in (noise, head[:20] + noise, head[: len(noise)] + tail, b"\x01\x00\x14\x80" + noise):
        try:
            SecurityDescriptor.unpack(raw).pack()
        except WireError:
            continue


def test_offsets_before_the_header_are_refused() -> None:
    raw = bytearray(SecurityDescriptor(SELF_RELATIVE, SYSTEM).pack())
    raw[4] = 4
    with pytest.raises(WireError):
        SecurityDescriptor.unpack(raw)


def test_object_ace_flags() -> None:
    raw = bytearray(ACL((ACE(ACCESS_ALLOWED_OBJECT, 0, 1, SYSTEM, bytes(16)),)).pack())
    raw[16] = 0x10
    with pytest.raises(WireError):
        ACL.unpack(raw)


def test_acl_too_large() -> None:
    with pytest.raises(ValueError, match="ACL of"):
        ACL((allow(EVERYONE, 1),) * 4000).pack()


@pytest.mark.parametrize(
    "text",
    [
        "O:BAG:SYD:(A;;FA;;;SY)",
        "O:S-1-5-21-1-2-3-1000D:PAI(D;OICI;FW;;;WD)(A;OICIIOID;0x1;;;CO)",
        "D:NO_ACCESS_CONTROL",
        "D:P",
        "O:SYS:AI(AU;SAFA;FA;;;WD)",
    ],
)
def test_sddl(text: str) -> None:
    descriptor = parse_sddl(text)
    assert format_sddl(descriptor) == text
    assert SecurityDescriptor.unpack(descriptor.pack()) == descriptor


@pytest.mark.parametrize("text", ["x", "D:(A)", "D:(A;;QQ;;;SY)", "D:(A;;FA;;;nobody)", "D:(A;ZZ;FA;;;SY)", "O:S-9"])
def test_sddl_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        parse_sddl(text)


def test_select_and_merge() -> None:
    descriptor = parse_sddl("O:BAG:SYD:PAI(A;;FA;;;SY)S:(AU;SA;FA;;;WD)")
    shown = descriptor.select(DACL_INFORMATION)
    assert shown.owner is None
    assert shown.sacl is None
    assert shown.control & DACL_PROTECTED
    merged = descriptor.merge(parse_sddl("O:SYD:(A;;FR;;;WD)"), DACL_INFORMATION)
    assert format_sddl(merged) == "O:BAG:SYD:(A;;FR;;;WD)S:(AU;SA;FA;;;WD)"
    merged = descriptor.merge(parse_sddl("O:SYD:(A;;FR;;;WD)"), OWNER_INFORMATION)
    assert format_sddl(merged) == "O:SYG:SYD:PAI(A;;FA;;;SY)S:(AU;SA;FA;;;WD)"
    assert descriptor.merge(parse_sddl("D:NO_ACCESS_CONTROL"), DACL_INFORMATION).dacl is None
