"""What the machine refuses: a full disk, no descriptors left, file systems without xattrs."""

from __future__ import annotations

import errno
import os
import resource

import pytest

from pools.port import files
from pools.port.linux.attributes import Xattrs
from smbd.smb2 import status
from smbd.smb2.names import parse_text
from workers.vfs.errors import smb_error


def test_a_disk_that_fills_in_the_middle_of_a_write(share, monkeypatch):
    handle = share.make("f")
    real = files.pwrite

    def filling(fd, data, offset):
        if offset >= 4096:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data[:4096], offset)

    monkeypatch.setattr(files, "pwrite", filling)
    with pytest.raises(OSError) as caught:
        handle.pwrite(b"x" * 10_000, 0)
    assert smb_error(caught.value).status == status.DISK_FULL
    monkeypatch.undo()
    assert handle.info().size == 4096
    handle.close()


def test_short_writes_are_continued(share, monkeypatch):
    handle = share.make("f")
    real = files.pwrite
    monkeypatch.setattr(files, "pwrite", lambda fd, data, offset: real(fd, data[:1000], offset))
    assert handle.pwrite(memoryview(bytes(range(250)) * 10), 0) == 2500
    monkeypatch.undo()
    handle.close()
    assert share.read("f") == bytes(range(250)) * 10


def test_no_descriptors_left(share):
    share.put("f")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 3, hard))
    kept = []
    try:
        with pytest.raises(OSError) as caught:
            kept.extend(share.open("f") for _ in range(used + 5))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert smb_error(caught.value).status == status.TOO_MANY_OPENED_FILES
    for handle in kept:
        handle.close()


def test_a_file_system_without_xattrs(share, monkeypatch):
    share.put("f", b"x")

    def refuse(*_, **__):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    for call in ("getxattr", "setxattr", "listxattr", "removexattr"):
        monkeypatch.setattr(os, call, refuse)
    monkeypatch.setattr(Xattrs, "small", lambda *_: None)
    handle = share.open("f")
    handle.set_attributes(1)
    assert handle.info().attributes & 1
    assert (share.root / "f").stat().st_mode & 0o222 == 0
    handle.set_attributes(0x20)
    assert handle.info().attributes == 0x20
    assert handle.eas() == []
    assert [entry.name for entry in handle.streams()] == [""]
    assert handle.security() is None
    assert not share.vfs.fs_info().named_streams
    with pytest.raises(OSError) as caught:
        share.make("f:s")
    assert smb_error(caught.value).status == status.NOT_SUPPORTED
    handle.close()


def test_names_too_long_for_the_disk(share):
    name = "ü" * 200  # 200 UTF-16 units are fine for clients, 400 bytes are not for the disk
    with pytest.raises(OSError) as caught:
        share.put(name)
    assert smb_error(caught.value).status == status.OBJECT_NAME_INVALID
    with pytest.raises(OSError) as caught:
        share.put("f:" + "s" * 250)
    assert smb_error(caught.value).status == status.OBJECT_NAME_INVALID
    share.put("f:" + "s" * 230, b"x" * 20_000)
    assert len(share.read("f:" + "S" * 230)) == 20_000


def test_file_system_numbers(share):
    info = share.vfs.fs_info()
    real = os.statvfs(share.root)
    assert info.unit == real.f_frsize
    assert info.total == real.f_blocks
    assert info.named_streams
    assert not info.read_only


def test_renaming_across_mounts_is_told(share):
    error = OSError(errno.EXDEV, "Invalid cross-device link")
    assert smb_error(error).status == status.NOT_SAME_DEVICE
    assert parse_text("a\\b").components == ("a", "b")
