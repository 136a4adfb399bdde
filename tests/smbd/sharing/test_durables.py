"""Opens that outlive their connections: who finds them, who gets them, and what ends them."""

from __future__ import annotations

from time import monotonic_ns

import pytest

from smbd.sharing import (
    DISCONNECTED,
    Act,
    CacheClaim,
    CacheKind,
    Claimant,
    Deletion,
    DurableClaim,
    FileKey,
    Lasting,
    OpenClaim,
    Opened,
    Operation,
    Parting,
    Range,
    Sharing,
    Waiter,
)
from smbd.smb2 import status
from smbd.smb2.status import SmbError

from .conftest import House
from .test_processes import check

KEY = FileKey(1, 100)
CLIENT, CREATE, APP, LEASE = bytes([1]) * 16, bytes([2]) * 16, bytes([3]) * 16, bytes([4]) * 16
R, H, W = 1, 2, 4
READ, WRITE, DELETE = 0x1, 0x2, 0x10000
ALL, NONE = 7, 0
HOUR = 3_600_000
SID = "S-1-5-21-1-2-3-1000"

DURABLE = DurableClaim(Lasting.DURABLE, 2, HOUR, CLIENT, CREATE, bytes(16), 0, 0, SID, 77, 0x40)
PERSISTENT = DURABLE._replace(lasting=Lasting.PERSISTENT)
RESILIENT = DURABLE._replace(lasting=Lasting.RESILIENT)


def claim(file_id: int, state: int = R | H | W, durable: DurableClaim | None = DURABLE, lease: bytes = LEASE) -> OpenClaim:
    cache = CacheClaim(CacheKind.LEASE_V2, state, 5, CLIENT, lease) if state else CacheClaim()
    return OpenClaim(file_id, READ | WRITE | DELETE, ALL, "a/b", "data", "anna", cache=cache, durable=durable)


def refused(code: int, sharing: Sharing, wanted: OpenClaim) -> None:
    with pytest.raises(SmbError) as caught:
        sharing.open(KEY, wanted)
    assert caught.value.status == code


def lost(house: House, file_id: int = 1, wanted: OpenClaim | None = None) -> Sharing:
    """A process whose client has opened the file and then lost its connection."""
    one = house.process(16)
    one.open(KEY, wanted or claim(file_id))
    assert one.disconnect(KEY, file_id, Parting(2, 33, bytes([9]) * 64))
    return one


def test_a_lost_open_is_found_and_reclaimed_with_its_locks_and_its_lease(house: House) -> None:
    one, two = house.process(16), house.process(17)
    assert one.open(KEY, claim(1)).lasting == Lasting.DURABLE
    one.lock(KEY, 1, [Range(0, 10)])
    found = two.find(1)
    assert found is not None
    assert found.connected
    assert found.claim == DURABLE
    assert one.disconnect(KEY, 1, Parting(2, 33, bytes([9]) * 64))
    house.dead.add((16, 1))
    one.sweep(16, 1)
    found = two.find(1)
    assert found == two.find_created(CLIENT, CREATE)
    assert found is not None
    assert (found.connected, found.parting, found.row.slot) == (False, Parting(2, 33, bytes([9]) * 64), DISCONNECTED)
    assert two.locks_conflict(KEY, 2, 5, 1, False)
    assert two.reclaim(KEY, 1, Claimant(8, 9, "anna")) == Opened(False, CacheKind.LEASE_V2, R | H | W, 6, False, (), Lasting.DURABLE)
    (row,) = two.opens()
    assert (row.slot, row.session_id, row.tree_id, row.locks, row.path) == (17, 8, 9, 1, "a/b")
    assert not two.locks_conflict(KEY, 1, 5, 1, True)
    assert two.next_deadline() is None
    assert two.close(KEY, 1).last
    assert two.find(1) is None
    assert two.find_created(CLIENT, CREATE) is None


def test_of_two_who_reclaim_one_gets_it(house: House) -> None:
    lost(house)
    two, three = house.process(17), house.process(18)
    two.reclaim(KEY, 1, Claimant(8, 9))
    for late in (two, three):
        with pytest.raises(SmbError) as caught:
            late.reclaim(KEY, 1, Claimant(1, 1))
        assert caught.value.status == status.OBJECT_NAME_NOT_FOUND


def test_only_the_same_file_is_reclaimed(house: House) -> None:
    lost(house)
    with pytest.raises(SmbError):
        house.process(17).reclaim(FileKey(1, 101), 1, Claimant(8, 9))


