"""Arenas: sparse, committed by slab, given back."""

from __future__ import annotations

import os

import pytest

from pools import port
from pools.arena import Arena
from pools.buffer import CLASSES, LARGEST, PDU, SMALL
from pools.port.linux import memory as linux

CEILING = 20 << 20


@pytest.fixture
def arena() -> Arena:
    made = Arena.create(CEILING)
    made.map()
    return made


def test_an_arena_costs_nothing_until_it_is_committed(arena: Arena) -> None:
    assert arena.committed_bytes() == 0
    arena.commit(CLASSES[PDU], 0)
    assert arena.committed_bytes() == CLASSES[PDU].slab_bytes
    arena.decommit(CLASSES[PDU], 0)
    assert arena.committed_bytes() == 0


def test_every_class_has_room_for_the_ceiling_and_none_overlap(arena: Arena) -> None:
    views = []
    for row in CLASSES:
        assert arena.slots(row) == CEILING // row.slab_bytes
        view, _ = arena.commit(row, arena.slots(row) - 1)
        view[0] = view[-1] = row.number + 1
        views.append(view)
    for number, view in enumerate(views):
        assert (view[0], view[-1]) == (number + 1, number + 1)


def test_slabs_outside_the_range(arena: Arena) -> None:
    for slot in (-1, arena.slots(CLASSES[LARGEST])):
        with pytest.raises(IndexError):
            arena.commit(CLASSES[LARGEST], slot)


def test_live_views_are_known(arena: Arena) -> None:
    view, alive = arena.commit(CLASSES[SMALL], 3)
    part = view[5:7][1:]
    del view
    assert alive()
    part.release()
    assert not alive()


def test_a_decommitted_slab_reads_as_zeros_when_committed_again(arena: Arena) -> None:
    view, _ = arena.commit(CLASSES[SMALL], 0)
    view[:6] = b"secret"
    arena.decommit(CLASSES[SMALL], 0)
    view, _ = arena.commit(CLASSES[SMALL], 0)
    assert bytes(view[:6]) == bytes(6)


def test_not_mapped_not_committed() -> None:
    with pytest.raises(ValueError, match="not mapped"):
        Arena.create(CEILING).commit(CLASSES[SMALL], 0)


def test_close_needs_all_views_gone(arena: Arena) -> None:
    view, _ = arena.commit(CLASSES[SMALL], 0)
    with pytest.raises(BufferError):
        arena.close()
    view.release()
    del view
    arena.close()
    assert arena.fileno() == -1


@pytest.mark.parametrize("room", [False, True])
def test_memfd_where_dev_shm_has_no_room(room: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "_room_for", lambda likely_use: room)
    fd = port.memory.create_shared_memory(1 << 20, 1 << 20)
    assert ("memfd:" in os.readlink(f"/proc/self/fd/{fd}")) is not room
    assert "(deleted)" in os.readlink(f"/proc/self/fd/{fd}")
    assert not os.get_inheritable(fd)
    assert os.fstat(fd).st_size == 1 << 20
    os.close(fd)


def test_memfd_where_shared_memory_is_closed_to_us(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*args: object, **kwargs: object) -> None:
        raise linux.posix_ipc.PermissionsError("no")

    monkeypatch.setattr(linux.posix_ipc, "SharedMemory", closed)
    fd = port.memory.create_shared_memory(4096, 4096)
    assert "memfd:" in os.readlink(f"/proc/self/fd/{fd}")
    os.close(fd)
