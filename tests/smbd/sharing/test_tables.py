"""Watches, sessions, trees, messages, and the files of the lock directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools.layout import WireError
from smbd.sharing import (
    CacheClaim,
    CacheKind,
    ChannelRecord,
    Environment,
    FileKey,
    OpenClaim,
    SessionRecord,
    Sharing,
    TreeRecord,
    messages,
    prepare,
    wipe,
)
from smbd.sharing.records import pack_strings, unpack_strings
from smbd.sharing.store import WAITER_COUNT, WATCHER_COUNT

from .conftest import House

texts = st.text(st.characters(codec=None), max_size=20)


def session(session_id: int, slot: int) -> SessionRecord:
    return SessionRecord(session_id, slot, 1, 0x311, 5, 0, 2, 1, 1000, 100, bytes(16), "alice", "HOME", "S-1-5-21-1", "192.0.2.1", "PC")


def tree(session_id: int, tree_id: int) -> TreeRecord:
    return TreeRecord(session_id, tree_id, 16, 1, 9, 0, "data")


def test_watches(house: House) -> None:
    one, two = house.process(16), house.process(17)
    assert one.watchers_of("data", "a/b/c", 1) == []
    one.watch("data", "a", 3, True, 1)
    two.watch("data", "a/b", 1, False, 2)
    two.watch("data", "", 1, False, 3)
    assert one.watchers_of("data", "a/b/c", 1) == [(17, 1, 2, 1, "c"), (16, 1, 1, 3, "b/c")]
    assert one.watchers_of("DATA", "A/B/c", 2) == [(16, 1, 1, 3, "B/c")]
    assert one.watchers_of("data", "x", 1) == [(17, 1, 3, 1, "x")]
    assert one.watchers_of("data", "a/b/c", 4) == []
    assert one.watchers_of("other", "a/b", 1) == []
    assert {(row.slot, row.path, row.recursive) for row in one.watched()} == {(16, "a", True), (17, "a/b", False), (17, "", False)}
    house.dead.add((17, 1))
    assert one.watchers_of("data", "x", 1) == []
    assert one.sweep(17, 1).watchers == 2
    one.unwatch("data", "a", 1)
    one.unwatch("data", "a", 1)
    assert [one._counts[word] for word in (WATCHER_COUNT, WAITER_COUNT)] == [0, 0]


def test_sessions_and_trees(house: House) -> None:
    one, two = house.process(16), house.process(17)
    one.add_session(session(1, 16))
    two.add_session(session(2, 17))
    one.add_tree(tree(1, 1))
    one.add_tree(tree(1, 2))
    assert two.session(1) == session(1, 16)
    assert two.session(3) is None
    assert {record.session_id for record in one.sessions()} == {1, 2}
    assert one.trees() == [tree(1, 1), tree(1, 2)]
    channels = [ChannelRecord(1, number, 16, 1, 9, number, "192.0.2.1", "::1") for number in range(3)]
    for channel in channels:
        one.add_channel(channel)
    two.add_channel(ChannelRecord(2, 1, 17, 1, 9, 0, "", ""))
    one.remove_channel(1, 1)
    assert two.channels()[:2] == [channels[0], channels[2]]
    one.remove_tree(1, 2)
    one.remove_session(1)
    assert one.trees() == []
    assert [channel.session_id for channel in one.channels()] == [2]
    house.dead.add((17, 1))
    assert one.channels() == []
    assert one.session(2) is None
    assert one.sessions() == []
    assert one.sweep(17, 1).sessions == 1
    house.dead.clear()
    assert one.channels() == []


def test_prepare_keeps_what_is_there(lock_directory: str) -> None:
    directory = os.path.join(lock_directory, "state")
    prepare(directory, 4 << 20)
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    assert os.stat(os.path.join(directory, "data.mdb")).st_blocks * 512 >= 4 << 20
    one = Sharing(directory, 16, 1, None, lambda slot, generation: True)
    one.add_session(session(1, 16))
    one.close_environment()
    prepare(directory, 4 << 20)
    one = Sharing(directory, 16, 1, None, lambda slot, generation: True)
    assert one.session(1) is not None
    one.close_environment()
    wipe(directory)
    assert os.listdir(directory) == []
    wipe(directory)
    with pytest.raises(FileNotFoundError):
        Sharing(directory, 16, 1, None, lambda slot, generation: True)


def test_clock(lock_directory: str) -> None:
    prepare(lock_directory, 4 << 20)
    clock = [0]
    one = Sharing(lock_directory, 16, 1, clock, lambda slot, generation: True)
    seen: list[int] = []
    one._write(lambda transaction: seen.append(clock[0]))
    assert seen[0] & 1
    assert clock == [0]
    with pytest.raises(ZeroDivisionError):
        one._write(lambda transaction: 1 // 0)
    assert clock == [0]
    one.close_environment()


class Seen(list[int]):
    """A clock cell that keeps what it was set to."""

    def __init__(self) -> None:
        super().__init__([0])
        self.values: list[int] = []

    def __setitem__(self, index: object, value: object) -> None:
        super().__setitem__(index, value)  # type: ignore[index, assignment]
        self.values.append(value)  # type: ignore[arg-type]

    def writers(self) -> list[str]:
        return ["out" if not value else "in" if value & 1 else "waits" for value in self.values]


def test_all_tables_are_opened_in_one_transaction_under_the_clock(lock_directory: str) -> None:
    made, again, opened = Seen(), Seen(), Seen()
    prepare(lock_directory, 4 << 20, clock=made)
    prepare(lock_directory, 4 << 20, clock=again)
    one = Sharing(lock_directory, 16, 1, opened, lambda slot, generation: True)
    one.add_session(session(1, 16))
    assert made.writers() == again.writers() == ["waits", "in", "out"]
    assert opened.writers() == ["waits", "in", "out"] * 2
    one.close_environment()


def test_who_only_looks_waits_for_no_writer(lock_directory: str) -> None:
    prepare(lock_directory, 4 << 20)
    inside, entered = os.pipe()
    ended, end = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            one = Sharing(lock_directory, 16, 1, None, lambda slot, generation: True)
            one.add_session(session(1, 16))
            os.close(end)
            one._write(lambda transaction: (os.write(entered, b"!"), os.read(ended, 1)))
        finally:
            os._exit(0)
    assert os.read(inside, 1) == b"!"
    try:
        look = Sharing(Environment(lock_directory, readonly=True), 0, 0, None, lambda slot, generation: True)
        assert [one.session_id for one in look.sessions()] == [1]
        with pytest.raises(lmdb.ReadonlyError):
            look.remove_session(1)
        look.close_environment()
    finally:
        for fd in (inside, entered, ended, end):
            os.close(fd)
        os.waitpid(pid, 0)


def test_looking_at_what_is_not_there_makes_nothing(lock_directory: str) -> None:
    def look() -> None:
        with pytest.raises(FileNotFoundError):
            Environment(lock_directory, readonly=True)

    look()
    assert os.listdir(lock_directory) == []
    Path(lock_directory, "words").write_bytes(bytes(1 << 20))
    look()
    assert os.listdir(lock_directory) == ["words"]
    lmdb.open(lock_directory, map_size=1 << 20).close()  # as it is before the tables are made
    look()
    prepare(lock_directory, 1 << 20)
    Environment(lock_directory, readonly=True).close()


@given(st.lists(texts, max_size=4), st.binary(max_size=5))
def test_strings(strings: list[str], tail: bytes) -> None:
    raw = pack_strings(*strings)
    assert unpack_strings(raw + tail, 0, len(strings)) == strings
    for end in range(len(raw)):
        with pytest.raises(WireError):
            unpack_strings(raw[:end], 0, len(strings))


@given(st.integers(0, (1 << 64) - 1), st.integers(0, 9), texts, texts)
def test_notify(watch_id: int, action: int, name: str, new_name: str) -> None:
    raw = messages.pack_notify(watch_id, action, name, new_name)
    assert messages.unpack_notify(memoryview(raw)) == ((watch_id, action, 0), name, new_name)


def test_kinds() -> None:
    numbers = [kind.number for kind in messages.KINDS]
    assert len(set(numbers)) == len(numbers)
    assert all(0x0500 <= number < 0x0600 for number in numbers)
    assert all(kind.number - 1 in numbers for kind in messages.KINDS if kind.number & 1)


def test_a_notice_holds_the_longest_paths() -> None:
    """One that is too large would end the worker, or the broker, that sends it. A byte that is no UTF-8 takes three as it is shown."""
    longest = "\uf7ff" * 4095
    assert len(messages.pack_notify(1, 4, longest, longest)) <= messages.NOTIFY.max_payload


def test_a_write_time_is_told_as_whoever_spoke_last_says(house: House) -> None:
    one, two = house.process(16), house.process(17)
    key, stream = FileKey(1, 2), FileKey(1, 2, "stream")
    assert not one.holds_write_times()
    assert one.told_write_time(key) is None
    one.hold_write_time(key, 7, 1000)
    two.hold_write_time(stream, 7, 2000)  # what is held already goes on
    assert [each.told_write_time(at) for each in (one, two) for at in (key, stream)] == [1000] * 4
    assert two.told_write_time(FileKey(1, 3)) is None
    two.tell_write_time(key, 3000)
    assert one.told_write_time(key) == 3000
    one.release_write_time(key, 7)
    assert one.told_write_time(key) == 3000
    two.release_write_time(stream, 7)
    assert one.told_write_time(key) is None
    assert not two.holds_write_times()


def test_who_is_gone_tells_no_time(house: House) -> None:
    one, two = house.process(16), house.process(17)
    two.hold_write_time(FileKey(1, 2), 7, 1000)
    house.dead.add((17, 1))
    assert one.told_write_time(FileKey(1, 2)) is None
    assert one.holds_write_times()
    one.sweep(17, 1)
    assert not one.holds_write_times()


def test_that_a_state_was_loaded_has_nothing_to_do_with_what_is_cached(house: House) -> None:
    """A restarted broker would else give back what was closed since."""
    one = house.process(16)
    one.loaded = True
    assert not one.caches_directories()
    directory = OpenClaim(
        1, 1, 7, "d", directory=True, cache=CacheClaim(CacheKind.LEASE_V2, 3, lease_key=bytes([1]) * 16, directory_state=3)
    )
    one.open(FileKey(1, 2), directory)
    one.open(FileKey(1, 2), directory._replace(file_id=2))
    assert one.caches_directories()
    one.close(FileKey(1, 2), 2)
    one.close(FileKey(1, 2), 1)
    one.sweep_dead()
    assert one.loaded
    assert not one.caches_directories()


def test_a_map_that_is_full_of_what_a_reader_sees_is_waited_for(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads a long list keeps every page that is written meanwhile from being used again, until he is done."""
    one = house.process(16)
    readers = [one._begin()]
    waited = []

    def done(seconds: float) -> None:
        waited.append(seconds)
        if seconds:
            readers.pop().abort()
            readers.append(one._begin())

    monkeypatch.setattr("smbd.sharing.store.sleep", done)
    for number in range(3000):
        key = FileKey(1, number)
        one.open(key, OpenClaim(1, 3, 7, "f"))
        one.close(key, 1)
    assert any(waited)
    assert one.opens() == []
    readers.pop().abort()
