"""A server on port ``posix``: what clients see is the same, by portable calls alone."""

from __future__ import annotations

import itertools
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from tests.interop.tools import digests, plant, smbclient
from tests.server import IS_SAMBA, SHARE, Server, given_settings
from tests.wire_client import Request, WireClient, notify_body

pytestmark = pytest.mark.skipif(IS_SAMBA or given_settings().get("server mode") == "threaded", reason="port = posix serves forked alone")

READ = c.FILE_READ_DATA | c.FILE_READ_ATTRIBUTES


@pytest.fixture(scope="module")
def posix() -> Iterator[Server]:
    with Server(settings={"port": "posix"}).running() as made:
        yield made


@pytest.fixture
def client(posix: Server) -> Iterator[WireClient]:
    made = posix.client()
    yield made
    made.transport.close()


def test_a_tree_goes_in_and_comes_out(posix: Server, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.mkdir()
    back.mkdir()
    expected = plant(source)
    smbclient(posix, f'prompt off; recurse on; mkdir tree; cd tree; lcd "{source}"; mput *')
    assert digests(posix.share / "tree") == expected
    smbclient(posix, f'prompt off; recurse on; cd tree; lcd "{back}"; mget *')
    assert digests(back) == expected


def test_nothing_of_linux_is_used(posix: Server, client: WireClient) -> None:
    """No epoll in any process of it, no mapping of shared memory that is an arena's."""
    client.open("open")
    for pid in [posix.pid, *posix.pids("worker"), *posix.pids("broker")]:
        kinds = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
        assert not kinds & {"anon_inode:[eventpoll]", "anon_inode:inotify", "anon_inode:[fanotify]"}, kinds


def test_attributes_and_streams_stay_with_a_renamed_file(posix: Server, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(range(256)) * 400)
    put = f'put /etc/hostname s.txt; put /etc/hostname s.txt:small; put "{tmp_path / "large"}" s.txt:large; setmode s.txt +sh'
    smbclient(posix, f"{put}; rename s.txt t.txt")
    info = smbclient(posix, "allinfo t.txt")
    assert ":small:$DATA]" in info
    assert ":large:$DATA], 102400 bytes" in info
    assert re.search(r"attributes: \S*H\S*S|attributes: \S*S\S*H|attributes: HSA|attributes:.*HS", info), info
    smbclient(posix, f'get t.txt:large "{tmp_path / "back"}"')
    assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()
    assert os.listxattr(posix.share / "t.txt") == []
    smbclient(posix, "setmode t.txt -sh; del t.txt; put /etc/hostname t.txt")
    assert ":small:" not in smbclient(posix, "allinfo t.txt")


def test_nothing_is_left_of_a_file_that_was_removed(posix: Server) -> None:
    smbclient(posix, "put /etc/hostname gone.txt; put /etc/hostname gone.txt:stream; setmode gone.txt +h")
    kept = posix.share / ".millpond" / "attributes"
    number = (posix.share / "gone.txt").stat().st_ino
    assert list(kept.glob(f"*/{number:x}"))
    smbclient(posix, "setmode gone.txt -h; del gone.txt")
    assert not list(kept.glob(f"*/{number:x}"))
    assert kept.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("target", ["../beside", "/etc/passwd", "sub/../../beside", "circle"])
def test_a_symlink_out_of_the_share_is_refused(posix: Server, target: str) -> None:
    (posix.share.parent / "beside").write_text("secret")
    link, circle = posix.share / "link", posix.share / "circle"
    for one, to in ((link, target), (circle, "circle")):
        one.unlink(missing_ok=True)
        one.symlink_to(to)
    refused = smbclient(posix, "get link -", ok=None)
    assert "NT_STATUS_STOPPED_ON_SYMLINK" in refused
    assert "secret" not in refused
    assert "link" in smbclient(posix, "ls").split()  # as what it is


def test_a_symlink_inside_the_share_is_followed(posix: Server, tmp_path: Path) -> None:
    (posix.share / "inner").mkdir()
    (posix.share / "inner" / "file").write_text("inside")
    (posix.share / "way").symlink_to("inner/../inner")
    smbclient(posix, f'get way\\file "{tmp_path / "got"}"')
    assert (tmp_path / "got").read_text() == "inside"


def watch(client: WireClient, name: str) -> int:
    """The message id of a CHANGE_NOTIFY on a new folder."""
    client.close(client.open(name, options=c.FILE_DIRECTORY_FILE))
    folder = client.open(name, options=c.FILE_DIRECTORY_FILE, access=READ)
    (message_id,) = client.send(Request(Command.CHANGE_NOTIFY, notify_body(folder, 0x17F)))
    assert client.receive(message_id, interim=True).interim
    return message_id


def test_changes_by_clients_are_told(posix: Server, client: WireClient) -> None:
    message_id = watch(client, "ours")
    smbclient(posix, "cd ours; put /etc/hostname new.txt")
    answer = client.receive(message_id)
    assert answer.status == status.SUCCESS
    assert "new.txt".encode("utf-16-le") in bytes(answer.view)


def test_changes_from_outside_are_told(posix: Server, client: WireClient) -> None:
    """What is there when the server first looks is no news: the outsider goes on until it is heard."""
    message_id = watch(client, "theirs")
    told = threading.Event()

    def outsider() -> None:
        for number in itertools.count():
            if told.wait(0.2):
                return
            (posix.share / "theirs" / f"new {number}.txt").touch()

    thread = threading.Thread(target=outsider)
    thread.start()
    try:
        answer = client.receive(message_id)
    finally:
        told.set()
        thread.join()
    assert answer.status == status.SUCCESS
    assert "new ".encode("utf-16-le") in bytes(answer.view)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_each_request_acts_for_its_own_user(posix: Server, client: WireClient) -> None:
    """Two users on one connection: one process, and so one identity at a time."""
    client.close(client.open("first's"))
    assert client.session_setup(posix.other_user, posix.other_password).status == status.SUCCESS
    assert client.tree_connect(SHARE).status == status.SUCCESS
    client.close(client.open("second's"))
    first, second = ((posix.share / name).stat().st_uid for name in ("first's", "second's"))
    assert 0 not in (first, second)
    assert first != second


def test_the_combination_with_threads_is_refused(make_server: Callable[..., Server]) -> None:
    made = make_server(settings={"port": "posix", "server mode": "threaded"}, start=False)
    made.peer.write_config()
    done = made.command("check")
    assert done.returncode == 1
    assert "server mode = threaded needs port = linux" in done.stdout + done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(("mode", "found"), [(0o000, status.ACCESS_DENIED), (0o711, status.SUCCESS)], ids=["closed", "not to be listed"])
def test_a_share_whose_folder_may_not_be_read(mode: int, found: int) -> None:
    """Connecting to it is no reading; and the server's own way into it gives its users no right that they have not."""
    with Server(settings={"port": "posix"}).running() as made:
        made.share.joinpath("file").write_bytes(b"content")
        made.share.chmod(mode)
        with made.client() as client:
            assert client.create("file", access=READ, disposition=c.FILE_OPEN).status == found
            assert client.create("", access=c.FILE_LIST_DIRECTORY, options=c.FILE_DIRECTORY_FILE).status == status.ACCESS_DENIED
            assert client.create("new", disposition=c.FILE_CREATE).status == status.ACCESS_DENIED


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_share_to_which_the_way_is_closed() -> None:
    with Server(settings={"port": "posix"}).running() as made:
        made.share.parent.chmod(0o700)
        with made.negotiated() as client:
            assert client.session_setup(made.user, made.password).status == status.SUCCESS
            assert client.tree_connect(SHARE).status == status.ACCESS_DENIED
