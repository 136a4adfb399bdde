"""Oplocks and leases in the tables: what opens are granted, whom they break, who waits, who is woken."""

from __future__ import annotations

from time import monotonic_ns
from typing import Any

import pytest

from smbd.sharing import Act, CacheClaim, CacheKind, Deletion, FileKey, OpenClaim, Opened, Operation, Range, Waiter
from smbd.sharing.caches import GRACE
from smbd.sharing.caching import HANDLE, READ, WRITE
from smbd.smb2 import status
from smbd.smb2.constants import DELETE, FILE_READ_ATTRIBUTES, FILE_READ_DATA, FILE_WRITE_DATA, READ_CONTROL

from .conftest import House
from .test_opens import status_of

KEY, OTHER = FileKey(1, 100), FileKey(1, 101)
RW = FILE_READ_DATA | FILE_WRITE_DATA
BATCH = CacheClaim(CacheKind.OPLOCK, READ | HANDLE | WRITE)
LEVEL_II = CacheClaim(CacheKind.OPLOCK, READ)
GUID = b"g" * 16
NOTHING = CacheClaim()
LATER = 1 << 62


def lease(letter: bytes, state: int = READ | HANDLE | WRITE, kind: int = CacheKind.LEASE_V2, guid: bytes = GUID) -> CacheClaim:
    return CacheClaim(kind, state, 0x10, guid, letter * 16)


def claim(file_id: int, cache: CacheClaim = NOTHING, access: int = RW, **more: Any) -> OpenClaim:
    return OpenClaim(file_id, access, 7, "file", "data", "alice", cache=cache, waiter_id=file_id, deadline=LATER)._replace(
        **{"share_access": more.pop("share", 7), **more}
    )


def disturbed(house: House) -> bool:
    """Whether a write has to look for caches; after one more transaction, which tells all what the last one has committed."""
    house.process(16).remove_session(1)
    return house.process(16).is_cached(KEY)


def test_a_sole_open_gets_what_it_asks_for_and_costs_writers_nothing(house: House) -> None:
    one = house.process(16)
    assert one.open(KEY, claim(1, BATCH)) == Opened(False, CacheKind.OPLOCK, READ | HANDLE | WRITE)
    assert not disturbed(house)
    one.close(KEY, 1)
    assert one.open(KEY, claim(2, LEVEL_II)).granted == READ
    assert disturbed(house)  # its own writes end it
    one.close(KEY, 2)
    assert not disturbed(house)
    assert one.open(KEY, claim(3)) == Opened(False)


def test_a_second_open_waits_for_the_acknowledgement(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, BATCH))
    first = two.open(KEY, claim(2, BATCH))
    assert first.wait
    (notice,) = first.notices
    assert (notice.slot, notice.file_id, notice.lease, notice.current, notice.state, notice.deadline) == (16, 1, False, 7, READ, LATER)
    again = two.open(KEY, claim(2, BATCH, again=True))
    assert (again.wait, again.notices) == (True, ())  # told once
    assert [row.file_id for row in two.opens_of(KEY)] == [1]
    done = one.acknowledge_oplock(KEY, 1, READ, LATER)
    assert (done.accepted, done.state, done.notices, done.wake) == (True, READ, (), (Waiter(17, 1, 2),))
    assert two.open(KEY, claim(2, BATCH, again=True)) == Opened(False, CacheKind.OPLOCK, READ)
    two.cancel_wait(KEY, 2)
    assert disturbed(house)
    assert status_of(one.acknowledge_oplock, KEY, 1, READ, LATER) == status.INVALID_OPLOCK_PROTOCOL


def test_a_level_that_was_not_allowed_costs_the_oplock(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, BATCH))
    assert two.open(KEY, claim(2, overwrite=True)).notices[0].state == 0
    done = one.acknowledge_oplock(KEY, 1, READ, LATER)
    assert not done.accepted
    assert done.wake
    assert [row.cache_state for row in one.opens_of(KEY)] == [0]


def test_a_sharing_violation_breaks_handles_first(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, BATCH, share=0))
    assert two.open(KEY, claim(2)).wait
    one.acknowledge_oplock(KEY, 1, READ, LATER)
    assert status_of(two.open, KEY, claim(2, again=True)) == status.SHARING_VIOLATION
    one.close(KEY, 1)
    one.open(KEY, claim(3, CacheClaim(CacheKind.OPLOCK, READ | WRITE), share=0))
    assert status_of(two.open, KEY, claim(2)) == status.SHARING_VIOLATION  # an exclusive oplock has no handles to give up


