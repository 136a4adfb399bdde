"""The io vector: each operation, partial transfers, files that shrink, peers that vanish, disks that are full. No byte twice, none lost."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools import iovec, port
from pools.buffer import HEADROOM, Buffer
from pools.counters import CounterSegment
from pools.iovec import FileEntry, IoVector, MemoryEntry, Pipe, PipeEntry
from pools.pool import MallocPool


@pytest.fixture
def pool() -> MallocPool:
    return MallocPool(CounterSegment.create(None, 1).row(0), 64 << 20, debug=True)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.settimeout(5)
    with closing(near), closing(far):
        yield near, far


class Held:
    """A descriptor that counts its holds."""

    def __init__(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        self.fd = os.open(path, os.O_RDWR)
        self.holds = 1

    def hold(self) -> None:
        self.holds += 1

    def release(self) -> None:
        self.holds -= 1
        if not self.holds:
            os.close(self.fd)


def memory(pool: MallocPool, data: bytes) -> MemoryEntry:
    buffer = pool.allocate(max(1, len(data)))
    buffer.payload[: len(data)] = data
    return MemoryEntry(buffer.payload[: len(data)], buffer)


def piped(data: bytes) -> tuple[Pipe, PipeEntry]:
    pipe = Pipe()
    assert pipe.put(memoryview(data)) == len(data)
    entry = PipeEntry(pipe, len(data))
    pipe.release()  # the entry holds it
    return pipe, entry


def receive_all(vector: IoVector, near: socket.socket, far: socket.socket, at_once: int = 1 << 16, under_way: int = 0) -> bytes:
    """Sends the vector bit by bit into a socket that is read bit by bit, and in which ``under_way`` bytes are already."""
    got = bytearray()
    want = under_way + vector.length
    for _ in range(100_000):
        vector.send(near)
        if len(got) == want:
            break
        got += far.recv(at_once)
    assert vector.length == 0
    assert len(vector) == 0
    return bytes(got)


def send_until_it_fails(vector: IoVector, near: socket.socket) -> None:
    for _ in range(100):
        vector.send(near)


def fill_until_it_fails(pipe: Pipe, near: socket.socket) -> None:
    for _ in range(100):
        pipe.fill(near.fileno(), 50_000)


def mixed(pool: MallocPool, tmp_path: Path) -> tuple[IoVector, bytes, Held]:
    file = Held(tmp_path / "mixed", bytes(range(256)) * 1024)
    _, pipe = piped(b"pipe" * 5000)
    file.hold()
    vector = IoVector(memory(pool, b"header"), FileEntry(file.fd, 1000, 100_000, file), memory(pool, b"middle"), pipe, memory(pool, b"end"))
    whole = b"header" + (bytes(range(256)) * 1024)[1000:101_000] + b"middle" + b"pipe" * 5000 + b"end"
    assert vector.length == len(whole)
    return vector, whole, file


# -- one operation each ------------------------------------------------------------------------------------------------------------


def test_pushing_keeps_the_order_and_origin_is_the_front(pool: MallocPool) -> None:
    vector = IoVector()
    with pytest.raises(ValueError, match="memory"):
        _ = vector.origin
    vector.push_back(memory(pool, b"payload"))
    vector.push_front(memory(pool, b"head"))
    assert vector.length == 11
    assert vector.origin == b"head"
    vector.free()
    assert (vector.length, pool.in_use()) == (0, 0)


def test_a_whole_vector_leaves_in_order_and_is_given_back(pool: MallocPool, tmp_path: Path, pair: tuple[socket.socket, ...]) -> None:
    vector, whole, file = mixed(pool, tmp_path)
    assert receive_all(vector, *pair, 3000) == whole
    assert pool.in_use() == 0
    assert file.holds == 1
    file.release()


def test_entries_are_freed_before_the_vector_is_through(pool: MallocPool, tmp_path: Path, pair: tuple[socket.socket, ...]) -> None:
    near, far = pair
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    file = Held(tmp_path / "file", bytes(1 << 20))
    vector = IoVector(memory(pool, b"header and request"), FileEntry(file.fd, 0, 1 << 20))
    assert not vector.send(near)
    assert pool.in_use() == 0  # the header's buffer serves somebody else while the file is still on its way
    sent = 18 + (1 << 20) - vector.length
    assert receive_all(vector, near, far, under_way=sent) == b"header and request" + bytes(1 << 20)
    file.release()


def test_pull_up_copies_only_what_is_not_there(pool: MallocPool, tmp_path: Path) -> None:
    vector, whole, file = mixed(pool, tmp_path)
    assert vector.pull_up(6, pool.allocate) == b"header"
    used = pool.in_use()
    assert vector.pull_up(3, pool.allocate) == b"hea"
    assert pool.in_use() == used
    for count in (7, 50_000, 100_013, 110_000, len(whole)):
        assert vector.pull_up(count, pool.allocate) == whole[:count]
        assert vector.origin[:count] == whole[:count]
        assert vector.length == len(whole)
    assert file.holds == 1
    with pytest.raises(ValueError, match="bytes of"):
        vector.pull_up(len(whole) + 1, pool.allocate)
    vector.free()
    file.release()
    assert pool.in_use() == 0


def test_push_down_moves_memory_into_a_pipe(pool: MallocPool, pair: tuple[socket.socket, ...]) -> None:
    pipe = Pipe()
    vector = IoVector(memory(pool, b"a" * 5000), memory(pool, b"b" * 10))
    assert vector.push_down(pipe) == 5010
    assert pool.in_use() == 0
    with pytest.raises(ValueError, match="memory"):
        _ = vector.origin
    assert receive_all(vector, *pair) == b"a" * 5000 + b"b" * 10
    pipe.release()


def test_push_down_stops_when_the_pipe_is_full(pool: MallocPool, pair: tuple[socket.socket, ...]) -> None:
    pipe = Pipe(4096)
    vector = IoVector(memory(pool, b"a" * 3000), memory(pool, b"b" * 60_000))
    moved = vector.push_down(pipe)
    assert 0 < moved < 63_000
    assert vector.length == 63_000
    assert receive_all(vector, *pair) == b"a" * 3000 + b"b" * 60_000
    pipe.release()
    assert pool.in_use() == 0


def test_push_down_lets_nothing_overtake(pool: MallocPool, pair: tuple[socket.socket, ...]) -> None:
    pipe, entry = piped(b"tail")
    vector = IoVector(memory(pool, b"head"), entry)
    with pytest.raises(ValueError, match="holds 4 bytes"):
        vector.push_down(pipe)
    assert receive_all(vector, *pair) == b"headtail"
    assert pool.in_use() == 0


def test_split_copies_nothing(pool: MallocPool, tmp_path: Path, pair: tuple[socket.socket, ...]) -> None:
    for cut in (0, 1, 6, 7, 100_006, 100_012, 110_000, 120_015):
        vector, whole, file = mixed(pool, tmp_path)
        front = vector.split(cut)
        assert (front.length, vector.length) == (cut, len(whole) - cut)
        assert receive_all(front, *pair) == whole[:cut]
        assert receive_all(vector, *pair) == whole[cut:]
        assert (pool.in_use(), file.holds) == (0, 1)
        file.release()


def test_freeing_a_part_leaves_the_pipe_in_order(pool: MallocPool, pair: tuple[socket.socket, ...]) -> None:
    _, entry = piped(b"first, then second")
    vector = IoVector(entry)
    vector.split(12).free()
    assert receive_all(vector, *pair) == b"second"


def test_receive_into_memory_and_into_a_pipe(pool: MallocPool, pair: tuple[socket.socket, ...]) -> None:
    near, far = pair
    vector = IoVector()
    buffer = pool.allocate(100)
    with pytest.raises(BlockingIOError):
        vector.receive(near, buffer, 100)
    far.sendall(b"fixed part" + b"payload" * 1000)
    assert vector.receive(near, buffer, 10) == 10
    assert vector.origin == b"fixed part"
    pipe = Pipe()
    while vector.length < 7010:
        assert vector.receive(near, pipe, 7010 - vector.length)
    assert len(vector) == 2
    far.close()
    assert vector.receive(near, pipe, 10) == 0
    assert vector.pull_up(7010, pool.allocate) == b"fixed part" + b"payload" * 1000
    vector.free()
    pipe.release()
    assert pool.in_use() == 0


def test_write_to_takes_every_kind(pool: MallocPool, tmp_path: Path) -> None:
    vector, whole, file = mixed(pool, tmp_path)
    target = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    assert vector.write_to(target, 77) == len(whole)
    assert os.pread(target, 1 << 20, 0) == bytes(77) + whole
    assert (vector.length, pool.in_use(), file.holds) == (0, 0, 1)
    os.close(target)
    file.release()


# -- what goes wrong -----------------------------------------------------------------------------------------------------------------


def test_a_file_cut_off_after_its_length_was_promised_is_filled_with_zeros(
    pool: MallocPool, tmp_path: Path, pair: tuple[socket.socket, ...]
) -> None:
    file = Held(tmp_path / "file", b"x" * 200_000)
    vector = IoVector(memory(pool, b"head"), FileEntry(file.fd, 0, 200_000), memory(pool, b"tail"))
    os.truncate(tmp_path / "file", 70_000)
    assert receive_all(vector, *pair) == b"head" + b"x" * 70_000 + bytes(130_000) + b"tail"
    os.truncate(tmp_path / "file", 3)
    vector = IoVector(FileEntry(file.fd, 0, 10))
    assert vector.pull_up(10, pool.allocate) == b"xxx" + bytes(7)
    vector.free()
    file.release()


def test_a_file_system_without_sendfile(
    pool: MallocPool, tmp_path: Path, pair: tuple[socket.socket, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(port.sockets, "sendfile", refuse)
    file = Held(tmp_path / "file", bytes(range(250)) * 1000)
    vector = IoVector(memory(pool, b"head"), FileEntry(file.fd, 0, 251_000), memory(pool, b"tail"))
    assert receive_all(vector, *pair) == b"head" + bytes(range(250)) * 1000 + bytes(1000) + b"tail"
    file.release()


def test_a_peer_that_vanishes(pool: MallocPool, tmp_path: Path, pair: tuple[socket.socket, ...]) -> None:
    near, far = pair
    vector, _, file = mixed(pool, tmp_path)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    vector.send(near)
    far.close()
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        send_until_it_fails(vector, near)
    vector.free()
    assert (pool.in_use(), file.holds) == (0, 1)
    file.release()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small file system")
def test_a_full_disk_says_what_was_written(pool: MallocPool, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", disk], check=True)
    try:
        target = os.open(disk / "file", os.O_RDWR | os.O_CREAT)
        _, entry = piped(b"p" * 200_000)
        vector = IoVector(memory(pool, b"m" * 60_000), entry)
        with pytest.raises(OSError, match="No space") as full:
            vector.write_to(target, 0)
        assert full.value.errno == errno.ENOSPC
        written = 260_000 - vector.length
        assert os.fstat(target).st_size == written
        assert os.pread(target, 1 << 20, 0) == (b"m" * 60_000 + b"p" * 200_000)[:written]
        vector.free()  # the rest of the PDU is drained: the pipe is clean for the next one
        os.close(target)
    finally:
        subprocess.run(["umount", disk], check=True)
    assert pool.in_use() == 0


def test_an_interrupted_call_is_repeated(pool: MallocPool, pair: tuple[socket.socket, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [InterruptedError(), BlockingIOError()]
    real = port.sockets.send_views

    def send_views(sock: socket.socket, views: list[memoryview], more: bool = False) -> int:
        if calls:
            raise calls.pop()
        return real(sock, views, more)

    monkeypatch.setattr(port.sockets, "send_views", send_views)
    vector = IoVector(memory(pool, b"data"))
    assert not vector.send(pair[0])
    assert not vector.send(pair[0])
    assert vector.send(pair[0])
    assert pair[1].recv(10) == b"data"


def test_a_full_pipe_and_an_empty_socket_are_no_errors(pair: tuple[socket.socket, ...]) -> None:
    near, far = pair
    pipe = Pipe(4096)
    with pytest.raises(BlockingIOError):
        pipe.fill(near.fileno(), 100)
    far.sendall(bytes(50_000))
    with pytest.raises(BlockingIOError):
        fill_until_it_fails(pipe, near)
    assert 0 < pipe.held <= pipe.capacity
    pipe.drain()
    assert pipe.held == 0
    pipe.release()


# -- any chain, any cut, any socket --------------------------------------------------------------------------------------------------

KINDS = st.sampled_from("mfp")


@given(st.lists(st.tuples(KINDS, st.integers(1, 9000)), min_size=1, max_size=8), st.data())
def test_no_byte_is_lost_or_doubled(tmp_path_factory: pytest.TempPathFactory, chain: list[tuple[str, int]], data: st.DataObject) -> None:
    pool = MallocPool(CounterSegment.create(None, 1).row(0), 64 << 20)
    source = bytes((index * 7 + index // 251) % 256 for index in range(80_000))
    file = Held(tmp_path_factory.getbasetemp() / "source", source)
    vector, whole, at = IoVector(), b"", 0
    pipes = []
    for kind, size in chain:
        part = source[at : at + size]
        if kind == "m":
            vector.push_back(memory(pool, part))
        elif kind == "f":
            file.hold()
            vector.push_back(FileEntry(file.fd, at, size, file))
        else:
            pipe, entry = piped(part)
            pipes.append(pipe)
            vector.push_back(entry)
        whole += part
        at += size
    near, far = socket.socketpair()
    near.setblocking(False)
    far.settimeout(5)
    with closing(near), closing(far):
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, data.draw(st.sampled_from([1, 4096, 65536])))
        pulled = data.draw(st.integers(0, len(whole)))
        if pulled:
            assert vector.pull_up(pulled, pool.allocate) == whole[:pulled]
        front = vector.split(data.draw(st.integers(0, len(whole))))
        size = front.length
        assert receive_all(front, near, far, data.draw(st.integers(500, 9000))) == whole[:size]
        if data.draw(st.booleans()):
            target = os.memfd_create("target")
            vector.write_to(target, 5)
            assert os.pread(target, 1 << 20, 5) == whole[size:]
            os.close(target)
        else:
            assert receive_all(vector, near, far) == whole[size:]
    assert pool.in_use() == 0
    assert file.holds == 1
    assert all(pipe._references == 0 and not pipe.held for pipe in pipes)
    file.release()


def test_a_view_begins_where_a_header_fits_in_front(pool: MallocPool) -> None:
    """What pull_up makes has headroom, so that it can be answered from."""
    entry = memory(pool, b"x" * 10)
    vector = IoVector(entry, memory(pool, b"y" * 10))
    vector.pull_up(20, pool.allocate)
    first = vector._entries[0]
    assert isinstance(first, MemoryEntry)
    assert isinstance(first.buffer, Buffer)
    assert first.buffer.view[HEADROOM : HEADROOM + 20] == b"x" * 10 + b"y" * 10
    vector.free()
    assert iovec.MOST_VIEWS >= 2
