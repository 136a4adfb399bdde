"""A real server on a disk that does not answer: the client's other requests do not wait for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.load.peers import ROOT
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from tests.server import Server, eventually
from tests.wire_client import Request, WireClient, read_body

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")


class SlowDisk:
    """The process that is the disk."""

    def __init__(self, mount: Path) -> None:
        mount.mkdir()
        self.mount = mount
        command = [sys.executable, "-m", "tests.process.slow_disk", str(mount)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.expect("mounted")

    def expect(self, word: str) -> None:
        """Its next line."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word

    def go(self) -> None:
        """It answers from here on."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Unmount; killed when it does not."""
        try:
            self.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            subprocess.run(["umount", "-l", self.mount], check=False)


@pytest.fixture(params=["user", "auto"])
def served(request: pytest.FixtureRequest, make_server: Callable[..., Server]) -> Iterator[tuple[Server, SlowDisk]]:
    made = make_server(settings={"data path": request.param, "data path read threshold": "1K"}, start=False)
    disk = SlowDisk(made.peer.base / "slow")  # where the server's users may go
    try:
        made.peer.shares["slow"] = {"path": str(disk.mount), "read only": "yes"}
        made.start()
        yield made, disk
    finally:
        disk.end()


@pytest.fixture
def server(served: tuple[Server, SlowDisk]) -> Server:
    return served[0]


@pytest.fixture
def disk(served: tuple[Server, SlowDisk]) -> SlowDisk:
    return served[1]


def both(server: Server) -> tuple[WireClient, int]:
    """A client that is connected to both shares, on the fast one; the other one's tree id."""
    client = server.client()
    fast = client.tree_id
    assert client.tree_connect("slow").status == status.SUCCESS
    slow, client.tree_id = client.tree_id, fast
    return client, slow


def open_slow(client: WireClient, slow: int) -> tuple[int, int]:
    fast, client.tree_id = client.tree_id, slow
    opened = client.open("file", access=c.FILE_READ_DATA, disposition=c.FILE_OPEN)
    client.tree_id = fast
    return opened


def test_requests_pass_one_that_waits_for_the_disk(server: Server, disk: SlowDisk) -> None:
    client, slow = both(server)
    opened = open_slow(client, slow)
    (reading,) = client.send(Request(Command.READ, read_body(opened, 0, 4096), tree_id=slow))
    disk.expect("asked")
    assert client.echo().status == status.SUCCESS
    quick = client.open("quick")
    assert client.write(quick, 0, b"meanwhile").status == status.SUCCESS
    assert client.read_data(quick, 0, 100) == b"meanwhile"
    assert client.close(quick).status == status.SUCCESS
    disk.go()
    assert bytes(client.receive(reading).view[80:]) == b"x" * 4096


def test_a_client_that_leaves_while_the_disk_is_asked(server: Server, disk: SlowDisk) -> None:
    client, slow = both(server)
    opened = open_slow(client, slow)
    client.send(Request(Command.READ, read_body(opened, 0, 4096), tree_id=slow))
    disk.expect("asked")
    client.close_connection()
    other, _ = both(server)
    assert other.echo().status == status.SUCCESS
    disk.go()
    other.close_connection()
    eventually(lambda: not server.status("opens")["opens"], what="an open outlives its client")
