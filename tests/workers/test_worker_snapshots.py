"""Previous versions ([MS-SMB2] 2.2.13.2.7, 3.3.5.9.4, 3.3.5.15.1) through a worker in memory: what was, beside what is."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.fscc import directory, query
from smbd.smb2.messages import create
from smbd.smb2.messages import create_contexts as contexts
from smbd.smb2.messages.ioctl import SRV_SNAPSHOT_ARRAY
from tests.wire_client import Response, WireClient
from tests.workers.house import House, Wire
from workers.tree import TreeConnect
from workers.vfs import snapshots
from workers.vfs.attributes import EPOCH

ON_ERRANDS_TOO = True

TIME = 1_600_000_000
TOKEN = "@GMT-2020.09.13-12.26.40"
LATER, LATER_TOKEN = TIME + 86400, "@GMT-2020.09.14-12.26.40"
OPTIONS = "vfs objects = shadow_copy2\nshadow:basedir = {folder}\nshadow:snapdir = {snapdir}\n"
Made = Callable[..., WireClient]


@pytest.fixture
def snapdir(tmp_path: Path) -> Path:
    made = tmp_path / "snapshots"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def connect(make_house: Callable[..., House], folder: Path, snapdir: Path) -> Made:
    """A client of a share with two snapshots: ``more`` says what else the share's section has."""

    def made(more: str = "") -> WireClient:
        options = OPTIONS.format(folder=folder, snapdir=snapdir) + more
        return make_house(share_text=options).client()

    (folder / "dir").mkdir()
    (folder / "dir" / "Kept").write_bytes(b"first")
    (folder / "gone").write_bytes(b"it was here")
    shutil.copytree(folder, snapdir / TOKEN)
    (folder / "dir" / "Kept").write_bytes(b"second")
    (folder / "gone").unlink()
    shutil.copytree(folder, snapdir / LATER_TOKEN)
    (folder / "dir" / "Kept").write_bytes(b"what is")
    (snapdir / "no snapshot").mkdir()
    (snapdir / "@GMT-2020.13.01-00.00.00").mkdir()
    return made


def as_it_was(client: WireClient, name: str, seconds: int = TIME, **options: int) -> Response:
    warp = contexts.TIMEWARP.pack(EPOCH + seconds * 10_000_000)
    wish = {"access": c.FILE_READ_DATA | c.FILE_READ_ATTRIBUTES, "disposition": c.FILE_OPEN, **options}
    return client.create(name, contexts=[(contexts.TIMEWARP_TOKEN, warp)], **wish)


def opened(answer: Response) -> tuple[int, int]:
    found = answer.parse(create.CREATE_RESPONSE)
    return found.file_id_persistent, found.file_id_volatile


def names_in(client: WireClient, folder: tuple[int, int]) -> set[str]:
    found, raw, at = set(), client.output(client.query_directory(folder, info_class=directory.FILE_DIRECTORY_INFORMATION)), 0
    while True:
        entry = directory.DIRECTORY.unpack(raw, at)
        start = at + directory.DIRECTORY.size
        found.add(raw[start : start + entry.file_name_length].decode("utf-16-le"))
        if not entry.next_entry_offset:
            return found - {".", ".."}
        at += entry.next_entry_offset


def test_a_file_is_read_as_it_was(connect: Made) -> None:
    client = connect()
    for seconds, content in ((TIME, b"first"), (LATER, b"second")):
        answer = as_it_was(client, "dir\\KEPT", seconds)
        assert answer.status == status.SUCCESS
        assert client.read_data(opened(answer), 0, 100) == content
    assert client.read_data(client.open("dir\\Kept", disposition=c.FILE_OPEN), 0, 100) == b"what is"
    assert as_it_was(client, "gone").status == status.SUCCESS
    assert as_it_was(client, "gone", LATER).status == status.OBJECT_NAME_NOT_FOUND
    assert as_it_was(client, "gone", TIME + 1).status == status.OBJECT_NAME_NOT_FOUND


