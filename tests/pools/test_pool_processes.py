"""Pools, counters and queue between real processes: fork, kill -9, what is inherited and what is not."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

import pytest

from pools import port
from pools.arena import Arena
from pools.buffer import CLASSES, PDU
from pools.counters import CounterSegment, class_word
from pools.pool import USUAL_PLAN, DynamicPool, plan_bytes
from pools.queue import AUTHD, Endpoint, HubClosed, Message, Service, pack, unpack

CEILING = 64 << 20
SLOT = 16


def fork(child: Callable[[], None]) -> int:
    """Run ``child`` in a fork that always ends here: 0 when it returns, 1 when it raises."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        child()
        status = 0
    finally:
        os._exit(status)


def reap(pid: int) -> int:
    """The exit status; minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def sockets() -> tuple[socket.socket, socket.socket]:
    child, master = port.sockets.record_pair()
    master.setblocking(True)
    master.settimeout(20)
    return child, master


def _listing(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _mapped(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/maps") as file:
            return [int(line.split()[4]) for line in file]
    except OSError:
        return []


def _holders(fd: int) -> list[int]:
    """Our processes that have the object behind ``fd`` open or mapped."""
    wanted = os.fstat(fd).st_ino
    holders = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        names = [f"/proc/{pid}/fd/{name}" for name in _listing(f"/proc/{pid}/fd")]
        if any(_inode(name) == wanted for name in names) or wanted in _mapped(pid):
            holders.append(pid)
    return holders


def test_a_killed_workers_memory_goes_with_the_masters_descriptor(sockets: tuple[socket.socket, socket.socket]) -> None:
    child_end, master_end = sockets
    arena = Arena.create(CEILING)
    other = Arena.create(CEILING)
    counters = CounterSegment.create(None, 32)

    def worker() -> None:
        other.close()
        arena.map()
        row = counters.narrow(SLOT)
        row.set("pid", os.getpid())
        pool = DynamicPool(arena, row, lambda number, slabs: None, lambda number, slabs: None)
        pool.granted(PDU, 9)
        held = [pool.allocate(65536) for _ in range(20)]
        for buffer in held:
            buffer.payload[:] = b"\x5a" * 65536
        child_end.send(b"ready")
        signal.pause()

    pid = fork(worker)
    child_end.close()
    assert master_end.recv(10) == b"ready"
    words = counters.row(SLOT).words
    assert words[class_word(PDU, "in_use")] == 20
    assert counters.is_alive(SLOT, 0)
    assert arena.committed_bytes() == plan_bytes(USUAL_PLAN.reserve) + 9 * CLASSES[PDU].slab_bytes
    os.kill(pid, signal.SIGKILL)
    assert reap(pid) == -signal.SIGKILL
    # Only the master's descriptor keeps the pages now: closing it frees them. Another slot's arena never cost anything.
    assert arena.committed_bytes() > 0
    assert _holders(arena.fileno()) == [os.getpid()]
    arena.close()
    assert other.committed_bytes() == 0
    counters.row(SLOT).clear()
    assert not counters.is_alive(SLOT, 0)


def test_a_child_cannot_write_anothers_row() -> None:
    counters = CounterSegment.create(None, 32)
    counters.row(SLOT + 1).set("pid", 1)

    def child() -> None:
        counters.narrow(SLOT).set("pid", 7)
        try:
            counters.row(SLOT + 1).set("pid", 7)
        except TypeError:
            return
        raise AssertionError("wrote")

    assert reap(fork(child)) == 0
    assert (counters.row(SLOT).get("pid"), counters.row(SLOT + 1).get("pid")) == (7, 1)


def test_close_others_leaves_what_is_named() -> None:
    reader, writer = os.pipe()
    keep, report = os.pipe()
    extra = os.dup(writer)

    def child() -> None:
        port.processes.close_others([report, keep])
        open_now = {int(name) for name in os.listdir("/proc/self/fd")}
        wrong = [fd for fd in (reader, writer, extra) if fd in open_now]
        os.write(report, b"no" if wrong else b"ok")

    pid = fork(child)
    assert os.read(keep, 10) == b"ok"
    assert reap(pid) == 0
    for fd in (reader, writer, extra, keep, report):
        os.close(fd)


def test_a_grandchild_dies_with_its_parent() -> None:
    reader, writer = os.pipe()

    def parent() -> None:
        me = os.getpid()

        def grandchild() -> None:
            port.sandbox.die_with_parent(me)
            os.write(writer, b"%d" % os.getpid())
            signal.pause()

        fork(grandchild)
        signal.pause()

    pid = fork(parent)
    os.close(writer)
    assert int(os.read(reader, 20)) > 0
    os.kill(pid, signal.SIGKILL)
    reap(pid)
    # The grandchild held the last writing end.
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_die_with_a_parent_that_is_gone_already() -> None:
    assert reap(fork(lambda: port.sandbox.die_with_parent(1 << 22))) == -signal.SIGKILL


def test_titles() -> None:
    reader, writer = os.pipe()

    def child() -> None:
        port.processes.set_title("millpond: worker 192.0.2.1")
        with open("/proc/self/cmdline", "rb") as file:
            os.write(writer, file.read().rstrip(b"\0"))

    reap(fork(child))
    assert os.read(reader, 100) == b"millpond: worker 192.0.2.1"
    os.close(reader)
    os.close(writer)


def test_a_service_answers_and_ends_with_its_master(sockets: tuple[socket.socket, socket.socket]) -> None:
    child_end, master_end = sockets

    def service() -> None:
        port.processes.close_others([child_end.fileno()])

        def double(message: Message) -> bytes:
            return bytes(message.payload) * 2

        Service(Endpoint(child_end), {0x0200: double}).run()

    pid = fork(service)
    child_end.close()
    master_end.send(pack(SLOT, 0x0200, b"ab", id=5, generation=1))
    head, payload = unpack(memoryview(master_end.recv(100)))
    assert (head.peer, head.kind, head.id, bytes(payload)) == (SLOT, 0x0201, 5, b"abab")
    master_end.close()
    assert reap(pid) == 0


def test_a_killed_service_is_an_end_of_file(sockets: tuple[socket.socket, socket.socket]) -> None:
    child_end, master_end = sockets
    pid = fork(lambda: Service(Endpoint(child_end), {}).run())
    child_end.close()
    os.kill(pid, signal.SIGKILL)
    reap(pid)
    with pytest.raises(HubClosed):
        Endpoint(master_end).receive()


def test_a_question_outlives_nothing(sockets: tuple[socket.socket, socket.socket]) -> None:
    child_end, master_end = sockets

    def asker() -> None:
        # Inherited too: it would keep the queue open.
        master_end.close()
        try:
            Service(Endpoint(child_end), {}).ask(AUTHD, 0x0200, b"?", timeout=20)
        except HubClosed:
            return
        raise AssertionError("answered")

    pid = fork(asker)
    child_end.close()
    unpack(memoryview(master_end.recv(100)))
    master_end.close()
    assert reap(pid) == 0
