"""The end of opens, tree connects and whole connections while a slow disk has something under way: nobody finds them, nothing stays."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pools.pool import PoolExhausted
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.messages.create import CREATE_RESPONSE
from smbd.smb2.status import SmbError
from tests.wire_client import FileId, Request, WireClient, lock_body, query_info_body, read_body, set_info_body, write_body
from tests.workers.house import House
from workers import loop as loops
from workers import patience
from workers import worker as workers
from workers.ending import end_open, end_session
from workers.lane import Lane
from workers.transport.send import Sender
from workers.vfs.handle import PosixHandle
from workers.vfs.interface import FileInfo, Handle
from workers.vfs.patient import unwrapped
from workers.vfs.posix import PosixVfs
from workers.worker import Worker

CONTENT = b"what is in it"


class Hung:
    """A call of the file system that does not come back before ``back`` is set; ``there``: it has been made."""

    def __init__(self) -> None:
        self.there, self.back = threading.Event(), threading.Event()

    def wait(self) -> None:
        self.there.set()
        assert self.back.wait(10)


@pytest.fixture
def opened(client: WireClient, folder: Path) -> FileId:
    (folder / "file").write_bytes(CONTENT)
    return client.open("file")


@pytest.fixture
def worker(house: House, client: WireClient) -> Worker:
    return house.worker_of(client)


@pytest.fixture
def asked(house: House, client: WireClient, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Hung]:
    """The share becomes slow, and a question about a new file is under way on an errand."""

    def ask() -> Hung:
        other = client.open("other")
        (disk,) = worker.disks.values()
        disk.doubt()
        hung, real = Hung(), PosixHandle.info

        def info(self: PosixHandle) -> FileInfo:
            hung.wait()
            return real(self)

        monkeypatch.setattr(PosixHandle, "info", info)
        client.send(Request(Command.QUERY_INFO, query_info_body(other, c.INFO_FILE, 5)))
        house.turn_until(hung.there.is_set)
        return hung

    return ask


def handles_of(worker: Worker) -> list[PosixHandle]:
    found = [unwrapped(one.handle) for one in worker.opens.values() if one.handle is not None]
    return [one for one in found if isinstance(one, PosixHandle)]


def test_a_tree_connect_that_ends_is_not_found_by_a_read(client: WireClient, opened: FileId, asked: Callable[[], Hung]) -> None:
    """Its files stay open for as long as an errand that came before; no request gets at them by the short way either."""
    assert client.read_data(opened, 0, 100) == CONTENT
    hung = asked()
    disconnect = client.send(Request(Command.TREE_DISCONNECT, b"\4\0\0\0"))[0]
    assert client.call(Command.READ, read_body(opened, 0, 100)).status == status.NETWORK_NAME_DELETED
    hung.back.set()
    assert client.receive(disconnect).status == status.SUCCESS


def test_the_folder_stays_open_for_whoever_still_deletes_in_it(
    house: House, client: WireClient, worker: Worker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open that somebody else closes while its tree connect ends: its file is deleted beneath the share, and nowhere else."""
    client.open("kept")
    client.open("doomed", options=c.FILE_DELETE_ON_CLOSE)
    (disk,) = worker.disks.values()
    disk.doubt()
    (first, doomed), closing, deleting = worker.opens.values(), Hung(), Hung()
    held, close, unlink = first.handle, PosixHandle.close, PosixVfs.unlink
    assert held is not None

    def slowly_closed(self: PosixHandle) -> None:
        if self is unwrapped(held):
            closing.wait()
        close(self)

    def slowly_unlinked(self: PosixVfs, handle: Handle) -> None:
        deleting.wait()
        unlink(self, handle)

    monkeypatch.setattr(PosixHandle, "close", slowly_closed)
    monkeypatch.setattr(PosixVfs, "unlink", slowly_unlinked)
    disconnect = client.send(Request(Command.TREE_DISCONNECT, b"\4\0\0\0"))[0]
    house.turn_until(closing.there.is_set)
    end_open(worker, doomed)
    house.turn_until(deleting.there.is_set)
    closing.back.set()
    assert client.receive(disconnect).status == status.SUCCESS
    deleting.back.set()
    house.turn_until(lambda: doomed.tree.vfs is None)
    assert not (folder / "doomed").exists()