@pytest.mark.parametrize("name", [f"{TOKEN}\\dir\\Kept", f"dir\\{TOKEN}\\Kept", f"dir\\Kept\\{TOKEN}"])
def test_a_token_may_stand_anywhere_in_a_name(connect: Made, name: str) -> None:
    client = connect()
    handle = client.open(name, disposition=c.FILE_OPEN, access=c.FILE_READ_DATA)
    assert client.read_data(handle, 0, 100) == b"first"


def test_a_directory_is_listed_as_it_was(connect: Made) -> None:
    client = connect()
    root = opened(as_it_was(client, ""))
    assert names_in(client, root) == {"dir", "gone"}
    inside = opened(as_it_was(client, "dir"))
    exact = client.query_directory(inside, "kept", info_class=directory.FILE_DIRECTORY_INFORMATION)
    assert directory.DIRECTORY.unpack(client.output(exact)).end_of_file == len(b"first")
    shown = client.output(client.query_info(inside, c.INFO_FILE, query.FILE_NORMALIZED_NAME_INFORMATION))
    assert shown[4:].decode("utf-16-le") == "dir"


def test_nothing_of_a_snapshot_is_changed(connect: Made, snapdir: Path) -> None:
    """Its opener may have asked for anything: a program that opens for writing and only reads works, as with Windows."""
    client = connect()
    every = c.FILE_ALL_ACCESS
    file, folder = opened(as_it_was(client, "dir\\Kept", access=every)), opened(as_it_was(client, "dir", access=every))
    protected = status.MEDIA_WRITE_PROTECTED
    assert client.write(file, 0, b"x").status == protected
    size = (3).to_bytes(8, "little")
    for info_class, data in ((20, size), (19, size), (13, b"\1"), (10, bytes(16) + (2).to_bytes(4, "little") + b"x\0"), (4, bytes(40))):
        assert client.set_info(file, c.INFO_FILE, info_class, data).status == protected, info_class
    assert client.set_info(file, c.INFO_FILE, query.FILE_POSITION_INFORMATION, size).status == status.SUCCESS
    assert client.ioctl(c.FSCTL_SET_SPARSE, b"", file).status == protected
    for wish in ({"disposition": c.FILE_OVERWRITE}, {"disposition": c.FILE_SUPERSEDE}, {"options": c.FILE_DELETE_ON_CLOSE}):
        assert as_it_was(client, "dir\\Kept", access=every, **wish).status == protected
    for name in ("dir\\new", "dir\\Kept:stream"):
        assert as_it_was(client, name, access=every, disposition=c.FILE_OPEN_IF).status == protected
    now = client.open("dir\\Kept", disposition=c.FILE_OPEN)
    target = f"{TOKEN}\\there".encode("utf-16-le")
    rename = bytes(16) + len(target).to_bytes(4, "little") + target
    assert client.set_info(now, c.INFO_FILE, 10, rename).status == protected
    for handle in (file, folder, now):
        assert client.close(handle).status == status.SUCCESS
    assert (snapdir / TOKEN / "dir" / "Kept").read_bytes() == b"first"
    assert sorted(os.listdir(snapdir / TOKEN / "dir")) == ["Kept"]


def test_who_has_the_file_to_himself_has_not_what_it_was(connect: Made, folder: Path, snapdir: Path) -> None:
    """A snapshot may have the inode numbers of what is."""
    (snapdir / TOKEN / "same").hardlink_to(folder / "dir" / "Kept")
    client = connect("shadow:fixinodes = yes")
    mine = client.open("dir\\Kept", disposition=c.FILE_OPEN, share=0)
    then = as_it_was(client, "same", share=0)
    assert then.status == status.SUCCESS
    numbers = [client.output(client.query_info(one, c.INFO_FILE, query.FILE_INTERNAL_INFORMATION)) for one in (mine, opened(then))]
    assert numbers[0] != numbers[1]


def snapshots_of(client: WireClient, handle: tuple[int, int], size: int = 65536) -> tuple[int, int, int, list[str]]:
    answer = client.ioctl(c.FSCTL_SRV_ENUMERATE_SNAPSHOTS, b"", handle, size)
    assert answer.status == status.SUCCESS
    raw = client.output(answer)
    fixed = SRV_SNAPSHOT_ARRAY.unpack(raw)
    return *fixed, [name for name in raw[SRV_SNAPSHOT_ARRAY.size :].decode("utf-16-le").split("\0") if name]


