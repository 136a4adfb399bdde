"""Reparse points and symlinks on the wire: what is opened itself, what stops a path, what a client may make, and hostile buffers."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from struct import pack, unpack_from

import pytest

from pools.port import files
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.fscc import change, query, reparse
from smbd.smb2.fscc.reparse import Symlink, pack_symlink
from smbd.smb2.header import ERROR_CONTEXT, ERROR_RESPONSE, SYMBOLIC_LINK_ERROR_RESPONSE
from smbd.smb2.messages import create
from tests.wire_client import FileId, Offer, Response, WireClient
from tests.workers.house import House

ON_ERRANDS_TOO = True
ITSELF = c.FILE_OPEN_REPARSE_POINT
GUID = bytes(range(16))


def link(target: str, relative: bool = True) -> bytes:
    return pack_symlink(Symlink(target, relative))


def set_reparse(client: WireClient, opened: FileId, data: bytes) -> int:
    return client.ioctl(c.FSCTL_SET_REPARSE_POINT, data, opened).status


def get_reparse(client: WireClient, opened: FileId, size: int = 65536) -> bytes:
    return client.output(client.ioctl(c.FSCTL_GET_REPARSE_POINT, b"", opened, size=size))


def tag_of(client: WireClient, opened: FileId) -> tuple[int, int]:
    """Attributes and tag."""
    answer = client.output(client.query_info(opened, c.INFO_FILE, query.FILE_ATTRIBUTE_TAG_INFORMATION))
    return unpack_from("<II", answer)  # type: ignore[return-value]


def stopped_at(response: Response) -> tuple[str, str, bool, int]:
    """Substitute name, print name, whether relative, and the length of the unparsed path."""
    assert status.name(response.status) == "STOPPED_ON_SYMLINK"
    head = ERROR_RESPONSE.unpack(response.body)
    data = response.body[ERROR_RESPONSE.size :][: head.byte_count]
    if head.error_context_count:
        context = ERROR_CONTEXT.unpack(data)
        assert (context.error_id, context.error_data_length) == (0, len(data) - ERROR_CONTEXT.size)
        data = data[ERROR_CONTEXT.size :]
    error = SYMBOLIC_LINK_ERROR_RESPONSE.unpack(data)
    names = bytes(data[SYMBOLIC_LINK_ERROR_RESPONSE.size :])
    assert error.sym_link_length == len(data) - 4
    assert error.reparse_data_length == 12 + len(names)
    assert (error.sym_link_error_tag, error.reparse_tag) == (0x4C4D5953, reparse.TAG_SYMLINK)
    target = names[error.substitute_name_offset :][: error.substitute_name_length].decode("utf-16-le")
    shown = names[error.print_name_offset :][: error.print_name_length].decode("utf-16-le")
    return target, shown, bool(error.flags & 1), error.unparsed_path_length


def make(client: WireClient, name: str, options: int = 0) -> FileId:
    return client.open(name, disposition=c.FILE_CREATE, options=options | ITSELF)


def test_a_symlink_is_followed_or_opened_itself(client: WireClient, folder: Path) -> None:
    (folder / "target").write_bytes(b"content")
    (folder / "link").symlink_to("target")
    through = client.open("link")
    assert client.read_data(through, 0, 100) == b"content"
    assert client.ioctl(c.FSCTL_GET_REPARSE_POINT, b"", through).status == status.NOT_A_REPARSE_POINT
    answer = client.create("link", options=ITSELF, disposition=c.FILE_OPEN).parse(create.CREATE_RESPONSE)
    assert (answer.flags, answer.end_of_file, answer.file_attributes) == (1, 0, c.FILE_ATTRIBUTE_REPARSE_POINT)
    itself = answer.file_id_persistent, answer.file_id_volatile
    assert tag_of(client, itself) == (c.FILE_ATTRIBUTE_REPARSE_POINT, reparse.TAG_SYMLINK)
    assert get_reparse(client, itself) == link("target")
    assert client.read(itself, 0, 100).status == status.END_OF_FILE
    assert client.write(itself, 0, b"x").status == status.ACCESS_DENIED
    assert client.create("link", options=ITSELF, disposition=c.FILE_OVERWRITE).status == status.ACCESS_DENIED
    assert (folder / "target").read_bytes() == b"content"


def test_a_symlink_is_deleted_and_renamed_itself(client: WireClient, folder: Path) -> None:
    (folder / "folder").mkdir()
    (folder / "folder" / "target").write_bytes(b"content")
    (folder / "link").symlink_to("folder/target")
    itself = client.open("link", options=ITSELF, disposition=c.FILE_OPEN)
    new = "folder\\moved".encode("utf-16-le")
    assert client.set_info(itself, c.INFO_FILE, change.FILE_RENAME_INFORMATION, pack("<QQI", 0, 0, len(new)) + new).status == status.SUCCESS
    assert os.readlink(folder / "folder" / "moved") == "folder/target"
    assert client.set_info(itself, c.INFO_FILE, change.FILE_DISPOSITION_INFORMATION, b"\1").status == status.SUCCESS
    assert client.close(itself).status == status.SUCCESS
    assert sorted(path.name for path in folder.rglob("*")) == ["folder", "target"]


def test_directories_behind_symlinks(client: WireClient, folder: Path) -> None:
    """Windows removes a link to a directory as a directory, others as a file: both are let."""
    (folder / "folder").mkdir()
    for name, kind in (("one", c.FILE_DIRECTORY_FILE), ("two", c.FILE_NON_DIRECTORY_FILE)):
        (folder / name).symlink_to("folder")
        itself = client.open(name, options=ITSELF | kind | c.FILE_DELETE_ON_CLOSE, disposition=c.FILE_OPEN)
        attributes, _ = tag_of(client, itself)
        assert attributes == c.FILE_ATTRIBUTE_REPARSE_POINT | c.FILE_ATTRIBUTE_DIRECTORY
        assert client.close(itself).status == status.SUCCESS
    assert os.listdir(folder) == ["folder"]


@pytest.mark.parametrize("dialect", [0x0311, 0x0302])
@pytest.mark.parametrize(
    ("path", "target", "relative", "unparsed"),
    [
        ("out", "..\\outside", True, ""),
        ("out\\a\\b", "..\\outside", True, "\\a\\b"),
        ("OUT\\a", "..\\outside", True, "\\a"),
        ("absolute\\f", "\\etc\\passwd", False, "\\f"),
        ("folder\\gone", "nowhere", True, ""),
        ("folder\\gone\\x:stream", "nowhere", True, "\\x:stream"),
        ("around\\x", "around", True, "\\x"),
        ("in\\gone\\y", "nowhere", True, "\\y"),
    ],
)
def test_what_is_not_followed_stops_the_path(  # noqa: PLR0917
    house: House, folder: Path, dialect: int, path: str, target: str, relative: bool, unparsed: str
) -> None:
    (folder / "folder").mkdir()
    for name, leads in (("out", "../outside"), ("absolute", "/etc/passwd"), ("around", "around"), ("in", "folder")):
        (folder / name).symlink_to(leads)
    (folder / "folder" / "gone").symlink_to("nowhere")
    client = house.client(offer=Offer(dialects=(dialect,)))
    for disposition in (c.FILE_OPEN, c.FILE_CREATE, c.FILE_OPEN_IF, c.FILE_OVERWRITE_IF):
        found = stopped_at(client.create(path, disposition=disposition))
        assert found == (target, target, relative, 2 * len(unparsed))
    assert sorted(os.listdir(folder)) == ["absolute", "around", "folder", "in", "out"]


def test_where_no_symlink_is_followed(make_house: Callable[..., House], folder: Path) -> None:
    (folder / "target").write_bytes(b"content")
    (folder / "link").symlink_to("target")
    client = make_house(share_text="follow symlinks = no").client()
    assert stopped_at(client.create("link"))[0] == "target"
    assert get_reparse(client, client.open("link", options=ITSELF)) == link("target")


def entries(client: WireClient) -> dict[str, tuple[int, int]]:
    """Name -> attributes and what stands in the place of EaSize, from FileIdBothDirectoryInformation."""
    opened = client.open("", access=c.FILE_LIST_DIRECTORY)
    view = memoryview(client.output(client.query_directory(opened)))
    found = {}
    while True:
        following, _, *_, attributes, length, ea = unpack_from("<II6QIII", view)
        found[bytes(view[104 : 104 + length]).decode("utf-16-le")] = (attributes, ea)
        if not following:
            return found
        view = view[following:]


def test_listings_show_tags(client: WireClient, folder: Path) -> None:
    (folder / "target").write_bytes(b"content")
    (folder / "in").symlink_to("target")
    (folder / "out").symlink_to("/etc/passwd")
    assert set_reparse(client, make(client, "unknown"), pack("<IHH", 0x80001234, 3, 0) + b"abc") == status.SUCCESS
    found = entries(client)
    assert found["in"] == (c.FILE_ATTRIBUTE_ARCHIVE, 0)
    assert found["out"] == (c.FILE_ATTRIBUTE_REPARSE_POINT, reparse.TAG_SYMLINK)
    assert found["unknown"] == (c.FILE_ATTRIBUTE_REPARSE_POINT | c.FILE_ATTRIBUTE_ARCHIVE, 0x80001234)
    opened = client.open("", access=c.FILE_LIST_DIRECTORY)
    assert client.query_directory(opened, "out").status == status.SUCCESS


@pytest.mark.parametrize("kind", [0, c.FILE_DIRECTORY_FILE])
def test_a_client_makes_a_symlink(client: WireClient, folder: Path, kind: int) -> None:
    (folder / "folder").mkdir()
    (folder / "target").write_bytes(b"content")
    opened = make(client, "folder\\link", kind)
    assert set_reparse(client, opened, link("..\\target")) == status.SUCCESS
    assert os.readlink(folder / "folder" / "link") == "../target"
    assert tag_of(client, opened) == (c.FILE_ATTRIBUTE_REPARSE_POINT, reparse.TAG_SYMLINK)
    assert set_reparse(client, opened, link("elsewhere\\. a")) == status.SUCCESS
    assert os.readlink(folder / "folder" / "link") == "elsewhere/. a"
    assert get_reparse(client, opened) == link("elsewhere\\. a")
    assert client.close(opened).status == status.SUCCESS
    assert stopped_at(client.create("folder\\link"))[0] == "elsewhere\\. a"
    opened = client.open("folder\\link", options=ITSELF, disposition=c.FILE_OPEN)
    assert client.ioctl(c.FSCTL_DELETE_REPARSE_POINT, pack("<IHH", reparse.TAG_SYMLINK, 0, 0), opened).status == status.SUCCESS
    assert client.write(opened, 0, b"now a file").status == status.SUCCESS
    client.close(opened)
    assert (folder / "folder" / "link").read_bytes() == b"now a file"
    assert not (folder / "folder" / "link").is_symlink()


@pytest.mark.parametrize(
    ("target", "relative"),
    [
        ("..\\outside", True), ("..", True), ("folder\\..\\..\\outside", True), ("\\??\\C:\\x", False), ("\\??\\UNC\\server\\share", False),
        ("target", False), ("\\etc\\passwd", True), ("folder\\\\x", True), (".millpond\\streams", True),
    ],
)  # fmt: skip
def test_what_may_not_lie_on_the_disk_is_kept_beside_it(client: WireClient, folder: Path, target: str, relative: bool) -> None:
    for name, kind in (("f", 0), ("d", c.FILE_DIRECTORY_FILE)):
        opened = make(client, name, kind)
        assert set_reparse(client, opened, link(target, relative)) == status.SUCCESS
        assert get_reparse(client, opened) == link(target, relative)
        client.close(opened)
        assert not (folder / name).is_symlink()
        assert stopped_at(client.create(name)) == (target, target, relative, 0)
        assert stopped_at(client.create(name, disposition=c.FILE_OPEN_IF)) == (target, target, relative, 0)
        if kind:
            assert stopped_at(client.create("d\\sub\\f", disposition=c.FILE_OPEN)) == (target, target, relative, 12)
            assert stopped_at(client.create("d\\f", disposition=c.FILE_CREATE)) == (target, target, relative, 4)
        assert client.close(client.open(name, options=ITSELF | c.FILE_DELETE_ON_CLOSE)).status == status.SUCCESS
    assert not {"f", "d"} & set(os.listdir(folder))


def test_a_file_that_others_have_open_stays_one(client: WireClient, folder: Path) -> None:
    opened = make(client, "f")
    other = client.open("f")
    assert set_reparse(client, opened, link("target")) == status.SUCCESS
    assert not (folder / "f").is_symlink()
    assert client.write(other, 0, b"still here").status == status.SUCCESS
    assert get_reparse(client, opened) == link("target")


def test_other_tags_are_kept_and_not_passed(client: WireClient, folder: Path) -> None:
    point = pack("<IHH", reparse.TAG_MOUNT_POINT, 8, 0) + bytes(8)
    assert set_reparse(client, make(client, "f"), point) == status.NOT_A_DIRECTORY
    opened = make(client, "d", c.FILE_DIRECTORY_FILE)
    assert set_reparse(client, opened, point) == status.SUCCESS
    assert tag_of(client, opened)[1] == reparse.TAG_MOUNT_POINT
    assert client.create("d").status == status.IO_REPARSE_TAG_NOT_HANDLED
    assert client.create("d\\f", disposition=c.FILE_OPEN).status == status.IO_REPARSE_TAG_NOT_HANDLED
    assert client.create("d\\f", disposition=c.FILE_CREATE).status == status.IO_REPARSE_TAG_NOT_HANDLED
    assert set_reparse(client, opened, link("x")) == status.IO_REPARSE_TAG_MISMATCH
    deleted = client.ioctl(c.FSCTL_DELETE_REPARSE_POINT, pack("<IHH", reparse.TAG_MOUNT_POINT, 0, 0), opened)
    assert deleted.status == status.SUCCESS
    assert client.create("d\\f", disposition=c.FILE_CREATE).status == status.SUCCESS
    assert set_reparse(client, opened, point) == status.DIRECTORY_NOT_EMPTY
    foreign = pack("<IHH", 0x1234, 4, 0) + GUID + b"data"
    opened = make(client, "foreign")
    assert set_reparse(client, opened, foreign) == status.SUCCESS
    assert set_reparse(client, opened, foreign[:8] + bytes(16) + b"data") == status.REPARSE_ATTRIBUTE_CONFLICT
    assert get_reparse(client, opened) == foreign


def test_a_buffer_larger_than_the_room_for_it(client: WireClient) -> None:
    opened = make(client, "f")
    data = pack("<IHH", reparse.TAG_NFS, 100, 0) + bytes(100)
    assert set_reparse(client, opened, data) == status.SUCCESS
    assert client.ioctl(c.FSCTL_GET_REPARSE_POINT, b"", opened, size=7).status == status.BUFFER_TOO_SMALL
    partly = client.ioctl(c.FSCTL_GET_REPARSE_POINT, b"", opened, size=50)
    assert partly.status == status.BUFFER_OVERFLOW
    assert client.output(partly) == data[:50]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "IO_REPARSE_DATA_INVALID"),
        (bytes(7), "IO_REPARSE_DATA_INVALID"),
        (pack("<IHH", reparse.TAG_NFS, 16377, 0) + bytes(16377), "IO_REPARSE_DATA_INVALID"),
        (pack("<IHH", reparse.TAG_NFS, 4, 0), "IO_REPARSE_DATA_INVALID"),
        (pack("<IHH", reparse.TAG_NFS, 4, 0) + bytes(5), "IO_REPARSE_DATA_INVALID"),
        (pack("<IHH", 0, 0, 0) + bytes(16), "IO_REPARSE_TAG_INVALID"),
        (pack("<IHH", 1, 0, 0) + bytes(16), "IO_REPARSE_TAG_INVALID"),
        (pack("<IHH", 2, 0, 0), "IO_REPARSE_DATA_INVALID"),
        (pack("<IHH", reparse.TAG_SYMLINK, 0, 0), "IO_REPARSE_DATA_INVALID"),
        (pack("<IHHHHHHI", reparse.TAG_SYMLINK, 12, 0, 0, 2, 0, 0, 1), "IO_REPARSE_DATA_INVALID"),
        (pack("<IHHHHHHI", reparse.TAG_SYMLINK, 14, 0, 65535, 65535, 0, 0, 1) + b"a\0", "IO_REPARSE_DATA_INVALID"),
        (pack("<IHHHHHHI", reparse.TAG_SYMLINK, 14, 0, 0, 1, 0, 0, 1) + b"a\0", "IO_REPARSE_DATA_INVALID"),
        (pack("<IHHHHHHI", reparse.TAG_SYMLINK, 14, 0, 0, 2, 0, 0, 1) + b"\0\0", "IO_REPARSE_DATA_INVALID"),
        (pack("<IHHHHHHI", reparse.TAG_SYMLINK, 14, 0, 0, 2, 0, 0, 1) + b"\0\xd8", "IO_REPARSE_DATA_INVALID"),
        (pack("<IHHHHHHI", reparse.TAG_SYMLINK, 12, 0, 0, 0, 0, 0, 1), "IO_REPARSE_DATA_INVALID"),
    ],
)
def test_buffers_that_make_no_sense(client: WireClient, folder: Path, data: bytes, expected: str) -> None:
    opened = make(client, "f")
    assert status.name(set_reparse(client, opened, data)) == expected
    assert client.ioctl(c.FSCTL_GET_REPARSE_POINT, b"", opened).status == status.NOT_A_REPARSE_POINT
    assert (folder / "f").is_file()


def test_who_may_not(client: WireClient, folder: Path) -> None:
    (folder / "f").write_bytes(b"")
    assert set_reparse(client, client.open("f", access=c.FILE_READ_DATA), link("x")) == status.ACCESS_DENIED
    assert set_reparse(client, client.open("f:stream"), link("x")) == status.INVALID_PARAMETER
    assert set_reparse(client, client.open(""), link("x")) == status.ACCESS_DENIED
    opened = client.open("f")
    delete = pack("<IHH", reparse.TAG_SYMLINK, 0, 0)
    assert client.ioctl(c.FSCTL_DELETE_REPARSE_POINT, delete, opened).status == status.NOT_A_REPARSE_POINT
    client.write(opened, 0, b"content")
    assert set_reparse(client, opened, link("x")) == status.IO_REPARSE_DATA_INVALID


def test_what_somebody_else_put_there_counts_for_nothing(client: WireClient, folder: Path) -> None:
    """The attribute of the disk is the users' own to write."""
    assert set_reparse(client, make(client, "f"), pack("<IHH", reparse.TAG_NFS, 4, 0) + bytes(4)) == status.SUCCESS
    for value in (b"", bytes(7), pack("<IHH", reparse.TAG_NFS, 5, 0), bytes(20000)[:3000], pack("<IHH", 1, 0, 0) + bytes(16)):
        os.setxattr(folder / "f", "user.SmbReparse", value)
        assert client.close(client.open("f")).status == status.SUCCESS
        opened = client.open("f", options=ITSELF)
        assert tag_of(client, opened) == (c.FILE_ATTRIBUTE_ARCHIVE, 0)
        client.close(opened)
    os.setxattr(folder / "f", "user.SmbReparse", pack("<IHHHHHHI", reparse.TAG_SYMLINK, 12, 0, 9, 9, 9, 9, 1))
    assert client.create("f").status == status.IO_REPARSE_DATA_INVALID
    assert "SMBREPARSE" not in dict(entries(client))


