"""The POSIX extensions of SMB 3.1.1 on the wire: negotiation, exact names, modes, and their information classes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from struct import pack, unpack_from
from typing import Any, NamedTuple

import pytest

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.dtyp import SID
from smbd.smb2.fscc import change, posix
from smbd.smb2.fscc.reparse import Symlink, pack_symlink
from smbd.smb2.messages import create
from smbd.smb2.messages.create_contexts import DURABLE_RECONNECT_V2, DURABLE_REQUEST_V2, LEASE_V2, POSIX, parse_chain
from tests.wire_client import FileId, Offer, Response, WireClient
from tests.workers.house import ALICE, KEY, House
from tests.workers.test_worker_reconnect import drop
from tests.workers.test_worker_reparse import stopped_at

ON_ERRANDS_TOO = True
ITSELF = c.FILE_OPEN_REPARSE_POINT


def offer(*tags: bytes) -> Offer:
    made = Offer()
    made.contexts = [*made.make_contexts(), (c.POSIX_EXTENSIONS_AVAILABLE, b"".join(tags))]
    return made


@pytest.fixture
def client(house: House) -> WireClient:
    return house.client(offer=offer(bytes(16), POSIX))


class Created(NamedTuple):
    """What the response context says."""

    links: int
    tag: int
    mode: int
    owner: SID
    group: SID


def posix_create(client: WireClient, name: str, mode: int = 0o644, **options: Any) -> Response:
    return client.create(name, contexts=[(POSIX, pack("<I", mode))], **options)


def opened(client: WireClient, name: str, mode: int = 0o644, **options: Any) -> FileId:
    answer = posix_create(client, name, mode, **options).parse(create.CREATE_RESPONSE)
    return answer.file_id_persistent, answer.file_id_volatile


def told(response: Response) -> Created:
    answer = response.parse(create.CREATE_RESPONSE)
    data = parse_chain(memoryview(response.part(answer.create_contexts_offset, answer.create_contexts_length)))[POSIX]
    owner = SID.unpack(data, 12)
    return Created(*unpack_from("<III", data), owner, SID.unpack(data, 12 + owner.size))


def entries(client: WireClient, folder: FileId, pattern: str = "*") -> dict[str, tuple[int, int, int]]:
    """Name -> attributes, tag and mode."""
    view = memoryview(client.output(client.query_directory(folder, pattern, info_class=posix.FILE_POSIX_INFORMATION)))
    found = {}
    while True:
        following = unpack_from("<I", view)[0]
        attributes = unpack_from("<I", view, 8 + 48)[0]
        _, tag, mode = unpack_from("<III", view, 8 + posix.INFORMATION.size)
        at = 8 + posix.MINIMUM
        at += SID.unpack(view, at).size
        at += SID.unpack(view, at).size
        length = unpack_from("<I", view, at)[0]
        found[bytes(view[at + 4 : at + 4 + length]).decode("utf-16-le")] = (attributes, tag, mode)
        if not following:
            return found
        view = view[following:]


def test_negotiation(make_house: Callable[..., House]) -> None:
    house = make_house()
    client, _ = house.join()
    client.negotiate(offer(bytes(16), POSIX))
    assert client.negotiated_contexts[c.POSIX_EXTENSIONS_AVAILABLE] == POSIX
    for tags in ((), (bytes(16),), (bytes(8), POSIX), (POSIX[:15],)):
        client, _ = house.join()
        assert client.negotiate(offer(*tags)).status == status.SUCCESS
        assert c.POSIX_EXTENSIONS_AVAILABLE not in client.negotiated_contexts
    client, _ = make_house(share_text="smb3 unix extensions = no").join()
    client.negotiate(offer(POSIX))
    assert c.POSIX_EXTENSIONS_AVAILABLE not in client.negotiated_contexts


def test_who_has_not_negotiated_means_nothing_by_the_context(house: House) -> None:
    client = house.client()
    answer = posix_create(client, "F").parse(create.CREATE_RESPONSE)
    assert answer.create_contexts_length == 0
    assert posix_create(client, "f", disposition=c.FILE_OPEN).status == status.SUCCESS
    got = (answer.file_id_persistent, answer.file_id_volatile)
    assert client.query_info(got, c.INFO_FILE, posix.FILE_POSIX_INFORMATION).status == status.INVALID_INFO_CLASS
    assert client.query_info(got, c.INFO_FILESYSTEM, posix.FILE_FS_POSIX_INFORMATION).status == status.INVALID_INFO_CLASS
    root = client.open("", access=c.FILE_LIST_DIRECTORY)
    assert client.query_directory(root, info_class=posix.FILE_POSIX_INFORMATION).status == status.INVALID_INFO_CLASS


def test_names_are_told_apart_by_case_and_may_hold_anything(client: WireClient, folder: Path) -> None:
    names = ["A", "a", 'q"*:<>?|', "back\\slash", "end.", "blank ", "\x01", "f:stream", "f:$DATA"]
    for name in names:
        file_id = opened(client, name, disposition=c.FILE_CREATE)
        client.write(file_id, 0, name.encode())
        client.close(file_id)
    assert sorted(os.listdir(folder)) == sorted(names)
    assert all((folder / name).read_bytes() == name.encode() for name in names)
    assert status.name(posix_create(client, "B", disposition=c.FILE_OPEN).status) == "OBJECT_NAME_NOT_FOUND"
    assert sorted(entries(client, opened(client, "")).keys() - {".", ".."}) == sorted(names)
    assert list(entries(client, opened(client, ""), "a")) == ["a"]
    assert client.query_directory(opened(client, ""), "B", info_class=posix.FILE_POSIX_INFORMATION).status == status.NO_SUCH_FILE


@pytest.mark.parametrize("name", ["..", "a/..", "../x", ".", "d/./x", "a/../../x"])
def test_dots_lead_nowhere(client: WireClient, folder: Path, name: str) -> None:
    (folder / "d").mkdir()
    assert status.name(posix_create(client, name).status) == "OBJECT_PATH_SYNTAX_BAD"


def test_what_is_ours_stays_ours(client: WireClient, folder: Path) -> None:
    (folder / ".millpond").mkdir()
    for name in (".millpond", ".MILLPOND/x", "x/../.millpond"):
        assert posix_create(client, name).status != status.SUCCESS
    assert entries(client, opened(client, "")).keys() == {".", ".."}


def test_modes_are_as_the_client_says(client: WireClient, make_house: Callable[..., House], folder: Path) -> None:
    answer = told(posix_create(client, "f", 0o640, disposition=c.FILE_CREATE))
    assert (answer.links, answer.tag, answer.mode) == (1, 0, 0o640)
    posix_create(client, "g", 0o7777, disposition=c.FILE_CREATE)
    assert stat.S_IMODE((folder / "g").stat().st_mode) == 0o744  # `create mask` has its say
    answer = told(posix_create(client, "d", 0o700, disposition=c.FILE_CREATE, options=c.FILE_DIRECTORY_FILE))
    assert answer.mode == 1 << 12 | 0o700
    ids = client.transport.worker.ids  # type: ignore[attr-defined]
    assert (answer.owner, answer.group) == (ids.user_sid(os.geteuid()), ids.group_sid(os.getegid()))


def test_information_about_a_file(client: WireClient, folder: Path) -> None:
    (folder / "f").write_bytes(b"content")
    os.link(folder / "f", folder / "other")
    file_id = opened(client, "f")
    answer = client.output(client.query_info(file_id, c.INFO_FILE, posix.FILE_POSIX_INFORMATION))
    fixed = posix.INFORMATION.unpack(memoryview(answer))
    st = (folder / "f").stat()
    assert (fixed.end_of_file, fixed.inode, fixed.device) == (7, st.st_ino, st.st_dev & 0xFFFFFFFF)
    assert unpack_from("<III", answer, posix.INFORMATION.size) == (2, 0, stat.S_IMODE(st.st_mode))
    small = client.query_info(file_id, c.INFO_FILE, posix.FILE_POSIX_INFORMATION, size=posix.MINIMUM - 1)
    assert small.status == status.INFO_LENGTH_MISMATCH
    volume = posix.FS_INFORMATION.unpack(client.output(client.query_info(file_id, c.INFO_FILESYSTEM, posix.FILE_FS_POSIX_INFORMATION)))
    room = os.statvfs(folder)
    assert (volume.block_size, volume.total_blocks, volume.total_file_nodes) == (room.f_frsize, room.f_blocks, room.f_files)


def test_no_symlink_is_followed(client: WireClient, folder: Path) -> None:
    (folder / "d").mkdir()
    (folder / "d" / "f").write_bytes(b"content")
    (folder / "link").symlink_to("d")
    assert stopped_at(posix_create(client, "link", disposition=c.FILE_OPEN)) == ("d", "d", True, 0)
    assert stopped_at(posix_create(client, "link/f", disposition=c.FILE_OPEN))[3] == 4
    assert stopped_at(posix_create(client, "link/new/deeper", disposition=c.FILE_CREATE))[3] == 22
    itself = posix_create(client, "link", options=ITSELF, disposition=c.FILE_OPEN)
    assert told(itself).mode >> 12 == 2
    assert entries(client, opened(client, ""))["link"][2] >> 12 == 2
    assert client.create("link\\f", disposition=c.FILE_OPEN).status == status.SUCCESS  # for those without the context


def test_a_symlink_is_made(client: WireClient, folder: Path) -> None:
    file_id = opened(client, "link", options=ITSELF, disposition=c.FILE_CREATE)
    link = pack_symlink(Symlink("d/f", True))
    assert client.ioctl(c.FSCTL_SET_REPARSE_POINT, link, file_id).status == status.SUCCESS
    assert os.readlink(folder / "link") == "d/f"


def renamed(client: WireClient, file_id: FileId, name: str, flags: int, info_class: int = change.FILE_RENAME_INFORMATION_EX) -> int:
    raw = name.encode("utf-16-le")
    return client.set_info(file_id, c.INFO_FILE, info_class, pack("<I4xQI", flags, 0, len(raw)) + raw).status


def test_renames_and_links_by_exact_names(client: WireClient, folder: Path) -> None:
    (folder / "d").mkdir()
    (folder / "A").write_bytes(b"upper")
    file_id = opened(client, "f", disposition=c.FILE_CREATE)
    client.write(file_id, 0, b"content")
    assert renamed(client, file_id, "a", 0) == status.SUCCESS
    assert (folder / "A").read_bytes() == b"upper"
    assert renamed(client, file_id, "d/x:y", 0) == status.SUCCESS
    assert (folder / "d" / "x:y").read_bytes() == b"content"
    assert renamed(client, file_id, "A", 0) == status.OBJECT_NAME_COLLISION
    assert renamed(client, file_id, "d/../../x", 0) == status.OBJECT_PATH_SYNTAX_BAD
    assert renamed(client, file_id, "b\\c", 0, change.FILE_LINK_INFORMATION) == status.SUCCESS
    assert (folder / "b\\c").read_bytes() == b"content"
    assert renamed(client, file_id, "A", 1) == status.SUCCESS
    assert (folder / "A").read_bytes() == b"content"


@pytest.mark.parametrize("data", [b"", b"abc"])
def test_a_context_that_makes_no_sense(client: WireClient, data: bytes) -> None:
    assert client.create("f", contexts=[(POSIX, data)]).status == status.INVALID_PARAMETER


def test_pages_of_a_listing(client: WireClient, folder: Path) -> None:
    for number in range(100):
        (folder / f"name {number}").touch()
    root = opened(client, "")
    seen: set[str] = set()
    while (answer := client.query_directory(root, info_class=posix.FILE_POSIX_INFORMATION, size=1000)).status == status.SUCCESS:
        view, at = client.output(answer), 0
        while True:
            start = at + 8 + posix.MINIMUM
            start += SID.unpack(memoryview(view), start).size
            start += SID.unpack(memoryview(view), start).size
            length = unpack_from("<I", view, start)[0]
            seen.add(view[start + 4 : start + 4 + length].decode("utf-16-le"))
            following = unpack_from("<I", view, at)[0]
            if not following:
                break
            at += following
    assert answer.status == status.NO_MORE_FILES
    assert {name for name in seen if name not in (".", "..")} == {f"name {number}" for number in range(100)}


def test_a_further_channel_has_them_too(make_house: Callable[..., House], folder: Path) -> None:
    house = make_house(text="server multi channel support = yes")
    first = house.client(offer=offer(POSIX))
    first.sign = True
    second, _ = house.join()
    assert second.negotiate(offer(POSIX)).status == status.SUCCESS
    assert second.bind(first, lambda _: ALICE.encode(), lambda: KEY).status == status.SUCCESS
    second.sign = True
    (folder / "name").write_bytes(b"lower")
    assert told(posix_create(second, "NAME", disposition=c.FILE_CREATE)).links == 1
    assert {"name", "NAME"} <= set(os.listdir(folder))


@pytest.mark.parametrize("pattern", [".millpond\0", "name\0x", "folder/name"])
def test_a_pattern_is_a_name_or_finds_nothing(client: WireClient, folder: Path, pattern: str) -> None:
    (folder / ".millpond").mkdir()
    (folder / "folder").mkdir()
    (folder / "folder" / "name").touch()
    (folder / "name").touch()
    directory = opened(client, "", options=c.FILE_DIRECTORY_FILE)
    answer = client.query_directory(directory, pattern, info_class=posix.FILE_POSIX_INFORMATION)
    assert answer.status == status.NO_SUCH_FILE


def test_what_outlives_its_connection_still_has_them(house: House, folder: Path) -> None:
    (folder / "NAME:").touch()
    machine = offer(POSIX)
    machine.client_guid = b"M" * 16
    client = house.client(offer=machine)
    lease, durable = LEASE_V2.pack(b"K" * 16, 7, 0, 0, bytes(16), 0, 0), DURABLE_REQUEST_V2.pack(0, 0, 0, b"G" * 16)
    asked = [(POSIX, pack("<I", 0o600)), (b"RqLs", lease), (b"DH2Q", durable)]
    made = client.create("name:", oplock=c.OPLOCK_LEVEL_LEASE, contexts=asked).parse(create.CREATE_RESPONSE)
    first = made.file_id_persistent, made.file_id_volatile
    drop(house, client)
    back = house.client(offer=machine)
    again = [asked[1], (b"DH2C", DURABLE_RECONNECT_V2.pack(*first, b"G" * 16, 0))]
    assert back.create("NAME:", contexts=again).status == status.INVALID_PARAMETER
    found = back.create("name:", contexts=again).parse(create.CREATE_RESPONSE)
    second = found.file_id_persistent, found.file_id_volatile
    assert back.query_info(second, c.INFO_FILE, posix.FILE_POSIX_INFORMATION).status == status.SUCCESS
    assert renamed(back, second, "Name:", 0) == status.SUCCESS
    assert sorted(os.listdir(folder)) == ["NAME:", "Name:"]
