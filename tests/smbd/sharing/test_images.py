"""Persistent opens as bytes, and out of them again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools.layout import WireError
from smbd.sharing import DISCONNECTED, Claimant, FileKey, Lasting, OpenFlags, Parting, Range, Sharing
from smbd.sharing.images import kept_of
from smbd.smb2 import status
from smbd.smb2.status import SmbError

from .conftest import House
from .test_durables import ALL, APP, CLIENT, CREATE, KEY, NONE, PERSISTENT, H, R, W, claim, refused
from .test_processes import check

FULL = PERSISTENT._replace(app_instance=APP, app_high=7, root="/srv/anna")


def made(one: Sharing, key: FileKey = KEY, state: int = R | H | W) -> bytes:
    wanted = claim(1, state, FULL)
    one.open(key, wanted._replace(uid=1001, gid=1002, share_access=NONE if not state else ALL))
    one.lock(key, 1, [Range(0, 10), Range(20, 1, False)])
    one.lock(key, 2, [Range(40, 1)])
    one.note(1, Parting(2, 33, bytes([9]) * 64))
    image = one.image(1)
    assert image is not None
    return image


def emptied(house: House, one: Sharing, key: FileKey = KEY) -> Sharing:
    """Another server's state, which knows nothing."""
    one.close(key, 1)
    house.dead.add((16, 1))
    two = house.process(17)
    two.sweep_dead()
    return two


@pytest.mark.parametrize("state", [0, R | H, R | H | W])
@pytest.mark.parametrize("key", [KEY, FileKey(1, 100, "stream")])
def test_it_stands_again(house: House, state: int, key: FileKey) -> None:
    one = house.process(16)
    image = made(one, key, state)
    assert one.persistent() == [1]
    kept = kept_of(image)
    assert kept == (1, "data", "a/b", key.stream, 100, 77, "/srv/anna", 1001, 1002, False)
    two = emptied(house, one, key)
    assert two.persistent() == []
    assert two.image(1) is None
    moved = key._replace(dev=9)  # the disk has another number after the restart
    assert two.restore(image, moved)
    assert not two.restore(image, moved)
    check(two)
    found = two.find(1)
    assert found is not None
    assert found == two.find_created(CLIENT, CREATE)
    assert two.find_app(APP) == [found]
    assert found.parting == Parting(2, 33, bytes([9]) * 64)
    assert (found.row.slot, found.row.key, found.row.cache_state) == (DISCONNECTED, moved, state)
    assert [(lock.offset, lock.exclusive) for _, lock in two.locks()] == [(0, 1), (20, 0)]
    assert two.next_deadline() is not None
    if key.stream:
        return
    with pytest.raises(SmbError):
        two.lock(moved, 5, [Range(0, 1)])
    opened = two.reclaim(moved, 1, Claimant(8, 9))
    assert (opened.lasting, opened.granted) == (FULL.lasting, state)
    assert two.close(moved, 1).last
    assert two.locks() == []
    check(two)


def test_others_meet_it_as_before(house: House) -> None:
    one = house.process(16)
    image = made(one, state=0)
    two = emptied(house, one)
    two.restore(image, KEY)
    refused(status.FILE_NOT_AVAILABLE, two, claim(3, 0, None))


def test_who_came_first_while_nobody_knew_of_it_stays(house: House) -> None:
    """The vault could not be read when the server started."""
    one = house.process(16)
    image = made(one)
    two = emptied(house, one)
    two.open(KEY, claim(3, 0, None))
    with pytest.raises(SmbError) as caught:
        two.restore(image, KEY)
    assert caught.value.status == status.SHARING_VIOLATION
    check(two)
    assert two.find(1) is None


def test_an_image_is_the_same_whoever_has_the_open(house: House) -> None:
    one = house.process(16)
    image = made(one)
    one.disconnect(KEY, 1, Parting(2, 33, bytes([9]) * 64))
    assert house.process(17).image(1) == image


def test_what_is_to_be_deleted_still_is(house: House) -> None:
    one = house.process(16)
    one.open(KEY, claim(1, 0, FULL))
    one.set_delete_on_close(KEY, 1, True, 7, 8)
    image = one.image(1)
    assert image is not None
    one.set_delete_on_close(KEY, 1, False)
    two = emptied(house, one)
    two.restore(image, KEY)
    found = two.find(1)
    assert found is not None
    assert found.row.flags & OpenFlags.DELETE_ON_CLOSE


def test_only_persistent_opens_have_images(house: House) -> None:
    one = house.process(16)
    one.open(KEY, claim(1, durable=FULL._replace(lasting=Lasting.DURABLE)))
    assert one.image(1) is None
    assert one.persistent() == []


@given(st.binary(max_size=400))
def test_anything_else_is_no_image(data: bytes) -> None:
    with pytest.raises(WireError):
        kept_of(data)


def test_a_torn_image_is_none(house: House) -> None:
    one = house.process(16)
    image = made(one)
    two = emptied(house, one)
    for size in range(0, len(image), 7):
        with pytest.raises(WireError):
            two.restore(image[:size], KEY)
    assert two.opens() == []