def test_snapshots_are_told_the_newest_first(connect: Made) -> None:
    client = connect()
    for name in ("", "dir", "dir\\Kept"):
        handle = client.open(name, disposition=c.FILE_OPEN)
        assert snapshots_of(client, handle) == (2, 2, 102, [LATER_TOKEN, TOKEN])
    # Where there is no room, how much there has to be.
    assert snapshots_of(client, handle, 16) == (2, 0, 102, [])
    assert client.ioctl(c.FSCTL_SRV_ENUMERATE_SNAPSHOTS, b"", handle, 15).status == status.INVALID_PARAMETER
    assert snapshots_of(client, handle, 114)[3] == [LATER_TOKEN, TOKEN]


def test_there_are_none_where_the_share_names_none(client: WireClient) -> None:
    handle = client.open("f")
    assert snapshots_of(client, handle) == (0, 0, 0, [])
    assert as_it_was(client, "f").status == status.OBJECT_NAME_NOT_FOUND
    client.close(client.open(TOKEN, options=c.FILE_DIRECTORY_FILE))  # a name like any other


def test_only_the_newest_of_thousands_are_told(connect: Made, snapdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "MOST", 3)
    for day in range(1, 10):
        (snapdir / f"@GMT-2021.01.{day:02}-00.00.00").mkdir()
    client = connect("shadow:sort = asc")
    assert snapshots_of(client, client.open("dir"))[3] == [f"@GMT-2021.01.{day:02}-00.00.00" for day in (7, 8, 9)]


def test_a_snapshot_that_comes_and_one_that_goes(connect: Made, snapdir: Path) -> None:
    client = connect()
    handle = client.open("dir")
    assert len(snapshots_of(client, handle)[3]) == 2
    third = "@GMT-2022.01.01-00.00.00"
    shutil.copytree(snapdir / TOKEN, snapdir / third)
    assert client.create(f"{third}\\gone", disposition=c.FILE_OPEN).status == status.SUCCESS
    assert snapshots_of(client, handle)[0] == 3
    shutil.rmtree(snapdir / third)
    assert client.create(f"{third}\\gone", disposition=c.FILE_OPEN).status == status.OBJECT_NAME_NOT_FOUND


@pytest.mark.parametrize(
    ("options", "name", "seconds"),
    [
        ("shadow:format = snap-%Y%m%d_%H%M", "snap-20200913_1226", TIME - 40),
        ("shadow:format = daily.%lu\nshadow:sscanf = yes", f"daily.{TIME}", TIME),
        ("shadow:format = %Y-%m-%d-%H%M%S\nshadow:localtime = yes", "2020-09-13-142640", TIME),
        ("shadow:format = _GMT-%Y.%m.%d-%H.%M.%S\nshadow:snapprefix = ^\\(hourly\\|daily\\)$", f"daily_{TOKEN[1:]}", TIME),
    ],
)
def test_snapshots_have_other_names(connect: Made, snapdir: Path, options: str, name: str, seconds: int) -> None:
    """As snapper, zfs-auto-snapshot and their like call them; in summer, east of Greenwich."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0")
    time.tzset()
    try:
        (snapdir / TOKEN).rename(snapdir / name)
        (snapdir / f"weekly_{LATER_TOKEN[1:]}").mkdir()
        client = connect(options)
        assert len(snapshots_of(client, client.open("dir"))[3]) == 1
        assert as_it_was(client, "gone", seconds).status == status.SUCCESS
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_share_lies_within_what_a_snapshot_is_of(make_house: Callable[..., House], folder: Path, tmp_path: Path) -> None:
    """btrfs with snapper, and ZFS: the snapshots beneath the file system's root, the share somewhere in it."""
    (folder / "inner").write_bytes(b"what is")
    was = tmp_path / ".zfs" / "snapshot" / TOKEN / "data"
    was.mkdir(parents=True)
    (was / "inner").write_bytes(b"what was")
    options = f"vfs objects = acl_xattr shadow_copy2\nshadow:mountpoint = {tmp_path}\nshadow:snapdir = .zfs/snapshot\n"
    client = make_house(share_text=options).client()
    assert client.read_data(opened(as_it_was(client, "inner")), 0, 100) == b"what was"


