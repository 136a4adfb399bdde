"""The cache behind the case-insensitive fallback."""

from __future__ import annotations

import os

import pytest

from pools.port import files
from smbd.smb2.names import short_name
from workers.vfs import namecache
from workers.vfs.namecache import NOTHING, NameCache


class Clock:
    """Time that stands still until told."""

    def __init__(self):
        self.now = 1000.0
        self.wall = 0

    def monotonic(self):
        return self.now

    def time_ns(self):
        return self.wall


@pytest.fixture
def directory(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    yield tmp_path, fd
    os.close(fd)


def counting(monkeypatch):
    reads = []
    real = files.listdir
    monkeypatch.setattr(files, "listdir", lambda fd: reads.append(fd) or real(fd))
    return reads


def test_an_old_directory_is_read_once(directory, monkeypatch):
    path, fd = directory
    (path / "Name").touch()
    os.utime(path, (1, 1))
    clock = Clock()
    clock.wall = 1 << 62
    cache = NameCache(clock.monotonic, clock.time_ns)
    reads = counting(monkeypatch)
    for _ in range(3):
        assert cache.find(fd, "nAME") == "Name"
        clock.now += 1000
    assert len(reads) == 1


def test_a_changed_directory_is_read_again(directory, monkeypatch):
    path, fd = directory
    clock = Clock()
    clock.wall = 1 << 62
    cache = NameCache(clock.monotonic, clock.time_ns)
    assert cache.find(fd, "new") == NOTHING
    (path / "NEW").touch()
    os.utime(path, (2, 2))
    assert cache.find(fd, "new") == "NEW"


def test_a_young_directory_is_not_believed_for_long(directory, monkeypatch):
    _path, fd = directory
    clock = Clock()  # the wall clock says 1970: any mtime is too young
    cache = NameCache(clock.monotonic, clock.time_ns)
    reads = counting(monkeypatch)
    cache.find(fd, "x")
    clock.now += 1
    cache.find(fd, "x")
    assert len(reads) == 2


def test_our_own_changes_keep_the_cache(directory, monkeypatch):
    path, fd = directory
    clock = Clock()
    cache = NameCache(clock.monotonic, clock.time_ns)
    cache.find(fd, "x")
    reads = counting(monkeypatch)
    for index in range(50):
        (path / f"File{index}").touch()
        cache.changed(fd, None, f"File{index}")
        assert cache.find(fd, f"FILE{index}") == f"File{index}"
    (path / "File0").unlink()
    cache.changed(fd, "File0", None)
    assert cache.find(fd, "file0") is None
    assert reads == []


def test_a_removed_file_does_not_make_the_directory_be_read_again(share, monkeypatch):
    cache = share.vfs._resolver.names
    monkeypatch.setattr(cache, "_clock", lambda: 0.0)  # what was read stays believed
    share.put("one")
    with pytest.raises(FileNotFoundError):
        share.open("missing")
    reads = counting(monkeypatch)
    for _ in range(3):
        handle = share.open("one")
        share.vfs.unlink(handle)
        handle.close()
        share.put("one")
    assert reads == []


def test_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("workers.vfs.namecache._TOTAL_NAMES", 10)
    cache = NameCache()
    for index in range(5):
        directory = tmp_path / f"d{index}"
        directory.mkdir()
        for name in range(4):
            (directory / f"n{name}").touch()
        fd = os.open(directory, os.O_RDONLY)
        assert cache.find(fd, "N3") == "n3"
        os.close(fd)
        assert cache._total <= 10


def test_a_short_name_of_two_names_means_neither(directory, monkeypatch):
    path, fd = directory
    monkeypatch.setattr(namecache, "short_name", lambda name: "TWO~0000" if name.startswith("two") else short_name(name))
    for name in ("two of them", "two more of them", "only one of it"):
        (path / name).touch()
    cache = NameCache()
    assert cache.find(fd, "TWO~0000") is None
    assert cache.find(fd, short_name("only one of it").lower()) == "only one of it"
    assert NameCache(short_names=False).find(fd, short_name("only one of it")) is None


def test_a_short_name_made_anew_soon_is_the_long_one(directory):
    path, fd = directory
    (path / "A long name.text").touch()
    short, clock = short_name("A long name.text"), Clock()
    cache = NameCache(clock.monotonic, clock.time_ns)
    assert cache.tunnelled(fd, short) == short  # nobody has used it
    assert cache.find(fd, short) == "A long name.text"
    assert cache.tunnelled(fd, short.lower()) == "A long name.text"
    clock.now += 15
    assert cache.tunnelled(fd, short) == short


def test_the_tunnel_is_bounded(directory):
    path, fd = directory
    cache = NameCache()
    for number in range(300):
        (path / f"{number:03} is a long name").touch()
    shorts = [short_name(f"{number:03} is a long name") for number in range(300)]
    for short in shorts:
        cache.find(fd, short)
    known = [short for short in shorts if cache.tunnelled(fd, short) != short]
    assert known == shorts[-256:]
