"""Memory, polling, sockets, processes and change notification through each port."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pools.port import HANGUP, READABLE, WRITABLE, choice
from pools.port.choice import Port
from pools.port.interface import ATTRIBUTES, CLOSE_WRITE, CREATED, DELETED, DIRECTORY, RENAMED, Change, Source, Tree

# The choice


def test_the_areas_hold_one_port_whole() -> None:
    before = choice.in_use()
    try:
        for name in choice.NAMES:
            choice.use(name)
            assert choice.in_use() == name
            chosen = choice.load(name)
            assert choice.files.open_beneath is chosen.files.open_beneath
            assert choice.sockets.KERNEL_FORMAT is chosen.sockets.KERNEL_FORMAT
    finally:
        choice.use(before)


def test_no_such_port() -> None:
    with pytest.raises(ValueError, match="linux, posix"):
        choice.use("windows")


# Memory


def test_an_arenas_slabs_come_and_go(port: Port) -> None:
    arena = port.memory.create_arena(1 << 20, 1 << 16)
    with pytest.raises(ValueError, match="not mapped"):
        arena.commit(0, 4096)
    arena.map()
    view, alive = arena.commit(65536, 65536)
    assert arena.committed_bytes() == 65536
    assert bytes(view[:8]) == bytes(8)
    view[:6] = b"secret"
    part = view[4:5]
    view.release()
    assert alive()
    part.release()
    del view, part
    assert not alive()
    arena.decommit(65536, 65536)
    assert arena.committed_bytes() == 0
    view, _ = arena.commit(65536, 65536)
    assert bytes(view[:6]) == bytes(6)
    with pytest.raises(BufferError):
        arena.close()
    del view
    arena.close()
    assert arena.fileno() == -1


def test_shared_memory_is_shared(port: Port, tmp_path: Path) -> None:
    size = 4 * port.memory.PAGE
    for fd in (port.memory.create_shared_memory(size, size), port.memory.create_memory_file(str(tmp_path / "memory"), size)):
        assert not os.get_inheritable(fd)
        port.memory.commit(fd, 0, size)
        one = port.memory.map_shared(fd, size)
        two = port.memory.map_shared(fd, port.memory.PAGE, offset=port.memory.PAGE, writable=False)
        one[port.memory.PAGE] = 7
        assert two[0] == 7
        with pytest.raises(TypeError):
            two[0] = 1
        one.close()
        two.close()
        os.close(fd)


# Polling


def test_readiness(port: Port) -> None:
    ours, theirs = port.sockets.stream_pair()
    poller = port.polling.poller()
    poller.register(ours.fileno(), READABLE)
    assert poller.poll(0) == []
    theirs.send(b"x")
    assert [(fd, events & READABLE) for fd, events in poller.poll(5)] == [(ours.fileno(), READABLE)]
    poller.modify(ours.fileno(), READABLE | WRITABLE)
    assert poller.poll(5)[0][1] & WRITABLE
    ours.recv(10)
    theirs.close()
    poller.modify(ours.fileno(), READABLE | HANGUP)
    assert poller.poll(5)[0][1] & (READABLE | HANGUP)
    poller.unregister(ours.fileno())
    assert poller.poll(0) == []
    ours.close()
    assert not poller.closed
    poller.close()
    assert poller.closed


def test_a_poller_knows_whom_it_has(port: Port) -> None:
    ours, theirs = port.sockets.stream_pair()
    poller = port.polling.poller()
    with pytest.raises(FileNotFoundError):
        poller.unregister(ours.fileno())
    with pytest.raises(FileNotFoundError):
        poller.modify(ours.fileno(), READABLE)
    poller.register(ours.fileno(), READABLE)
    with pytest.raises(FileExistsError):
        poller.register(ours.fileno(), READABLE)
    number = theirs.fileno()
    theirs.close()
    with pytest.raises(OSError) as caught:
        poller.register(number, READABLE)
    assert caught.value.errno == errno.EBADF
    poller.close()
    ours.close()


def test_all_that_are_ready_have_their_turn(port: Port) -> None:
    """However few a call tells of."""
    poller = port.polling.poller()
    pairs = [port.sockets.stream_pair() for _ in range(7)]
    for ours, theirs in pairs:
        theirs.send(b"x")
        poller.register(ours.fileno(), READABLE)
    told = [fd for _ in range(7) for fd, _ in poller.poll(0, 3)]
    assert {told.count(ours.fileno()) for ours, _ in pairs} == {3}
    poller.close()
    for pair in pairs:
        for end in pair:
            end.close()


def test_a_poller_is_never_early(port: Port) -> None:
    poller = port.polling.poller()
    begun = time.monotonic()
    assert poller.poll(0.0123) == []
    assert time.monotonic() - begun >= 0.0123
    poller.close()


# Sockets


def test_records_keep_their_borders_and_bring_descriptors(port: Port, tmp_path: Path) -> None:
    ours, theirs = port.sockets.record_pair()
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    port.sockets.send_record(ours, (b"one", memoryview(b"two")), (fd,))
    port.sockets.send_record(ours, (b"three",))
    room = memoryview(bytearray(100))
    size, descriptors, truncated = port.sockets.receive_record(theirs, (room,), 2)
    assert (bytes(room[:size]), truncated) == (b"onetwo", False)
    (came,) = descriptors
    assert os.path.samestat(os.fstat(came), os.fstat(fd))
    assert not os.get_inheritable(came)
    assert port.sockets.receive_record(theirs, (room,), 2) == (5, (), False)
    with pytest.raises(BlockingIOError):
        port.sockets.receive_record(theirs, (room,), 2)
    port.sockets.send_record(ours, (b"long" * 10,), (fd, fd, fd))
    size, descriptors, truncated = port.sockets.receive_record(theirs, (room[:10],), 1)
    assert (size, len(descriptors), truncated) == (10, 1, True)
    ours.close()
    assert port.sockets.receive_record(theirs, (room,), 2)[0] == 0
    for number in (came, fd, *descriptors):
        os.close(number)
    theirs.close()


def fill(port: Port, sock: socket.socket) -> None:
    while True:
        port.sockets.send_views(sock, [memoryview(bytes(65536))])


def test_views_leave_side_by_side(port: Port) -> None:
    ours, theirs = port.sockets.stream_pair()
    assert port.sockets.send_views(ours, [memoryview(b"one"), memoryview(b"two")], more=True) == 6
    assert port.sockets.send_views(ours, [memoryview(b"!")]) == 1
    assert theirs.recv(10, socket.MSG_WAITALL | socket.MSG_DONTWAIT) == b"onetwo!"
    with pytest.raises(BlockingIOError):
        fill(port, ours)
    ours.close()
    theirs.close()


def test_payload_stays_in_the_kernel_or_is_refused(port: Port, tmp_path: Path) -> None:
    ours, theirs = port.sockets.stream_pair()
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"content")
    reader, writer, capacity = port.sockets.open_pipe(1 << 16)
    assert capacity >= 512
    os.write(writer, b"pipe")
    calls: list[Callable[[], int]] = [
        lambda: port.sockets.sendfile(ours.fileno(), fd, 0, 7),
        lambda: port.sockets.splice_out(reader, ours.fileno(), 4, None, False),
    ]
    if port.sockets.KERNEL_FORMAT:
        assert [call() for call in calls] == [7, 4]
        assert theirs.recv(20) == b"contentpipe"
    else:
        for call in calls:
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.EOPNOTSUPP
    for number in (fd, reader, writer):
        os.close(number)
    ours.close()
    theirs.close()


# Processes


def test_a_childs_life(port: Port) -> None:
    pid = port.processes.fork()
    if not pid:
        port.processes.exit_now(7)
    assert port.processes.ended(port.processes.wait(pid)) == (7, 0, False)
    reader, writer = os.pipe()
    pid = port.processes.fork()
    if not pid:
        os.close(writer)
        os.read(reader, 1)  # until the test ends it, or ends
        port.processes.exit_now(0)
    port.processes.kill(pid, signal.SIGKILL)
    status = port.processes.wait(pid)
    assert port.processes.ended(status)[:2] == (0, signal.SIGKILL)
    os.close(reader)
    os.close(writer)


def test_a_process_that_is_no_child_is_waited_for(port: Port) -> None:
    """A grandchild; its own parent reaps it, and ends then."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        grandchild = os.fork()
        if not grandchild:
            os.setsid()
            os.close(reader)
            time.sleep(60)
            os._exit(0)
        os.write(writer, b"%d" % grandchild)
        os.waitpid(grandchild, 0)
        os._exit(0)
    os.close(writer)
    number = int(os.read(reader, 20))
    with port.processes.watched(number) as ended:
        assert not ended(0)
        os.kill(number, signal.SIGKILL)
        assert ended(20)
    os.waitpid(pid, 0)
    os.close(reader)


