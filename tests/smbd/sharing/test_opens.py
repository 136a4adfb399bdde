"""Share modes, delete-on-close, names, dead openers."""

from __future__ import annotations

import itertools

import pytest

from smbd.sharing import CacheClaim, CacheKind, Deletion, DurableClaim, FileKey, Lasting, OpenClaim, Range, Sharing, Waiter
from smbd.sharing.records import FileState
from smbd.sharing.rules import SHARED, count, share_conflict
from smbd.sharing.store import rows
from smbd.smb2 import status
from smbd.smb2.constants import DELETE, FILE_EXECUTE, FILE_READ_ATTRIBUTES, FILE_READ_DATA, FILE_WRITE_DATA
from smbd.smb2.status import SmbError

from .conftest import House

KEY = FileKey(1, 100)
STREAM = FileKey(1, 100, "Stream One")
ALL = 7
RW = FILE_READ_DATA | FILE_WRITE_DATA


def claim(file_id: int, access: int = RW, share: int = ALL, **more: object) -> OpenClaim:
    return OpenClaim(file_id, access, share, "dir/file.txt", "data", "alice")._replace(**more)


def status_of(call: object, *args: object) -> int:
    assert callable(call)
    with pytest.raises(SmbError) as caught:
        call(*args)
    return caught.value.status


MASKS = [0, FILE_READ_ATTRIBUTES, FILE_READ_DATA, FILE_EXECUTE, FILE_WRITE_DATA, DELETE, RW, RW | DELETE]


def pairwise(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """[MS-FSA] 2.1.5.1.2.2 read literally."""
    if not first[0] & SHARED or not second[0] & SHARED:
        return False
    for rights, bit in ((FILE_READ_DATA | FILE_EXECUTE, 1), (FILE_WRITE_DATA | 4, 2), (DELETE, 4)):
        if (first[0] & rights and not second[1] & bit) or (second[0] & rights and not first[1] & bit):
            return True
    return False


def test_sums_agree_with_the_pairwise_rule() -> None:
    opens = list(itertools.product(MASKS, range(8)))
    for existing in itertools.product(opens, opens[::5]):
        state = FileState()
        for access, share in existing:
            state = count(state, access, share, 1)
        for new in opens:
            assert share_conflict(state, *new) == any(pairwise(one, new) for one in existing)
        for access, share in existing:
            state = count(state, access, share, -1)
        assert state == FileState()


def test_between_processes(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, share=1))
    assert status_of(two.open, KEY, claim(1)) == status.SHARING_VIOLATION
    two.open(KEY, claim(2, FILE_READ_ATTRIBUTES, 0))
    assert [row.file_id for row in one.opens_of(KEY)] == [1, 2]
    assert one.close(KEY, 1) == (False, Deletion.NOTHING, 0xFFFFFFFF, 0xFFFFFFFF, ())
    two.open(KEY, claim(3))
    two.close(KEY, 2)
    assert two.close(KEY, 3).last
    assert one.opens() == []
    assert status_of(one.close, KEY, 1) == status.FILE_CLOSED


def test_dead_openers_do_not_conflict(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, share=0))
    assert status_of(two.open, KEY, claim(1)) == status.SHARING_VIOLATION
    house.dead.add((16, 1))
    two.open(KEY, claim(1, share=0))
    assert [row.slot for row in two.opens_of(KEY)] == [17]
    assert two.sweep(16, 1).opens == 1
    assert two.close(KEY, 1).last


def test_delete_on_close(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, RW | DELETE, delete_on_close=True, uid=1000, gid=100))
    two.open(KEY, claim(1))
    assert not one.is_delete_pending(KEY)
    assert not one.close(KEY, 1).delete
    assert one.is_delete_pending(KEY)
    assert status_of(one.open, KEY, claim(2, FILE_READ_ATTRIBUTES)) == status.DELETE_PENDING
    closed = two.close(KEY, 1)
    assert closed[:4] == (True, Deletion.FILE, 1000, 100)
    # Until the file is gone nobody gets in.
    assert status_of(one.open, KEY, claim(2)) == status.DELETE_PENDING
    assert not two.finish_delete(KEY, 1, closed.delete).delete
    one.open(KEY, claim(2))


def test_disposition(house: House) -> None:
    one = house.process(16)
    one.open(KEY, claim(1))
    one.set_delete_on_close(KEY, 1, True, 1000, 100)
    assert one.is_delete_pending(KEY)
    assert one.is_delete_pending(STREAM)
    one.set_delete_on_close(KEY, 1, False)
    assert not one.is_delete_pending(KEY)
    assert not one.close(KEY, 1).delete
    assert status_of(one.set_delete_on_close, KEY, 1, True) == status.FILE_CLOSED


