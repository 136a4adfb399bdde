"""The message id window against a model, and the checks of [MS-SMB2] 3.3.5.2.3 and 3.3.5.2.5."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smbd.smb2 import status
from smbd.smb2.credits import CreditWindow, Disconnect, check_charge
from smbd.smb2.status import SmbError

STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(1, 5)), max_size=60)


@given(steps=STEPS)
def test_against_a_model(steps: list[tuple[bool, int, int]]) -> None:
    window = CreditWindow(16)
    free = {0}
    top = 1
    for is_grant, number, charge in steps:
        if is_grant:
            granted = window.grant(number, charged=charge)
            assert granted <= number + charge
            free |= set(range(top, top + granted))
            top += granted
        else:
            ids = set(range(number, number + charge))
            if ids <= free:
                window.charge(number, charge)
                free -= ids
            else:
                with pytest.raises(Disconnect):
                    window.charge(number, charge)
        assert window.outstanding == len(free) <= 16
        assert window.high - window.low <= 32


def test_a_client_without_credits_gets_one() -> None:
    window = CreditWindow(4)
    window.charge(0, 1)
    assert window.grant(0) == 1
    window.charge(1, 1)
    assert window.grant(0, 0) == 1


def test_grant() -> None:
    window = CreditWindow(100)
    window.charge(0, 1)
    assert window.grant(50) == 50
    window.charge(1, 16)
    assert window.grant(16, charged=16) == 31
    assert window.grant(1000) == 35
    assert window.grant(10) == 0


def test_back_pressure() -> None:
    window = CreditWindow(100)
    window.charge(0, 1)
    assert window.grant(50, 1) == 1


def test_a_hole_does_not_stretch_the_window_for_ever() -> None:
    window = CreditWindow(8)
    window.charge(0, 1)
    window.grant(8)
    for next_id in range(2, 17):
        window.charge(next_id, 1)
        window.grant(8)
    with pytest.raises(Disconnect):
        window.charge(17, 1)
    assert window.high - window.low == 16
    window.charge(1, 1)
    assert window.grant(8) == 8


@pytest.mark.parametrize(
    ("charge", "size", "good"),
    [
        (0, 65536, True),
        (1, 65536, True),
        (0, 65537, False),
        (1, 65537, False),
        (2, 65537, True),
        (128, 8 << 20, True),
        (127, 8 << 20, False),
    ],
)
def test_charge_covers_the_payload(charge: int, size: int, good: bool) -> None:
    for sizes in ((size, 0), (0, size)):
        if good:
            check_charge(charge, *sizes)
        else:
            with pytest.raises(SmbError) as caught:
                check_charge(charge, *sizes)
            assert caught.value.status == status.INVALID_PARAMETER
