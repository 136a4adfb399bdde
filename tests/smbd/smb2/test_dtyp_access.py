"""Access check, inheritance, descriptors from modes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smbd.smb2 import status
from smbd.smb2.constants import (
    ACCESS_SYSTEM_SECURITY,
    DELETE,
    FILE_ALL_ACCESS,
    FILE_GENERIC_READ,
    FILE_GENERIC_WRITE,
    FILE_READ_DATA,
    FILE_WRITE_DATA,
    GENERIC_ALL,
    GENERIC_READ,
    MAXIMUM_ALLOWED,
    READ_CONTROL,
    WRITE_DAC,
    WRITE_OWNER,
)
from smbd.smb2.dtyp import (
    SID,
    Token,
    access_check,
    create_descriptor,
    descriptor_from_mode,
    format_sddl,
    map_generic,
    maximum_access,
    parse_sddl,
)
from smbd.smb2.dtyp.sid import EVERYONE
from smbd.smb2.dtyp.token import SE_BACKUP, SE_RESTORE, SE_SECURITY, SE_TAKE_OWNERSHIP
from smbd.smb2.status import SmbError

ALICE = SID.parse("S-1-5-21-1-2-3-1000")
STAFF = SID.parse("S-1-5-21-1-2-3-1001")
BOB = SID.parse("S-1-5-21-1-2-3-1002")


def token(*privileges: str, user: SID = ALICE) -> Token:
    return Token(user, (STAFF, EVERYONE), frozenset(privileges))


def refused(text: str, desired: int, who: Token | None = None) -> int:
    with pytest.raises(SmbError) as caught:
        access_check(parse_sddl(text), who or token(), desired)
    return caught.value.status


def test_null_and_empty_dacl() -> None:
    assert access_check(parse_sddl("O:BAD:NO_ACCESS_CONTROL"), token(), FILE_ALL_ACCESS) == FILE_ALL_ACCESS
    assert access_check(parse_sddl("O:BA"), token(), GENERIC_ALL) == FILE_ALL_ACCESS
    assert refused("O:BAD:", FILE_READ_DATA) == status.ACCESS_DENIED
    assert maximum_access(parse_sddl("O:BAD:"), token()) == 0


def test_order_decides() -> None:
    deny_first = "O:BAD:(D;;0x2;;;S-1-5-21-1-2-3-1001)(A;;FA;;;WD)"
    assert refused(deny_first, FILE_WRITE_DATA) == status.ACCESS_DENIED
    assert access_check(parse_sddl(deny_first), token(), FILE_READ_DATA) == FILE_READ_DATA
    assert maximum_access(parse_sddl(deny_first), token()) == FILE_ALL_ACCESS & ~FILE_WRITE_DATA
    allow_first = "O:BAD:(A;;FA;;;WD)(D;;0x2;;;S-1-5-21-1-2-3-1001)"
    assert access_check(parse_sddl(allow_first), token(), FILE_WRITE_DATA) == FILE_WRITE_DATA


def test_owner() -> None:
    mine = "O:S-1-5-21-1-2-3-1000D:(A;;0x1;;;WD)"
    assert access_check(parse_sddl(mine), token(), READ_CONTROL | WRITE_DAC) == READ_CONTROL | WRITE_DAC
    assert refused(mine, WRITE_DAC, token(user=BOB)) == status.ACCESS_DENIED
    # An entry for OWNER RIGHTS takes the implicit rights away, even one that grants something else.
    assert refused("O:S-1-5-21-1-2-3-1000D:(A;;0x2;;;OW)", WRITE_DAC) == status.ACCESS_DENIED
    assert access_check(parse_sddl("O:S-1-5-21-1-2-3-1000D:(A;;0x2;;;OW)"), token(), FILE_WRITE_DATA)
    assert refused("O:BAD:(A;;0x2;;;OW)", FILE_WRITE_DATA) == status.ACCESS_DENIED
    assert refused("D:", READ_CONTROL) == status.ACCESS_DENIED


def test_maximum_and_generic() -> None:
    readable = parse_sddl("O:BAD:(A;;GR;;;WD)")
    assert access_check(readable, token(), GENERIC_READ) == FILE_GENERIC_READ
    assert access_check(readable, token(), MAXIMUM_ALLOWED) == FILE_GENERIC_READ
    assert access_check(readable, token(), MAXIMUM_ALLOWED | FILE_READ_DATA) == FILE_GENERIC_READ
    assert refused("O:BAD:(A;;GR;;;WD)", MAXIMUM_ALLOWED | FILE_WRITE_DATA) == status.ACCESS_DENIED
    assert map_generic(GENERIC_READ | MAXIMUM_ALLOWED) == FILE_GENERIC_READ | MAXIMUM_ALLOWED


def test_inherit_only_and_unknown_entries_grant_nothing() -> None:
    assert refused("O:BAD:(A;OICIIO;FA;;;WD)", FILE_READ_DATA) == status.ACCESS_DENIED


def test_privileges() -> None:
    closed = parse_sddl("O:BAD:")
    assert refused("O:BAD:(A;;FA;;;WD)", ACCESS_SYSTEM_SECURITY) == status.PRIVILEGE_NOT_HELD
    assert access_check(closed, token(SE_SECURITY), ACCESS_SYSTEM_SECURITY) == ACCESS_SYSTEM_SECURITY
    assert access_check(closed, token(SE_TAKE_OWNERSHIP), WRITE_OWNER) == WRITE_OWNER
    assert access_check(closed, token(SE_BACKUP), FILE_GENERIC_READ, backup=True) == FILE_GENERIC_READ
    assert access_check(closed, token(SE_RESTORE), FILE_GENERIC_WRITE | WRITE_DAC | DELETE, backup=True)
    assert refused("O:BAD:", FILE_READ_DATA, token(SE_BACKUP)) == status.ACCESS_DENIED
    assert not maximum_access(closed, token(SE_SECURITY)) & ACCESS_SYSTEM_SECURITY


def test_delete_by_the_parent() -> None:
    closed = parse_sddl("O:BAD:")
    assert access_check(closed, token(), DELETE, parent_delete=True) == DELETE
    assert access_check(closed, token(), MAXIMUM_ALLOWED, parent_delete=True) == DELETE


rights = st.integers(0, FILE_ALL_ACCESS).map(lambda mask: mask & FILE_ALL_ACCESS)
entries = st.lists(st.tuples(st.sampled_from("AD"), rights, st.sampled_from([ALICE, BOB, STAFF, EVERYONE])), max_size=5)


@given(entries, rights)
def test_maximum_is_what_is_granted(items: list[tuple[str, int, SID]], desired: int) -> None:
    text = "O:BAD:" + "".join(f"({kind};;0x{mask:x};;;{sid})" for kind, mask, sid in items)
    descriptor = parse_sddl(text)
    most = maximum_access(descriptor, token())
    if desired & ~most:
        assert refused(text, desired) == status.ACCESS_DENIED
    else:
        assert access_check(descriptor, token(), desired) == desired
    for bit in (1 << n for n in range(21) if FILE_ALL_ACCESS & (1 << n)):
        deciding = next((kind for kind, mask, sid in items if mask & bit and sid in token().sids), "D")
        assert bool(most & bit) == (deciding == "A")


@pytest.mark.parametrize(
    ("parent", "directory", "expected"),
    [
        ("D:AI(A;OICI;FA;;;WD)", False, "D:AI(A;ID;FA;;;WD)"),
        ("D:AI(A;OICI;FA;;;WD)", True, "D:AI(A;OICIID;FA;;;WD)"),
        ("D:AI(A;OI;FR;;;WD)", True, "D:AI(A;OIIOID;FR;;;WD)"),
        ("D:AI(A;CI;FR;;;WD)(A;;FA;;;BA)", True, "D:AI(A;CIID;FR;;;WD)"),
        ("D:AI(A;OICINP;FR;;;WD)", True, "D:AI(A;ID;FR;;;WD)"),
        ("D:AI(A;OICIIO;FA;;;CO)", False, "D:AI(A;ID;FA;;;S-1-5-21-1-2-3-1000)"),
        ("D:AI(A;OICIIO;FA;;;CO)", True, "D:AI(A;ID;FA;;;S-1-5-21-1-2-3-1000)(A;OICIIOID;FA;;;CO)"),
        ("D:AI(A;OICIIO;FR;;;CG)", False, "D:AI(A;ID;FR;;;S-1-5-21-1-2-3-1001)"),
        ("D:AI(A;CI;FR;;;WD)", False, "D:(A;;FA;;;S-1-5-21-1-2-3-1000)(A;;FA;;;SY)"),
        ("D:AI(A;OI;GA;;;WD)", False, "D:AI(A;ID;FA;;;WD)"),
        # A parent without the mark hands down entries without it
        ("D:(A;OICI;FA;;;WD)", True, "D:(A;OICI;FA;;;WD)"),
    ],
)
def test_inheritance(parent: str, directory: bool, expected: str) -> None:
    descriptor = create_descriptor(parse_sddl(parent), token(), directory)
    assert format_sddl(descriptor) == f"O:{ALICE}G:{STAFF}{expected}"


def test_explicit_descriptor() -> None:
    parent = parse_sddl("D:AI(A;OICI;FR;;;WD)")
    given_one = create_descriptor(parent, token(), False, parse_sddl("O:BAD:(A;;FA;;;SY)(A;ID;FA;;;BU)"))
    assert format_sddl(given_one) == f"O:BAG:{STAFF}D:AI(A;;FA;;;SY)(A;ID;FR;;;WD)"
    protected = create_descriptor(parent, token(), False, parse_sddl("D:P(A;;FA;;;SY)"))
    assert format_sddl(protected) == f"O:{ALICE}G:{STAFF}D:P(A;;FA;;;SY)"
    everybody = create_descriptor(parent, token(), False, parse_sddl("D:NO_ACCESS_CONTROL"))
    assert everybody.dacl is None
    audited = create_descriptor(parse_sddl("S:AI(AU;OISA;FA;;;WD)"), token(), False)
    assert format_sddl(audited).endswith("S:AI(AU;IDSA;FA;;;WD)")


@given(st.integers(0, 0o777), st.booleans())
def test_mode(mode: int, directory: bool) -> None:
    descriptor = descriptor_from_mode(ALICE, STAFF, mode, directory)
    owner = maximum_access(descriptor, Token(ALICE))
    other = maximum_access(descriptor, Token(BOB, (EVERYONE,)))
    group = maximum_access(descriptor, Token(BOB, (STAFF,)))
    for most, bits in ((owner, mode >> 6), (group, mode >> 3), (other, mode)):
        assert bool(most & FILE_READ_DATA) == bool(bits & 4)
        assert bool(most & FILE_WRITE_DATA) == bool(bits & 2)
    assert owner & WRITE_DAC
    assert owner & DELETE
    if mode & 7 == 7:
        assert other == FILE_ALL_ACCESS
