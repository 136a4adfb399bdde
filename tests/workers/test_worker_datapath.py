"""The two formats of the data path: the same answers, whether payload passes through the process or stays in the kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from pools import port
from pools.pool import PoolExhausted
from smbd.sharing.messages import OPLOCK_BREAK
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.messages import file
from smbd.smb2.messages.create import CREATE_RESPONSE
from tests.wire_client import FileId, Request, WireClient, charge_of, close_body, read_body
from tests.workers.house import House, Wire
from workers.ending import end_session
from workers.transport import incoming as incoming_module

KIB, MIB = 1 << 10, 1 << 20
BATCH = 66 * KIB  # what may have come with the request before
CONTENT = bytes(range(256)) * (8 * KIB)  # 2 MiB


@pytest.fixture(params=["user", "kernel", "auto"])
def any_house(request: pytest.FixtureRequest, make_house: Callable[..., House]) -> House:
    return make_house(text=f"data path = {request.param}")


@pytest.fixture
def kernel(make_house: Callable[..., House]) -> WireClient:
    client = make_house(text="data path = kernel").client()
    more_credits(client)
    return client


@pytest.fixture
def spliced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pieces that went from a socket into a pipe."""
    pieces: list[int] = []
    real = port.sockets.splice_in

    def splice_in(source: int, pipe: int, most: int) -> int:
        pieces.append(real(source, pipe, most))
        return pieces[-1]

    monkeypatch.setattr(port.sockets, "splice_in", splice_in)
    return pieces


