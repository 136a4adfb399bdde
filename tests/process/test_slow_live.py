"""A real server on a disk that does not answer: the client's other requests do not wait for it, whatever it is that hangs."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import psutil
import pytest
import spnego

from bench.load.peers import ROOT
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.header import HEADER_SIZE
from smbd.smb2.messages import file as wire_file
from smbd.smb2.messages import session as wire_session
from smbd.smb2.messages import tree as wire_tree
from tests.server import SHARE, Server, eventually, given_settings
from tests.wire_client import (
    FileId,
    Request,
    Response,
    WireClient,
    close_body,
    create_body,
    query_directory_body,
    query_info_body,
    read_body,
    set_info_body,
    write_body,
)

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system"),
    pytest.mark.skipif(given_settings().get("port") == "posix", reason="where threads share one identity there are no errands"),
]

STANDARD, END_OF_FILE, RENAME, DISPOSITION = 5, 20, 10, 13  # [MS-FSCC] 2.4
THREADS = 4  # of a share: `vfs threads`
X = b"x" * 4096
READ_WRITE = c.FILE_READ_DATA | c.FILE_WRITE_DATA  # what its owner, root, lets everybody do with ``file``
OWN = READ_WRITE | c.FILE_READ_ATTRIBUTES | c.DELETE


class SlowDisk:
    """The process that is the disk."""

    def __init__(self, mount: Path) -> None:
        mount.mkdir()
        self.mount = mount
        command = [sys.executable, "-m", "tests.process.slow_disk", str(mount)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.expect("mounted")
        (mount / "folder").mkdir()

    def expect(self, word: str) -> None:
        """Wait until it says so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == word:
                return
        raise AssertionError("the disk is gone")

    def hold(self, *operations: str) -> None:
        """It does not answer these from here on."""
        self._say("hold " + " ".join(operations))
        self.expect("held")

    def go(self) -> None:
        """It answers everything from here on."""
        self._say("go")

    def _say(self, words: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """It answers everything, and is unmounted; killed when it does not."""
        if self.process.poll() is not None:
            return
        try:
            self.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            subprocess.run(["umount", "-l", self.mount], check=False)


def serve(settings: dict[str, str]) -> Iterator[tuple[Server, SlowDisk]]:
    """A server with a share on a disk that answers when told to, beside its usual one."""
    made = Server(settings=settings)
    disk = SlowDisk(made.peer.base / "slow")  # where the server's users may go
    try:
        made.peer.shares["slow"] = {"path": str(disk.mount), "read only": "no"}
        made.peer.shares["deep"] = {"path": str(disk.mount / "folder"), "read only": "no"}
        made.start()
        yield made, disk
        disk.end()
        made.finish()
    finally:
        disk.end()
        made.discard()


@pytest.fixture(scope="module", params=["user", "auto"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Server, SlowDisk]]:
    settings = {"data path": request.param, "data path read threshold": "1K", "data path write threshold": "64K"}
    yield from serve(settings)


@pytest.fixture
def fresh() -> Iterator[tuple[Server, SlowDisk]]:
    """One that nobody else uses: it ends in this test."""
    yield from serve({"stop timeout": "3"})


@pytest.fixture
def server(served: tuple[Server, SlowDisk]) -> Server:
    return served[0]


@pytest.fixture
def both(server: Server) -> Iterator[Both]:
    made = Both.of(server)
    yield made
    made.client.close_connection()


@pytest.fixture
def disk(served: tuple[Server, SlowDisk]) -> Iterator[SlowDisk]:
    yield served[1]
    served[1].go()


@dataclass
class Both:
    """A client that is connected to both shares; it is on the fast one."""

    client: WireClient
    slow: int  # tree id

    @classmethod
    def of(cls, server: Server) -> Both:
        client = server.client()
        fast = client.tree_id
        assert client.tree_connect("slow").status == status.SUCCESS
        slow, client.tree_id = client.tree_id, fast
        while client.credits < 64:
            client.echo(credits=64)
        return cls(client, slow)

    def open(self, name: str, *, options: int = 0) -> FileId:
        """On the slow share."""
        fast, self.client.tree_id = self.client.tree_id, self.slow
        opened = self.client.open(name, options=options, access=READ_WRITE if name == "file" else OWN)
        self.client.tree_id = fast
        return opened

    def send(self, command: int, body: bytes, charge: int = 1) -> int:
        """To the slow share; the message's id."""
        (sent,) = self.client.send(Request(command, body, tree_id=self.slow, charge=charge))
        return sent

    def answer(self, sent: int) -> Response:
        return self.client.receive(sent)

    def is_served(self) -> None:
        """All that one does on the fast share is answered."""
        client = self.client
        assert client.echo().status == status.SUCCESS
        opened = client.open("quick")
        assert client.write(opened, 0, b"meanwhile").status == status.SUCCESS
        assert client.read_data(opened, 0, 100) == b"meanwhile"
        assert client.query_info(opened, c.INFO_FILE, STANDARD).status == status.SUCCESS
        assert client.set_info(opened, c.INFO_FILE, END_OF_FILE, struct.pack("<Q", 3)).status == status.SUCCESS
        assert client.flush(opened).status == status.SUCCESS
        assert client.close(opened).status == status.SUCCESS
        folder = client.open("", options=c.FILE_DIRECTORY_FILE, access=c.FILE_LIST_DIRECTORY)
        assert client.query_directory(folder).status == status.SUCCESS
        assert client.close(folder).status == status.SUCCESS


def ntlm(client: WireClient, server: Server) -> tuple[Callable[[bytes | None], bytes], Callable[[], bytes]]:
    """A logon's steps and its key."""
    context = spnego.client(server.user, server.password, hostname=client.server, service="cifs", protocol="negotiate")
    return lambda token: context.step(token) or b"", lambda: context.session_key


def rename_body(opened: FileId, name: str) -> bytes:
    encoded = name.encode("utf-16-le")
    return set_info_body(opened, c.INFO_FILE, RENAME, struct.pack("<B7xQI", 0, 0, len(encoded)) + encoded)


def marked(both: Both) -> FileId:
    """A file that its CLOSE deletes."""
    opened = both.open("doomed")
    body = set_info_body(opened, c.INFO_FILE, DISPOSITION, b"\1")
    assert both.answer(both.send(Command.SET_INFO, body)).status == status.SUCCESS
    return opened


def size_body(opened: FileId, size: int) -> bytes:
    return set_info_body(opened, c.INFO_FILE, END_OF_FILE, struct.pack("<Q", size))


Hung = tuple[str, int, Callable[[Both], bytes]]
HUNG: dict[str, Hung] = {
    "create": ("CREATE", Command.CREATE, lambda _: create_body("made")),
    "open": ("LOOKUP", Command.CREATE, lambda _: create_body("file", disposition=c.FILE_OPEN, access=READ_WRITE)),
    "make a directory": ("MKDIR", Command.CREATE, lambda _: create_body("directory", options=c.FILE_DIRECTORY_FILE)),
    "close": ("FLUSH", Command.CLOSE, lambda both: close_body(both.open("file"))),
    "close and query": ("GETATTR", Command.CLOSE, lambda both: close_body(both.open("file"), c.CLOSE_FLAG_POSTQUERY_ATTRIB)),
    "close and delete": ("UNLINK", Command.CLOSE, lambda both: close_body(marked(both))),
    "query": ("GETATTR", Command.QUERY_INFO, lambda both: query_info_body(both.open("file"), c.INFO_FILE, STANDARD)),
    "query the volume": ("STATFS", Command.QUERY_INFO, lambda both: query_info_body(both.open("file"), c.INFO_FILESYSTEM, 3)),
    "set the size": ("SETATTR", Command.SET_INFO, lambda both: size_body(both.open("sized"), 5)),
    "rename": ("RENAME2", Command.SET_INFO, lambda both: rename_body(both.open("before"), "after")),
    "mark for deletion": ("GETATTR", Command.SET_INFO, lambda both: set_info_body(both.open("kept"), c.INFO_FILE, DISPOSITION, b"\1")),
    "read": ("READ", Command.READ, lambda both: read_body(both.open("file"), 0, 4096)),
    "write": ("WRITE", Command.WRITE, lambda both: write_body(both.open("written"), 0, X)),
    "write through": ("FSYNC", Command.WRITE, lambda both: write_body(both.open("written"), 0, X, c.WRITEFLAG_WRITE_THROUGH)),
    "write much": ("WRITE", Command.WRITE, lambda both: write_body(both.open("written"), 0, X * 32)),
    "flush": ("FSYNC", Command.FLUSH, lambda both: wire_file.FLUSH_REQUEST.pack(24, 0, 0, *both.open("file"))),
    "list": ("READDIR", Command.QUERY_DIRECTORY, lambda both: query_directory_body(both.open("", options=c.FILE_DIRECTORY_FILE))),
    "find": ("LOOKUP", Command.QUERY_DIRECTORY, lambda both: query_directory_body(both.open("", options=c.FILE_DIRECTORY_FILE), "file")),
    "disconnect": ("FLUSH", Command.TREE_DISCONNECT, lambda both: both.open("file") and wire_tree.TREE_DISCONNECT_REQUEST.pack(4, 0)),
}  # fmt: skip


@pytest.mark.parametrize("what", HUNG)
def test_requests_pass_one_that_waits_for_the_disk(both: Both, disk: SlowDisk, what: str) -> None:
    operation, command, body_of = HUNG[what]
    body = body_of(both)
    disk.hold(operation)
    sent = both.send(command, body, charge=max(1, len(body) >> 16))
    disk.expect(f"asked {operation}")
    both.is_served()
    disk.go()
    answer = both.answer(sent)
    assert answer.status == status.SUCCESS, status.name(answer.status)


def test_what_was_done_on_a_slow_disk_is_there(both: Both, disk: SlowDisk) -> None:
    opened = both.open("new")
    assert both.answer(both.send(Command.WRITE, write_body(opened, 10, b"content"))).status == status.SUCCESS
    assert both.answer(both.send(Command.SET_INFO, rename_body(opened, "renamed"))).status == status.SUCCESS
    assert both.answer(both.send(Command.CLOSE, close_body(opened))).status == status.SUCCESS
    assert (disk.mount / "renamed").read_bytes() == bytes(10) + b"content"
    assert not (disk.mount / "new").exists()
    assert both.answer(both.send(Command.CLOSE, close_body(marked(both)))).status == status.SUCCESS
    assert not (disk.mount / "doomed").exists()


def test_a_share_whose_folder_hangs(both: Both, disk: SlowDisk) -> None:
    path = f"\\\\{both.client.server}\\deep".encode("utf-16-le")
    fixed = wire_tree.TREE_CONNECT_REQUEST.pack(9, 0, HEADER_SIZE + wire_tree.TREE_CONNECT_REQUEST.size, len(path))
    disk.hold("LOOKUP")
    (sent,) = both.client.send(Request(Command.TREE_CONNECT, fixed + path, tree_id=0))
    disk.expect("asked LOOKUP")
    both.is_served()
    disk.go()
    assert both.answer(sent).status == status.SUCCESS


def test_a_logoff_waits_for_the_disk_and_nobody_else_does(server: Server, both: Both, disk: SlowDisk) -> None:
    both.open("file")
    first, fast = both.client.session_id, both.client.tree_id
    assert both.client.session_setup(server.user, server.password).status == status.SUCCESS
    assert both.client.tree_connect(SHARE).status == status.SUCCESS
    disk.hold("FLUSH")
    (sent,) = both.client.send(Request(Command.LOGOFF, wire_session.LOGOFF_REQUEST.pack(4, 0), session_id=first, tree_id=0))
    disk.expect("asked FLUSH")
    both.is_served()
    gone = both.client.call(Command.CREATE, create_body("x"), session_id=first, tree_id=fast)
    assert gone.status == status.USER_SESSION_DELETED
    disk.go()
    assert both.answer(sent).status == status.SUCCESS


def test_requests_of_one_open_keep_their_order(both: Both, disk: SlowDisk) -> None:
    opened, other = both.open("ordered"), both.open("unordered")
    disk.hold("WRITE", "SETATTR")
    sent = [both.send(Command.WRITE, write_body(opened, 0, bytes([65 + number]) * 10)) for number in range(8)]
    sent.append(both.send(Command.READ, read_body(opened, 0, 100)))
    sent.append(both.send(Command.SET_INFO, size_body(opened, 4)))
    sent.append(both.send(Command.WRITE, write_body(opened, 4, b"end")))
    sent.append(both.send(Command.FLUSH, wire_file.FLUSH_REQUEST.pack(24, 0, 0, *opened)))
    sent.append(both.send(Command.CLOSE, close_body(opened)))
    beside = both.send(Command.WRITE, write_body(other, 0, b"beside"))
    disk.expect("asked WRITE")
    disk.expect("asked WRITE")  # of the other open: it does not wait for the first one's
    both.is_served()
    disk.go()
    answers = [both.answer(one) for one in sent]
    assert [answer.status for answer in answers] == [status.SUCCESS] * len(sent)
    assert bytes(answers[8].view[80:]) == b"H" * 10
    assert both.answer(beside).status == status.SUCCESS
    assert (disk.mount / "ordered").read_bytes() == b"HHHHend"


def test_more_hang_than_there_are_threads(both: Both, disk: SlowDisk) -> None:
    """What is beyond a share's threads waits in order; another slow share has threads of its own."""
    assert both.client.tree_connect("deep").status == status.SUCCESS
    deep = both.client.tree_id
    opens = [both.open(f"file {number}") for number in range(THREADS + 3)]
    disk.hold("WRITE")
    sent = [both.send(Command.WRITE, write_body(one, 0, X)) for one in opens]
    for _ in range(THREADS):
        disk.expect("asked WRITE")
    both.client.tree_id = deep
    assert both.client.create("another").status == status.SUCCESS
    disk.go()
    assert [both.answer(one).status for one in sent] == [status.SUCCESS] * len(sent)


@pytest.mark.parametrize("what", ["read", "flush", "list", "disconnect", "write through"])
def test_a_client_hears_that_the_disk_takes_its_time(both: Both, disk: SlowDisk, what: str) -> None:
    """Whatever it is that waits: a client that hears nothing gives its connection up."""
    operation, command, body_of = HUNG[what]
    body = body_of(both)
    disk.hold(operation)
    sent = both.send(command, body)
    interim = both.client.receive(sent, interim=True)
    assert interim.status == status.PENDING
    both.is_served()
    disk.go()
    assert both.answer(sent).status == status.SUCCESS


def test_a_client_hears_that_its_request_is_under_way(both: Both, disk: SlowDisk) -> None:
    disk.hold("CREATE")
    sent = both.send(Command.CREATE, create_body("late"))
    interim = both.client.receive(sent, interim=True)
    assert interim.status == status.PENDING
    assert interim.async_id
    both.client.cancel(sent, interim.async_id)
    both.is_served()
    disk.go()
    answer = both.client.receive(sent)  # too late for a cancel: it has been made
    assert answer.status == status.SUCCESS
    assert answer.async_id == interim.async_id


def test_what_has_not_begun_is_cancelled(both: Both, disk: SlowDisk) -> None:
    opened = both.open("once")
    disk.hold("WRITE")
    first, second, third = (both.send(Command.WRITE, write_body(opened, at, b"ab")) for at in (0, 2, 4))
    disk.expect("asked WRITE")
    interim = both.client.receive(second, interim=True)
    assert interim.status == status.PENDING
    both.client.cancel(second, interim.async_id)
    assert both.client.receive(second).status == status.CANCELLED
    both.is_served()
    disk.go()
    assert [both.answer(one).status for one in (first, third)] == [status.SUCCESS] * 2
    assert (disk.mount / "once").read_bytes() == b"ab\0\0ab"


@pytest.mark.parametrize("operation", ["READ", "WRITE", "FLUSH"])
def test_a_client_that_leaves_while_the_disk_is_asked(server: Server, both: Both, disk: SlowDisk, operation: str) -> None:
    opened = both.open("left")
    both.answer(both.send(Command.WRITE, write_body(opened, 0, X)))
    body = {"READ": read_body(opened, 0, 4096), "WRITE": write_body(opened, 0, X), "FLUSH": close_body(opened)}[operation]
    disk.hold(operation)
    both.send({"READ": Command.READ, "WRITE": Command.WRITE, "FLUSH": Command.CLOSE}[operation], body)
    if operation != "READ":  # it may be in memory
        disk.expect(f"asked {operation}")
    both.client.close_connection()
    other = Both.of(server)
    other.is_served()
    disk.go()
    other.client.close_connection()
    eventually(lambda: not server.status("opens")["opens"], what="an open outlives its client")


@pytest.mark.skipif(given_settings().get("server mode") == "threaded", reason="a thread stays until the disk answers")
def test_a_worker_whose_disk_hangs_does_not_stay(server: Server, both: Both, disk: SlowDisk) -> None:
    """Its client has gone; the disk never answers. What it had open is given up, and who comes later finds the file free."""
    opened = both.open("stuck")
    disk.hold("WRITE")
    both.send(Command.WRITE, write_body(opened, 0, X))
    disk.expect("asked WRITE")
    worker = server.worker_of(both.client)
    both.client.close_connection()
    worker.wait(timeout=30)
    eventually(lambda: not server.status("opens")["opens"], timeout=20, what="an open outlives its process")
    assert "does not answer" in server.log


def test_a_server_stops_though_a_disk_hangs(fresh: tuple[Server, SlowDisk]) -> None:
    server, disk = fresh
    both = Both.of(server)
    opened = both.open("stuck")
    disk.hold("WRITE")
    both.send(Command.WRITE, write_body(opened, 0, X))
    disk.expect("asked WRITE")
    os.kill(server.pid, signal.SIGTERM)
    psutil.Process(server.pid).wait(timeout=20)


def test_a_client_that_comes_back_while_the_disk_hangs(server: Server, both: Both, disk: SlowDisk) -> None:
    """Its old session ends for good, and its new one does not wait for that."""
    opened = both.open("before")
    disk.hold("WRITE")
    sent = both.send(Command.WRITE, write_body(opened, 0, X))
    disk.expect("asked WRITE")
    begun = monotonic()
    again = server.negotiated()
    assert again.logon(*ntlm(again, server), previous=both.client.session_id).status == status.SUCCESS
    assert monotonic() - begun < 4
    assert both.client.create("more").status == status.USER_SESSION_DELETED
    disk.go()
    assert both.answer(sent).status == status.SUCCESS
    eventually(lambda: not server.status("opens")["opens"], what="an open outlives its session")
    again.close_connection()


def test_a_kick_while_the_disk_hangs(server: Server, both: Both, disk: SlowDisk) -> None:
    """Nobody finds the session any more, and the administrator does not wait; what it had open ends with the call that is under way."""
    opened = both.open("kicked")
    disk.hold("WRITE")
    sent = both.send(Command.WRITE, write_body(opened, 0, X))
    disk.expect("asked WRITE")
    done = server.command("kick", f"{both.client.session_id:x}")
    assert done.returncode == 0, done.stderr  # and the disk hangs until the end of this test
    assert both.client.create("more").status == status.USER_SESSION_DELETED
    disk.go()
    assert both.answer(sent).status == status.SUCCESS
    eventually(lambda: not server.status("opens")["opens"], what="an open outlives its session")


def test_a_killed_worker_takes_its_errands_with_it(server: Server, both: Both, disk: SlowDisk) -> None:
    opened = both.open("killed")
    disk.hold("WRITE")
    both.send(Command.WRITE, write_body(opened, 0, X))
    disk.expect("asked WRITE")
    worker = server.worker_of(both.client)
    worker.send_signal(signal.SIGKILL)
    worker.wait(timeout=20)
    disk.go()
    eventually(lambda: not server.status("opens")["opens"], what="an open outlives its process")