def test_snapshots_may_lie_in_any_directory(make_house: Callable[..., House], folder: Path, tmp_path: Path) -> None:
    """``shadow:snapdirseverywhere``: the nearest counts; above the share's root too, up to the mount point."""
    near, far = folder / "a" / ".snaps" / TOKEN, tmp_path / ".snaps" / LATER_TOKEN / "data" / "a"
    for place, content in ((near, b"near"), (far, b"far")):
        place.mkdir(parents=True)
        (place / "f").write_bytes(content)
    (folder / "a" / "f").write_bytes(b"what is")
    options = f"shadow:mountpoint = {tmp_path}\nshadow:snapdir = .snaps\nshadow:snapdirseverywhere = yes\n"
    client = make_house(share_text="vfs objects = shadow_copy2\n" + options).client()
    assert client.read_data(opened(as_it_was(client, "a\\f")), 0, 100) == b"near"
    assert client.read_data(opened(as_it_was(client, "a\\f", LATER)), 0, 100) == b"far"
    assert snapshots_of(client, client.open("a\\f", disposition=c.FILE_OPEN))[3] == [LATER_TOKEN, TOKEN]
    assert snapshots_of(client, client.open("", options=c.FILE_DIRECTORY_FILE))[3] == [LATER_TOKEN]
    assert names_in(client, opened(as_it_was(client, "a"))) == {"f"}


@pytest.mark.parametrize("name", ["secret", ".millpond"])
def test_what_no_client_sees_is_not_seen_as_it_was(make_house: Callable[..., House], folder: Path, tmp_path: Path, name: str) -> None:
    """Where every directory has snapshots, one may lie beneath a name that the share conceals."""
    (folder / name / ".snaps" / TOKEN).mkdir(parents=True)
    (folder / name / ".snaps" / TOKEN / "f").write_bytes(b"forbidden")
    options = f"shadow:mountpoint = {tmp_path}\nshadow:snapdir = .snaps\nshadow:snapdirseverywhere = yes\nveto files = /secret/\n"
    client = make_house(share_text="vfs objects = shadow_copy2\n" + options).client()
    for path in (f"{name}\\f", name):
        assert as_it_was(client, path).status == status.OBJECT_NAME_NOT_FOUND
    assert client.create(f"{name}\\{TOKEN}\\f", disposition=c.FILE_OPEN).status == status.OBJECT_NAME_NOT_FOUND


