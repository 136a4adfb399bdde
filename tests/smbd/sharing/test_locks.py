"""Byte-range locks: the rules as Windows applies them, waiting, dead owners."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smbd.sharing import FileKey, OpenClaim, Range, Sharing
from smbd.sharing.locks import MOST
from smbd.sharing.records import LOCK_ROW, LOCK_STATE
from smbd.sharing.rules import Owner, access_conflict, any_conflict, lock_conflict, overlap, valid_range
from smbd.sharing.store import Transaction
from smbd.sharing.values import Waiter
from smbd.smb2 import status
from smbd.smb2.status import SmbError

from .conftest import House

KEY = FileKey(1, 100)
END = (1 << 64) - 1
ME, OTHER = Owner(16, 1, 1), Owner(16, 1, 2)


def refused(one: Sharing, file_id: int, *ranges: Range) -> int:
    with pytest.raises(SmbError) as caught:
        one.lock(KEY, file_id, ranges)
    return caught.value.status


@pytest.mark.parametrize(
    ("first", "second", "meet"),
    [
        ((10, 0), (10, 0), False),
        ((10, 0), (9, 1), False),
        ((10, 0), (10, 1), False),
        ((10, 0), (11, 1), False),
        ((10, 0), (9, 2), True),
        ((10, 0), (10, 2), False),
        ((10, 0), (9, 3), True),
        ((0, 0), (0, 0), False),
        ((0, 0), (0, 10), False),
        ((0, END), (END - 1, 1), True),
        ((END, 1), (END, 1), True),
        ((0, 10), (10, 10), False),
    ],
)
def test_overlap(first: tuple[int, int], second: tuple[int, int], meet: bool) -> None:
    assert overlap(*first, *second) is meet
    assert overlap(*second, *first) is meet


def test_range_limits() -> None:
    assert valid_range(END, 1)
    assert valid_range(0, END)
    assert valid_range(END, 0)
    assert not valid_range(END, 2)
    assert not valid_range(END, END)


def test_what_was_granted_last_is_withdrawn(make_process: Callable[[int], Sharing]) -> None:
    one = make_process(16)
    one.lock(KEY, 1, [Range(0, 4), Range(8, 1, False)])
    one.lock(KEY, 1, [Range(0, 4, False), Range(8, 1, False)])
    one.lock(KEY, 2, [Range(8, 1, False)])
    one.withdraw(KEY, 1, [Range(0, 4, False), Range(8, 1, False)])
    assert [(lock.file_id, lock.offset, lock.exclusive) for _, lock in one.locks()] == [(1, 0, 1), (1, 8, 0), (2, 8, 0)]
    one.withdraw(KEY, 1, [Range(0, 4), Range(8, 1, False), Range(8, 1, False)])
    assert [lock.file_id for _, lock in one.locks()] == [2]
    one.withdraw(KEY, 2, [Range(8, 1, False)])
    assert one.locks() == []


@pytest.mark.parametrize(
    ("held", "own_write", "own_read", "other_write", "other_read"),
    [(False, True, False, True, False), (True, False, False, True, True)],
)
def test_reads_and_writes(held: bool, own_write: bool, own_read: bool, other_write: bool, other_read: bool) -> None:
    locks = [(*ME, 0, 100, int(held))]
    for owner, write, expected in ((ME, True, own_write), (ME, False, own_read), (OTHER, True, other_write), (OTHER, False, other_read)):
        assert bool(access_conflict(locks, owner, 50, 10, write)) is expected
        assert not access_conflict(locks, owner, 50, 0, write)
        assert not access_conflict(locks, owner, 100, 1, write)


def test_stacking() -> None:
    shared, exclusive = (*ME, 0, 10, 0), (*ME, 0, 10, 1)
    assert not lock_conflict([shared], ME, Range(0, 10, False))
    assert not lock_conflict([exclusive], ME, Range(0, 10, False))
    assert lock_conflict([exclusive], ME, Range(0, 10, True))
    assert lock_conflict([shared], ME, Range(0, 10, True))
    assert lock_conflict([exclusive], OTHER, Range(0, 10, False))
    assert not lock_conflict([shared], OTHER, Range(0, 10, False))


def test_lock_and_unlock(house: House) -> None:
    one, two = house.process(16), house.process(17)
    assert one.lock(KEY, 1, [Range(0, 10), Range(10, 10, False)])
    assert refused(two, 1, Range(5, 1, False)) == status.LOCK_NOT_GRANTED
    assert refused(two, 1, Range(30, 1), Range(10, 1)) == status.LOCK_NOT_GRANTED
    assert two.lock(KEY, 1, [Range(30, 1)])  # the refused pair left nothing
    assert refused(two, 1, Range(END, 2)) == status.INVALID_LOCK_RANGE
    assert two.locks_conflict(KEY, 1, 0, 1, False)
    assert not two.locks_conflict(KEY, 1, 12, 1, False)
    assert two.locks_conflict(KEY, 1, 12, 1, True)
    assert not one.locks_conflict(KEY, 1, 0, 10, True)
    assert not one.locks_conflict(FileKey(1, 101), 1, 0, 10, True)
    assert one.unlock(KEY, 1, [Range(0, 10), Range(0, 10)]) == (1, ())
    assert two.lock(KEY, 1, [Range(0, 10)])
    assert one.unlock(KEY, 1, [Range(30, 1)]).ranges == 0
    assert one.unlock(KEY, 1, [Range(10, 10)]).ranges == 1
    assert two.unlock(KEY, 1, [Range(0, 10), Range(30, 1)]).ranges == 2
    assert one.locks() == []
    two.cancel_wait(KEY, 1)  # any transaction: the one before has to be committed
    assert not any(one._buckets)


def test_exclusive_goes_first(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.lock(KEY, 1, [Range(0, 10)])
    one.lock(KEY, 1, [Range(0, 10, False)])
    one.unlock(KEY, 1, [Range(0, 10)])
    assert two.lock(KEY, 1, [Range(0, 10, False)])


def test_waiting(house: House) -> None:
    one, two, three = house.process(16), house.process(17), house.process(18)
    one.open(KEY, OpenClaim(1, 3, 7, "f"))
    one.lock(KEY, 1, [Range(0, 10)])
    assert two.lock(KEY, 1, [Range(0, 1)], waiter_id=70) is False
    assert three.lock(KEY, 1, [Range(1, 1)], waiter_id=80) is False
    assert three.lock(KEY, 1, [Range(1, 1)], waiter_id=80) is False
    assert one.unlock(KEY, 1, [Range(0, 10)]).wake == (Waiter(17, 1, 70), Waiter(18, 1, 80))
    assert two.lock(KEY, 1, [Range(0, 1)], waiter_id=70)
    one.lock(KEY, 1, [Range(5, 1)])
    assert one.close(KEY, 1).wake == (Waiter(18, 1, 80),)
    three.cancel_wait(KEY, 80)
    three.cancel_wait(KEY, 80)
    assert two.unlock(KEY, 1, [Range(0, 1)]).wake == ()


def test_a_close_ends_the_opens_waits(house: House) -> None:
    one, two = house.process(16), house.process(17)
    two.open(KEY, OpenClaim(1, 3, 7, "f"))
    one.lock(KEY, 1, [Range(0, 10)])
    two.lock(KEY, 1, [Range(0, 1)], waiter_id=70)
    two.close(KEY, 1)
    assert one.unlock(KEY, 1, [Range(0, 10)]).wake == ()


def test_dead_owners(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.lock(KEY, 1, [Range(0, 10)])
    assert two.lock(KEY, 1, [Range(0, 1)], waiter_id=70) is False
    assert two.locks_conflict(KEY, 1, 0, 1, False)
    house.dead.add((16, 1))
    assert not two.locks_conflict(KEY, 1, 0, 1, False)
    swept = two.sweep(16, 1)
    assert (swept.locks, swept.wake) == (1, (Waiter(17, 1, 70),))
    assert two.lock(KEY, 1, [Range(0, 1)], waiter_id=70)
    two.unlock(KEY, 1, [Range(0, 1)])
    two.cancel_wait(KEY, 70)
    assert not any(two._buckets)


def test_a_process_that_is_killed_before_a_lock_is_gone_leaves_it_respected(house: House) -> None:
    """As a commit that fails does: whose locks it was about to remove may be back for them."""
    one, two = house.process(16), house.process(17)
    one.lock(KEY, 1, [Range(0, 1)])

    def killed(transaction: Transaction) -> None:
        one._unlock(transaction, KEY, 1, [Range(0, 1)])
        assert two.has_locks(KEY)
        raise SmbError(status.UNSUCCESSFUL)

    with pytest.raises(SmbError):
        one._write(killed)
    assert two.locks_conflict(KEY, 2, 0, 1, True)
    one.unlock(KEY, 1, [Range(0, 1)])
    one.cancel_wait(KEY, 1)  # any transaction
    assert not two.has_locks(KEY)


def test_the_two_lock_layouts_agree() -> None:
    assert LOCK_ROW.size == LOCK_STATE.size
    assert LOCK_ROW.unpack(LOCK_STATE.pack(1, 2, 3, 4, 5, 6)) == (1, 2, 3, 4, 5, 6)


byte = st.integers(0, 6)
operations = st.lists(st.tuples(st.sampled_from(["lock", "unlock"]), st.sampled_from([ME, OTHER]), byte, byte, st.booleans()), max_size=20)


@given(operations)
def test_no_two_owners_hold_an_exclusive_byte(steps: list[tuple[str, Owner, int, int, bool]]) -> None:
    """Against a model that knows single bytes."""
    locks: list[tuple[int, int, int, int, int, int]] = []
    for verb, owner, offset, length, exclusive in steps:
        if verb == "lock" and not lock_conflict(locks, owner, Range(offset, length, exclusive)):
            locks.append((*owner, offset, length, int(exclusive)))
        elif verb == "unlock":
            locks = [lock for lock in locks if lock[:5] != (*owner, offset, length)]
        for position in range(12):
            holders = [lock for lock in locks if lock[3] <= position < lock[3] + lock[4]]
            exclusives = [lock for lock in holders if lock[5]]
            assert len(exclusives) <= 1
            if exclusives:
                assert {lock[:3] for lock in holders} == {exclusives[0][:3]}


spans = st.tuples(byte, byte, st.booleans())


@given(st.lists(st.tuples(st.sampled_from([ME, OTHER]), spans), max_size=12), st.lists(spans, min_size=1, max_size=6))
def test_many_at_once_are_as_one_after_the_other(
    held: list[tuple[Owner, tuple[int, int, bool]]], asked: list[tuple[int, int, bool]]
) -> None:
    locks = [(*owner, offset, length, int(exclusive)) for owner, (offset, length, exclusive) in held]
    found, after = False, list(locks)
    for offset, length, exclusive in asked:
        found = found or lock_conflict(after, ME, Range(offset, length, exclusive)) is not None
        after.append((*ME, offset, length, int(exclusive)))
    assert any_conflict(locks, ME, [Range(*one) for one in asked]) is found


def test_a_stream_has_so_many_locks(house: House) -> None:
    one = house.process(16)
    for start in range(0, MOST, 256):
        one.lock(KEY, 1, [Range(at, 1) for at in range(start, start + 256)])
    assert refused(one, 2, Range(MOST, 1)) == status.INSUFFICIENT_RESOURCES
    one.unlock(KEY, 1, [Range(5, 1), Range(9, 1)])
    assert one.lock(KEY, 2, [Range(5, 1), Range(9, 1)])
    assert refused(one, 2, Range(MOST, 1)) == status.INSUFFICIENT_RESOURCES
