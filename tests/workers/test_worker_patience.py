"""When a share's disk is slow, and what that changes: the judgement, the threads, the baton, and the way there and back."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from random import Random
from time import monotonic

import pytest

import workers.request
from pools.pool import MallocPool
from smbd.smb2 import constants as c
from smbd.smb2 import names, status
from smbd.smb2.connection import Element
from smbd.smb2.constants import Command
from tests.wire_client import (
    LAST,
    Request,
    WireClient,
    charge_of,
    close_body,
    create_body,
    query_info_body,
    read_body,
    set_info_body,
    write_body,
)
from tests.workers.house import ALICE, House, Wire, log_on
from workers import loop as loops
from workers import patience
from workers.baton import away
from workers.disk import LONG, OVERDUE, WHILE, Disk, Overdue
from workers.engine import Engine
from workers.lane import Lane
from workers.loop import Completion, Loop
from workers.vfs.handle import PosixHandle
from workers.vfs.patient import PatientHandle, PatientVfs
from workers.vfs.posix import PosixVfs
from workers.worker import Worker

# -- the judgement --------------------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_one_long_call_makes_a_disk_slow_for_a_while(clock: Clock) -> None:
    told: list[Disk] = []
    disk = Disk("share", told.append, clock=clock)
    disk.took(LONG)
    assert not disk.slow
    disk.took(LONG * 1.01)
    assert disk.slow
    assert told == [disk]
    assert not disk.calm
    clock.now += WHILE - 0.1
    assert not disk.calm
    clock.now += 0.1
    assert disk.calm


def test_each_long_call_prolongs_it(clock: Clock) -> None:
    told: list[Disk] = []
    disk = Disk("share", told.append, clock=clock)
    for _ in range(5):
        disk.took(1.0)
        clock.now += WHILE * 0.9
    assert not disk.calm
    assert told == [disk]
    disk.took(LONG / 2)
    clock.now += WHILE * 0.2
    assert disk.calm


def test_a_busy_machine_is_no_slow_disk(clock: Clock) -> None:
    excuses = [0.5, 0.5, 0.0]
    disk = Disk("share", lambda _: None, excuse=lambda: excuses.pop(0), clock=clock)
    disk.held_up(LONG)
    assert len(excuses) == 3  # nobody looks into it
    disk.held_up(0.5)
    assert not disk.slow
    disk.held_up(0.501 + LONG)
    assert disk.slow
    clock.now += WHILE
    disk.held_up(LONG * 1.01)
    assert not disk.calm


def test_a_disk_that_asks_others_is_never_trusted(clock: Clock) -> None:
    disk = Disk("share", lambda _: None, always=True, clock=clock)
    clock.now += 1000 * WHILE
    assert disk.slow
    assert not disk.calm


def test_a_call_that_does_not_come_back_is_a_long_one(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not end to be doubted, and is doubted for as long as it does not."""
    loop, disk = Loop(1), Disk("share", lambda _: None, clock=clock)
    due: list[tuple[float, Callable[[], None]]] = []
    real = loop.later

    def later(seconds: float, call: Callable[[], None]) -> loops.Timer:
        due.append((seconds, call))
        return real(1000, call)

    monkeypatch.setattr(loop, "later", later)
    watch = Overdue(loop, disk)
    assert not disk.slow
    for expected in (OVERDUE, WHILE / 2, WHILE / 2, WHILE / 2):
        seconds, call = due.pop()
        assert seconds == expected
        clock.now += seconds
        call()
        assert disk.slow
        assert not disk.calm
    watch.over()
    loop.close()


# -- threads --------------------------------------------------------------------------------------------------------------------------


def test_jobs_of_a_lane_begin_in_order_on_no_more_threads_than_there_may_be() -> None:
    lane, go, begun, names = Lane("share", 3), threading.Semaphore(0), [], set()
    reached = threading.Semaphore(0)

    def job(number: int) -> None:
        begun.append(number)
        names.add(threading.current_thread().name)
        reached.release()
        go.acquire()

    for number in range(10):
        lane.submit(lambda number=number: job(number))  # type: ignore[misc]
    for _ in range(3):
        assert reached.acquire(timeout=10)
    assert sorted(begun) == [0, 1, 2]
    for number in range(3, 10):
        go.release()
        assert reached.acquire(timeout=10)
        assert begun[-1] == number
    go.release(3)
    assert names == {"vfs share"}
    assert lane.close(monotonic() + 10) == 0