def test_closing_and_dying_release_who_waits(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, BATCH))
    assert two.open(KEY, claim(2)).wait
    assert one.close(KEY, 1).wake == (Waiter(17, 1, 2),)
    assert not two.open(KEY, claim(2, BATCH, again=True)).wait
    house.dead.add((17, 1))
    assert one.open(KEY, claim(3, BATCH)).granted == READ | HANDLE | WRITE
    one.sweep_dead()
    assert not disturbed(house)


def test_what_nobody_ends_in_time_ends(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, BATCH))
    deadline = monotonic_ns()
    assert two.open(KEY, claim(2, deadline=deadline)).wait
    assert one.expire_oplock(KEY, 1, deadline + 1) == ()  # another break's time-out
    assert one.expire_oplock(KEY, 1, deadline) == (Waiter(17, 1, 2),)
    assert [row.cache_state for row in one.opens_of(KEY)] == [0]
    one.close(KEY, 1)
    one.open(KEY, claim(1, BATCH))
    assert two.open(KEY, claim(2, deadline=deadline - GRACE)).wait
    assert not two.open(KEY, claim(2, again=True)).wait  # its worker is stopped, or was never told


def test_attributes_are_free(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, BATCH))
    assert two.open(KEY, claim(2, BATCH, FILE_READ_ATTRIBUTES)) == Opened(False)
    assert two.open(KEY, claim(3, access=READ_CONTROL)).wait
    one.open(OTHER, claim(4, lease(b"1")))
    assert not two.open(OTHER, claim(5, access=READ_CONTROL)).wait


def test_opens_of_a_lease_share_it(house: House) -> None:
    one, two = house.process(16), house.process(17)
    assert one.open(KEY, claim(1, lease(b"1", READ))) == Opened(False, CacheKind.LEASE_V2, READ, 0x11)
    raised = two.open(KEY, claim(2, lease(b"1", READ | HANDLE, CacheKind.LEASE)))
    assert raised == Opened(False, CacheKind.LEASE_V2, READ | HANDLE, 0x12)
    assert {row.cache_state for row in one.opens_of(KEY)} == {READ | HANDLE}
    assert two.open(KEY, claim(3, lease(b"1", 0))).epoch == 0x12
    two.close(KEY, 2)
    two.close(KEY, 3)
    assert one.open(KEY, claim(4, lease(b"1"))) == Opened(False, CacheKind.LEASE_V2, 7, 0x13)
    assert status_of(two.open, OTHER, claim(5, lease(b"1"))) == status.INVALID_PARAMETER
    assert two.open(OTHER, claim(5, lease(b"1", guid=b"h" * 16))).granted == 7
    one.close(KEY, 1)
    one.close(KEY, 4)
    assert one.open(FileKey(1, 102), claim(6, lease(b"1"))).granted == 7


def test_a_dead_lease_key_is_free(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, lease(b"1")))
    house.dead.add((16, 1))
    assert two.open(OTHER, claim(2, lease(b"1"))).granted == 7
    two.sweep_dead()
    assert status_of(two.open, KEY, claim(3, lease(b"1"))) == status.INVALID_PARAMETER


def test_a_lease_is_broken_step_by_step(house: House) -> None:
    """RWH to RH for an open, R and nothing for an overwriting one that comes meanwhile."""
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, lease(b"1")))
    (notice,) = two.open(KEY, claim(2)).notices
    assert (notice.lease, notice.lease_key, notice.epoch, notice.current, notice.state) == (True, b"1" * 16, 0x12, 7, READ | HANDLE)
    joined = one.open(KEY, claim(9, lease(b"1", READ)))
    assert (joined.granted, joined.breaking, joined.epoch) == (7, True, 0x12)
    overwriting = two.open(KEY, claim(3, overwrite=True))
    assert (overwriting.wait, overwriting.notices) == (True, ())
    assert status_of(one.acknowledge_lease, GUID, b"1" * 16, 7, LATER) == status.REQUEST_NOT_ACCEPTED
    step = one.acknowledge_lease(GUID, b"1" * 16, READ | HANDLE, LATER)
    assert [(n.current, n.state, n.epoch, n.deadline) for n in step.notices] == [(READ | HANDLE, READ, 0x12, LATER)]
    assert not step.wake
    assert two.open(KEY, claim(2, again=True)).wait
    last = one.acknowledge_lease(GUID, b"1" * 16, READ, LATER)
    assert [(n.current, n.state, n.deadline) for n in last.notices] == [(READ, 0, 0)]
    assert {waiter.waiter_id for waiter in last.wake} == {2, 3}
    assert status_of(one.acknowledge_lease, GUID, b"1" * 16, 0, LATER) == status.UNSUCCESSFUL
    assert status_of(one.acknowledge_lease, GUID, b"2" * 16, 0, LATER) == status.OBJECT_NAME_NOT_FOUND
    assert not two.open(KEY, claim(3, overwrite=True, again=True)).wait