def test_what_a_killed_process_had_is_reclaimed_before_anybody_swept(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1))
    one.lock(KEY, 1, [Range(0, 10)])
    house.dead.add((16, 1))
    found = two.find(1)
    assert found is not None
    assert not found.connected
    assert two.locks_conflict(KEY, 2, 5, 1, False)
    with pytest.raises(SmbError):
        two.lock(KEY, 2, [Range(5, 1)])
    assert [row.path for row in two.opens()] == ["a/b"]
    two.reclaim(KEY, 1, Claimant(8, 9))
    assert not two.locks_conflict(KEY, 1, 5, 1, True)
    assert two.sweep(16, 1).opens == 0


def test_a_sweep_leaves_lasting_opens_and_their_locks(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1))
    one.open(KEY, claim(2, durable=None))
    one.lock(KEY, 1, [Range(0, 10)])
    one.lock(KEY, 2, [Range(20, 10)])
    house.dead.add((16, 1))
    assert two.sweep_dead().locks == 1
    assert [(row.slot, row.file_id) for row in two.opens()] == [(DISCONNECTED, 1)]
    assert [lock.offset for _, lock in two.locks()] == [0]


@pytest.mark.parametrize("held", [R | W, R, 0])
def test_without_handle_caching_nothing_is_durable(house: House, held: int) -> None:
    one = house.process(16)
    assert one.open(KEY, claim(1, held)).lasting == 0
    assert not one.disconnect(KEY, 1, Parting())
    found = one.find_created(CLIENT, CREATE)
    assert found is not None  # but has its names, for who asks again
    assert found.claim.lasting == 0


def test_a_directory_is_not_durable(house: House) -> None:
    assert house.process(16).open(KEY, claim(1)._replace(directory=True)).lasting == 0


def test_a_break_under_way_ends_a_durable_open_with_its_connection(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1))
    assert two.open(KEY, claim(2, lease=bytes(16))._replace(waiter_id=5, deadline=monotonic_ns() + 10**10)).wait
    assert not one.disconnect(KEY, 1, Parting())
    assert one.close(KEY, 1).wake == (Waiter(17, 1, 5),)


@pytest.mark.parametrize(
    ("mine", "theirs", "kept"),
    [
        (R | H, claim(2, 0, None)._replace(access=0x80), True),
        (R | H | W, claim(2, 0, None)._replace(access=0x80), True),
        (R | H, claim(2, R | H, lease=bytes(16)), True),
        (R | H, claim(2, R | H | W, lease=bytes(16)), True),
        (R | H | W, claim(2, R | H | W, lease=bytes(16)), False),
        (R | H | W, claim(2, R | H, lease=bytes(16)), False),
        (R | H, claim(2, 0, None)._replace(share_access=NONE), False),
        (R | H, claim(2, 0, None)._replace(overwrite=True), False),
    ],
)
@pytest.mark.parametrize("killed", [False, True])
def test_who_gives_way_to_whom(house: House, mine: int, theirs: OpenClaim, kept: bool, killed: bool) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, mine))
    if killed:
        house.dead.add((16, 1))
    else:
        one.disconnect(KEY, 1, Parting())
    opened = two.open(KEY, theirs)
    assert not opened.wait
    assert not opened.notices
    assert (two.find(1) is not None) is kept
    assert (1 in [row.file_id for row in two.opens()]) is kept
    assert (two.next_deadline() is not None) is kept


@pytest.mark.parametrize("operation", [Operation.WRITE, Operation.RENAME, Operation.DELETE])
def test_what_others_do_to_the_file_ends_it(house: House, operation: Operation) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, R | H))
    two.open(KEY, claim(2, 0, None))
    one.disconnect(KEY, 1, Parting())
    assert two.disturb(KEY, Act(2, operation, monotonic_ns(), 7)) == (False, ())
    assert two.find(1) is None


def test_a_persistent_open_gives_way_to_nobody(house: House) -> None:
    lost(house, wanted=claim(1, 0, PERSISTENT)._replace(share_access=READ))
    two = house.process(17)
    refused(status.FILE_NOT_AVAILABLE, two, claim(2, 0, None))
    assert not two.open(KEY, claim(3, 0, None)._replace(access=READ)).wait
    assert two.reclaim(KEY, 1, Claimant(8, 9)).lasting == Lasting.PERSISTENT