def test_a_lane_keeps_nothing_of_a_job_that_is_over() -> None:
    """Not even until there is another: what is closed when nobody has it any more is closed."""

    class Made:
        pass

    lane, done, gone = Lane("share", 1), threading.Event(), threading.Event()
    made = Made()
    weakref.finalize(made, gone.set)

    def job(made: Made) -> None:
        done.set()

    lane.submit(partial(job, made))
    del made
    assert done.wait(10)
    assert gone.wait(10)
    assert lane.close(monotonic() + 10) == 0


def test_a_lane_makes_a_thread_only_when_it_has_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = Lane("share", 4)
    done = threading.Event()
    for _ in range(20):
        done.clear()
        lane.submit(done.set)
        assert done.wait(10)
    assert len(lane._threads) <= 2  # a second one if a job came before the first had been counted as over
    assert lane.close(monotonic() + 10) == 0


def test_a_job_that_a_thread_takes_while_the_lane_is_closed_is_not_waited_for() -> None:
    lane, closed = Lane("share", 1), threading.Event()

    class Contended(SimpleQueue[Callable[[], None] | None]):
        def empty(self) -> bool:
            """Not yet; and then a thread has taken the last one."""
            return False

    lane._jobs = Contended()
    closing = threading.Thread(target=lambda: (lane.close(monotonic()), closed.set()), daemon=True)
    closing.start()
    assert closed.wait(10)


def test_a_lane_that_hangs_is_left() -> None:
    lane, go, begun = Lane("share", 2), threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        go.wait()

    lane.submit(hang)
    assert begun.wait(10)
    assert lane.close(monotonic()) == 1
    go.set()


# -- the baton ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop(4)
    yield made
    made.close()


def run(loop: Loop, calls: list[Callable[[], object]], took: Callable[[float], None] = lambda _: None) -> list[Completion[object]]:
    """Errands for each of ``calls``."""
    return [loop.errand(call, "share", took)[1] for call in calls]


def turn_until(loop: Loop, over: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if over():
            return
        loop.later(0.001, lambda: None)  # whether it came about is not always what wakes the loop
        loop.turn()
    raise AssertionError("it never came about")


def test_one_errand_at_a_time_and_never_beside_the_loop(loop: Loop) -> None:
    inside = most = steps = 0

    def work() -> None:
        nonlocal inside, most, steps
        for _ in range(50):
            inside += 1
            most = max(most, inside)
            steps += 1
            inside -= 1
            away(threading.Event().wait, 0.0001)

    made = run(loop, [work] * 8)
    beside = 0
    while not all(one.done for one in made):
        inside += 1
        most = max(most, inside)
        beside += 1
        inside -= 1
        loop.later(0.001, lambda: None)
        loop.turn()
    assert (inside, most, steps) == (0, 1, 400)
    assert beside > 1


def test_what_waits_at_the_disk_keeps_nobody(loop: Loop) -> None:
    there, back, order = threading.Event(), threading.Event(), []

    def slow() -> None:
        away(lambda: (there.set(), back.wait(10)))
        order.append("slow")

    def quick() -> None:
        away(there.wait, 10)
        order.append("quick")

    made = run(loop, [slow, quick])
    turn_until(loop, lambda: order == ["quick"])
    order.append("loop")
    back.set()
    turn_until(loop, lambda: all(one.done for one in made))
    assert order == ["quick", "loop", "slow"]


def test_how_long_it_was_away(loop: Loop) -> None:
    took: list[float] = []
    made = run(loop, [lambda: away(threading.Event().wait, 0.03)], took.append)
    turn_until(loop, lambda: made[0].done)
    (seconds,) = took
    assert 0.03 <= seconds < 5


def test_what_an_errand_raises_reaches_who_awaits_it(loop: Loop) -> None:
    def fail() -> None:
        away(lambda: None)
        raise OSError(28, "full")

    ends: list[BaseException | None] = []

    async def work() -> None:
        await run(loop, [fail])[0]

    loop.spawn(work(), lambda _, error: ends.append(error))
    turn_until(loop, lambda: bool(ends))
    assert isinstance(ends[0], OSError)


def test_an_errand_that_was_withdrawn_does_nothing(loop: Loop) -> None:
    done: list[int] = []
    errand, _ = loop.errand(lambda: done.append(1), "share", lambda _: None)
    errand.withdrawn = True
    made = run(loop, [lambda: done.append(2)])
    turn_until(loop, lambda: made[0].done)
    assert done == [2]


def test_an_errand_that_comes_back_too_late_gives_back_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "CLOSE_PATIENCE", 0.0)
    loop, there, back, over = Loop(1), threading.Event(), threading.Event(), threading.Event()
    done: list[str] = []

    def work() -> None:
        try:
            away(lambda: (there.set(), back.wait(10)))
            done.append("went on")
        finally:
            away(done.append, "gave back")
            over.set()

    run(loop, [work])
    turn_until(loop, there.is_set)
    assert loop.close() == 1
    back.set()
    assert over.wait(10)
    assert done == ["gave back"]


