"""Compressed files: the rules by a port that only keeps the flag, and the real thing on a small btrfs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from struct import pack, unpack_from

import pytest

from pools.port import files
from pools.port.interface import COMPRESSED, Stat
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.fscc import filesystem, query
from smbd.smb2.messages.create import CREATE_RESPONSE
from smbd.smb2.names import parse_text
from tests.btrfs import run
from tests.wire_client import LAST, FileId, Request, Response, WireClient, close_body, create_body, notify_body, query_info_body
from tests.workers.house import House
from workers.vfs.handle import PosixHandle
from workers.vfs.posix import PosixVfs

ON_ERRANDS_TOO = True
NONE, DEFAULT, LZNT1 = (pack("<H", state) for state in (0, 1, 2))
LOOK = c.FILE_READ_ATTRIBUTES | c.SYNCHRONIZE


def compress(client: WireClient, opened: FileId, state: bytes = DEFAULT) -> int:
    return client.ioctl(c.FSCTL_SET_COMPRESSION, state, opened).status


def state_of(client: WireClient, opened: FileId) -> bytes:
    return client.output(client.ioctl(c.FSCTL_GET_COMPRESSION, b"", opened, size=2))


def attributes_of(client: WireClient, opened: FileId) -> int:
    return int(unpack_from("<I", client.output(client.query_info(opened, c.INFO_FILE, query.FILE_BASIC_INFORMATION)), 32)[0])


def offers(client: WireClient, opened: FileId) -> bool:
    answer = client.output(client.query_info(opened, c.INFO_FILESYSTEM, filesystem.FILE_FS_ATTRIBUTE_INFORMATION))
    return bool(unpack_from("<I", answer)[0] & filesystem.FILE_FILE_COMPRESSION)


def shown_by(client: WireClient, name: str) -> list[int]:
    """The attributes of a file in whatever answer shows them: CREATE, FileAllInformation, CLOSE, and a listing."""
    opening = Request(Command.CREATE, create_body(name, access=LOOK, disposition=c.FILE_OPEN))
    asking = Request(Command.QUERY_INFO, query_info_body(LAST, c.INFO_FILE, query.FILE_ALL_INFORMATION))
    closing = Request(Command.CLOSE, close_body(LAST, c.CLOSE_FLAG_POSTQUERY_ATTRIB))
    made, told, closed = client.compound(opening, asking, closing, related=True)
    root = client.open("", access=c.FILE_READ_DATA, options=c.FILE_DIRECTORY_FILE)
    listed = client.output(client.query_directory(root, name))
    client.close(root)
    return [
        made.parse(CREATE_RESPONSE).file_attributes,
        *unpack_from("<I", client.output(told), 32),
        *unpack_from("<I", closed.body, 56),
        *unpack_from("<I", listed, 56),
    ]


@pytest.fixture
def compressing(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The inode numbers of what is marked as compressed, on a file system that would compress."""
    marked: set[int] = set()
    real_fd, real_at = files.stat_fd, files.stat_at

    def mark(fd: int, on: bool) -> None:
        (marked.add if on else marked.discard)(os.fstat(fd).st_ino)

    def shown(st: Stat) -> Stat:
        return st._replace(stx_attributes=st.stx_attributes | COMPRESSED) if st.ino in marked else st

    monkeypatch.setattr(files, "may_compress", lambda _fd: True)
    monkeypatch.setattr(files, "set_compressed", mark)
    monkeypatch.setattr(files, "stat_fd", lambda fd: shown(real_fd(fd)))
    monkeypatch.setattr(files, "stat_at", lambda directory, name: shown(real_at(directory, name)))
    return marked


@pytest.mark.usefixtures("compressing")
def test_every_answer_with_attributes_shows_it(client: WireClient, folder: Path) -> None:
    (folder / "file").write_bytes(bytes(5000))
    opened = client.open("file")
    assert offers(client, opened)
    assert state_of(client, opened) == NONE
    assert shown_by(client, "file") == [c.FILE_ATTRIBUTE_ARCHIVE] * 4
    assert compress(client, opened) == status.SUCCESS
    assert state_of(client, opened) == LZNT1
    assert attributes_of(client, opened) == c.FILE_ATTRIBUTE_ARCHIVE | c.FILE_ATTRIBUTE_COMPRESSED
    assert shown_by(client, "file") == [c.FILE_ATTRIBUTE_ARCHIVE | c.FILE_ATTRIBUTE_COMPRESSED] * 4
    told = client.output(client.query_info(opened, c.INFO_FILE, query.FILE_COMPRESSION_INFORMATION))
    assert unpack_from("<qH", told) == (8192, 2)
    assert compress(client, opened, NONE) == status.SUCCESS
    assert shown_by(client, "file") == [c.FILE_ATTRIBUTE_ARCHIVE] * 4


def test_who_may_write_the_data_may_compress_it(client: WireClient, compressing: set[int]) -> None:
    client.close(client.open("file"))
    writer = client.open("file", access=c.FILE_WRITE_DATA)
    others = client.open("file", access=c.FILE_ALL_ACCESS & ~c.FILE_WRITE_DATA)
    for state in (NONE, DEFAULT):
        assert compress(client, others, state) == status.ACCESS_DENIED
    assert state_of(client, client.open("file", access=c.SYNCHRONIZE)) == NONE
    assert not compressing
    assert compress(client, writer, LZNT1) == status.SUCCESS
    assert compressing


def test_requests_that_make_no_sense(client: WireClient, compressing: set[int]) -> None:
    opened = client.open("file")
    for state in (b"", b"\1", pack("<H", 3), pack("<H", 0x102)):
        assert compress(client, opened, state) == status.INVALID_PARAMETER
    assert client.ioctl(c.FSCTL_GET_COMPRESSION, b"", opened, size=1).status == status.INVALID_PARAMETER
    assert not compressing