def test_a_persistent_lease_gives_way_to_nobody(house: House) -> None:
    lost(house, wanted=claim(1, R | H | W, PERSISTENT))
    refused(status.FILE_NOT_AVAILABLE, house.process(17), claim(2, R, None, bytes(16)))


@pytest.mark.parametrize("operation", [Operation.WRITE, Operation.LOCK])
def test_what_is_done_to_the_file_already_is_told_a_persistent_open_s_client(house: House, operation: Operation) -> None:
    """Who had the file open before has written: that cannot be refused any more, and what is cached of the file is out of date."""
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, R | H, PERSISTENT))
    two.open(KEY, claim(2, 0, None))
    one.disconnect(KEY, 1, Parting())
    with pytest.raises(SmbError) as caught:  # what is yet to be done can
        two.disturb(KEY, Act(2, Operation.RENAME, monotonic_ns(), 7))
    assert caught.value.status == status.FILE_NOT_AVAILABLE
    assert two.disturb(KEY, Act(2, operation, monotonic_ns() + 10**10)) == (False, ())
    opened = two.reclaim(KEY, 1, Claimant(8, 9))
    assert (opened.breaking, [notice.state for notice in opened.notices]) == (True, [0])


def test_a_resilient_open_is_waited_for(house: House) -> None:
    lost(house, wanted=claim(1, R | H | W, RESILIENT))
    two = house.process(17)
    wanted = claim(2, R, None, bytes(16))._replace(waiter_id=5, deadline=monotonic_ns() + 10**10)
    assert two.open(KEY, wanted) == Opened(True)  # there is nobody to be told
    opened = house.process(18).reclaim(KEY, 1, Claimant(8, 9))
    assert opened.breaking
    assert [(notice.slot, notice.state) for notice in opened.notices] == [(18, R | H)]


def test_a_file_that_was_to_go_with_a_disconnected_open_is_awaited(house: House) -> None:
    """Whoever ends a disconnected open that deletes its file finds the name free afterwards."""
    lost(house, wanted=claim(1)._replace(delete_on_close=True, uid=7, gid=8))
    two, janitor = house.process(17), house.process(4)
    wanted = claim(2, lease=bytes(16))._replace(waiter_id=5)
    assert two.open(KEY, wanted) == Opened(True, doomed=True)
    assert two.open(KEY, wanted) == Opened(True)
    refused(status.DELETE_PENDING, two, wanted._replace(waiter_id=0))
    (item,) = janitor.sweep_closing().doomed
    assert (item.delete, item.path, item.uid, item.gid) == (Deletion.FILE, "a/b", 7, 8)
    assert janitor.sweep_closing().doomed == (item,)  # killed in between, the next one finds the same
    done = janitor.finish_sweep([item])
    assert done.doomed == ()
    assert done.wake == (Waiter(17, 1, 5),)
    assert janitor.opens() == []


def test_a_file_that_was_to_go_with_a_killed_process_is_awaited(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, durable=None)._replace(delete_on_close=True))
    wanted = claim(2, lease=bytes(16))._replace(waiter_id=5, deadline=monotonic_ns() + 10**10)
    assert two.open(KEY, wanted).notices  # it seems to live
    house.dead.add((16, 1))
    janitor = house.process(4)
    (item,) = janitor.sweep(16, 1).doomed
    assert two.open(KEY, wanted) == Opened(True)
    assert janitor.finish_sweep([item]).wake == (Waiter(17, 1, 5),)


def test_a_new_file_with_the_number_of_a_deleted_one_waits_until_a_killed_process_is_swept(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, 0, None))
    two.open(KEY, claim(2, 0, None))
    one.set_delete_on_close(KEY, 1, True)
    house.dead.add((16, 1))
    assert two.close(KEY, 2).delete is Deletion.FILE
    two.finish_delete(KEY, 2, Deletion.FILE)
    wanted = claim(3, 0, None)._replace(waiter_id=5)
    assert two.open(KEY, wanted) == Opened(True)
    janitor = house.process(4)
    (item,) = janitor.sweep(16, 1).doomed
    assert janitor.finish_sweep([item]).wake == (Waiter(17, 1, 5),)
    assert not two.open(KEY, wanted).wait


def test_a_file_that_was_to_go_with_a_killed_process_whose_lease_was_being_broken_is_awaited(house: House) -> None:
    """Its open survives nothing then: whoever opens next finds that out, and must not be let in to what is deleted behind him."""
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1)._replace(delete_on_close=True))
    wanted = claim(2, 0, None)._replace(waiter_id=5, deadline=monotonic_ns() + 10**10)
    assert two.open(KEY, wanted).wait
    house.dead.add((16, 1))
    assert two.open(KEY, wanted._replace(again=True)).wait
    check(two)
    (doomed,) = two.sweep_dead().doomed
    assert Waiter(17, 1, 5) in two.finish_sweep([doomed]).wake
    assert not two.open(KEY, wanted._replace(again=True)).wait
    check(two)


