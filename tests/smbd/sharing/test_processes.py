"""Real processes on one state, killed at any moment: nothing is torn, nobody is left waiting."""

from __future__ import annotations

import mmap
import os
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from time import monotonic_ns

from smbd.sharing import (
    DISCONNECTED,
    Act,
    CacheClaim,
    CacheKind,
    Claimant,
    Deletion,
    Doomed,
    DurableClaim,
    FileKey,
    Lasting,
    OpenClaim,
    OpenFlags,
    Operation,
    Parting,
    Range,
    Sharing,
    prepare,
)
from smbd.sharing.caches import GRACE, count_cache
from smbd.sharing.durables import row_key_of
from smbd.sharing.locks import Locks
from smbd.sharing.opens import EMPTY
from smbd.sharing.records import (
    APP_KEY,
    BUCKETS,
    DURABLE_STATE,
    FILE_ID_KEY,
    FILE_STATE,
    GUID_KEY,
    LOCK_KEY,
    LOCK_ROW,
    OPEN_KEY,
    OPEN_STATE,
    OWNER_KEY,
    STREAM_KEY,
    FileState,
    lock_bucket,
)
from smbd.sharing.rules import count, count_named
from smbd.sharing.store import DIRECTORY_COUNT, TIME_COUNT, Transaction, rows
from smbd.sharing.values import NO_GUID
from smbd.smb2.status import SmbError

FOLDER = FileKey(2, 10)
KEYS = [FileKey(1, 10), FileKey(1, 10, "s"), FileKey(1, 11), FOLDER]
SLOTS = 4
ROUNDS = 40
KEPT_FOR = (0, 1, 20, 200)  # ms without a connection
APPS = (NO_GUID, b"A" * 16, b"B" * 16)


class Life:
    """Which generation of each slot lives, in memory that parent and children share."""

    def __init__(self) -> None:
        self.generations = memoryview(mmap.mmap(-1, 4096)).cast("Q")

    def alive(self, slot: int, generation: int) -> bool:
        return self.generations[slot] == generation


def random_work(one: Sharing, dice: random.Random, progress: memoryview) -> None:
    """Whatever a worker does, in any order, for ever; and what the janitor does."""
    held: list[tuple[FileKey, int]] = []
    serial = one.slot << 40 | one.generation << 20  # no two opens have one number
    while True:
        with suppress(SmbError):
            step = dice.randrange(11)
            if step < 3 or not held:
                serial += 1
                key = dice.choice(KEYS)
                access, share = dice.choice([1, 3, 0x10003, 0x80]), dice.choice([7, 7, 7, 3, 0])
                wanted = OpenClaim(serial, access, share, "p/" + "n" * dice.randrange(300), delete_on_close=dice.random() < 0.1)
                wanted = wanted._replace(directory=key == FOLDER, durable=random_durable(dice, serial))
                kind = dice.choice([CacheKind.NONE, CacheKind.LEASE_V2 if key == FOLDER else CacheKind.OPLOCK, CacheKind.LEASE_V2])
                states = [1, 3] if key == FOLDER else [1, 3, 5, 7]
                cache = CacheClaim(kind, dice.choice(states) if kind else 0, 0, bytes(16), bytes([dice.randrange(4)]) * 16)
                if not one.open(key, wanted._replace(cache=cache, waiter_id=serial, deadline=monotonic_ns() - GRACE)).wait:
                    held.append((key, serial))
            elif step < 5:
                close(one, *held.pop(dice.randrange(len(held))))
            elif step > 7:
                lose_or_reclaim(one, dice, held)
            else:
                key, file_id = dice.choice(held)
                one.disturb(key, Act(file_id, dice.choice(list(Operation)), monotonic_ns(), dice.randrange(2) * serial))
                if dice.random() < 0.5:
                    one.acknowledge_oplock(key, file_id, 0, 0)
                    one.hold_write_time(key, file_id, serial)
                    one.tell_write_time(dice.choice(KEYS), serial)
                else:
                    one.release_write_time(key, file_id)
                ranges = [Range(dice.randrange(50), dice.randrange(9), dice.random() < 0.5)]
                if step == 5:
                    one.lock(key, file_id, ranges, waiter_id=dice.randrange(2) * serial)
                elif step == 6:
                    one.unlock(key, file_id, ranges)
                else:
                    one.watch("data", dice.choice("abc"), 1, False, serial)
                    one.sweep_dead() if dice.random() < 0.05 else one.unwatch("data", "a", serial)
        progress[0] += 1