def test_writes_and_locks_tell_readers(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, lease(b"2", READ)))
    two.open(KEY, claim(2, lease(b"1", READ | HANDLE)))
    two.open(KEY, claim(3))
    told = two.disturb(KEY, Act(2, Operation.WRITE, LATER))
    assert [(n.file_id, n.state, n.deadline) for n in told.notices] == [(1, 0, 0)]  # its own lease knows
    assert two.disturb(KEY, Act(2, Operation.WRITE, LATER)) == (False, ())
    told = one.disturb(KEY, Act(1, Operation.LOCK, LATER))
    assert [(n.file_id, n.current, n.state, n.deadline) for n in told.notices] == [(2, READ | HANDLE, 0, LATER)]
    assert two.acknowledge_lease(GUID, b"1" * 16, 0, LATER).state == 0
    assert not disturbed(house)


def test_an_own_level_two_oplock_ends_with_the_first_write(house: House) -> None:
    one = house.process(16)
    one.open(KEY, claim(1, LEVEL_II))
    assert [n.file_id for n in one.disturb(KEY, Act(1, Operation.WRITE, LATER)).notices] == [1]
    assert not disturbed(house)


def test_renaming_waits_for_handles(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, lease(b"1", READ | HANDLE)))
    two.open(KEY, claim(2, access=RW | DELETE))
    first = two.disturb(KEY, Act(2, Operation.RENAME, LATER, 2))
    assert first.wait
    assert [n.state for n in first.notices] == [READ]
    assert one.acknowledge_lease(GUID, b"1" * 16, READ, LATER).wake == (Waiter(17, 1, 2),)
    assert two.disturb(KEY, Act(2, Operation.RENAME, LATER, 2)) == (False, ())


@pytest.mark.parametrize(
    ("allocation", "overwrite", "granted"), [(4096, False, 0), (11, False, 0), (10, False, READ), (0, False, READ), (4096, True, READ)]
)
def test_data_that_is_locked_is_not_cached_anew(house: House, allocation: int, overwrite: bool, granted: int) -> None:
    """[MS-FSA] 2.1.5.18.2: a lock beyond what is allocated hides nothing."""
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1))
    one.lock(KEY, 1, [Range(10, 1)])
    answer = two.open(KEY, claim(2, LEVEL_II, allocation=allocation, overwrite=overwrite))
    assert answer == (Opened(False, CacheKind.OPLOCK, granted) if granted else Opened(False))


def test_a_lease_that_caches_nothing_keeps_its_epoch(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1))
    one.lock(KEY, 1, [Range(0, 1)])
    answer = two.open(KEY, claim(2, lease(b"k", READ), allocation=1))
    assert (answer.kind, answer.granted, answer.epoch) == (CacheKind.LEASE_V2, 0, 0x10)
    one.close(KEY, 1)
    answer = two.open(KEY, claim(3, lease(b"k", READ), allocation=1))
    assert (answer.granted, answer.epoch) == (READ, 0x11)


@pytest.mark.parametrize("marked_first", [True, False])
def test_what_others_have_marked_goes_with_an_abandoned_open(house: House, marked_first: bool) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, access=RW | DELETE))
    two.open(KEY, claim(2, delete_on_close=True, access=RW | DELETE))
    one.set_delete_on_close(KEY, 1, True, 5, 6)
    if marked_first:
        assert one.close(KEY, 1).delete is Deletion.NOTHING
        closed = two.abandon(KEY, 2)
        assert (closed.delete, closed.uid) == (Deletion.FILE, 5)
        assert two.finish_delete(KEY, 2, closed.delete).delete is Deletion.NOTHING
    else:
        assert two.abandon(KEY, 2).delete is Deletion.NOTHING
        assert one.close(KEY, 1).delete is Deletion.FILE