def test_a_stream_s_open_that_gives_way_is_counted_once(house: House) -> None:
    one, two = house.process(16), house.process(17)
    stream = KEY._replace(stream="s")
    one.open(stream, claim(1))
    one.disconnect(stream, 1, Parting())
    two.open(stream, claim(2, 0, None)._replace(share_access=NONE))
    assert [row.file_id for row in two.opens()] == [2]
    check(two)
    two.close(stream, 2)
    check(two)


def test_time_ends_them(house: House) -> None:
    one = lost(house, wanted=claim(1, durable=DURABLE._replace(timeout=0))._replace(delete_on_close=True))
    with pytest.raises(SmbError) as caught:
        one.reclaim(KEY, 1, Claimant(8, 9))
    assert caught.value.status == status.OBJECT_NAME_NOT_FOUND
    assert one.overdue() == [1]
    one.end_disconnected([1, 1, 99])
    assert one.overdue() == []
    assert [item.path for item in one.sweep_closing().doomed] == ["a/b"]


def test_its_locks_end_with_it(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1))
    one.lock(KEY, 1, [Range(0, 10)])
    one.disconnect(KEY, 1, Parting())
    assert not two.lock(KEY, 2, [Range(5, 1)], 6)
    assert one.end_disconnected([1]) == (Waiter(17, 1, 6),)
    assert two.lock(KEY, 2, [Range(5, 1)], 6)


def test_who_leaves_too_many_behind_loses_the_oldest(house: House) -> None:
    one = house.process(16)
    for number in range(1, 9):
        wanted = claim(number, lease=bytes([number]) * 16, durable=DURABLE._replace(sid="a" if number < 6 else "b", timeout=HOUR - number))
        one.open(FileKey(1, number), wanted)
        assert one.disconnect(FileKey(1, number), number, Parting())
    assert one.surplus(100, 100) == []
    assert sorted(one.surplus(3, 100)) == [1, 2]
    assert sorted(one.surplus(100, 4)) == [1, 2, 3, 4]
    assert sorted(one.surplus(2, 3)) == [1, 2, 3, 4, 6]


def test_resilience_comes_later(house: House) -> None:
    one = house.process(16)
    one.open(KEY, claim(1, 0, None))
    assert one.find(1) is None
    one.endure(KEY, 1, DurableClaim(Lasting.RESILIENT, 0, HOUR, CLIENT, sid=SID))
    assert one.disconnect(KEY, 1, Parting())
    one.reclaim(KEY, 1, Claimant(8, 9))
    one.endure(KEY, 1, DurableClaim(0))
    assert not one.disconnect(KEY, 1, Parting())
    one.close(KEY, 1)
    with pytest.raises(SmbError):
        one.endure(KEY, 1, RESILIENT)


def test_opens_of_one_application_are_found_together(house: House) -> None:
    one, two = house.process(16), house.process(17)
    named = DurableClaim(app_instance=APP, client_guid=CLIENT)
    one.open(KEY, claim(1, 0, named))
    two.open(FileKey(1, 101), claim(2, 0, named._replace(app_high=5)))
    two.open(FileKey(1, 102), claim(3, 0, named._replace(app_instance=CREATE)))
    assert [(found.row.file_id, found.claim.app_high) for found in two.find_app(APP)] == [(1, 0), (2, 5)]
    house.dead.add((16, 1))
    assert [found.row.file_id for found in two.find_app(APP)] == [2]


def test_a_number_that_is_taken_gets_no_names(house: House) -> None:
    lost(house)
    two = house.process(17)
    assert two.open(FileKey(1, 101), claim(1, lease=bytes(16))).lasting == 0
    two.close(FileKey(1, 101), 1)
    found = two.find(1)
    assert found is not None
    assert found.row.key == KEY


def test_nothing_is_left_of_them(house: House) -> None:
    lost(house, wanted=claim(1, durable=DURABLE._replace(app_instance=APP)))
    one = house.process(16)
    one.end_disconnected([1])
    assert one._read(lambda transaction: [transaction.stat(table)["entries"] for table in one.tables()]) == [0] * len(one.tables())