def test_it_is_no_attribute_that_can_be_set(client: WireClient, compressing: set[int]) -> None:
    opened = client.open("file", attributes=c.FILE_ATTRIBUTE_COMPRESSED)
    basic = pack("<QQQQII", 0, 0, 0, 0, c.FILE_ATTRIBUTE_COMPRESSED | c.FILE_ATTRIBUTE_HIDDEN, 0)
    assert client.set_info(opened, c.INFO_FILE, query.FILE_BASIC_INFORMATION, basic).status == status.SUCCESS
    assert attributes_of(client, opened) == c.FILE_ATTRIBUTE_HIDDEN
    assert not compressing
    compress(client, opened)
    basic = pack("<QQQQII", 0, 0, 0, 0, c.FILE_ATTRIBUTE_NORMAL, 0)
    assert client.set_info(opened, c.INFO_FILE, query.FILE_BASIC_INFORMATION, basic).status == status.SUCCESS
    assert attributes_of(client, opened) == c.FILE_ATTRIBUTE_COMPRESSED


@pytest.mark.usefixtures("compressing")
def test_who_watches_hears_of_it(client: WireClient) -> None:
    opened = client.open("file")
    root = client.open("", access=c.FILE_READ_DATA, options=c.FILE_DIRECTORY_FILE)
    (watch,) = client.send(Request(Command.CHANGE_NOTIFY, notify_body(root, c.FILE_NOTIFY_CHANGE_ATTRIBUTES)))
    assert client.receive(watch, interim=True).status == status.PENDING
    assert compress(client, opened, NONE) == status.SUCCESS  # nothing has changed
    assert compress(client, opened) == status.SUCCESS
    told: Response = client.receive(watch)
    assert unpack_from("<I", client.output(told), 4) == (c.FILE_ACTION_MODIFIED,)


def test_a_file_system_that_compresses_nothing(client: WireClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "may_compress", lambda _fd: False)
    opened = client.open("file", options=c.FILE_NO_COMPRESSION)
    assert not offers(client, opened)
    assert compress(client, opened, NONE) == status.SUCCESS
    assert state_of(client, opened) == NONE


def test_the_port_refuses_where_the_file_system_does_not_compress(client: WireClient, folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    can = files.may_compress(fd)
    os.close(fd)
    if can:
        pytest.skip("the tests' folder is on btrfs")
    opened = client.open("file")
    assert compress(client, opened) == status.NOT_SUPPORTED
    assert state_of(client, opened) == NONE


@pytest.fixture
def there(make_house: Callable[..., House], btrfs: Path) -> WireClient:
    """A client of a share on btrfs."""
    return make_house(share_text=f"[there]\npath = {btrfs}\nread only = no\n").client(share="there")


def flags_of(path: Path) -> str:
    return run("lsattr", "-d", path).split()[0]


def test_what_is_written_is_compressed_on_the_disk(there: WireClient, btrfs: Path) -> None:
    opened = there.open("file")
    assert offers(there, opened)
    assert compress(there, opened) == status.SUCCESS
    assert "c" in flags_of(btrfs / "file")
    content = b"millpond" * 8192
    there.write(opened, 0, content)
    assert there.flush(opened).status == status.SUCCESS
    assert "encoded" in run("filefrag", "-v", btrfs / "file")
    assert shown_by(there, "file") == [c.FILE_ATTRIBUTE_ARCHIVE | c.FILE_ATTRIBUTE_COMPRESSED] * 4
    assert there.read_data(opened, 0, 65536) == content
    assert compress(there, opened, NONE) == status.SUCCESS
    assert "c" not in flags_of(btrfs / "file")


def test_what_is_made_in_a_compressed_directory(there: WireClient, btrfs: Path) -> None:
    directory = there.open("directory", options=c.FILE_DIRECTORY_FILE)
    assert compress(there, directory) == status.SUCCESS
    assert state_of(there, directory) == LZNT1
    for name, kind in (("file", 0), ("below", c.FILE_DIRECTORY_FILE)):
        assert state_of(there, there.open(f"directory\\{name}", options=kind)) == LZNT1
        made = there.create(f"directory\\plain {name}", options=kind | c.FILE_NO_COMPRESSION)
        shown = made.parse(CREATE_RESPONSE)
        assert not shown.file_attributes & c.FILE_ATTRIBUTE_COMPRESSED
        assert state_of(there, (shown.file_id_persistent, shown.file_id_volatile)) == NONE
    assert compress(there, directory, NONE) == status.SUCCESS
    assert state_of(there, there.open("directory\\file")) == LZNT1
    assert state_of(there, there.open("directory\\later")) == NONE
    assert "c" not in flags_of(btrfs / "directory")


def test_a_file_that_is_overwritten_in_place_cannot_be(there: WireClient, btrfs: Path) -> None:
    (btrfs / "file").touch()
    run("chattr", "+C", btrfs / "file")
    opened = there.open("file")
    assert compress(there, opened) == status.NOT_SUPPORTED
    assert compress(there, opened, NONE) == status.SUCCESS


def test_a_descriptor_that_only_names_its_file(btrfs: Path) -> None:
    (btrfs / "directory").mkdir()
    vfs = PosixVfs(str(btrfs))
    handle = PosixHandle(files.open(btrfs / "directory", files.PATH_ONLY), False, (parse_text("directory"), b"directory", False), vfs.root)
    handle.set_compressed(True)
    assert handle.info().attributes == c.FILE_ATTRIBUTE_DIRECTORY | c.FILE_ATTRIBUTE_COMPRESSED
    handle.close()
    vfs.close()