def random_durable(dice: random.Random, file_id: int) -> DurableClaim | None:
    lasting = dice.choice([0, Lasting.DURABLE, Lasting.DURABLE, Lasting.RESILIENT, Lasting.DURABLE | Lasting.PERSISTENT])
    guid = dice.choice([NO_GUID, file_id.to_bytes(16, "big")])
    claim = DurableClaim(lasting, 2, dice.choice(KEPT_FOR), b"C" * 16, guid, dice.choice(APPS), sid=dice.choice("xy"))
    return dice.choice([claim, None])


def lose_or_reclaim(one: Sharing, dice: random.Random, held: list[tuple[FileKey, int]]) -> None:
    """What happens to opens when connections are lost, and what the broker does then."""
    step = dice.randrange(3)
    if step == 0:
        key, file_id = held.pop(dice.randrange(len(held)))
        if not one.disconnect(key, file_id, Parting(1, 2)):
            close(one, key, file_id)
    elif step == 1:
        reclaim_any(one, dice, held)
    else:
        key, file_id = dice.choice(held)
        if key != FOLDER and dice.random() < 0.3:
            one.endure(key, file_id, DurableClaim(Lasting.RESILIENT, timeout=dice.choice(KEPT_FOR)))
        one.end_disconnected(one.overdue() or one.surplus(2, 4))
        finish(one, one.sweep_closing().doomed)


def close(one: Sharing, key: FileKey, file_id: int) -> None:
    """Of an open that is ours: nobody can have taken it away."""
    try:
        closed = one.close(key, file_id)
        while closed.delete is not Deletion.NOTHING:
            closed = one.finish_delete(key, file_id, closed.delete)
    except SmbError as error:
        raise AssertionError(f"{file_id:x} is gone: {error}") from error


def reclaim_any(one: Sharing, dice: random.Random, held: list[tuple[FileKey, int]]) -> None:
    """Somebody's lost open, if there is one, is ours if it still can be: then it is all ours, and its time was not over."""
    lost = [row for row in one.opens() if row.slot == DISCONNECTED or not one.is_alive(row.slot, row.generation)]
    if not lost:
        return
    row = dice.choice(lost)
    before, now = one.find(row.file_id), monotonic_ns()
    one.reclaim(row.key, row.file_id, Claimant(1, 1))
    held.append((row.key, row.file_id))
    assert before is None or not before.deadline or before.deadline >= now
    after = one.find(row.file_id)
    assert after is not None
    assert (after.row.slot, after.row.generation, after.deadline) == (one.slot, one.generation, 0)


def finish(one: Sharing, doomed: Iterable[Doomed]) -> None:
    """What the janitor does with what ends."""
    while doomed:
        doomed = one.finish_sweep(doomed).doomed


def spawn(directory: str, life: Life, slot: int, generation: int) -> int:
    life.generations[slot] = generation
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        one = Sharing(directory, slot, generation, None, life.alive)
        random_work(one, random.Random(slot * 1000 + generation), life.generations[100 + slot :])
    except KeyboardInterrupt:
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)


def check(one: Sharing) -> None:
    """Sums equal rows, every lock's bucket is set, every watcher is counted; an open has its names, and every name its open."""
    one._read(_check, one)
    one._read(_check_lasting, one)


