"""Named streams in both their places."""

from __future__ import annotations

import os

import pytest

from smbd.smb2.names import parse_text
from smbd.smb2.status import SmbError
from workers.vfs import streamstore
from workers.vfs.interface import StreamInfo


def stored(share):
    base = share.root / ".millpond" / "streams"
    return [entry for entry in base.rglob("*") if entry.is_file()] if base.exists() else []


def test_a_small_stream_is_sambas_xattr(share):
    share.put("f", b"main")
    share.put("f:Zone.Identifier", b"[ZoneTransfer]")
    assert os.getxattr(share.root / "f", "user.DosStream.Zone.Identifier:$DATA") == b"[ZoneTransfer]\0"
    assert share.read("F:zone.identifier:$DATA") == b"[ZoneTransfer]"
    assert share.read("f") == b"main"
    handle = share.open("f")
    assert handle.streams()[1] == StreamInfo("Zone.Identifier", 14, 16)
    handle.close()


def test_creating_a_stream_makes_its_file(share):
    share.put("new:s", b"1")
    assert share.read("new") == b""
    with pytest.raises(FileNotFoundError):
        share.open("new:other")
    with pytest.raises(FileExistsError):
        share.put("new:S")


def test_streams_of_directories(share):
    share.put("d", directory=True)
    share.put("d:s", b"of a directory")
    handle = share.open("d:s")
    assert not handle.directory
    assert handle.info().attributes & 0x10 == 0
    handle.close()
    directory = share.open("d")
    assert [entry.name for entry in directory.streams()] == ["s"]
    directory.close()


@pytest.mark.parametrize("size", [0, 1, 2000, 3900, 4100, 16384, 16385, 300_000])
def test_any_size(share, size):
    content = bytes(index % 251 for index in range(size))
    share.put("f")
    share.put("f:s", content)
    assert share.read("f:s") == content
    handle = share.open("f:s")
    assert handle.info().size == size
    handle.close()


def test_a_growing_stream_moves_and_other_handles_follow(share):
    share.put("f")
    first = share.make("f:s", b"small")
    second = share.open("f:s")
    first.pwrite(b"x" * 20_000, 5)
    assert second.info().size == 20_005
    second.activate(True, True)
    second.pwrite(b"end", 20_005)
    view = memoryview(bytearray(5))
    assert first.pread_into(view, 20_003) == 5
    assert bytes(view) == b"xxend"
    assert len(stored(share)) == 1
    first.truncate(3)
    assert second.info().size == 3
    first.close()
    second.close()


def test_holes_and_truncation_in_an_xattr(share):
    handle = share.make("f:s")
    handle.pwrite(b"b", 10)
    handle.truncate(12)
    handle.zero_range(10, 5)
    handle.close()
    assert share.read("f:s") == bytes(12)


def test_deleting_removes_the_stored_content(share):
    share.put("f")
    share.put("f:one", b"1" * 30_000)
    share.put("f:two", b"2" * 30_000)
    assert len(stored(share)) == 2
    handle = share.open("f:one")
    share.vfs.unlink(handle)
    handle.close()
    assert len(stored(share)) == 1
    handle = share.open("f")
    share.vfs.unlink(handle)
    handle.close()
    assert stored(share) == []


def test_replacing_a_file_removes_its_stored_content(share):
    share.put("old:s", b"2" * 30_000)
    share.put("new", b"new")
    handle = share.open("new")
    share.vfs.rename(handle, parse_text("OLD"), True)
    handle.close()
    assert stored(share) == []
    assert share.read("old") == b"new"


def test_rename_of_streams(share):
    share.put("f:a", b"")
    share.put("f:b", b"b" * 30_000)
    share.put("f:full", b"kept")
    share.put("f:large", b"kept" * 10_000)
    handle = share.open("f:b")
    with pytest.raises(SmbError):
        share.vfs.rename(handle, parse_text("f:A"), False)
    for full in ("f:full", "f:large"):
        with pytest.raises(SmbError):
            share.vfs.rename(handle, parse_text(full), True)
    share.vfs.rename(handle, parse_text("f:A"), True)
    share.vfs.rename(handle, parse_text("f:Third"), False)
    handle.close()
    assert share.read("f:third") == b"b" * 30_000
    assert share.read("f:large") == b"kept" * 10_000


@pytest.mark.parametrize("content", [b"", b"short", b"long" * 300_000])
def test_a_stream_becomes_its_file_s_content(share, content):
    share.put("f")
    share.put("f:other", b"stays")
    share.put("f:s", content)
    handle = share.open("f:s")
    made = share.vfs.absorb(handle)
    handle.close()
    assert (made.path.wire(), made.info().size) == ("f", len(content))
    assert made.pwrite(b"more", len(content)) == 4
    made.close()
    assert share.read("f") == content + b"more"
    assert share.read("f:other") == b"stays"
    assert stored(share) == []
    with pytest.raises(FileNotFoundError):
        share.open("f:s")


def test_a_stream_replaces_no_content(share):
    share.put("f", b"content")
    share.put("f:s", b"stream")
    handle = share.open("f:s")
    with pytest.raises(SmbError):
        share.vfs.absorb(handle)
    handle.close()
    assert (share.read("f"), share.read("f:s")) == (b"content", b"stream")


def test_a_forged_token_opens_nothing(share):
    share.put("victim:s", b"v" * 30_000)
    token = os.getxattr(share.root / "victim", "user.millpond.stream.s")
    share.put("thief")
    os.setxattr(share.root / "thief", "user.millpond.stream.s", token)
    with pytest.raises(FileNotFoundError):
        share.open("thief:s")
    os.setxattr(share.root / "thief", "user.millpond.stream.t", b"../../../../etc/passwd")
    with pytest.raises(FileNotFoundError):
        share.open("thief:t")
    handle = share.open("thief")
    share.vfs.unlink(handle)
    handle.close()
    assert share.read("victim:s") == b"v" * 30_000


def test_a_full_disk_leaves_the_stream_as_it_was(share, monkeypatch):
    share.put("f:s", b"before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(streamstore, "_write", full)
    handle = share.open("f:s")
    with pytest.raises(OSError):
        handle.pwrite(b"x" * 30_000, 0)
    handle.close()
    assert share.read("f:s") == b"before"
    assert stored(share) == []