def test_what_was_opened_for_an_errand_that_nobody_awaits_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "CLOSE_PATIENCE", 0.0)
    loop, there, back, closed = Loop(1), threading.Event(), threading.Event(), threading.Event()

    class Opened:
        def close(self) -> None:
            closed.set()

    def opening() -> Opened:
        there.set()
        assert back.wait(10)
        return Opened()

    run(loop, [lambda: away(opening)])
    turn_until(loop, there.is_set)
    assert loop.close() == 1
    back.set()
    assert closed.wait(10)


# -- there and back -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each file that is opened, whether a thread of the share did it."""
    seen: list[bool] = []
    real = PosixVfs.open

    def opened(self: PosixVfs, path: names.Path, itself: bool = False) -> object:
        seen.append(threading.current_thread() is not threading.main_thread())
        return real(self, path, itself)

    monkeypatch.setattr(PosixVfs, "open", opened)
    return seen


def disk_of(worker: Worker, clock: Clock) -> Disk:
    """The share's, told the time by ``clock``."""
    (disk,) = worker.disks.values()
    disk._clock = clock
    return disk


def test_a_share_that_was_slow_goes_back_to_the_direct_way(
    house: House, client: WireClient, clock: Clock, threads: list[bool], folder: Path
) -> None:
    worker = house.worker_of(client)
    disk = disk_of(worker, clock)
    opened = client.open("before")
    (tree,) = next(iter(worker.sessions.values())).trees.values()
    entry = next(iter(worker.opens.values()))
    assert not any(threads)
    disk.took(1.0)
    assert isinstance(tree.vfs, PatientVfs)
    assert isinstance(entry.handle, PatientHandle)
    threads.clear()
    during = client.open("during")
    assert client.write(opened, 0, b"slowly").status == status.SUCCESS
    assert threads
    assert all(threads)
    clock.now += WHILE
    threads.clear()
    assert client.write(opened, 6, b", then not").status == status.SUCCESS
    client.open("after")
    assert threads
    assert not any(threads)
    assert isinstance(tree.vfs, PosixVfs)
    assert not any(isinstance(one.handle, PatientHandle) for one in worker.opens.values())
    assert client.close(during).status == client.close(opened).status == status.SUCCESS
    assert (folder / "before").read_bytes() == b"slowly, then not"