def _check(transaction: object, one: Sharing) -> None:
    sums: dict[bytes, FileState] = {}
    for row_key, raw in rows(transaction, one._opens):  # type: ignore[arg-type]
        at, row = OPEN_KEY.unpack(row_key), OPEN_STATE.unpack(raw)
        stream, base = row_key[: STREAM_KEY.size], STREAM_KEY.pack(at.dev, at.ino, 0)
        sums[stream] = count(count_cache(sums.get(stream, EMPTY), row.cache, 1), row.access, row.share_access, 1)
        if stream != base:
            sums[base] = count_named(sums.get(base, EMPTY), row.access, row.share_access, 1)
    found = {at: FILE_STATE.unpack(raw) for at, raw in rows(transaction, one._files)}  # type: ignore[arg-type]
    assert {at: state[:10] for at, state in found.items()} == {at: state[:10] for at, state in sums.items()}
    for at, state in found.items():
        assert (state.cached, state.exclusive) == (sums[at].cached, sums[at].exclusive)
        if state.contended:
            assert one._buckets[BUCKETS + lock_bucket(*STREAM_KEY.unpack(at)[:2])]
        assert state.contended or not state.cached or (state.exclusive and state.handles == 1)
    listed = {at for at, _ in rows(transaction, one._directories)}  # type: ignore[arg-type]
    assert listed == {at for at, state in found.items() if state.directory and state.cached}
    assert one._counts[DIRECTORY_COUNT] >= len(listed)
    for at, _ in rows(transaction, one._locks):  # type: ignore[arg-type]
        assert one._buckets[LOCK_KEY.unpack(at).bucket]
    assert one._counts[0] >= len(rows(transaction, one._watchers))  # type: ignore[arg-type]
    assert one._counts[TIME_COUNT] >= len(rows(transaction, one._times))  # type: ignore[arg-type]


def _check_lasting(transaction: object, one: Sharing) -> None:
    opens = {key: OPEN_STATE.unpack(raw) for key, raw in rows(transaction, one._opens)}  # type: ignore[arg-type]
    found = rows(transaction, one._durables)  # type: ignore[arg-type]
    durables = {FILE_ID_KEY.unpack(name).file_id: DURABLE_STATE.unpack(raw) for name, raw in found}
    named = {row_key_of(state, file_id): bool(state.lasting) for file_id, state in durables.items()}
    assert named == {key: bool(row.flags & OpenFlags.LASTING) for key, row in opens.items() if row.flags & OpenFlags.NAMED}
    lasting = Counter(key[: STREAM_KEY.size] for key, row in opens.items() if row.flags & OpenFlags.LASTING)
    files = {at: FILE_STATE.unpack(raw).lasting for at, raw in rows(transaction, one._files)}  # type: ignore[arg-type]
    assert {at: number for at, number in files.items() if number} == lasting
    waiting = rows(transaction, one._lost)  # type: ignore[arg-type]
    lost = {(int.from_bytes(key[:8], "big"), FILE_ID_KEY.unpack(key, 8).file_id) for key, _ in waiting}
    assert lost == {(state.deadline, file_id) for file_id, state in durables.items() if state.slot == DISCONNECTED}
    assert not any(state.deadline for state in durables.values() if state.slot != DISCONNECTED)
    apps = {tuple(APP_KEY.unpack(key)) for key, _ in rows(transaction, one._apps)}  # type: ignore[arg-type]
    assert apps == {(state.app_instance, file_id) for file_id, state in durables.items() if state.app_instance != NO_GUID}
    known = rows(transaction, one._guids)  # type: ignore[arg-type]
    guids = {tuple(GUID_KEY.unpack(key)): FILE_ID_KEY.unpack(name).file_id for key, name in known}
    assert guids == {(s.client_guid, s.create_guid): file_id for file_id, s in durables.items() if s.create_guid != NO_GUID}
    for at, raw in rows(transaction, one._locks):  # type: ignore[arg-type]
        for lock in LOCK_ROW.iter_unpack(raw):
            owner = at[LOCK_KEY.size - STREAM_KEY.size :] + OWNER_KEY.pack(*lock[:3])
            assert owner in opens or not one.is_alive(lock[0], lock[1])


