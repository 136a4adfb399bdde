"""Duplicate extents: the rules by a port that clones by copying, and the real thing on a small btrfs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from struct import pack, unpack_from

import pytest

from pools.port import files
from smbd.smb2 import constants as c
from smbd.smb2 import status
from smbd.smb2.fscc import filesystem
from tests.btrfs import run
from tests.wire_client import FileId, Response, WireClient
from tests.workers.house import House

ON_ERRANDS_TOO = True
BLOCK = 4096
CONTENT = bytes(range(256)) * 32  # two blocks


def clone(client: WireClient, source: FileId, target: FileId, *numbers: int) -> Response:
    """``numbers``: offset in the source, offset in the target, length."""
    return client.ioctl(c.FSCTL_DUPLICATE_EXTENTS_TO_FILE, pack("<QQqqq", *source, *numbers), target)


def copied(source: int, target: int, count: int, source_offset: int, target_offset: int) -> None:
    os.pwrite(target, os.pread(source, count, source_offset), target_offset)


@pytest.fixture
def client(house: House, folder: Path, monkeypatch: pytest.MonkeyPatch) -> WireClient:
    monkeypatch.setattr(files, "may_share_blocks", lambda _fd: True)
    monkeypatch.setattr(files, "clone_range", copied)
    (folder / "source").write_bytes(CONTENT)
    return house.client()


def shares_blocks(client: WireClient, opened: FileId) -> bool:
    answer = client.output(client.query_info(opened, c.INFO_FILESYSTEM, filesystem.FILE_FS_ATTRIBUTE_INFORMATION))
    return bool(unpack_from("<I", answer)[0] & filesystem.FILE_SUPPORTS_BLOCK_REFCOUNTING)


def test_a_range_is_cloned_and_never_makes_the_target_longer(client: WireClient, folder: Path) -> None:
    (folder / "target").write_bytes(bytes(BLOCK + 100))
    source, target = client.open("source"), client.open("target")
    assert shares_blocks(client, target)
    assert clone(client, source, target, 0, BLOCK, BLOCK).status == status.SUCCESS
    assert (folder / "target").read_bytes() == bytes(BLOCK) + CONTENT[:100]
    assert clone(client, source, target, 0, 1 << 40, BLOCK).status == status.SUCCESS
    assert clone(client, source, target, 0, 0, 0).status == status.SUCCESS
    assert clone(client, source, target, BLOCK, 0, BLOCK + 1).status == status.NOT_SUPPORTED
    assert (folder / "target").read_bytes() == bytes(BLOCK) + CONTENT[:100]


def test_one_file_is_source_and_target(client: WireClient, folder: Path) -> None:
    opened = client.open("source")
    assert clone(client, opened, opened, 0, 100, BLOCK).status == status.NOT_SUPPORTED
    assert clone(client, opened, opened, 0, BLOCK, BLOCK).status == status.SUCCESS
    assert (folder / "source").read_bytes() == CONTENT[:BLOCK] * 2


def test_a_sparse_source_wants_a_sparse_target(client: WireClient, folder: Path) -> None:
    (folder / "target").write_bytes(bytes(BLOCK))
    source, target = client.open("source"), client.open("target")
    assert client.ioctl(c.FSCTL_SET_SPARSE, b"", source).status == status.SUCCESS
    assert clone(client, source, target, 0, 0, BLOCK).status == status.NOT_SUPPORTED
    assert client.ioctl(c.FSCTL_SET_SPARSE, b"", target).status == status.SUCCESS
    assert clone(client, source, target, 0, 0, BLOCK).status == status.SUCCESS


def test_clones_that_make_no_sense(house: House, client: WireClient, folder: Path) -> None:
    (folder / "folder").mkdir()
    source, target = client.open("source"), client.open("target")
    for numbers in ((-1, 0, 1), (0, -1, 1), (0, 0, -1), (0x7FFFFFFFFFFFFFFF, 0, 1), (0, 0x7FFFFFFFFFFFFFFF, 1)):
        assert clone(client, source, target, *numbers).status == status.INVALID_PARAMETER
    assert client.ioctl(c.FSCTL_DUPLICATE_EXTENTS_TO_FILE, bytes(39), target).status == status.INVALID_PARAMETER
    directory = client.open("folder", access=c.FILE_READ_DATA)
    assert clone(client, directory, target, 0, 0, 1).status == status.INVALID_PARAMETER
    assert clone(client, (1, 2), target, 0, 0, 1).status == status.INVALID_HANDLE
    stream = client.open("source:stream")
    client.write(stream, 0, b"content")
    client.write(target, 0, b"content")
    assert clone(client, stream, target, 0, 0, 7).status == status.NOT_SUPPORTED
    assert clone(client, target, stream, 0, 0, 7).status == status.NOT_SUPPORTED
    assert clone(client, client.open("source", access=c.FILE_WRITE_DATA), target, 0, 0, 1).status == status.ACCESS_DENIED
    assert clone(client, source, client.open("target", access=c.FILE_READ_DATA), 0, 0, 1).status == status.ACCESS_DENIED
    other = house.client()
    assert clone(other, source, other.open("target"), 0, 0, 1).status == status.INVALID_HANDLE


def test_a_file_system_that_shares_nothing(client: WireClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "may_share_blocks", lambda _fd: False)
    source, target = client.open("source"), client.open("target")
    assert not shares_blocks(client, target)
    assert clone(client, source, target, 0, 0, 1).status == status.INVALID_DEVICE_REQUEST


def test_blocks_are_shared_between_shares_of_a_file_system(make_house: Callable[..., House], btrfs: Path) -> None:
    """Without a fake: the second share's folder is on the same volume, the first one's is on none that can clone."""
    for name in ("one", "two"):
        (btrfs / name).mkdir(mode=0o777)
    text = "".join(f"[{name}]\npath = {btrfs / name}\nread only = no\n" for name in ("one", "two"))
    client = make_house(share_text=text).client(share="one")
    content = os.urandom(1 << 20)
    (btrfs / "one" / "source").write_bytes(content)
    (btrfs / "two" / "target").write_bytes(bytes(1 << 20))
    source = client.open("source")
    assert shares_blocks(client, source)
    assert client.tree_connect("two").status == status.SUCCESS
    target = client.open("target")
    assert clone(client, source, target, 0, 0, 1 << 20).status == status.SUCCESS
    assert (btrfs / "two" / "target").read_bytes() == content
    assert clone(client, source, target, 1, 0, BLOCK).status == status.INVALID_PARAMETER
    assert "shared" in run("filefrag", "-v", btrfs / "two" / "target")
    assert client.tree_connect("data").status == status.SUCCESS
    elsewhere = client.open("target")
    client.write(elsewhere, 0, content)
    assert clone(client, source, elsewhere, 0, 0, BLOCK).status == status.INVALID_DEVICE_REQUEST