def test_nothing_leads_out_of_a_snapshot(connect: Made, snapdir: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (snapdir / TOKEN / "out").symlink_to("../../secret")
    (snapdir / TOKEN / "whole").symlink_to("/")
    (snapdir / "@GMT-2023.01.01-00.00.00").symlink_to(tmp_path)
    client = connect()
    assert as_it_was(client, "out").status != status.SUCCESS
    assert as_it_was(client, "whole\\etc").status != status.SUCCESS
    assert client.create("@GMT-2023.01.01-00.00.00\\secret", disposition=c.FILE_OPEN).status == status.OBJECT_NAME_NOT_FOUND
    assert as_it_was(client, "..\\secret").status == status.OBJECT_PATH_SYNTAX_BAD


def test_descriptors_are_given_back(connect: Made, snapdir: Path, house: House) -> None:
    """However many snapshots are looked at, few stay open; none does when its share is left."""
    for day in range(1, 29):
        shutil.copytree(snapdir / TOKEN, snapdir / f"@GMT-2021.02.{day:02}-00.00.00")
    client = connect()
    client.echo()
    before = len(os.listdir("/proc/self/fd"))
    for day in range(1, 29):
        handle = client.open(f"@GMT-2021.02.{day:02}-00.00.00\\gone", disposition=c.FILE_OPEN, access=c.FILE_READ_DATA)
        client.close(handle)
    assert len(os.listdir("/proc/self/fd")) <= before + 8
    held = [client.open(f"@GMT-2021.02.{day:02}-00.00.00\\gone", disposition=c.FILE_OPEN) for day in range(1, 29)]
    for handle in held:
        assert client.read_data(handle, 0, 100) == b"it was here"
        client.close(handle)
    assert len(os.listdir("/proc/self/fd")) <= before + 8


def test_snapshots_may_lie_in_the_share(make_house: Callable[..., House], folder: Path) -> None:
    was = folder / ".snapshots" / TOKEN
    was.mkdir(parents=True)
    (was / "f").write_bytes(b"what was")
    client = make_house(share_text="vfs objects = shadow_copy2").client()
    assert client.read_data(opened(as_it_was(client, "f")), 0, 100) == b"what was"


def test_a_large_stream_is_in_the_snapshot_too(connect: Made, folder: Path, snapdir: Path) -> None:
    """It lies beneath the share's root, in a file of its own that knows its file by the inode number, which real snapshots keep."""
    client = connect()
    stream = client.open("dir\\Kept:large")
    assert client.write(stream, 0, bytes(range(256)) * 256).status == status.SUCCESS
    client.close(stream)
    token = "@GMT-2022.01.01-00.00.00"
    shutil.copytree(folder, snapdir / token, copy_function=os.link)
    then = client.open(f"{token}\\dir\\Kept:large", disposition=c.FILE_OPEN, access=c.FILE_READ_DATA)
    assert client.read_data(then, 0, 65536) == bytes(range(256)) * 256


def test_a_snapshot_that_nobody_uses_is_let_go(connect: Made, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file system could not destroy it else."""
    monkeypatch.setattr(snapshots, "_IDLE", 0.0)
    client = connect()
    client.echo()
    before = len(os.listdir("/proc/self/fd"))
    handle = client.open(f"{TOKEN}\\gone", disposition=c.FILE_OPEN, access=c.FILE_READ_DATA)
    (tree,) = (tree for tree in client_trees(client) if tree.vfs is not None)
    assert tree.vfs is not None
    tree.vfs.tidy()
    assert client.read_data(handle, 0, 100) == b"it was here"
    client.close(handle)
    tree.vfs.tidy()
    assert len(os.listdir("/proc/self/fd")) <= before


def client_trees(client: WireClient) -> list[TreeConnect]:
    assert isinstance(client.transport, Wire)
    return [tree for session in client.transport.worker.sessions.values() for tree in session.trees.values()]


def test_the_snapshots_that_snapper_keeps(make_house: Callable[..., House], folder: Path) -> None:
    """Numbers, each with a file that says its time."""
    info = "<?xml version=\"1.0\"?>\n<snapshot>\n  <type>single</type>\n  <num>{}</num>\n  <date>{}</date>\n</snapshot>\n"
    for number, date in ((7, "2020-09-13 12:26:40"), (8, "2020-09-14 12:26:40"), (9, "2020-09-31 12:26:40"), (10, "")):
        was = folder / ".snapshots" / str(number) / "snapshot"
        was.mkdir(parents=True)
        (was / "f").write_text(f"number {number}")
        (was.parent / "info.xml").write_text(info.format(number, date))
    (folder / ".snapshots" / "11").mkdir()
    client = make_house(share_text="vfs objects = snapper").client()
    assert snapshots_of(client, client.open("now"))[3] == [LATER_TOKEN, TOKEN]
    assert client.read_data(opened(as_it_was(client, "f", LATER)), 0, 100) == b"number 8"
    assert names_in(client, opened(as_it_was(client, ""))) == {"f"}


def test_a_users_symlink_is_no_way_to_anothers_snapshots(make_house: Callable[..., House], folder: Path, tmp_path: Path) -> None:
    """Root goes to the snapdir, which lies where users may write: it would go for them where they may not."""
    secret = tmp_path / "other" / ".snapshots" / TOKEN
    secret.mkdir(parents=True)
    (secret / "f").write_bytes(b"secret")
    (folder / ".snapshots").symlink_to(tmp_path / "other" / ".snapshots")
    client = make_house(share_text=f"vfs objects = shadow_copy2\nshadow:mountpoint = {folder}").client()
    assert as_it_was(client, "f").status == status.OBJECT_NAME_NOT_FOUND
    assert snapshots_of(client, client.open("now"))[3] == []