def test_the_way_back_is_open_only_to_who_does_not_overtake(
    house: House, client: WireClient, clock: Clock, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    worker = house.worker_of(client)
    disk = disk_of(worker, clock)
    opened = client.open("file")
    disk.doubt()
    there, back = threading.Event(), threading.Event()
    handle = next(iter(worker.opens.values())).handle
    assert isinstance(handle, PatientHandle)
    real, calls = type(handle.below).pwrite, []

    def pwrite(self: object, view: memoryview, offset: int) -> int:
        calls.append((offset, threading.current_thread() is threading.main_thread()))
        if offset == 0:
            there.set()
            assert back.wait(10)
        return real(self, view, offset)  # type: ignore[arg-type]

    monkeypatch.setattr(type(handle.below), "pwrite", pwrite)
    sent = [client.send(Request(Command.WRITE, write_body(opened, 0, b"first")))[0]]
    house.turn_until(there.is_set)
    clock.now += WHILE
    assert disk.calm
    sent += client.send(Request(Command.WRITE, write_body(opened, 1, b"second")))
    assert client.echo().status == status.SUCCESS
    other = client.open("other")
    assert client.write(other, 2, b"at once").status == status.SUCCESS
    assert calls == [(0, False), (2, True)]
    back.set()
    assert [client.receive(one).status for one in sent] == [status.SUCCESS] * 2
    assert calls[2] == (1, False)
    assert (folder / "file").read_bytes() == b"fsecond"


@pytest.fixture
def sluggish(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that handlers are timed by: it advances by ``now`` at each look."""
    pace = Clock()
    pace.now = 0.0
    passed = [0.0]

    def look() -> float:
        passed[0] += pace.now
        return passed[0]

    monkeypatch.setattr(patience, "monotonic", look)
    return pace


def test_a_handler_that_takes_long_is_noticed(house: House, client: WireClient, sluggish: Clock) -> None:
    (disk,) = house.worker_of(client).disks.values()
    opened = client.open("file")
    assert not disk.slow
    sluggish.now = 10.0  # far more than this thread can have used of a processor since the last look
    client.query_info(opened, c.INFO_FILE, 5)
    assert disk.slow


@pytest.mark.parametrize("wanted", [Command.CREATE, Command.QUERY_INFO, Command.CLOSE])
def test_a_compound_on_a_disk_that_becomes_slow_in_the_middle_of_it(
    house: House, client: WireClient, monkeypatch: pytest.MonkeyPatch, wanted: Command
) -> None:
    """What was only glanced at becomes an open like others as soon as it has to wait; nothing of it stays."""
    client.close(client.open("file"))
    worker = house.worker_of(client)
    (disk,) = worker.disks.values()
    real = Engine.start

    def start(self: Engine, request: workers.request.Request, element: Element) -> object:
        if request.header.command == wanted:
            disk.doubt()
        return real(self, request, element)

    worker.lines[0].engine.express.off = True
    monkeypatch.setattr(Engine, "start", start)
    answers = client.compound(
        Request(Command.CREATE, create_body("file", access=c.FILE_READ_ATTRIBUTES, disposition=c.FILE_OPEN)),
        Request(Command.QUERY_INFO, query_info_body(LAST, c.INFO_FILE, 5)),
        Request(Command.CLOSE, close_body(LAST)),
        related=True,
    )
    assert [answer.status for answer in answers] == [status.SUCCESS] * 3
    assert disk.slow
    assert not worker.opens
    assert worker.sharing.opens() == []


@pytest.mark.parametrize("way", ["cancel", "lost connection"])
def test_who_waits_for_others_is_cancelled_though_an_attempt_is_under_way(
    house: House, client: WireClient, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """An attempt that has begun comes to its end; when that is to wait on, there is nothing to wait for any more."""
    other = house.client()
    worker = house.worker_of(other)
    (disk,) = worker.disks.values()
    disk.doubt()
    client.create("file", oplock=c.OPLOCK_LEVEL_BATCH)
    (opening,) = other.send(Request(Command.CREATE, create_body("file")))
    interim = other.receive(opening, interim=True)
    assert interim.interim
    there, back, real = threading.Event(), threading.Event(), PosixVfs.open

    def opened(self: PosixVfs, path: names.Path, itself: bool = False) -> object:
        there.set()
        assert back.wait(10)
        return real(self, path, itself)

    monkeypatch.setattr(PosixVfs, "open", opened)
    (waiter_id,) = worker.lock_waits
    worker.lock_woken(waiter_id)
    house.turn_until(there.is_set)
    engine = worker.lines[0].engine
    if way == "cancel":
        other.cancel(opening, interim.async_id)
        assert other.echo().status == status.SUCCESS
    else:
        engine.abandon()
        house.turn()
    back.set()
    house.turn_until(lambda: not engine.waiting)
    assert other.receive(opening).status == status.CANCELLED


def test_reading_what_was_written_before(house: House, client: WireClient, clock: Clock) -> None:
    disk_of(house.worker_of(client), clock).doubt()
    opened = client.open("file")
    client.echo(credits=64)
    sent = [client.send(Request(Command.WRITE, write_body(opened, 0, b"%04d" % number)))[0] for number in range(20)]
    assert client.read_data(opened, 0, 4) == b"0019"
    assert [client.receive(one).status for one in sent] == [status.SUCCESS] * 20


def test_what_a_disk_makes_wait_is_the_pools(house: House, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Large WRITEs at the end of compounds, each told that it takes a while: when the pool has no more, no more is read."""
    monkeypatch.setattr(patience, "INTERIM", 0.0)
    client, worker = house.join(MallocPool(house.segment.row(31), 3 << 20))
    client.negotiate()
    log_on(client, ALICE)
    client.tree_connect("data")
    opened, size, count = client.open("file"), 1 << 19, 12
    while client.credits < 200:
        client.echo(credits=100)
    (disk,) = worker.disks.values()
    disk.doubt()
    back, real = threading.Event(), PosixHandle.pwrite
    wire = client.transport
    assert isinstance(wire, Wire)

    def pwrite(self: PosixHandle, view: memoryview | bytes, offset: int) -> int:
        assert back.wait(10)
        return real(self, view, offset)

    monkeypatch.setattr(PosixHandle, "pwrite", pwrite)
    echo, body = Request(Command.ECHO, b"\4\0\0\0"), write_body(opened, 0, bytes(size))
    sent = b"".join(
        len(pdu).to_bytes(4, "big") + pdu
        for pdu in (client.pack([echo, Request(Command.WRITE, body, charge=charge_of(size))]) for _ in range(count))
    )
    sending = threading.Thread(target=wire.sock.sendall, args=(sent,))
    wire.sock.setblocking(True)
    sending.start()
    house.turn_until(lambda: worker.lines[0].paused)
    assert 0 < len(worker.lines[0].engine.waiting) < count
    back.set()
    wire.sock.setblocking(False)
    answers = [client.receive() for _ in range(2 * count)]
    sending.join()
    assert {answer.status for answer in answers} == {status.SUCCESS}


class Model:
    """One file as requests in their order leave it. ``send`` sends one at random and does the same here."""

    def __init__(self, client: WireClient, name: str) -> None:
        self.client, self.name = client, name
        self.opened = client.open(name)
        self.content = bytearray()
        self.sent: list[int] = []

    def send(self, random: Random) -> None:
        what, at = random.randrange(5), random.randrange(60)
        if what < 2:
            data = random.randbytes(random.randrange(1, 20))
            self.content = self.content.ljust(at, b"\0")
            self.content[at : at + len(data)] = data
            request = Request(Command.WRITE, write_body(self.opened, at, data))
        elif what == 2:
            self.content = self.content[:at].ljust(at, b"\0")
            request = Request(Command.SET_INFO, set_info_body(self.opened, c.INFO_FILE, 20, at.to_bytes(8, "little")))
        elif what == 3:
            request = Request(Command.READ, read_body(self.opened, 0, 100))
        else:
            request = Request(Command.QUERY_INFO, query_info_body(self.opened, c.INFO_FILE, 5))
        self.sent += self.client.send(request)


@pytest.mark.parametrize("seed", range(3))
def test_many_requests_under_way_at_once(house: House, client: WireClient, clock: Clock, folder: Path, seed: int) -> None:
    """Of one open in their order, of several at once, compounds among them; each is answered, and the files are as they should be."""
    random = Random(seed)
    disk_of(house.worker_of(client), clock).doubt()
    while client.credits < 400:
        client.echo(credits=200)
    models = [Model(client, f"file {number}") for number in range(4)]
    looks: list[int] = []
    for _ in range(200):
        random.choice(models).send(random)
        if random.randrange(10) == 0:
            name = create_body(random.choice(models).name, access=c.FILE_READ_ATTRIBUTES, disposition=c.FILE_OPEN)
            query, close = query_info_body(LAST, c.INFO_FILE, 5), close_body(LAST)
            related = c.FLAGS_RELATED_OPERATIONS
            looks += client.send(
                Request(Command.CREATE, name), Request(Command.QUERY_INFO, query, related), Request(Command.CLOSE, close, related)
            )
    for model in models:
        allowed = status.SUCCESS, status.END_OF_FILE
        assert all(client.receive(one).status in allowed for one in model.sent)
        assert (folder / model.name).read_bytes() == bytes(model.content)
        assert client.close(model.opened).status == status.SUCCESS
    assert all(client.receive(one).status == status.SUCCESS for one in looks)
    assert not house.worker_of(client).opens
