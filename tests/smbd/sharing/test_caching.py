"""Oplocks and leases: the tables that clients rely on, and properties over all sequences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smbd.sharing.caching import (
    GRANTABLE,
    HANDLE,
    READ,
    WRITE,
    Break,
    Holder,
    Operation,
    Spares,
    acknowledged,
    breaks_of,
    claim,
    following,
    must_wait,
)

LETTERS = {"R": READ, "H": HANDLE, "W": WRITE}
OPLOCKS = {"": 0, "s": READ, "x": READ | WRITE, "b": READ | HANDLE | WRITE}


def lease(letters: str, key: bytes = b"1") -> Holder:
    return Holder(key, True, sum(LETTERS[letter] for letter in letters))


def oplock(level: str, key: bytes = b"1") -> Holder:
    return Holder(key, False, OPLOCKS[level])


def after(holder: Holder, breaks: tuple[Break, ...]) -> int:
    return next((item.state for item in breaks if item.key == holder.key), holder.state)


@pytest.mark.parametrize(
    ("held", "asked", "then", "granted"),
    [
        ("R", "R", "R", "R"), ("R", "RH", "R", "RH"), ("R", "RW", "R", "R"), ("R", "RHW", "R", "RH"),
        ("RH", "R", "RH", "R"), ("RH", "RH", "RH", "RH"), ("RH", "RW", "RH", "R"), ("RH", "RHW", "RH", "RH"),
        ("RW", "R", "R", "R"), ("RW", "RH", "R", "RH"), ("RW", "RW", "R", "R"), ("RW", "RHW", "R", "RH"),
        ("RHW", "R", "RH", "R"), ("RHW", "RH", "RH", "RH"), ("RHW", "RW", "RH", "R"), ("RHW", "RHW", "RH", "RH"),
    ],
)  # fmt: skip
def test_two_leases(held: str, asked: str, then: str, granted: str) -> None:
    decision = claim([lease(held)], lease(asked, b"2"), other_opens=True)
    assert after(lease(held), decision.breaks) == lease(then).state
    assert decision.granted == lease(granted).state
    assert decision.wait == (held != then)


@pytest.mark.parametrize(
    ("held", "asked", "granted"),
    [
        ("", "R", "R"), ("", "RWH", "RWH"), ("R", "", "R"), ("R", "RH", "RH"), ("R", "RW", "RW"), ("RH", "R", "RH"), ("RH", "RW", "RH"),
        ("RH", "RWH", "RWH"), ("RW", "R", "RW"), ("RW", "RH", "RW"), ("RW", "RWH", "RWH"), ("RWH", "", "RWH"), ("RWH", "RH", "RWH"),
    ],
)  # fmt: skip
def test_one_lease_is_raised(held: str, asked: str, granted: str) -> None:
    assert claim([lease(held)], lease(asked)) == (lease(granted).state, (), False)


@pytest.mark.parametrize(
    ("one", "two", "asked", "granted"),
    [
        ("R", "R", "RW", "R"), ("R", "R", "RH", "RH"), ("R", "R", "RHW", "R"),
        ("R", "RH", "RH", "RH"), ("RH", "R", "RHW", "RH"), ("RH", "RH", "", "RH"),
    ],
)  # fmt: skip
def test_a_lease_is_raised_beside_another(one: str, two: str, asked: str, granted: str) -> None:
    assert claim([lease(one), lease(two, b"2")], lease(asked), other_opens=True).granted == lease(granted).state


@pytest.mark.parametrize("level", ["s", "x", "b"])
@pytest.mark.parametrize(("held", "then", "granted"), [("R", "R", "s"), ("RH", "RH", ""), ("RW", "R", "s"), ("RHW", "RH", "")])
def test_oplock_after_lease(held: str, level: str, then: str, granted: str) -> None:
    decision = claim([lease(held)], oplock(level, b"2"), other_opens=True)
    assert (after(lease(held), decision.breaks), decision.granted) == (lease(then).state, OPLOCKS[granted])


@pytest.mark.parametrize("level", ["s", "x", "b"])
@pytest.mark.parametrize("asked", ["R", "RH", "RW", "RHW"])
def test_lease_after_oplock(level: str, asked: str) -> None:
    decision = claim([oplock(level)], lease(asked, b"2"), other_opens=True)
    assert (after(oplock(level), decision.breaks), decision.granted) == (READ, READ)
    assert decision.wait == (level != "s")


def test_oplocks() -> None:
    assert claim([], oplock("b")) == (OPLOCKS["b"], (), False)
    assert claim([], oplock("b"), other_opens=True).granted == READ
    assert claim([oplock("b")], oplock("b", b"2"), other_opens=True) == (READ, (Break(b"1", READ, True),), True)
    # Level II is told, not asked.
    assert claim([oplock("s")], oplock("", b"2"), operation=Operation.OVERWRITE) == (0, (Break(b"1", 0, False),), False)
    assert breaks_of([oplock("s"), lease("RH", b"3")], b"2", Operation.WRITE) == (Break(b"1", 0, False), Break(b"3", 0, True))
    # What a handle writes is not read from its own oplock's cache, unless that oplock caches writes; a lease sees all its handles.
    assert breaks_of([oplock("s")], b"1", Operation.WRITE) == (Break(b"1", 0, False),)
    assert breaks_of([oplock("x")], b"1", Operation.LOCK) == ()
    assert breaks_of([oplock("s")], b"1", Operation.RENAME) == ()
    assert breaks_of([lease("R")], b"1", Operation.WRITE) == ()


def test_odd_requests_and_stat_opens() -> None:
    for state in set(range(8)) - GRANTABLE:
        assert claim([], Holder(b"1", True, state)).granted == 0
    assert claim([lease("RHW")], lease("R", b"2"), other_opens=True, spares=Spares.ALL) == (0, (), False)
    assert claim([lease("RHW")], oplock("", b"2"), spares=Spares.LEASES) == (0, (), False)
    assert claim([oplock("b")], oplock("", b"2"), spares=Spares.LEASES) == (0, (Break(b"1", READ, True),), True)
    assert claim([], oplock("b"), spares=Spares.ALL) == (OPLOCKS["b"], (), False)


def test_sharing_violation_breaks_handles_first() -> None:
    assert breaks_of([lease("RHW")], b"2", Operation.SHARING_VIOLATION) == (Break(b"1", READ | WRITE, True),)
    assert breaks_of([oplock("b")], b"2", Operation.SHARING_VIOLATION) == (Break(b"1", READ, True),)


def test_acknowledgement() -> None:
    breaking = lease("RHW")._replace(breaking=True)
    assert acknowledged(breaking, READ | HANDLE, READ) == lease("R")
    assert acknowledged(breaking, READ | HANDLE, READ | WRITE) is None
    assert following(breaking._replace(state=READ | HANDLE, required=0)) == Break(b"1", READ, True)
    assert following(breaking._replace(state=READ, required=0)) == Break(b"1", 0, False)
    assert following(breaking._replace(state=READ, required=READ)) is None
    required = breaking._replace(required=READ | HANDLE)
    assert breaks_of([required], b"2", Operation.OVERWRITE) == (Break(b"1", 0, True, True),)
    assert breaks_of([required], b"2", Operation.OPEN) == ()
    assert must_wait([breaking], b"2", Operation.OPEN)
    assert claim([breaking], lease("R")).granted == breaking.state


asks = st.tuples(
    st.sampled_from([b"1", b"2", b"3", b"4"]), st.booleans(), st.integers(0, 7), st.sampled_from([Operation.OPEN, Operation.OVERWRITE])
)


@given(st.lists(asks, max_size=12))
def test_write_caching_is_alone(steps: list[tuple[bytes, bool, int, Operation]]) -> None:
    """Every open waits for its acknowledgements and asks again, as the worker does."""
    holders: dict[bytes, Holder] = {}
    for name, is_lease, state, operation in steps:
        key = name + (b"l" if is_lease else b"o")
        if not is_lease and key in holders:
            continue  # an oplock's key is one open's
        wanted = Holder(key, is_lease, state)
        decision = claim(list(holders.values()), wanted, operation=operation, other_opens=bool(set(holders) - {key}))
        assert all(item.key != key for item in decision.breaks)
        for item in decision.breaks:
            assert not item.state & ~holders[item.key].state
            holders[item.key] = holders[item.key]._replace(state=item.state)
        again = claim(list(holders.values()), wanted, operation=operation, other_opens=bool(set(holders) - {key}))
        assert (again.breaks, again.wait) == ((), False)
        held = holders[key].state if key in holders else 0
        assert not again.granted & ~(state | held)
        assert again.granted in GRANTABLE
        holders[key] = wanted._replace(state=again.granted)
        if any(holder.state & WRITE for holder in holders.values()):
            assert len(holders) == 1
        if any(holder.lease and holder.state & HANDLE for holder in holders.values()):
            assert all(holder.lease or not holder.state for holder in holders.values())