def test_nobody_to_wait_for(port: Port) -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(ProcessLookupError), port.processes.watched(pid):
        pass


def test_a_thread_is_waited_for(port: Port) -> None:
    done: list[int] = []
    over = port.processes.start_thread("one", lambda: done.append(1))
    assert over(5)
    assert done == [1]


def test_signals_wait_while_they_are_held(port: Port) -> None:
    """In a process of its own, which has one thread: another thread would take the signal."""
    pid = os.fork()
    if not pid:
        came: list[int] = []
        before = port.processes.on_signals({signal.SIGUSR1: lambda number, _frame: came.append(number)})
        held = port.processes.hold_signals({signal.SIGUSR1})
        port.processes.kill(port.processes.own_pid(), signal.SIGUSR1)
        waited = list(came)
        port.processes.release_signals(held)
        right = (waited, came, before) == ([], [signal.SIGUSR1], {signal.SIGUSR1: signal.SIG_DFL})
        os._exit(0 if right else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_who_the_caller_is(port: Port) -> None:
    assert port.credentials.effective() == (os.geteuid(), os.getegid(), tuple(os.getgroups()))
    assert port.credentials.real() == (os.getuid(), os.getgid())
    for number in (-1, 0xFFFFFFFF):
        with pytest.raises(OSError) as caught:
            port.credentials.set_effective(number, 0, ())
        assert caught.value.errno == errno.EINVAL


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_acting_as_others_and_coming_back(port: Port) -> None:
    """In a process of its own: should coming back fail, this one is somebody else."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            assert port.credentials.can_switch()
            for uid, gid, groups in ((50_001, 50_002, (50_003, 50_004)), (50_005, 50_006, ()), (0, 0, ())):
                port.credentials.set_effective(uid, gid, groups)
                assert port.credentials.effective() == (uid, gid, groups)
            port.credentials.set_effective(50_001, 50_002, ())
            port.credentials.set_effective_uid(0)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


# Change notification


def sources(port: Port) -> list[Source]:
    """Every way that can be had here."""
    found = []
    for way in port.watching.sources(frozenset):
        try:
            found.append(way())
        except OSError:
            continue
    assert found
    return found


def news(source: Source, root: Path) -> list[Change]:
    return [change for change in source.changes() if change.path.startswith(str(root))]


def test_changes_are_told_once(port: Port, tmp_path: Path) -> None:
    for number, source in enumerate(sources(port)):
        root = tmp_path / str(number)
        (root / "deep").mkdir(parents=True)
        for name in ("changed", "renamed", "removed", "touched"):
            (root / "deep" / name).write_text("x")
        source.cover({Tree(str(root), True)})
        news(source, root)
        (root / "new").write_text("x")
        (root / "deep" / "changed").write_text("longer")
        (root / "deep" / "renamed").rename(root / "deep" / "after")
        (root / "deep" / "removed").unlink()
        (root / "deep" / "touched").chmod(0o600)
        (root / "folder").mkdir()
        found = news(source, root)
        said = {(change.path[len(str(root)) + 1 :], bit) for change in found for bit in (1 << n for n in range(31)) if change.mask & bit}
        assert {("new", CREATED), ("deep/changed", CLOSE_WRITE), ("deep/removed", DELETED), ("deep/touched", ATTRIBUTES)} <= said
        assert {("folder", CREATED), ("folder", DIRECTORY)} <= said
        (moved,) = [change for change in found if change.mask & RENAMED]
        assert (moved.path, moved.new_path) == (str(root / "deep" / "renamed"), str(root / "deep" / "after"))
        assert news(source, root) == []
        source.close()


def test_a_folder_made_later_is_watched_with_its_tree(port: Port, tmp_path: Path) -> None:
    for number, source in enumerate(sources(port)):
        root = tmp_path / str(number)
        root.mkdir()
        source.cover({Tree(str(root), True)})
        (root / "made").mkdir()
        news(source, root)
        (root / "made" / "file").write_text("x")
        assert str(root / "made" / "file") in {change.path for change in news(source, root)}
        source.close()


def test_only_what_is_covered_is_told(port: Port, tmp_path: Path) -> None:
    for number, source in enumerate(sources(port)):
        if source.exact:
            source.close()
            continue  # of a whole file system: the watcher leaves out what nobody watches
        root = tmp_path / str(number)
        (root / "in").mkdir(parents=True)
        (root / "out").mkdir()
        source.cover({Tree(str(root / "in"), False), Tree(str(root / "out"), False)})
        (root / "out" / "before").touch()
        source.cover({Tree(str(root / "in"), False)})
        (root / "in" / "file").touch()
        (root / "out" / "file").touch()
        assert {change.path for change in news(source, root)} <= {str(root / "in" / "file"), str(root / "out" / "before")}
        source.cover(set())
        (root / "in" / "another").touch()
        assert news(source, root) == []
        source.close()


def test_what_a_peer_has_acknowledged(port: Port) -> None:
    """Exactly, or nothing at all: who asks must not take a peer for gone because a system does not tell."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        before, flying, timeout = port.sockets.progress(near)
        assert flying in (0, -1)
        assert timeout > 0
        near.sendall(bytes(1000))
        assert len(far.recv(1000, socket.MSG_WAITALL)) == 1000
        deadline = time.monotonic() + 5
        while port.sockets.progress(near)[1] > 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        after, flying, _ = port.sockets.progress(near)
        assert flying == (0 if after else -1)
        assert after - before in (0, 1000)
    near, far = port.sockets.stream_pair()
    with near, far:
        near.sendall(b"unread")
        assert port.sockets.progress(near)[0] == 0


def test_an_interface_has_a_queue(port: Port) -> None:
    assert port.sockets.receive_queues("lo") >= 1
    assert port.sockets.receive_queues("../../no such interface") == 1


def test_a_socket_that_is_closed_with_a_reset(port: Port) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with far:
        port.sockets.reset_at_close(near)
        near.close()
        with pytest.raises(ConnectionResetError):
            far.recv(1)