@pytest.mark.parametrize("kind", [0, c.FILE_DIRECTORY_FILE])
def test_a_symlink_that_the_disk_does_not_take_costs_nothing(
    client: WireClient, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    """Some file systems have room for a shorter target than others: what was to become a link is there still."""
    opened = make(client, "stays", kind)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))

    with monkeypatch.context() as patched:
        patched.setattr(files, "symlink", refuse)
        assert status.is_error(set_reparse(client, opened, link("t" * 4000)))
    assert os.listdir(folder) == ["stays"]
    assert (folder / "stays").is_dir() == bool(kind)
    assert set_reparse(client, opened, link("target")) == status.SUCCESS
    assert os.listdir(folder) == ["stays"]
    assert os.readlink(folder / "stays") == "target"


def test_a_link_over_the_symlink_that_led_to_the_file_leaves_nothing_behind(client: WireClient, folder: Path) -> None:
    (folder / "file").write_bytes(b"content")
    (folder / "link").symlink_to("file")
    name = "link".encode("utf-16-le")
    body = pack("<QQI", 1, 0, len(name)) + name
    assert client.set_info(client.open("link"), c.INFO_FILE, change.FILE_LINK_INFORMATION, body).status == status.SUCCESS
    assert sorted(os.listdir(folder)) == ["file", "link"]
    assert (folder / "link").read_bytes() == b"content"