def test_whether_a_break_is_still_awaited(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, lease(b"k")))
    one.open(OTHER, claim(2, BATCH))
    assert not one.awaits_lease(GUID, b"k" * 16, LATER)
    two.open(KEY, claim(3))
    two.open(OTHER, claim(4))
    assert one.awaits_lease(GUID, b"k" * 16, LATER)
    assert one.awaits_oplock(OTHER, 2, LATER)
    assert not one.awaits_oplock(OTHER, 2, LATER - 1)  # another break's
    one.acknowledge_lease(GUID, b"k" * 16, READ | HANDLE, LATER)
    one.close(OTHER, 2)
    assert not one.awaits_lease(GUID, b"k" * 16, LATER)
    assert not one.awaits_oplock(OTHER, 2, LATER)


def folder(file_id: int, cache: CacheClaim) -> OpenClaim:
    return claim(file_id, cache, access=FILE_READ_DATA, directory=True)


def test_what_changes_in_a_directory_ends_all_leases_of_it_but_the_one_that_is_named(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, folder(1, lease(b"1", READ | HANDLE)))
    one.open(KEY, folder(2, lease(b"2", READ | HANDLE)))
    two.open(KEY, folder(3, lease(b"1", READ, guid=b"h" * 16)))  # another client's key happens to be the same
    done = two.disturb(KEY, Act(0, Operation.CHILD, LATER, spared=b"1" * 16))
    assert not done.wait
    assert [(notice.file_id, notice.state, notice.deadline, notice.epoch) for notice in done.notices] == [(2, 0, LATER, 0x12)]
    assert two.disturb(KEY, Act(0, Operation.CHILD, LATER, spared=b"1" * 16)).notices == ()  # told once
    others = two.disturb(KEY, Act(0, Operation.CHILD, LATER)).notices
    assert {(notice.file_id, notice.state, notice.deadline) for notice in others} == {(1, 0, LATER), (3, 0, 0)}
    assert one.acknowledge_lease(GUID, b"1" * 16, 0, LATER).state == 0
    assert one.acknowledge_lease(GUID, b"2" * 16, 0, LATER).state == 0
    assert not one.caches_directories()


def test_whether_any_directory_is_cached_is_one_word(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(OTHER, claim(9, LEVEL_II))
    assert not two.caches_directories()  # a file is none
    one.open(KEY, folder(1, lease(b"1", READ | HANDLE)))
    one.open(KEY, folder(2, lease(b"2", READ)))
    assert two.caches_directories()
    one.close(KEY, 1)
    assert two.caches_directories()
    one.close(KEY, 2)
    assert not two.caches_directories()
    one.open(KEY, folder(3, lease(b"3", READ)))
    house.dead.add((16, 1))
    assert two.disturb(KEY, Act(0, Operation.CHILD, LATER)).notices == ()  # the dead cache nothing
    two.sweep_dead()
    assert not two.caches_directories()


def test_an_operation_from_outside_meets_a_sole_open(house: House) -> None:
    """The owner's own operations disturb nobody then, and read nothing."""
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, BATCH))
    assert not two.is_cached(KEY)
    done = two.disturb(KEY, Act(0, Operation.RENAME, LATER, 7))
    assert (done.wait, [notice.state for notice in done.notices]) == (True, [READ])
    assert one.close(KEY, 1).wake == (Waiter(17, 1, 7),)


@pytest.mark.parametrize(("operation", "left"), [(Operation.OPEN, 0), (Operation.OVERWRITE, 0)])
def test_without_level_ii_a_broken_oplock_ends(house: House, operation: Operation, left: int) -> None:
    one, two = house.process(16), house.process(17)
    assert one.open(KEY, claim(1, BATCH._replace(whole=True))).granted == READ | HANDLE | WRITE
    first = two.open(KEY, claim(2, BATCH._replace(whole=True), overwrite=operation is Operation.OVERWRITE))
    assert [notice.state for notice in first.notices] == [left]
    assert one.acknowledge_oplock(KEY, 1, 0, LATER).accepted
    assert two.open(KEY, claim(2, BATCH._replace(whole=True), again=True)) == Opened(False)