@pytest.fixture
def sent_files(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The pieces that went from a file into a socket."""
    pieces: list[int] = []
    real = port.sockets.sendfile

    def sendfile(out: int, fd: int, offset: int, count: int) -> int:
        pieces.append(real(out, fd, offset, count))
        return pieces[-1]

    monkeypatch.setattr(port.sockets, "sendfile", sendfile)
    return pieces


def more_credits(client: WireClient) -> None:
    while client.credits < 300:
        client.echo(credits=256)


def write_frame(client: WireClient, opened: FileId, offset: int, data: bytes, *, gap: int = 0, tail: int = 0) -> bytes:
    """A WRITE as it travels; ``gap`` bytes before its payload and ``tail`` behind it belong to the PDU and to nothing else."""
    fixed = file.WRITE_REQUEST.pack(49, 112 + gap, len(data), offset, *opened, 0, 0, 0, 0, 0)
    return frame(client, Request(Command.WRITE, fixed + bytes(gap) + data + b"\xee" * tail, charge=charge_of(len(data))))


def frame(client: WireClient, request: Request) -> bytes:
    pdu = client.pack([request])
    return len(pdu).to_bytes(4, "big") + pdu


# -- both formats alike ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 65535, 65536, 65537, 300_000, MIB, 2 * MIB])
def test_what_is_written_is_read(any_house: House, folder: Path, size: int) -> None:
    client = any_house.client()
    more_credits(client)
    opened = client.open("file")
    assert client.write(opened, 3, CONTENT[:size]).parse(file.WRITE_RESPONSE).write_count == size
    assert (folder / "file").read_bytes() == bytes(3) + CONTENT[:size]
    assert client.read_data(opened, 3, size) == CONTENT[:size]
    assert client.read_data(opened, 0, size) == (bytes(3) + CONTENT)[:size]
    assert client.read_data(opened, size, 65536) == (bytes(3) + CONTENT)[size : size + 3]
    assert client.read(opened, size + 3, 1 * MIB).status == status.END_OF_FILE
    assert client.read(opened, size, MIB, minimum=4).status == status.END_OF_FILE
    assert client.close(opened).status == status.SUCCESS


@pytest.mark.parametrize("size", [70_000, 2 * MIB])
def test_many_large_writes_in_a_row(any_house: House, folder: Path, size: int) -> None:
    client = any_house.client()
    more_credits(client)
    opened = client.open("file")
    frames = b"".join(write_frame(client, opened, at * size, bytes([at]) * size) for at in range(4))
    client.transport.send(frames)
    for _ in range(4):
        assert client.receive().status == status.SUCCESS
    assert (folder / "file").read_bytes() == b"".join(bytes([at]) * size for at in range(4))
    assert client.echo().status == status.SUCCESS


@pytest.mark.parametrize(("access", "answer"), [(c.FILE_READ_DATA, status.ACCESS_DENIED), (c.FILE_APPEND_DATA, status.ACCESS_DENIED)])
def test_what_may_not_be_written_is_taken_off_the_wire(any_house: House, folder: Path, access: int, answer: int) -> None:
    client = any_house.client()
    more_credits(client)
    (folder / "file").write_bytes(b"as it was")
    (folder / "file").chmod(0o666)
    opened = client.open("file", access=access)
    assert client.write(opened, 0, CONTENT).status == answer
    assert client.echo().status == status.SUCCESS
    assert (folder / "file").read_bytes() == b"as it was"


def test_a_locked_range_is_not_written(any_house: House, folder: Path) -> None:
    one, two = any_house.client(), any_house.client()
    more_credits(two)
    first, second = one.open("file"), two.open("file")
    assert one.lock(first, (MIB, 10, c.LOCKFLAG_EXCLUSIVE_LOCK | c.LOCKFLAG_FAIL_IMMEDIATELY)).status == status.SUCCESS
    assert two.write(second, 0, CONTENT).status == status.FILE_LOCK_CONFLICT
    assert (folder / "file").read_bytes() == b""
    assert two.write(second, 0, CONTENT[:MIB]).status == status.SUCCESS
    assert two.read(second, 0, 2 * MIB).status == status.FILE_LOCK_CONFLICT
    assert two.read_data(second, 0, MIB) == CONTENT[:MIB]


# -- kernel format -------------------------------------------------------------------------------------------------------------------


def test_payload_stays_in_the_kernel(kernel: WireClient, folder: Path, spliced: list[int], sent_files: list[int]) -> None:
    opened = kernel.open("file")
    assert kernel.write(opened, 0, CONTENT).status == status.SUCCESS
    assert sum(spliced) > len(CONTENT) - BATCH
    assert kernel.read_data(opened, 0, len(CONTENT)) == CONTENT
    assert sum(sent_files) == len(CONTENT)


def test_the_next_large_write_is_not_received_into_memory(kernel: WireClient, spliced: list[int]) -> None:
    opened = kernel.open("file")
    kernel.transport.send(b"".join(write_frame(kernel, opened, at * MIB, CONTENT[:MIB]) for at in range(2)))
    assert kernel.receive().status == kernel.receive().status == status.SUCCESS
    assert sum(spliced) >= 2 * MIB - BATCH


def test_gaps_and_tails_of_a_pdu_are_not_payload(kernel: WireClient, folder: Path) -> None:
    opened = kernel.open("file")
    for gap, tail in ((0, 1), (8, 0), (100, 70_000)):
        kernel.transport.send(write_frame(kernel, opened, 0, CONTENT[:200_000], gap=gap, tail=tail))
        assert kernel.receive().status == status.SUCCESS
        assert (folder / "file").read_bytes() == CONTENT[:200_000]
        assert kernel.echo().status == status.SUCCESS


def test_signed_and_sealed_payload_is_pulled_into_the_process(
    make_house: Callable[..., House], folder: Path, spliced: list[int], sent_files: list[int]
) -> None:
    client = make_house(text="data path = kernel\nserver signing = mandatory").client(share="")
    client.sign = True
    assert client.tree_connect("data").status == status.SUCCESS
    more_credits(client)
    opened = client.open("file")
    assert client.write(opened, 0, CONTENT).status == status.SUCCESS
    assert client.read_data(opened, 0, len(CONTENT)) == CONTENT
    assert not spliced
    assert not sent_files


def test_a_stream_is_no_file(kernel: WireClient, spliced: list[int]) -> None:
    opened = kernel.open("file:stream")
    assert kernel.write(opened, 0, CONTENT[:300_000]).status == status.SUCCESS
    assert kernel.read_data(opened, 0, 300_000) == CONTENT[:300_000]
    assert not spliced


def test_a_full_disk_in_mid_transfer(kernel: WireClient, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = kernel.open("file")
    real = port.sockets.splice_out
    pieces = 0

    def splice_out(pipe: int, target: int, most: int, offset: int | None, more: bool) -> int:
        nonlocal pieces
        pieces += 1
        if pieces > 1:
            raise OSError(errno.ENOSPC, "full")
        return real(pipe, target, min(most, 5000), offset, more)

    monkeypatch.setattr(port.sockets, "splice_out", splice_out)
    assert kernel.write(opened, 0, CONTENT).status == status.DISK_FULL
    monkeypatch.setattr(port.sockets, "splice_out", real)
    stands = (folder / "file").read_bytes()
    assert 5000 <= len(stands) < MIB
    assert stands == CONTENT[: len(stands)]
    assert kernel.write(opened, 0, CONTENT).status == status.SUCCESS  # the pipe and the stream are in step
    assert (folder / "file").read_bytes() == CONTENT


def test_a_file_system_without_splice(kernel: WireClient, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "no splice here")

    monkeypatch.setattr(port.sockets, "splice_out", refuse)
    opened = kernel.open("file")
    assert kernel.write(opened, 0, CONTENT).status == status.SUCCESS
    assert (folder / "file").read_bytes() == CONTENT


def test_a_large_write_behind_reads_that_wait_for_a_buffer(make_house: Callable[..., House], folder: Path) -> None:
    """Some READs of a batch have to wait, and the WRITE that begins behind them is judged when they have been answered."""
    house = make_house(text="data path = auto")
    client = house.client()
    more_credits(client)
    worker = house.worker_of(client)
    opened = client.open("file")
    assert client.write(opened, 0, CONTENT[:MIB]).status == status.SUCCESS
    reads = b"".join(frame(client, Request(Command.READ, read_body(opened, 0, 200))) for _ in range(250))
    whole = write_frame(client, opened, 0, CONTENT[1 : MIB + 1])
    taken = []
    with suppress(PoolExhausted):
        while True:
            taken.append(worker.pool.allocate(64 * KIB))
    client.transport.send(reads + whole[:3000])
    house.turn_until(lambda: worker.lines[0].incoming is not None)
    client.transport.send(whole[3000:])
    for _ in range(251):
        assert client.receive().status == status.SUCCESS
    assert (folder / "file").read_bytes() == CONTENT[1 : MIB + 1]
    for buffer in taken:
        buffer.release()


def test_no_descriptor_is_left_for_a_pipe(kernel: WireClient, folder: Path, spliced: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The payload comes into memory then, and stays in the kernel again when there is one."""
    real = port.sockets.open_pipe
    asked = []

    def refuse(size: int) -> tuple[int, int, int]:
        asked.append(size)
        raise OSError(errno.EMFILE, "too many")

    opened = kernel.open("file")
    monkeypatch.setattr(port.sockets, "open_pipe", refuse)
    assert kernel.write(opened, 0, CONTENT).status == status.SUCCESS
    assert asked
    assert not spliced
    assert (folder / "file").read_bytes() == CONTENT
    monkeypatch.setattr(port.sockets, "open_pipe", real)
    assert kernel.write(opened, 0, CONTENT[1:]).status == status.SUCCESS
    assert spliced


def test_a_file_cut_off_in_mid_read(kernel: WireClient, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").write_bytes(CONTENT)
    (folder / "file").chmod(0o666)
    opened = kernel.open("file")
    real = port.sockets.sendfile

    def sendfile(out: int, fd: int, offset: int, count: int) -> int:
        os.truncate(folder / "file", 100_000)
        return real(out, fd, offset, count)

    monkeypatch.setattr(port.sockets, "sendfile", sendfile)
    assert kernel.read_data(opened, 0, MIB) == CONTENT[:100_000] + bytes(MIB - 100_000)


def test_a_close_behind_a_read_does_not_take_its_descriptor(kernel: WireClient, folder: Path) -> None:
    (folder / "file").write_bytes(CONTENT)
    (folder / "other").write_bytes(b"\xff" * len(CONTENT))
    for name in ("file", "other"):
        (folder / name).chmod(0o666)
    opened = kernel.open("file")
    read = frame(kernel, Request(Command.READ, read_body(opened, 0, 2 * MIB), charge=32))
    kernel.transport.send(read + frame(kernel, Request(Command.CLOSE, close_body(opened))))
    assert isinstance(kernel.transport, Wire)
    kernel.transport.house.turn()
    again = [os.open(folder / "other", os.O_RDONLY) for _ in range(8)]  # whoever takes the lowest free number next
    try:
        answer = kernel.receive()
        assert answer.status == status.SUCCESS
        assert bytes(answer.view[80 : 80 + 2 * MIB]) == CONTENT
        assert kernel.receive().status == status.SUCCESS
    finally:
        for fd in again:
            os.close(fd)


def test_a_client_that_leaves_in_mid_write(kernel: WireClient, folder: Path) -> None:
    opened = kernel.open("file")
    assert isinstance(kernel.transport, Wire)
    worker, house = kernel.transport.worker, kernel.transport.house
    kernel.transport.send(write_frame(kernel, opened, 0, CONTENT)[:MIB])
    house.turn_until(lambda: (folder / "file").stat().st_size >= MIB - BATCH)
    kernel.transport.close()
    house.turn_until(lambda: worker.ended)
    assert CONTENT.startswith((folder / "file").read_bytes())


def test_who_has_cached_the_file_hears_of_half_a_write(kernel: WireClient, folder: Path) -> None:
    opened = kernel.open("file")
    assert isinstance(kernel.transport, Wire)
    house = kernel.transport.house
    reader = house.client()
    answer = reader.create("file", access=c.FILE_READ_DATA, oplock=c.OPLOCK_LEVEL_II)
    assert answer.parse(CREATE_RESPONSE).oplock_level == c.OPLOCK_LEVEL_II
    kernel.transport.send(write_frame(kernel, opened, 0, CONTENT)[:MIB])
    house.turn_until(lambda: (folder / "file").stat().st_size >= MIB - BATCH)
    assert [kind for kind, _, _ in house.mail_of(kernel).asked] == [OPLOCK_BREAK.number]  # the rest may never come
    kernel.transport.close()


def test_an_open_that_ends_in_mid_write(kernel: WireClient, folder: Path) -> None:
    opened = kernel.open("file")
    assert isinstance(kernel.transport, Wire)
    worker, house = kernel.transport.worker, kernel.transport.house
    whole = write_frame(kernel, opened, 0, CONTENT)
    kernel.transport.send(whole[:MIB])
    house.turn_until(lambda: (folder / "file").stat().st_size > 0)
    session = next(iter(worker.sessions.values()))
    end_session(worker, session)  # as an administrator's `kick` does
    size = (folder / "file").stat().st_size
    kernel.transport.send(whole[MIB:])
    assert kernel.receive().status == status.FILE_CLOSED
    assert (folder / "file").stat().st_size == size


def test_a_drip_does_not_keep_a_connection(make_house: Callable[..., House], folder: Path) -> None:
    house = make_house(text="data path = kernel\npdu timeout = 1")
    client = house.client()
    more_credits(client)
    opened = client.open("file")
    worker = house.worker_of(client)
    client.transport.send(write_frame(client, opened, 0, CONTENT)[:200_000])
    house.turn_until(lambda: (folder / "file").stat().st_size > 0)
    assert worker.lines[0]._stall is not None
    client.transport.send(b"x")
    house.turn()
    assert worker.lines[0]._stall is not None
    worker.lines[0]._mind_progress()  # as the timer does when the time is up: one byte is no progress
    assert worker.ended


def test_a_server_that_stops_takes_the_payload_to_its_end(kernel: WireClient, folder: Path) -> None:
    opened = kernel.open("file")
    assert isinstance(kernel.transport, Wire)
    worker, house = kernel.transport.worker, kernel.transport.house
    whole = write_frame(kernel, opened, 0, CONTENT)
    kernel.transport.send(whole[:MIB])
    house.turn_until(lambda: (folder / "file").stat().st_size > 0)
    worker.drain()
    kernel.transport.send(whole[MIB:])
    assert kernel.receive().status == status.SUCCESS
    house.turn_until(lambda: worker.ended)
    assert (folder / "file").read_bytes() == CONTENT


def test_frames_cut_anywhere(kernel: WireClient, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming_module, "PIECES", 1)
    opened = kernel.open("file")
    assert isinstance(kernel.transport, Wire)
    house = kernel.transport.house
    for cut in (1, 3, 4, 5, 67, 68, 115, 116, 117, 118, 1000, 65_000, 100_000):
        whole = write_frame(kernel, opened, 0, CONTENT[cut : cut + 150_000], tail=3)
        kernel.transport.send(whole[:cut])
        house.turn()
        house.turn()
        kernel.transport.send(whole[cut:])
        assert kernel.receive().status == status.SUCCESS
        assert (folder / "file").read_bytes() == CONTENT[cut : cut + 150_000]