def test_streams_and_their_file(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(STREAM, claim(1, share=0))
    # Another stream, or the file itself, is no conflict; deleting the file is.
    two.open(FileKey(1, 100, "other"), claim(2, share=0))
    two.open(KEY, claim(3, share=ALL))
    assert status_of(two.open, FileKey(1, 100, "STREAM ONE"), claim(4)) == status.SHARING_VIOLATION
    two.close(FileKey(1, 100, "other"), 2)
    assert status_of(two.open, KEY, claim(4, DELETE)) == status.SHARING_VIOLATION
    house.dead.add((16, 1))
    two.open(KEY, claim(4, DELETE))


def test_file_is_deleted_after_its_last_stream(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(STREAM, claim(1))
    two.open(KEY, claim(1, DELETE))
    two.set_delete_on_close(KEY, 1, True, 5, 6)
    assert status_of(two.open, STREAM, claim(2)) == status.DELETE_PENDING
    assert two.close(KEY, 1)[:2] == (True, Deletion.NOTHING)
    closed = one.close(STREAM, 1)
    assert closed[:4] == (True, Deletion.FILE, 5, 6)
    assert not one.finish_delete(STREAM, 1, Deletion.FILE).delete
    one.open(KEY, claim(9))


def test_stream_then_file(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(STREAM, claim(1, RW | DELETE, delete_on_close=True))
    two.open(KEY, claim(1, DELETE))
    assert one.close(STREAM, 1).delete is Deletion.STREAM
    two.set_delete_on_close(KEY, 1, True)
    assert two.close(KEY, 1).delete is Deletion.NOTHING  # one is still at work on the stream
    assert one.finish_delete(STREAM, 1, Deletion.STREAM).delete is Deletion.FILE
    assert one.finish_delete(STREAM, 1, Deletion.FILE).delete is Deletion.NOTHING
    assert one.opens() == []


def test_sweep_finds_what_to_delete(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, RW | DELETE, delete_on_close=True, uid=7))
    one.open(FileKey(1, 200), claim(2, RW | DELETE, delete_on_close=True))
    two.open(FileKey(1, 200), claim(2))
    house.dead.add((16, 1))
    swept = two.sweep_dead()
    assert [(item.key, item.share, item.path, item.uid) for item in swept.doomed] == [(KEY, "data", "dir/file.txt", 7)]
    assert status_of(two.open, KEY, claim(5)) == status.DELETE_PENDING
    # A janitor that was killed here finds the same again.
    assert two.sweep_dead().doomed == swept.doomed
    assert two.finish_sweep(swept.doomed).doomed == ()
    assert two.finish_sweep(swept.doomed).doomed == ()
    two.open(KEY, claim(5))
    assert two.close(FileKey(1, 200), 2).delete is Deletion.FILE


def test_names(house: House) -> None:
    one = house.process(16)
    one.open(KEY, claim(1))
    one.open(STREAM, claim(2))
    one.open(FileKey(1, 7), claim(3, path="dir", directory=True))
    assert one.opens_beneath("data", "dir")
    assert not one.opens_beneath("data", "di")
    assert not one.opens_beneath("other", "dir")
    one.rename(KEY, "new/\udcff name")
    assert {row.path for row in one.opens()} == {"new/\udcff name", "dir"}
    assert {row.key.stream for row in one.opens_of(STREAM)} == {"Stream One"}
    assert not one.opens_beneath("data", "dir")


def test_full_map(house: House) -> None:
    one = house.process(16)
    opened = 0
    refusal = 0
    while not refusal:
        try:
            one.open(FileKey(1, opened), claim(opened, path="x" * 2000))
            opened += 1
        except SmbError as error:
            refusal = error.status
    assert refusal == status.INSUFFICIENT_RESOURCES
    assert opened > 1000
    assert len(one.opens()) == opened


def test_abandon_deletes_nothing(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(STREAM, claim(1, RW | DELETE, share=0, delete_on_close=True))
    one.abandon(STREAM, 1)
    one.abandon(STREAM, 1)
    assert one.opens() == []
    two.open(STREAM, claim(1, share=0))
    two.close(STREAM, 1)
    two.open(KEY, claim(2, DELETE))


def test_overwriting_counts_as_writing(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(KEY, claim(1, FILE_READ_DATA, share=1))
    assert status_of(two.open, KEY, claim(2, FILE_READ_DATA, overwrite=True)) == status.SHARING_VIOLATION
    two.open(KEY, claim(2, FILE_READ_DATA, share=1))


NEW = STREAM._replace(stream="new")
LATER = 1 << 62
LEASED = CacheClaim(CacheKind.LEASE_V2, 7, 0, b"g" * 16, b"k" * 16)


def left(sharing: Sharing) -> list[int]:
    """The tables that hold anything."""
    return sharing._read(lambda transaction: [at for at, table in enumerate(sharing.tables()) if rows(transaction, table)])


@pytest.mark.parametrize("to", [NEW, KEY])
def test_a_renamed_stream_is_another_one_s_with_all_that_it_has(house: House, to: FileKey) -> None:
    one, two = house.process(16), house.process(17)
    one.open(STREAM, claim(1, share=1, cache=LEASED, durable=DurableClaim(Lasting.RESILIENT, 2, 60_000, create_guid=b"c" * 16)))
    one.lock(STREAM, 1, [Range(5, 5)])
    assert not one.lock(STREAM, 1, [Range(7, 1)], waiter_id=9)
    assert one.rename_stream(STREAM, 1, to.stream) == ()
    assert (one.opens_of(STREAM), [row.key for row in two.opens_of(to)]) == ([], [to])
    assert not two.open(STREAM, claim(2, share=0)).wait
    assert two.lock(STREAM, 2, [Range(5, 5)])
    notices = two.open(to, claim(3, waiter_id=3, deadline=LATER)).notices
    assert [(notice.slot, notice.lease_key) for notice in notices] == [(16, LEASED.lease_key)]
    assert Waiter(17, 1, 3) in one.acknowledge_lease(LEASED.client_guid, LEASED.lease_key, 1, LATER).wake
    assert status_of(two.open, to, claim(3)) == status.SHARING_VIOLATION
    two.open(to, claim(3, FILE_READ_DATA))
    assert status_of(two.lock, to, 3, [Range(9, 1)]) == status.LOCK_NOT_GRANTED
    found = two.find_created(bytes(16), b"c" * 16)
    assert found is not None
    assert found.row.key == to
    assert 9 in {waiter.waiter_id for waiter in one.unlock(to, 1, [Range(5, 5)]).wake}
    one.cancel_wait(to, 9)
    two.cancel_wait(to, 3)
    one.close(to, 1)
    two.close(to, 3)
    two.close(STREAM, 2)
    assert left(one) == []


def test_a_stream_keeps_its_name_while_others_have_it_or_the_new_one(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.open(STREAM, claim(1))
    two.open(STREAM, claim(2))
    assert status_of(one.rename_stream, STREAM, 1, "new") == status.SHARING_VIOLATION
    two.close(STREAM, 2)
    two.open(NEW, claim(3))
    assert status_of(one.rename_stream, STREAM, 1, "NEW") == status.INVALID_PARAMETER
    two.close(NEW, 3)
    two.open(KEY, claim(4))
    assert status_of(one.rename_stream, STREAM, 1, "") == status.INVALID_PARAMETER
    house.dead.add((17, 1))
    one.rename_stream(STREAM, 1, "")
    assert status_of(one.rename_stream, STREAM, 1, "x") == status.FILE_CLOSED


def test_a_renaming_that_failed_is_undone_whoever_came_meanwhile(house: House) -> None:
    one, two = house.process(16), house.process(17)
    for to in (NEW, KEY):
        one.open(STREAM, claim(1))
        one.rename_stream(STREAM, 1, to.stream)
        two.open(STREAM, claim(2))
        two.open(to, claim(3))
        one.rename_stream(to, 1, STREAM.stream, undo=True)
        assert [row.file_id for row in one.opens_of(STREAM)] == [1, 2]
        one.close(STREAM, 1)
        two.close(STREAM, 2)
        assert two.close(to, 3).last
    assert left(one) == []


def test_what_is_to_be_deleted_goes_along_and_is_never_the_file(house: House) -> None:
    one = house.process(16)
    one.open(STREAM, claim(1))
    one.set_delete_on_close(STREAM, 1, True)
    assert status_of(one.rename_stream, STREAM, 1, "") == status.DELETE_PENDING
    one.rename_stream(STREAM, 1, "new")
    assert one.is_delete_pending(NEW)
    assert not one.is_delete_pending(STREAM)
    assert one.close(NEW, 1).delete is Deletion.STREAM
    one.finish_delete(NEW, 1, Deletion.STREAM)
    one.open(STREAM, claim(2, DELETE, delete_on_close=True))
    assert status_of(one.rename_stream, STREAM, 2, "") == status.DELETE_PENDING