def test_a_reading_that_comes_back_when_the_client_has_left(
    house: House, client: WireClient, worker: Worker, opened: FileId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its descriptor is given back by then: the process may be one that goes on."""
    (disk,) = worker.disks.values()
    disk.doubt()
    hung = Hung()

    def pread_into(self: PosixHandle, view: memoryview, offset: int, nowait: bool = False) -> int:
        if nowait:
            raise BlockingIOError
        hung.wait()
        return 0

    monkeypatch.setattr(PosixHandle, "pread_into", pread_into)
    client.send(Request(Command.READ, read_body(opened, 0, 100)))
    house.turn_until(hung.there.is_set)
    (handle,) = handles_of(worker)
    worker.close()
    hung.back.set()
    worker.loop.close(patiently=True)
    assert handle.fd == -1


def test_a_file_that_no_thread_came_to_close(
    house: House, client: WireClient, worker: Worker, opened: FileId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was closed while it was read; when the reading was over, all threads of the share were at the disk for others."""
    (disk,) = worker.disks.values()
    other = client.open("other")
    disk.doubt()
    first, others = Hung(), Hung()
    there, outlive = threading.Semaphore(0), Lane.outlive

    def relieved(self: Lane) -> None:
        others.back.set()
        outlive(self)

    def pread_into(self: PosixHandle, view: memoryview, offset: int, nowait: bool = False) -> int:
        if nowait:
            raise BlockingIOError
        there.release()
        (others if offset else first).wait()
        return 0

    monkeypatch.setattr(PosixHandle, "pread_into", pread_into)
    handle = handles_of(worker)[0]
    client.send(Request(Command.READ, read_body(opened, 0, 100)))
    house.turn_until(lambda: there.acquire(blocking=False))
    assert client.close(opened).status == status.SUCCESS
    for offset in (1, 2):
        client.send(Request(Command.READ, read_body(other, offset, 100)))
    first.back.set()
    for _ in range(2):
        house.turn_until(lambda: there.acquire(blocking=False))
    house.turn_until(lambda: bool(worker._orphans))
    assert handle.fd != -1
    monkeypatch.setattr(workers, "CLOSING", 0.0)
    monkeypatch.setattr(loops, "CLOSE_PATIENCE", 0.0)
    monkeypatch.setattr(Lane, "outlive", relieved)
    worker.close()
    worker.loop.close(patiently=True)
    assert handle.fd != -1
    worker.let_go()
    assert handle.fd == -1


def test_what_a_disk_kept_from_being_closed_in_time_is_closed_later(
    worker: Worker, opened: FileId, asked: Callable[[], Hung], monkeypatch: pytest.MonkeyPatch
) -> None:
    hung = asked()
    monkeypatch.setattr(workers, "CLOSING", 0.0)
    handles = handles_of(worker)
    assert len(handles) == 2
    worker.close()
    hung.back.set()
    worker.loop.close(patiently=True)
    assert [handle.fd for handle in handles] == [-1, -1]
    assert not worker.opens


@pytest.mark.parametrize("slow", [False, True])
def test_a_tree_connect_for_which_there_is_no_room_leaves_no_descriptor(
    client: WireClient, worker: Worker, monkeypatch: pytest.MonkeyPatch, slow: bool
) -> None:
    def refuse(tree: object) -> None:
        raise SmbError(status.INSUFFICIENT_RESOURCES)

    monkeypatch.setattr(worker, "add_tree", refuse)
    if slow:
        (disk,) = worker.disks.values()
        disk.doubt()
        client.tree_connect("data")  # which makes the lane, and what wakes the loop
    before = len(os.listdir("/proc/self/fd"))
    assert client.tree_connect("data").status == status.INSUFFICIENT_RESOURCES
    assert len(os.listdir("/proc/self/fd")) <= before  # fewer: garbage of an earlier test went meanwhile


def test_a_client_that_cannot_be_told_that_it_takes_a_while_is_dropped(
    worker: Worker, asked: Callable[[], Hung], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Sender, size: int) -> None:
        raise PoolExhausted(size)

    hung = asked()
    (request,) = worker.lines[0].engine.waiting.values()
    monkeypatch.setattr(Sender, "room", full)
    patience._tell(request)
    assert worker.ended
    hung.back.set()


def file_id_of(client: WireClient, *asked: tuple[bytes, bytes], name: str = "file") -> FileId:
    """Of an open with these create contexts."""
    response = client.create(name, oplock=c.OPLOCK_LEVEL_BATCH if name else 0, contexts=asked)
    assert response.status == status.SUCCESS
    fields = response.parse(CREATE_RESPONSE)
    return fields.file_id_persistent, fields.file_id_volatile


def durable(client: WireClient) -> FileId:
    return file_id_of(client, (b"DHnQ", bytes(16)))


def lose(worker: Worker) -> None:
    """What the client's session has is left, as when its last connection is lost."""
    (session,) = list(worker.sessions.values())
    end_session(worker, session, lost=True)
    assert [opened.left for opened in worker.opens.values() if opened.durability is not None] == [True]


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Hung:
    """WRITEs of the word "hang" do."""
    made, real = Hung(), PosixHandle.pwrite

    def pwrite(self: PosixHandle, view: memoryview, offset: int) -> int:
        if bytes(view) == b"hang":
            made.wait()
        return real(self, view, offset)

    monkeypatch.setattr(PosixHandle, "pwrite", pwrite)
    return made


@pytest.mark.parametrize("waits_for", ["its turn", "a thread"])
@pytest.mark.parametrize("shortens", [False, True], ids=["a write", "an end of file"])
def test_what_has_not_begun_when_its_open_is_left_is_never_done(
    house: House, client: WireClient, worker: Worker, hung: Hung, waits_for: str, *, shortens: bool
) -> None:
    """Its client has repeated it by then on another connection, and gone on."""
    opened = durable(client)
    others = [opened] if waits_for == "its turn" else [client.open(f"other{number}") for number in range(2)]
    (disk,) = worker.disks.values()
    disk.doubt()
    for one in others:
        client.send(Request(Command.WRITE, write_body(one, 100, b"hang")))
    if shortens:
        client.send(Request(Command.SET_INFO, set_info_body(opened, c.INFO_FILE, 20, bytes(8))))
    else:
        client.send(Request(Command.WRITE, write_body(opened, 0, b"old")))
    house.turn_until(hung.there.is_set)
    house.turn()
    lose(worker)
    back = house.client()
    again = file_id_of(back, (b"DHnC", b"".join(part.to_bytes(8, "little") for part in opened)), name="")
    assert back.write(again, 0, b"new").status == status.SUCCESS
    hung.back.set()
    house.turn_until(lambda: not worker.opens)
    assert (house.share / "file").read_bytes()[:3] == b"new"
    assert back.read_data(again, 0, 3) == b"new"


def test_a_lock_that_waits_is_not_had_when_its_open_is_left(house: House, client: WireClient, worker: Worker) -> None:
    other = house.client()
    first, second = other.open("file"), client.open("file")
    assert other.lock(first, (0, 1, c.LOCKFLAG_EXCLUSIVE_LOCK)).status == status.SUCCESS
    client.send(Request(Command.LOCK, lock_body(second, (0, 1, c.LOCKFLAG_EXCLUSIVE_LOCK))))
    house.turn_until(lambda: bool(worker.lock_waits))
    (opened,) = worker.opens.values()
    opened.left = True  # on a slow share, until that has closed it
    assert other.lock(first, (0, 1, c.LOCKFLAG_UNLOCK)).status == status.SUCCESS
    house.turn_until(lambda: not worker.lock_waits)
    assert worker.sharing.locks() == []
    opened.left = False
