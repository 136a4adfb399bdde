"""Times between clients with a worker each: what one sets the other is told; what a killed worker held back shows at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.fscc import query
from tests.server import IS_SAMBA, Server, eventually
from tests.wire_client import FileId, WireClient

SET = 126_444_736_000_000_000
DELAY = {"smbd:writetimeupdatedelay": "60000000"}


@pytest.fixture
def delaying() -> Iterator[Server]:
    with Server(share_settings=DELAY).running() as server:
        yield server


def basic(client: WireClient, opened: FileId) -> query.FileBasicInformation:
    found: query.FileBasicInformation = query.BASIC.unpack(
        client.output(client.query_info(opened, c.INFO_FILE, query.FILE_BASIC_INFORMATION))
    )
    return found


def set_basic(client: WireClient, opened: FileId, write: int = 0, change: int = 0) -> None:
    body = query.BASIC.pack(0, 0, write, change, 0, 0)
    assert client.set_info(opened, c.INFO_FILE, query.FILE_BASIC_INFORMATION, body).status == status.SUCCESS


@pytest.mark.skipif(IS_SAMBA, reason="Samba tells the write time for the change time")
def test_a_change_time_that_one_sets_the_other_is_told(server: Server) -> None:
    with server.client() as one, server.client() as two:
        mine = one.open("changed", disposition=c.FILE_OVERWRITE_IF)
        theirs = two.open("changed")
        set_basic(one, mine, change=SET)
        assert basic(two, theirs).change_time == basic(one, mine).change_time == SET
        one.close(mine)
    with server.client() as three:
        assert basic(three, three.open("changed")).change_time == SET


def test_a_write_time_that_was_set_stays_for_its_setter(server: Server) -> None:
    """[MS-FSA] 2.1.5.15.2: and for nobody else's writes."""
    with server.client() as one, server.client() as two:
        mine, theirs = one.open("sticky", disposition=c.FILE_OVERWRITE_IF), two.open("sticky")
        set_basic(one, mine, write=SET)
        one.write(mine, 0, b"x")
        assert basic(two, theirs).last_write_time == SET
        if IS_SAMBA:
            return  # there it stays for all
        two.write(theirs, 0, b"y")
        assert basic(one, mine).last_write_time > SET


def test_a_write_time_is_held_back_for_all(delaying: Server) -> None:
    with delaying.client() as one, delaying.client() as two:
        mine, theirs = one.open("held"), two.open("held")
        before = basic(two, theirs).last_write_time
        os.utime(delaying.share / "held", ns=(0, os.stat(delaying.share / "held").st_mtime_ns - 10**9))
        early = basic(two, theirs).last_write_time
        assert early < before
        one.write(mine, 0, b"x")
        assert basic(two, theirs).last_write_time == basic(one, mine).last_write_time == early
        one.flush(mine)
        assert basic(two, theirs).last_write_time > early


@pytest.mark.isolation
def test_a_killed_worker_holds_nothing_back(delaying: Server) -> None:
    with delaying.client() as one, delaying.client() as two:
        mine, theirs = one.open("killed"), two.open("killed")
        os.utime(delaying.share / "killed", ns=(0, 10**18))
        early = basic(two, theirs).last_write_time
        one.write(mine, 0, b"x")
        assert basic(two, theirs).last_write_time == early
        os.kill(delaying.worker_of(one).pid, signal.SIGKILL)
        eventually(lambda: basic(two, theirs).last_write_time > early, what="the killed worker's time is still told")
