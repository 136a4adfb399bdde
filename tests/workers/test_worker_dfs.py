"""DFS on the wire: referrals in every version, names of a namespace, links that are not covered, and hostile requests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from struct import pack, unpack_from

import pytest

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.constants import Command
from smbd.smb2.fscc import reparse
from smbd.smb2.fscc.reparse import Symlink, pack_symlink
from smbd.smb2.messages import create, tree
from tests.wire_client import Offer, Response, WireClient, create_body
from tests.workers.house import House

ON_ERRANDS_TOO = True
LINK = "msdfs:one.example\\share,two\\other\\deeper"


@pytest.fixture
def house(make_house: Callable[..., House], folder: Path, tmp_path: Path) -> House:
    (tmp_path / "plain").mkdir()
    (folder / "folder").mkdir()
    (folder / "folder" / "file").write_bytes(b"content")
    os.symlink(LINK, folder / "folder" / "link")
    os.symlink("msdfs:nothing", folder / "broken")
    proxy = "[proxy]\nmsdfs proxy = \\elsewhere\\share\n[closed]\nmsdfs root = yes\npath = /\nvalid users = nobody\n"
    return make_house(share_text=f"msdfs root = yes\n[plain]\npath = {tmp_path / 'plain'}\nread only = no\n{proxy}")


@pytest.fixture
def pipes(house: House) -> WireClient:
    return house.client(share="IPC$")


def ask(client: WireClient, name: str, level: int = 4, size: int = 4096) -> Response:
    return client.ioctl(c.FSCTL_DFS_GET_REFERRALS, pack("<H", level) + name.encode("utf-16-le") + b"\0\0", size=size)


def ask_ex(client: WireClient, name: str, level: int = 4) -> Response:
    raw = name.encode("utf-16-le")
    data = pack("<H", len(raw)) + raw + pack("<H", 4) + "s\0".encode("utf-16-le")
    return client.ioctl(c.FSCTL_DFS_GET_REFERRALS_EX, pack("<HHI", level, 1, len(data)) + data)


def text_at(view: bytes, offset: int) -> str:
    return view[offset:].decode("utf-16-le", "replace").partition("\0")[0]


def told(client: WireClient, response: Response) -> tuple[str, int, list[tuple[int, int, str, str]]]:
    """What was consumed (in characters), the header's flags, and of each entry version, server type, path and target."""
    view = client.output(response)
    consumed, count, flags = unpack_from("<HHI", view)
    at, entries = 8, []
    for _ in range(count):
        version, size, kind, _ = unpack_from("<HHHH", view, at)
        if version == 1:
            entries.append((version, kind, "", text_at(view, at + 8)))
        else:
            path, _, target = unpack_from("<HHH", view, at + (16 if version == 2 else 12))
            entries.append((version, kind, text_at(view, at + path), text_at(view, at + target)))
        at += size
    return str(consumed // 2), flags, entries


@pytest.mark.parametrize("level", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("form", [ask, ask_ex])
def test_a_link_is_referred_to_its_targets(pipes: WireClient, level: int, form: Callable[..., Response]) -> None:
    consumed, flags, entries = told(pipes, form(pipes, "\\Server\\DATA\\folder\\LINK\\some\\file", level))
    path = "\\Server\\DATA\\folder\\LINK" if level > 1 else ""
    version = min(level, 4)
    assert (consumed, flags) == (str(len("\\Server\\DATA\\folder\\LINK")), 2)
    assert entries == [(version, 0, path, "\\one.example\\share"), (version, 0, path, "\\two\\other\\deeper")]


def test_a_root_is_referred_to_itself(pipes: WireClient) -> None:
    for name in ("\\server\\data", "\\server\\data\\folder\\file", "\\server\\data\\missing"):
        consumed, flags, entries = told(pipes, ask(pipes, name))
        assert (consumed, flags, entries) == ("12", 3, [(4, 1, "\\server\\data", "\\server\\data")]), name


def test_a_share_that_stands_elsewhere(house: House, pipes: WireClient) -> None:
    assert told(pipes, ask(pipes, "\\server\\proxy\\x"))[2] == [(4, 0, "\\server\\proxy", "\\elsewhere\\share")]
    assert pipes.tree_connect("proxy").status == status.BAD_NETWORK_NAME


@pytest.mark.parametrize(
    "name", ["", "\\", "\\server", "\\server\\", "\\server\\plain", "\\server\\IPC$", "\\server\\nothing", "\\a\\\\data"]
)
def test_what_there_is_no_referral_for(pipes: WireClient, name: str) -> None:
    assert status.name(ask(pipes, name).status) == "NOT_FOUND"


def test_a_link_that_names_nothing_and_a_share_that_is_not_for_everybody(pipes: WireClient) -> None:
    assert ask(pipes, "\\server\\data\\broken").status == status.NOT_FOUND
    assert ask(pipes, "\\server\\closed\\etc").status == status.ACCESS_DENIED


@pytest.mark.parametrize(
    "data",
    [b"", b"\4", pack("<H", 4) + b"x", pack("<H", 0) + "\\s\\data\0".encode("utf-16-le")],
)
def test_requests_that_make_no_sense(pipes: WireClient, data: bytes) -> None:
    assert pipes.ioctl(c.FSCTL_DFS_GET_REFERRALS, data).status == status.INVALID_PARAMETER


@pytest.mark.parametrize(
    "data",
    [
        b"",
        pack("<HHI", 4, 0, 0),
        pack("<HHIH", 4, 0, 2, 2),
        pack("<HHIH", 4, 0, 0xFFFFFFFF, 0),
        pack("<HHIH", 4, 0, 4, 65535) + b"ab",
        pack("<HHIH", 4, 0, 3, 1) + b"a",
    ],
)
def test_newer_requests_that_make_no_sense(pipes: WireClient, data: bytes) -> None:
    assert pipes.ioctl(c.FSCTL_DFS_GET_REFERRALS_EX, data).status == status.INVALID_PARAMETER


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_name_longer_than_an_answer_can_say(pipes: WireClient, level: int) -> None:
    for size in (16384, 33000, 1 << 18):
        assert ask(pipes, "\\" + "s" * size + "\\data", level, 1 << 20).status == status.NOT_FOUND
    assert ask(pipes, "\\" + "s" * 16000 + "\\data", level, 1 << 20).status == status.SUCCESS


def test_odd_names(pipes: WireClient) -> None:
    assert ask(pipes, "\\s\\data\\" + "\\".join("x" * 300)).status == status.NOT_FOUND
    half = pipes.ioctl(c.FSCTL_DFS_GET_REFERRALS, pack("<H", 4) + b"\0\xd8")
    assert half.status == status.OBJECT_NAME_INVALID


def test_too_little_room(pipes: WireClient) -> None:
    answer = ask(pipes, "\\server\\data\\folder\\link", size=40)
    assert status.name(answer.status) == "BUFFER_OVERFLOW"


def test_without_dfs(make_house: Callable[..., House]) -> None:
    client = make_house(text="host msdfs = no", share_text="msdfs root = yes").client(share="IPC$")
    assert not client.negotiated.capabilities & c.CAP_DFS
    assert status.name(ask(client, "\\server\\data").status) == "FS_DRIVER_REQUIRED"
    connected = client.tree_connect("data").parse(tree.TREE_CONNECT_RESPONSE)
    assert not connected.capabilities & c.SHARE_CAP_DFS


def test_a_namespace_says_that_it_is_one(house: House) -> None:
    client = house.client(share="")
    assert client.negotiated.capabilities & c.CAP_DFS
    connected = client.tree_connect("data").parse(tree.TREE_CONNECT_RESPONSE)
    assert connected.capabilities & c.SHARE_CAP_DFS
    assert connected.share_flags & 3 == c.SHAREFLAG_DFS | c.SHAREFLAG_DFS_ROOT
    connected = client.tree_connect("plain").parse(tree.TREE_CONNECT_RESPONSE)
    assert (connected.capabilities & c.SHARE_CAP_DFS, connected.share_flags & 3) == (0, 0)


def through(client: WireClient, name: str, **options: int) -> Response:
    return client.call(Command.CREATE, create_body(name, **options), flags=c.FLAGS_DFS_OPERATIONS)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["server\\data\\folder\\file", "\\SERVER\\DATA\\folder\\file", "folder\\file", "\\folder\\file"])
def test_names_of_a_namespace(client: WireClient, name: str) -> None:
    answer = through(client, name, disposition=c.FILE_OPEN).parse(create.CREATE_RESPONSE)
    assert client.read_data((answer.file_id_persistent, answer.file_id_volatile), 0, 100) == b"content"


def test_the_root_of_a_namespace_and_names_that_are_none(client: WireClient) -> None:
    assert through(client, "server\\data", options=c.FILE_DIRECTORY_FILE).status == status.SUCCESS
    assert through(client, "server\\data\\", options=c.FILE_DIRECTORY_FILE).status == status.SUCCESS
    assert through(client, "server\\data\\..\\x").status != status.SUCCESS
    assert through(client, "\\\\\\").status != status.INTERNAL_ERROR
    assert client.echo().status == status.SUCCESS


def test_the_flag_means_nothing_on_other_shares(house: House, tmp_path: Path) -> None:
    client = house.client(share="plain")
    (tmp_path / "plain" / "server").mkdir()
    (tmp_path / "plain" / "server" / "plain").write_text("a file, and no namespace")
    assert through(client, "server\\plain", disposition=c.FILE_OPEN).status == status.SUCCESS


@pytest.mark.parametrize("flags", [0, c.FLAGS_DFS_OPERATIONS])
@pytest.mark.parametrize("name", ["folder\\link", "folder\\LINK\\file", "folder\\link\\a\\b:s"])
def test_links_are_not_covered(client: WireClient, name: str, flags: int) -> None:
    for disposition in (c.FILE_OPEN, c.FILE_CREATE, c.FILE_OPEN_IF):
        answer = client.call(Command.CREATE, create_body(name, disposition=disposition), flags=flags)
        assert status.name(answer.status) == "PATH_NOT_COVERED"


def test_a_link_itself(client: WireClient, folder: Path) -> None:
    """It is a folder in listings. By its name in the share it can be looked at and removed, by its name in the namespace it leads on."""
    answer = through(client, "server\\data\\folder\\link", options=c.FILE_OPEN_REPARSE_POINT, disposition=c.FILE_OPEN)
    assert status.name(answer.status) == "PATH_NOT_COVERED"
    opened = client.open("folder", access=c.FILE_LIST_DIRECTORY)
    view = memoryview(client.output(client.query_directory(opened, "link")))
    *_, attributes, _, ea = unpack_from("<II6QIII", view)
    assert (attributes, ea) == (c.FILE_ATTRIBUTE_DIRECTORY | c.FILE_ATTRIBUTE_REPARSE_POINT, reparse.TAG_DFS)
    itself = client.open("folder\\link", options=c.FILE_OPEN_REPARSE_POINT | c.FILE_DELETE_ON_CLOSE, disposition=c.FILE_OPEN)
    assert client.close(itself).status == status.SUCCESS
    assert not (folder / "folder" / "link").is_symlink()


def test_no_client_makes_a_link_to_another_server(client: WireClient, folder: Path) -> None:
    opened = client.open("mine", options=c.FILE_OPEN_REPARSE_POINT, disposition=c.FILE_CREATE)
    data = pack_symlink(Symlink("msdfs:evil\\share", True))
    assert client.ioctl(c.FSCTL_SET_REPARSE_POINT, data, opened).status == status.SUCCESS
    client.close(opened)
    assert not (folder / "mine").is_symlink()
    assert status.name(client.create("mine").status) == "STOPPED_ON_SYMLINK"


def test_no_client_makes_one_of_a_reparse_point(house: House, client: WireClient, pipes: WireClient, folder: Path) -> None:
    """The tag that stands for links of a namespace is nobody's to set, and one that a file has been given some other way means nothing."""
    opened = client.open("mine", options=c.FILE_OPEN_REPARSE_POINT, disposition=c.FILE_CREATE)
    answer = client.ioctl(c.FSCTL_SET_REPARSE_POINT, reparse.pack_dfs("evil\\share"), opened)
    assert status.name(answer.status) == "IO_REPARSE_TAG_INVALID"
    client.close(opened)
    os.setxattr(folder / "mine", "user.SmbReparse", reparse.pack_dfs("evil\\share"))
    assert client.set_info(client.open("mine"), c.INFO_FILE, 4, pack("<qqqqII", 0, 0, 0, 0, 0x420, 0)).status == status.SUCCESS
    assert client.create("mine").status == status.SUCCESS
    assert told(pipes, ask(pipes, "\\server\\data\\mine"))[2] == [(4, 1, "\\server\\data", "\\server\\data")]


def test_a_link_is_no_other_link_afterwards(client: WireClient, folder: Path) -> None:
    opened = client.open("folder\\link", options=c.FILE_OPEN_REPARSE_POINT, disposition=c.FILE_OPEN, access=c.GENERIC_ALL)
    assert client.ioctl(c.FSCTL_SET_REPARSE_POINT, reparse.pack_dfs("evil\\share"), opened).status != status.SUCCESS
    assert os.readlink(folder / "folder" / "link") == LINK


SECRET = "msdfs root = yes\nsmb encrypt = required\n[proxy]\nmsdfs proxy = \\elsewhere\\share\nsmb encrypt = required\n"


@pytest.mark.parametrize("form", [ask, ask_ex])
@pytest.mark.parametrize("name", ["\\server\\data\\folder\\link", "\\server\\data\\missing", "\\server\\proxy", "\\server\\proxy\\x"])
def test_what_is_in_a_share_that_insists_on_encryption_does_not_leave_in_the_clear(
    make_house: Callable[..., House], folder: Path, name: str, form: Callable[..., Response]
) -> None:
    (folder / "folder").mkdir()
    os.symlink(LINK, folder / "folder" / "link")
    client = make_house(share_text=SECRET).client(share="IPC$")
    assert status.name(form(client, name).status) == "ACCESS_DENIED"
    client.seal = True
    assert form(client, name).status == status.SUCCESS


def test_that_there_is_such_a_share_hears_who_could_use_it(make_house: Callable[..., House]) -> None:
    house = make_house(share_text=SECRET)
    assert told(able := house.client(share="IPC$"), ask(able, "\\server\\data"))[2] == [(4, 1, "\\server\\data", "\\server\\data")]
    unable = house.client(share="IPC$", offer=Offer(dialects=(0x0210,)))
    assert status.name(ask(unable, "\\server\\data").status) == "ACCESS_DENIED"