def test_killed_at_any_moment(lock_directory: str) -> None:
    prepare(lock_directory, 16 << 20, max_readers=64)
    life, dice = Life(), random.Random(5)
    children = {slot: spawn(lock_directory, life, slot, 1) for slot in range(SLOTS)}
    generations = Counter(range(SLOTS))
    try:
        for _ in range(ROUNDS):
            slot = dice.randrange(SLOTS)
            before = list(life.generations[100 : 100 + SLOTS])
            deadline = time.monotonic() + 20
            # Each death comes after everybody has moved: a lost writer's mutex would show here.
            while any(life.generations[100 + n] < before[n] + dice.randrange(20, 60) for n in range(SLOTS)):
                assert time.monotonic() < deadline, "somebody waits for a dead process"
                time.sleep(0.0005)
            os.kill(children[slot], signal.SIGKILL)
            assert os.waitpid(children[slot], 0)[1] == signal.SIGKILL
            life.generations[slot] = 0
            generations[slot] += 1
            children[slot] = spawn(lock_directory, life, slot, generations[slot])
    finally:
        for pid in children.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    life.generations[:SLOTS] = memoryview(bytes(8 * SLOTS)).cast("Q")
    one = Sharing(lock_directory, 50, 1, None, life.alive)
    check(one)
    doomed = one.sweep_dead().doomed
    check(one)
    finish(one, doomed)
    check(one)
    assert {lock.slot for _, lock in one.locks()} <= {DISCONNECTED}
    deadline = time.monotonic() + 10
    while one.next_deadline() is not None:
        assert time.monotonic() < deadline, "an open is kept past its deadline"
        one.end_disconnected(one.overdue())
        finish(one, one.sweep_closing().doomed)
    check(one)
    assert one._read(lambda transaction: [table for table in one.tables() if rows(transaction, table)]) == []
    one.sweep_dead()  # words are cleared by the next transaction
    assert not any(one._buckets)
    assert one._counts[0] == 0
    assert not one.caches_directories()
    one.lock(KEYS[0], 1, [Range(0, 1)])
    one.close_environment()


def test_killed_before_the_commit(lock_directory: str) -> None:
    """An end that was not committed is none: writes still look for the cache that it would have left alone."""
    prepare(lock_directory, 16 << 20, max_readers=64)
    key, life = FileKey(1, 10), Life()
    pid = os.fork()
    if not pid:
        with suppress(BaseException):
            one = Sharing(lock_directory, 16, 1, None, lambda slot, generation: True)
            lease = CacheClaim(CacheKind.LEASE_V2, 7, 0, bytes(16), b"k" * 16)
            for file_id in (1, 2):
                one.open(key, OpenClaim(file_id, 3, 7, "p", cache=lease))

            def close_and_die(transaction: Transaction) -> None:
                one._close(transaction, key, 2, Deletion.NOTHING)
                os.kill(os.getpid(), signal.SIGKILL)

            one._write(close_and_die)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    life.generations[16] = 1
    two = Sharing(lock_directory, 17, 1, None, life.alive)
    check(two)
    assert len(two.opens_of(key)) == 2
    assert two.is_cached(key)
    two.close_environment()


def test_an_exclusive_lock_has_one_holder(lock_directory: str) -> None:
    """Four processes increment a plain counter under one byte-range lock."""
    prepare(lock_directory, 4 << 20, max_readers=64)
    life = Life()
    number = memoryview(mmap.mmap(-1, 4096)).cast("Q")
    pids = []
    for slot in range(SLOTS):
        life.generations[slot] = 1
        pid = os.fork()
        if not pid:
            code = 1
            try:
                _count(Sharing(lock_directory, slot, 1, None, life.alive), number)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * SLOTS
    assert number[0] == SLOTS * 100


def _count(locks: Locks, number: memoryview) -> None:
    for _ in range(100):
        while True:
            with suppress(SmbError):
                locks.lock(KEYS[0], 1, [Range(0, 1)])
                break
            os.sched_yield()
        value = number[0]
        os.sched_yield()
        number[0] = value + 1
        locks.unlock(KEYS[0], 1, [Range(0, 1)])
